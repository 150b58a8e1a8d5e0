//! For how long the driver of the stage has said nothing.
//!
//! Only time in which this process ran counts: one that was not let run for a second finds the driver's word a second old, and the driver, which did not
//! run either, is about to say more.

use std::time::Duration;

use crate::units::Instant;

/// Longest time between two looks that counts: the node looks several times as often.
const MOST_APART: Duration = Duration::from_millis(100);

/// Silence of the driver, as far as this process ran.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The driver's newest word.
    stamp: Instant,
    looked: Instant,
    lasted: Duration,
}

impl Silence {
    /// The driver's newest word is of `stamp`.
    pub(super) fn look(&mut self, stamp: Instant, now: Instant) {
        let apart = now.since(std::mem::replace(&mut self.looked, now));
        if std::mem::replace(&mut self.stamp, stamp) == stamp {
            self.lasted += apart.min(MOST_APART);
        } else {
            self.lasted = Duration::ZERO;
        }
    }

    /// How long it has lasted.
    pub(super) fn lasted(&self) -> Duration {
        self.lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_process_that_did_not_run_hears_no_silence() {
        let mut silence = Silence::default();
        for ms in (1000..1200).step_by(20) {
            silence.look(at(ms), at(ms));
        }
        silence.look(at(1180), at(9000));
        assert_eq!(silence.lasted(), MOST_APART);
        silence.look(at(9000), at(9020));
        assert_eq!(silence.lasted(), Duration::ZERO);
    }

    #[test]
    fn a_driver_that_has_stopped_is_noticed() {
        let mut silence = Silence::default();
        silence.look(at(1000), at(1000));
        for ms in (1020..=1600).step_by(20) {
            silence.look(at(1000), at(ms));
        }
        assert_eq!(silence.lasted(), Duration::from_millis(600));
    }
}
