//! The patches a frame is judged by: whole 300x300 squares side by side, centred in the frame.
//!
//! A 2048x1536 frame holds 30 of them (6 columns, 5 rows); any frame of at least 300x300 holds as many as fit. They run
//! row by row from the top left.

use ndarray::{Array4, ArrayView4, ArrayViewMut4};

use crate::estimate::features::luminance;
use crate::frame::Frame;

/// Side of a patch, pixels.
pub const PATCH: usize = 300;

/// Bytes of one patch, interleaved RGB.
const PATCH_BYTES: usize = PATCH * PATCH * 3;

/// Where the patches lie in frames of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    width: usize,
    height: usize,
    columns: usize,
    rows: usize,
    origins: Vec<(usize, usize)>,
}

impl Grid {
    /// The grid of a `width` x `height` frame: as many whole patches as fit, centred (an odd pixel left over goes to the
    /// right and to the bottom).
    ///
    /// # Errors
    /// If a side is under 300 pixels.
    pub fn centred(width: usize, height: usize) -> Result<Self, ImageTooSmall> {
        Self::towards(width, height, [0.5, 0.5])
    }

    /// The same number of patches elsewhere: `share` of the pixels left over lie to the left of the grid and above it, 0
    /// to 1 (what is outside counts as the nearer end).
    ///
    /// # Errors
    /// If a side is under 300 pixels.
    pub fn towards(width: usize, height: usize, share: [f64; 2]) -> Result<Self, ImageTooSmall> {
        let (columns, rows) = (width / PATCH, height / PATCH);
        if columns == 0 || rows == 0 {
            return Err(ImageTooSmall { width, height });
        }
        let before = |left_over: usize, share: f64| (left_over as f64 * share.clamp(0.0, 1.0)) as usize;
        let left = before(width - columns * PATCH, share[0]);
        let top = before(height - rows * PATCH, share[1]);
        let place = |at: usize| (left + at % columns * PATCH, top + at / columns * PATCH);
        let origins = (0..columns * rows).map(place).collect();
        Ok(Self {
            width,
            height,
            columns,
            rows,
            origins,
        })
    }

    /// Patches side by side.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Patches one below the other.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Top left corner (x, y) of each patch, pixels.
    pub fn origins(&self) -> &[(usize, usize)] {
        &self.origins
    }

    /// Whether the grid was made for frames of this frame's size.
    pub fn fits(&self, frame: &Frame) -> bool {
        (self.width, self.height) == (frame.width(), frame.height())
    }

    /// All patches of `frame`, shape [n, 300, 300, 3].
    ///
    /// # Errors
    /// If the frame has another size than the grid.
    pub fn extract(&self, frame: &Frame) -> Result<Array4<u8>, WrongSize> {
        let mut patches = Array4::zeros((self.origins.len(), PATCH, PATCH, 3));
        self.check(frame)?;
        copy(frame, &self.origins, &mut patches.view_mut());
        Ok(patches)
    }

    /// The patches number `chosen` (indices into [`origins`](Self::origins)) of `frame`, written to the front of
    /// `buffer`, which grows on first use and is reused afterwards. The view has shape [chosen.len(), 300, 300, 3].
    ///
    /// # Errors
    /// If the frame has another size than the grid.
    ///
    /// # Panics
    /// If an index is not below the number of patches.
    pub fn extract_into<'b>(
        &self,
        frame: &Frame,
        chosen: &[usize],
        buffer: &'b mut Vec<u8>,
    ) -> Result<ArrayView4<'b, u8>, WrongSize> {
        self.check(frame)?;
        let bytes = chosen.len() * PATCH_BYTES;
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        let origins: Vec<_> = chosen.iter().map(|&at| self.origins[at]).collect();
        let shape = (chosen.len(), PATCH, PATCH, 3);
        let error = |_| self.wrong_size(frame);
        let mut patches = ArrayViewMut4::from_shape(shape, &mut buffer[..bytes]).map_err(error)?;
        copy(frame, &origins, &mut patches);
        ArrayView4::from_shape(shape, &buffer[..bytes]).map_err(error)
    }

    fn check(&self, frame: &Frame) -> Result<(), WrongSize> {
        if self.fits(frame) {
            Ok(())
        } else {
            Err(self.wrong_size(frame))
        }
    }

    fn wrong_size(&self, frame: &Frame) -> WrongSize {
        WrongSize {
            expected: (self.width, self.height),
            got: (frame.width(), frame.height()),
        }
    }
}

/// Copies the patches at `origins`; row by row of the frame, so that it is read once from front to back.
fn copy(frame: &Frame, origins: &[(usize, usize)], patches: &mut ArrayViewMut4<'_, u8>) {
    let stride = 3 * frame.width();
    for (&(x, y), mut patch) in origins.iter().zip(patches.outer_iter_mut()) {
        for (line, mut row) in patch.outer_iter_mut().enumerate() {
            let from = (y + line) * stride + 3 * x;
            if let Some(row) = row.as_slice_mut() {
                row.copy_from_slice(&frame.rgb()[from..from + 3 * PATCH]);
            }
        }
    }
}

/// Side of the tiles whose means make the contrast, pixels.
const TILE: usize = 20;

/// Every how many pixels and rows the contrast looks.
const STRIDE: usize = 4;

/// Tiles along a side of a patch.
const TILES: usize = PATCH / TILE;

/// Contrast of the patch at `origin`, grey levels, 0 to 127.5: the standard deviation of the luminance of its 15x15 tiles
/// of 20x20 pixels about the plane that fits them best, each the mean of every fourth pixel of every fourth row.
///
/// A tile's mean leaves a fifth of the sensor's noise, and the plane takes away uneven light, which in the corner of a frame
/// is as strong as the faint rings of cells far from focus. Black and saturated patches have 0.
///
/// # Panics
/// If the patch does not lie inside the frame.
pub fn contrast(frame: &Frame, (x, y): (usize, usize)) -> f32 {
    let stride = 3 * frame.width();
    let samples = (TILE / STRIDE).pow(2) as f64;
    // Coordinates run from -7 to 7: they add up to 0, and so do their products.
    let place = |tile: usize| tile as f64 - (TILES - 1) as f64 / 2.0;
    let (mut sum, mut squares, mut across, mut down) = (0.0, 0.0, 0.0, 0.0);
    for (line, top) in (y..y + PATCH).step_by(TILE).enumerate() {
        let mut tiles = [0u32; TILES];
        for line in (top..top + TILE).step_by(STRIDE) {
            let row = &frame.rgb()[line * stride + 3 * x..][..3 * PATCH];
            for (tile, pixels) in tiles.iter_mut().zip(row.chunks_exact(3 * TILE)) {
                let seen = pixels.chunks_exact(3).step_by(STRIDE);
                *tile += seen
                    .map(|pixel| u32::from(luminance(pixel[0], pixel[1], pixel[2])))
                    .sum::<u32>();
            }
        }
        for (column, tile) in tiles.into_iter().enumerate() {
            let mean = f64::from(tile) / samples;
            sum += mean;
            squares += mean * mean;
            across += place(column) * mean;
            down += place(line) * mean;
        }
    }
    let tiles = (TILES * TILES) as f64;
    let spread = (0..TILES).map(|tile| place(tile).powi(2)).sum::<f64>() * TILES as f64;
    let variance = (squares - sum * sum / tiles - (across * across + down * down) / spread) / tiles;
    variance.max(0.0).sqrt() as f32
}

/// Mean luminance of every 16th pixel of every 16th row, grey levels, 0 to 255.
pub fn mean_luminance(frame: &Frame) -> f64 {
    const STEP: usize = 16;
    let rows = frame.rgb().chunks_exact(3 * frame.width()).step_by(STEP);
    let seen = rows.flat_map(|row| row.chunks_exact(3).step_by(STEP));
    let (sum, count) = seen.fold((0.0, 0.0), |(sum, count), pixel| {
        (
            sum + f64::from(luminance(pixel[0], pixel[1], pixel[2])),
            count + 1.0,
        )
    });
    sum / count
}

/// No patch fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an image of {width}x{height} pixels holds no 300x300 patch: use a camera mode or binning with both sides at least 300"
)]
pub struct ImageTooSmall {
    width: usize,
    height: usize,
}

/// A frame of another size than the grid was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the patch grid was made for {}x{} frames, this one has {}x{}: make a grid for its size",
        .expected.0, .expected.1, .got.0, .got.1)]
pub struct WrongSize {
    expected: (usize, usize),
    got: (usize, usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{CAMERA_HEIGHT, CAMERA_WIDTH};
    use crate::units::Instant;
    use proptest::prelude::*;

    /// A frame whose every byte tells its place.
    fn marked(width: usize, height: usize) -> Frame {
        let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
        let rgb = (0..width * height * 3).map(byte).collect();
        Frame::new(width, height, rgb, Instant::default(), 0).unwrap()
    }

    #[test]
    fn the_camera_frame_holds_six_by_five() {
        let grid = Grid::centred(CAMERA_WIDTH, CAMERA_HEIGHT).unwrap();
        assert_eq!((grid.columns(), grid.rows(), grid.origins().len()), (6, 5, 30));
        assert_eq!(grid.origins()[0], (124, 18));
        assert_eq!(grid.origins()[29], (124 + 1500, 18 + 1200));
    }

    #[test]
    fn small_images_are_refused_in_one_sentence() {
        for (width, height) in [(299, 300), (300, 299), (1, 1), (2048, 12)] {
            let message = Grid::centred(width, height).unwrap_err().to_string();
            assert!(message.contains(&format!("{width}x{height}")), "{message}");
        }
    }

    #[test]
    fn foreign_frames_are_refused() {
        let grid = Grid::centred(600, 300).unwrap();
        assert!(grid.extract(&marked(300, 600)).is_err());
        assert!(
            grid.extract_into(&marked(300, 600), &[0], &mut Vec::new())
                .is_err()
        );
    }

    #[test]
    fn a_buffer_serves_many_frames() {
        let grid = Grid::centred(650, 310).unwrap();
        let frame = marked(650, 310);
        let all = grid.extract(&frame).unwrap();
        let mut buffer = Vec::new();
        for chosen in [&[0, 1][..], &[1], &[], &[1, 0]] {
            let some = grid.extract_into(&frame, chosen, &mut buffer).unwrap();
            assert_eq!(some.shape(), [chosen.len(), PATCH, PATCH, 3]);
            for (patch, &at) in some.outer_iter().zip(chosen) {
                assert_eq!(patch, all.index_axis(ndarray::Axis(0), at));
            }
        }
        assert_eq!(buffer.len(), 2 * PATCH_BYTES);
    }

    #[test]
    fn contrast_sees_cells_and_not_noise() {
        let mut noise = marked(300, 300).into_rgb();
        noise.iter_mut().for_each(|byte| *byte = 200 + *byte % 8);
        let check =
            |rgb: Vec<u8>| contrast(&Frame::new(300, 300, rgb, Instant::default(), 0).unwrap(), (0, 0));
        assert_eq!((check(vec![0; 270_000]), check(vec![255; 270_000])), (0.0, 0.0));
        assert!(check(noise.clone()) < 0.7);
        for line in 100..180 {
            noise[900 * line + 300..900 * line + 600].fill(150);
        }
        assert!(check(noise) > 5.0);
    }

    #[test]
    fn contrast_is_blind_to_uneven_light() {
        let light = |at: usize| (at % 300 / 5 + at / 300 / 3) as u8;
        let rgb = (0..90_000).flat_map(|at| [60 + light(at); 3]).collect();
        let found = contrast(&Frame::new(300, 300, rgb, Instant::default(), 0).unwrap(), (0, 0));
        // What is left is the rounding to whole grey levels.
        assert!(found < 0.6, "{found}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_patch_is_the_frame_at_its_origin(width in 300usize..1000, height in 300usize..1000) {
            let grid = Grid::centred(width, height).unwrap();
            let frame = marked(width, height);
            let patches = grid.extract(&frame).unwrap();
            prop_assert_eq!(grid.origins().len(), (width / PATCH) * (height / PATCH));
            for (&(x, y), patch) in grid.origins().iter().zip(patches.outer_iter()) {
                prop_assert!(x + PATCH <= width && y + PATCH <= height);
                for (dx, dy) in [(0, 0), (299, 0), (0, 299), (17, 251), (299, 299)] {
                    for c in 0..3 {
                        prop_assert_eq!(patch[[dy, dx, c]], frame.rgb()[3 * ((y + dy) * width + x + dx) + c]);
                    }
                }
            }
        }
    }
}
