//! Algorithm 1 of the paper: the class of the newest frame is a speed.

use super::{FocusConfig, FocusController, Observation, RunState, stepwise};
use crate::classes::DistanceIndex;
use crate::units::Instant;

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

impl FocusController {
    /// Algorithm 1, once the picture is known to follow.
    pub(super) fn poll_paper(&mut self, now: Instant) -> f64 {
        let is_usable =
            |look: &Observation| look.trusted && now.since(look.exposed) <= self.config.motion_timeout;
        let Some(look) = self.fresh(now).filter(is_usable) else {
            if self.state != RunState::InFocus {
                self.state = RunState::Looking;
            }
            return 0.0;
        };
        let is_at_rest = look.exposed >= self.counts_from();
        if look.index == DistanceIndex::IN_FOCUS {
            return self.stand(&look, is_at_rest, now);
        }
        let distance_um = stepwise::distance(&look, &self.config.edges);
        if !self.follows.is_proven() || (distance_um > 0.0 && self.is_leashed(&look)) {
            if is_at_rest {
                return self.order(&look, distance_um, now);
            }
            self.state = RunState::Looking;
            return 0.0;
        }
        self.state = RunState::Moving;
        self.permitted(-self.config.speed(look.index))
    }
}
