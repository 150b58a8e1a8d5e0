//! What the published methods have in common: drive somewhere, wait until the stage stands, take frames, think, drive on.
//!
//! A method is a [`Search`]: from the frames of one errand to the next errand. [`Searcher`] runs the errands on the stage. Its moves are whole
//! moves of the same host at one speed; standstill is known as soon as the host knows it, and a frame counts if its exposure begins
//! after that and after whatever rest the method waits for.

mod brent;
mod climb;
mod planes;
mod step_cnn;
mod sweep;

use std::time::Duration;

pub(super) use brent::Brent;
pub(super) use climb::HillClimb;
pub(super) use planes::Planes;
pub(super) use step_cnn::StepCnn;
pub(super) use sweep::Sweep;

use super::strategy::{End, Look, Strategy, Work};
use crate::protocol::grbl::host::GrblHost;
use crate::units::Instant;

/// Differences in height below this are no move: the stage counts in 0.1 µm.
const NO_MOVE_UM: f64 = 0.05;

/// Which frames of an errand are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// None: the errand is over when the stage stands.
    None,
    /// So many, from when the stage stands.
    AtRest(usize),
    /// All that are exposed on the way.
    Underway,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Errand {
    /// Where to, as the stage counts, µm.
    pub to_um: f64,
    /// Greatest speed; None: as fast as the stage may.
    pub um_per_s: Option<f64>,
    /// Rest between standstill and the first exposure that counts.
    pub settle: Duration,
    pub wanted: Wanted,
}

impl Errand {
    /// There, without a look.
    pub fn go(to_um: f64) -> Self {
        Self {
            to_um,
            um_per_s: None,
            settle: Duration::ZERO,
            wanted: Wanted::None,
        }
    }

    /// There, and `frames` of them after a rest.
    pub fn look(to_um: f64, frames: usize, settle: Duration) -> Self {
        Self {
            settle,
            wanted: Wanted::AtRest(frames),
            ..Self::go(to_um)
        }
    }

    /// There at this speed, looking all the way.
    pub fn sweep(to_um: f64, um_per_s: f64) -> Self {
        Self {
            um_per_s: Some(um_per_s),
            wanted: Wanted::Underway,
            ..Self::go(to_um)
        }
    }
}

/// What a method does next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    Go(Errand),
    Over(End),
}

/// A method of the literature.
pub(super) trait Search: Send {
    /// What it needs of every frame.
    fn work(&self) -> Work;
    /// A run begins at this height, with focus at most `reach_um` above or below it.
    fn begin(&mut self, from_um: f64, reach_um: f64);
    /// The next errand, after the first one with the frames of the last.
    fn next(&mut self, looks: &[Look]) -> Next;
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Idle,
    /// To begin when the stage stands.
    Ready,
    Due(Errand),
    Moving(Errand),
    /// Frames count that are exposed from then on.
    Looking(Errand, Instant),
    Over(End),
}

/// Runs a method.
pub(super) struct Searcher<S> {
    search: S,
    /// Speed of moves that have none of their own, µm/s.
    um_per_s: f64,
    phase: Phase,
    reach_um: f64,
    looks: Vec<Look>,
    frames: usize,
}

impl<S: Search> Searcher<S> {
    pub fn new(search: S, um_per_s: f64) -> Self {
        Self {
            search,
            um_per_s,
            phase: Phase::Idle,
            reach_um: 0.0,
            looks: Vec::new(),
            frames: 0,
        }
    }

    fn next(&mut self) -> Phase {
        let next = self.search.next(&self.looks);
        self.looks.clear();
        match next {
            Next::Go(errand) => Phase::Due(errand),
            Next::Over(end) => Phase::Over(end),
        }
    }

    /// What follows from the phase at `now`; None: nothing yet.
    fn step(&mut self, host: &mut GrblHost, now: Instant) -> Option<Phase> {
        match self.phase.clone() {
            Phase::Ready if host.is_at_rest() => {
                self.search.begin(host.state().z_um(), self.reach_um);
                Some(self.next())
            }
            Phase::Due(errand) if host.is_at_rest() => Some(self.depart(errand, host, now)),
            Phase::Moving(errand) if host.is_at_rest() => match errand.wanted {
                Wanted::AtRest(_) => Some(Phase::Looking(errand, now + errand.settle)),
                Wanted::None | Wanted::Underway => Some(self.next()),
            },
            Phase::Looking(Errand { wanted, .. }, _) => {
                (wanted == Wanted::AtRest(self.looks.len())).then(|| self.next())
            }
            _ => None,
        }
    }

    fn depart(&mut self, errand: Errand, host: &mut GrblHost, now: Instant) -> Phase {
        let by_um = errand.to_um - host.state().z_um();
        if by_um.abs() < NO_MOVE_UM {
            return Phase::Moving(errand);
        }
        let um_per_s = errand.um_per_s.unwrap_or(self.um_per_s);
        match host.command_move_relative([0.0, 0.0, by_um], um_per_s, now) {
            Ok(_) => Phase::Moving(errand),
            Err(refusal) => Phase::Over(End::Failed(refusal.to_string())),
        }
    }
}

impl<S: Search> Strategy for Searcher<S> {
    fn work(&self) -> Work {
        self.search.work()
    }

    fn begin(&mut self, reach_um: f64, _: Instant) {
        self.looks.clear();
        (self.phase, self.reach_um, self.frames) = (Phase::Ready, reach_um, 0);
    }

    fn rest(&mut self) {
        self.phase = Phase::Idle;
    }

    fn handle_look(&mut self, look: Look, _: Instant) {
        let counts = match &self.phase {
            Phase::Moving(errand) => errand.wanted == Wanted::Underway,
            Phase::Looking(Errand { wanted, .. }, from) => {
                look.began >= *from && *wanted != Wanted::AtRest(self.looks.len())
            }
            _ => false,
        };
        if counts {
            self.looks.push(look);
            self.frames += 1;
        }
    }

    fn act(&mut self, host: &mut GrblHost, now: Instant) {
        while let Some(phase) = self.step(host, now) {
            self.phase = phase;
        }
    }

    fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn next_wakeup(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests;
