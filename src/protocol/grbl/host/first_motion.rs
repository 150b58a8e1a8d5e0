//! The first motion after each start: short, upwards, and compared with what the controller reports of it.
//!
//! A controller whose settings were changed, whose motor was reversed or that counts inches would otherwise show it on the way
//! to the slide. Two steps find it out: one of 2 µm, in which a reversed axis costs 2 µm, and one of 5 µm, long enough that a
//! scale wrong by half shows in reports that are rounded to 1 µm.

use super::limits::likely_cause;
use super::trust::REPORT_TOLERANCE_UM;
use super::{GrblHost, Manoeuvre};
use crate::protocol::grbl::command::{Distance, Feed, Line, Mode};
use crate::stage::guard::BLIND_UM_PER_S;
use crate::units::Instant;

/// The steps, µm.
const STEPS_UM: [f64; 2] = [2.0, 5.0];
/// A rest of a move that is none: half of what the wire can say, µm.
const NOTHING_UM: f64 = 0.05;

/// How far the check has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum FirstMotion {
    /// Nothing has moved yet.
    #[default]
    Due,
    /// This step is under way, from this reported height by this much, µm.
    Step { number: usize, from_um: f64, by_um: f64 },
    /// The controller does as it is told.
    Right,
}

/// What was asked for and follows the check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Onward {
    /// The velocity in force.
    Velocity,
    /// A move by x, y, z, µm, at a speed, µm/s.
    Move { by_um: [f64; 3], um_per_s: f64 },
}

impl GrblHost {
    pub(super) fn is_checking(&self) -> bool {
        matches!(self.first_motion, FirstMotion::Step { .. })
    }

    /// Begins the check, which `onward` follows.
    pub(super) fn begin_first_motion(&mut self, onward: Onward, now: Instant) {
        self.onward = Some(onward);
        self.checked_um = 0.0;
        self.check_step(0, now);
    }

    fn check_step(&mut self, number: usize, now: Instant) {
        let Some(from_um) = self.reported_z_um() else {
            return;
        };
        let by_um = self.step_um(number);
        let permitted = self.guard.speed_of_move(self.position.target_um, by_um);
        let (wanted_um_per_s, onward) = (self.wanted_um_per_s, self.onward);
        self.first_motion = FirstMotion::Step {
            number,
            from_um,
            by_um,
        };
        self.start_move(
            &Line {
                mode: Mode::Relative,
                axes: [None, None, Distance::from_um(by_um)],
                feed: Feed::from_um_per_s(BLIND_UM_PER_S.min(permitted)),
            },
            now,
        );
        (self.wanted_um_per_s, self.onward) = (wanted_um_per_s, onward);
    }

    /// Length of a step, µm: up, unless that leads out of the range and down does not; not past the end of a short move up.
    fn step_um(&self, number: usize) -> f64 {
        let length_um = STEPS_UM[number].max(3.0 * self.firmware.z_step_um());
        let rest_um = self
            .rest_of_move_um()
            .filter(|um| *um > 0.0)
            .unwrap_or(f64::INFINITY);
        let (low_um, high_um) = self.guard.targets_um(2);
        let target_um = self.position.target_um;
        let has_room = !self.guard.knows_height() || target_um + length_um <= high_um;
        if has_room || target_um - length_um < low_um {
            length_um.min(rest_um)
        } else {
            -length_um
        }
    }

    /// What is left of a move along z that waits for the check, µm.
    fn rest_of_move_um(&self) -> Option<f64> {
        match self.onward? {
            Onward::Move { by_um, .. } => Some(by_um[2] - self.checked_um),
            Onward::Velocity => None,
        }
    }

    fn reported_z_um(&self) -> Option<f64> {
        let machine_um = self.position.machine_um?;
        Some(machine_um[2] + self.position.offset_um[2])
    }

    /// The stage has come to rest: judges the step that ended there, if one did. True if that led to further motion or a fault.
    pub(super) fn finish_step(&mut self, now: Instant) -> bool {
        let FirstMotion::Step {
            number,
            from_um,
            by_um,
        } = self.first_motion
        else {
            return false;
        };
        self.first_motion = FirstMotion::Due;
        let went_um = self.reported_z_um().map_or(f64::NAN, |z_um| z_um - from_um);
        // Written so that NaN is wrong.
        let is_right = (went_um - by_um).abs() <= REPORT_TOLERANCE_UM + self.firmware.z_step_um();
        if !is_right {
            self.onward = None;
            let cause = likely_cause(by_um, went_um);
            self.halt_in_fault(
                &format!(
                    "the first motion was wrong: told to go {by_um:+.1} µm the stage went {went_um:+.1} µm{cause}; the position is lost"
                ),
                now,
            );
            return true;
        }
        self.checked_um += by_um;
        let is_over = self.onward.is_none() || self.rest_of_move_um().is_some_and(|um| um.abs() < NOTHING_UM);
        if number + 1 < STEPS_UM.len() && !is_over {
            self.check_step(number + 1, now);
            return true;
        }
        if number + 1 == STEPS_UM.len() && by_um.abs() >= STEPS_UM[number] {
            self.first_motion = FirstMotion::Right;
        }
        self.go_on(now)
    }

    /// Does what was asked for before the check, less what the check has done of it already.
    fn go_on(&mut self, now: Instant) -> bool {
        let rest_um = self.rest_of_move_um();
        let Some(Onward::Move {
            by_um: [x, y, _],
            um_per_s,
        }) = self.onward.take()
        else {
            return false;
        };
        let rest_um = rest_um.filter(|um| um.abs() >= NOTHING_UM).unwrap_or(0.0);
        match self.check_move([x, y, rest_um], um_per_s) {
            Ok(line) => self.start_move(&line, now),
            Err(refusal) => self.reason = refusal.to_string(),
        }
        self.manoeuvre != Manoeuvre::Rest
    }
}
