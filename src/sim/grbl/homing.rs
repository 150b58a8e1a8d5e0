//! `$H`: finding the limit switches, as `limits_go_home` of gnea/grbl 1.1h does.
//!
//! First z, then x and y together: a fast approach (`$25`) of at most 1.5 times the travel, a pause (`$26`), a way off by
//! `$27`, a slow approach (`$24`) of at most five times that, and off again. Switches are sought upwards unless `$23` says
//! otherwise, and stop an axis dead. Afterwards the controller counts from there: `$27` in front of the switch, which is
//! machine zero, or the far end of the travel with `$23`.
//!
//! The controller does nothing else meanwhile, so all of the motion is committed when the command is executed; a reset
//! cuts it off. Reports are not sent before the end.

use std::time::Duration;

use super::{Emulator, Job};
use crate::protocol::grbl::command::ErrorCode;
use crate::protocol::grbl::reply::{AlarmCode, MachineState, Reply};
use crate::sim::grbl::planner::Planner;
use crate::units::Instant;

/// Axes homed together, in order (`HOMING_CYCLE_0`, `HOMING_CYCLE_1`).
const CYCLES: [&[usize]; 2] = [&[2], &[0, 1]];
/// How much farther than the travel a switch is sought.
const SEARCH_SCALE: f64 = 1.5;
/// How much farther than the way off it is sought again.
const LOCATE_SCALE: f64 = 5.0;
/// The switch still was pressed after the way off.
const STILL_PRESSED: AlarmCode = AlarmCode(8);
/// No switch within the way searched.
const NOT_FOUND: AlarmCode = AlarmCode(9);

/// Towards the switch or off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Approach,
    Off,
}

/// A leg of the cycle: which way, how far at most, how fast.
struct Plan {
    leg: Leg,
    mm: f64,
    mm_per_s: f64,
}

impl Emulator {
    pub(super) fn home(&mut self) -> Result<bool, ErrorCode> {
        if self.setting(22) == 0.0 {
            return Err(ErrorCode::NO_HOMING);
        }
        self.standing()?;
        let mut at = self.time;
        let mut outcome = Ok(());
        for cycle in CYCLES {
            outcome = outcome.and_then(|()| self.home_together(cycle, &mut at));
        }
        self.state = MachineState::Home;
        self.job = Some((Some(at), Job::Homing(outcome)));
        Ok(false)
    }

    /// Commits the homing of some axes from `at` on, which becomes its end.
    fn home_together(&mut self, cycle: &[usize], at: &mut Instant) -> Result<(), AlarmCode> {
        let travel_mm = cycle
            .iter()
            .map(|axis| self.setting(130 + *axis as u8))
            .fold(0.0, f64::max);
        let off_mm = self.setting(27);
        let (seek, feed) = (self.setting(25) / 60.0, self.setting(24) / 60.0);
        let plan = |leg, mm, mm_per_s| Plan { leg, mm, mm_per_s };
        for plan in [
            plan(Leg::Approach, SEARCH_SCALE * travel_mm, seek),
            plan(Leg::Off, off_mm, seek),
            plan(Leg::Approach, LOCATE_SCALE * off_mm, feed),
            plan(Leg::Off, off_mm, seek),
        ] {
            let found = self.home_leg(cycle, &plan, at);
            match plan.leg {
                Leg::Approach if !found => return Err(NOT_FOUND),
                Leg::Off if cycle.iter().any(|axis| self.is_limit_active(*axis, *at)) => {
                    return Err(STILL_PRESSED);
                }
                Leg::Approach | Leg::Off => {}
            }
            *at = *at + Duration::from_millis(self.setting(26) as u64);
        }
        Ok(())
    }

    /// Commits one leg; whether every axis has met its switch.
    fn home_leg(&mut self, cycle: &[usize], plan: &Plan, at: &mut Instant) -> bool {
        let mut moving: Vec<usize> = cycle
            .iter()
            .copied()
            .filter(|axis| plan.leg == Leg::Off || !self.is_limit_active(*axis, *at))
            .collect();
        let from_um: [f64; 3] = std::array::from_fn(|axis| self.axes[axis].motor().end_um());
        let mut target_mm = [0.0; 3];
        for axis in cycle {
            let downwards = self.setting(23) as u32 >> axis & 1 == 1;
            let towards_um = if downwards { -plan.mm } else { plan.mm };
            target_mm[*axis] = match plan.leg {
                Leg::Approach => towards_um,
                Leg::Off => -towards_um,
            };
        }
        let limits = self.limits();
        let mut planner = Planner::at([0; 3], &limits);
        planner.push(
            target_mm,
            Some(plan.mm_per_s * (cycle.len() as f64).sqrt()),
            &limits,
        );
        while !moving.is_empty() {
            let Some(segment) = planner.cut(&limits) else {
                break;
            };
            let (start, end) = (*at, *at + Duration::from_secs_f64(segment.seconds));
            let mut last = start;
            let way_um: [f64; 3] =
                std::array::from_fn(|axis| segment.to_mm[axis] * 1000.0 * self.um_per_counted_um(axis));
            moving.retain(|axis| {
                let to_um = from_um[*axis] + way_um[*axis];
                let axis = &mut self.axes[*axis];
                axis.push_steady(start, end.since(start), to_um);
                let met = axis
                    .switch_change(start, end)
                    .filter(|_| plan.leg == Leg::Approach);
                if let Some(pressed) = met {
                    axis.truncate(pressed);
                    last = last.max(pressed);
                }
                met.is_none()
            });
            *at = if moving.is_empty() { last } else { end };
        }
        moving.is_empty()
    }

    /// All legs are done, or one has failed.
    pub(super) fn finish_homing(&mut self, outcome: Result<(), AlarmCode>) {
        if let Err(code) = outcome {
            self.halt(self.time);
            self.alarm(code, self.time);
            return;
        }
        let off_mm = self.setting(27);
        for axis in 0..3 {
            let downwards = self.setting(23) as u32 >> axis & 1 == 1;
            let mm = if downwards {
                off_mm - self.setting(130 + axis as u8)
            } else {
                -off_mm
            };
            self.count_from(axis, mm);
        }
        self.sync_planner();
        self.state = MachineState::Idle;
        self.say(&Reply::Ok);
    }
}
