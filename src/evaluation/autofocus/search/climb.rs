//! Coarse to fine hill climb: ImSwitch's `autoFocusHillClimbing`.
//!
//! Source: `AutofocusController.py` of openUC2/ImSwitch: a probe up, then on in the direction that gets sharper; where sharpness falls, the
//! direction is turned and the step halved, until it is below the least; then to the best place of all. Settings: its defaults, first step
//! 20 µm, least 1 µm, half, at most 50 steps, 0.1 s of rest. Two choices are kinder than its code. A step is held against the frame
//! before it, as its description has it; the code holds it against the best of all, turns again on the way back and ends up to half
//! a first step beside the top. And the measure is Brenner's gradient instead of its mean Laplacian, which falls off faster
//! away from focus. It declares nothing: its end is its result.

use std::time::Duration;

use super::{Errand, Next, Search};
use crate::evaluation::autofocus::strategy::{End, Look, Work};

const REDUCTION: f64 = 0.5;
const MOST_STEPS: usize = 50;
const SETTLE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Baseline,
    Probe,
    Climbing(usize),
    Home,
}

/// The climb between two frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HillClimb {
    first_um: f64,
    least_um: f64,
    stage: Stage,
    at_um: f64,
    /// The next step with its direction.
    step_um: f64,
    best_um: f64,
    best: f64,
    /// Sharpness of the frame before.
    before: f64,
}

impl HillClimb {
    /// With this first and least step, µm.
    pub fn new(first_um: f64, least_um: f64) -> Self {
        Self {
            first_um,
            least_um,
            stage: Stage::Baseline,
            at_um: 0.0,
            step_um: first_um,
            best_um: 0.0,
            best: f64::NEG_INFINITY,
            before: f64::NEG_INFINITY,
        }
    }

    fn step(&mut self) -> Next {
        self.at_um += self.step_um;
        Next::Go(Errand::look(self.at_um, 1, SETTLE))
    }

    fn turn(&mut self) {
        self.step_um *= -REDUCTION;
    }

    /// Whether the frame is sharper than the one before.
    fn learn(&mut self, sharpness: f64) -> bool {
        if sharpness > self.best {
            (self.best_um, self.best) = (self.at_um, sharpness);
        }
        sharpness > std::mem::replace(&mut self.before, sharpness)
    }
}

impl Search for HillClimb {
    fn work(&self) -> Work {
        Work::Sharpness
    }

    fn begin(&mut self, from_um: f64, _: f64) {
        *self = Self {
            at_um: from_um,
            ..Self::new(self.first_um, self.least_um)
        };
    }

    fn next(&mut self, looks: &[Look]) -> Next {
        let [look] = looks else {
            return match self.stage {
                Stage::Home => Next::Over(End::InFocus),
                _ => Next::Go(Errand::look(self.at_um, 1, Duration::ZERO)),
            };
        };
        let is_better = self.learn(look.seen.sharpness.brenner);
        let steps = match self.stage {
            Stage::Baseline => {
                self.stage = Stage::Probe;
                return self.step();
            }
            Stage::Climbing(steps) => steps + 1,
            Stage::Probe | Stage::Home => 0,
        };
        if !is_better {
            self.turn();
        }
        // The first turn, after the probe, never ends the climb.
        let is_fine = steps > 0 && !is_better && self.step_um.abs() < self.least_um;
        if is_fine || steps >= MOST_STEPS {
            self.stage = Stage::Home;
            return Next::Go(Errand::go(self.best_um));
        }
        self.stage = Stage::Climbing(steps);
        self.step()
    }
}
