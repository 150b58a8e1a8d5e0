//! The exact past and future of one axis.
//!
//! A [`Trajectory`] is where an axis was, is and is committed to be, as pieces of constant acceleration. It can be asked for any moment
//! of the last [`HISTORY`], so that a simulated camera can expose in the middle of a move. Lengths are µm with z up, away from the
//! slide; speeds µm/s.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Instant;

/// How far back a [`Trajectory`] and the mechanics behind it remember.
pub const HISTORY: Duration = Duration::from_secs(2);

/// A stretch of constant acceleration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) from_um: f64,
    pub(crate) to_um: f64,
    pub(crate) from_um_per_s: f64,
    pub(crate) um_per_s2: f64,
}

impl Piece {
    /// Position at `at`, not before the start; where it ends, after the end.
    pub(crate) fn position_um(&self, at: Instant) -> f64 {
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

    /// The newest piece.
    pub(crate) fn last_piece(&self) -> Option<Piece> {
        self.pieces.back().copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn ms(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    #[test]
    fn a_trapezoid_is_remembered_and_can_be_cut_short() {
        let mut way = Trajectory::at_rest(0.0);
        // 10 ms up (5 µm), 90 ms at 1 mm/s, 10 ms down.
        way.push_ramp(START, 0.010, 0.0, 100_000.0);
        way.push_ramp(START, 0.090, 1000.0, 0.0);
        way.push_ramp(START, 0.010, 1000.0, -100_000.0);
        for (at_ms, expected_um) in [
            (0, 0.0),
            (10, 5.0),
            (55, 50.0),
            (100, 95.0),
            (110, 100.0),
            (900, 100.0),
        ] {
            let um = way.position_um(ms(at_ms));
            assert!((um - expected_um).abs() < 1e-6, "{at_ms} ms: {um}");
        }
        assert_eq!(way.end(), ms(110));
        way.truncate(ms(55));
        assert!((way.position_um(ms(20)) - 15.0).abs() < 1e-6, "the past stays");
        assert!((way.end_um() - 50.0).abs() < 1e-6);
    }
}
