//! A flat field for people: its dust and shading, which are a few percent, made to be seen.

use image::{Rgb, RgbImage};

use super::preview::{Picture, REDUCTION};
use crate::estimate::flat_field::{FlatField, STEPS};

/// Light of the median that is shown black.
const BLACK: f64 = 0.7;
/// Light of the median that is shown white.
const WHITE: f64 = 1.1;
/// Where a blind pixel lies.
const BLIND: Rgb<u8> = Rgb([220, 20, 60]);

impl Picture {
    /// The light of a flat field relative to its median, from 0.7 (black) to 1.1 (white) in each channel, with [`REDUCTION`] pixels averaged to one
    /// along each side; red where one of them is blind.
    pub fn of_flat_field(flat: &FlatField) -> Self {
        let (width, height) = (flat.width() / REDUCTION, flat.height() / REDUCTION);
        let medians = flat.level().map(|level| level * f64::from(STEPS));
        let pixel = |x: u32, y: u32| {
            let mut sums = [0.0; 3];
            for row in 0..REDUCTION {
                let from = (y as usize * REDUCTION + row) * flat.width() + x as usize * REDUCTION;
                for pixel in flat.light()[3 * from..][..3 * REDUCTION].chunks_exact(3) {
                    if pixel[0] == 0 {
                        return BLIND;
                    }
                    (0..3).for_each(|channel| sums[channel] += f64::from(pixel[channel]) / medians[channel]);
                }
            }
            let mean = sums.map(|sum| sum / (REDUCTION * REDUCTION) as f64);
            Rgb(mean.map(|light| (255.0 * (light - BLACK) / (WHITE - BLACK)).round() as u8))
        };
        Self(RgbImage::from_fn(width as u32, height as u32, pixel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shading_and_blind_pixels_can_be_seen() {
        // The left half has a tenth less light; one pixel is blind.
        let light = |x: usize| if x < 8 { 45_000 } else { 50_000 };
        let values = (0..8 * 20).flat_map(|at| [if at == 23 { 0 } else { light(at % 20) }; 3]);
        let picture = Picture::of_flat_field(&FlatField::new(20, 8, values.collect()).unwrap()).0;
        assert_eq!(picture.dimensions(), (5, 2));
        assert_eq!(*picture.get_pixel(0, 0), BLIND);
        let grey = |x, y| picture.get_pixel(x, y).0;
        assert_eq!((grey(1, 0), grey(0, 1)), ([128; 3], [128; 3]));
        assert_eq!((grey(2, 0), grey(4, 1)), ([191; 3], [191; 3]));
    }
}
