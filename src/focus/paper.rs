//! Algorithm 1 of the paper: the class of the newest frame is a speed.

use super::FocusConfig;
use crate::classes::DistanceIndex;

impl FocusConfig {
    /// Signed speed of Algorithm 1 for an index, µm/s; positive indices approach the slide.
    pub(super) fn speed(&self, index: DistanceIndex) -> f64 {
        let factor = if index == DistanceIndex::FARTHEST {
            1.0
        } else {
            0.2 * f64::from(index.value())
        };
        factor * self.default_speed_um_per_s
    }
}
