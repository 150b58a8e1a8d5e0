//! What belongs to the instrument and is said once for all nodes.

use anyhow::{Context as _, Result, ensure};

use crate::estimate::temperature::CONDENSER_NA;
use crate::objective::Objective;
use crate::parameters;
use crate::ros::params::Checked;

parameters! {
    /// The section that the nodes share.
    MicroscopeParameters in "microscope" {
        /// The objective in use, for example `40x0.65`; its depth of field sets class edges and tolerance, and a model for another one is
        /// refused.
        objective: String = "40x0.65",
        /// Numerical aperture to which the condenser is set; 0 if it is not known. One image does not tell it, and heights far from focus
        /// are stated for the usual one: with a condenser set 20 % wider they come out a tenth too large below focus.
        condenser_na: f64 [0.0..=1.5, live] = 0.0,
        /// Side of a pixel of the unbinned camera on the slide, m; 0 for that of the model. Images of other pixels are resampled to the
        /// model's, also those that `camera_info` says are binned; from 0.4 to 4 times as large, or no estimate is trusted.
        pixel_size: f64 [0.0..=0.0001, "m", live] = 0.0,
        /// File of the flat field, by which frames are divided before they are judged, so that dust, hair and shading disappear; the action
        /// `calibrate` writes it. Frames are judged as they are if it is empty, or as long as the file is not there. One for each objective and
        /// size of frames.
        flat_field: String [live] = "",
        /// File of what the action `calibrate` measured of the instrument: aperture of the condenser, pixel size, play of the focus drive. The nodes use
        /// what is good in it wherever no parameter says otherwise; frames are not judged by a file of another objective. One for each objective.
        calibration: String [live] = "",
        /// Lowest permitted x of the stage, m.
        x_min: f64 [-1.0..=1.0, "m"] = -0.038,
        /// Highest permitted x of the stage, m.
        x_max: f64 [-1.0..=1.0, "m"] = 0.038,
        /// Lowest permitted y of the stage, m.
        y_min: f64 [-1.0..=1.0, "m"] = -0.013,
        /// Highest permitted y of the stage, m.
        y_max: f64 [-1.0..=1.0, "m"] = 0.013,
        /// Lowest permitted height of the lens, m: the only thing that knows where the slide is.
        z_min: f64 [-1.0..=1.0, "m"] = -100e-6,
        /// Highest permitted height of the lens, m.
        z_max: f64 [-1.0..=1.0, "m"] = 300e-6,
    }
}

impl Checked for MicroscopeParameters {
    fn check(&self) -> Result<()> {
        Objective::by_name(&self.objective).context("microscope objective")?;
        ensure!(
            self.condenser_na == 0.0 || CONDENSER_NA.contains(&self.condenser_na),
            "microscope condenser_na is {}: give an aperture from {} to {}, or 0 if it is not known",
            self.condenser_na,
            CONDENSER_NA.start(),
            CONDENSER_NA.end()
        );
        for (axis, low, high) in [
            ('x', self.x_min, self.x_max),
            ('y', self.y_min, self.y_max),
            ('z', self.z_min, self.z_max),
        ] {
            ensure!(
                low < high,
                "microscope {axis}_min ({low} m) must be lower than {axis}_max ({high} m): correct them"
            );
        }
        Ok(())
    }
}
