//! The time of a process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::units::Instant;

/// A clock that starts at the wall clock's time and never jumps: a step of the system time must not stretch a motion.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: std::time::Instant,
    started_unix: Duration,
}

impl Clock {
    /// A clock set by the system time.
    pub fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Nanoseconds since 1970, monotonic.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.started_unix + self.started.elapsed()
    }
}
