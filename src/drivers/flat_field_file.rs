//! The file of a flat field: a picture of 16 bits that any viewer shows, with what is known of it inside.
//!
//! A PNG of the camera's size. It looks like the camera's image of clear glass: 256 times the grey level in R, G and B, and black where a
//! pixel is blind. The text chunk [`KEYWORD`] holds a [`Record`] as JSON. It is written as a whole, and never edited.

use std::io::{BufWriter, Cursor};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use png::{BitDepth, ColorType, Decoder, Encoder, Limits};
use serde::{Deserialize, Serialize};

use super::whole_file::{read_at_most, write_bytes};
use crate::estimate::flat_field::FlatField;
use crate::estimate::flat_field::making::Quality;

/// Name of the text chunk.
pub const KEYWORD: &str = "hhnet flat field";

/// Version of the format.
const FORMAT: u32 = 1;
/// Largest file that is read, bytes: 80 megapixels of 6 bytes, uncompressed.
const MOST_BYTES: u64 = 500_000_000;

/// What is known of a flat field beside its picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format, 1.
    pub format: u32,
    /// When it was made, RFC 3339, UTC.
    pub made: String,
    /// Objective it was made with, if that is known, for example `40x0.65`.
    pub objective: Option<String>,
    /// Encoding of the frames it is for.
    pub encoding: String,
    /// Height of the lens above where it came from while the frames were taken, µm; none if that is not known.
    pub height_um: Option<f64>,
    /// Median light of R, G and B, grey levels.
    pub level: [f64; 3],
    /// Frames it was made from, each of another place.
    pub frames: usize,
    /// As in [`Quality`].
    pub falloff: f64,
    /// As in [`Quality`].
    pub difference: f64,
    /// As in [`Quality`].
    pub left_over: f64,
    /// Part of the pixels that see nothing.
    pub blind_share: f64,
}

impl Record {
    /// Of a flat field that is made now.
    pub fn new(
        flat: &FlatField,
        quality: &Quality,
        objective: Option<String>,
        height_um: Option<f64>,
    ) -> Self {
        Self {
            format: FORMAT,
            made: date(SystemTime::now()),
            objective,
            encoding: "rgb8".to_owned(),
            height_um,
            level: flat.level(),
            frames: quality.frames,
            falloff: quality.falloff,
            difference: quality.difference,
            left_over: quality.left_over,
            blind_share: flat.blind_share(),
        }
    }
}

/// A time in the form of RFC 3339, to the millisecond.
pub(super) fn date(time: SystemTime) -> String {
    // A clock that is off by more than 7000 years says nothing.
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// A flat field and what is known of it.
#[derive(Debug)]
pub struct FlatFieldFile {
    /// The flat field.
    pub flat: FlatField,
    /// What is known of it.
    pub record: Record,
}

/// A file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FlatFieldFileError {
    /// It cannot be written.
    #[error("the flat field cannot be written to {} ({reason}): name a place that can be written to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system or the encoder said.
        reason: String,
    },
    /// It cannot be read, or is no flat field.
    #[error("{} is no flat field that can be used ({reason}): make it with the action calibrate or with `hhnet flat-field`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl FlatFieldFile {
    /// Writes it, whole.
    ///
    /// # Errors
    /// If it cannot be encoded or the disk does not take it; what stood there before stays.
    pub fn write(&self, path: &Path) -> Result<(), FlatFieldFileError> {
        let failed = |reason: String| FlatFieldFileError::Write {
            path: path.into(),
            reason,
        };
        let bytes = self.encode().map_err(|error| failed(error.to_string()))?;
        write_bytes(path, bytes).map_err(|error| failed(error.to_string()))
    }

    /// What there is to say of it, a few lines.
    pub fn report(&self) -> String {
        let Record {
            level: [red, green, blue],
            ..
        } = self.record;
        format!(
            "{}x{} pixels from {} frames; median light {red:.0}, {green:.0} and {blue:.0} of 255 in R, G and B\n\
             shading: the darkest part has {:.1} % less light than the brightest\n\
             blind: {:.3} % of the pixels see nothing and are filled with what surrounds them\n\
             specimen: the frames differ by {:.1} %, and two halves of them by {:.2} % of what they make together",
            self.flat.width(),
            self.flat.height(),
            self.record.frames,
            100.0 * self.record.falloff,
            100.0 * self.record.blind_share,
            100.0 * self.record.difference,
            100.0 * self.record.left_over,
        )
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(
            BufWriter::new(&mut bytes),
            self.flat.width() as u32,
            self.flat.height() as u32,
        );
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Sixteen);
        encoder.set_compression(png::Compression::Fast);
        let record = serde_json::to_string(&self.record).map_err(std::io::Error::from)?;
        encoder.add_itxt_chunk(KEYWORD.to_owned(), record)?;
        let values: Vec<u8> = self
            .flat
            .light()
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect();
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&values)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the file cannot be read or is no flat field.
    pub fn read(path: &Path) -> Result<Self, FlatFieldFileError> {
        let failed = |reason: String| FlatFieldFileError::Read {
            path: path.into(),
            reason,
        };
        let bytes = read_at_most(path, MOST_BYTES).map_err(|error| failed(error.to_string()))?;
        decode(&bytes).map_err(failed)
    }
}

fn decode(bytes: &[u8]) -> Result<FlatFieldFile, String> {
    let text = |error: png::DecodingError| error.to_string();
    let limits = Limits {
        bytes: MOST_BYTES as usize,
    };
    let mut reader = Decoder::new_with_limits(Cursor::new(bytes), limits)
        .read_info()
        .map_err(text)?;
    let info = reader.info();
    if (info.color_type, info.bit_depth) != (ColorType::Rgb, BitDepth::Sixteen) {
        return Err("it is not a PNG picture of 16 bits in R, G and B".to_owned());
    }
    let (width, height) = (info.width as usize, info.height as usize);
    let mut values = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
    reader.next_frame(&mut values).map_err(text)?;
    // The text may stand behind the picture.
    reader.finish().map_err(text)?;
    let chunks = &reader.info().utf8_text;
    let chunk = chunks.iter().find(|chunk| chunk.keyword == KEYWORD);
    let chunk = chunk.ok_or_else(|| format!("its text '{KEYWORD}' is missing"))?;
    let record: Record = serde_json::from_str(&chunk.get_text().map_err(text)?)
        .map_err(|error| format!("its text '{KEYWORD}' is wrong: {error}"))?;
    if record.format != FORMAT {
        return Err(format!("its format is {}, and {FORMAT} is known", record.format));
    }
    let light = values
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let flat = FlatField::new(width, height, light.collect()).map_err(|error| error.to_string())?;
    Ok(FlatFieldFile { flat, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FlatFieldFile {
        let light = (0..300 * 310 * 3).map(|at| {
            if at / 3 == 500 {
                0
            } else {
                40_000 + (at % 7000) as u16
            }
        });
        let flat = FlatField::new(300, 310, light.collect()).unwrap();
        let quality = Quality {
            frames: 9,
            falloff: 0.1,
            difference: 0.03,
            left_over: 0.004,
        };
        let record = Record::new(&flat, &quality, Some("40x0.65".to_owned()), Some(45.0));
        FlatFieldFile { flat, record }
    }

    #[test]
    fn it_comes_back_as_it_was_and_any_viewer_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flat.png");
        let written = file();
        written.write(&path).unwrap();
        let read = FlatFieldFile::read(&path).unwrap();
        assert!(read.flat == written.flat);
        assert_eq!(read.record, written.record);
        let picture = image::open(&path).unwrap().into_rgb16();
        assert_eq!(picture.dimensions(), (300, 310));
        assert_eq!(picture.into_raw(), written.flat.light());
    }

    #[test]
    fn what_is_no_flat_field_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flat.png");
        let refused = |words: &str| {
            let message = FlatFieldFile::read(&path).unwrap_err().to_string();
            assert!(
                message.contains(words) && message.contains("hhnet flat-field"),
                "{message}"
            );
        };
        refused("No such file");
        std::fs::write(&path, "text").unwrap();
        refused("signature");
        image::RgbImage::new(300, 300).save(&path).unwrap();
        refused("not a PNG picture of 16 bits");
        image::ImageBuffer::<image::Rgb<u16>, _>::from_raw(300, 300, vec![9_u16; 270_000])
            .unwrap()
            .save(&path)
            .unwrap();
        refused("text 'hhnet flat field' is missing");
        let mut newer = file();
        newer.record.format = 2;
        newer.write(&path).unwrap();
        refused("format is 2");
        file().write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for part in [0, 1, 20, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..part]).unwrap();
            assert!(FlatFieldFile::read(&path).is_err(), "{part} bytes");
        }
        assert!(file().write(&folder.path().join("none/flat.png")).is_err());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let of = |seconds| date(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(seconds));
        assert_eq!(of(1_700_000_000_250), "2023-11-14T22:13:20.250Z");
    }
}
