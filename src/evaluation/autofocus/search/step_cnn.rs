//! Steps by a network: the single-shot autofocus of the Remoscope.
//!
//! Source: `singleShotAutofocusRoutine` of czbiohub-sf/ulc-malaria-scope: a network gives the signed number of motor steps to focus for each
//! frame of a batch of 20, the mean of the batch is rounded to steps, and the motor goes there. A further batch follows until one is within
//! its threshold of 2 steps. (Its filtered loop, ten inferences a second with a weight of 0.05, holds focus from then on; with that weight it
//! would need two seconds more to say that nothing is left to do.) The network is ours, which is the kinder choice: its range is
//! wider than the 20 steps of theirs. Frames come as fast as the network decides. A step is taken as half a depth of field.

use std::time::Duration;

use super::{Errand, Next, Search};
use crate::evaluation::autofocus::strategy::{End, Look, Work};

/// Frames of a batch.
const BATCH: usize = 20;
/// Steps within which a batch is the last.
const THRESHOLD_STEPS: f64 = 2.0;
/// Batches after which the run is given up.
const MOST_BATCHES: usize = 10;

/// The loop between two batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepCnn {
    step_um: f64,
    at_um: f64,
    batches: usize,
    is_last: bool,
}

impl StepCnn {
    /// With a motor of this step, µm.
    pub fn new(step_um: f64) -> Self {
        Self {
            step_um,
            at_um: 0.0,
            batches: 0,
            is_last: false,
        }
    }

    fn fail(reason: &str) -> Next {
        Next::Over(End::Failed(reason.to_owned()))
    }
}

impl Search for StepCnn {
    fn work(&self) -> Work {
        Work::Decision
    }

    fn begin(&mut self, from_um: f64, _: f64) {
        *self = Self {
            at_um: from_um,
            ..Self::new(self.step_um)
        };
    }

    fn next(&mut self, looks: &[Look]) -> Next {
        if self.is_last {
            return Next::Over(End::InFocus);
        }
        if looks.is_empty() {
            return Next::Go(Errand::look(self.at_um, BATCH, Duration::ZERO));
        }
        let answers: Vec<f64> = looks
            .iter()
            .filter_map(|look| Some(look.seen.judgement.defocus?.um()))
            .collect();
        if answers.is_empty() {
            return Self::fail("the network saw nothing it could judge: check light and slide");
        }
        self.batches += 1;
        if self.batches > MOST_BATCHES {
            return Self::fail("ten batches did not end within two steps of focus");
        }
        let steps = (answers.iter().sum::<f64>() / answers.len() as f64 / self.step_um).round();
        self.at_um -= steps * self.step_um;
        self.is_last = steps.abs() <= THRESHOLD_STEPS;
        Next::Go(if self.is_last {
            Errand::go(self.at_um)
        } else {
            Errand::look(self.at_um, BATCH, Duration::ZERO)
        })
    }
}
