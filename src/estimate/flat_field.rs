//! The flat field: what the camera shows where nothing lies in the light but its own dust, hair and shading.
//!
//! Whatever stays in the image while the stage moves is no part of the specimen. It multiplies the light of the specimen, so a frame that
//! is divided by a picture of it alone is free of it: flat-field correction, as in astronomy and in every camera's own calibration.
//! [`making`] takes that picture from frames of several places; here frames are divided.
//!
//! The division keeps brightness and colour as they are in most of the frame: the gain of a pixel is the median of its channel over the
//! pixel's own light. Pixels that see nothing (opaque specks, text that the camera's software writes into the image, what lies outside a
//! field stop) have no gain; they are filled with what surrounds them ([`blind`]).

mod blind;
pub mod making;

use multiversion::multiversion;
use rayon::prelude::*;

use self::blind::Blind;
use crate::estimate::features::luminance;
use crate::frame::Frame;

/// Steps of a grey level in which the light is kept: a full pixel has 255 times as many.
pub const STEPS: u16 = 256;

/// A pixel with less than this part of its channel's median light is blind: its noise would become the brightest thing in the frame.
const LEAST_LIGHT: f64 = 1.0 / 8.0;

/// Bits behind the binary point of a gain; the largest, 1 / [`LEAST_LIGHT`], fits into 16 bits.
const GAIN_BITS: u32 = 12;

/// Part of a frame's pixels that are taken for less than its clear glass.
const BRIGHT: f64 = 0.95;

/// Brightness of a frame's brightest parts, relative to the flat field's: darker, and the specimen alone cannot be the reason; brighter,
/// and the exposure is another.
const SAME_EXPOSURE: std::ops::RangeInclusive<f64> = 0.33..=1.2;

/// Every how many pixels and rows the brightness of a frame is looked at.
const STRIDE: usize = 16;

/// Rows that one core divides at a time.
const BAND_ROWS: usize = 64;

/// A flat field for frames of one size.
#[derive(Clone, PartialEq)]
pub struct FlatField {
    width: usize,
    height: usize,
    light: Vec<u16>,
    level: [f64; 3],
    /// Of each value, in units of 2^-[`GAIN_BITS`].
    gains: Vec<u16>,
    blind: Blind,
}

impl FlatField {
    /// The flat field of this light: for each pixel R, G and B, row by row from the top left, in [`STEPS`] of a grey level; 0 in all
    /// three where a pixel is blind.
    ///
    /// # Errors
    /// If the values are not as many as the size says, or half of the pixels are blind.
    pub fn new(width: usize, height: usize, mut light: Vec<u16>) -> Result<Self, BadLight> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(light.len()) {
            return Err(BadLight::Size {
                width,
                height,
                values: light.len(),
            });
        }
        let least = medians(&light).map(|median| LEAST_LIGHT * median);
        let (pixels, _) = light.as_chunks_mut::<3>();
        for pixel in &mut *pixels {
            if pixel
                .iter()
                .zip(least)
                .any(|(&value, least)| f64::from(value) <= least)
            {
                *pixel = [0; 3];
            }
        }
        let seeing = pixels.iter().filter(|pixel| pixel[0] > 0).count();
        if 2 * seeing <= width * height {
            return Err(BadLight::Dark);
        }
        let medians = medians(&light);
        let gain = |(at, &value): (usize, &u16)| {
            let gain = medians[at % 3] / f64::from(value.max(1)) * f64::from(1 << GAIN_BITS);
            if value == 0 { 0 } else { gain.round() as u16 }
        };
        Ok(Self {
            width,
            height,
            level: medians.map(|median| median / f64::from(STEPS)),
            gains: light.iter().enumerate().map(gain).collect(),
            blind: Blind::of(&light, width),
            light,
        })
    }

    /// Pixels per row of the frames it is for.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of the frames it is for.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The light it was made of, with 0 for every blind pixel.
    pub fn light(&self) -> &[u16] {
        &self.light
    }

    /// Median light of R, G and B, grey levels: how bright clear glass is.
    pub fn level(&self) -> [f64; 3] {
        self.level
    }

    /// Part of the pixels that see nothing, 0 to 0.5.
    pub fn blind_share(&self) -> f64 {
        self.blind.pixels() as f64 / (self.width * self.height) as f64
    }

    /// The frame without dust, hair and shading.
    ///
    /// # Errors
    /// If the frame has another size or was exposed otherwise. A frame without light is not refused: it says itself what it is.
    pub fn correct(&self, frame: &Frame) -> Result<Frame, Mismatch> {
        self.correct_in(frame, Vec::new())
    }

    /// The same in the memory of a frame that is not needed any more: to get new memory from the system takes half as long as the division.
    ///
    /// # Errors
    /// As for [`Self::correct`].
    pub fn correct_in(&self, frame: &Frame, mut rgb: Vec<u8>) -> Result<Frame, Mismatch> {
        self.check(frame)?;
        rgb.resize(self.gains.len(), 0);
        let band = 3 * self.width * BAND_ROWS;
        let parts = rgb.par_chunks_mut(band).zip(frame.rgb().par_chunks(band));
        parts
            .zip(self.gains.par_chunks(band))
            .for_each(|((to, values), gains)| multiply(values, gains, to));
        self.blind.fill(&mut rgb, self.width);
        let corrected = Frame::new(self.width, self.height, rgb, frame.stamp, frame.sequence);
        corrected.map_err(|_| self.wrong_size(frame))
    }

    fn check(&self, frame: &Frame) -> Result<(), Mismatch> {
        if (frame.width(), frame.height()) != (self.width, self.height) {
            return Err(self.wrong_size(frame));
        }
        let bright = bright(frame);
        let [red, green, blue] = self.level.map(|level| level.round() as u8);
        let ratio = bright / f64::from(luminance(red, green, blue)).max(1.0);
        // As dark as with the lamp off: the classifier says so better.
        if SAME_EXPOSURE.contains(&ratio) || bright < DARK {
            Ok(())
        } else {
            Err(Mismatch::Exposure { ratio })
        }
    }

    fn wrong_size(&self, frame: &Frame) -> Mismatch {
        Mismatch::Size {
            width: frame.width(),
            height: frame.height(),
            flat_width: self.width,
            flat_height: self.height,
        }
    }
}

/// Luminance of the brightest parts of a frame that holds no light, grey levels.
const DARK: f64 = 16.0;

impl std::fmt::Debug for FlatField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FlatField({}x{}, level {:?})",
            self.width, self.height, self.level
        )
    }
}

/// Values times gains, rounded and saturated.
#[multiversion(targets("x86_64+avx2"))]
fn multiply(values: &[u8], gains: &[u16], products: &mut [u8]) {
    for ((product, &value), &gain) in products.iter_mut().zip(values).zip(gains) {
        // The upper half of a product of 16 bits by 16, which processors have: quarters of a grey level, 8160 at most.
        let wide = u16::from(value) << (18 - GAIN_BITS);
        let quarters = ((u32::from(wide) * u32::from(gain)) >> 16) as u16;
        *product = ((quarters + 2) >> 2).min(255) as u8;
    }
}

/// Luminance that [`BRIGHT`] of a frame's pixels do not exceed.
fn bright(frame: &Frame) -> f64 {
    let mut counts = [0_u32; 256];
    for row in frame.rgb().chunks_exact(3 * frame.width()).step_by(STRIDE) {
        for pixel in row.chunks_exact(3).step_by(STRIDE) {
            counts[usize::from(luminance(pixel[0], pixel[1], pixel[2]))] += 1;
        }
    }
    let wanted = BRIGHT * f64::from(counts.iter().sum::<u32>());
    let mut below = 0;
    let found = counts.iter().position(|count| {
        below += count;
        f64::from(below) >= wanted
    });
    found.unwrap_or_default() as f64
}

/// Median of R, G and B over the pixels that are not blind; 0 if all are.
fn medians(light: &[u16]) -> [f64; 3] {
    let mut counts = vec![[0_u32; 3]; usize::from(u16::MAX) + 1];
    for pixel in light.chunks_exact(3) {
        for (channel, &value) in pixel.iter().enumerate() {
            counts[usize::from(value)][channel] += 1;
        }
    }
    std::array::from_fn(|channel| {
        let seeing = || counts.iter().enumerate().skip(1);
        let half = seeing().map(|(_, count)| count[channel]).sum::<u32>() / 2;
        let mut below = 0;
        let middle = seeing().find(|(_, count)| {
            below += count[channel];
            below > half
        });
        middle.map_or(0.0, |(value, _)| value as f64)
    })
}

/// A picture that is no flat field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLight {
    /// Size and values do not agree.
    #[error("a flat field of {width}x{height} pixels needs three values a pixel, got {values} values")]
    Size {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
        /// Values given.
        values: usize,
    },
    /// Too many pixels without light.
    #[error(
        "half of the flat field sees no light: open the field stop, or take what covers the camera away, and calibrate again"
    )]
    Dark,
}

/// A frame that the flat field does not belong to.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// Another size.
    #[error(
        "the image has {width}x{height} pixels and the flat field {flat_width}x{flat_height}: set the camera as it was, or calibrate FLAT_FIELD again"
    )]
    Size {
        /// Pixels per row of the frame.
        width: usize,
        /// Its rows.
        height: usize,
        /// Pixels per row of the flat field.
        flat_width: usize,
        /// Its rows.
        flat_height: usize,
    },
    /// Another exposure.
    #[error(
        "the image is {ratio:.2} times as bright as the flat field: set lamp and exposure as they were, or calibrate FLAT_FIELD again"
    )]
    Exposure {
        /// Brightness of its brightest parts, that of the flat field being 1.
        ratio: f64,
    },
}

#[cfg(test)]
mod tests;
