//! The law of bounded steps: a look at rest orders a distance, and the next look decides again.

use super::{FocusConfig, Observation};
use crate::classes::{ClassEdges, DistanceIndex};

/// What the law keeps from look to look.
#[derive(Debug, Default)]
pub(super) struct Stepwise {
    /// How far the lens rose for a clear sign without finding one, µm.
    risen_um: f64,
}

impl Stepwise {
    /// Signed defocus to remove next, µm; none in focus.
    pub fn distance(&mut self, look: &Observation, config: &FocusConfig) -> Option<f64> {
        let distance_um = self.believed_distance(look, config);
        let is_there = look.index == DistanceIndex::IN_FOCUS && distance_um.abs() <= config.tolerance_um;
        (!is_there).then_some(distance_um)
    }

    /// The lens was sent by this much defocus on a look.
    pub fn handle_step(&mut self, look: &Observation, distance_um: f64, config: &FocusConfig) {
        if look.other_side > config.doubt && distance_um < 0.0 {
            self.risen_um -= distance_um;
        }
    }

    /// The step a look orders if its sign can be believed; if not, the safe one.
    fn believed_distance(&mut self, look: &Observation, config: &FocusConfig) -> f64 {
        let distance_um = distance(look, &config.edges);
        if look.other_side <= config.doubt {
            self.risen_um = 0.0;
            distance_um
        } else if self.risen_um < config.probe_um {
            -distance_um.abs()
        } else {
            distance_um.abs()
        }
    }
}

/// Greatest speed of a step, µm/s. Inside index 0 the law's speed is zero; what is left is trimmed at the speed of index 1.
pub(super) fn speed(look: &Observation, config: &FocusConfig) -> f64 {
    let index = if look.index == DistanceIndex::IN_FOCUS {
        DistanceIndex::from_class(3)
    } else {
        look.index
    };
    config.speed(index).abs()
}

/// Signed defocus to remove in one step, µm: the model's estimate, kept within what the class allows. Far away the
/// step is the least distance the class promises, so that no single misjudged length reaches the slide.
pub(super) fn distance(look: &Observation, edges: &ClassEdges) -> f64 {
    let (low, high) = match (look.index.value(), edges.bounds(look.index)) {
        (4, (low, _)) => (low, low),
        (-2, (_, high)) => (-edges.far_um, high),
        (_, bounds) => bounds,
    };
    let fallback = if look.index == DistanceIndex::IN_FOCUS {
        0.0
    } else {
        low.abs().min(high.abs()).copysign(low)
    };
    look.defocus
        .map_or(fallback, |defocus| defocus.um())
        .clamp(low, high)
}
