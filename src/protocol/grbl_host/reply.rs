//! Replies: what the controller's answers change.

use std::time::Duration;

use super::{GrblHost, Motion, Phase, SEGMENT_BUFFER, Sent, ms};
use crate::protocol::grbl::{Command, Distance, RealTime};
use crate::protocol::grbl_reply::{Frame, MachineState, Reply, StatusReport};
use crate::stage::{Axis, Trajectory};
use crate::units::Instant;

/// Largest difference between two heights that were each reported rounded to 1 µm, µm.
const REPORT_TOLERANCE_UM: f64 = 1.2;
/// Reports in a row that must contradict the expected position before it counts as lost.
const CONTRADICTIONS: u32 = 3;

impl GrblHost {
    pub(super) fn handle_reply(&mut self, reply: Reply, now: Instant) {
        self.silent = false;
        match reply {
            Reply::Ok => self.handle_ok(now),
            Reply::Error(code) => self.handle_error(code.0, code.text(), now),
            Reply::Alarm(code) => {
                self.position.valid = false;
                self.mute = code.is_mute();
                self.pending.clear();
                self.asked = None;
                self.set_fault(&format!("ALARM:{}, {}", code.0, code.text()));
                if !self.mute && !matches!(self.phase, Phase::Resetting { .. }) {
                    // Alarms that mute nothing restart the controller by themselves.
                    self.phase = Phase::Resetting {
                        deadline: now + ms(1500),
                    };
                }
            }
            Reply::Status(report) => self.handle_report(&report, now),
            Reply::Welcome(version) => self.handle_welcome(version, now),
            Reply::Setting { number, value } => {
                self.answered = Some(Sent::Settings);
                self.firmware.take_setting(number, value.mm());
            }
            Reply::Message { tag, text } if tag == "VER" => {
                self.answered = Some(Sent::BuildInfo);
                let release = text.split('.').take(2).collect::<Vec<_>>().join(".");
                self.firmware.version = release.trim_end_matches(':').to_owned();
            }
            Reply::Message { .. } | Reply::Startup(_) => {}
        }
    }

    pub(super) fn handle_ok(&mut self, now: Instant) {
        // A controller that boots slowly answers each attempt to get in touch, the late ones when other lines are under way. Taken
        // for theirs, the last answer of all would be taken for that of the first command.
        let is_late = self.pending.front().is_some_and(|pending| {
            matches!(pending.what, Sent::BuildInfo | Sent::Settings) && self.answered != Some(pending.what)
        });
        self.answered = None;
        if is_late {
            return;
        }
        // An acknowledgement nobody waits for is a duplicate or an echo of the past.
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        match pending.what {
            Sent::Hello => {
                if let Phase::Hello { since, next, .. } = self.phase {
                    self.phase = Phase::Hello {
                        since,
                        next,
                        acknowledged: true,
                    };
                    self.progress_hello(now);
                }
            }
            Sent::Settings if matches!(self.phase, Phase::Asking { .. }) => self.finish_connecting(now),
            Sent::Fence if self.motion == Motion::AwaitFence => self.finish_stop(now),
            Sent::Home => {
                self.position.offset_um = [0.0; 3];
                self.position.valid = true;
                self.resync = true;
                self.reason = String::new();
                self.planned_until = now;
                self.run_out(now);
            }
            _ => {}
        }
    }

    pub(super) fn handle_error(&mut self, code: u8, text: &str, now: Instant) {
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        match pending.what {
            Sent::Jog => {
                self.reason = format!("the controller refused a jog: error:{code}, {text}");
                self.resync = true;
                self.wanted_um_per_s = 0.0;
                if matches!(self.motion, Motion::Velocity | Motion::RunOut { .. }) {
                    self.planned_until = self.planned_until.min(now + ms(self.config.lookahead_ms));
                    self.run_out(now);
                }
            }
            // A half line of a predecessor ended by our first byte.
            Sent::Hello => {}
            Sent::Home => {
                self.motion = Motion::Rest;
                self.reason = format!("the controller refused to home: error:{code}, {text}");
            }
            Sent::Settings => self.start_hello(now),
            // Noise made it a bad line; it was read all the same, which is all it is for.
            Sent::Fence if self.motion == Motion::AwaitFence => self.finish_stop(now),
            Sent::BuildInfo | Sent::Unlock | Sent::Fence => {}
        }
    }

    /// A welcome nobody asked for means the controller was reset behind our back.
    pub(super) fn handle_welcome(&mut self, version: String, now: Instant) {
        self.firmware.welcome = version;
        let expected = matches!(self.phase, Phase::Resetting { .. });
        if !expected && self.ever_connected {
            self.position.valid = false;
            self.position.rebase = true;
            self.position.expected.truncate(now);
            self.set_fault("the controller was reset; its position is lost");
        }
        self.mute = false;
        self.start_hello(now);
    }

    pub(super) fn handle_report(&mut self, report: &StatusReport, now: Instant) {
        let asked = self.asked.take();
        let clean = asked.is_some() && self.asked_clean && self.pending.is_empty();
        self.misses = 0;
        self.machine = Some(report.state);
        if let Some(offset) = report.work_offset {
            self.position.work_offset_um = offset.map(Distance::um);
        }
        let mut machine_um = report.position.map(Distance::um);
        if report.frame == Frame::Work {
            for (um, offset) in machine_um.iter_mut().zip(self.position.work_offset_um) {
                *um += offset;
            }
        }
        match self.phase {
            Phase::Closed => {}
            Phase::Hello { .. } => {
                self.rebase(machine_um);
                self.progress_hello(now);
            }
            Phase::Resetting { .. } | Phase::Asking { .. } => self.rebase(machine_um),
            Phase::Ready => self.handle_ready_report(report.state, machine_um, asked, clean, now),
        }
    }

    /// Keeps stage coordinates going across a reset that made the controller count from zero again.
    pub(super) fn rebase(&mut self, machine_um: [f64; 3]) {
        let last_z_um = self.expected_z_um(self.clock);
        let doubtful = std::mem::take(&mut self.position.doubtful) && !self.is_on_the_way(machine_um[2]);
        if (std::mem::take(&mut self.position.rebase) || doubtful) && self.position.machine_um.is_some() {
            let last = [self.axes_um[0], self.axes_um[1], last_z_um];
            for axis in 0..3 {
                if last[axis].is_finite() {
                    self.position.offset_um[axis] = last[axis] - machine_um[axis];
                }
            }
        }
        self.position.machine_um = Some(machine_um);
    }

    /// Whether a machine height lies between the last report and the last target, as after a mere silence.
    pub(super) fn is_on_the_way(&self, machine_z_um: f64) -> bool {
        let last = self.position.machine_um.map_or(0.0, |um| um[2]);
        let target = self.position.expected.end_um() - self.position.offset_um[2];
        (last.min(target) - 5.0..=last.max(target) + 5.0).contains(&machine_z_um)
    }

    pub(super) fn handle_ready_report(
        &mut self,
        state: MachineState,
        machine_um: [f64; 3],
        asked: Option<Instant>,
        clean: bool,
        now: Instant,
    ) {
        let z_um = machine_um[2] + self.position.offset_um[2];
        if self.motion != Motion::Rest && !self.resync && self.contradicts(z_um, asked.unwrap_or(now)) {
            self.position.contradictions += 1;
            if self.position.contradictions >= CONTRADICTIONS {
                self.reset_in_fault(
                    "the reported position contradicts the motion; the position is lost",
                    now,
                );
            }
            return;
        }
        self.position.machine_um = Some(machine_um);
        for axis in [Axis::X, Axis::Y] {
            self.axes_um[axis.index()] = machine_um[axis.index()] + self.position.offset_um[axis.index()];
        }
        match state {
            MachineState::Alarm if self.fault.is_none() => {
                self.position.valid = false;
                self.set_fault("the controller is locked by an alarm");
            }
            MachineState::Hold(_) | MachineState::Door(_) | MachineState::Sleep if self.fault.is_none() => {
                // What it holds back must never run: leave by a reset.
                self.reset_in_fault(
                    "the controller was put on hold and was reset; the position is lost",
                    now,
                );
            }
            MachineState::Idle => self.handle_idle(z_um, clean, now),
            MachineState::Jog => self.handle_jog(z_um, asked, clean, now),
            _ => {}
        }
    }

    /// Whether a reported height cannot be: beyond the way that is queued, with a margin for timing.
    pub(super) fn contradicts(&mut self, z_um: f64, at: Instant) -> bool {
        let earlier = Instant::from_nanos(at.as_nanos().saturating_sub(150_000_000));
        let (a, b, c) = (
            self.position.expected.position_um(earlier),
            self.position.expected.position_um(at + ms(30)),
            self.position.expected.position_um(at),
        );
        let top = self.top_speed(f64::INFINITY);
        let ramp_um = top * top / (2.0 * self.firmware.um_per_s2[2].unwrap_or(10_000.0));
        let margin = 5.0 + self.firmware.z_step_um() + ramp_um;
        let inside = z_um >= a.min(b).min(c) - margin && z_um <= a.max(b).max(c) + margin;
        if inside {
            self.position.contradictions = 0;
        }
        !inside
    }

    pub(super) fn handle_idle(&mut self, z_um: f64, clean: bool, now: Instant) {
        match self.motion {
            Motion::Rest => {
                let off = (z_um - self.axes_um[2]).abs();
                if self.axes_um[2].is_nan() || off <= REPORT_TOLERANCE_UM + self.firmware.z_step_um() {
                    self.position.contradictions = 0;
                    return;
                }
                self.position.contradictions += 1;
                if self.position.contradictions >= CONTRADICTIONS && self.fault.is_none() {
                    self.position.valid = false;
                    self.position.rebase = true;
                    self.set_fault("the controller's position changed while at rest; the position is lost");
                }
            }
            Motion::RunOut { .. } if clean => self.finish_at(z_um, now),
            Motion::AwaitState { .. } | Motion::AwaitIdle { .. } if clean => {
                self.settle(z_um);
                self.motion = Motion::AwaitFence;
                self.send(Command::Nothing, Sent::Fence, now);
            }
            _ => {}
        }
    }

    pub(super) fn handle_jog(&mut self, z_um: f64, asked: Option<Instant>, clean: bool, now: Instant) {
        match self.motion {
            Motion::AwaitState { .. } if clean => {
                self.out.push(RealTime::JogCancel.byte());
                self.position.expected.truncate(now + SEGMENT_BUFFER);
                self.motion = Motion::AwaitIdle {
                    deadline: now + SEGMENT_BUFFER + self.braking_time() + ms(150),
                };
            }
            Motion::Velocity => self.correct_pace(z_um, asked.unwrap_or(now)),
            _ => {}
        }
    }

    /// A controller that falls behind the plan (a slower clock, ramps) gets a later plan instead of a longer queue.
    pub(super) fn correct_pace(&mut self, z_um: f64, at: Instant) {
        let speed = self.wanted_um_per_s;
        if speed == 0.0 {
            return;
        }
        let expected = self.position.expected.position_um(at + ms(1));
        let behind_um = (expected - z_um) * speed.signum();
        let excess_s = (behind_um - 1.0 - self.firmware.z_step_um()) / speed.abs() - 0.010;
        if excess_s > 0.0 {
            let pause = Duration::from_secs_f64(excess_s.min(0.02));
            self.planned_until = self.planned_until + pause;
            let end = self.position.expected.end_um();
            self.position.expected.push_steady(at, pause, end);
        }
    }

    /// Where a stage that stopped on its own really is: on the target, rounded to a step, if the report agrees.
    pub(super) fn settle(&mut self, z_um: f64) {
        let step_um = self.firmware.z_step_um();
        let machine_target = self.position.sent_um - self.position.offset_um[2];
        let on_step = if step_um > 0.0 {
            (machine_target / step_um).round() * step_um
        } else {
            machine_target
        };
        let exact = on_step + self.position.offset_um[2];
        if !self.resync && (exact - z_um).abs() <= REPORT_TOLERANCE_UM + step_um {
            self.axes_um[2] = exact;
            self.position.target_um = self.position.sent_um;
            self.position.contradictions = 0;
            self.position.expected = Trajectory::at_rest(exact);
        } else {
            self.settle_at([self.axes_um[0], self.axes_um[1], z_um]);
        }
        self.resync = false;
    }

    pub(super) fn settle_at(&mut self, um: [f64; 3]) {
        self.axes_um = um;
        self.position.target_um = um[2];
        self.position.sent_um = um[2];
        self.position.expected = Trajectory::at_rest(um[2]);
        self.position.contradictions = 0;
    }

    pub(super) fn stage_from_report(&mut self) {
        if let Some(machine_um) = self.position.machine_um {
            let mut um = machine_um;
            for (um, offset) in um.iter_mut().zip(self.position.offset_um) {
                *um += offset;
            }
            self.settle_at(um);
        }
    }

    pub(super) fn finish_at(&mut self, z_um: f64, now: Instant) {
        self.settle(z_um);
        self.finish_stop(now);
    }

    pub(super) fn finish_stop(&mut self, now: Instant) {
        self.motion = Motion::Rest;
        self.stops_confirmed += 1;
        // A command that came while the stage was stopping.
        if self.wanted_um_per_s != 0.0 && now.since(self.command_at) <= ms(self.config.command_timeout_ms) {
            self.start_velocity(now);
        } else {
            self.wanted_um_per_s = 0.0;
        }
    }
}
