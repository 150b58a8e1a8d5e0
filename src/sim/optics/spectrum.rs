//! Two-dimensional Fourier transforms of real pictures that keep only the frequencies the optics can pass.
//!
//! A spectrum is stored column by column (all vertical frequencies of one horizontal frequency together), so that
//! filtering and the vertical transform run along memory, and columns beyond the optical cutoff are never computed.

use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

/// Columns transformed together before they are turned into rows.
const BLOCK: usize = 16;

/// Fourier transforms of one picture size.
#[derive(Clone)]
pub(crate) struct Transforms {
    width: usize,
    height: usize,
    row_forward: Arc<dyn RealToComplex<f32>>,
    row_inverse: Arc<dyn ComplexToReal<f32>>,
    column_forward: Arc<dyn Fft<f32>>,
    column_inverse: Arc<dyn Fft<f32>>,
}

/// Scratch memory of an inverse transform, reused from frame to frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspace {
    block: Vec<Complex32>,
    rows: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl Transforms {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let mut real = RealFftPlanner::new();
        let mut complex = FftPlanner::new();
        Self {
            width,
            height,
            row_forward: real.plan_fft_forward(width),
            row_inverse: real.plan_fft_inverse(width),
            column_forward: complex.plan_fft_forward(height),
            column_inverse: complex.plan_fft_inverse(height),
        }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// The first `columns` horizontal frequencies of a picture, divided by its number of samples. Spoils the picture.
    pub(crate) fn forward(&self, picture: &mut [f32], columns: usize) -> Vec<Complex32> {
        let mut spectrum = vec![Complex32::default(); columns * self.height];
        let mut bins = self.row_forward.make_output_vec();
        let mut scratch = self.row_forward.make_scratch_vec();
        let mut rows = vec![Complex32::default(); columns * BLOCK];
        for (band, lines) in picture.chunks_mut(self.width * BLOCK).enumerate() {
            let count = lines.len() / self.width;
            for (line, kept) in lines.chunks_mut(self.width).zip(rows.chunks_mut(columns)) {
                // Lengths come from the plan itself, the only way this can fail.
                if self
                    .row_forward
                    .process_with_scratch(line, &mut bins, &mut scratch)
                    .is_ok()
                {
                    kept.copy_from_slice(&bins[..columns]);
                }
            }
            for (column, values) in spectrum.chunks_mut(self.height).enumerate() {
                for row in 0..count {
                    values[band * BLOCK + row] = rows[row * columns + column];
                }
            }
        }
        let mut scratch = vec![Complex32::default(); self.column_forward.get_inplace_scratch_len()];
        self.column_forward
            .process_with_scratch(&mut spectrum, &mut scratch);
        let scale = 1.0 / (self.width * self.height) as f32;
        spectrum.iter_mut().for_each(|value| *value *= scale);
        spectrum
    }

    /// The picture of a spectrum, rows `first_row` to `first_row + rows` only. `fill` writes the vertical frequencies
    /// of a column; columns from `columns` on are zero.
    pub(crate) fn inverse(
        &self,
        columns: usize,
        first_row: usize,
        rows: usize,
        work: &mut Workspace,
        mut fill: impl FnMut(usize, &mut [Complex32]),
        picture: &mut Vec<f32>,
    ) {
        let bins = self.width / 2 + 1;
        work.block.resize(BLOCK * self.height, Complex32::default());
        work.rows.clear();
        work.rows.resize(rows * bins, Complex32::default());
        let scratch_len = self
            .column_inverse
            .get_inplace_scratch_len()
            .max(self.row_inverse.get_scratch_len());
        work.scratch.resize(scratch_len, Complex32::default());
        for start in (0..columns).step_by(BLOCK) {
            let count = BLOCK.min(columns - start);
            let block = &mut work.block[..count * self.height];
            for (offset, column) in block.chunks_mut(self.height).enumerate() {
                fill(start + offset, column);
            }
            self.column_inverse.process_with_scratch(block, &mut work.scratch);
            for row in 0..rows {
                let line = &mut work.rows[row * bins + start..row * bins + start + count];
                for (offset, value) in line.iter_mut().enumerate() {
                    *value = block[offset * self.height + first_row + row];
                }
            }
        }
        picture.resize(rows * self.width, 0.0);
        for (bins, line) in work.rows.chunks_mut(bins).zip(picture.chunks_mut(self.width)) {
            // The first and the last bin of a real signal are real; rounding leaves a residue that is refused otherwise.
            bins[0].im = 0.0;
            if let Some(last) = bins.last_mut() {
                last.im = 0.0;
            }
            if self
                .row_inverse
                .process_with_scratch(bins, line, &mut work.scratch)
                .is_err()
            {
                line.fill(0.0);
            }
        }
    }
}

impl std::fmt::Debug for Transforms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transforms({}x{})", self.width, self.height)
    }
}

/// The smallest even number from `least` up whose only prime factors are 2, 3 and 5.
pub(crate) fn fast_length(least: usize) -> usize {
    let smooth = |mut n: usize| {
        for prime in [2, 3, 5] {
            while n.is_multiple_of(prime) {
                n /= prime;
            }
        }
        n == 1
    };
    (least..)
        .find(|&n| n.is_multiple_of(2) && smooth(n))
        .unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let (width, height) = (30, 20);
        let picture: Vec<f32> = (0..width * height).map(|i| ((i * i) % 17) as f32).collect();
        let transforms = Transforms::new(width, height);
        let spectrum = transforms.forward(&mut picture.clone(), width / 2 + 1);
        let mut back = Vec::new();
        let fill = |column: usize, values: &mut [Complex32]| {
            values.copy_from_slice(&spectrum[column * height..(column + 1) * height]);
        };
        transforms.inverse(width / 2 + 1, 3, 10, &mut Workspace::default(), fill, &mut back);
        for (value, expected) in back.iter().zip(&picture[3 * width..13 * width]) {
            assert!((value - expected).abs() < 1e-4);
        }
    }

    #[test]
    fn fast_lengths() {
        for (least, expected) in [(1302, 1350), (1046, 1080), (1024, 1024), (7, 8)] {
            assert_eq!(fast_length(least), expected);
        }
    }
}
