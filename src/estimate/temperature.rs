//! What is fitted to held-out slides: how sure a vote may say it is, and what the condenser does to stated heights.
//!
//! The mean of many patches' distributions is too modest where the patches agree for independent reasons and too bold where
//! they share an error. One exponent k, p -> p^k / Σ p^k, corrects both on average (temperature scaling with T = 1 / k; Guo et
//! al., 2017). It is fitted by maximum likelihood and changes no decision.
//!
//! The blur of a specimen out of focus grows with the cone of light that passes it. How wide the condenser makes that cone is set by
//! hand, differs from instrument to instrument, and cannot be told from one image; it makes most of the error that all images of a
//! slide have in common. [`CondenserLaw`] takes that off where the aperture is known.

use crate::classes::DistanceIndex;
use crate::estimate::vote::Probabilities;

/// Numerical apertures of condensers.
pub const CONDENSER_NA: std::ops::RangeInclusive<f64> = 0.05..=1.5;

/// Exponents that a voted distribution may be raised to.
pub const VOTE_EXPONENT: std::ops::RangeInclusive<f64> = 0.1..=10.0;

/// Least probability of what turned out true that counts: one blunder does not decide the fit.
const LEAST: f64 = 1e-6;

/// Steps of the search; the interval shrinks by 0.618 each time.
const STEPS: usize = 40;

/// The distribution with its entries raised to a power; the likeliest stays the likeliest.
pub(crate) fn raised(probabilities: &Probabilities, exponent: f64) -> Probabilities {
    let powers = probabilities.map(|p| f64::from(p).powf(exponent));
    let sum: f64 = powers.iter().sum();
    powers.map(|power| (power / sum) as f32)
}

/// The exponent, within [`VOTE_EXPONENT`], under which the true classes are the most probable, given voted distributions that
/// were not raised (exponent 1). None if `votes` is empty.
pub fn fit_vote_exponent(votes: &[(Probabilities, DistanceIndex)]) -> Option<f64> {
    if votes.is_empty() {
        return None;
    }
    // The loss is convex in k; golden section in log k.
    let shrink = 0.5 * (5.0_f64.sqrt() - 1.0);
    let (mut low, mut high) = (VOTE_EXPONENT.start().ln(), VOTE_EXPONENT.end().ln());
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

/// How the heights that a model states depend on the condenser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CondenserLaw {
    /// Numerical aperture of a condenser for which they need no correction, above 0.
    pub na: f64,
    /// Powers of (aperture / `na`) by which heights stated above and below focus are to be multiplied, [`CONDENSER_EXPONENTS`].
    pub exponents: [f64; 2],
}

/// Exponents that a [`CondenserLaw`] may have.
pub const CONDENSER_EXPONENTS: std::ops::RangeInclusive<f64> = -2.0..=2.0;

/// What a model stated of a frame whose instrument and height are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownHeight {
    /// Numerical aperture of the condenser.
    pub condenser_na: f64,
    /// Defocus as stated, µm.
    pub stated_um: f64,
    /// Defocus as it was, µm.
    pub true_um: f64,
}

impl CondenserLaw {
    /// What a stated defocus is to be multiplied by if the condenser is set to the aperture `condenser_na`.
    pub fn gain(&self, condenser_na: f64, stated_um: f64) -> f64 {
        let [above, below] = self.exponents;
        (condenser_na / self.na).powf(if stated_um < 0.0 { below } else { above })
    }

    /// The aperture that a condenser most probably has, from heights that were stated without knowing it: pairs of the defocus as stated
    /// and as it was, µm. Those nearer to focus than `nearest_um`, and on the wrong side, say nothing; None if there are no others.
    ///
    /// Each pair says ln (truth / statement) = exponent · ln (aperture / `na`), give or take [`FRAME_SPREAD`]; before that it
    /// is known that apertures lie about `na`, give or take [`APERTURE_SPREAD`].
    pub fn measure(&self, heights: impl IntoIterator<Item = (f64, f64)>, nearest_um: f64) -> Option<f64> {
        let (mut products, mut squares, mut count) = (0.0, (FRAME_SPREAD / APERTURE_SPREAD).powi(2), 0);
        for (stated_um, true_um) in heights {
            if true_um.abs() >= nearest_um && stated_um * true_um > 0.0 {
                let [above, below] = self.exponents;
                let exponent = if stated_um < 0.0 { below } else { above };
                products += exponent * (true_um / stated_um).ln().clamp(-BLUNDER, BLUNDER);
                squares += exponent * exponent;
                count += 1;
            }
        }
        let na = self.na * f64::exp(products / squares);
        (count > 0).then(|| na.clamp(*CONDENSER_NA.start(), *CONDENSER_NA.end()))
    }

    /// The law about `na` that fits these heights best, each side of focus by itself: least squares of the logarithms of truth over
    /// statement, over the heights from `nearest_um` to `farthest_um`. None if a side has too few of them, or all are of one aperture.
    pub fn fit(heights: &[KnownHeight], na: f64, nearest_um: f64, farthest_um: f64) -> Option<Self> {
        let side = |sign: f64| {
            let rows = heights.iter().filter(|height| {
                (nearest_um..=farthest_um).contains(&(sign * height.true_um)) && sign * height.stated_um > 0.0
            });
            let logs = rows.map(|height| {
                let error = (height.true_um / height.stated_um).ln();
                ((height.condenser_na / na).ln(), error.clamp(-BLUNDER, BLUNDER))
            });
            slope(&logs.collect::<Vec<_>>())
        };
        Some(Self {
            na,
            exponents: [side(1.0)?, side(-1.0)?],
        })
    }
}

/// Logarithm of truth over statement beyond which an estimate is a blunder, and counts as this much.
const BLUNDER: f64 = 0.5;
/// Standard deviation of ln (truth / statement) from frame to frame of one instrument.
const FRAME_SPREAD: f64 = 0.08;
/// Standard deviation of ln (aperture) from instrument to instrument: apertures of 0.8 to 1.2 of the catalogue's, all alike.
const APERTURE_SPREAD: f64 = 0.12;
/// Frames on one side of focus that a fit needs.
const LEAST_FRAMES: usize = 10;

/// Slope of the line of least squares, within [`CONDENSER_EXPONENTS`].
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < LEAST_FRAMES {
        return None;
    }
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let squares: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let products: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (squares > 1e-6 * n)
        .then(|| (products / squares).clamp(*CONDENSER_EXPONENTS.start(), *CONDENSER_EXPONENTS.end()))
}

/// Mean negative log likelihood of the true classes with votes raised to `exponent`.
fn loss(votes: &[(Probabilities, DistanceIndex)], exponent: f64) -> f64 {
    let of = |(vote, truth): &(Probabilities, DistanceIndex)| {
        let stated = f64::from(raised(vote, exponent)[truth.class()]);
        -stated.max(LEAST).ln()
    };
    votes.iter().map(of).sum::<f64>() / votes.len() as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::classes::CLASSES;
    use crate::sim::slide::SiteRandom;

    /// Votes whose truth is drawn from the vote raised to `exponent`.
    fn drawn(exponent: f64) -> Vec<(Probabilities, DistanceIndex)> {
        let mut random = SiteRandom::new(7, 7);
        let mut draw = || {
            let raw: [f64; CLASSES] = std::array::from_fn(|_| random.range(0.0, 1.0).powi(6) + 1e-3);
            let sum: f64 = raw.iter().sum();
            let vote = raw.map(|p| (p / sum) as f32);
            let mut left = random.range(0.0, 1.0);
            let class = raised(&vote, exponent).iter().position(|&p| {
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
            let found = fit_vote_exponent(&drawn(exponent)).unwrap();
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
        assert!(fit_vote_exponent(&[sure(2); 9]).unwrap() > 5.0);
        assert!(fit_vote_exponent(&[sure(3); 9]).unwrap() < 0.11);
        assert_eq!(fit_vote_exponent(&[]), None);
    }

    #[test]
    fn the_law_of_the_condenser_is_found_and_takes_its_error_off() {
        let law = CondenserLaw {
            na: 0.4,
            exponents: [-0.2, -0.7],
        };
        let heights: Vec<_> = (0..40)
            .map(|at| {
                let condenser_na = 0.32 + 0.004 * f64::from(at);
                let true_um = [3.0, -3.0, 9.0, -9.0, 30.0][at as usize % 5];
                // A blunder far away, which is not looked at.
                let stated_um = if true_um == 30.0 {
                    1.0
                } else {
                    true_um / law.gain(condenser_na, true_um)
                };
                KnownHeight {
                    condenser_na,
                    stated_um,
                    true_um,
                }
            })
            .collect();
        let found = CondenserLaw::fit(&heights, 0.4, 2.0, 11.0).unwrap();
        for (found, put_in) in found.exponents.iter().zip(law.exponents) {
            assert!((found - put_in).abs() < 1e-9, "{found}");
        }
        let one = heights[3];
        assert!((one.stated_um * found.gain(one.condenser_na, one.stated_um) - one.true_um).abs() < 1e-9);
        assert_eq!(found.gain(0.4, -5.0), 1.0);
        let too_few = heights.iter().copied().take(15).collect::<Vec<_>>();
        assert_eq!(CondenserLaw::fit(&too_few, 0.4, 2.0, 11.0), None);
        let alike: Vec<_> = heights
            .iter()
            .map(|height| KnownHeight {
                condenser_na: 0.4,
                ..*height
            })
            .collect();
        assert_eq!(
            CondenserLaw::fit(&alike, 0.4, 2.0, 11.0),
            None,
            "nothing to learn from"
        );
    }

    #[test]
    fn the_aperture_is_measured_by_known_heights() {
        let law = CondenserLaw {
            na: 0.4,
            exponents: [-0.2, -0.6],
        };
        let stack = |na: f64, true_um: &[f64]| -> Vec<(f64, f64)> {
            let stated = |&true_um: &f64| (true_um / law.gain(na, true_um), true_um);
            true_um.iter().map(stated).collect()
        };
        let heights: Vec<f64> = (-20..=20).map(f64::from).collect();
        for na in [0.32, 0.4, 0.48] {
            let found = law.measure(stack(na, &heights), 3.0).unwrap();
            assert!((found / na - 1.0).abs() < 0.02, "{na}: {found}");
        }
        assert_eq!(law.measure(stack(0.48, &[1.0, -2.0]), 3.0), None);
        assert_eq!(law.measure([(5.0, -5.0), (f64::NAN, 5.0), (0.0, 9.0)], 3.0), None);
        // A little: between the usual aperture and what it says.
        let little = law.measure(stack(0.48, &[-8.0]), 3.0).unwrap();
        assert!(little > 0.41 && little < 0.47, "{little}");
        let blunders = vec![(-1.0, -40.0); 20];
        assert!(CONDENSER_NA.contains(&law.measure(blunders, 3.0).unwrap()));
    }
}
