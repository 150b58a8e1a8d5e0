//! Time and length as the core sees them.
//!
//! The core reads no clock, so its [`Instant`] is a plain count of nanoseconds that any clock can supply: the wall clock,
//! ROS time, or the virtual clock of a test.

use std::ops::{Add, Neg, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: nanoseconds since the epoch of whichever clock made it (for ROS, 1970).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the clock's epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant this long ago; the epoch if that is before it.
    pub fn before(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// How far the clock of another computer may run ahead of this one: what it stamps later than that is not of now.
pub const CLOCK_SKEW: Duration = Duration::from_millis(50);

/// A signed length in micrometres, the unit of everything optical in this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micrometres(pub f64);

impl Micrometres {
    /// From metres, the unit of every ROS interface.
    pub fn from_metres(metres: f64) -> Self {
        Self(metres * 1e6)
    }

    /// In metres.
    pub fn as_metres(self) -> f64 {
        self.0 * 1e-6
    }

    /// Magnitude without sign.
    pub fn abs(self) -> Self {
        Self(self.0.abs())
    }
}

impl Add for Micrometres {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Micrometres {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for Micrometres {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// Height of the lens in stage coordinates; up, away from the slide, is positive.
///
/// The only arithmetic with a [`Defocus`] is the one that means something: the height at which the specimen is in focus.
///
/// ```
/// use hhnet::units::{Defocus, StageHeight};
/// // 30 µm too far from the slide: focus is 30 µm lower.
/// assert_eq!(StageHeight::from_um(50.0) - Defocus::from_um(30.0), StageHeight::from_um(20.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct StageHeight(f64);

/// Signed distance of the lens from focus; positive: too far from the slide.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Defocus(f64);

impl StageHeight {
    /// From micrometres.
    pub const fn from_um(um: f64) -> Self {
        Self(um)
    }

    /// From metres.
    pub fn from_metres(metres: f64) -> Self {
        Self(metres * 1e6)
    }

    /// In micrometres.
    pub const fn um(self) -> f64 {
        self.0
    }

    /// In metres.
    pub fn as_metres(self) -> f64 {
        self.0 * 1e-6
    }
}

impl Defocus {
    /// From micrometres.
    pub const fn from_um(um: f64) -> Self {
        Self(um)
    }

    /// From metres.
    pub fn from_metres(metres: f64) -> Self {
        Self(metres * 1e6)
    }

    /// In micrometres.
    pub const fn um(self) -> f64 {
        self.0
    }
}

impl Sub<Defocus> for StageHeight {
    type Output = Self;

    fn sub(self, defocus: Defocus) -> Self {
        Self(self.0 - defocus.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_go_below_zero() {
        let early = Instant::from_nanos(5);
        let late = early + Duration::from_nanos(7);
        assert_eq!(late.since(early), Duration::from_nanos(7));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.before(Duration::from_nanos(7)), early);
        assert_eq!(early.before(Duration::from_secs(1)), Instant::default());
    }

    #[test]
    fn metres_round_trip() {
        assert!((Micrometres::from_metres(1.43e-6).0 - 1.43).abs() < 1e-12);
        assert!((Micrometres(1.43).as_metres() - 1.43e-6).abs() < 1e-18);
    }
}
