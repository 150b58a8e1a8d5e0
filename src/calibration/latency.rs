//! How late the stamps of frames are against the stage's word of where it was.
//!
//! A frame that was exposed while the lens moved shows a defocus; the stage says where it was at the frame's stamp. If the stamp is late, the stage
//! was farther on by then than when the light fell, the more the faster it went: what the network states lags behind by the speed times the time.
//! A drive with play lags behind as well, upwards, but by the same way at any speed. So passes up and down at two speeds tell both (least
//! squares for scale, focus, play and time).

use nalgebra::{DMatrix, DVector};

use super::card::Value;

/// Estimates farther from focus than this, depths of field, say too little of their differences.
const NEAR_DEPTHS: f64 = 8.0;
/// Frames that are needed, and in each direction.
const LEAST_FRAMES: usize = 12;
const LEAST_IN_A_DIRECTION: usize = 4;
/// Frames farther from the fit than so many standard deviations are left out, once.
const APART: f64 = 3.0;
/// Numbers that are fitted: scale, focus, play, time.
const UNKNOWNS: usize = 4;

/// A frame of a moving lens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passing {
    /// Where the stage was at the frame's stamp, µm, up.
    pub z_um: f64,
    /// How fast it went then, µm/s.
    pub um_per_s: f64,
    /// Defocus that the network states, µm.
    pub estimate_um: f64,
}

/// What frames of a moving lens tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// By how much stamps are late, s; negative: early.
    pub seconds: Value,
    /// Play of the drive by the same fit, µm.
    pub play_um: Value,
    /// Frames that took part.
    pub frames: usize,
}

/// Why frames of a moving lens tell nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoLatency {
    /// Too few.
    #[error(
        "only {up} frames on the way up and {down} on the way down are trusted near focus, and {LEAST_FRAMES} are needed: a slower camera needs more passes, \
         and a specimen has to be in view"
    )]
    Few {
        /// Upwards.
        up: usize,
        /// Downwards.
        down: usize,
    },
    /// All at one speed.
    #[error("the frames do not tell play and time apart: the stage did not go at two speeds")]
    Undetermined,
}

/// The time by which stamps are late, by frames of a moving lens; `depth_um` is the depth of field.
///
/// # Errors
/// If there are too few frames, or they do not tell it from play.
pub fn latency(frames: &[Passing], depth_um: f64) -> Result<Latency, NoLatency> {
    let is_near =
        |frame: &&Passing| frame.um_per_s != 0.0 && frame.estimate_um.abs() <= NEAR_DEPTHS * depth_um;
    let mut used: Vec<Passing> = frames.iter().filter(is_near).copied().collect();
    check_enough(&used)?;
    let first = fit(&used).ok_or(NoLatency::Undetermined)?;
    let limit_um = APART * first.residual_um;
    used.retain(|frame| first.miss_um(frame).abs() <= limit_um);
    check_enough(&used)?;
    let fit = fit(&used).ok_or(NoLatency::Undetermined)?;
    let [scale, _, play, time] = fit.found;
    // What was fitted is the scale times the play, and times the time.
    let by_scale = |at: usize, value: f64| Value {
        value: value / scale,
        stddev: fit.stddev[at] / scale.abs(),
    };
    Ok(Latency {
        seconds: by_scale(3, time),
        play_um: by_scale(2, play),
        frames: used.len(),
    })
}

fn check_enough(frames: &[Passing]) -> Result<(), NoLatency> {
    let up = frames.iter().filter(|frame| frame.um_per_s > 0.0).count();
    let down = frames.len() - up;
    if frames.len() < LEAST_FRAMES || up.min(down) < LEAST_IN_A_DIRECTION {
        return Err(NoLatency::Few { up, down });
    }
    Ok(())
}

struct Fit {
    found: [f64; UNKNOWNS],
    stddev: [f64; UNKNOWNS],
    residual_um: f64,
    middle_um: f64,
}

impl Fit {
    fn miss_um(&self, frame: &Passing) -> f64 {
        let row = row(frame, self.middle_um);
        let stated: f64 = row.iter().zip(self.found).map(|(by, found)| by * found).sum();
        frame.estimate_um - stated
    }
}

/// What each unknown does to the estimate of a frame: estimate = scale (z - focus) - scale play (upwards) - scale time speed.
fn row(frame: &Passing, middle_um: f64) -> [f64; UNKNOWNS] {
    let is_up = f64::from(u8::from(frame.um_per_s > 0.0));
    [frame.z_um - middle_um, 1.0, -is_up, -frame.um_per_s]
}

fn fit(frames: &[Passing]) -> Option<Fit> {
    let middle_um = frames.iter().map(|frame| frame.z_um).sum::<f64>() / frames.len() as f64;
    let rows = DMatrix::from_row_iterator(
        frames.len(),
        UNKNOWNS,
        frames.iter().flat_map(|frame| row(frame, middle_um)),
    );
    let stated = DVector::from_iterator(frames.len(), frames.iter().map(|frame| frame.estimate_um));
    let normal = rows.transpose() * &rows;
    let inverse = normal.clone().cholesky()?.inverse();
    // Two speeds that are almost one leave play and time to chance.
    let is_known = (0..UNKNOWNS).all(|at| inverse[(at, at)] * normal[(at, at)] < 1e4);
    let found = &inverse * rows.transpose() * &stated;
    let misses = (stated - rows * &found).norm_squared();
    let variance = misses / frames.len().saturating_sub(UNKNOWNS).max(1) as f64;
    is_known.then(|| Fit {
        found: std::array::from_fn(|at| found[at]),
        stddev: std::array::from_fn(|at| (variance * inverse[(at, at)]).sqrt()),
        residual_um: variance.sqrt(),
        middle_um,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sim::slide::SiteRandom;

    const DEPTH_UM: f64 = 1.43;

    /// Frames of a lens that goes up and down past focus at 41 µm, four times, at these speeds; their stamps are late.
    fn frames(late_s: f64, play_um: f64, speeds: [f64; 2]) -> Vec<Passing> {
        let mut random = SiteRandom::new(3, 9);
        let mut frames = Vec::new();
        for pass in 0..8 {
            let um_per_s = speeds[pass / 2 % 2] * if pass % 2 == 0 { 1.0 } else { -1.0 };
            for _ in 0..8 {
                let z_um = random.range(31.0, 51.0);
                let lens_um = z_um - late_s * um_per_s - if um_per_s > 0.0 { play_um } else { 0.0 };
                frames.push(Passing {
                    z_um,
                    um_per_s,
                    estimate_um: 1.05 * (lens_um - 41.0) + random.range(-0.3, 0.3),
                });
            }
        }
        frames
    }

    #[test]
    fn late_stamps_are_told_from_play() {
        for (late_s, play_um) in [(0.0, 0.0), (0.0, 3.0), (0.03, 0.0), (0.03, 3.0), (-0.01, 2.0)] {
            let found = latency(&frames(late_s, play_um, [25.0, 100.0]), DEPTH_UM).unwrap();
            let off_s = (found.seconds.value - late_s).abs();
            assert!(
                off_s < 0.002 && off_s < 3.0 * found.seconds.stddev + 1e-4,
                "{late_s} {play_um}: {found:?}"
            );
            assert!(
                (found.play_um.value - play_um).abs() < 0.2,
                "{late_s} {play_um}: {found:?}"
            );
            assert!(found.seconds.stddev < 0.002, "{found:?}");
        }
    }

    #[test]
    fn a_frame_that_says_something_else_changes_nothing() {
        let mut seen = frames(0.02, 1.0, [25.0, 100.0]);
        for at in [5, 23, 40] {
            seen[at].estimate_um += 6.0;
        }
        let found = latency(&seen, DEPTH_UM).unwrap();
        assert!((found.seconds.value - 0.02).abs() < 0.002, "{found:?}");
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        let one = frames(0.02, 1.0, [50.0, 50.0]);
        assert_eq!(latency(&one, DEPTH_UM), Err(NoLatency::Undetermined));
        let up: Vec<_> = frames(0.02, 1.0, [25.0, 100.0])
            .into_iter()
            .filter(|frame| frame.um_per_s > 0.0)
            .collect();
        let message = latency(&up, DEPTH_UM).unwrap_err().to_string();
        assert!(message.contains("0 on the way down"), "{message}");
        assert!(matches!(
            latency(&[], DEPTH_UM),
            Err(NoLatency::Few { up: 0, down: 0 })
        ));
    }
}
