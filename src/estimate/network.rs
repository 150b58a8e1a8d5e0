//! The contract every model keeps. [`crate::estimate::classifier`] makes one estimate of a frame with it.
//!
//! A network sees n patches (uint8 RGB [n, 300, 300, 3]) and the 18 features of their frame, once per patch
//! (float32 [n, 18], not standardised), and answers with a distribution over the seven classes, a signed defocus and the
//! logarithm of its variance for each patch. How it computes them is its own affair; [`crate::drivers`] has the networks
//! that read ONNX files.

use std::sync::Arc;

use ndarray::{ArrayView2, ArrayView4};

use crate::classes::ClassEdges;
use crate::estimate::temperature::CondenserLaw;
use crate::estimate::vote::{Measurement, Probabilities};

/// The logarithm of a variance is taken as at most this far from 0: standard deviations of 0.0025 to 400 µm.
const LOG_VARIANCE_LIMIT: f64 = 12.0;

/// What a network says about one patch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatchPrediction {
    /// Probability of each class, in the order 4, 3, 2, 1, 0, -1, -2; adds up to 1.
    pub probabilities: Probabilities,
    /// Signed defocus, µm; positive: the lens is too far from the slide. NaN if the model does not estimate it.
    pub defocus_um: f32,
    /// Natural logarithm of the variance of `defocus_um` in µm². NaN if the model does not estimate it.
    pub log_variance: f32,
}

impl PatchPrediction {
    /// The patch's defocus, if the model states one.
    pub fn measurement(&self) -> Option<Measurement> {
        let log_variance = f64::from(self.log_variance).clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT);
        let stated = self.defocus_um.is_finite() && !log_variance.is_nan();
        stated.then(|| Measurement {
            defocus_um: self.defocus_um.into(),
            variance_um2: log_variance.exp(),
        })
    }
}

/// What a model says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// File name and the first 12 hexadecimal digits of the file's SHA-256.
    pub model_id: Arc<str>,
    /// Heights the classes were trained on.
    pub class_edges: ClassEdges,
    /// Objective it was trained for, for example `40x0.65`.
    pub objective: String,
    /// Side of a pixel in the object plane it was trained for, µm.
    pub pixel_size_um: f64,
    /// Identity of the training set; empty if the model does not say.
    pub training_set: String,
    /// Scores on held-out data, as JSON; empty if the model does not say.
    pub scores: String,
    /// Least and largest defocus it answers for, µm; None if the model does not say.
    pub range_um: Option<[f64; 2]>,
    /// [`vote_exponent`](crate::estimate::classifier::ClassifierConfig::vote_exponent) fitted on held-out slides; None if the model does not say.
    pub vote_exponent: Option<f64>,
    /// How its heights depend on the condenser; None if the model does not say.
    pub condenser: Option<CondenserLaw>,
    /// Whether it tells the side of focus by colour; a model that says nothing of it does.
    pub needs_colour: bool,
    /// Whether it judges a patch by all patches of the frame: then it is given those of one frame at once, the blank ones too.
    pub whole_frames: bool,
}

/// A model that is ready to judge patches.
pub trait Network {
    /// Judges patches [n, 300, 300, 3] with the features [n, 18] of the frame each comes from; n predictions in order. A model
    /// that judges [whole frames](ModelCard::whole_frames) takes the patches for those of one frame.
    ///
    /// # Errors
    /// If the two disagree about n, or inference fails.
    fn infer(
        &mut self,
        patches: ArrayView4<'_, u8>,
        handcrafted: ArrayView2<'_, f32>,
    ) -> Result<Vec<PatchPrediction>, NetworkError>;

    /// What the model says about itself.
    fn card(&self) -> &ModelCard;

    /// False for one that answers without looking: then no patches are cut and no features computed for it, and every estimate is
    /// [unknown](crate::estimate::classifier::Estimate::UNKNOWN).
    fn looks(&self) -> bool {
        true
    }
}

impl<N: Network + ?Sized> Network for Box<N> {
    fn infer(
        &mut self,
        patches: ArrayView4<'_, u8>,
        handcrafted: ArrayView2<'_, f32>,
    ) -> Result<Vec<PatchPrediction>, NetworkError> {
        (**self).infer(patches, handcrafted)
    }

    fn card(&self) -> &ModelCard {
        (**self).card()
    }

    fn looks(&self) -> bool {
        (**self).looks()
    }
}

/// No network at all: it looks at nothing and knows nothing, so no estimate made with it is ever trusted. For measuring what
/// everything around a network costs; of no other use.
#[derive(Clone, Debug)]
pub struct NoNetwork {
    card: ModelCard,
}

impl NoNetwork {
    /// None for the classes of an objective of this name.
    pub fn new(objective: &str, class_edges: ClassEdges) -> Self {
        Self {
            card: ModelCard {
                model_id: "none".into(),
                class_edges,
                objective: objective.to_owned(),
                pixel_size_um: f64::NAN,
                training_set: String::new(),
                scores: String::new(),
                range_um: None,
                vote_exponent: None,
                condenser: None,
                needs_colour: true,
                whole_frames: false,
            },
        }
    }
}

impl Network for NoNetwork {
    fn infer(
        &mut self,
        _patches: ArrayView4<'_, u8>,
        _handcrafted: ArrayView2<'_, f32>,
    ) -> Result<Vec<PatchPrediction>, NetworkError> {
        Ok(Vec::new())
    }

    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn looks(&self) -> bool {
        false
    }
}

/// A network did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Patches and features do not belong together.
    #[error("{patches} patches came with {rows} rows of features: give one row of 18 for each patch")]
    Mismatch {
        /// Patches given.
        patches: usize,
        /// Rows of features given.
        rows: usize,
    },
    /// The runtime refused or failed.
    #[error("model {model} failed on {patches} patches: {reason}; check the model with `hhnet evaluate`")]
    Inference {
        /// Model id.
        model: Arc<str>,
        /// Patches given.
        patches: usize,
        /// What the runtime said.
        reason: String,
    },
    /// The answer is not one prediction per patch.
    #[error(
        "model {model} answered {answers} predictions for {patches} patches: export it with a dynamic first axis"
    )]
    WrongCount {
        /// Model id.
        model: Arc<str>,
        /// Patches given.
        patches: usize,
        /// Predictions returned.
        answers: usize,
    },
}
