//! Features 5 to 8: sum entropy, sum average, difference variance and difference entropy of the grey-level co-occurrence
//! matrix (Haralick 1973; equations 5 to 8).
//!
//! The matrix counts pairs of neighbours on the lattice, at distance 1 (two camera pixels) in the directions 0°, 45°, 90°
//! and 135°, symmetrically, over all 256 grey levels (no quantisation). Each feature is the mean of its values in the four
//! directions. All four depend only on the distributions of the sum x + y and of the absolute difference |x - y| of a
//! pair, which are counted directly; the matrix itself is never built.

use super::Lattice;

/// Grey levels.
const LEVELS: usize = 256;

/// The second pixel of a pair: along the row, or in the next row to the left, below, to the right.
const DIRECTIONS: usize = 4;

/// Smallest image worth sharing between two threads, lattice rows.
const SHARED_ROWS: usize = 64;

/// How often each sum and each absolute difference occurs in one direction.
struct Pairs {
    sums: [u32; 2 * LEVELS],
    differences: [u32; LEVELS],
}

impl Pairs {
    const NONE: Self = Self {
        sums: [0; 2 * LEVELS],
        differences: [0; LEVELS],
    };

    fn add(&mut self, other: &Self) {
        let counts = self.sums.iter_mut().chain(&mut self.differences);
        for (count, more) in counts.zip(other.sums.iter().chain(&other.differences)) {
            *count += more;
        }
    }

    fn count(&mut self, x: u8, y: u8) {
        self.sums[usize::from(x) + usize::from(y)] += 1;
        self.differences[usize::from(x.abs_diff(y))] += 1;
    }

    /// Sum entropy -Σ p log₂ p of p_{x+y}; sum average Σ k p_{x+y}(k); difference variance Σ (k - µ)² p_{x-y}(k);
    /// difference entropy -Σ p log₂ p of p_{x-y}. Grey levels count from 0.
    fn features(&self) -> [f64; 4] {
        let (sum_average, _, sum_entropy) = describe(&self.sums);
        let (_, difference_variance, difference_entropy) = describe(&self.differences);
        [sum_entropy, sum_average, difference_variance, difference_entropy]
    }
}

/// Mean, variance and entropy in bits of the distribution with these counts; zeros if there are none.
fn describe(counts: &[u32]) -> (f64, f64, f64) {
    let total = counts.iter().map(|&count| u64::from(count)).sum::<u64>() as f64;
    if total == 0.0 {
        return (0.0, 0.0, 0.0);
    }
    let chances = || {
        counts
            .iter()
            .enumerate()
            .map(|(value, &count)| (value as f64, f64::from(count) / total))
    };
    let mean: f64 = chances().map(|(value, p)| value * p).sum();
    let variance = chances().map(|(value, p)| (value - mean).powi(2) * p).sum();
    let entropy = chances()
        .filter(|&(_, p)| p > 0.0)
        .map(|(_, p)| -p * p.log2())
        .sum::<f64>();
    (mean, variance, entropy.max(0.0))
}

/// Sum entropy (bits), sum average (grey levels), difference variance (grey levels²), difference entropy (bits).
pub(super) fn of(lattice: &Lattice) -> [f64; 4] {
    let pairs = count(lattice);
    let mut means = [0.0; 4];
    for direction in &pairs {
        for (mean, feature) in means.iter_mut().zip(direction.features()) {
            *mean += feature / DIRECTIONS as f64;
        }
    }
    means
}

/// The pairs of all four directions; a large image is counted in two halves.
fn count(lattice: &Lattice) -> [Pairs; DIRECTIONS] {
    let half = lattice.height / 2 * lattice.width;
    if lattice.height < SHARED_ROWS {
        return count_rows(&lattice.grey, lattice.width, false);
    }
    // The upper half ends with the first row of the lower one, whose pairs along the row the lower half counts.
    let (mut pairs, lower) = rayon::join(
        || count_rows(&lattice.grey[..half + lattice.width], lattice.width, true),
        || count_rows(&lattice.grey[half..], lattice.width, false),
    );
    for (pairs, lower) in pairs.iter_mut().zip(&lower) {
        pairs.add(lower);
    }
    pairs
}

/// Counts all four directions in one pass, so that equal pairs do not wait for each other's counter. `is_shared`: the pairs
/// along the last row are counted elsewhere.
fn count_rows(grey: &[u8], width: usize, is_shared: bool) -> [Pairs; DIRECTIONS] {
    let rows = || grey.chunks_exact(width);
    let mut pairs = [Pairs::NONE; DIRECTIONS];
    let [right, below_left, below, below_right] = &mut pairs;
    for row in rows().take(rows().len() - usize::from(is_shared)) {
        for (&x, &y) in row.iter().zip(&row[1..]) {
            right.count(x, y);
        }
    }
    for (upper, lower) in rows().zip(rows().skip(1)) {
        // The pairs of two neighbouring columns: straight down on the left, and the two diagonals.
        for (above, under) in upper.windows(2).zip(lower.windows(2)) {
            below.count(above[0], under[0]);
            below_right.count(above[0], under[1]);
            below_left.count(above[1], under[0]);
        }
        if let (Some(&x), Some(&y)) = (upper.last(), lower.last()) {
            below.count(x, y);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(width: usize, grey: &[u8], expected: [f64; 4]) {
        let lattice = Lattice {
            width,
            height: grey.len() / width,
            grey: grey.to_vec(),
        };
        for (value, wanted) in of(&lattice).into_iter().zip(expected) {
            assert!(
                (value - wanted).abs() < 1e-12,
                "{grey:?}: {value} instead of {wanted}"
            );
        }
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        for height in [SHARED_ROWS, SHARED_ROWS + 1] {
            let grey: Vec<u8> = (0..height * 7).map(|at| (at * at % 251) as u8).collect();
            let lattice = Lattice {
                width: 7,
                height,
                grey,
            };
            let whole = count_rows(&lattice.grey, 7, false);
            for (shared, whole) in count(&lattice).iter().zip(&whole) {
                assert_eq!(shared.sums, whole.sums);
                assert_eq!(shared.differences, whole.differences);
            }
        }
    }

    #[test]
    fn small_images_by_hand() {
        check(1, &[9], [0.0; 4]);
        // One pair, to the right; the other three directions have none and count as zero.
        check(2, &[1, 5], [0.0, 1.5, 0.0, 0.0]);
        check(2, &[7; 4], [0.0, 14.0, 0.0, 0.0]);
        // Columns 0 and 10: every pair but the vertical one has sum 10, difference 10; vertical sums 0 and 20.
        check(2, &[0, 10, 0, 10], [0.25, 10.0, 0.0, 0.0]);
        // Right: differences 0 and 8, down: 0 and 8, diagonals: one pair each.
        check(2, &[4, 4, 4, 12], [0.5, 12.0, 8.0, 0.5]);
    }
}
