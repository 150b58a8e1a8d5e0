//! Times that images carry. The controller counts on them: an image stamped too late would be taken for one after a motion.

use std::time::Duration;

use crate::choices;
use crate::units::Instant;

/// Age of an image at its arrival above which its stamp is of another clock.
const OLDEST: Duration = Duration::from_secs(2);

/// Clocks of two computers that are synchronised differ by less.
const AHEAD: Duration = Duration::from_millis(50);

choices! {
    /// Whose time counts.
    StampSource {
        /// The camera's.
        Message = "message",
        /// That of this computer at arrival.
        Arrival = "arrival",
    }
}

/// Why a stamp is not the time of an exposure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// Zero.
    #[error(
        "the images carry no time (stamp 0): let the camera's driver stamp them, or set classifier.stamp to arrival"
    )]
    Missing,
    /// Of the past.
    #[error(
        "the images are stamped {} before they arrive: synchronise the clocks of camera and computer, or set classifier.stamp to arrival", text(*.0)
    )]
    Past(Duration),
    /// Of the future.
    #[error(
        "the images are stamped {} after they arrive: synchronise the clocks of camera and computer, or set classifier.stamp to arrival", text(*.0)
    )]
    Future(Duration),
}

/// Whether an image that arrived then can have been exposed at `stamp`.
///
/// # Errors
/// If it cannot.
pub fn check(stamp: Instant, arrived: Instant) -> Result<(), StampError> {
    let (behind, ahead) = (arrived.since(stamp), stamp.since(arrived));
    if stamp == Instant::default() {
        Err(StampError::Missing)
    } else if behind > OLDEST {
        Err(StampError::Past(behind))
    } else if ahead > AHEAD {
        Err(StampError::Future(ahead))
    } else {
        Ok(())
    }
}

fn text(time: Duration) -> String {
    const DAY_S: f64 = 86_400.0;
    let seconds = time.as_secs_f64();
    if seconds < 2.0 * DAY_S {
        format!("{seconds:.3} s")
    } else {
        format!("{:.0} days", seconds / DAY_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_other_clocks_are_told_apart() {
        let now_ms = 1_790_000_000_000;
        for (stamp_ms, words) in [
            (now_ms, ""),
            (now_ms - 1900, ""),
            (now_ms + 40, ""),
            (0, "no time (stamp 0)"),
            (now_ms - 2500, "2.500 s before"),
            (12_345_678, "20717 days before"),
            (now_ms + 10_000, "10.000 s after"),
        ] {
            let instant = |ms: u64| Instant::from_nanos(1_000_000 * ms);
            let said = check(instant(stamp_ms), instant(now_ms))
                .err()
                .map(|error| error.to_string());
            let said = said.unwrap_or_default();
            assert!(
                said.contains(words) && said.is_empty() == words.is_empty(),
                "{stamp_ms}: {said}"
            );
        }
    }
}
