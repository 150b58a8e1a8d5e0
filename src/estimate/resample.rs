//! Frames of another pixel size made into frames of the model's: a camera binned 2x2 shows twice as much of the slide in a pixel.
//!
//! Larger pixels are interpolated, smaller ones averaged (a triangle as wide as the larger of the two). What a camera never resolved
//! does not come back; cells have the size that the model knows.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::frame::{Frame, FrameError};

/// Pixel sizes, in that of the model, that are taken for the model's own.
pub const ALIKE: std::ops::RangeInclusive<f64> = 0.97..=1.03;

/// Pixel sizes, in that of the model, that are mended.
pub const MENDABLE: std::ops::RangeInclusive<f64> = 0.4..=4.0;

/// Most pixels of a frame that is made larger.
const MAX_PIXELS: f64 = 50e6;

/// The frame in pixels of the model's size; `ratios` are the sides of its own pixels, across and down, in that of the model.
///
/// # Errors
/// If the frame would become too large.
pub fn to_model_pixels(frame: &Frame, ratios: [f64; 2]) -> Result<Frame, ResampleError> {
    let side = |pixels: usize, ratio: f64| (pixels as f64 * ratio).round().max(1.0);
    let (width, height) = (side(frame.width(), ratios[0]), side(frame.height(), ratios[1]));
    if width * height > MAX_PIXELS {
        return Err(ResampleError::TooLarge { width, height });
    }
    let (from_width, from_height) = (frame.width() as u32, frame.height() as u32);
    let from = ImageRef::new(from_width, from_height, frame.rgb(), PixelType::U8x3).map_err(failed)?;
    let mut to = Image::new(width as u32, height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&from, &mut to, &options).map_err(failed)?;
    Ok(Frame::new(
        width as usize,
        height as usize,
        to.into_vec(),
        frame.stamp,
        frame.sequence,
    )?)
}

fn failed(error: impl std::fmt::Display) -> ResampleError {
    ResampleError::Failed(error.to_string())
}

/// A frame cannot be made into one of the model's pixel size.
#[derive(Debug, thiserror::Error)]
pub enum ResampleError {
    /// Too many pixels.
    #[error(
        "in pixels of the model's size an image would have {width}x{height}: use a smaller camera mode or less binning"
    )]
    TooLarge {
        /// Pixels per row.
        width: f64,
        /// Rows.
        height: f64,
    },
    /// Bytes and size do not agree.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The library refuses.
    #[error("the image cannot be resampled ({0}): send images of the model's pixel size")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Instant;

    /// A frame that grows brighter to the right and greener downwards.
    fn ramp(width: usize, height: usize) -> Frame {
        let pixel = |at: usize| [(at % width) as u8, (at / width) as u8, 77];
        let rgb = (0..width * height).flat_map(pixel).collect();
        Frame::new(width, height, rgb, Instant::from_nanos(5), 9).unwrap()
    }

    #[test]
    fn a_ramp_stays_a_ramp() {
        for ratios in [[2.0, 2.0], [0.5, 0.5], [1.5, 1.0], [0.4, 4.0]] {
            let to = to_model_pixels(&ramp(200, 100), ratios).unwrap();
            let size = (200.0 * ratios[0], 100.0 * ratios[1]);
            assert_eq!((to.width() as f64, to.height() as f64), size);
            assert_eq!((to.stamp.as_nanos(), to.sequence), (5, 9));
            for (x, y) in [(20, 20), (50, 11), (70, 33)] {
                let pixel = &to.rgb()[3 * (y * to.width() + x)..][..3];
                // Centres of pixels keep their places.
                let expected =
                    [(x, ratios[0]), (y, ratios[1])].map(|(at, ratio)| (at as f64 + 0.5) / ratio - 0.5);
                for (found, expected) in pixel.iter().zip([expected[0], expected[1], 77.0]) {
                    assert!(
                        (f64::from(*found) - expected).abs() <= 1.0,
                        "{ratios:?} at {x}, {y}: {pixel:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn frames_without_end_are_refused() {
        let message = to_model_pixels(&ramp(2500, 2000), [4.0, 4.0])
            .unwrap_err()
            .to_string();
        assert!(message.contains("10000x8000"), "{message}");
    }
}
