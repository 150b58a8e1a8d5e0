//! From the answers of many patches to one answer for the image: voting on the class, fusion of the defocus.
//!
//! Certainty is 1 - H / log C with the entropy H = -Σ p log p over C = 7 classes: 0 if all classes are equally likely, 1 if
//! there is no doubt. Equation (14) as printed would give doubtful patches the larger weight; the weight here is the
//! certainty itself.

use serde::{Deserialize, Serialize};

use crate::classes::{CLASSES, DistanceIndex};
use crate::statistics::median;

/// A probability of each class, in the order of [`DistanceIndex::ALL`].
pub type Probabilities = [f32; CLASSES];

/// How far the sum of a row may be from 1 for it to count; quantised networks round each output.
const SUM_TOLERANCE: f64 = 0.1;

/// How the patches of an image are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Voting {
    /// Majority: each patch has one vote for its likeliest class.
    Hard,
    /// The mean of the patches' distributions.
    Linear,
    /// Their mean weighted by each patch's certainty.
    #[default]
    CertaintyWeighted,
}

/// What the patches of one image say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// The voted distribution; adds up to 1. With [`Voting::Hard`], the share of the votes.
    pub probabilities: Probabilities,
    /// Its likeliest class; of equally likely ones the lowest index, which never moves the lens closer than the others would.
    pub index: DistanceIndex,
    /// Certainty of the voted distribution, 0 to 1.
    pub certainty: f32,
    /// Patches that took part.
    pub voters: usize,
}

impl Voting {
    /// Combines the patches' distributions. A row with a number that is negative or not finite, or whose sum is not 1
    /// within 10 %, has no vote; None if no row has.
    pub fn count_votes<'a>(self, rows: impl IntoIterator<Item = &'a Probabilities>) -> Option<Vote> {
        let rows: Vec<_> = rows.into_iter().filter_map(normalised).collect();
        let weights: Vec<f64> = match self {
            Self::Hard | Self::Linear => vec![1.0; rows.len()],
            Self::CertaintyWeighted => certainty_weights(&rows),
        };
        let total: f64 = weights.iter().sum();
        let mut mean = [0.0; CLASSES];
        for (row, weight) in rows.iter().zip(&weights) {
            for (sum, p) in mean.iter_mut().zip(self.ballot(row)) {
                *sum += p * weight / total;
            }
        }
        if rows.is_empty() {
            return None;
        }
        Some(Vote {
            probabilities: mean.map(|p| p as f32),
            index: DistanceIndex::from_class(likeliest(&mean)),
            certainty: certainty_of(&mean) as f32,
            voters: rows.len(),
        })
    }

    fn ballot(self, row: &[f64; CLASSES]) -> [f64; CLASSES] {
        if self != Self::Hard {
            return *row;
        }
        let mut ballot = [0.0; CLASSES];
        ballot[likeliest(row)] = 1.0;
        ballot
    }
}

/// Certainty 1 - H / log 7 of a distribution, 0 to 1; 0 for a row that is none.
pub fn certainty(probabilities: &Probabilities) -> f32 {
    normalised(probabilities).map_or(0.0, |row| certainty_of(&row) as f32)
}

/// The likeliest class of a distribution, by the same rule as a vote; None for a row that is none.
pub fn decide(probabilities: &Probabilities) -> Option<DistanceIndex> {
    normalised(probabilities).map(|row| DistanceIndex::from_class(likeliest(&row)))
}

/// The row scaled to a sum of exactly 1, if it is a distribution.
fn normalised(row: &Probabilities) -> Option<[f64; CLASSES]> {
    let row = row.map(f64::from);
    let sum: f64 = row.iter().sum();
    // A comparison with NaN is false, an infinite sum is not near 1.
    let valid = row.iter().all(|&p| p >= 0.0) && (sum - 1.0).abs() <= SUM_TOLERANCE;
    valid.then(|| row.map(|p| p / sum))
}

/// The certainties; all ones if none of the rows says anything.
fn certainty_weights(rows: &[[f64; CLASSES]]) -> Vec<f64> {
    let weights: Vec<f64> = rows.iter().map(certainty_of).collect();
    if weights.iter().sum::<f64>() > 1e-9 {
        weights
    } else {
        vec![1.0; rows.len()]
    }
}

fn certainty_of(row: &[f64; CLASSES]) -> f64 {
    let entropy: f64 = row.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
    (1.0 - entropy / (CLASSES as f64).ln()).clamp(0.0, 1.0)
}

/// The last of the largest: classes run from index 4 down to -2.
fn likeliest(row: &[f64; CLASSES]) -> usize {
    (0..CLASSES).fold(
        0,
        |best, class| if row[class] >= row[best] { class } else { best },
    )
}

/// A patch's defocus and its variance, as the network states them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Defocus, µm; positive: the lens is too far.
    pub defocus_um: f64,
    /// Variance, µm².
    pub variance_um2: f64,
}

/// The defocus of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fusion {
    /// Defocus, µm.
    pub defocus_um: f64,
    /// Its standard deviation, µm.
    pub stddev_um: f64,
    /// Patches that took part.
    pub inliers: usize,
}

/// Patches farther from the median than this many standard deviations are left out.
const OUTLIER_SIGMAS: f64 = 3.0;

/// A standard deviation estimated from the median absolute deviation of normal data.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Variance-weighted mean of the patches near the median.
///
/// 1. Pairs that are not finite or have no positive variance are left out.
/// 2. A patch is an outlier if it is farther from the median than 3 max(σ̂, σᵢ), where σ̂ = 1.4826 median |zᵢ - median| and
///    σᵢ is its own standard deviation. Up to half of the patches may be arbitrarily wrong.
/// 3. The rest are averaged with weights aᵢ = σᵢ⁻² / Σ σⱼ⁻².
/// 4. The variance is (1 - ρ) Σ aᵢ² σᵢ² + ρ (Σ aᵢ σᵢ)², for errors of which any two patches have the `correlation` ρ in
///    common, times max(1, χ² / (n - 1)): patches that disagree more than they admit make the mean less certain.
///
/// None if no pair is usable. `correlation` lies in 0 to 1.
pub fn fuse(measurements: &[Measurement], correlation: f64) -> Option<Fusion> {
    let usable =
        |m: &&Measurement| m.defocus_um.is_finite() && m.variance_um2.is_finite() && m.variance_um2 > 0.0;
    let usable: Vec<Measurement> = measurements.iter().filter(usable).copied().collect();
    let middle = median(usable.iter().map(|m| m.defocus_um))?;
    let scale = MAD_TO_SIGMA * median(usable.iter().map(|m| (m.defocus_um - middle).abs()))?;
    let near =
        |m: &&Measurement| (m.defocus_um - middle).abs() <= OUTLIER_SIGMAS * scale.max(m.variance_um2.sqrt());
    let inliers: Vec<Measurement> = usable.iter().filter(near).copied().collect();
    let total: f64 = inliers.iter().map(|m| 1.0 / m.variance_um2).sum();
    let share = |m: &Measurement| 1.0 / (m.variance_um2 * total);
    let defocus_um: f64 = inliers.iter().map(|m| share(m) * m.defocus_um).sum();
    let independent: f64 = inliers.iter().map(|m| share(m).powi(2) * m.variance_um2).sum();
    let common: f64 = inliers.iter().map(|m| share(m) * m.variance_um2.sqrt()).sum();
    let chi_square: f64 = inliers
        .iter()
        .map(|m| (m.defocus_um - defocus_um).powi(2) / m.variance_um2)
        .sum();
    let disagreement = (chi_square / (inliers.len().max(2) - 1) as f64).max(1.0);
    let variance = disagreement * ((1.0 - correlation) * independent + correlation * common * common);
    let fusion = Fusion {
        defocus_um,
        stddev_um: variance.sqrt(),
        inliers: inliers.len(),
    };
    (defocus_um.is_finite() && fusion.stddev_um.is_finite()).then_some(fusion)
}

#[cfg(test)]
mod tests;
