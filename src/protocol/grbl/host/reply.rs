//! Replies: what the controller's answers change.

use std::time::Duration;

use super::contact::INCH_DECIMALS;
use super::foreign::outdated;
use super::limits::CONTRADICTIONS;
use super::timing::{LOOKAHEAD, POLL_MOVING};
use super::trust::REPORT_TOLERANCE_UM;
use super::{Contact, GrblHost, Manoeuvre, SEGMENT_BUFFER, Sent, ms};
use crate::protocol::grbl::command::{Command, Distance, RealTime};
use crate::protocol::grbl::reply::{Coordinates, MachineState, Reply, StatusReport};
use crate::stage::trajectory::Trajectory;
use crate::units::Instant;

impl GrblHost {
    pub(super) fn handle_reply(&mut self, reply: Reply, now: Instant) {
        self.silent = false;
        match reply {
            Reply::Ok => self.handle_ok(now),
            Reply::Error(code) => self.handle_error(code.0, code.text(), now),
            Reply::Alarm(code) => {
                self.lose_position(&format!("ALARM:{}, {}", code.0, code.text()));
                self.mute = code.is_mute();
                self.pending.clear();
                self.asked = None;
                // The alarm of a reset that this host sent says less than why it was sent.
                if self.fault.is_none() || !matches!(self.contact, Contact::Resetting { .. }) {
                    self.set_fault(&format!("ALARM:{}, {}", code.0, code.text()));
                }
                if !self.mute && !matches!(self.contact, Contact::Resetting { .. }) {
                    // Alarms that mute nothing restart the controller by themselves.
                    self.contact = Contact::Resetting {
                        deadline: now + ms(1500),
                    };
                }
            }
            Reply::Status(report) => self.handle_report(&report, now),
            Reply::Welcome(version) => self.handle_welcome(version, now),
            Reply::Setting { number, value } => {
                self.answered = Some(Sent::Settings);
                self.firmware.take_setting(number, value);
            }
            Reply::Message { tag, text } if tag == "VER" => {
                self.answered = Some(Sent::BuildInfo);
                self.firmware.take_version(&text);
            }
            Reply::Message { tag, text } if tag == "OPT" => self.firmware.take_options(&text),
            Reply::Message { tag, text } if tag == "GC" => self.handle_modal_state(&text, now),
            Reply::Message { .. } | Reply::Startup(_) => {}
        }
    }

    pub(super) fn handle_ok(&mut self, now: Instant) {
        // A controller that boots slowly answers each attempt to get in touch, the late ones when other lines are under way. Taken
        // for theirs, the last answer of all would be taken for that of the first command.
        let is_late = self.pending.front().is_some_and(|pending| {
            matches!(pending.what, Sent::BuildInfo | Sent::Settings) && self.answered != Some(pending.what)
        });
        let answered = self.answered.take();
        if is_late {
            return;
        }
        let is_before = self
            .pending
            .front()
            .is_some_and(|pending| pending.what == Sent::Jog);
        if answered == Some(Sent::Look) && is_before {
            // Lines are answered in their order: the jog before it, or the answer to that, was lost on the way.
            self.handle_missing_ack(now);
            return;
        }
        if self.tells_mark() && answered != Some(Sent::Look) {
            // The answer to a look was lost on the way: this one belongs to the line after it.
            while self.pending.len() > 1
                && self
                    .pending
                    .front()
                    .is_some_and(|pending| pending.what == Sent::Look)
            {
                self.pending.pop_front();
            }
        }
        // An acknowledgement that is not waited for is a duplicate or an echo of the past.
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        match pending.what {
            Sent::Hello => {
                if let Contact::Hello { since, next, .. } = self.contact {
                    self.contact = Contact::Hello {
                        since,
                        next,
                        acknowledged: true,
                    };
                    self.progress_hello(now);
                }
            }
            Sent::Settings if matches!(self.contact, Contact::Asking { .. }) => self.finish_connecting(now),
            Sent::Fence if self.manoeuvre == Manoeuvre::AwaitFence => self.finish_stop(now),
            Sent::Look => {
                self.unanswered_looks = 0;
                self.finish_look();
            }
            Sent::Home => {
                self.position.offset_um = [0.0; 3];
                self.is_locked = false;
                self.machine = Some(MachineState::Idle);
                (self.resync, self.is_adrift) = (true, true);
                self.reason = String::new();
                self.planned_until = now;
                self.run_out(now);
                self.vouch([true; 3], now);
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
                self.is_adrift = true;
                self.wanted_um_per_s = 0.0;
                if matches!(self.manoeuvre, Manoeuvre::Velocity | Manoeuvre::RunOut { .. }) {
                    self.planned_until = self.planned_until.min(now + LOOKAHEAD);
                    self.run_out(now);
                }
            }
            // A half line of a predecessor ended by our first byte.
            Sent::Hello => {}
            Sent::Home => {
                self.manoeuvre = Manoeuvre::Rest;
                self.may_move = false;
                let refusal = format!("the controller refused to home: error:{code}, {text}");
                if std::mem::take(&mut self.is_locked) {
                    self.set_fault(&refusal);
                    self.is_locked = true;
                } else {
                    self.reason = refusal;
                }
            }
            Sent::Unlock => {
                self.machine = Some(MachineState::Alarm);
                self.unlock_refused = Some(format!("error:{code}, {text}"));
            }
            // It does not tell, or not now.
            Sent::Look | Sent::Mark => self.give_up_mark(),
            Sent::Settings => self.start_hello(now),
            // Noise made it a bad line; it was read all the same, which is all it is for.
            Sent::Fence if self.manoeuvre == Manoeuvre::AwaitFence => self.finish_stop(now),
            Sent::BuildInfo | Sent::Fence => {}
        }
    }

    /// A welcome that was not asked for means that the controller was reset behind our back.
    pub(super) fn handle_welcome(&mut self, version: String, now: Instant) {
        let outdated = outdated(&version);
        self.firmware.welcome = version;
        let expected = matches!(self.contact, Contact::Resetting { .. });
        if !expected && self.ever_connected {
            self.position.expected.truncate(now);
            self.lose_position("the controller was reset");
            self.set_fault("the controller was reset; its position is lost");
        }
        self.mute = false;
        self.start_hello(now);
        if let Some(sentence) = outdated {
            self.meet_foreigner(&sentence);
        }
    }

    pub(super) fn handle_report(&mut self, report: &StatusReport, now: Instant) {
        let asked = self.asked.take();
        let clean = asked.is_some() && self.asked_clean && self.pending.is_empty();
        self.renew_patience();
        self.machine = Some(report.state);
        self.decimals = report.decimals;
        if let Some(offset) = report.work_offset {
            self.position.work_offset_um = Some(offset.map(Distance::um));
        }
        let machine_um = self.machine_um(report);
        match self.contact {
            Contact::Closed => {}
            Contact::Hello { .. } => {
                self.position.machine_um = machine_um.or(self.position.machine_um);
                self.progress_hello(now);
            }
            Contact::Resetting { .. } | Contact::Asking { .. } => {
                self.position.machine_um = machine_um.or(self.position.machine_um);
            }
            Contact::Ready => {
                if let Some(machine_um) = machine_um {
                    self.meet_position(machine_um);
                    self.handle_ready_report(report.state, machine_um, asked, clean, now);
                }
            }
        }
    }

    /// Machine coordinates of a report, µm, if there is no doubt about what it says.
    fn machine_um(&self, report: &StatusReport) -> Option<[f64; 3]> {
        let is_inches = match self.firmware.inches {
            Some(inches) => inches,
            None => report.decimals >= INCH_DECIMALS,
        };
        if is_inches {
            return None;
        }
        let um = report.position.map(Distance::um);
        match report.coordinates {
            Coordinates::Machine => Some(um),
            Coordinates::Work => {
                let offset_um = self.position.work_offset_um?;
                Some(std::array::from_fn(|axis| um[axis] + offset_um[axis]))
            }
        }
    }

    /// The first position that can be read, of a controller that is ready.
    fn meet_position(&mut self, machine_um: [f64; 3]) {
        if self.position.machine_um.is_none() {
            self.position.machine_um = Some(machine_um);
            self.recall();
            self.stage_from_report();
        }
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
        if self.is_watched() {
            if let Some(reason) = self.violation(z_um) {
                self.reset_in_fault(&reason, now);
                return;
            }
            if self.is_compared(z_um) && self.contradicts(z_um, asked.unwrap_or(now)) {
                self.handle_contradiction(z_um, now);
                return;
            }
            self.position.contradictions = 0;
        }
        self.position.machine_um = Some(machine_um);
        let um = std::array::from_fn(|axis| machine_um[axis] + self.position.offset_um[axis]);
        if self.manoeuvre != Manoeuvre::Rest {
            [self.axes_um[0], self.axes_um[1], _] = um;
        }
        match state {
            MachineState::Alarm if self.fault.is_none() => {
                self.lose_position("the controller was locked by an alarm");
                self.set_fault("the controller is locked by an alarm; call ~/home, or ~/clear_fault");
                self.is_locked = true;
            }
            MachineState::Hold(_) | MachineState::Door(_) | MachineState::Sleep if self.fault.is_none() => {
                // What it holds back must never run: leave by a reset.
                self.reset_in_fault(
                    "the controller was put on hold and was reset; the position is lost",
                    now,
                );
            }
            MachineState::Idle => self.handle_idle(um, clean, now),
            MachineState::Jog => self.handle_jog(z_um, asked, clean, now),
            _ => {}
        }
    }

    pub(super) fn handle_idle(&mut self, um: [f64; 3], clean: bool, now: Instant) {
        let z_um = um[2];
        match self.manoeuvre {
            Manoeuvre::Rest => self.watch_rest(um, now),
            Manoeuvre::RunOut { .. } if clean => self.finish_at(z_um, now),
            Manoeuvre::AwaitState { .. } | Manoeuvre::AwaitIdle { .. } if clean => {
                self.settle(z_um);
                self.manoeuvre = Manoeuvre::AwaitFence;
                self.send(Command::Nothing, Sent::Fence, now);
            }
            _ => {}
        }
    }

    /// A stage at rest that is reported elsewhere.
    fn watch_rest(&mut self, um: [f64; 3], now: Instant) {
        let off_um = um
            .iter()
            .zip(self.axes_um)
            .map(|(now, then)| (now - then).abs())
            .fold(0.0, f64::max);
        if off_um <= REPORT_TOLERANCE_UM + self.firmware.z_step_um() {
            self.position.contradictions = 0;
            return;
        }
        self.suspect_reset();
        self.position.contradictions += 1;
        if self.position.contradictions >= CONTRADICTIONS && self.fault.is_none() {
            self.halt_in_fault(
                "the controller's position changed while at rest; the position is lost",
                now,
            );
        }
    }

    pub(super) fn handle_jog(&mut self, z_um: f64, asked: Option<Instant>, clean: bool, now: Instant) {
        match self.manoeuvre {
            Manoeuvre::AwaitState { .. } if clean => {
                self.out.push(RealTime::JogCancel.byte());
                self.position.expected.truncate(now + SEGMENT_BUFFER);
                self.manoeuvre = Manoeuvre::AwaitIdle {
                    deadline: now + SEGMENT_BUFFER + self.braking_time() + ms(150),
                };
            }
            Manoeuvre::Velocity => self.correct_pace(z_um, asked.unwrap_or(now)),
            _ => {}
        }
    }

    /// A controller that falls behind the plan (a slower clock, ramps) gets a later plan instead of a longer queue.
    pub(super) fn correct_pace(&mut self, z_um: f64, at: Instant) {
        let (speed, ahead) = (self.position.expected.um_per_s(at), self.streamed_um_per_s);
        // Not in a turn; and what was corrected has to show before more is.
        if speed * ahead <= 0.0 || at.since(self.paced_at) < POLL_MOVING {
            return;
        }
        let speed = if speed.abs() > ahead.abs() { speed } else { ahead };
        let expected = self.position.expected.position_um(at + ms(1));
        let behind_um = (expected - z_um) * speed.signum();
        let excess_s = (behind_um - 1.5 - self.firmware.z_step_um()) / speed.abs() - 0.010;
        if excess_s > 0.0 {
            self.paced_at = at;
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
            self.is_adrift = false;
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
        self.is_adrift = false;
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
        self.manoeuvre = Manoeuvre::Rest;
        self.may_move = false;
        self.doubt_mark();
        if self.finish_step(now) {
            return;
        }
        // A command that came while the stage was stopping.
        if self.wanted_um_per_s != 0.0 && now.since(self.command_at) <= self.guard.command_timeout() {
            self.start_velocity(now);
        } else {
            self.wanted_um_per_s = 0.0;
        }
    }
}
