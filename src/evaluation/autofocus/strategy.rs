//! What everything that focuses is to the virtual stand: it gets frames, commands the stage, and says when it is done.

use std::time::Duration;

use super::response::Seen;
use crate::protocol::grbl::host::GrblHost;
use crate::units::Instant;

/// One frame, when a strategy gets to know what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// First light.
    pub began: Instant,
    /// Middle of the exposure.
    pub exposed: Instant,
    /// Height that the stage counted then, µm.
    pub count_um: f64,
    /// What it shows.
    pub seen: Seen,
}

/// What has to be computed of a frame before a strategy can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Features and network.
    Decision,
    /// A classical measure of sharpness.
    Sharpness,
    /// Nothing: what counts is the size of what the camera sends.
    Nothing,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// In focus, by the strategy's own word.
    InFocus,
    /// Given up, and why.
    Failed(String),
}

/// Something that focuses. It holds no clock; the stand calls [`Self::act`] after everything that happens.
pub trait Strategy: Send {
    /// What it needs of every frame.
    fn work(&self) -> Work;
    /// A run begins, with a stage that stands and focus within `reach_um` above or below.
    fn begin(&mut self, reach_um: f64, now: Instant);
    /// The run is over: nothing more is commanded.
    fn rest(&mut self);
    /// What a frame shows has become known.
    fn handle_look(&mut self, look: Look, now: Instant);
    /// Commands what is to be commanded now.
    fn act(&mut self, host: &mut GrblHost, now: Instant);
    /// How the run ended, once it has.
    fn end(&self) -> Option<&End>;
    /// Frames used in this run.
    fn frames(&self) -> usize;
    /// When to act at the latest.
    fn next_wakeup(&self) -> Option<Instant>;
}

/// Times of the computer and of the camera beside it that strategies wait for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Durations {
    /// Of a decision of the network, features included.
    pub decision: Duration,
    /// Of a classical measure of sharpness.
    pub sharpness: Duration,
}

impl Durations {
    /// How long this work takes.
    pub fn of(&self, work: Work) -> Duration {
        match work {
            Work::Decision => self.decision,
            Work::Sharpness => self.sharpness,
            Work::Nothing => Duration::ZERO,
        }
    }
}
