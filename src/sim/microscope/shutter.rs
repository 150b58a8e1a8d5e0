//! When the camera's exposures happen: at an even period, each a little late, by an amount that depends on the seed and the
//! number of the exposure alone.
//!
//! It reads no clock. In virtual time [`Shutter::due`] says when an exposure is due; in real time a timer does.

use std::time::Duration;

use crate::sim::slide::SiteRandom;
use crate::units::Instant;

/// Purpose of the random numbers.
const JITTER: u64 = 0x717;
/// Longest exposure, s.
const LONGEST_S: f64 = 1.0;
/// Most exposures per second.
const MOST_PER_S: f64 = 1000.0;

/// The timing of a camera that exposes by itself, again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shutter {
    seed: u64,
    period: Duration,
    jitter_s: f64,
    exposure: Duration,
}

/// One exposure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// First light.
    pub start: Instant,
    /// Half way through; the time stamp of the frame.
    pub middle: Instant,
    /// Last light.
    pub end: Instant,
}

impl Shutter {
    /// `frame_rate` exposures per second (above 0, at most 1000) of `exposure_s` (at most 1 s), which begin up to `jitter_s` late (at
    /// most half a period).
    ///
    /// # Errors
    /// If a value is outside its range.
    pub fn new(seed: u64, frame_rate: f64, jitter_s: f64, exposure_s: f64) -> Result<Self, ShutterError> {
        if !(frame_rate > 0.0 && (1.0 / MOST_PER_S..1e9).contains(&(1.0 / frame_rate))) {
            return Err(ShutterError::FrameRate { frame_rate });
        }
        let most_s = 0.5 / frame_rate;
        if !(0.0..=most_s).contains(&jitter_s) {
            return Err(ShutterError::Jitter { jitter_s, most_s });
        }
        if !(0.0..=LONGEST_S).contains(&exposure_s) {
            return Err(ShutterError::Exposure { exposure_s });
        }
        Ok(Self {
            seed,
            period: Duration::from_secs_f64(1.0 / frame_rate),
            jitter_s,
            exposure: Duration::from_secs_f64(exposure_s),
        })
    }

    /// Time between exposures, without jitter.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// When exposure `tick` is due if the first one, 0, is due at `begin`.
    pub fn due(&self, begin: Instant, tick: u64) -> Instant {
        let nanos = u128::from(tick) * self.period.as_nanos();
        Instant::from_nanos(
            begin
                .as_nanos()
                .saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)),
        )
    }

    /// Exposure `tick`, due at `due`.
    pub fn exposure(&self, tick: u64, due: Instant) -> Exposure {
        let mut random = SiteRandom::at(self.seed, JITTER, tick as i64, 0);
        let start = due + Duration::from_secs_f64(random.range(0.0, self.jitter_s));
        Exposure {
            start,
            middle: start + self.exposure / 2,
            end: start + self.exposure,
        }
    }
}

/// A camera cannot expose like that.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ShutterError {
    /// Exposures per second.
    #[error("frame_rate must lie in (0, 1000] per second, not {frame_rate}")]
    FrameRate {
        /// Rate asked for, 1/s.
        frame_rate: f64,
    },
    /// Lateness.
    #[error("frame_jitter must lie in [0, {most_s}] s at this frame_rate, not {jitter_s}")]
    Jitter {
        /// Jitter asked for, s.
        jitter_s: f64,
        /// Largest jitter, s.
        most_s: f64,
    },
    /// Length of the exposure.
    #[error("exposure must lie in [0, 1] s, not {exposure_s}")]
    Exposure {
        /// Exposure asked for, s.
        exposure_s: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Instant = Instant::from_nanos(7_000_000_000);

    fn exposures(seed: u64) -> Vec<Exposure> {
        let shutter = Shutter::new(seed, 40.0, 0.0005, 0.002).unwrap();
        (0..2000)
            .map(|tick| shutter.exposure(tick, shutter.due(BEGIN, tick)))
            .collect()
    }

    #[test]
    fn a_frame_every_25_ms_and_no_more_than_the_jitter_late() {
        let late_ms: Vec<f64> = (0..)
            .zip(exposures(3))
            .map(|(tick, exposure)| {
                let due = BEGIN.as_nanos() + tick * 25_000_000;
                assert!(exposure.start.as_nanos() >= due, "exposure {tick} begins early");
                1e-6 * (exposure.start.as_nanos() - due) as f64
            })
            .collect();
        assert!(late_ms.iter().all(|late| *late <= 0.5));
        // Anywhere between, and on average half way.
        let mean = late_ms.iter().sum::<f64>() / late_ms.len() as f64;
        assert!((mean - 0.25).abs() < 0.02, "{mean} ms late on average");
        assert!(late_ms.iter().any(|late| *late < 0.02) && late_ms.iter().any(|late| *late > 0.48));
    }

    #[test]
    fn the_stamp_is_the_middle_of_the_exposure() {
        for exposure in exposures(3) {
            assert_eq!(exposure.middle.since(exposure.start), Duration::from_millis(1));
            assert_eq!(exposure.end.since(exposure.middle), Duration::from_millis(1));
        }
    }

    #[test]
    fn the_seed_says_how_late() {
        assert_eq!(exposures(3), exposures(3));
        assert_ne!(exposures(3), exposures(4));
    }

    #[test]
    fn impossible_timing_is_named() {
        for (frame_rate, jitter_s, exposure_s, named) in [
            (0.0, 0.0, 0.002, "frame_rate"),
            (f64::NAN, 0.0, 0.002, "frame_rate"),
            (2000.0, 0.0, 0.002, "frame_rate"),
            (40.0, 0.013, 0.002, "frame_jitter"),
            (40.0, -0.001, 0.002, "frame_jitter"),
            (40.0, 0.0, f64::INFINITY, "exposure"),
            (40.0, 0.0, -1.0, "exposure"),
        ] {
            let message = Shutter::new(1, frame_rate, jitter_s, exposure_s)
                .unwrap_err()
                .to_string();
            assert!(message.starts_with(named), "{message}");
        }
    }
}
