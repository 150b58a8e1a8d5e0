//! Camera images in any of the encodings of `sensor_msgs/image_encodings` that hold a picture for eyes, made into 8-bit RGB.
//!
//! | encodings | layout |
//! |---|---|
//! | `rgb8` `bgr8` `rgba8` `bgra8` `mono8`, `8UC1` `8UC3` `8UC4` | interleaved bytes; the names of OpenCV are in its order, blue first |
//! | `rgb16` `bgr16` `rgba16` `bgra16` `mono16`, `16UC1` `16UC3` `16UC4` | the same with 16 bits a sample, in either byte order |
//! | `bayer_rggb8` `bayer_bggr8` `bayer_gbrg8` `bayer_grbg8`, and with 16 | one colour a pixel; the others are the mean of the neighbours that have them |
//! | `yuv422` or `uyvy`, `yuv422_yuy2` or `yuyv` | colour for every second pixel, BT.601 with luma from 16 to 235, as OpenCV reads it |
//! | `nv12` `nv21` `nv24` | a plane of luma, then one of colour; numbers as above |
//!
//! Rows may be padded. Of 16 bits a sample cameras use 10, 12 or 14 as well: [`Depth`] finds out how many.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::frame::FrameError;

/// Most pixels of an image, against sizes that are mistakes.
pub const MAX_PIXELS: usize = 200_000_000;

/// Most characters of a text from a message that a sentence repeats.
const MAX_QUOTED: usize = 40;

/// An image as a message holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawImage {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from the beginning of a row to that of the next.
    pub step: usize,
    /// Name of the encoding.
    pub encoding: String,
    /// Byte order of samples of 16 bits.
    pub order: ByteOrder,
    /// The rows, from the top.
    pub data: Vec<u8>,
}

/// Which byte of a sample of 16 bits comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The less significant one.
    Little,
    /// The more significant one.
    Big,
}

/// Why bytes make no picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No encoding of that name.
    #[error(
        "images encoded as '{0}' cannot be read: set the camera's driver to rgb8, bgr8, mono8, a bayer encoding or yuv422"
    )]
    Encoding(String),
    /// No pixel.
    #[error("images of {width}x{height} pixels hold nothing: check the camera's driver")]
    Empty {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// More pixels than a camera has.
    #[error("images of {width}x{height} pixels are too large: {} megapixels are the limit, choose a smaller camera mode", MAX_PIXELS / 1_000_000)]
    TooLarge {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// Rows overlap.
    #[error(
        "images are {encoding} with rows of {step} bytes, and {width} pixels need {needed}: check the camera's driver"
    )]
    ShortRows {
        /// Name of the encoding.
        encoding: &'static str,
        /// Bytes from row to row.
        step: usize,
        /// Pixels per row.
        width: usize,
        /// Bytes that a row needs.
        needed: usize,
    },
    /// Rows are missing.
    #[error(
        "images are {encoding} of {width}x{height} pixels with {got} bytes of data, and need {needed}: check the camera's driver"
    )]
    ShortData {
        /// Name of the encoding.
        encoding: &'static str,
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes there are.
        got: usize,
        /// Bytes that the image needs.
        needed: usize,
    },
    /// Bytes and size do not agree.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Where an encoding keeps red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// So many samples a pixel, of which these are red, green and blue.
    Interleaved(usize, [usize; 3]),
    /// One sample a pixel: the channels of the first two pixels of even rows, and of odd rows.
    Mosaic([[usize; 2]; 2]),
    /// Two pixels in four bytes.
    Pairs(Pair),
    /// All luma, then pairs of colour.
    Planes(Share, Colours),
}

/// Places in the four bytes of two pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    luma: [usize; 2],
    blue: usize,
    red: usize,
}

/// How many pixels share a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Single,
    TwoByTwo,
}

/// Which difference comes first in a pair of colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    BlueFirst,
    RedFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample {
    Byte,
    Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encoding {
    name: &'static str,
    sample: Sample,
    layout: Layout,
}

const RGB: Layout = Layout::Interleaved(3, [0, 1, 2]);
const BGR: Layout = Layout::Interleaved(3, [2, 1, 0]);
const RGBA: Layout = Layout::Interleaved(4, [0, 1, 2]);
const BGRA: Layout = Layout::Interleaved(4, [2, 1, 0]);
const MONO: Layout = Layout::Interleaved(1, [0; 3]);
const RGGB: Layout = Layout::Mosaic([[0, 1], [1, 2]]);
const BGGR: Layout = Layout::Mosaic([[2, 1], [1, 0]]);
const GBRG: Layout = Layout::Mosaic([[1, 2], [0, 1]]);
const GRBG: Layout = Layout::Mosaic([[1, 0], [2, 1]]);
const UYVY: Layout = Layout::Pairs(Pair {
    luma: [1, 3],
    blue: 0,
    red: 2,
});
const YUYV: Layout = Layout::Pairs(Pair {
    luma: [0, 2],
    blue: 1,
    red: 3,
});

/// Encodings, and the bits of their samples.
const ENCODINGS: [(&str, Sample, Layout); 31] = [
    ("rgb8", Sample::Byte, RGB),
    ("bgr8", Sample::Byte, BGR),
    ("rgba8", Sample::Byte, RGBA),
    ("bgra8", Sample::Byte, BGRA),
    ("mono8", Sample::Byte, MONO),
    ("8UC1", Sample::Byte, MONO),
    ("8UC3", Sample::Byte, BGR),
    ("8UC4", Sample::Byte, BGRA),
    ("rgb16", Sample::Word, RGB),
    ("bgr16", Sample::Word, BGR),
    ("rgba16", Sample::Word, RGBA),
    ("bgra16", Sample::Word, BGRA),
    ("mono16", Sample::Word, MONO),
    ("16UC1", Sample::Word, MONO),
    ("16UC3", Sample::Word, BGR),
    ("16UC4", Sample::Word, BGRA),
    ("bayer_rggb8", Sample::Byte, RGGB),
    ("bayer_bggr8", Sample::Byte, BGGR),
    ("bayer_gbrg8", Sample::Byte, GBRG),
    ("bayer_grbg8", Sample::Byte, GRBG),
    ("bayer_rggb16", Sample::Word, RGGB),
    ("bayer_bggr16", Sample::Word, BGGR),
    ("bayer_gbrg16", Sample::Word, GBRG),
    ("bayer_grbg16", Sample::Word, GRBG),
    ("yuv422", Sample::Byte, UYVY),
    ("uyvy", Sample::Byte, UYVY),
    ("yuv422_yuy2", Sample::Byte, YUYV),
    ("yuyv", Sample::Byte, YUYV),
    (
        "nv12",
        Sample::Byte,
        Layout::Planes(Share::TwoByTwo, Colours::BlueFirst),
    ),
    (
        "nv21",
        Sample::Byte,
        Layout::Planes(Share::TwoByTwo, Colours::RedFirst),
    ),
    (
        "nv24",
        Sample::Byte,
        Layout::Planes(Share::Single, Colours::BlueFirst),
    ),
];

/// How many bits the samples of a source really use: the least of 8, 10, 12, 14 and 16 that holds all but one sample in ten thousand.
/// It only grows from image to image of one encoding, so that the brightness does not flicker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    bits: u32,
    /// Encoding of the images so far; empty for files.
    encoding: &'static str,
}

impl Default for Depth {
    fn default() -> Self {
        Self::of("")
    }
}

impl Depth {
    /// Samples of an image that may lie beyond, one in so many: hot pixels and broken bits.
    const OUTLIERS: usize = 10_000;

    const fn of(encoding: &'static str) -> Self {
        Self { bits: 8, encoding }
    }

    /// Takes an image into account.
    pub fn grow(&mut self, samples: impl ExactSizeIterator<Item = u16> + Clone) {
        let allowed = samples.len() / Self::OUTLIERS;
        while self.bits < 16 {
            let limit = 1 << self.bits;
            if samples.clone().filter(|&sample| sample >= limit).count() <= allowed {
                return;
            }
            self.bits += 2;
        }
    }

    /// A sample in 8 bits.
    pub fn narrow(self, sample: u16) -> u8 {
        u8::try_from(sample >> (self.bits - 8)).unwrap_or(u8::MAX)
    }

    /// The greater of two.
    pub fn max(self, other: Self) -> Self {
        if self.bits < other.bits { other } else { self }
    }
}

/// A text from a message as a sentence repeats it: short, and without characters that steer a terminal.
pub fn quoted(text: &str) -> String {
    let is_cut = text.chars().nth(MAX_QUOTED).is_some();
    let start: String = text
        .chars()
        .take(MAX_QUOTED)
        .flat_map(|character| {
            let shown: Box<dyn Iterator<Item = char>> = if character.is_control() {
                Box::new(character.escape_default())
            } else {
                Box::new(std::iter::once(character))
            };
            shown
        })
        .collect();
    if is_cut { format!("{start}…") } else { start }
}

/// The image as interleaved RGB, 8 bits a sample; `depth` is that of its source.
///
/// # Errors
/// If the encoding is unknown, or size, step and data do not go together.
pub fn decode(image: RawImage, depth: &mut Depth) -> Result<Vec<u8>, ImageError> {
    let found = ENCODINGS.iter().find(|(name, ..)| *name == image.encoding);
    let &(name, sample, layout) = found.ok_or_else(|| ImageError::Encoding(quoted(&image.encoding)))?;
    let encoding = Encoding { name, sample, layout };
    check(&encoding, &image)?;
    if layout == RGB && sample == Sample::Byte && image.step == 3 * image.width {
        let (mut rgb, bytes) = (image.data, 3 * image.width * image.height);
        rgb.truncate(bytes);
        return Ok(rgb);
    }
    let (width, height) = (image.width, image.height);
    let (data, step) = match sample {
        Sample::Byte => (Cow::Borrowed(&image.data[..]), image.step),
        Sample::Word => {
            if depth.encoding != name {
                *depth = Depth::of(name);
            }
            let samples = layout.row_bytes(width);
            (Cow::Owned(narrowed(&image, samples, depth)), samples)
        }
    };
    let rows = Rows {
        data: &data,
        step,
        bytes: layout.row_bytes(width),
    };
    let mut rgb = vec![0; 3 * width * height];
    rgb.par_chunks_mut(3 * width)
        .enumerate()
        .for_each(|(row, line)| match layout {
            Layout::Interleaved(samples, order) => interleaved(rows.row(row), samples, order, line),
            Layout::Mosaic(pattern) => mosaic(&rows, pattern, (row, height), line),
            Layout::Pairs(pair) => pairs(rows.row(row), pair, line),
            Layout::Planes(share, colours) => planes(&rows, (share, colours), (row, height), line),
        });
    Ok(rgb)
}

impl Layout {
    /// Samples of a row of the first plane.
    fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Interleaved(samples, _) => samples * width,
            Self::Mosaic(_) | Self::Planes(..) => width,
            Self::Pairs(_) => 4 * width.div_ceil(2),
        }
    }

    /// Bytes of all rows, `step` from row to row of the first plane; padding behind the last row may be left out.
    fn bytes(self, width: usize, height: usize, step: usize, row: usize) -> Option<usize> {
        let rows = |rows: usize, step: usize, row: usize| (rows - 1).checked_mul(step)?.checked_add(row);
        match self {
            Self::Planes(share, _) => {
                let first = height.checked_mul(step)?;
                let colour = match share {
                    Share::Single => rows(height, step.checked_mul(2)?, 2 * width),
                    Share::TwoByTwo => rows(height.div_ceil(2), step, 2 * width.div_ceil(2)),
                };
                first.checked_add(colour?)
            }
            _ => rows(height, step, row),
        }
    }
}

/// Whether size, step and data go together: after that no index leaves the data.
fn check(encoding: &Encoding, image: &RawImage) -> Result<(), ImageError> {
    let &RawImage {
        width, height, step, ..
    } = image;
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    if width.checked_mul(height).is_none_or(|pixels| pixels > MAX_PIXELS) {
        return Err(ImageError::TooLarge { width, height });
    }
    let word = if encoding.sample == Sample::Word { 2 } else { 1 };
    let row = word * encoding.layout.row_bytes(width);
    // The two planes of colour for every second pixel have rows of one length.
    let needed = match encoding.layout {
        Layout::Planes(Share::TwoByTwo, _) => 2 * width.div_ceil(2),
        _ => row,
    };
    let encoding_name = encoding.name;
    if step < needed {
        return Err(ImageError::ShortRows {
            encoding: encoding_name,
            step,
            width,
            needed,
        });
    }
    let needed = encoding.layout.bytes(width, height, step, row);
    let got = image.data.len();
    match needed {
        Some(needed) if needed <= got => Ok(()),
        _ => Err(ImageError::ShortData {
            encoding: encoding_name,
            width,
            height,
            got,
            needed: needed.unwrap_or(usize::MAX),
        }),
    }
}

/// Rows of bytes, padding left out.
struct Rows<'a> {
    data: &'a [u8],
    step: usize,
    bytes: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.step..][..self.bytes]
    }
}

/// Samples of 16 bits in 8, without padding; `samples` of them a row.
fn narrowed(image: &RawImage, samples: usize, depth: &mut Depth) -> Vec<u8> {
    let read = match image.order {
        ByteOrder::Little => u16::from_le_bytes,
        ByteOrder::Big => u16::from_be_bytes,
    };
    let row = |row: usize| image.data[row * image.step..][..2 * samples].as_chunks::<2>().0;
    let words: Vec<u16> = (0..image.height)
        .into_par_iter()
        .flat_map_iter(|at| row(at).iter().map(move |&bytes| read(bytes)))
        .collect();
    depth.grow(words.iter().copied());
    let depth = *depth;
    words.par_iter().map(|&word| depth.narrow(word)).collect()
}

fn interleaved(row: &[u8], samples: usize, [red, green, blue]: [usize; 3], line: &mut [u8]) {
    for (pixel, from) in line
        .as_chunks_mut::<3>()
        .0
        .iter_mut()
        .zip(row.chunks_exact(samples))
    {
        *pixel = [from[red], from[green], from[blue]];
    }
}

/// A neighbour's place, mirrored at the border, which keeps the parity and with it the channel.
fn beside(at: usize, length: usize) -> [usize; 2] {
    let before = if at == 0 { 1 } else { at - 1 };
    let after = if at + 1 == length { at.max(1) - 1 } else { at + 1 };
    [before.min(length - 1), after]
}

fn mosaic(rows: &Rows<'_>, pattern: [[usize; 2]; 2], (row, height): (usize, usize), line: &mut [u8]) {
    let [above, below] = beside(row, height).map(|at| rows.row(at));
    let own_row = rows.row(row);
    let [here, other] = [pattern[row & 1], pattern[(row + 1) & 1]];
    for (column, pixel) in line.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let [left, right] = beside(column, own_row.len());
        let mean2 = |a: u8, b: u8| (u16::from(a) + u16::from(b)).div_ceil(2) as u8;
        let mean4 = |of: [u8; 4]| ((of.iter().map(|&value| u16::from(value)).sum::<u16>() + 2) / 4) as u8;
        let across = [own_row[left], own_row[right]];
        let upright = [above[column], below[column]];
        let own = here[column & 1];
        pixel[own] = own_row[column];
        if own == 1 {
            pixel[here[(column + 1) & 1]] = mean2(across[0], across[1]);
            pixel[other[column & 1]] = mean2(upright[0], upright[1]);
        } else {
            pixel[1] = mean4([across[0], across[1], upright[0], upright[1]]);
            pixel[2 - own] = mean4([above[left], above[right], below[left], below[right]]);
        }
    }
}

fn pairs(row: &[u8], pair: Pair, line: &mut [u8]) {
    for (pixels, from) in line.chunks_mut(6).zip(row.as_chunks::<4>().0) {
        for (pixel, luma) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(pair.luma) {
            *pixel = to_rgb(from[luma], from[pair.blue], from[pair.red]);
        }
    }
}

fn planes(
    rows: &Rows<'_>,
    (share, colours): (Share, Colours),
    (row, height): (usize, usize),
    line: &mut [u8],
) {
    let (row_of_colour, step, halved) = match share {
        Share::Single => (row, 2 * rows.step, 1),
        Share::TwoByTwo => (row / 2, rows.step, 2),
    };
    let colour = rows.data[height * rows.step + row_of_colour * step..]
        .as_chunks::<2>()
        .0;
    let pixels = line.as_chunks_mut::<3>().0.iter_mut().zip(rows.row(row));
    for (column, (pixel, &luma)) in pixels.enumerate() {
        let [first, second] = colour[column / halved];
        *pixel = match colours {
            Colours::BlueFirst => to_rgb(luma, first, second),
            Colours::RedFirst => to_rgb(luma, second, first),
        };
    }
}

/// ITU-R BT.601 with luma from 16 to 235 and differences about 128.
fn to_rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let [y, u, v] = [i32::from(luma) - 16, i32::from(blue) - 128, i32::from(red) - 128];
    let y = 76_309 * y + 32_768;
    let channels = [y + 104_597 * v, y - 25_675 * u - 53_279 * v, y + 132_201 * u];
    channels.map(|channel| (channel >> 16).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests;
