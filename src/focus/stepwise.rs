//! The law of bounded steps: a look at rest orders a distance, and the next look decides again.

use std::time::Duration;

use super::{FocusConfig, Observation};
use crate::classes::{ClassEdges, DistanceIndex};

/// A move lasts at least this long, which slows short moves until timing errors no longer matter.
pub(super) const MIN_MOVE: Duration = Duration::from_millis(250);
/// Probability of the other side of focus from which the sign is in doubt.
pub(super) const DOUBT: f32 = 0.1;
/// Remaining defocus that is not worth another step, as a part of the depth of class 0.
const TOLERANCE: f64 = 0.5;
/// Rise after which a sign still in doubt means that the lens was above focus all along, in depths of class 1: 45 µm under the 40x0.65. Must
/// exceed the depth below focus that is to be recovered from, less the depth from which the sign is clear.
const PROBE: f64 = 9.0;

/// What the law keeps from look to look.
#[derive(Debug, Default)]
pub(super) struct Stepwise {
    /// How far the lens rose for a clear sign without finding one, µm.
    risen_um: f64,
}

impl Stepwise {
    /// Signed defocus to remove next, µm; none in focus.
    pub fn distance(&mut self, look: &Observation, config: &FocusConfig) -> Option<f64> {
        let distance_um = self.believed_distance(look, &config.edges);
        let tolerance_um = TOLERANCE * config.edges.in_focus_um;
        let is_there = look.index == DistanceIndex::IN_FOCUS && distance_um.abs() <= tolerance_um;
        (!is_there).then_some(distance_um)
    }

    /// The lens was sent by this much defocus on a look.
    pub fn handle_step(&mut self, look: &Observation, distance_um: f64) {
        if look.other_side > DOUBT && distance_um < 0.0 {
            self.risen_um -= distance_um;
        }
    }

    /// The step a look orders if its sign can be believed; if not, the safe one.
    fn believed_distance(&mut self, look: &Observation, edges: &ClassEdges) -> f64 {
        let distance_um = distance(look, edges);
        if look.other_side <= DOUBT {
            self.risen_um = 0.0;
            distance_um
        } else if self.risen_um < PROBE * edges.near_um {
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
