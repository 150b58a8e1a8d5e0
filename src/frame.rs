//! One camera image.

use crate::units::Instant;

/// Width of the camera the paper and this package were made for, pixels.
pub const CAMERA_WIDTH: usize = 2048;
/// Height of that camera, pixels.
pub const CAMERA_HEIGHT: usize = 1536;

/// One pixel in so many may have a colour in a frame that counts as grey.
const COLOURED: usize = 1000;

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

    /// Whether red, green and blue are equal in all but one pixel of a thousand: the camera sees no colour.
    pub fn is_grey(&self) -> bool {
        let allowed = self.rgb.len() / 3 / COLOURED;
        let (pixels, _) = self.rgb.as_chunks::<3>();
        // A colour camera's noise ends the search after a few rows.
        let mut coloured = pixels
            .iter()
            .filter(|[red, green, blue]| red != green || green != blue);
        coloured.nth(allowed).is_none()
    }

    /// Whether two frames are equal in every byte, which the noise of a camera never lets happen.
    pub fn shows_the_same_as(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height) && self.rgb == other.rgb
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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

    #[test]
    fn grey_is_equality_in_all_but_a_thousandth() {
        let check = |coloured: usize, expected: bool| {
            let mut rgb: Vec<u8> = (0..100 * 100).flat_map(|at| [(at % 251) as u8; 3]).collect();
            (0..coloured).for_each(|at| rgb[3 * 37 * at + 1] ^= 1);
            let frame = Frame::new(100, 100, rgb, Instant::default(), 0).unwrap();
            assert_eq!(frame.is_grey(), expected, "{coloured} pixels");
        };
        check(0, true);
        check(10, true);
        check(11, false);
        check(200, false);
    }

    #[test]
    fn frames_are_the_same_if_every_byte_is() {
        let frame = |width, byte, stamp| {
            let mut rgb = vec![5; 24];
            rgb[23] = byte;
            Frame::new(width, 8 / width, rgb, Instant::from_nanos(stamp), stamp).unwrap()
        };
        assert!(frame(4, 5, 1).shows_the_same_as(&frame(4, 5, 2)));
        assert!(!frame(4, 5, 1).shows_the_same_as(&frame(4, 6, 1)));
        assert!(!frame(4, 5, 1).shows_the_same_as(&frame(2, 5, 1)));
    }
}
