//! What a model's judgements of frames of known heights are worth.
//!
//! * [`scores`]: accuracies with intervals, errors, reliability, the three ways of voting.
//! * [`condenser`]: the law of the condenser and its aperture, by frames of known heights.
//! * [`autofocus`]: whole runs of the control laws beside published methods, on one virtual stand.

pub mod autofocus;
pub mod condenser;
pub mod scores;

use crate::estimate::classifier::{ClassifierConfig, Estimate};
use crate::estimate::network::PatchPrediction;

/// One frame: its true defocus and what the network said of its patches.
#[derive(Clone, Debug)]
pub struct JudgedFrame {
    /// True defocus, µm; positive: too far from the slide.
    pub z_um: f64,
    /// Frames of a slide share its optics and its stain: they are not independent.
    pub slide: u64,
    /// What the network said.
    pub patches: Vec<PatchPrediction>,
    /// Numerical aperture to which the condenser was set, where it is to be known.
    pub condenser_na: Option<f64>,
    /// Time from the frame to its estimate, s, where a whole frame was judged.
    pub seconds: Option<f64>,
}

impl JudgedFrame {
    /// The estimate of a classifier with these settings, which is told of the condenser what is known of it.
    pub fn estimate(&self, settings: &ClassifierConfig) -> Estimate {
        let settings = ClassifierConfig {
            condenser_na: self.condenser_na,
            ..*settings
        };
        Estimate::from_patches(&self.patches, &settings)
    }
}
