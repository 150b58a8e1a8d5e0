//! Whether the position can be believed, and how it can be lost.
//!
//! A position is valid only while it is vouched for: by homing, an operator, or an unbroken history of reports since. The
//! history is unbroken while the controller carries a mark in its volatile memory (its modal feed, which moves nothing) that
//! this host wrote there: every reset, however quiet, erases it. Controllers that do not tell their modal feed (`$G`) are
//! driven all the same, but nothing is remembered of them from one process to the next.

use std::time::Duration;

use super::{Contact, GrblHost, Manoeuvre, Sent};
use crate::protocol::grbl::command::Command;
use crate::protocol::grbl::reply::MachineState;
use crate::stage::guard::Evidence;
use crate::stage::memory::Remembered;
use crate::stage::trajectory::Trajectory;
use crate::units::Instant;

/// Largest difference between two heights that were each reported rounded to 1 µm, µm.
pub(super) const REPORT_TOLERANCE_UM: f64 = 1.2;
/// Time between two looks at the mark in motion and at rest.
const MARK_PERIOD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1000));
/// Motion that must still be queued for a look at the mark not to delay the end of the motion.
const MARK_ROOM: Duration = Duration::from_millis(150);

/// The mark in the controller's volatile memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// What the controller told last.
    seen: Option<u32>,
    /// What it must tell.
    pub(super) expected: Option<u32>,
    /// Written, not yet read back.
    written: Option<u32>,
    /// Whether it was seen since the stage came to rest.
    confirmed: bool,
    looked: Instant,
}

/// Where the stage is believed to be.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// Machine coordinates of the last report, µm.
    pub(super) machine_um: Option<[f64; 3]>,
    /// Stage = machine + offset.
    pub(super) offset_um: [f64; 3],
    /// Machine less work coordinates, once the controller has told.
    pub(super) work_offset_um: Option<[f64; 3]>,
    /// Exact end of what was sent for z, stage coordinates, µm.
    pub(super) target_um: f64,
    /// The same as rounded for the wire.
    pub(super) sent_um: f64,
    /// Expected z while jogs run.
    pub(super) expected: Trajectory,
    pub(super) contradictions: u32,
}

impl Position {
    pub(super) fn unknown() -> Self {
        Self {
            machine_um: None,
            offset_um: [0.0; 3],
            work_offset_um: None,
            target_um: 0.0,
            sent_um: 0.0,
            expected: Trajectory::at_rest(0.0),
            contradictions: 0,
        }
    }
}

impl GrblHost {
    /// The position is no longer vouched for; what the controller counts may still be right.
    pub(super) fn distrust(&mut self, why: &str) {
        self.guard.distrust(why);
        self.give_up_mark();
    }

    /// The count itself is worth nothing from here on.
    pub(super) fn lose_position(&mut self, why: &str) {
        self.guard.lose(why);
        self.give_up_mark();
        self.lost_mark = None;
    }

    /// What may be written down about the controller now; `None` before the first contact.
    pub fn memory(&self) -> Option<Remembered> {
        let machine_um = self.position.machine_um.filter(|_| self.ever_connected)?;
        let clean = self.is_at_rest()
            && self.fault.is_none()
            && self.mark.confirmed
            && self.mark.expected.is_some()
            && self.guard.knows_any();
        Some(Remembered {
            clean,
            mark: self.mark.expected.or(Some(0)),
            machine_um: if clean { machine_um } else { [0.0; 3] },
            offset_um: self.position.offset_um,
            valid: if clean { self.guard.valid() } else { [false; 3] },
        })
    }

    /// Whether the mark of a stage at rest has yet to be seen, without which nothing can be written down.
    pub fn awaits_mark(&self) -> bool {
        let is_marked = self.mark.written.is_some() || (self.mark.expected.is_some() && !self.mark.confirmed);
        self.is_at_rest() && self.fault.is_none() && is_marked
    }

    /// First contact in this process: what was written down counts if everything agrees with it.
    pub(super) fn recall(&mut self) {
        let evidence = Evidence {
            machine_um: self.position.machine_um,
            mark: self.mark.seen,
            is_locked: self.machine == Some(MachineState::Alarm),
            tolerance_um: REPORT_TOLERANCE_UM + self.firmware.z_step_um(),
        };
        self.mark.written = None;
        let recalled = self.guard.recall(self.memory.take(), evidence);
        self.mark.expected = recalled.mark;
        self.position.offset_um = recalled.offset_um.unwrap_or(self.position.offset_um);
    }

    /// Contact was found again: does the controller still count what it counted before?
    pub(super) fn compare(&mut self) {
        if self.lost_mark.is_none() || self.mark.seen != self.lost_mark {
            self.guard.withdraw();
        }
    }

    /// The controller was reset by this host while it stood still, which leaves its count as it was, but not its mark.
    pub(super) fn survive_reset(&mut self, now: Instant) {
        let stood_um = self.axes_um[2] - self.position.offset_um[2];
        let stands_um = self.position.machine_um.map_or(f64::NAN, |um| um[2]);
        // Written so that NaN counts as lost.
        if (stands_um - stood_um).abs() <= REPORT_TOLERANCE_UM + self.firmware.z_step_um() {
            self.write_mark(now);
        } else {
            self.lose_position("a reset of the controller changed its count");
        }
    }

    /// Vouched for from now on.
    pub(super) fn vouch(&mut self, axes: [bool; 3], now: Instant) {
        self.guard.vouch(axes);
        if self.guard.knows_height() {
            self.lost_mark = None;
        }
        self.write_mark(now);
    }

    /// Leaves a mark in the controller, if it can carry one and has none of ours.
    pub(super) fn write_mark(&mut self, now: Instant) {
        let can_carry = self.mark.seen.is_some() && self.machine != Some(MachineState::Alarm);
        let needs_one = self.guard.knows_any() && self.mark.expected.is_none();
        if !can_carry || !needs_one || self.is_looking() {
            return;
        }
        // Any number that a controller does not happen to hold: 100 000 to 999 999 mm/min.
        let mark = 100_000 + (now.as_nanos().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 % 900_000;
        self.mark.written = Some(mark);
        self.send(Command::Mark(mark), Sent::Mark, now);
        self.look_at_mark(now);
    }

    pub(super) fn look_at_mark(&mut self, now: Instant) {
        self.mark.looked = now;
        self.send(Command::ParserState, Sent::Look, now);
    }

    /// The stage has come to rest: what it carries has to be seen once more before anything is written down.
    pub(super) fn doubt_mark(&mut self) {
        self.mark.confirmed = false;
        self.mark.looked = Instant::default();
    }

    /// A line was damaged that may have been a welcome, or a report failed to come.
    pub(super) fn suspect_reset(&mut self) {
        self.mark.looked = Instant::default();
    }

    /// Looks at the mark when it is time to.
    pub(super) fn poll_mark(&mut self, now: Instant) {
        let (moving, resting) = MARK_PERIOD;
        let period = match self.manoeuvre {
            Manoeuvre::Rest => resting,
            Manoeuvre::Velocity => moving,
            Manoeuvre::RunOut { .. } if self.planned_until > now + MARK_ROOM => moving,
            _ => return,
        };
        if self.contact != Contact::Ready || self.is_looking() {
            return;
        }
        if self.manoeuvre == Manoeuvre::Rest {
            self.write_mark(now);
        }
        if self.mark.expected.is_some() && now.since(self.mark.looked) >= period {
            self.look_at_mark(now);
        }
    }

    fn is_looking(&self) -> bool {
        self.pending
            .iter()
            .any(|pending| matches!(pending.what, Sent::Look | Sent::Mark))
    }

    /// Whether the controller has ever told its modal feed.
    pub(super) fn tells_mark(&self) -> bool {
        self.mark.seen.is_some()
    }

    /// A look was answered in full: a mark that was written and not seen will not be.
    pub(super) fn finish_look(&mut self) {
        if self.mark.written.is_some() {
            self.give_up_mark();
            self.mark.seen = None;
        }
    }

    /// `[GC:G0 G54 ... F471100 S0]`.
    pub(super) fn handle_modal_state(&mut self, text: &str, now: Instant) {
        self.answered = Some(Sent::Look);
        let feed = text
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix('F'));
        let Some(feed) = feed
            .and_then(|feed| feed.parse::<f64>().ok())
            .filter(|feed| (0.0..1e7).contains(feed))
        else {
            return;
        };
        let seen = feed as u32;
        self.mark.seen = Some(seen);
        if let Some(written) = self.mark.written {
            // What was told before the mark was read is not the mark.
            if seen == written {
                self.mark.written = None;
                self.mark.expected = Some(written);
                self.mark.confirmed = true;
            }
            return;
        }
        match self.mark.expected {
            Some(expected) if expected != seen => {
                self.halt_in_fault("the controller was reset; its position is lost", now);
            }
            Some(_) => self.mark.confirmed = true,
            None => {}
        }
    }

    /// The controller does not tell its modal feed, or takes none.
    pub(super) fn give_up_mark(&mut self) {
        self.mark.written = None;
        self.mark.expected = None;
    }
}
