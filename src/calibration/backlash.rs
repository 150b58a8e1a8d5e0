//! How far the motor turns before the lens follows.
//!
//! Behind a drive with play the lens is lower than its count where it was reached from below, compared with the same count reached from above.
//! So a pass from below is in focus at a higher count than one from above, by the play. Two things tell it: the heights of the peaks of
//! sharpness, and what the network states at the same counts. A stand that drifts moves focus between passes; passes in turn (from below, from
//! above, from below) cancel a steady drift, and their scatter says what is left.

use super::card::Value;
use super::focus_height::{NoFocus, focus_height_um};
use super::pass::{Approach, Pass};

/// Estimates farther from focus than this, depths of field, say too little of their differences.
const NEAR_DEPTHS: f64 = 8.0;
/// Estimates that a pass needs so that they tell its height.
const LEAST_ESTIMATES: usize = 5;
/// By how much the two measures may differ: so many standard deviations, and this part of a depth of field.
const ALLOWED: f64 = 3.0;
const ALLOWED_DEPTHS: f64 = 0.35;

/// The play of a drive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlash {
    /// By sharpness, µm.
    pub by_sharpness_um: Value,
    /// By the network's estimates, µm, where there are enough of them.
    pub by_estimates_um: Option<Value>,
    /// Passes from below and from above.
    pub passes: [usize; 2],
}

impl Backlash {
    /// Whichever is more certain, µm.
    pub fn best_um(&self) -> Value {
        match self.by_estimates_um {
            Some(estimates) if estimates.stddev < self.by_sharpness_um.stddev => estimates,
            _ => self.by_sharpness_um,
        }
    }

    /// Whether the two measures contradict each other.
    pub fn is_contradictory(&self, depth_um: f64) -> bool {
        self.by_estimates_um.is_some_and(|estimates| {
            let allowed_um =
                ALLOWED * estimates.stddev.hypot(self.by_sharpness_um.stddev) + ALLOWED_DEPTHS * depth_um;
            (estimates.value - self.by_sharpness_um.value).abs() > allowed_um
        })
    }
}

/// Why there is no play to tell.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoBacklash {
    /// One of the directions is missing.
    #[error(
        "passes from below and from above are needed ({below} and {above} are there): name in the column approach from where each height was reached"
    )]
    OneDirection {
        /// Passes from below.
        below: usize,
        /// Passes from above.
        above: usize,
    },
    /// A pass shows no focus.
    #[error(transparent)]
    NoFocus(#[from] NoFocus),
    /// It comes out negative.
    #[error(
        "passes from below are in focus {um:.2} µm lower than those from above, and play makes them higher: the heights do not belong to the frames, \
         or z counts downwards"
    )]
    Negative {
        /// How far, µm.
        um: f64,
    },
}

/// The play by passes through one field; `depth_um` is the depth of field.
///
/// # Errors
/// If a direction is missing, a pass shows no focus, or the play would be negative.
pub fn backlash(passes: &[&Pass], depth_um: f64) -> Result<Backlash, NoBacklash> {
    let of = |approach: Approach| -> Vec<&Pass> {
        let own = passes.iter().filter(|pass| pass.approach == Some(approach));
        own.copied().collect()
    };
    let (from_below, from_above) = (of(Approach::FromBelow), of(Approach::FromAbove));
    let (below, above) = (from_below.len(), from_above.len());
    if below == 0 || above == 0 {
        return Err(NoBacklash::OneDirection { below, above });
    }
    let peaks = |passes: &[&Pass]| -> Result<Vec<Value>, NoFocus> {
        passes.iter().map(|pass| focus_height_um(pass)).collect()
    };
    let by_sharpness_um = difference(&peaks(&from_below)?, &peaks(&from_above)?);
    let estimated = |passes: &[&Pass]| -> Option<Vec<Value>> {
        passes
            .iter()
            .map(|pass| focus_by_estimates_um(pass, depth_um))
            .collect()
    };
    let by_estimates_um = estimated(&from_below)
        .zip(estimated(&from_above))
        .map(|(below, above)| difference(&below, &above));
    let found = Backlash {
        by_sharpness_um,
        by_estimates_um,
        passes: [below, above],
    };
    let Value { value, stddev } = found.best_um();
    if value < -(ALLOWED * stddev).max(ALLOWED_DEPTHS * depth_um) {
        return Err(NoBacklash::Negative { um: -value });
    }
    Ok(found)
}

/// Mean of the first less that of the others, and its standard deviation: what each states, or what they differ by if that is more.
fn difference(first: &[Value], others: &[Value]) -> Value {
    let mean = |values: &[Value]| {
        let n = values.len() as f64;
        let mean = values.iter().map(|value| value.value).sum::<f64>() / n;
        let stated = values.iter().map(|value| value.stddev.powi(2)).sum::<f64>() / (n * n);
        let scatter = values
            .iter()
            .map(|value| (value.value - mean).powi(2))
            .sum::<f64>();
        let scatter = if n > 1.0 { scatter / (n * (n - 1.0)) } else { 0.0 };
        (mean, stated.max(scatter))
    };
    let ((first, of_first), (others, of_others)) = (mean(first), mean(others));
    Value {
        value: first - others,
        stddev: (of_first + of_others).sqrt(),
    }
}

/// Count at which the line through what the network states crosses zero, µm.
fn focus_by_estimates_um(pass: &Pass, depth_um: f64) -> Option<Value> {
    let points: Vec<(f64, f64)> = pass
        .looks
        .iter()
        .filter_map(|look| Some((look.z_um, look.estimate_um?)))
        .filter(|point| point.1.abs() <= NEAR_DEPTHS * depth_um)
        .collect();
    if points.len() < LEAST_ESTIMATES {
        return None;
    }
    let n = points.len() as f64;
    let mean_z = points.iter().map(|point| point.0).sum::<f64>() / n;
    let mean_e = points.iter().map(|point| point.1).sum::<f64>() / n;
    let squares: f64 = points.iter().map(|point| (point.0 - mean_z).powi(2)).sum();
    let products: f64 = points
        .iter()
        .map(|point| (point.0 - mean_z) * (point.1 - mean_e))
        .sum();
    let slope = products / squares;
    if !slope.is_normal() {
        return None;
    }
    let misses: f64 = points
        .iter()
        .map(|point| (point.1 - mean_e - slope * (point.0 - mean_z)).powi(2))
        .sum();
    let at_um = mean_z - mean_e / slope;
    let variance = misses / (n - 2.0) / slope.powi(2) * (1.0 / n + (at_um - mean_z).powi(2) / squares);
    Some(Value {
        value: at_um,
        stddev: variance.sqrt(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::calibration::pass::Look;
    use crate::sim::slide::SiteRandom;

    const DEPTH_UM: f64 = 1.43;

    /// A pass of a drive whose lens is `below_um` lower than its count.
    fn pass(approach: Approach, below_um: f64, estimates: bool, seed: u64) -> Pass {
        let mut random = SiteRandom::new(seed, 9);
        let look = |at: i32| {
            let z_um = 40.0 + 0.8 * f64::from(at);
            let defocus_um = z_um - below_um - 41.3;
            Look {
                z_um,
                sharpness: Some(0.2 + (-(defocus_um / 2.5).powi(2)).exp() * random.range(0.98, 1.02)),
                estimate_um: estimates.then_some(1.05 * defocus_um + random.range(-0.3, 0.3)),
            }
        };
        Pass {
            field: "here".to_owned(),
            approach: Some(approach),
            looks: (-20..=20).map(look).collect(),
        }
    }

    fn measured(play_um: f64, drift_um: f64, estimates: bool) -> Result<Backlash, NoBacklash> {
        let passes = [
            pass(Approach::FromBelow, play_um, estimates, 1),
            pass(Approach::FromAbove, drift_um, estimates, 2),
            pass(Approach::FromBelow, play_um + 2.0 * drift_um, estimates, 3),
        ];
        backlash(&passes.iter().collect::<Vec<_>>(), DEPTH_UM)
    }

    #[test]
    fn the_play_is_found_while_the_stand_drifts() {
        for (play_um, drift_um) in [(0.0, 0.0), (2.0, 0.0), (2.0, 0.2), (7.5, -0.3)] {
            for estimates in [false, true] {
                let found = measured(play_um, drift_um, estimates).unwrap();
                let best = found.best_um();
                assert!((best.value - play_um).abs() < 0.15, "{play_um}: {found:?}");
                assert!(
                    (best.value - play_um).abs() < 3.0 * best.stddev + 0.05,
                    "{play_um}: {found:?}"
                );
                assert_eq!(found.by_estimates_um.is_some(), estimates);
                assert!(!found.is_contradictory(DEPTH_UM));
            }
        }
    }

    #[test]
    fn contradictions_are_sentences() {
        let message = measured(-3.0, 0.0, true).unwrap_err().to_string();
        assert!(
            message.contains("3.0") && message.contains("counts downwards"),
            "{message}"
        );
        let up = pass(Approach::FromBelow, 2.0, true, 1);
        let message = backlash(&[&up, &up], DEPTH_UM).unwrap_err().to_string();
        assert!(message.contains("(2 and 0 are there)"), "{message}");
        let mut apart = measured(2.0, 0.0, true).unwrap();
        apart.by_estimates_um = Some(Value {
            value: 4.0,
            stddev: 0.1,
        });
        assert!(apart.is_contradictory(DEPTH_UM));
    }
}
