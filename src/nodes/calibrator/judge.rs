//! The network in the hands of the calibrator: it judges frames as the classifier does, but is not told of the condenser.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::super::flat_field::FlatFieldInForce;
use super::CalibratorParameters;
use crate::calibration::pass::Look;
use crate::calibration::report::Known;
use crate::drivers::calibration_file;
use crate::drivers::onnx::OnnxNetwork;
use crate::estimate::classifier::{Classifier, ClassifierConfig};
use crate::estimate::network::{ModelCard, Network as _};
use crate::estimate::resample::{ALIKE, MENDABLE, to_model_pixels};
use crate::frame::Frame;

/// What is to be loaded.
#[derive(Clone)]
pub(super) struct Wanted {
    model: String,
    threads: usize,
    objective: String,
    flat_field: String,
}

impl Wanted {
    pub(super) fn of(parameters: &CalibratorParameters) -> Result<Self> {
        Ok(Self {
            model: parameters.model.clone(),
            threads: usize::try_from(parameters.threads).context("calibrator threads")?,
            objective: parameters.microscope.objective.clone(),
            flat_field: parameters.microscope.flat_field.clone(),
        })
    }
}

pub(super) struct Judge {
    classifier: Classifier<OnnxNetwork>,
    card: ModelCard,
    flat: FlatFieldInForce,
}

impl Judge {
    /// Loads the model and the flat field; takes up to seconds.
    pub(super) fn open(wanted: &Wanted) -> Result<Self> {
        let named = Some(wanted.model.as_str()).filter(|model| !model.is_empty());
        let network = OnnxNetwork::for_objective(
            named.map(Path::new),
            &wanted.objective,
            wanted.threads,
            "calibrator.model",
        )?;
        let card = network.card().clone();
        let settings = ClassifierConfig::for_model(&card);
        let mut flat = FlatFieldInForce::default();
        flat.refresh(&wanted.flat_field, &wanted.objective);
        Ok(Self {
            classifier: Classifier::new(network, settings)?,
            card,
            flat,
        })
    }

    /// What a frame shows that was taken at this height, with pixels of these sides, µm; and the frame as it is judged, before it is resampled.
    pub(super) fn look(
        &mut self,
        z_um: f64,
        frame: &Arc<Frame>,
        pixel_um: [f64; 2],
    ) -> Result<(Look, Arc<Frame>)> {
        let frame = self.flat.correct(frame)?;
        let ratios = pixel_um.map(|um| um / self.card.pixel_size_um);
        ensure!(
            ratios.iter().all(|ratio| MENDABLE.contains(ratio)),
            "pixels of {:.4} µm are not mended for {}, which was trained for {:.4} µm: correct microscope.pixel_size, or calibrate PIXEL_SIZE",
            pixel_um[0],
            self.card.model_id,
            self.card.pixel_size_um
        );
        let look = if ratios.iter().all(|ratio| ALIKE.contains(ratio)) {
            Look::of(z_um, &frame, &mut self.classifier)?
        } else {
            Look::of(z_um, &to_model_pixels(&frame, ratios)?, &mut self.classifier)?
        };
        Ok((look, frame))
    }

    /// What a report has to know.
    pub(super) fn known(&self, depth_um: f64) -> Known {
        Known {
            depth_um,
            model: self.card.model_id.to_string(),
            condenser: self.card.condenser,
            range_um: self.card.range_um,
            pixel_um: Some(self.card.pixel_size_um),
            made: calibration_file::now(),
        }
    }
}
