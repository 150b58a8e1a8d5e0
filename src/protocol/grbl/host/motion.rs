//! Moving and stopping: the stream of jogs, the queue that runs out, the cancel that survives the traps.

use std::time::Duration;

use super::first_motion::{FirstMotion, Onward};
use super::limits::{NEAR_POLL, SPARSE_UM_PER_S};
use super::timing::{
    CHUNK, LINK_DELAY, LOOKAHEAD, POLL_IDLE, POLL_MOVING, REPLY_TIMEOUT, RUN_OUT, lookahead,
};
use super::{Contact, GrblHost, Manoeuvre, Pending, SEGMENT_BUFFER, STOP_POLL, Sent, ms};
use crate::protocol::grbl::command::{Command, Distance, Feed, Line, Mode, RX_BUFFER, RealTime};
use crate::units::Instant;

/// Jogs that may wait in the controller.
const MAX_QUEUED_LINES: usize = 15;
/// A line must be acknowledged within this time.
const ACK_TIMEOUT: Duration = Duration::from_millis(400);
/// Reports in a row that may fail to come in motion, and at rest, where a computer that is busy for a second does no harm.
const MISSES: u32 = 3;
const MISSES_AT_REST: u32 = 10;
/// Looks at the mark in a row that a stage at rest may leave unanswered.
const UNANSWERED_LOOKS: u32 = 2;

/// The course of a move along its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Profile {
    /// Share of z in the path, -1 to 1.
    z_share: f64,
    um_per_s2: f64,
    peak_um_per_s: f64,
    ramp_s: f64,
    cruise_s: f64,
}

impl Profile {
    /// From start to standstill; at most a billion seconds.
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs_f64((2.0 * self.ramp_s + self.cruise_s).clamp(0.0, 1e9))
    }
}

impl GrblHost {
    pub(super) fn send(&mut self, command: Command, what: Sent, now: Instant) {
        let is_rise =
            matches!(&command, Command::Jog(line) if line.axes[2].is_some_and(|distance| distance.nm() > 0));
        let line = command.emit();
        self.pending.push_back(Pending {
            what,
            is_rise,
            bytes: line.len(),
            at: now,
        });
        self.out.extend_from_slice(line.as_bytes());
    }

    pub(super) fn ask(&mut self, now: Instant) {
        self.out.push(RealTime::Status.byte());
        self.asked = Some(now);
        self.asked_clean = self.pending.is_empty();
        self.last_asked = now;
        self.answer_due = now + REPLY_TIMEOUT;
    }

    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.pending.iter().map(|pending| pending.bytes).sum()
    }

    pub(super) fn report_due(&self) -> Instant {
        let period = match self.manoeuvre {
            Manoeuvre::Rest => POLL_IDLE,
            _ if self.guard.is_near_limit(self.expected_z_um(self.clock)) => POLL_MOVING.min(NEAR_POLL),
            _ => POLL_MOVING,
        };
        match self.asked {
            Some(_) => self.answer_due,
            None => self.last_asked + period,
        }
    }

    pub(super) fn poll_reports(&mut self, now: Instant) {
        if self.mute || matches!(self.manoeuvre, Manoeuvre::Homing { .. }) || self.contact != Contact::Ready {
            return;
        }
        if now < self.report_due() {
            return;
        }
        if self.asked.take().is_some() {
            self.misses += 1;
            self.suspect_reset();
            let patience = if self.manoeuvre == Manoeuvre::Rest {
                MISSES_AT_REST
            } else {
                MISSES
            };
            if self.misses >= patience {
                self.lose("the controller stopped answering");
                self.start_hello(now);
                return;
            }
        }
        self.ask(now);
    }
}

impl GrblHost {
    /// From the last position sent to `target_um`, rounded to the wire.
    pub(super) fn rounded_step(&self, target_um: f64) -> f64 {
        let wire_um = Distance::WIRE_STEP_NM as f64 / 1000.0;
        ((target_um - self.position.sent_um) / wire_um).round() * wire_um
    }

    pub(super) fn start_velocity(&mut self, now: Instant) {
        if self.first_motion != FirstMotion::Right {
            self.begin_first_motion(Onward::Velocity, now);
            return;
        }
        self.manoeuvre = Manoeuvre::Velocity;
        self.motion_from_um = self.axes_um[2];
        self.reason = String::new();
        self.planned_until = now;
        self.streamed_um_per_s = 0.0;
        self.stream(now);
    }

    /// Keeps the queue as long as the lookahead.
    pub(super) fn stream(&mut self, now: Instant) {
        if now.since(self.command_at) > self.guard.command_timeout() {
            self.reason = "stopped: no velocity command arrived in time".to_owned();
            self.wanted_um_per_s = 0.0;
            if self.planned_until <= now + SEGMENT_BUFFER + STOP_POLL {
                self.run_out(now);
            } else {
                self.cancel(now);
            }
            return;
        }
        // From where it leads up to, a way down is right only if what leads up has arrived: lost on the line it would lead below the limit.
        if self.bounded_velocity() < 0.0 && self.pending.iter().any(|pending| pending.is_rise) {
            return;
        }
        let limit = now + lookahead(self.wanted_um_per_s);
        self.plan_ramp(self.bounded_velocity(), now);
        while self.planned_until + CHUNK <= limit {
            if self
                .goal_um
                .is_some_and(|goal_um| self.rounded_step(goal_um) == 0.0)
            {
                self.wanted_um_per_s = 0.0;
                self.run_out(now);
                return;
            }
            let velocity = self.bounded_velocity();
            let ahead = self.position.target_um + velocity * CHUNK.as_secs_f64();
            let target = self.within_reach(ahead);
            if target == self.position.target_um {
                self.reason = format!("stopped at the limit of travel, z = {target:.1} µm");
                self.wanted_um_per_s = 0.0;
                self.begin_stop(now);
                return;
            }
            let step_um = self.rounded_step(target);
            if step_um != 0.0 && !self.send_chunk(step_um, velocity, now) {
                return;
            }
            let length_um = target - self.position.target_um;
            let takes = CHUNK.min(Duration::from_secs_f64(length_um / velocity));
            self.position.target_um = target;
            let start = self.planned_until;
            self.planned_until = start + takes;
            self.position.expected.forget(now);
            self.position.expected.push_steady(start, takes, target);
        }
    }

    /// The velocity asked for, as fast as is permitted where the queue ends, and towards the height asked for.
    fn bounded_velocity(&self) -> f64 {
        let speed = self.guard.speed_at(self.position.target_um);
        let wanted_um_per_s = match self.goal_um {
            Some(goal_um) => self
                .wanted_um_per_s
                .abs()
                .copysign(goal_um - self.position.target_um),
            None => self.wanted_um_per_s,
        };
        // The way to a height may have turned since it was asked for.
        let down = speed.min(self.guard.config().max_down_um_per_s);
        wanted_um_per_s.clamp(-down, speed)
    }

    /// A height ahead of where the queue ends, not beyond a limit nor the height asked for.
    fn within_reach(&self, ahead_um: f64) -> f64 {
        let from_um = self.position.target_um;
        let (low_um, high_um) = self.guard.targets_um(2);
        let goal_um = self.goal_um.unwrap_or(ahead_um);
        if ahead_um < from_um {
            ahead_um.max(low_um.min(from_um)).max(goal_um.min(from_um))
        } else {
            ahead_um.min(high_um.max(from_um)).min(goal_um.max(from_um))
        }
    }

    /// Starting and turning take longer than the chunks alone: the time of the ramps is part of the queue.
    fn plan_ramp(&mut self, velocity: f64, now: Instant) {
        let earliest = now + LINK_DELAY;
        let before = if self.planned_until < earliest {
            0.0
        } else {
            self.streamed_um_per_s
        };
        self.planned_until = self.planned_until.max(earliest);
        self.streamed_um_per_s = velocity;
        if before != 0.0 && before.abs() < SPARSE_UM_PER_S && velocity.abs() > 2.0 * before.abs() {
            self.hurried_until = self.planned_until + LOOKAHEAD;
        }
        if before * velocity > 0.0 {
            return;
        }
        let a = self.firmware.um_per_s2[2].unwrap_or(10_000.0);
        let pause = Duration::from_secs_f64((before.abs() + velocity.abs()) / (2.0 * a));
        let end_um = self.position.expected.end_um();
        self.position
            .expected
            .push_steady(self.planned_until, pause, end_um);
        self.planned_until = self.planned_until + pause;
    }

    /// Sends one jog, unless the controller's buffer has no room for it.
    pub(super) fn send_chunk(&mut self, step_um: f64, um_per_s: f64, now: Instant) -> bool {
        let (Some(distance), Some(feed)) = (Distance::from_um(step_um), Feed::from_um_per_s(um_per_s)) else {
            return true;
        };
        let line = Line {
            mode: Mode::Relative,
            axes: [None, None, Some(distance)],
            feed: Some(feed),
        };
        let bytes = Command::Jog(line).emit().len();
        if self.unacknowledged_bytes() + bytes >= RX_BUFFER || self.pending.len() >= MAX_QUEUED_LINES {
            return false;
        }
        self.position.sent_um += distance.um();
        self.may_move = true;
        self.send(Command::Jog(line), Sent::Jog, now);
        true
    }

    /// How a line runs by the limits of speed and acceleration that are known; `None` for one that moves nothing.
    pub(super) fn profile(&self, line: &Line) -> Option<Profile> {
        let feed = line.feed.filter(|_| line.axes.iter().any(Option::is_some))?;
        let by = line.axes.map(|distance| distance.map_or(0.0, Distance::um));
        let length = by.iter().map(|um| um * um).sum::<f64>().sqrt();
        let mut speed = feed.mm_per_s() * 1000.0;
        let mut slowest = f64::INFINITY;
        for (axis, um) in by.iter().enumerate().filter(|(_, um)| **um != 0.0) {
            let share = length / um.abs();
            speed = speed.min(self.firmware.max_um_per_s[axis].unwrap_or(f64::INFINITY) * share);
            slowest = slowest.min(self.firmware.um_per_s2[axis].unwrap_or(10_000.0) * share);
        }
        let peak = speed.min((length * slowest).sqrt());
        let ramp_s = peak / slowest;
        Some(Profile {
            z_share: by[2] / length,
            um_per_s2: slowest,
            peak_um_per_s: peak,
            ramp_s,
            cruise_s: (length - peak * ramp_s) / peak,
        })
    }

    pub(super) fn start_move(&mut self, line: &Line, now: Instant) {
        let Some(profile) = self.profile(line) else {
            return;
        };
        let start = now + LINK_DELAY;
        self.position.sent_um += line.axes[2].map_or(0.0, Distance::um);
        self.position.target_um = self.position.sent_um;
        self.motion_from_um = self.axes_um[2];
        let Profile {
            um_per_s2,
            peak_um_per_s,
            ramp_s,
            cruise_s,
            z_share,
        } = profile;
        let (um_per_s, um_per_s2) = (peak_um_per_s * z_share, um_per_s2 * z_share);
        let expected = &mut self.position.expected;
        expected.forget(now);
        expected.push_ramp(start, ramp_s, 0.0, um_per_s2);
        expected.push_ramp(start, cruise_s, um_per_s, 0.0);
        expected.push_ramp(start, ramp_s, um_per_s, -um_per_s2);
        self.planned_until = expected.end();
        self.reason = String::new();
        self.may_move = true;
        self.send(Command::Jog(*line), Sent::Jog, now);
        self.run_out(now);
        // x and y have no exact target of their own.
        self.wanted_um_per_s = 0.0;
    }

    /// Lets the queue run out if it is short, else cancels it.
    pub(super) fn begin_stop(&mut self, now: Instant) {
        if self.planned_until <= now + RUN_OUT {
            self.run_out(now);
        } else {
            self.cancel(now);
        }
    }

    pub(super) fn run_out(&mut self, now: Instant) {
        let ask_from = self.planned_until.max(now);
        self.manoeuvre = Manoeuvre::RunOut {
            ask_from,
            deadline: ask_from + self.braking_time() + self.patience(),
        };
    }

    /// How much later than planned a motion may end.
    fn patience(&self) -> Duration {
        // A first motion that goes too far upwards is to show how far.
        if self.is_checking() { ms(1000) } else { ms(250) }
    }

    pub(super) fn cancel(&mut self, now: Instant) {
        self.resync = true;
        if self.is_checking() {
            // Cut short it shows nothing: the next motion is the first one again.
            self.first_motion = FirstMotion::Due;
        }
        self.manoeuvre = Manoeuvre::AwaitAcks {
            deadline: now + ms(100),
        };
        self.poll_motion(now);
    }

    /// Time to brake from the highest speed in use.
    pub(super) fn braking_time(&self) -> Duration {
        let speed = self
            .guard
            .config()
            .max_um_per_s
            .min(self.firmware.max_um_per_s[2].unwrap_or(f64::INFINITY));
        Duration::from_secs_f64((speed / self.firmware.um_per_s2[2].unwrap_or(10_000.0)).min(5.0))
    }

    pub(super) fn poll_motion(&mut self, now: Instant) {
        if self.pending.front().is_some_and(|oldest| {
            matches!(oldest.what, Sent::Jog | Sent::Fence) && now.since(oldest.at) > ACK_TIMEOUT
        }) {
            self.handle_missing_ack(now);
            return;
        }
        self.handle_missing_look(now);
        match self.manoeuvre {
            Manoeuvre::Rest | Manoeuvre::AwaitFence => {}
            Manoeuvre::Velocity => self.stream(now),
            Manoeuvre::RunOut { ask_from, deadline } => {
                if now >= deadline {
                    self.cancel(now);
                } else if now >= ask_from {
                    self.ask_again(now);
                }
            }
            Manoeuvre::AwaitAcks { deadline } => {
                if self.pending.is_empty() {
                    self.asked = None;
                    self.manoeuvre = Manoeuvre::AwaitState {
                        deadline: now + ms(200),
                    };
                    self.ask(now);
                } else if now >= deadline {
                    self.reset_in_fault(
                        "a stop was not acknowledged; the controller was reset, the position is lost",
                        now,
                    );
                }
            }
            Manoeuvre::AwaitState { deadline } | Manoeuvre::AwaitIdle { deadline } => {
                if now >= deadline {
                    self.reset_in_fault(
                        "the stage did not stop in time; the controller was reset, the position is lost",
                        now,
                    );
                } else {
                    self.ask_again(now);
                }
            }
            Manoeuvre::Homing { deadline } if now >= deadline => {
                self.reset_in_fault(
                    "homing did not end; the controller was reset, the position is lost",
                    now,
                );
            }
            Manoeuvre::Homing { .. } => {}
        }
    }

    /// While standstill is awaited: a request every 10 ms, the next one only after the answer or a lost one.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let lost = self.asked.is_some() && now >= self.answer_due;
        if lost {
            self.misses += 1;
        }
        if self.misses >= MISSES {
            self.lose("the controller stopped answering");
            self.start_hello(now);
        } else if lost || (self.asked.is_none() && now.since(self.last_asked) >= STOP_POLL) {
            self.ask(now);
        }
    }

    /// A look at the mark that is not answered: once is noise, three times is a controller that takes no lines.
    fn handle_missing_look(&mut self, now: Instant) {
        let is_missing = self.pending.front().is_some_and(|oldest| {
            matches!(oldest.what, Sent::Look | Sent::Mark) && now.since(oldest.at) > ACK_TIMEOUT
        });
        if !is_missing {
            return;
        }
        if self.manoeuvre == Manoeuvre::Rest && self.unanswered_looks < UNANSWERED_LOOKS {
            self.unanswered_looks += 1;
            self.pending.pop_front();
            self.suspect_reset();
        } else {
            self.handle_missing_ack(now);
        }
    }

    /// At rest or not, a controller that takes no lines is useless: reset it.
    pub(super) fn handle_missing_ack(&mut self, now: Instant) {
        if matches!(self.manoeuvre, Manoeuvre::AwaitFence | Manoeuvre::Rest) {
            // Standing still: a reset keeps the position and raises no alarm.
            self.reason = "the controller was deaf after a stop and was reset".to_owned();
            self.reset_at_rest = true;
            self.give_up_mark();
            self.reset(now);
        } else {
            self.reset_in_fault(
                "the controller stopped acknowledging; it was reset, the position is lost",
                now,
            );
        }
    }
}
