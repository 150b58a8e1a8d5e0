//! The classifier in the hands of its node: what frames are corrected by and compared with before it sees them, and which patches vote.

use std::sync::Arc;

use anyhow::{Result, bail};
use r2r::hhnet::msg::StageState;

use super::super::calibration::CalibrationInForce;
use super::super::flat_field::FlatFieldInForce;
use super::super::frames::Shot;
use super::{AnyNetwork, ClassifierParameters, IdenticalFrames};
use crate::estimate::classifier::{Classifier, Doubt, Estimate, Judged};
use crate::estimate::following::Following;
use crate::estimate::frozen::FrozenCamera;
use crate::estimate::network::Network as _;
use crate::estimate::resample::{ALIKE, MENDABLE, to_model_pixels};
use crate::ros::convert::from_time;
use crate::stage::heights::Heights;
use crate::units::StageHeight;

/// The classifier, and what frames are compared with before it sees them.
pub(super) struct Judge {
    pub(super) classifier: Classifier<AnyNetwork>,
    pub(super) frozen: FrozenCamera,
    pub(super) given: Given,
    /// Heights of the stage, and the patches that were seen not to follow them.
    pub(super) heights: Heights,
    pub(super) following: Following,
}

/// What files say of the instrument.
#[derive(Default)]
pub(super) struct Given {
    pub(super) flat: FlatFieldInForce,
    pub(super) calibration: CalibrationInForce,
}

impl Given {
    /// The parameters, completed by what was measured.
    pub(super) fn completed(&self, parameters: &ClassifierParameters) -> ClassifierParameters {
        let mut completed = parameters.clone();
        self.calibration.complete(&mut completed.microscope);
        completed
    }
}

impl Judge {
    pub(super) fn new(classifier: Classifier<AnyNetwork>, given: Given) -> Self {
        Self {
            classifier,
            frozen: FrozenCamera::default(),
            given,
            heights: Heights::default(),
            following: Following::default(),
        }
    }

    /// Judges a shot, whose frame is divided by the flat field and becomes one of the model's pixel size; what else there is to doubt about it.
    pub(super) fn judge(
        &mut self,
        shot: &mut Shot,
        ratios: [f64; 2],
        parameters: &ClassifierParameters,
    ) -> Result<(Judged, Option<Doubt>)> {
        if !self.classifier.network().looks() {
            return Ok((self.classifier.judge(&shot.frame)?, None));
        }
        let mut doubt = None;
        if parameters.identical_frames == IdenticalFrames::Distrust {
            let apart = self.frozen.handle_frame(&shot.frame);
            doubt = apart.map(|apart| Doubt::Frozen {
                apart_s: apart.as_secs_f64(),
            });
        }
        if let Some(reason) = self.given.calibration.error() {
            bail!("{reason}");
        }
        shot.frame = self.given.flat.correct(&shot.frame)?;
        if let Some(&ratio) = ratios.iter().find(|ratio| !MENDABLE.contains(ratio)) {
            let model_um = self.classifier.network().card().pixel_size_um;
            let pixel_um = ratio * model_um;
            return Ok((Judged::default(), Some(Doubt::PixelSize { pixel_um, model_um })));
        }
        if !ratios.iter().all(|ratio| ALIKE.contains(ratio)) {
            shot.frame = Arc::new(to_model_pixels(&shot.frame, ratios)?);
        }
        let mut judged = self.classifier.judge(&shot.frame)?;
        let exposed = self.given.calibration.exposed(shot.frame.stamp);
        let height = self.heights.at(exposed).map(StageHeight::from_um);
        let edges = &self.classifier.config().edges;
        self.following.handle_frame(height, &judged, edges);
        self.following.leave_out(&mut judged);
        Ok((judged, doubt))
    }

    pub(super) fn handle_stage(&mut self, stage: &StageState) {
        let z_um = (stage.position_valid && stage.z.is_finite()).then_some(1e6 * stage.z);
        self.heights.handle_report(from_time(&stage.header.stamp), z_um);
    }

    /// The estimate that a judged frame makes.
    pub(super) fn estimate(&self, judged: &Judged, doubt: Option<Doubt>) -> Estimate {
        match doubt {
            Some(doubt @ Doubt::PixelSize { .. }) => Estimate::unknown(doubt),
            Some(doubt) => match self.classifier.estimate(judged) {
                // Black, white and grey pictures may well be equal.
                known @ Estimate {
                    doubt: Some(Doubt::Dark { .. } | Doubt::Clipped { .. } | Doubt::Grey),
                    ..
                } => known,
                estimate => estimate.doubted(doubt),
            },
            None => self.classifier.estimate(judged),
        }
    }
}
