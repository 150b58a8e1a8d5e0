//! The pages of an image file, and the heights that the file itself states for them.
//!
//! PNG, JPEG and TIFF, told by content. A TIFF may hold a whole z-stack: ImageJ writes the spacing of its slices into the description
//! of the first page, OME writes the position of each plane or the spacing as XML. Both state distances, not where focus is.

mod heights;

use std::io::{BufRead, Cursor, Read as _, Seek, SeekFrom};

use image::{DynamicImage, ImageFormat, ImageReader};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{ColorType, TiffError};

use super::depth::Depth;

/// Most pixels of a page that are decoded.
pub const MAX_PIXELS: u64 = 400_000_000;
/// Most pages of a file.
const MAX_PAGES: usize = 10_000;
/// Bytes of a page for each pixel, at most: four values of two bytes.
const PIXEL_BYTES: u64 = 8;

/// Why a file or a page cannot be used: half a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PageError(String);

fn wrong<T>(reason: impl Into<String>) -> Result<T, PageError> {
    Err(PageError(reason.into()))
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Pages {
    /// Number of pages, at least 1.
    pub count: usize,
    /// Height of each page above the first, µm, or why the file does not tell.
    pub heights_um: Result<Vec<f64>, String>,
    /// Whether its values may need more than 8 bits.
    pub is_deep: bool,
}

/// The values of a page, interleaved RGB, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// 8 bits each.
    Bytes(Vec<u8>),
    /// 16 bits each, of which fewer may be in use.
    Words(Vec<u16>),
}

/// A decoded page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Width times height times three values.
    pub values: Values,
}

impl Page {
    /// The largest value of a page of 16 bits.
    pub fn largest(&self) -> Option<u16> {
        match &self.values {
            Values::Bytes(_) => None,
            Values::Words(words) => words.iter().max().copied(),
        }
    }

    /// Interleaved RGB of 8 bits; `depth` is what 16-bit values use.
    pub fn into_rgb(self, depth: Depth) -> Vec<u8> {
        match self.values {
            Values::Bytes(bytes) => bytes,
            Values::Words(words) => words.into_iter().map(|word| depth.to_byte(word)).collect(),
        }
    }
}

/// Whether these first bytes of a file are those of an image that can be read.
pub fn is_image(head: &[u8]) -> bool {
    format_of(head).is_some()
}

fn format_of(head: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(head).ok()?;
    let known = matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Tiff);
    known.then_some(format)
}

fn format<R: BufRead + Seek>(file: &mut R) -> Result<ImageFormat, PageError> {
    let mut head = Vec::new();
    let read = file.by_ref().take(32).read_to_end(&mut head);
    read.and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(|error| PageError(format!("it cannot be read ({error})")))?;
    format_of(&head).map_or_else(|| wrong("it is not a PNG, JPEG or TIFF image"), Ok)
}

/// What a file holds, without its pixels.
///
/// # Errors
/// If it is no image that can be read.
pub fn describe<R: BufRead + Seek>(mut file: R) -> Result<Pages, PageError> {
    match format(&mut file)? {
        ImageFormat::Tiff => describe_tiff(&mut decoder(file, MAX_PIXELS)?),
        format => {
            let mut single = Pages {
                count: 1,
                heights_um: Ok(vec![0.0]),
                is_deep: false,
            };
            if format == ImageFormat::Png {
                // The depth stands at a fixed place of the head (PNG specification, 11.2.1).
                let mut head = [0; 25];
                file.read_exact(&mut head).or_else(|_| wrong("it is cut short"))?;
                single.is_deep = head[24] == 16;
            }
            Ok(single)
        }
    }
}

/// Decodes a page, counted from 0.
///
/// # Errors
/// If it is not there, is cut short, holds other values than whole numbers of at most 16 bits, or has more than `max_pixels`.
pub fn decode<R: BufRead + Seek>(mut file: R, page: usize, max_pixels: u64) -> Result<Page, PageError> {
    let format = format(&mut file)?;
    if format == ImageFormat::Tiff {
        return decode_tiff(file, page, max_pixels);
    }
    if page > 0 {
        return wrong(format!("it has no page {}: it holds one image", page + 1));
    }
    if format == ImageFormat::Jpeg {
        check_end(&mut file)?;
    }
    decode_plain(file, format, max_pixels)
}

/// The decoder makes up what a JPEG that was cut off lacks: behind its last start of a scan must stand the end of the image.
/// Both marks cannot occur in a scan's data (ITU T.81, B.1.1).
fn check_end<R: BufRead + Seek>(file: &mut R) -> Result<(), PageError> {
    let mut bytes = Vec::new();
    let read = file.by_ref().read_to_end(&mut bytes);
    read.and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(|error| PageError(format!("it cannot be read ({error})")))?;
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    if last([0xff, 0xd9]) < last([0xff, 0xda]) {
        return wrong("it was cut off: the mark of its end is missing");
    }
    Ok(())
}

fn check_size((width, height): (u32, u32), max_pixels: u64) -> Result<(), PageError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > max_pixels {
        let most = max_pixels / 1_000_000;
        return wrong(format!(
            "it is {width}x{height}, and at most {most} million pixels are read: cut or bin it"
        ));
    }
    Ok(())
}

/// A PNG, a JPEG, or the first page of a TIFF of a rare kind.
fn decode_plain<R: BufRead + Seek>(file: R, format: ImageFormat, max_pixels: u64) -> Result<Page, PageError> {
    let broken = |error: image::ImageError| PageError(format!("it cannot be decoded ({})", one_line(&error)));
    let mut reader = ImageReader::with_format(file, format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(2 * PIXEL_BYTES * max_pixels);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    check_size(image::ImageDecoder::dimensions(&decoder), max_pixels)?;
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let values = match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => Values::Words(image.into_rgb16().into_raw()),
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => return wrong(NOT_WHOLE),
        other => Values::Bytes(other.into_rgb8().into_raw()),
    };
    Ok(Page {
        width,
        height,
        values,
    })
}

const NOT_WHOLE: &str =
    "it does not hold whole numbers of 8 or 16 bits without sign: save it as 8-bit or 16-bit RGB or grey";

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn broken(error: TiffError) -> PageError {
    PageError(format!("it cannot be decoded ({})", one_line(&error)))
}

fn decoder<R: BufRead + Seek>(file: R, max_pixels: u64) -> Result<Decoder<R>, PageError> {
    let bytes = usize::try_from(PIXEL_BYTES * max_pixels).unwrap_or(usize::MAX);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = bytes;
    limits.intermediate_buffer_size = bytes;
    limits.ifd_value_size = bytes.min(64 << 20);
    Ok(Decoder::new(file).map_err(broken)?.with_limits(limits))
}

fn describe_tiff<R: BufRead + Seek>(decoder: &mut Decoder<R>) -> Result<Pages, PageError> {
    let description = decoder
        .find_tag(tiff::tags::Tag::ImageDescription)
        .map_err(broken)?
        .and_then(|value| value.into_string().ok())
        .unwrap_or_default();
    let (size, colour) = (
        decoder.dimensions().map_err(broken)?,
        decoder.colortype().map_err(broken)?,
    );
    let mut count = 1;
    while decoder.more_images() {
        decoder.next_image().map_err(broken)?;
        count += 1;
        if decoder.dimensions().map_err(broken)? != size || decoder.colortype().map_err(broken)? != colour {
            return wrong(format!(
                "its page {count} has another size or kind of pixels than the first: save the images as files of their own"
            ));
        }
        if count > MAX_PAGES {
            return wrong(format!("it holds more than {MAX_PAGES} pages: cut it into parts"));
        }
    }
    Ok(Pages {
        count,
        heights_um: heights::stated(&description, count),
        is_deep: colour.bit_depth() > 8,
    })
}

fn decode_tiff<R: BufRead + Seek>(file: R, page: usize, max_pixels: u64) -> Result<Page, PageError> {
    let mut decoder = decoder(file, max_pixels)?;
    for at in 0..page {
        if !decoder.more_images() {
            return wrong(format!("it has no page {}: it holds {}", page + 1, at + 1));
        }
        decoder.next_image().map_err(broken)?;
    }
    let size = decoder.dimensions().map_err(broken)?;
    check_size(size, max_pixels)?;
    let colour = decoder.colortype().map_err(broken)?;
    let channels = match colour {
        ColorType::Gray(8 | 16) => 1,
        ColorType::GrayA(8 | 16) => 2,
        ColorType::RGB(8 | 16) => 3,
        ColorType::RGBA(8 | 16) => 4,
        // Other kinds, JPEG among them, are known to the general decoder, which sees the first page only.
        _ if page == 0 && matches!(colour.bit_depth(), 1..=8 | 16) => {
            let mut file = decoder.inner().by_ref();
            file.seek(SeekFrom::Start(0))
                .map_err(|error| PageError(format!("it cannot be read ({error})")))?;
            return decode_plain(&mut file, ImageFormat::Tiff, max_pixels);
        }
        other => return wrong(format!("its pixels are {other:?}; {NOT_WHOLE}")),
    };
    let mut read = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut read).map_err(broken)?;
    let (width, height) = (size.0 as usize, size.1 as usize);
    let order = Order {
        channels,
        pixels: width * height,
        is_planar: layout.planes > 1,
    };
    let values = match read {
        DecodingResult::U8(values) => order.rgb(&values).map(Values::Bytes),
        DecodingResult::U16(values) => order.rgb(&values).map(Values::Words),
        _ => return wrong(NOT_WHOLE),
    };
    match values {
        Some(values) => Ok(Page {
            width,
            height,
            values,
        }),
        None => wrong("it is cut short"),
    }
}

/// How the values of a page lie.
struct Order {
    channels: usize,
    pixels: usize,
    /// Channel after channel, not pixel after pixel.
    is_planar: bool,
}

impl Order {
    /// Interleaved RGB: grey three times, without what a fourth channel says. None if values are missing.
    fn rgb<T: Copy>(&self, values: &[T]) -> Option<Vec<T>> {
        if values.len() < self.pixels.checked_mul(self.channels)? {
            return None;
        }
        let colour = if self.channels < 3 { [0; 3] } else { [0, 1, 2] };
        let at = |pixel: usize, channel: usize| {
            if self.is_planar {
                channel * self.pixels + pixel
            } else {
                pixel * self.channels + channel
            }
        };
        let mut rgb = Vec::with_capacity(3 * self.pixels);
        for pixel in 0..self.pixels {
            rgb.extend(colour.map(|channel| values[at(pixel, channel)]));
        }
        Some(rgb)
    }
}

/// The same from bytes in memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_bytes(bytes: &[u8], page: usize, max_pixels: u64) -> Result<Page, PageError> {
    decode(Cursor::new(bytes), page, max_pixels)
}

#[cfg(test)]
mod tests;
