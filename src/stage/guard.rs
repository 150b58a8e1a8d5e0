//! What holds for every motion controller, whatever it speaks: which commands are taken, where the stage may go and how fast, and whether
//! its position counts.
//!
//! A host asks its guard before it sends anything ([`Guard::check_velocity`], [`Guard::check_move`], [`Guard::check_reference`]) and after
//! every report ([`Guard::violation`]), and tells it what it learns of the position ([`Guard::vouch`], [`Guard::distrust`], [`Guard::lose`],
//! [`Guard::recall`]). The guard knows no protocol and sends nothing.
//!
//! * **A command** has to be finite, plausible, fresh and not of the future, to lead nowhere outside the limits of x, y and z, and is cut to
//!   the speed that is permitted there. Towards the lower limit of z the stage is so slow that a controller which does something else than
//!   it was told is stopped before it gets far.
//! * **A stop** holds against the stream of velocities that it met, until that has been silent for half a second or [`Guard::release`] is
//!   called. A zero does not release it: it may come from another commander.
//! * **A position** counts after homing, after an operator's word, or by an unbroken history of reports since. Without one the stage moves up
//!   only: slowly, by a move of at most [`BLIND_UM`].

use std::time::Duration;

use super::host::StageConfig;
use super::memory::Remembered;
use super::status::Refusal;
use crate::range::within;
use crate::units::{CLOCK_SKEW, Instant};

/// Fastest command that is believed at all, µm/s.
const PLAUSIBLE_UM_PER_S: f64 = 1e6;
/// Farthest place or longest move that is believed at all, µm.
const PLAUSIBLE_UM: f64 = 1e6;
/// Silence of a commander after which a stop no longer holds against it: longer than any late message.
const RELEASE: Duration = Duration::from_millis(500);
/// Margin kept from the limits for the rounding of reported positions, µm.
const LIMIT_MARGIN_UM: f64 = 1.0;
/// Rounding of a reported position, µm.
const ROUNDING_UM: f64 = 0.6;
/// Height above the lower limit below which the first contradiction counts and reports come faster, µm.
const NEAR_UM: f64 = 50.0;
/// Time in which a contradiction near the limit is seen and the motion ended, s: a period of reports, the answer, the reset.
const DETECTION_S: f64 = 0.25;
/// Speed that is always permitted, µm/s.
const CRAWL_UM_PER_S: f64 = 30.0;
/// Longest move of a stage whose height is not known, µm.
pub const BLIND_UM: f64 = 500.0;
/// Greatest speed of that move, µm/s.
pub const BLIND_UM_PER_S: f64 = 100.0;
/// Names of the axes in sentences.
pub(crate) const NAMES: [char; 3] = ['x', 'y', 'z'];
/// What to do about a position that is not valid.
const REMEDY: &str =
    "the position is not known: call ~/home, or ~/accept_position with where the stage stands";

/// Settings that no stage can be driven with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("stage: {0}")]
pub struct StageConfigError(String);

impl StageConfig {
    /// Refuses values that are out of range or contradict each other.
    ///
    /// # Errors
    /// A sentence naming the value and its range.
    pub fn check(&self) -> Result<(), StageConfigError> {
        within("command_timeout_ms", self.command_timeout_ms as f64, 20.0, 1000.0)
            .map_err(|error| StageConfigError(error.to_string()))?;
        for (name, value) in [
            ("max_um_per_s", self.max_um_per_s),
            ("max_down_um_per_s", self.max_down_um_per_s),
        ] {
            // Written so that NaN is refused too.
            if !(value > 0.0 && value <= PLAUSIBLE_UM_PER_S) {
                return Err(StageConfigError(format!(
                    "{name} is {value}, but must be above 0, at most 1e6 µm/s"
                )));
            }
        }
        for (name, (low, high)) in NAMES.into_iter().zip(self.ranges_um()) {
            let is_plausible = low.abs() <= PLAUSIBLE_UM && high.abs() <= PLAUSIBLE_UM;
            if !(is_plausible && high - low > 2.0 * LIMIT_MARGIN_UM) {
                return Err(StageConfigError(format!(
                    "{name}_min {low} µm and {name}_max {high} µm must be within ±1e6 µm of the controller's zero, the first at least 2 µm lower"
                )));
            }
        }
        Ok(())
    }

    /// Permitted positions of x, y and z, µm.
    pub fn ranges_um(&self) -> [(f64, f64); 3] {
        [self.x_range_um, self.y_range_um, self.z_range_um]
    }
}

/// The speeds along z that a controller is capable of just now, µm/s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The slowest that is a motion.
    pub slowest_um_per_s: f64,
    /// The fastest from which it stops in time.
    pub fastest_um_per_s: f64,
}

/// What is known of a controller at the first contact of a process, beside where it says it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// What the controller counts, x, y, z, µm; `None` while it has not told.
    pub machine_um: Option<[f64; 3]>,
    /// The mark in its volatile memory.
    pub mark: Option<u32>,
    /// Whether an alarm locks it.
    pub is_locked: bool,
    /// By how much two reports of one place may differ, µm.
    pub tolerance_um: f64,
}

/// What a record of an earlier process is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recalled {
    /// Stage coordinates less the controller's, µm, if the record tells.
    pub offset_um: Option<[f64; 3]>,
    /// The mark that the controller carries.
    pub mark: Option<u32>,
}

/// The guard of one stage. By default one of a stage with the usual limits, of which nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    config: StageConfig,
    /// A stop holds against the stream of velocities that it interrupted.
    is_held: bool,
    /// When a velocity was asked for last, obeyed or not.
    heard_at: Instant,
    refused: u64,
    /// Whether x, y, z are vouched for.
    valid: [bool; 3],
    /// Whether what the controller counts is known to have nothing to do with where the stage is.
    is_broken: bool,
    /// Why the position is not valid, one sentence.
    doubt: String,
}

impl Guard {
    /// The guard of a stage of which nothing is known.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn new(config: StageConfig) -> Result<Self, StageConfigError> {
        config.check()?;
        Ok(Self {
            config,
            ..Self::default()
        })
    }

    /// The settings.
    pub fn config(&self) -> &StageConfig {
        &self.config
    }

    /// Commands refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// Commands.
impl Guard {
    /// A velocity along z was asked for, µm/s, decided at `stamp`; the velocity that is permitted. `ready` says whether the controller could
    /// execute it.
    ///
    /// # Errors
    /// Why nothing will happen: not finite, implausible, too slow, stale, from the future, no controller that may move, stopped, or a
    /// position that is not valid.
    pub fn check_velocity(
        &mut self,
        z_um_per_s: f64,
        stamp: Instant,
        now: Instant,
        ready: Result<(), Refusal>,
        pace: Pace,
    ) -> Result<f64, Refusal> {
        if now.since(self.heard_at) > RELEASE {
            self.is_held = false;
        }
        self.heard_at = now;
        let checked = self.judge_velocity(z_um_per_s, stamp, now, ready, pace);
        self.count(checked)
    }

    /// A height was asked for, µm, to be driven to at a speed, µm/s, decided at `stamp`, by a stage whose queue ends at `from_um`; the velocity
    /// that is permitted. It is a velocity in every respect, and beyond that has to end within the limits.
    ///
    /// # Errors
    /// Those of [`Self::check_velocity`], and a height beyond the limits.
    pub fn check_target(
        &mut self,
        (from_um, to_um): (f64, f64),
        um_per_s: f64,
        stamp: Instant,
        now: Instant,
        ready: Result<(), Refusal>,
        pace: Pace,
    ) -> Result<f64, Refusal> {
        let by_um = to_um - from_um;
        let velocity = self.check_velocity(um_per_s.abs().copysign(by_um), stamp, now, ready, pace)?;
        let within = if by_um.is_finite() {
            self.check_axis(2, from_um, by_um)
        } else {
            Err(Refusal::NotFinite)
        };
        self.count(within)?;
        Ok(velocity)
    }

    fn judge_velocity(
        &self,
        z_um_per_s: f64,
        stamp: Instant,
        now: Instant,
        ready: Result<(), Refusal>,
        pace: Pace,
    ) -> Result<f64, Refusal> {
        if !z_um_per_s.is_finite() {
            return Err(Refusal::NotFinite);
        }
        if z_um_per_s.abs() > PLAUSIBLE_UM_PER_S {
            return Err(Refusal::Implausible {
                value: z_um_per_s,
                unit: "µm/s",
            });
        }
        if z_um_per_s != 0.0 && z_um_per_s.abs() < pace.slowest_um_per_s {
            return Err(Refusal::TooSlow {
                um_per_s: z_um_per_s,
                least_um_per_s: pace.slowest_um_per_s,
            });
        }
        self.check_time(stamp, now)?;
        if z_um_per_s != 0.0 {
            ready?;
            if self.is_held {
                return Err(Refusal::Stopped);
            }
            if !self.valid[2] {
                return Err(Refusal::Unvouched { most_um: BLIND_UM });
            }
        }
        let up = self.config.max_um_per_s.min(pace.fastest_um_per_s);
        Ok(z_um_per_s.clamp(-up.min(self.config.max_down_um_per_s), up))
    }

    fn check_time(&self, stamp: Instant, now: Instant) -> Result<(), Refusal> {
        let age = now.since(stamp);
        if age > self.command_timeout() {
            return Err(Refusal::Stale {
                age_ms: age.as_millis(),
                limit_ms: self.config.command_timeout_ms.into(),
            });
        }
        let ahead = stamp.since(now);
        if ahead > CLOCK_SKEW {
            return Err(Refusal::Future {
                ahead_ms: ahead.as_millis(),
            });
        }
        Ok(())
    }

    /// Age at which a velocity no longer holds.
    pub fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.config.command_timeout_ms)
    }

    /// A move by x, y, z, µm, was asked for at a speed along the path, µm/s, of a stage that stands at `from_um`; the speed that is
    /// permitted.
    ///
    /// # Errors
    /// Why nothing will happen.
    pub fn check_move(
        &mut self,
        from_um: [f64; 3],
        by_um: [f64; 3],
        um_per_s: f64,
        ready: Result<(), Refusal>,
    ) -> Result<f64, Refusal> {
        let checked = self.judge_move(from_um, by_um, um_per_s, ready);
        self.count(checked)
    }

    fn judge_move(
        &self,
        from_um: [f64; 3],
        by_um: [f64; 3],
        um_per_s: f64,
        ready: Result<(), Refusal>,
    ) -> Result<f64, Refusal> {
        if !um_per_s.is_finite() {
            return Err(Refusal::NotFinite);
        }
        if um_per_s <= 0.0 || um_per_s > PLAUSIBLE_UM_PER_S {
            return Err(Refusal::Implausible {
                value: um_per_s,
                unit: "µm/s",
            });
        }
        ready?;
        self.check_reach(from_um, by_um)?;
        let z_um = by_um[2];
        if z_um == 0.0 {
            return Ok(um_per_s);
        }
        let length_um = by_um.iter().map(|um| um * um).sum::<f64>().sqrt();
        Ok(um_per_s.min(self.speed_of_move(from_um[2], z_um) * length_um / z_um.abs()))
    }

    fn count<T>(&mut self, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        self.refused += u64::from(outcome.is_err());
        outcome
    }

    /// Whether somewhere a stage may be said to stand, x, y, z, µm.
    ///
    /// # Errors
    /// Not finite, implausible, or no controller that stands.
    pub fn check_reference(&self, um: [Option<f64>; 3], ready: Result<(), Refusal>) -> Result<(), Refusal> {
        if um.iter().flatten().any(|um| !um.is_finite()) {
            return Err(Refusal::NotFinite);
        }
        if let Some(value) = um.iter().flatten().copied().find(|um| um.abs() > PLAUSIBLE_UM) {
            return Err(Refusal::Implausible { value, unit: "µm" });
        }
        ready
    }

    /// The stage is stopped: holds against the velocities that go on.
    pub fn stop(&mut self, now: Instant) {
        self.is_held = true;
        self.heard_at = now;
    }

    /// A stop no longer holds.
    pub fn release(&mut self) {
        self.is_held = false;
    }
}

/// Limits.
impl Guard {
    /// Permitted targets of an axis, µm in stage coordinates.
    pub fn targets_um(&self, axis: usize) -> (f64, f64) {
        let (low_um, high_um) = self.config.ranges_um()[axis];
        (low_um + LIMIT_MARGIN_UM, high_um - LIMIT_MARGIN_UM)
    }

    /// Whether a stage that stands at `from_um` may be moved by `by_um`; x, y, z.
    ///
    /// # Errors
    /// Not finite, implausible, beyond the limits, or along an axis whose position is not known.
    pub fn check_reach(&self, from_um: [f64; 3], by_um: [f64; 3]) -> Result<(), Refusal> {
        if by_um.iter().any(|um| !um.is_finite()) {
            return Err(Refusal::NotFinite);
        }
        if let Some(value) = by_um.iter().copied().find(|um| um.abs() > PLAUSIBLE_UM) {
            return Err(Refusal::Implausible { value, unit: "µm" });
        }
        if !self.valid[2] {
            let is_straight_up = by_um[0] == 0.0 && by_um[1] == 0.0 && (0.0..=BLIND_UM).contains(&by_um[2]);
            return if is_straight_up {
                Ok(())
            } else {
                Err(Refusal::Unvouched { most_um: BLIND_UM })
            };
        }
        for axis in 0..3 {
            self.check_axis(axis, from_um[axis], by_um[axis])?;
        }
        Ok(())
    }

    fn check_axis(&self, axis: usize, from_um: f64, by_um: f64) -> Result<(), Refusal> {
        if by_um == 0.0 {
            return Ok(());
        }
        if !self.valid[axis] {
            return Err(Refusal::UnvouchedXy);
        }
        let target_um = from_um + by_um;
        let (low_um, high_um) = self.targets_um(axis);
        // Back from beyond a limit is always permitted. Written so that NaN is refused.
        let is_inside = (by_um < 0.0 || target_um <= high_um) && (by_um > 0.0 || target_um >= low_um);
        if is_inside {
            return Ok(());
        }
        Err(Refusal::OutOfRange {
            axis: NAMES[axis],
            target_um,
            low_um,
            high_um,
        })
    }

    /// Greatest speed along z at a height, µm/s.
    pub fn speed_at(&self, z_um: f64) -> f64 {
        ((z_um - self.config.z_range_um.0) / DETECTION_S).max(CRAWL_UM_PER_S)
    }

    /// Greatest speed along z of a move from a height by so much, µm; µm/s.
    pub fn speed_of_move(&self, from_um: f64, by_um: f64) -> f64 {
        if !self.valid[2] {
            return BLIND_UM_PER_S;
        }
        let limit = if by_um < 0.0 {
            self.config.max_down_um_per_s.min(self.speed_at(from_um + by_um))
        } else {
            f64::INFINITY
        };
        limit.min(self.config.max_um_per_s)
    }

    /// Whether the lower limit of z is so near that the first contradiction ends a motion.
    pub fn is_near_limit(&self, z_um: f64) -> bool {
        z_um < self.config.z_range_um.0 + NEAR_UM
    }

    /// Why a reported height ends a motion at once, if it does: beyond a limit that it was not beyond when the motion began, at `from_um`;
    /// or lower than it began, of a stage whose height is not known. `slack_um` is what reports of one place may differ by.
    pub fn violation(&self, from_um: f64, z_um: f64, slack_um: f64) -> Option<String> {
        let (fell, rose) = (z_um < from_um - slack_um, z_um > from_um + slack_um);
        let (low_um, high_um) = self.config.z_range_um;
        match self.valid[2] {
            false if fell => Some("the lens went down while it was sent up".to_owned()),
            true if fell && z_um < low_um - ROUNDING_UM => Some(format!(
                "the controller reports z = {z_um:.0} µm, below the limit of {low_um:.0} µm"
            )),
            true if rose && z_um > high_um + ROUNDING_UM => Some(format!(
                "the controller reports z = {z_um:.0} µm, above the limit of {high_um:.0} µm"
            )),
            _ => None,
        }
    }
}

/// The position.
impl Guard {
    /// Whether x, y, z are vouched for.
    pub fn valid(&self) -> [bool; 3] {
        self.valid
    }

    /// Whether the height is vouched for.
    pub fn knows_height(&self) -> bool {
        self.valid[2]
    }

    /// Whether any axis is vouched for.
    pub fn knows_any(&self) -> bool {
        self.valid.contains(&true)
    }

    /// Whether what the controller counts may be offered to an operator as where the stage stands.
    pub fn is_offered(&self) -> bool {
        !self.is_broken
    }

    /// Why the position is not valid, one sentence; empty if it is.
    pub fn doubt(&self) -> &str {
        &self.doubt
    }

    /// The controller does not tell where it is, for the reason given as a sentence.
    pub fn set_doubt(&mut self, why: &str) {
        self.doubt = why.to_owned();
    }

    /// The position is no longer vouched for; what the controller counts may still be right.
    pub fn distrust(&mut self, why: &str) {
        self.valid = [false; 3];
        self.doubt = format!("{why}; {REMEDY}");
    }

    /// The count itself is worth nothing from here on.
    pub fn lose(&mut self, why: &str) {
        self.distrust(why);
        self.is_broken = true;
    }

    /// The count is not offered any more, and was not vouched for before.
    pub fn withdraw(&mut self) {
        self.is_broken = true;
    }

    /// These axes are vouched for from now on: they were homed, or an operator said where they stand.
    pub fn vouch(&mut self, axes: [bool; 3]) {
        for (valid, vouched) in self.valid.iter_mut().zip(axes) {
            *valid |= vouched;
        }
        if self.valid[2] {
            self.doubt.clear();
            self.is_broken = false;
        }
    }

    /// First contact of this process: what an earlier one wrote down counts if the stage stood still then, the controller counts the same
    /// place, and it still carries the mark of that process, which every reset erases.
    pub fn recall(&mut self, memory: Option<Remembered>, evidence: Evidence) -> Recalled {
        let Some(machine_um) = evidence.machine_um else {
            self.distrust("the controller has not told where it is");
            return Recalled::default();
        };
        let Some(memory) = memory.filter(Remembered::is_sane) else {
            self.distrust("this controller has not been driven from here before");
            return Recalled::default();
        };
        let is_marked = memory
            .mark
            .is_some_and(|mark| evidence.mark == Some(mark) && mark != 0);
        let is_same_place = machine_um
            .iter()
            .zip(memory.machine_um)
            .all(|(now, then)| (now - then).abs() <= evidence.tolerance_um);
        let offset_um = Some(memory.offset_um);
        if evidence.is_locked {
            self.lose("the controller is locked by an alarm");
        } else if memory.clean && is_same_place && (is_marked || memory.mark.is_none()) {
            self.valid = memory.valid;
            return Recalled {
                offset_um,
                mark: memory.mark,
            };
        } else if is_marked {
            self.distrust("the stage was moving when this bridge last drove it");
            return Recalled {
                offset_um,
                mark: None,
            };
        } else {
            self.lose(
                "the controller may have been reset, or moved, since this bridge last knew where it stood",
            );
        }
        Recalled::default()
    }
}

#[cfg(test)]
mod explored;
#[cfg(test)]
mod tests;
