//! Features 1 to 4: mean, variance, skewness and kurtosis of the grey values (equations 1 to 4).

use super::Lattice;

/// Kurtosis given to an image of one grey level, that of a normal distribution.
const NEUTRAL_KURTOSIS: f64 = 3.0;

/// Mean µ, variance E(g - µ)², skewness E(g - µ)³ / σ³ and kurtosis E(g - µ)⁴ / σ⁴ over all pixels (population moments).
pub(super) fn of(lattice: &Lattice) -> [f64; 4] {
    moments(&histogram(lattice))
}

/// Pixels of each grey value. Four counters take turns, so that equal neighbours do not wait for each other.
fn histogram(lattice: &Lattice) -> [u64; 256] {
    let mut counts = [[0u32; 256]; 4];
    let quads = lattice.grey.chunks_exact(4);
    for &grey in quads.remainder() {
        counts[0][usize::from(grey)] += 1;
    }
    for quad in quads {
        for (count, &grey) in counts.iter_mut().zip(quad) {
            count[usize::from(grey)] += 1;
        }
    }
    std::array::from_fn(|grey| counts.iter().map(|count| u64::from(count[grey])).sum())
}

fn moments(histogram: &[u64; 256]) -> [f64; 4] {
    let total = histogram.iter().sum::<u64>() as f64;
    if total == 0.0 {
        return [0.0, 0.0, 0.0, NEUTRAL_KURTOSIS];
    }
    let expectation = |of: &dyn Fn(f64) -> f64| {
        histogram
            .iter()
            .enumerate()
            .map(|(grey, &count)| count as f64 * of(grey as f64))
            .sum::<f64>()
            / total
    };
    let mean = expectation(&|grey| grey);
    if histogram.iter().filter(|&&count| count > 0).count() < 2 {
        return [mean, 0.0, 0.0, NEUTRAL_KURTOSIS];
    }
    let variance = expectation(&|grey| (grey - mean).powi(2));
    let third = expectation(&|grey| (grey - mean).powi(3));
    let fourth = expectation(&|grey| (grey - mean).powi(4));
    [
        mean,
        variance,
        third / variance.powf(1.5),
        fourth / (variance * variance),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coin_has_the_moments_of_a_coin() {
        let mut coin = [0; 256];
        (coin[10], coin[20]) = (3, 3);
        assert_eq!(moments(&coin), [15.0, 25.0, 0.0, 1.0]);
    }

    #[test]
    fn one_grey_level_is_neutral() {
        let mut flat = [0; 256];
        assert_eq!(moments(&flat), [0.0, 0.0, 0.0, 3.0]);
        flat[255] = 7;
        assert_eq!(moments(&flat), [255.0, 0.0, 0.0, 3.0]);
    }
}
