//! Commands: what the stage is asked to do, and why it may refuse.

use std::time::Duration;

use super::{GrblHost, Motion, PLAUSIBLE_UM, PLAUSIBLE_UM_PER_S, Phase, SEGMENT_BUFFER, Sent, ms};
use crate::protocol::grbl::{Command, Distance, Feed, Line, Mode};
use crate::protocol::status::Refusal;
use crate::units::Instant;

impl GrblHost {
    /// Asks for a velocity along z, µm/s, decided at `stamp`; holds until the next command or the command timeout.
    /// Returns the velocity after the speed limits.
    ///
    /// A stop holds: whoever was commanding when [`Self::command_stop`] came has to ask for zero, or be silent for the command
    /// timeout, before the stage moves again.
    ///
    /// # Errors
    /// Why nothing will happen: not finite, implausible, stale, stopped, or no controller that may move.
    pub fn command_velocity(
        &mut self,
        z_um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<f64, Refusal> {
        self.clock = self.clock.max(now);
        let silence = now.since(self.heard_at);
        self.heard_at = now;
        if z_um_per_s == 0.0 || silence > ms(self.config.command_timeout_ms) {
            self.held = false;
        }
        let outcome = self.check_velocity(z_um_per_s, stamp, now);
        let Ok(velocity) = outcome else {
            self.refused_commands += 1;
            return outcome;
        };
        self.wanted_um_per_s = velocity;
        self.command_at = stamp.min(now);
        match self.motion {
            Motion::Velocity if velocity == 0.0 => self.begin_stop(now),
            // A long queue (a move) gives way; a short one that runs out can be continued; a cancelled one must end.
            Motion::RunOut { .. } if self.planned_until > now + self.longest_run_out() => self.cancel(now),
            Motion::RunOut { .. } if velocity != 0.0 && !self.resync => self.motion = Motion::Velocity,
            Motion::Rest if velocity != 0.0 => self.start_velocity(now),
            _ => {}
        }
        Ok(velocity)
    }

    pub(super) fn check_velocity(
        &self,
        z_um_per_s: f64,
        stamp: Instant,
        now: Instant,
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
        let age = now.since(stamp);
        if age > ms(self.config.command_timeout_ms) {
            return Err(Refusal::Stale {
                age_ms: age.as_millis(),
                limit_ms: self.config.command_timeout_ms.into(),
            });
        }
        if z_um_per_s != 0.0 {
            self.check_ready()?;
            if self.held {
                return Err(Refusal::Stopped);
            }
        }
        Ok(z_um_per_s.clamp(
            -self.top_speed(self.config.max_down_um_per_s),
            self.top_speed(f64::INFINITY),
        ))
    }

    pub(super) fn check_ready(&self) -> Result<(), Refusal> {
        if let Some(reason) = &self.fault {
            return Err(Refusal::NotReady {
                reason: reason.clone(),
            });
        }
        if self.phase != Phase::Ready || matches!(self.motion, Motion::Homing { .. }) {
            return Err(Refusal::NotReady {
                reason: self.reason.clone(),
            });
        }
        Ok(())
    }

    /// The fastest the stage may go: configured, within the controller's rate, and such that it reaches full speed and
    /// still stops within the lookahead.
    pub(super) fn top_speed(&self, limit: f64) -> f64 {
        let a = self.firmware.um_per_s2[2].unwrap_or(10_000.0);
        let spare = ms(self.config.lookahead_ms)
            .saturating_sub(SEGMENT_BUFFER)
            .as_secs_f64();
        limit
            .min(self.config.max_um_per_s)
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
        let line = self
            .check_move(by_um, um_per_s)
            .inspect_err(|_| self.refused_commands += 1)?;
        self.start_move(&line, now);
        Ok(self.planned_until.since(now))
    }

    /// Whether a stage that stands at the height `from_um` may be moved by `by_um`.
    ///
    /// # Errors
    /// Not finite, implausible, or beyond the limits of z.
    pub fn check_reach(&self, from_um: f64, by_um: [f64; 3]) -> Result<(), Refusal> {
        if by_um.iter().any(|um| !um.is_finite()) {
            return Err(Refusal::NotFinite);
        }
        if let Some(value) = by_um.iter().copied().find(|um| um.abs() > PLAUSIBLE_UM) {
            return Err(Refusal::Implausible { value, unit: "µm" });
        }
        let target_um = from_um + by_um[2];
        let (low_um, high_um) = self.range_um();
        // Away from a violated limit is always permitted.
        let outside = (by_um[2] < 0.0 && target_um < low_um) || (by_um[2] > 0.0 && target_um > high_um);
        if outside {
            return Err(Refusal::OutOfRange {
                target_um,
                low_um,
                high_um,
            });
        }
        Ok(())
    }

    pub(super) fn check_move(&self, by_um: [f64; 3], um_per_s: f64) -> Result<Line, Refusal> {
        if !um_per_s.is_finite() {
            return Err(Refusal::NotFinite);
        }
        if um_per_s <= 0.0 || um_per_s > PLAUSIBLE_UM_PER_S {
            return Err(Refusal::Implausible {
                value: um_per_s,
                unit: "µm/s",
            });
        }
        self.check_ready()?;
        if self.motion != Motion::Rest {
            return Err(Refusal::Busy);
        }
        self.check_reach(self.position.target_um, by_um)?;
        let target_um = self.position.target_um + by_um[2];
        let length = by_um.iter().map(|um| um * um).sum::<f64>().sqrt();
        let mut speed = um_per_s;
        if by_um[2] != 0.0 && length > 0.0 {
            let limit = if by_um[2] < 0.0 {
                self.config.max_down_um_per_s
            } else {
                f64::INFINITY
            };
            speed = speed.min(limit.min(self.config.max_um_per_s) * length / by_um[2].abs());
        }
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

    /// Stops the stage as fast as is safe; completion shows in `stops_confirmed` and the state. It holds against the stream
    /// of velocities that it interrupts: see [`Self::command_velocity`].
    pub fn command_stop(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.held = true;
        self.wanted_um_per_s = 0.0;
        match self.motion {
            Motion::Velocity => self.begin_stop(now),
            Motion::RunOut { .. } if self.planned_until > now + self.longest_run_out() => self.cancel(now),
            Motion::Homing { .. } => self.reset_in_fault("homing was interrupted; the position is lost", now),
            _ => {}
        }
    }

    /// Takes up work again after a fault: unlocks the controller and reads it anew. The position stays invalid until it
    /// is set by [`Self::command_reference`] or homing.
    pub fn command_clear_fault(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        if self.phase == Phase::Closed || self.fault.is_none() {
            return;
        }
        self.unlock = true;
        self.fault = None;
        if std::mem::take(&mut self.mute) {
            self.reset(now);
        } else {
            self.start_hello(now);
        }
        self.reason = "clearing the fault".to_owned();
    }

    /// Declares that the stage now is at `z_um`: a new zero, and a valid position.
    ///
    /// # Errors
    /// If it is not at rest or the height is not finite.
    pub fn command_reference(&mut self, z_um: f64, now: Instant) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        if !z_um.is_finite() {
            return Err(Refusal::NotFinite);
        }
        self.check_ready()?;
        let (Motion::Rest, Some(machine)) = (self.motion, self.position.machine_um) else {
            return Err(Refusal::Busy);
        };
        self.position.offset_um[2] = z_um - machine[2];
        self.position.valid = true;
        self.settle_at([self.axes_um[0], self.axes_um[1], z_um]);
        Ok(())
    }

    /// Runs the controller's homing cycle; afterwards machine coordinates count and the position is valid.
    ///
    /// # Errors
    /// If the stage is moving, in a fault or not connected.
    pub fn command_home(&mut self, now: Instant) -> Result<(), Refusal> {
        self.clock = self.clock.max(now);
        self.check_ready()?;
        if self.motion != Motion::Rest {
            return Err(Refusal::Busy);
        }
        self.send(Command::Home, Sent::Home, now);
        self.motion = Motion::Homing {
            deadline: now + Duration::from_secs(240),
        };
        self.reason = "homing".to_owned();
        Ok(())
    }
}
