//! How sure a vote may say it is: the exponent that makes stated probabilities come true on held-out slides.
//!
//! The mean of many patches' distributions is too modest where the patches agree for independent reasons and too bold where
//! they share an error. One exponent k, p -> p^k / Σ p^k, corrects both on average (temperature scaling with T = 1 / k; Guo et
//! al., 2017). It is fitted by maximum likelihood and changes no decision.

use crate::classes::DistanceIndex;
use crate::network::{SHARPNESS, sharpened};
use crate::vote::Probabilities;

/// Least probability of what turned out true that counts: one blunder does not decide the fit.
const LEAST: f64 = 1e-6;

/// Steps of the search; the interval shrinks by 0.618 each time.
const STEPS: usize = 40;

/// The exponent, within [`SHARPNESS`], under which the true classes are the most probable, given voted distributions that
/// were not sharpened (exponent 1). None of nothing.
pub fn fit_sharpness(votes: &[(Probabilities, DistanceIndex)]) -> Option<f64> {
    if votes.is_empty() {
        return None;
    }
    // The loss is convex in k; golden section in log k.
    let shrink = 0.5 * (5.0_f64.sqrt() - 1.0);
    let (mut low, mut high) = (SHARPNESS.start().ln(), SHARPNESS.end().ln());
    for _ in 0..STEPS {
        let (left, right) = (high - shrink * (high - low), low + shrink * (high - low));
        if loss(votes, left.exp()) <= loss(votes, right.exp()) {
            high = right;
        } else {
            low = left;
        }
    }
    Some((0.5 * (low + high)).exp())
}

/// Mean negative log likelihood of the true classes with votes raised to `exponent`.
fn loss(votes: &[(Probabilities, DistanceIndex)], exponent: f64) -> f64 {
    let of = |(vote, truth): &(Probabilities, DistanceIndex)| {
        let stated = f64::from(sharpened(vote, exponent)[truth.class()]);
        -stated.max(LEAST).ln()
    };
    votes.iter().map(of).sum::<f64>() / votes.len() as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::classes::CLASSES;
    use crate::slide::SiteRandom;

    /// Votes whose truth is drawn from the vote raised to `exponent`.
    fn drawn(exponent: f64) -> Vec<(Probabilities, DistanceIndex)> {
        let mut random = SiteRandom::new(7, 7);
        let mut draw = || {
            let raw: [f64; CLASSES] = std::array::from_fn(|_| random.range(0.0, 1.0).powi(6) + 1e-3);
            let sum: f64 = raw.iter().sum();
            let vote = raw.map(|p| (p / sum) as f32);
            let mut left = random.range(0.0, 1.0);
            let class = sharpened(&vote, exponent).iter().position(|&p| {
                left -= f64::from(p);
                left < 0.0
            });
            (vote, DistanceIndex::from_class(class.unwrap_or(CLASSES - 1)))
        };
        (0..4000).map(|_| draw()).collect()
    }

    #[test]
    fn the_exponent_that_truths_were_drawn_with_is_found() {
        for exponent in [0.5, 1.0, 1.5, 3.0] {
            let found = fit_sharpness(&drawn(exponent)).unwrap();
            assert!((found / exponent - 1.0).abs() < 0.08, "{exponent}: {found}");
        }
    }

    #[test]
    fn extremes_end_at_the_limits() {
        let sure = |truth| {
            (
                std::array::from_fn(|class| if class == 2 { 0.7 } else { 0.05 }),
                DistanceIndex::from_class(truth),
            )
        };
        assert!(fit_sharpness(&[sure(2); 9]).unwrap() > 5.0);
        assert!(fit_sharpness(&[sure(3); 9]).unwrap() < 0.11);
        assert_eq!(fit_sharpness(&[]), None);
    }
}
