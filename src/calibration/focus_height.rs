//! Where focus lies by sharpness alone, as classical autofocus finds it: no network has a say, so that the network can be measured by it.

use super::card::Value;
use super::pass::Pass;
use crate::focus::peak::{NoPeak, highest, vertex};
use crate::statistics::jackknife;

/// Part of the range at each end in which a peak is not believed: its other side is not seen.
const MARGIN: f64 = 0.05;

/// A pass that does not show its focus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pass through {field} shows no focus: {}; sweep farther than the blur reaches on both sides, in steps of at most a depth of field", .why.text())]
pub struct NoFocus {
    field: String,
    why: NoPeak,
}

/// Height of the stage at which a pass is sharpest, µm, and its standard deviation: the top of the parabola through the logarithm of
/// what is sharpest, and how much that moves when one frame after the other is left out (jackknife).
///
/// # Errors
/// If sharpness has no peak inside the pass.
pub fn focus_height_um(pass: &Pass) -> Result<Value, NoFocus> {
    let looks: Vec<(f64, f64)> = pass
        .looks
        .iter()
        .filter_map(|look| Some((look.z_um, look.sharpness?)))
        .collect();
    of(&looks).map_err(|why| NoFocus {
        field: pass.field.clone(),
        why,
    })
}

fn of(looks: &[(f64, f64)]) -> Result<Value, NoPeak> {
    let heights = || looks.iter().map(|look| look.0);
    let (low, high) = (
        heights().fold(f64::INFINITY, f64::min),
        heights().fold(f64::NEG_INFINITY, f64::max),
    );
    highest(looks, (low, high), MARGIN * (high - low))?;
    vertex(looks)?;
    let way = if refined_um(looks).is_ok() {
        refined_um
    } else {
        top_um
    };
    let z_um = way(looks)?;
    let without = |left_out: usize| {
        let others = looks.iter().enumerate().filter(|(at, _)| *at != left_out);
        way(&others.map(|(_, look)| *look).collect::<Vec<_>>())
    };
    let tops: Result<Vec<f64>, NoPeak> = (0..looks.len()).map(without).collect();
    // With so few frames at the top that none can be left out, their distance is what is known.
    let stddev = tops.map_or_else(|_| 0.5 * gap_um(looks, z_um), |tops| jackknife(&tops));
    Ok(Value { value: z_um, stddev })
}

/// The top of the parabola through the upper half of the peak, µm.
fn top_um(looks: &[(f64, f64)]) -> Result<f64, NoPeak> {
    Ok(vertex(looks)?.0)
}

/// The same through its upper quarter, which spherical aberration makes less lopsided.
fn refined_um(looks: &[(f64, f64)]) -> Result<f64, NoPeak> {
    let values = || looks.iter().map(|look| look.1);
    let (floor, top) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(0.0, f64::max),
    );
    let upper = looks.iter().filter(|look| look.1 - floor >= 0.5 * (top - floor));
    top_um(&upper.copied().collect::<Vec<_>>())
}

/// From the frame below a height to the one above, µm.
fn gap_um(looks: &[(f64, f64)], z_um: f64) -> f64 {
    let offs = || looks.iter().map(|look| look.0 - z_um);
    let below = offs().filter(|off| *off < 0.0).fold(f64::NEG_INFINITY, f64::max);
    let above = offs().filter(|off| *off >= 0.0).fold(f64::INFINITY, f64::min);
    above - below
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::calibration::pass::Look;
    use crate::sim::slide::SiteRandom;

    fn pass(sharpness: impl Fn(f64) -> f64) -> Pass {
        let look = |at: i32| {
            let z_um = 100.0 + f64::from(at);
            Look {
                z_um,
                sharpness: Some(sharpness(z_um)),
                estimate_um: None,
            }
        };
        Pass {
            field: "here".to_owned(),
            approach: None,
            looks: (-20..=20).map(look).collect(),
        }
    }

    /// A peak on a floor, with noise of `noise` of its height.
    fn peak(focus_um: f64, noise: f64, seed: u64) -> Pass {
        let mut random = SiteRandom::new(seed, 1);
        let noises: Vec<f64> = (0..41).map(|_| random.range(-1.0, 1.0) * noise).collect();
        pass(|z_um| 0.3 + (-((z_um - focus_um) / 3.0).powi(2)).exp() + noises[(z_um - 80.0) as usize])
    }

    #[test]
    fn the_top_is_found_between_the_frames_and_its_deviation_is_honest() {
        for focus_um in [92.0, 100.3, 107.75] {
            let exact = focus_height_um(&peak(focus_um, 0.0, 1)).unwrap();
            assert!((exact.value - focus_um).abs() < 0.1, "{exact:?}");
        }
        // How far off it is, in its own standard deviations, over many draws.
        let misses: Vec<f64> = (0..60)
            .map(|seed| {
                let found = focus_height_um(&peak(100.3, 0.04, seed)).unwrap();
                (found.value - 100.3) / found.stddev
            })
            .collect();
        let spread = (misses.iter().map(|miss| miss * miss).sum::<f64>() / 60.0).sqrt();
        assert!((0.5..1.8).contains(&spread), "{spread}");
    }

    #[test]
    fn a_few_frames_are_as_good_as_their_distance() {
        let narrow = pass(|z_um| 0.3 + (-((z_um - 100.3) / 2.2).powi(2)).exp());
        let found = focus_height_um(&narrow).unwrap();
        assert!(
            (found.value - 100.3).abs() < 0.2 && found.stddev == 0.5,
            "{found:?}"
        );
    }

    #[test]
    fn what_has_no_peak_is_refused_in_a_sentence() {
        for (pass, words) in [
            (pass(|_| 0.3), "nothing in it was sharper"),
            (pass(|z_um| (0.2 * (z_um - 100.0)).exp()), "up to its end"),
        ] {
            let message = focus_height_um(&pass).unwrap_err().to_string();
            assert!(
                message.contains(words) && message.contains("through here"),
                "{message}"
            );
        }
    }
}
