//! A simulated motorised stage: axes that accelerate, cruise and brake like real ones, with their exact past.
//!
//! A [`Trajectory`] is where one axis was, is and is committed to be, as pieces of constant acceleration. It can be
//! asked for any moment of the last [`HISTORY`], so that a simulated camera can expose in the middle of a move. A
//! [`SimulatedAxis`] follows velocity commands and moves on such a trajectory, never beyond its range. [`Mechanics`] is
//! what lies between a motor on such a trajectory and the lens: play, stops, settling, drift. Lengths are µm with z up,
//! away from the slide; speeds µm/s.

mod mechanics;

use std::collections::VecDeque;
use std::time::Duration;

pub use mechanics::{Drift, Mechanics, MechanicsConfig, MechanicsError, Microsteps};

use crate::units::Instant;

/// How far back a [`Trajectory`] and [`Mechanics`] remember.
pub const HISTORY: Duration = Duration::from_secs(2);

/// Distance under which a move is not worth making, µm.
const NEGLIGIBLE_UM: f64 = 1e-9;

/// One axis of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Across the slide's long side.
    X,
    /// Across its short side.
    Y,
    /// Focus; up is away from the slide.
    Z,
}

impl Axis {
    /// All axes in the order every protocol lists them.
    pub const ALL: [Self; 3] = [Self::X, Self::Y, Self::Z];

    /// Position in an x, y, z array.
    pub const fn index(self) -> usize {
        match self {
            Self::X => 0,
            Self::Y => 1,
            Self::Z => 2,
        }
    }

    /// The upper-case letter of the axis.
    pub const fn letter(self) -> char {
        match self {
            Self::X => 'X',
            Self::Y => 'Y',
            Self::Z => 'Z',
        }
    }
}

/// A stretch of constant acceleration.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: Instant,
    end: Instant,
    from_um: f64,
    to_um: f64,
    from_um_per_s: f64,
    um_per_s2: f64,
}

impl Piece {
    fn position_um(&self, at: Instant) -> f64 {
        if at >= self.end {
            return self.to_um;
        }
        let t = at.since(self.start).as_secs_f64();
        self.from_um + self.from_um_per_s * t + 0.5 * self.um_per_s2 * t * t
    }

    fn um_per_s(&self, at: Instant) -> f64 {
        if at >= self.end || at < self.start {
            return 0.0;
        }
        self.from_um_per_s + self.um_per_s2 * at.since(self.start).as_secs_f64()
    }
}

/// Position of one axis as a function of time, past and committed future.
#[derive(Clone, Debug)]
pub struct Trajectory {
    pieces: VecDeque<Piece>,
    /// Where the axis stood before the first remembered piece.
    before_um: f64,
}

impl Trajectory {
    /// At rest at `position_um`.
    pub fn at_rest(position_um: f64) -> Self {
        Self {
            pieces: VecDeque::new(),
            before_um: position_um,
        }
    }

    /// Position at `at`, µm; exact for the last [`HISTORY`].
    pub fn position_um(&self, at: Instant) -> f64 {
        self.piece_at(at)
            .map_or(self.before_um, |piece| piece.position_um(at))
    }

    /// Velocity at `at`, µm/s.
    pub fn um_per_s(&self, at: Instant) -> f64 {
        self.piece_at(at).map_or(0.0, |piece| piece.um_per_s(at))
    }

    /// Where the committed motion ends, µm.
    pub fn end_um(&self) -> f64 {
        self.pieces.back().map_or(self.before_um, |piece| piece.to_um)
    }

    /// When the committed motion ends; the clock's epoch if there never was any.
    pub fn end(&self) -> Instant {
        self.pieces.back().map_or(Instant::default(), |piece| piece.end)
    }

    /// Appends motion at a steady velocity from the end of what is committed (or from `start`, if that is later) to
    /// `to_um`, lasting `duration`.
    pub fn push_steady(&mut self, start: Instant, duration: Duration, to_um: f64) {
        let from_um = self.end_um();
        let seconds = duration.as_secs_f64();
        let um_per_s = if seconds > 0.0 {
            (to_um - from_um) / seconds
        } else {
            0.0
        };
        self.push(start, duration, to_um, um_per_s, 0.0);
    }

    /// Appends `seconds` of constant acceleration beginning at `um_per_s`, after what is committed or at `start`,
    /// whichever is later.
    pub fn push_ramp(&mut self, start: Instant, seconds: f64, um_per_s: f64, um_per_s2: f64) {
        let to_um = self.end_um() + um_per_s * seconds + 0.5 * um_per_s2 * seconds * seconds;
        self.push(
            start,
            Duration::from_secs_f64(seconds.clamp(0.0, 1e9)),
            to_um,
            um_per_s,
            um_per_s2,
        );
    }

    fn push(&mut self, start: Instant, duration: Duration, to_um: f64, from_um_per_s: f64, um_per_s2: f64) {
        let start = start.max(self.end());
        self.pieces.push_back(Piece {
            start,
            end: start + duration,
            from_um: self.end_um(),
            to_um,
            from_um_per_s,
            um_per_s2,
        });
    }

    /// Drops everything committed after `at`: the axis stands from then on where it is then.
    pub fn truncate(&mut self, at: Instant) {
        while self.pieces.back().is_some_and(|piece| piece.start >= at) {
            self.pieces.pop_back();
        }
        if let Some(last) = self.pieces.back_mut()
            && last.end > at
        {
            last.to_um = last.position_um(at);
            last.end = at;
        }
    }

    /// Shifts every position, past and future, by `by_um`: a change of coordinates, not a motion.
    pub fn shift(&mut self, by_um: f64) {
        self.before_um += by_um;
        for piece in &mut self.pieces {
            piece.from_um += by_um;
            piece.to_um += by_um;
        }
    }

    fn piece_at(&self, at: Instant) -> Option<&Piece> {
        self.pieces.iter().rev().find(|piece| piece.start <= at)
    }

    /// Drops what is more than [`HISTORY`] before `now`.
    pub fn forget(&mut self, now: Instant) {
        while let Some(first) = self.pieces.front()
            && self.pieces.len() > 1
            && first.end + HISTORY < now
        {
            self.before_um = first.to_um;
            self.pieces.pop_front();
        }
    }
}

/// How a simulated axis moves.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisConfig {
    /// Acceleration and deceleration, µm/s².
    pub um_per_s2: f64,
    /// Highest speed, µm/s; faster commands are slowed to it.
    pub max_um_per_s: f64,
    /// Lowest and highest position it can reach, µm.
    pub range_um: (f64, f64),
    /// Size of a microstep, µm; `None` for continuous motion.
    pub microstep_um: Option<f64>,
    /// Time from a command to the start of its effect.
    pub latency: Duration,
}

impl Default for AxisConfig {
    /// A fine focus drive: 100 mm/s², 1 mm/s, ±5 mm, microsteps of 0.05 µm, 10 ms latency.
    fn default() -> Self {
        Self {
            um_per_s2: 100_000.0,
            max_um_per_s: 1000.0,
            range_um: (-5000.0, 5000.0),
            microstep_um: Some(0.05),
            latency: Duration::from_millis(10),
        }
    }
}

impl AxisConfig {
    /// Refuses values no axis can have.
    ///
    /// # Errors
    /// A sentence naming the value that is wrong.
    pub fn check(&self) -> Result<(), AxisConfigError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.um_per_s2) || !positive(self.max_um_per_s) {
            return Err(AxisConfigError::NotPositive);
        }
        if !self.microstep_um.is_none_or(positive) {
            return Err(AxisConfigError::Microstep);
        }
        let (low, high) = self.range_um;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(AxisConfigError::Range { low, high });
        }
        Ok(())
    }
}

/// An axis cannot move as configured.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AxisConfigError {
    /// Acceleration or speed.
    #[error("an axis needs a positive, finite acceleration and speed")]
    NotPositive,
    /// Microstep.
    #[error("a microstep must be positive and finite; leave it out for continuous motion")]
    Microstep,
    /// Range.
    #[error("an axis cannot range from {low} to {high} µm: the first must be the lower one")]
    Range {
        /// Lower end, µm.
        low: f64,
        /// Upper end, µm.
        high: f64,
    },
}

/// One axis following velocity and position commands.
#[derive(Clone, Debug)]
pub struct SimulatedAxis {
    config: AxisConfig,
    trajectory: Trajectory,
}

impl SimulatedAxis {
    /// An axis at rest at `position_um`, which is brought inside the range.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub fn new(config: AxisConfig, position_um: f64) -> Result<Self, AxisConfigError> {
        config.check()?;
        let position_um = position_um.clamp(config.range_um.0, config.range_um.1);
        Ok(Self {
            config,
            trajectory: Trajectory::at_rest(position_um),
        })
    }

    /// Position at `at`, µm, on a whole microstep if there are microsteps.
    pub fn position_um(&self, at: Instant) -> f64 {
        let exact = self.trajectory.position_um(at);
        self.config
            .microstep_um
            .map_or(exact, |step| (exact / step).round() * step)
    }

    /// Velocity at `at`, µm/s.
    pub fn um_per_s(&self, at: Instant) -> f64 {
        self.trajectory.um_per_s(at)
    }

    /// Whether it still moves at or after `at`.
    pub fn is_moving(&self, at: Instant) -> bool {
        self.trajectory.end() > at
    }

    /// Accelerates to `um_per_s` and keeps it until told otherwise, braking in time before the end of the range. A
    /// velocity that is not finite counts as zero.
    pub fn set_velocity(&mut self, um_per_s: f64, now: Instant) {
        let max = self.config.max_um_per_s;
        let wanted = if um_per_s.is_finite() {
            um_per_s.clamp(-max, max)
        } else {
            0.0
        };
        let (start, from) = self.interrupt(now);
        if wanted == 0.0 {
            self.ramp(start, from, 0.0);
            return;
        }
        let limit = if wanted > 0.0 {
            self.config.range_um.1
        } else {
            self.config.range_um.0
        };
        self.travel(start, from, limit, wanted.abs());
    }

    /// Moves to `target_um`, brought inside the range, at no more than `um_per_s`, and stops there.
    pub fn move_to(&mut self, target_um: f64, um_per_s: f64, now: Instant) {
        if !target_um.is_finite() || !um_per_s.is_finite() || um_per_s == 0.0 {
            self.set_velocity(0.0, now);
            return;
        }
        let (start, from) = self.interrupt(now);
        let (low, high) = self.config.range_um;
        self.travel(
            start,
            from,
            target_um.clamp(low, high),
            um_per_s.abs().min(self.config.max_um_per_s),
        );
    }

    /// Cuts the trajectory where a command given `now` takes effect; when that is, and the velocity there.
    fn interrupt(&mut self, now: Instant) -> (Instant, f64) {
        self.trajectory.forget(now);
        let start = now + self.config.latency;
        let um_per_s = self.trajectory.um_per_s(start);
        self.trajectory.truncate(start);
        (start, um_per_s)
    }

    /// Changes speed from `from` to `to`, µm/s.
    fn ramp(&mut self, start: Instant, from: f64, to: f64) {
        let seconds = (to - from).abs() / self.config.um_per_s2;
        if seconds > 0.0 {
            self.trajectory
                .push_ramp(start, seconds, from, self.config.um_per_s2.copysign(to - from));
        }
    }

    /// From velocity `from` to rest at `target_um`, at `speed` on the way.
    fn travel(&mut self, start: Instant, from: f64, target_um: f64, speed: f64) {
        let a = self.config.um_per_s2;
        let way = target_um - self.trajectory.end_um();
        let braking = from * from.abs() / (2.0 * a);
        if from != 0.0 && ((way - braking) * from < -NEGLIGIBLE_UM || way * from < 0.0) {
            // Too fast to stop there, or going the wrong way: brake first, then come back.
            self.ramp(start, from, 0.0);
            self.travel(start, 0.0, target_um, speed);
            return;
        }
        if way.abs() < NEGLIGIBLE_UM {
            return;
        }
        let sign = way.signum();
        let (from, distance) = (from.abs(), way.abs());
        let peak = ((2.0 * a * distance + from * from) / 2.0)
            .sqrt()
            .min(speed.max(0.0));
        self.ramp(start, from * sign, peak * sign);
        let ramps = ((peak * peak - from * from).abs() + peak * peak) / (2.0 * a);
        let cruise = distance - ramps;
        if cruise > 0.0 {
            self.trajectory.push_ramp(start, cruise / peak, peak * sign, 0.0);
        }
        self.ramp(start, peak * sign, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn ms(ms: f64) -> Instant {
        START + Duration::from_nanos((ms * 1e6) as u64)
    }

    fn axis() -> SimulatedAxis {
        let config = AxisConfig {
            microstep_um: None,
            latency: Duration::ZERO,
            ..AxisConfig::default()
        };
        SimulatedAxis::new(config, 0.0).unwrap()
    }

    #[test]
    fn a_move_is_a_trapezoid() {
        let mut axis = axis();
        axis.move_to(100.0, 1000.0, START);
        // 10 ms up (5 µm), 90 ms at 1 mm/s, 10 ms down.
        for (at_ms, expected_um) in [
            (0.0, 0.0),
            (10.0, 5.0),
            (55.0, 50.0),
            (100.0, 95.0),
            (110.0, 100.0),
            (900.0, 100.0),
        ] {
            let um = axis.position_um(ms(at_ms));
            assert!((um - expected_um).abs() < 1e-6, "{at_ms} ms: {um}");
        }
        assert!(axis.is_moving(ms(109.0)) && !axis.is_moving(ms(110.0)));
    }

    #[test]
    fn velocity_runs_until_zero_and_the_past_stays() {
        let mut axis = axis();
        axis.set_velocity(-200.0, START);
        let midway = axis.position_um(ms(500.0));
        axis.set_velocity(0.0, ms(1000.0));
        assert_eq!(axis.position_um(ms(500.0)), midway);
        assert!((axis.position_um(ms(1100.0)) - -200.0).abs() < 1e-6);
        assert_eq!(axis.um_per_s(ms(1100.0)), 0.0);
    }

    #[test]
    fn microsteps_and_latency() {
        let mut axis = SimulatedAxis::new(AxisConfig::default(), 0.02).unwrap();
        assert_eq!(axis.position_um(START), 0.0);
        axis.move_to(1.0, 100.0, START);
        assert_eq!(axis.position_um(ms(10.0)), 0.0);
        assert!((axis.position_um(ms(300.0)) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nonsense_is_refused_or_stops() {
        for config in [
            AxisConfig {
                um_per_s2: 0.0,
                ..AxisConfig::default()
            },
            AxisConfig {
                range_um: (1.0, 1.0),
                ..AxisConfig::default()
            },
            AxisConfig {
                microstep_um: Some(f64::NAN),
                ..AxisConfig::default()
            },
        ] {
            assert!(SimulatedAxis::new(config, 0.0).is_err());
        }
        let mut axis = axis();
        axis.set_velocity(f64::NAN, START);
        axis.move_to(f64::INFINITY, 10.0, START);
        assert_eq!(axis.position_um(ms(1000.0)), 0.0);
    }

    proptest! {
        #[test]
        fn motion_is_continuous_bounded_and_inside_the_range(
            commands in prop::collection::vec((any::<bool>(), -3000.0..3000.0f64, 1.0..2000.0f64, 0u64..80), 1..12),
        ) {
            let mut axis = axis();
            axis.config.range_um = (-50.0, 80.0);
            let mut now = START;
            let mut last = 0.0;
            for (velocity, value, speed, wait_ms) in commands {
                if velocity { axis.set_velocity(value, now) } else { axis.move_to(value, speed, now) }
                for _ in 0..=wait_ms {
                    now = now + Duration::from_millis(1);
                    let um = axis.position_um(now);
                    prop_assert!((-50.0 - 1e-6..=80.0 + 1e-6).contains(&um), "{um}");
                    prop_assert!((um - last).abs() <= 1.0 + 1e-6, "{last} to {um} in 1 ms");
                    last = um;
                }
            }
        }
    }
}
