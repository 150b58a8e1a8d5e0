//! Commands: what the stage is asked to do, and why it may refuse.

use std::time::Duration;

use super::first_motion::{FirstMotion, Onward};
use super::timing::{LOOKAHEAD, RUN_OUT};
use super::{Contact, GrblHost, Manoeuvre, SEGMENT_BUFFER, SLOWEST_UM_PER_S, Sent};
use crate::protocol::grbl::command::{Command, Distance, Feed, Line, Mode};
use crate::stage::guard::Pace;
use crate::stage::status::Refusal;
use crate::units::Instant;

/// Time that the check of the first motion may take.
const FIRST_MOTION: Duration = Duration::from_millis(500);

impl GrblHost {
    /// Asks for a velocity along z, µm/s, decided at `stamp`; holds until the next command or the command timeout.
    /// Returns the velocity after the speed limits.
    ///
    /// # Errors
    /// Why nothing will happen: [`crate::stage::guard::Guard::check_velocity`].
    pub fn command_velocity(
        &mut self,
        z_um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<f64, Refusal> {
        self.clock = self.clock.max(now);
        let (ready, pace) = (self.check_ready(), self.pace());
        let velocity = self.guard.check_velocity(z_um_per_s, stamp, now, ready, pace)?;
        self.goal_um = None;
        self.take_velocity(velocity, stamp, now);
        Ok(velocity)
    }

    /// Asks for a height, µm, to be driven to at most at `um_per_s`, decided at `stamp`: a velocity that ends there.
    ///
    /// # Errors
    /// Why nothing will happen: [`crate::stage::guard::Guard::check_target`].
    pub fn command_target(
        &mut self,
        z_um: f64,
        um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        let (ready, pace) = (self.check_ready(), self.pace());
        let way = (self.position.target_um, z_um);
        let velocity = self.guard.check_target(way, um_per_s, stamp, now, ready, pace)?;
        self.goal_um = Some(z_um);
        // What is queued leads there already, and runs out; said again, it is no new motion.
        let is_queued = self.rounded_step(z_um) == 0.0 && !self.is_checking();
        if !is_queued {
            self.take_velocity(velocity, stamp, now);
        }
        Ok(())
    }

    fn take_velocity(&mut self, velocity: f64, stamp: Instant, now: Instant) {
        self.wanted_um_per_s = velocity;
        self.command_at = stamp.min(now);
        match self.manoeuvre {
            // It follows the check of the first motion, if it still holds then.
            _ if self.is_checking() => {}
            Manoeuvre::Velocity if velocity == 0.0 => self.begin_stop(now),
            // A long queue (a move) gives way; a short one that runs out can be continued; a cancelled one must end.
            Manoeuvre::RunOut { .. } if self.planned_until > now + RUN_OUT => self.cancel(now),
            Manoeuvre::RunOut { .. } if velocity != 0.0 && !self.resync => {
                self.manoeuvre = Manoeuvre::Velocity
            }
            Manoeuvre::Rest if velocity != 0.0 => self.start_velocity(now),
            _ => {}
        }
    }

    /// A stop no longer holds: the next velocity is obeyed.
    pub fn command_release(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.guard.release();
    }

    fn pace(&self) -> Pace {
        Pace {
            slowest_um_per_s: SLOWEST_UM_PER_S,
            fastest_um_per_s: self.top_speed(),
        }
    }

    pub(super) fn check_ready(&self) -> Result<(), Refusal> {
        if let Some(reason) = &self.fault {
            return Err(Refusal::NotReady {
                reason: reason.clone(),
            });
        }
        if self.contact != Contact::Ready || matches!(self.manoeuvre, Manoeuvre::Homing { .. }) {
            return Err(Refusal::NotReady {
                reason: self.reason.clone(),
            });
        }
        Ok(())
    }

    /// The fastest the stage may go: configured, within the controller's rate, and such that it reaches full speed and
    /// still stops within the lookahead.
    pub(super) fn top_speed(&self) -> f64 {
        let a = self.firmware.um_per_s2[2].unwrap_or(10_000.0);
        let spare = LOOKAHEAD.saturating_sub(SEGMENT_BUFFER).as_secs_f64();
        self.guard
            .config()
            .max_um_per_s
            .min(self.firmware.max_um_per_s[2].unwrap_or(f64::INFINITY))
            .min(a * spare.max(0.01))
    }

    /// Moves x, y, z by exactly `by_um` (rounded to 0.1 µm) at `um_per_s` along the path, once the stage is at rest. Returns how long
    /// that will take by the limits of speed and acceleration that are known.
    ///
    /// # Errors
    /// Why nothing will happen.
    pub fn command_move_relative(
        &mut self,
        by_um: [f64; 3],
        um_per_s: f64,
        now: Instant,
    ) -> Result<Duration, Refusal> {
        self.clock = self.clock.max(now);
        let line = self.check_move(by_um, um_per_s)?;
        let planned = self
            .profile(&line)
            .map_or(Duration::ZERO, |profile| profile.duration());
        if by_um[2] != 0.0 && self.first_motion != FirstMotion::Right {
            self.begin_first_motion(Onward::Move { by_um, um_per_s }, now);
            return Ok(planned + FIRST_MOTION);
        }
        self.start_move(&line, now);
        Ok(planned)
    }

    pub(super) fn check_move(&mut self, by_um: [f64; 3], um_per_s: f64) -> Result<Line, Refusal> {
        let ready = self.check_still();
        let [x_um, y_um, _] = self.axes_um;
        let from_um = [x_um, y_um, self.position.target_um];
        let speed = self.guard.check_move(from_um, by_um, um_per_s, ready)?;
        let target_um = self.position.target_um + by_um[2];
        let axes = [by_um[0], by_um[1], self.rounded_step(target_um)]
            .map(|um| Distance::from_um(um).filter(|distance| distance.nm() != 0));
        let feed = Feed::from_um_per_s(speed);
        if feed.is_none() {
            return Err(Refusal::Implausible {
                value: um_per_s,
                unit: "µm/s",
            });
        }
        Ok(Line {
            mode: Mode::Relative,
            axes,
            feed,
        })
    }

    /// Whether the controller can move and stands.
    fn check_still(&self) -> Result<(), Refusal> {
        self.check_ready()?;
        if self.manoeuvre == Manoeuvre::Rest {
            Ok(())
        } else {
            Err(Refusal::Busy)
        }
    }

    /// Stops the stage as fast as is safe; the state says when it stands. It holds against the stream
    /// of velocities that it interrupts: see [`Self::command_velocity`].
    pub fn command_stop(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.guard.stop(now);
        self.wanted_um_per_s = 0.0;
        self.onward = None;
        match self.manoeuvre {
            Manoeuvre::Velocity => self.begin_stop(now),
            Manoeuvre::RunOut { .. } if self.planned_until > now + RUN_OUT => self.cancel(now),
            Manoeuvre::Homing { .. } => {
                self.reset_in_fault("homing was interrupted; the position is lost", now)
            }
            _ => {}
        }
    }

    /// Takes up work again after a fault: unlocks the controller and reads it anew, and releases a stop that holds. The state is
    /// Disconnected until the outcome is known. The position stays invalid until it is set by [`Self::command_reference`] or homing.
    pub fn command_clear_fault(&mut self, now: Instant) {
        self.command_release(now);
        if self.contact == Contact::Closed || self.fault.is_none() {
            return;
        }
        self.unlock = true;
        self.fault = None;
        self.is_foreign = false;
        if std::mem::take(&mut self.mute) {
            self.reset(now);
        } else {
            self.start_hello(now);
        }
        self.reason = "clearing the fault".to_owned();
    }

    /// Declares where the stage stands now along the axes given, x, y, z, µm: from then on their positions are valid.
    ///
    /// # Errors
    /// If it is not at rest or a position is not finite.
    pub fn command_reference(&mut self, um: [Option<f64>; 3], now: Instant) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        self.guard.check_reference(um, self.check_still())?;
        let Some(machine_um) = self.position.machine_um else {
            return Err(Refusal::NotReady {
                reason: self.guard.doubt().to_owned(),
            });
        };
        for (axis, um) in um.iter().enumerate() {
            if let Some(um) = um {
                self.position.offset_um[axis] = um - machine_um[axis];
                self.axes_um[axis] = *um;
            }
        }
        self.settle_at(self.axes_um);
        self.vouch(um.map(|um| um.is_some()), now);
        Ok(())
    }

    /// Runs the controller's homing cycle; afterwards machine coordinates count and the position is valid.
    ///
    /// # Errors
    /// If the stage is moving, not connected, or in a fault that homing does not end.
    pub fn command_home(&mut self, now: Instant) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        // An alarm that waits for homing is no reason not to home; every other fault stands.
        let lock = self
            .fault
            .take_if(|_| self.is_locked && self.contact == Contact::Ready);
        if let Err(refusal) = self.check_still() {
            self.fault = self.fault.take().or(lock);
            return Err(refusal);
        }
        self.may_move = true;
        self.send(Command::Home, Sent::Home, now);
        self.manoeuvre = Manoeuvre::Homing {
            deadline: now + Duration::from_secs(240),
        };
        self.reason = "homing".to_owned();
        Ok(())
    }
}
