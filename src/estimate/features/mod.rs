//! The 18 handcrafted features of a whole raw frame (paper, equations 1 to 13).
//!
//! | nr | name | unit, range | if undefined |
//! |---|---|---|---|
//! | 1 | `mean` | grey levels, 0–255 | |
//! | 2 | `variance` | grey levels², 0–16256.25 | |
//! | 3 | `skewness` | 1, within ±√n of n pixels; 0 if symmetrical | one grey level only: 0 |
//! | 4 | `kurtosis` | 1, from 1 (skewness² + 1) to n; 3 if normal | one grey level only: 3 |
//! | 5 | `sum_entropy` | bits, 0–9 | no pair of pixels: 0 |
//! | 6 | `sum_average` | grey levels, 0–510 | no pair of pixels: 0 |
//! | 7 | `difference_variance` | grey levels², 0–16256.25 | no pair of pixels: 0 |
//! | 8 | `difference_entropy` | bits, 0–8 | no pair of pixels: 0 |
//! | 9–11 | `convexity`, `compactness`, `aspect_ratio` | 0–1 | no stained object: 0 |
//! | 12 | `area_ratio` | 0–1 | no stained region: 0 |
//! | 13–18 | `correlation_12` … `correlation_34` | -1–1 | a crop of one grey level: 0 |
//!
//! **Grey** is luminance in fixed point, Y = (77 R + 150 G + 29 B + 128) / 256 rounded down, 0 to 255. **Features 1 to 12**
//! are computed on the *lattice*: every second pixel of every second row, beginning at the top left. Nothing is averaged
//! in the decimation, so the distribution of grey values is that of the frame, and two camera pixels is the finest
//! distance at which a high aperture still puts anything but noise. **The correlations** use full-resolution crops.
//!
//! Where the printed paper slips, the definition it cites is used: difference variance (7) is Haralick's, the variance of
//! p_{x-y}; the correlations (13) divide by standard deviations, not by variances: for crops a and b of n grey values each,
//! r = Σ (aᵢ - ā)(bᵢ - b̄) / √(Σ (aᵢ - ā)² · Σ (bᵢ - b̄)²). No feature is ever NaN or infinite.

mod correlation;
mod glcm;
mod shape;
mod statistics;

pub use correlation::{CROP, crop_places};

use crate::frame::Frame;

/// How many features there are.
pub const FEATURES: usize = 18;

/// The handcrafted features of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Handcrafted {
    /// The values in the order of [`Handcrafted::NAMES`]; always finite.
    pub values: [f32; FEATURES],
}

impl Handcrafted {
    /// What each value is called, in order.
    pub const NAMES: [&'static str; FEATURES] = [
        "mean",
        "variance",
        "skewness",
        "kurtosis",
        "sum_entropy",
        "sum_average",
        "difference_variance",
        "difference_entropy",
        "convexity",
        "compactness",
        "aspect_ratio",
        "area_ratio",
        "correlation_12",
        "correlation_13",
        "correlation_14",
        "correlation_23",
        "correlation_24",
        "correlation_34",
    ];

    /// The features of `frame`; `crop_seed` chooses the places of the four correlated crops.
    pub fn of(frame: &Frame, crop_seed: u64) -> Self {
        let lattice = Lattice::of(frame);
        let mut values = [0.0; FEATURES];
        let (glcm, (statistics, shape, correlation)) = rayon::join(
            || glcm::of(&lattice),
            || {
                let shape = shape::of(&lattice);
                (statistics::of(&lattice), shape, correlation::of(frame, crop_seed))
            },
        );
        let groups = statistics.into_iter().chain(glcm).chain(shape).chain(correlation);
        for (value, feature) in values.iter_mut().zip(groups) {
            *value = feature as f32;
        }
        Self { values }
    }
}

/// Luminance of one pixel, 0 to 255: Y = (77 R + 150 G + 29 B + 128) / 256 rounded down.
pub fn luminance(red: u8, green: u8, blue: u8) -> u8 {
    ((77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue) + 128) >> 8) as u8
}

/// Luminance of every second pixel of every second row.
struct Lattice {
    width: usize,
    height: usize,
    grey: Vec<u8>,
}

impl Lattice {
    fn of(frame: &Frame) -> Self {
        let (width, height) = (frame.width().div_ceil(2), frame.height().div_ceil(2));
        let mut grey = Vec::with_capacity(width * height);
        for row in frame.rgb().chunks_exact(3 * frame.width()).step_by(2) {
            let pairs = row.chunks_exact(6);
            let last = pairs.remainder();
            grey.extend(pairs.map(|pair| luminance(pair[0], pair[1], pair[2])));
            if let [red, green, blue] = *last {
                grey.push(luminance(red, green, blue));
            }
        }
        Self { width, height, grey }
    }
}

#[cfg(test)]
mod tests;
