//! The camera: from light at every second pixel to noisy 8-bit RGB.
//!
//! Noise is added after the optics, as in a camera: shot noise of the electrons collected, read noise, rounding. A
//! defocused picture is smooth and its noise is not. It depends on the seed and the sequence number alone.

mod bayer;
mod kernels;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::sim::optics::{Halfway, Light};
use crate::sim::slide::SiteRandom;

/// Entries of the table of normal deviates; a power of two.
const DEVIATES: usize = 1 << 17;
/// Rows exposed as one piece of parallel work.
const BAND_ROWS: usize = 32;

/// Exposure time at which the background is as bright as configured, ms.
pub const NOMINAL_EXPOSURE_MS: f64 = 2.0;

fn nominal_exposure_ms() -> f64 {
    NOMINAL_EXPOSURE_MS
}

fn no_gain() -> f64 {
    1.0
}

/// What turns light into grey values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensorConfig {
    /// Grey value of clear glass in R, G and B, 0 to 255.
    pub background: [f64; 3],
    /// Electrons at grey value 255 before white balance.
    pub full_well_electrons: f64,
    /// White balance gains of R, G and B; 1 adds no noise.
    pub gain: [f64; 3],
    /// Read noise, electrons.
    pub read_noise_electrons: f64,
    /// Light lost in the corners, 0 to 1.
    pub vignetting: f64,
    /// Exposure time, ms; at [`NOMINAL_EXPOSURE_MS`] and a gain of 1 clear glass is as bright as `background` says.
    #[serde(default = "nominal_exposure_ms")]
    pub exposure_ms: f64,
    /// Gain of all three channels before the converter; it brightens the noise too. A full pixel holds `full_well_electrons`
    /// and no more, so a gain below 1 never reaches white.
    #[serde(default = "no_gain")]
    pub analogue_gain: f64,
    /// One colour filter per pixel (RGGB), made whole by bilinear interpolation; false for a camera that sees three colours
    /// at every pixel.
    #[serde(default)]
    pub bayer: bool,
}

impl Default for SensorConfig {
    /// An industrial camera with a 10 ke pixel behind a halogen lamp.
    fn default() -> Self {
        Self {
            background: [202.0, 200.0, 204.0],
            full_well_electrons: 10_000.0,
            gain: [1.35, 1.0, 1.6],
            read_noise_electrons: 7.0,
            vignetting: 0.06,
            exposure_ms: NOMINAL_EXPOSURE_MS,
            analogue_gain: 1.0,
            bayer: false,
        }
    }
}

/// Whether the camera adds noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Noise {
    /// Shot and read noise.
    On,
    /// Only rounding to 8 bits.
    Off,
}

/// A camera of one size.
#[derive(Clone)]
pub struct Sensor {
    config: SensorConfig,
    width: usize,
    height: usize,
    deviates: Vec<f32>,
    halfway: Halfway,
    seed: u64,
}

/// Memory for one row of one band.
struct RowBuffer {
    /// Samples of the row, vertically interpolated, with border.
    samples: Vec<f32>,
    /// What lies between the samples.
    between: Vec<f32>,
    /// The row at every pixel.
    pixels: Vec<f32>,
    bytes: [Vec<u8>; 3],
}

impl Sensor {
    /// A camera of `width` by `height` pixels, both even, for light whose samples `halfway` interpolates. The seed is that of
    /// the noise.
    pub fn new(
        config: SensorConfig,
        [width, height]: [usize; 2],
        noise: Noise,
        seed: u64,
        halfway: Halfway,
    ) -> Self {
        let mut random = SiteRandom::new(0x5e45, 0);
        let deviates = match noise {
            Noise::On => (0..DEVIATES + width).map(|_| random.normal() as f32).collect(),
            Noise::Off => Vec::new(),
        };
        Self {
            config,
            width,
            height,
            deviates,
            halfway,
            seed,
        }
    }

    /// One exposure: `3 * width * height` bytes, RGB interleaved.
    pub fn expose(&self, light: &Light, sequence: u64) -> Vec<u8> {
        let mut rgb = vec![0; 3 * self.width * self.height];
        rgb.par_chunks_mut(3 * self.width * BAND_ROWS)
            .enumerate()
            .for_each(|(band, rows)| {
                let mut buffer = RowBuffer {
                    samples: vec![0.0; self.width / 2 + 2 * light.border()],
                    between: vec![0.0; self.width / 2],
                    pixels: vec![0.0; self.width],
                    bytes: std::array::from_fn(|_| vec![0; self.width]),
                };
                for (offset, row) in rows.chunks_mut(3 * self.width).enumerate() {
                    self.expose_row(light, band * BAND_ROWS + offset, sequence, &mut buffer, row);
                }
            });
        if self.config.bayer {
            bayer::through_mosaic(&rgb, self.width)
        } else {
            rgb
        }
    }

    fn expose_row(&self, light: &Light, row: usize, sequence: u64, buffer: &mut RowBuffer, rgb: &mut [u8]) {
        for channel in 0..3 {
            self.interpolate(light, channel, row, buffer);
            self.illuminate(channel, row, &mut buffer.pixels);
            if !self.deviates.is_empty() {
                let site = SiteRandom::at(
                    self.seed ^ sequence.rotate_left(32),
                    6,
                    row as i64,
                    channel as i64,
                )
                .bits();
                self.add_noise(channel, (site as usize) & (DEVIATES - 1), &mut buffer.pixels);
            }
            let full = (self.config.full_well_electrons * self.grey_per_electron(channel)).min(255.0) as f32;
            kernels::round_to_bytes(&buffer.pixels, full, &mut buffer.bytes[channel]);
        }
        kernels::interleave(&buffer.bytes, rgb);
    }

    /// Fills `buffer.pixels` with the light at every pixel of a row.
    fn interpolate(&self, light: &Light, channel: usize, row: usize, buffer: &mut RowBuffer) {
        let length = buffer.samples.len();
        let border = light.border();
        let line = |row: usize| &light.row(channel, row)[..length];
        let above = row / 2 + border;
        let weights = self.halfway.weights().iter().enumerate();
        if row.is_multiple_of(2) {
            buffer.samples.copy_from_slice(line(above));
        } else {
            buffer.samples.fill(0.0);
            let pairs: Vec<_> = weights
                .clone()
                .map(|(k, weight)| (line(above - k), line(above + 1 + k), *weight))
                .collect();
            kernels::add_pairs(&mut buffer.samples, &pairs);
        }
        let samples = &buffer.samples;
        let pairs: Vec<_> = weights
            .map(|(k, weight)| (&samples[border - k..], &samples[border + 1 + k..], *weight))
            .collect();
        buffer.between.fill(0.0);
        kernels::add_pairs(&mut buffer.between, &pairs);
        kernels::alternate(&samples[border..], &buffer.between, &mut buffer.pixels);
    }

    /// From relative light to grey values, with the lamp's fall towards the corners.
    fn illuminate(&self, channel: usize, row: usize, pixels: &mut [f32]) {
        let centre = [self.width as f64 / 2.0, self.height as f64 / 2.0];
        let corner = centre[0] * centre[0] + centre[1] * centre[1];
        let brightness = self.config.exposure_ms / NOMINAL_EXPOSURE_MS * self.config.analogue_gain;
        let level = (self.config.background[channel] * brightness) as f32;
        let fall = (self.config.vignetting / corner) as f32;
        let down = (row as f64 - centre[1]) as f32;
        let middle = centre[0] as f32;
        kernels::illuminate(pixels, level, fall, down, middle);
    }

    fn grey_per_electron(&self, channel: usize) -> f64 {
        255.0 / self.config.full_well_electrons * self.config.gain[channel] * self.config.analogue_gain
    }

    fn add_noise(&self, channel: usize, offset: usize, pixels: &mut [f32]) {
        let grey_per_electron = self.grey_per_electron(channel);
        let shot = grey_per_electron as f32;
        let read = (grey_per_electron * self.config.read_noise_electrons).powi(2) as f32;
        kernels::add_noise(pixels, &self.deviates[offset..], shot, read);
    }
}

impl std::fmt::Debug for Sensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sensor({}x{}, {:?})", self.width, self.height, self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::kernels::round_to_byte;

    #[test]
    fn bytes_round_and_saturate() {
        for (value, expected) in [
            (-3.0, 0),
            (0.4, 0),
            (0.6, 1),
            (199.5, 200),
            (254.4, 254),
            (255.4, 255),
            (900.0, 255),
        ] {
            assert_eq!(round_to_byte(value, 255.0), expected, "{value}");
        }
    }
}
