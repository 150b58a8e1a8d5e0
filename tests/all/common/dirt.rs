//! What collects between specimen and image, the same in every frame: specks, a hair, text, a field stop.

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

/// The dirt of one camera.
pub struct Dirt {
    width: usize,
    /// For each pixel the part of its light that passes.
    passing: Vec<f32>,
    /// For each pixel the value that stands there whatever the light; 256 where there is none.
    written: Vec<u16>,
}

impl Dirt {
    /// No dirt.
    pub fn none(width: usize, height: usize) -> Self {
        Self {
            width,
            passing: vec![1.0; width * height],
            written: vec![256; width * height],
        }
    }

    fn pixels(&self) -> impl Iterator<Item = (usize, f64, f64)> + use<> {
        let width = self.width;
        (0..self.passing.len()).map(move |at| (at, (at % width) as f64, (at / width) as f64))
    }

    fn height(&self) -> usize {
        self.passing.len() / self.width
    }

    /// Specks with soft edges, half of them so dark that nothing is seen behind them.
    #[must_use]
    pub fn with_specks(mut self, count: usize, seed: u64) -> Self {
        let mut random = Pcg64::seed_from_u64(seed);
        for speck in 0..count {
            let (x, y) = (
                random.random_range(0.0..self.width as f64),
                random.random_range(0.0..self.height() as f64),
            );
            let radius = random.random_range(3.0..14.0);
            let passing = if speck % 2 == 0 {
                0.02
            } else {
                random.random_range(0.2..0.7)
            };
            let reach = radius as usize + 2;
            let (left, top) = (
                (x as usize).saturating_sub(reach),
                (y as usize).saturating_sub(reach),
            );
            for row in top..(y as usize + reach).min(self.height()) {
                for column in left..(x as usize + reach).min(self.width) {
                    let inside = (radius - (column as f64 - x).hypot(row as f64 - y) + 0.5).clamp(0.0, 1.0);
                    self.passing[row * self.width + column] *= 1.0 - (1.0 - passing) as f32 * inside as f32;
                }
            }
        }
        self
    }

    /// A hair across the frame that takes two fifths of the light.
    #[must_use]
    pub fn with_hair(mut self) -> Self {
        let (cx, cy, radius) = (
            0.45 * self.width as f64,
            0.65 * self.height() as f64,
            0.42 * self.height() as f64,
        );
        for (at, x, y) in self.pixels() {
            let off = (x - cx).hypot(y - cy) - radius;
            if y < cy + 0.2 * radius {
                self.passing[at] *= 1.0 - 0.4 * (-off * off / 18.0).exp() as f32;
            }
        }
        self
    }

    /// A line of white signs at the lower edge, written into the image.
    #[must_use]
    pub fn with_text(mut self) -> Self {
        let top = self.height() - 60;
        for (at, x, y) in self.pixels() {
            let (column, row) = (x as usize % 24, (y as usize).wrapping_sub(top));
            let is_sign = row < 32 && column < 16 && (column < 4 || row.is_multiple_of(14) && column < 12);
            if is_sign && x < 0.6 * self.width as f64 {
                self.written[at] = 255;
            }
        }
        self
    }

    /// Darkness outside a circle that is smaller than the frame.
    #[must_use]
    pub fn with_field_stop(mut self) -> Self {
        let (cx, cy) = (0.5 * self.width as f64, 0.5 * self.height() as f64);
        for (at, x, y) in self.pixels() {
            let outside = ((x - cx).hypot(y - cy) - 0.52 * self.width as f64 + 2.0).clamp(0.0, 4.0) / 4.0;
            self.passing[at] *= 1.0 - 0.97 * outside as f32;
        }
        self
    }

    /// The frame as it arrives.
    pub fn cover(&self, rgb: &mut [u8]) {
        for ((pixel, &passing), &written) in rgb.chunks_exact_mut(3).zip(&self.passing).zip(&self.written) {
            for value in pixel {
                *value = u8::try_from(written).unwrap_or((f32::from(*value) * passing).round() as u8);
            }
        }
    }
}
