//! What the network states of heights that the stage knows: the line (statement) = scale · (height above focus) + offset.
//!
//! A scale of 1 and an offset of 0 are an instrument on which the network measures in the stage's µm. A negative scale is one on which the
//! network takes above for below: the stage counts downwards, or the model does not fit. Errors of the network grow with the distance, so a
//! frame counts the less the farther it is from focus, and one that is far off its neighbours not at all (Tukey's bisquare).

use super::card::Value;
use crate::estimate::temperature::CondenserLaw;
use crate::statistics::{jackknife, median};

/// What a statement may be off by and is no blunder: so many depths of field, and that part of the height.
const ERROR_DEPTHS: f64 = 0.35;
const ERROR_PART: f64 = 0.08;
/// Errors, in the median of all, from which on a frame does not count.
const TUKEY: f64 = 4.685;
/// Median of the magnitude of what is normally distributed, standard deviations.
const MEDIAN_OF_NORMAL: f64 = 0.6745;
/// Rounds of weighting and fitting.
const ROUNDS: usize = 20;
/// Frames below which nothing is fitted, in all and on each side of focus.
const LEAST: usize = 10;
const LEAST_OF_SIDE: usize = 3;
/// Depths of field from which on a statement has a side.
const SIDED_DEPTHS: f64 = 2.0;

/// One frame: its height above focus by the stage, and what the network states of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stated {
    /// Height above focus, µm; positive: too far from the slide.
    pub true_um: f64,
    /// Defocus as stated, µm.
    pub stated_um: f64,
}

/// The line, and what it leaves over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Response {
    /// µm stated per µm gone; negative if the network has the sides the wrong way round.
    pub scale: Value,
    /// What is stated in focus, µm.
    pub offset_um: Value,
    /// What frames are off the line by, depths of field where they are near and by the same rule less the farther: 1 is what is usual.
    pub residual: f64,
    /// Part of the frames beyond two depths of field that name the right side.
    pub right_side: f64,
    /// Frames that it was fitted to.
    pub frames: usize,
}

/// Frames that tell no line.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the network trusts {below} frames below focus and {above} above it, and a fit needs {LEAST} in all and {LEAST_OF_SIDE} on each side: \
     sweep farther on the side that lacks them, or use a model for this objective and stain"
)]
pub struct TooFewStated {
    below: usize,
    above: usize,
}

/// The line through what was stated; `depth_um` is the depth of field.
///
/// # Errors
/// If there are too few frames on a side of focus.
pub fn response(stated: &[Stated], depth_um: f64) -> Result<Response, TooFewStated> {
    let count = |side: f64| stated.iter().filter(|look| side * look.true_um > 0.0).count();
    let (below, above) = (count(-1.0), count(1.0));
    let few = TooFewStated { below, above };
    if below.min(above) < LEAST_OF_SIDE || stated.len() < LEAST {
        return Err(few);
    }
    let line = robust_line(stated, depth_um).ok_or(few)?;
    let without = |left_out: usize| {
        let mut others = stated.to_vec();
        others.remove(left_out);
        robust_line(&others, depth_um)
    };
    let others: Vec<[f64; 2]> = (0..stated.len()).map(without).collect::<Option<_>>().ok_or(few)?;
    let deviation = |part: usize| jackknife(&others.iter().map(|line| line[part]).collect::<Vec<_>>());
    let sided = || {
        let sided = stated
            .iter()
            .filter(|look| look.true_um.abs() >= SIDED_DEPTHS * depth_um);
        sided.map(|look| look.true_um * look.stated_um > 0.0)
    };
    let right = sided().filter(|&right| right).count();
    Ok(Response {
        scale: Value {
            value: line[0],
            stddev: deviation(0),
        },
        offset_um: Value {
            value: line[1],
            stddev: deviation(1),
        },
        residual: usual_miss(stated, line, depth_um),
        right_side: right as f64 / sided().count().max(1) as f64,
        frames: stated.len(),
    })
}

/// How far a frame is off a line, in what it may be off by.
fn miss(look: &Stated, [scale, offset_um]: [f64; 2], depth_um: f64) -> f64 {
    (look.stated_um - scale * look.true_um - offset_um) / error_um(look, depth_um)
}

fn error_um(look: &Stated, depth_um: f64) -> f64 {
    ERROR_DEPTHS * depth_um + ERROR_PART * look.true_um.abs()
}

/// Standard deviation of the misses by their median.
fn usual_miss(stated: &[Stated], line: [f64; 2], depth_um: f64) -> f64 {
    let misses = stated.iter().map(|look| miss(look, line, depth_um).abs());
    median(misses).unwrap_or(0.0) / MEDIAN_OF_NORMAL
}

/// Scale and offset by weighting and fitting in turn, from the line that leaves the least median of misses among lines through two frames.
fn robust_line(stated: &[Stated], depth_um: f64) -> Option<[f64; 2]> {
    let mut line = first_line(stated, depth_um)?;
    for _ in 0..ROUNDS {
        // A line that passes through most frames exactly would leave out all others.
        let usual = usual_miss(stated, line, depth_um).max(0.1);
        let weight = |look: &Stated| {
            let part = miss(look, line, depth_um) / (TUKEY * usual);
            (1.0 - part * part).max(0.0).powi(2) / error_um(look, depth_um).powi(2)
        };
        let weights: Vec<f64> = stated.iter().map(weight).collect();
        line = weighted_line(stated, &weights)?;
    }
    Some(line)
}

/// Through one frame below focus and one above, whichever pair leaves the least.
fn first_line(stated: &[Stated], depth_um: f64) -> Option<[f64; 2]> {
    // 12 of each side are pairs enough.
    let side = |side: f64| {
        let own: Vec<&Stated> = stated.iter().filter(|look| side * look.true_um > 0.0).collect();
        let step = own.len().div_ceil(12).max(1);
        own.into_iter().step_by(step).collect::<Vec<_>>()
    };
    let (below, above) = (side(-1.0), side(1.0));
    let pairs = below
        .iter()
        .flat_map(|low| above.iter().map(move |high| (low, high)));
    let lines = pairs.map(|(low, high)| {
        let scale = (high.stated_um - low.stated_um) / (high.true_um - low.true_um);
        [scale, low.stated_um - scale * low.true_um]
    });
    let rated = lines.map(|line| (usual_miss(stated, line, depth_um), line));
    let best = rated.min_by(|one, other| one.0.total_cmp(&other.0));
    best.map(|(_, line)| line)
}

fn weighted_line(stated: &[Stated], weights: &[f64]) -> Option<[f64; 2]> {
    let sum = |of: &dyn Fn(&Stated) -> f64| -> f64 {
        stated
            .iter()
            .zip(weights)
            .map(|(look, weight)| weight * of(look))
            .sum()
    };
    let (s0, s1, s2) = (
        sum(&|_| 1.0),
        sum(&|look| look.true_um),
        sum(&|look| look.true_um.powi(2)),
    );
    let (t0, t1) = (
        sum(&|look| look.stated_um),
        sum(&|look| look.true_um * look.stated_um),
    );
    let determinant = s0 * s2 - s1 * s1;
    (determinant > 1e-9 * s0 * s2).then(|| {
        [
            (s0 * t1 - s1 * t0) / determinant,
            (s2 * t0 - s1 * t1) / determinant,
        ]
    })
}

/// Aperture of the condenser by the frames' heights, and its standard deviation: what frames differ by, and how much the two sides of focus
/// contradict each other. None if no frame lies far enough from focus within `range_um`.
pub fn condenser_na(
    stated: &[Stated],
    law: &CondenserLaw,
    range_um: Option<[f64; 2]>,
    depth_um: f64,
) -> Option<Value> {
    let [least_um, most_um] = range_um.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
    let pairs: Vec<(f64, f64)> = stated
        .iter()
        .filter(|look| (least_um..=most_um).contains(&look.true_um))
        .map(|look| (look.stated_um, look.true_um))
        .collect();
    let of = |pairs: &[(f64, f64)]| law.measure(pairs.iter().copied(), SIDED_DEPTHS * depth_um);
    let value = of(&pairs)?;
    let without = |left_out: usize| {
        let mut others = pairs.clone();
        others.remove(left_out);
        of(&others)
    };
    let others: Vec<f64> = (0..pairs.len()).filter_map(without).collect();
    let side = |side: f64| -> Option<(f64, f64)> {
        let own: Vec<_> = pairs.iter().filter(|pair| side * pair.1 > 0.0).copied().collect();
        let exponent = law.exponents[usize::from(side < 0.0)];
        Some((of(&own)?, own.len() as f64 * exponent * exponent))
    };
    // Two values of these weights, of which each is as good as their difference.
    let apart = side(-1.0)
        .zip(side(1.0))
        .map_or(0.0, |((below, heavy), (above, light))| {
            let all = heavy + light;
            if all > 0.0 {
                (below - above).abs() * (heavy * light).sqrt() / all
            } else {
                0.0
            }
        });
    Some(Value {
        value,
        stddev: jackknife(&others).hypot(apart),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sim::slide::SiteRandom;

    const DEPTH_UM: f64 = 1.43;

    fn drawn(scale: f64, offset_um: f64, blunders: usize, seed: u64) -> Vec<Stated> {
        let mut random = SiteRandom::new(seed, 3);
        (-30..=30)
            .map(|at| {
                let true_um = f64::from(at);
                let error = random.range(-0.5, 0.5) * (0.4 + 0.1 * true_um.abs());
                let is_blunder = (at + 30) as usize % 10 == 3 && ((at + 30) as usize / 10) < blunders;
                let stated_um = if is_blunder {
                    -2.0 * true_um
                } else {
                    scale * true_um + offset_um + error
                };
                Stated { true_um, stated_um }
            })
            .collect()
    }

    #[test]
    fn the_line_that_was_drawn_is_found_whatever_a_few_frames_say() {
        for (scale, offset_um, blunders) in [(1.0, 0.0, 0), (0.8, 0.5, 4), (1.3, -0.4, 6), (-1.0, 0.2, 4)] {
            let found = response(&drawn(scale, offset_um, blunders, 5), DEPTH_UM).unwrap();
            assert!((found.scale.value - scale).abs() < 0.03, "{found:?}");
            assert!((found.offset_um.value - offset_um).abs() < 0.15, "{found:?}");
            assert!(
                found.scale.stddev < 0.03 && found.scale.stddev > 1e-4,
                "{found:?}"
            );
        }
        let upright = response(&drawn(1.0, 0.0, 0, 6), DEPTH_UM).unwrap();
        let reversed = response(&drawn(-1.0, 0.0, 0, 6), DEPTH_UM).unwrap();
        assert_eq!((upright.right_side, reversed.right_side), (1.0, 0.0));
    }

    #[test]
    fn the_deviation_is_what_the_scale_differs_by() {
        let found: Vec<_> = (0..50)
            .map(|seed| response(&drawn(1.0, 0.0, 0, seed), DEPTH_UM).unwrap().scale)
            .collect();
        let spread = (found.iter().map(|scale| (scale.value - 1.0).powi(2)).sum::<f64>() / 50.0).sqrt();
        let stated = found.iter().map(|scale| scale.stddev).sum::<f64>() / 50.0;
        assert!((0.6..1.6).contains(&(stated / spread)), "{stated} {spread}");
    }

    #[test]
    fn one_side_is_not_enough() {
        let above: Vec<_> = drawn(1.0, 0.0, 0, 1)
            .into_iter()
            .filter(|look| look.true_um > -2.5)
            .collect();
        let message = response(&above, DEPTH_UM).unwrap_err().to_string();
        assert!(message.contains("2 frames below focus and 30 above"), "{message}");
    }

    #[test]
    fn the_aperture_that_heights_were_stated_for_is_found() {
        let law = CondenserLaw {
            na: 0.4,
            exponents: [-0.171, -0.551],
        };
        for na in [0.33, 0.4, 0.46] {
            let stated: Vec<_> = drawn(1.0, 0.0, 0, 8)
                .into_iter()
                .map(|look| Stated {
                    true_um: look.stated_um * law.gain(na, look.stated_um),
                    ..look
                })
                .collect();
            let found = condenser_na(&stated, &law, None, DEPTH_UM).unwrap();
            assert!(
                (found.value - na).abs() < 0.03 && found.stddev < 0.03,
                "{na}: {found:?}"
            );
        }
        assert!(condenser_na(&drawn(1.0, 0.0, 0, 8)[29..32], &law, None, DEPTH_UM).is_none());
    }
}
