//! Numbers that stand for many.

/// The values from the least to the largest.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The median, of an even number the mean of the two in the middle; None if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted = sorted(values);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        _ => Some(0.5 * (sorted[half - 1] + sorted[half])),
    }
}

/// The value that `part`, 0 to 1, of the sorted values do not exceed; between two of them the larger one, so that it is always a value that
/// occurs. None if there are none.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = (part * sorted.len().saturating_sub(1) as f64).ceil() as usize;
    sorted.get(at).copied()
}

/// Standard deviation of an estimate, by what it becomes without each of the observations (jackknife); 0 without any.
pub fn jackknife(without_one: &[f64]) -> f64 {
    let n = without_one.len().max(1) as f64;
    let mean = without_one.iter().sum::<f64>() / n;
    let squares: f64 = without_one.iter().map(|value| (value - mean).powi(2)).sum();
    ((n - 1.0) / n * squares).sqrt()
}

#[cfg(test)]
mod tests {
    use super::{jackknife, median, quantile, sorted};

    #[test]
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let values: [f64; 5] = [3.0, -1.0, 4.0, 1.0, 5.0];
        let sum: f64 = values.iter().sum();
        let without = values.map(|value| (sum - value) / 4.0);
        let variance = values
            .iter()
            .map(|value| (value - sum / 5.0).powi(2))
            .sum::<f64>()
            / 4.0;
        assert!((jackknife(&without) - (variance / 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(jackknife(&[]), 0.0);
    }

    #[test]
    fn the_middle_is_found() {
        for (values, middle) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![3.0, 1.0], Some(2.0)),
            (vec![9.0, -1.0, 2.0], Some(2.0)),
        ] {
            assert_eq!(median(values.clone()), middle, "{values:?}");
        }
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let values = sorted([9.0, -1.0, 2.0, 5.0]);
        for (part, value) in [(0.0, -1.0), (0.3, 2.0), (0.5, 5.0), (0.95, 9.0), (1.0, 9.0)] {
            assert_eq!(quantile(&values, part), Some(value), "{part}");
        }
        assert_eq!(quantile(&[4.0], 0.5), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
