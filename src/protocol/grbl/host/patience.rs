//! How long an answer is awaited, if the process that awaits it runs.
//!
//! On a busy computer a process may not run for tenths of a second. The answers that came in the meantime lie unread in the port, so
//! that time says nothing about the controller: counted as its silence, three such pauses in a row were a lost contact.

use std::time::Duration;

use super::{Contact, GrblHost, Manoeuvre, ms};
use crate::units::Instant;

/// Sleep beyond the time that was meant, from which the process is said not to have run.
const OVERSLEPT: Duration = ms(20);
/// Time that is excused in all until the controller answers again: whatever the cause, a contact that cannot be kept is lost then.
const MOST_EXCUSED: Duration = ms(1000);

/// When the process means to run next, and for how long it did not since the controller answered last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    due: Option<Instant>,
    excused: Duration,
}

impl GrblHost {
    /// Puts off every deadline of an answer by the time for which this process slept too long.
    pub(super) fn excuse_oversleep(&mut self, now: Instant) {
        let overslept = self
            .patience
            .due
            .take()
            .map_or(Duration::ZERO, |due| now.since(due));
        let excused = overslept.min(MOST_EXCUSED - self.patience.excused);
        if self.contact != Contact::Ready || overslept <= OVERSLEPT {
            return;
        }
        self.patience.excused += excused;
        self.answer_due = self.answer_due + excused;
        for pending in &mut self.pending {
            pending.at = pending.at + excused;
        }
        match &mut self.manoeuvre {
            Manoeuvre::RunOut { deadline, .. }
            | Manoeuvre::AwaitAcks { deadline }
            | Manoeuvre::AwaitState { deadline }
            | Manoeuvre::AwaitIdle { deadline }
            | Manoeuvre::Homing { deadline } => *deadline = *deadline + excused,
            Manoeuvre::Rest | Manoeuvre::Velocity | Manoeuvre::AwaitFence => {}
        }
    }

    /// The process sleeps until the next wake-up.
    pub(super) fn mark_sleep(&mut self) {
        self.patience.due = self.next_wakeup();
    }

    /// The controller has answered.
    pub(super) fn renew_patience(&mut self) {
        self.misses = 0;
        self.patience.excused = Duration::ZERO;
    }
}
