//! Getting in touch: opening, losing and finding the controller again.

use std::time::Duration;

use super::firmware::Firmware;
use super::first_motion::FirstMotion;
use super::foreign::{may_be_welcome, shown, unsupported};
use super::timing::{CHUNK, POLL_IDLE, lookahead};
use super::{Contact, GrblHost, Manoeuvre, STOP_POLL, Sent, ms};
use crate::protocol::grbl::command::{Command, RealTime};
use crate::protocol::grbl::reply::{MachineState, Reply};
use crate::units::Instant;

/// Period of attempts to get in touch.
const HELLO_PERIOD: Duration = Duration::from_millis(250);
/// Silence after which a controller that cannot be reached is reset, and the pause between such resets.
const DEAF_AFTER: Duration = Duration::from_millis(2000);

/// Decimals from which a position may be one in inches.
pub(super) const INCH_DECIMALS: u8 = 4;
/// Why there is no position yet.
const UNTOLD: &str = "the controller reports work positions and has not told their offset yet";

impl GrblHost {
    /// The link is open: get in touch.
    pub fn handle_open(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        if self.ever_connected && self.contact != Contact::Closed {
            self.lose("the port was opened anew");
        }
        self.splitter.clear();
        self.out.clear();
        self.mute = false;
        self.vain_resets = 0;
        self.unread = None;
        self.firmware = Firmware::default();
        self.is_unintelligible = false;
        if std::mem::take(&mut self.is_foreign) {
            self.fault = None;
        }
        self.reason = "waiting for the controller to answer".to_owned();
        self.start_hello(now);
    }

    /// The link is gone, for the reason given as a sentence.
    pub fn handle_close(&mut self, reason: &str, now: Instant) {
        self.clock = self.clock.max(now);
        self.lose(reason);
        self.contact = Contact::Closed;
        self.out.clear();
    }

    /// Contact is lost: nothing about the stage is known any more.
    pub(super) fn lose(&mut self, reason: &str) {
        self.manoeuvre = Manoeuvre::Rest;
        self.wanted_um_per_s = 0.0;
        self.pending.clear();
        self.asked = None;
        self.lost_mark = self.mark.expected.or(self.lost_mark);
        self.distrust("contact with the controller was lost");
        self.onward = None;
        self.first_motion = FirstMotion::Due;
        self.silent = true;
        self.reason = reason.to_owned();
        if self.ever_connected && self.fault.is_none() {
            self.fault = Some("contact was lost; confirm the position before moving again".to_owned());
        }
    }

    /// Takes what the link brought.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.clock = self.clock.max(now);
        for byte in bytes {
            if let Some(line) = self.splitter.push(*byte) {
                match Reply::parse(&line) {
                    Some(reply) => {
                        self.vain_resets = 0;
                        self.handle_reply(reply, now);
                    }
                    None => self.handle_unreadable(&line, now),
                }
            }
        }
    }

    /// A line that is no reply: noise, the remains of one, or another firmware.
    fn handle_unreadable(&mut self, line: &[u8], now: Instant) {
        self.garbled_lines += 1;
        if may_be_welcome(line) {
            self.suspect_reset();
        }
        if !matches!(self.contact, Contact::Hello { .. }) {
            return;
        }
        self.unread = Some((shown(line), now));
        if let Some(sentence) = unsupported(&shown(line)) {
            self.meet_foreigner(&sentence);
        }
    }

    /// What answers cannot be driven: nothing more is sent to it.
    pub(super) fn meet_foreigner(&mut self, sentence: &str) {
        self.is_foreign = true;
        self.silent = false;
        self.distrust("the controller cannot be driven");
        self.set_fault(sentence);
    }

    /// What to write now.
    pub fn poll(&mut self, now: Instant) -> Vec<u8> {
        self.clock = self.clock.max(now);
        self.excuse_oversleep(now);
        match self.contact {
            Contact::Closed => self.out.clear(),
            Contact::Hello { .. } => self.poll_hello(now),
            Contact::Resetting { deadline } | Contact::Asking { deadline } if now >= deadline => {
                self.start_hello(now)
            }
            Contact::Resetting { .. } | Contact::Asking { .. } => {}
            Contact::Ready => {
                self.poll_motion(now);
                self.poll_mark(now);
                self.poll_reports(now);
            }
        }
        self.mark_sleep();
        std::mem::take(&mut self.out)
    }

    /// When [`Self::poll`] has something to do at the latest; `None` without a link.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let now = self.clock;
        match self.contact {
            Contact::Closed => None,
            Contact::Hello { next, .. } => Some(next),
            Contact::Resetting { deadline } | Contact::Asking { deadline } => Some(deadline),
            Contact::Ready => Some(
                match self.manoeuvre {
                    Manoeuvre::Rest => self.report_due(),
                    Manoeuvre::Homing { .. } => now + POLL_IDLE,
                    Manoeuvre::Velocity => {
                        let queue = lookahead(self.wanted_um_per_s);
                        let room = queue.saturating_sub(CHUNK);
                        let refill = Instant::from_nanos(
                            self.planned_until
                                .as_nanos()
                                .saturating_sub(room.as_nanos() as u64),
                        );
                        let timeout = self.command_at + self.guard.command_timeout() + ms(1);
                        refill.min(timeout).min(self.report_due()).min(now + STOP_POLL)
                    }
                    _ => now + STOP_POLL,
                }
                .max(now + Duration::from_millis(1)),
            ),
        }
    }
}

impl GrblHost {
    pub(super) fn start_hello(&mut self, now: Instant) {
        self.manoeuvre = Manoeuvre::Rest;
        self.wanted_um_per_s = 0.0;
        self.pending.clear();
        self.asked = None;
        self.renew_patience();
        self.unanswered_looks = 0;
        self.onward = None;
        self.first_motion = FirstMotion::Due;
        self.machine = None;
        self.contact = Contact::Hello {
            since: now,
            next: now,
            acknowledged: false,
        };
    }

    pub(super) fn poll_hello(&mut self, now: Instant) {
        let Contact::Hello {
            since,
            next,
            acknowledged,
        } = self.contact
        else {
            return;
        };
        if now < next {
            return;
        }
        if self.mute || self.is_foreign {
            self.contact = Contact::Hello {
                since: now,
                next: now + HELLO_PERIOD,
                acknowledged,
            };
            return;
        }
        let deaf = now.since(since) >= DEAF_AFTER;
        let silent_to_lines = self.machine.is_some() && !acknowledged && now.since(since) >= 2 * HELLO_PERIOD;
        if let Some((line, _)) = self
            .unread
            .as_ref()
            .filter(|(_, at)| deaf && now.since(*at) < DEAF_AFTER)
        {
            // A reset would not make it speak another language.
            self.is_unintelligible = true;
            self.reason = format!(
                "the controller answers, but this line cannot be read: '{line}'; check its firmware and the baud rate"
            );
            self.contact = Contact::Hello {
                since: now,
                next: now + HELLO_PERIOD,
                acknowledged,
            };
            return;
        }
        if deaf || silent_to_lines {
            self.reason = "the controller does not answer; resetting it".to_owned();
            self.vain_resets += 1;
            self.reset(now);
            self.contact = Contact::Resetting {
                deadline: now + DEAF_AFTER,
            };
            return;
        }
        self.contact = Contact::Hello {
            since,
            next: now + HELLO_PERIOD,
            acknowledged,
        };
        self.pending.clear();
        // The first byte ends whatever half line a predecessor left behind.
        self.send(Command::Nothing, Sent::Hello, now);
        self.ask(now);
    }

    /// In touch once both a line was acknowledged and the state is known.
    pub(super) fn progress_hello(&mut self, now: Instant) {
        let (
            Contact::Hello {
                acknowledged: true, ..
            },
            Some(state),
        ) = (self.contact, self.machine)
        else {
            return;
        };
        match state {
            MachineState::Idle | MachineState::Check | MachineState::Alarm => self.ask_settings(state, now),
            // Left over from a predecessor; it ends by itself, or by asking once.
            MachineState::Jog => self.out.push(RealTime::JogCancel.byte()),
            MachineState::Home => {}
            _ => self.reset(now),
        }
    }

    pub(super) fn ask_settings(&mut self, state: MachineState, now: Instant) {
        if state == MachineState::Alarm && std::mem::take(&mut self.unlock) {
            self.send(Command::Unlock, Sent::Unlock, now);
            self.machine = Some(MachineState::Idle);
        }
        self.contact = Contact::Asking {
            deadline: now + ms(1500),
        };
        self.send(Command::BuildInfo, Sent::BuildInfo, now);
        self.look_at_mark(now);
        self.send(Command::Settings, Sent::Settings, now);
    }

    pub(super) fn finish_connecting(&mut self, now: Instant) {
        self.contact = Contact::Ready;
        self.unlock = false;
        self.may_move = false;
        self.reason = String::new();
        let is_locked = self.machine == Some(MachineState::Alarm);
        self.check_settings();
        let refused = self.unlock_refused.take();
        if is_locked && self.fault.is_none() {
            let refused = refused.map_or(String::new(), |refusal| {
                format!(" and refused to unlock: {refusal}")
            });
            self.set_fault(&format!(
                "the controller is locked by an alarm{refused}; call ~/home, or ~/clear_fault"
            ));
        }
        // Whatever the fault says, homing ends an alarm.
        self.is_locked = is_locked;
        let reset_at_rest = std::mem::take(&mut self.reset_at_rest);
        if !self.ever_connected {
            self.ever_connected = true;
            if self.position.machine_um.is_some() {
                self.recall();
            } else {
                self.guard.set_doubt(UNTOLD);
            }
        } else if is_locked {
            self.lose_position("the controller was locked by an alarm");
        } else if !self.guard.knows_any() {
            self.compare();
        } else if reset_at_rest {
            self.survive_reset(now);
        }
        self.stage_from_report();
        self.doubt_mark();
        self.ask(now);
    }

    /// Settings that make positions unreadable.
    fn check_settings(&mut self) {
        match self.firmware.inches {
            Some(true) => self.set_fault("the controller reports inches: set $13=0"),
            None if self.decimals >= INCH_DECIMALS => {
                let decimals = self.decimals;
                self.set_fault(&format!(
                    "the controller reports positions with {decimals} decimals, as of inches, and does not tell $13: set $13=0"
                ));
            }
            _ => {}
        }
    }

    pub(super) fn reset(&mut self, now: Instant) {
        self.pending.clear();
        self.out.clear();
        self.asked = None;
        self.manoeuvre = Manoeuvre::Rest;
        self.wanted_um_per_s = 0.0;
        self.out.push(RealTime::Reset.byte());
        self.contact = Contact::Resetting {
            deadline: now + ms(1500),
        };
    }

    pub(super) fn reset_in_fault(&mut self, reason: &str, now: Instant) {
        self.lose_position(reason.trim_end_matches("; the position is lost"));
        self.set_fault(reason);
        self.reset(now);
    }

    /// Ends whatever motion there is; the position is lost.
    pub(super) fn halt_in_fault(&mut self, reason: &str, now: Instant) {
        if self.manoeuvre == Manoeuvre::Rest {
            self.lose_position(reason.trim_end_matches("; the position is lost"));
            self.set_fault(reason);
        } else {
            self.reset_in_fault(reason, now);
        }
    }

    pub(super) fn set_fault(&mut self, reason: &str) {
        self.wanted_um_per_s = 0.0;
        self.onward = None;
        self.first_motion = FirstMotion::Due;
        self.manoeuvre = Manoeuvre::Rest;
        self.is_locked = false;
        self.fault = Some(reason.to_owned());
    }
}
