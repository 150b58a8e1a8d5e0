//! One camera image.

use crate::units::Instant;

/// Width of the camera the paper and this package were made for, pixels.
pub const CAMERA_WIDTH: usize = 2048;
/// Height of that camera, pixels.
pub const CAMERA_HEIGHT: usize = 1536;

/// An RGB image, 8 bits a channel, with the time its light was collected.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    /// Middle of the exposure.
    pub stamp: Instant,
    /// Counts the frames of one source, without gaps unless frames were dropped.
    pub sequence: u64,
}

impl Frame {
    /// A frame from interleaved RGB bytes, row by row from the top left.
    ///
    /// # Errors
    /// If a side is zero or `rgb` does not hold `width * height * 3` bytes.
    pub fn new(
        width: usize,
        height: usize,
        rgb: Vec<u8>,
        stamp: Instant,
        sequence: u64,
    ) -> Result<Self, FrameError> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(rgb.len()) {
            return Err(FrameError {
                width,
                height,
                bytes: rgb.len(),
            });
        }
        Ok(Self {
            width,
            height,
            rgb,
            stamp,
            sequence,
        })
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Interleaved RGB bytes, row by row; 3 * width * height of them.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixel bytes, moved out.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Frame({}x{}, #{}, {} ns)",
            self.width,
            self.height,
            self.sequence,
            self.stamp.as_nanos()
        )
    }
}

/// The bytes do not make an image of that size.
#[derive(Debug, thiserror::Error)]
#[error("an RGB image of {width}x{height} needs three bytes a pixel, got {bytes} bytes")]
pub struct FrameError {
    width: usize,
    height: usize,
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_must_agree() {
        assert!(Frame::new(2, 2, vec![0; 12], Instant::default(), 0).is_ok());
        for (width, height, bytes) in [(2, 2, 11), (0, 2, 0), (2, 0, 0), (usize::MAX, 2, 12)] {
            assert!(Frame::new(width, height, vec![0; bytes], Instant::default(), 0).is_err());
        }
    }
}
