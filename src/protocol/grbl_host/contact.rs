//! Getting in touch: opening, losing and finding the controller again.

use std::time::Duration;

use super::{GrblHost, Motion, Phase, STOP_POLL, Sent, ms};
use crate::protocol::grbl::{Command, RealTime};
use crate::protocol::grbl_host::firmware::Firmware;
use crate::protocol::grbl_reply::{MachineState, Reply};
use crate::units::Instant;

/// Period of attempts to get in touch.
const HELLO_PERIOD: Duration = Duration::from_millis(250);
/// Silence after which a controller that cannot be reached is reset, and the pause between such resets.
const DEAF_AFTER: Duration = Duration::from_millis(2000);

impl GrblHost {
    /// The link is open: get in touch.
    pub fn handle_open(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.splitter.clear();
        self.out.clear();
        self.mute = false;
        self.vain_resets = 0;
        self.firmware = Firmware::default();
        self.reason = "waiting for the controller to answer".to_owned();
        self.start_hello(now);
    }

    /// The link is gone, for the reason given as a sentence.
    pub fn handle_close(&mut self, reason: &str, now: Instant) {
        self.clock = self.clock.max(now);
        self.lose(reason);
        self.phase = Phase::Closed;
        self.out.clear();
    }

    /// Contact is lost: nothing about the stage is known any more.
    pub(super) fn lose(&mut self, reason: &str) {
        self.motion = Motion::Rest;
        self.wanted_um_per_s = 0.0;
        self.pending.clear();
        self.asked = None;
        self.position.valid = false;
        self.position.doubtful = true;
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
                    None => self.garbled_lines += 1,
                }
            }
        }
    }

    /// What to write now.
    pub fn poll(&mut self, now: Instant) -> Vec<u8> {
        self.clock = self.clock.max(now);
        match self.phase {
            Phase::Closed => self.out.clear(),
            Phase::Hello { .. } => self.poll_hello(now),
            Phase::Resetting { deadline } | Phase::Asking { deadline } if now >= deadline => {
                self.start_hello(now)
            }
            Phase::Resetting { .. } | Phase::Asking { .. } => {}
            Phase::Ready => {
                self.poll_motion(now);
                self.poll_reports(now);
            }
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Self::poll`] has something to do at the latest; `None` without a link.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let now = self.clock;
        match self.phase {
            Phase::Closed => None,
            Phase::Hello { next, .. } => Some(next),
            Phase::Resetting { deadline } | Phase::Asking { deadline } => Some(deadline),
            Phase::Ready => Some(
                match self.motion {
                    Motion::Rest => self.report_due(),
                    Motion::Homing { .. } => now + ms(self.config.poll_idle_ms),
                    Motion::Velocity => {
                        let lookahead = self.config.lookahead(self.wanted_um_per_s);
                        let room = lookahead.saturating_sub(ms(self.config.chunk_ms));
                        let refill = Instant::from_nanos(
                            self.planned_until
                                .as_nanos()
                                .saturating_sub(room.as_nanos() as u64),
                        );
                        let timeout = self.command_at + ms(self.config.command_timeout_ms + 1);
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
        self.motion = Motion::Rest;
        self.wanted_um_per_s = 0.0;
        self.pending.clear();
        self.asked = None;
        self.misses = 0;
        self.machine = None;
        self.phase = Phase::Hello {
            since: now,
            next: now,
            acknowledged: false,
        };
    }

    pub(super) fn poll_hello(&mut self, now: Instant) {
        let Phase::Hello {
            since,
            next,
            acknowledged,
        } = self.phase
        else {
            return;
        };
        if now < next {
            return;
        }
        if self.mute {
            self.phase = Phase::Hello {
                since: now,
                next: now + HELLO_PERIOD,
                acknowledged,
            };
            return;
        }
        let deaf = now.since(since) >= DEAF_AFTER;
        let silent_to_lines = self.machine.is_some() && !acknowledged && now.since(since) >= 2 * HELLO_PERIOD;
        if deaf || silent_to_lines {
            self.reason = "the controller does not answer; resetting it".to_owned();
            self.vain_resets += 1;
            self.reset(now);
            self.phase = Phase::Resetting {
                deadline: now + DEAF_AFTER,
            };
            return;
        }
        self.phase = Phase::Hello {
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
            Phase::Hello {
                acknowledged: true, ..
            },
            Some(state),
        ) = (self.phase, self.machine)
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
        self.phase = Phase::Asking {
            deadline: now + ms(1500),
        };
        self.send(Command::BuildInfo, Sent::BuildInfo, now);
        self.send(Command::Settings, Sent::Settings, now);
    }

    pub(super) fn finish_connecting(&mut self, now: Instant) {
        self.phase = Phase::Ready;
        self.unlock = false;
        self.reason = String::new();
        if self.firmware.inches {
            self.set_fault("the controller reports inches: set $13=0");
        } else if self.machine == Some(MachineState::Alarm) && self.fault.is_none() {
            self.set_fault("the controller is locked by an alarm");
        }
        if !self.ever_connected {
            self.ever_connected = true;
            self.position.valid = true;
        }
        self.stage_from_report();
        self.ask(now);
    }

    pub(super) fn reset(&mut self, now: Instant) {
        self.pending.clear();
        self.out.clear();
        self.asked = None;
        self.motion = Motion::Rest;
        self.wanted_um_per_s = 0.0;
        self.out.push(RealTime::Reset.byte());
        self.phase = Phase::Resetting {
            deadline: now + ms(1500),
        };
    }

    pub(super) fn reset_in_fault(&mut self, reason: &str, now: Instant) {
        self.position.valid = false;
        self.set_fault(reason);
        self.reset(now);
    }

    pub(super) fn set_fault(&mut self, reason: &str) {
        self.wanted_um_per_s = 0.0;
        self.motion = Motion::Rest;
        self.fault = Some(reason.to_owned());
    }
}
