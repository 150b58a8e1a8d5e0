//! How sharp a frame is, by the two classical measures that need no network: Tenengrad and Brenner's gradient.
//!
//! Both look at every second pixel of every second row of the green channel. Samples two camera pixels apart still hold every detail
//! that the objectives of this package resolve, and there is a quarter as many of them. Both are divided by the square of the mean, so
//! that a brighter lamp makes no frame sharper. Neither knows on which side focus lies, and dust is as good to them as specimen. They
//! compare heights of one place; different places cannot be compared by them.

use multiversion::multiversion;

use crate::frame::Frame;

/// Camera pixels from one sample to the next, across and down.
const STEP: usize = 2;

/// Values of a row whose squares are summed in 32 bits: so many of the largest fit.
const SUMMED: usize = 1024;

/// Mean square of the Sobel gradient, by the square of the mean: Σ (Gx² + Gy²) / (N mean²), summed over the N samples f(x, y) that have all
/// eight neighbours, with
///
/// Gx = f(x+1, y-1) + 2 f(x+1, y) + f(x+1, y+1) - f(x-1, y-1) - 2 f(x-1, y) - f(x-1, y+1), and Gy the same across.
///
/// At least 0, without unit. 0 of a black frame and of one smaller than 5x5 pixels.
///
/// Tenenbaum, Accommodation in computer vision (thesis, Stanford 1970); without his threshold, as comparisons of focus measures use it.
pub fn tenengrad(frame: &Frame) -> f64 {
    let samples = Samples::of(frame);
    let rows = || samples.rows();
    let triples = rows().zip(rows().skip(1)).zip(rows().skip(2));
    samples.norm(
        2,
        2,
        triples.map(|((above, row), below)| sobel(above, row, below)),
    )
}

/// Mean square of the difference of pixels two apart in a row, by the square of the mean: Σ (f(x+2, y) - f(x, y))² / (N mean²), in camera
/// pixels. At least 0, without unit. 0 of a black frame and of one narrower than 3 pixels.
///
/// Brenner et al., An automated microscope for cytologic research (J. Histochem. Cytochem. 24, 1976, p. 100).
pub fn brenner(frame: &Frame) -> f64 {
    let samples = Samples::of(frame);
    samples.norm(1, 0, samples.rows().map(neighbours))
}

/// The samples of a frame, row by row.
struct Samples {
    width: usize,
    green: Vec<u8>,
}

impl Samples {
    fn of(frame: &Frame) -> Self {
        let width = frame.width().div_ceil(STEP);
        let mut green = vec![0; width * frame.height().div_ceil(STEP)];
        let lines = frame.rgb().chunks_exact(3 * frame.width()).step_by(STEP);
        for (row, line) in green.chunks_exact_mut(width).zip(lines) {
            take_green(line, row);
        }
        Self { width, green }
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, u8> {
        self.green.chunks_exact(self.width)
    }

    /// The mean of squares that were summed by rows, `fewer_across` and `fewer_down` than there are samples, by the square of the mean.
    fn norm(&self, fewer_across: usize, fewer_down: usize, sums: impl Iterator<Item = u64>) -> f64 {
        let height = self.green.len() / self.width;
        let count = self.width.saturating_sub(fewer_across) * height.saturating_sub(fewer_down);
        let light: u64 = self.green.iter().map(|&green| u64::from(green)).sum();
        if count == 0 || light == 0 {
            return 0.0;
        }
        let mean = light as f64 / self.green.len() as f64;
        sums.sum::<u64>() as f64 / (count as f64 * mean * mean)
    }
}

/// The green of every second pixel of a line of RGB.
#[multiversion(targets("x86_64+avx2"))]
fn take_green(line: &[u8], row: &mut [u8]) {
    for (sample, pixels) in row.iter_mut().zip(line.chunks(3 * STEP)) {
        *sample = pixels[1];
    }
}

/// Σ (Gx² + Gy²) over a row between its neighbours, all of one width.
#[multiversion(targets("x86_64+avx2"))]
fn sobel(above: &[u8], row: &[u8], below: &[u8]) -> u64 {
    let inside = row.len().saturating_sub(2);
    let mut total = 0;
    for from in (0..inside).step_by(SUMMED) {
        let count = SUMMED.min(inside - from);
        // Pieces of one known length spare the checks of bounds.
        let [above, row, below] = [above, row, below].map(|samples| &samples[from..from + count + 2]);
        let mut squares = 0;
        for at in 0..count {
            let of = |samples: &[u8], by: usize| i16::from(samples[at + by]);
            let falling = of(below, 2) - of(above, 0);
            let rising = of(above, 2) - of(below, 0);
            let across = falling + rising + 2 * (of(row, 2) - of(row, 0));
            let down = falling - rising + 2 * (of(below, 1) - of(above, 1));
            let (across, down) = (i32::from(across), i32::from(down));
            squares += (across * across + down * down).unsigned_abs();
        }
        total += u64::from(squares);
    }
    total
}

/// Σ (f(x+2) - f(x))² along a row.
#[multiversion(targets("x86_64+avx2"))]
fn neighbours(row: &[u8]) -> u64 {
    let mut total = 0;
    for from in (0..row.len().saturating_sub(1)).step_by(SUMMED) {
        let piece = &row[from..row.len().min(from + SUMMED + 1)];
        let squares = piece.iter().zip(&piece[1..]).map(|(&left, &right)| {
            let difference = u32::from(left.abs_diff(right));
            difference * difference
        });
        total += u64::from(squares.sum::<u32>());
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;
    use crate::units::Instant;

    /// Sizes with odd and even sides, too small for any neighbour, and wider than what is summed at once.
    const SIZES: [(usize, usize); 8] = [
        (1, 1),
        (2, 9),
        (4, 4),
        (5, 5),
        (64, 48),
        (63, 47),
        (2051, 7),
        (4200, 6),
    ];

    fn frame(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Frame {
        let places = (0..width * height).map(|at| (at % width, at / width));
        let rgb = places.flat_map(|(x, y)| pixel(x, y)).collect();
        Frame::new(width, height, rgb, Instant::default(), 0).unwrap()
    }

    fn noise(width: usize, height: usize) -> Frame {
        let byte = |bits: u64| mix(bits) as u8;
        frame(width, height, |x, y| {
            let seed = (3 * (y * 10_000 + x)) as u64;
            [byte(seed), byte(seed + 1), byte(seed + 2)]
        })
    }

    /// The sum of `square` over the samples that are `margins` from the edges, over their number and the square of the mean.
    fn directly(frame: &Frame, margins: [usize; 4], square: impl Fn(&dyn Fn(i64, i64) -> f64) -> f64) -> f64 {
        let green = |x: usize, y: usize| f64::from(frame.rgb()[3 * (2 * y * frame.width() + 2 * x) + 1]);
        let (width, height) = (frame.width().div_ceil(2), frame.height().div_ceil(2));
        let [left, right, above, below] = margins;
        let (mut total, mut count, mut light) = (0.0, 0.0, 0.0);
        for (x, y) in (0..width * height).map(|at| (at % width, at / width)) {
            light += green(x, y);
            if (left..width.saturating_sub(right)).contains(&x)
                && (above..height.saturating_sub(below)).contains(&y)
            {
                count += 1.0;
                total += square(&|dx, dy| green((x as i64 + dx) as usize, (y as i64 + dy) as usize));
            }
        }
        let mean = light / (width * height) as f64;
        if count == 0.0 {
            0.0
        } else {
            total / (count * mean * mean)
        }
    }

    #[test]
    fn both_are_what_their_formulas_say() {
        for (width, height) in SIZES {
            let frame = noise(width, height);
            let sobel = directly(&frame, [1; 4], |f| {
                let side = |x: i64| f(x, -1) + 2.0 * f(x, 0) + f(x, 1);
                let row = |y: i64| f(-1, y) + 2.0 * f(0, y) + f(1, y);
                (side(1) - side(-1)).powi(2) + (row(1) - row(-1)).powi(2)
            });
            let gradient = directly(&frame, [0, 1, 0, 0], |f| (f(1, 0) - f(0, 0)).powi(2));
            for (is, expected) in [(tenengrad(&frame), sobel), (brenner(&frame), gradient)] {
                assert!(
                    (is - expected).abs() <= 1e-12 * expected,
                    "{width}x{height}: {is}, not {expected}"
                );
            }
        }
    }

    /// Every square as large as it can be: nothing overflows.
    #[test]
    fn the_hardest_edges_are_summed() {
        let stripes = frame(4200, 9, |x, _| [0, if x / 2 % 2 == 0 { 255 } else { 0 }, 0]);
        assert!((brenner(&stripes) - 4.0).abs() < 1e-2, "{}", brenner(&stripes));
        // Half of the samples are white; columns of two make Gx four times the difference everywhere.
        let columns = frame(4200, 9, |x, _| [0, if x / 4 % 2 == 0 { 255 } else { 0 }, 0]);
        assert!(
            (tenengrad(&columns) - 64.0).abs() < 0.1,
            "{}",
            tenengrad(&columns)
        );
    }

    #[test]
    fn light_does_not_matter_and_black_is_not_sharp() {
        let lit = |light: u8| frame(80, 60, |x, y| [0, light * (1 + ((x / 6 + y / 7) % 3) as u8), 0]);
        for measure in [tenengrad, brenner] {
            let (dim, bright) = (measure(&lit(20)), measure(&lit(60)));
            assert!(
                dim > 0.01 && (dim / bright - 1.0).abs() < 1e-12,
                "{dim}, {bright}"
            );
            assert_eq!(measure(&lit(0)), 0.0);
            assert_eq!(measure(&frame(40, 40, |_, _| [9, 9, 9])), 0.0);
        }
    }
}
