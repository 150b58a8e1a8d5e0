//! The law of bounded steps: a look at rest orders a distance, and the next look decides again.

use std::time::Duration;

use super::follows::Follows;
use super::landing::Landing;
use super::{FocusConfig, FocusController, Law, Observation, POSITION_INVALID, RunState};
use crate::classes::{ClassEdges, DistanceIndex};
use crate::units::Instant;

/// A move lasts at least this long, which slows short moves until timing errors no longer matter.
pub(super) const MIN_MOVE: Duration = Duration::from_millis(250);
/// The first step towards the slide of a run, µm: a scale that is wrong by 25.4 makes 10 µm of it, and the picture tells.
const FEELER_UM: f64 = 0.4;
/// How long it lasts, and how long a step that is to show whether the picture follows lasts at least.
const FEELER: Duration = Duration::from_millis(140);
pub(super) const TRIAL: Duration = Duration::from_millis(200);
/// Probability of the other side of focus from which the sign is in doubt.
pub(super) const DOUBT: f32 = 0.1;
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
        // The depth of class 0 is half a depth of field.
        let tolerance_um = 2.0 * config.tolerance_depths * config.edges.in_focus_um;
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

impl FocusController {
    pub(super) fn poll_stepwise(&mut self, now: Instant) -> f64 {
        let Some(look) = self.look_at_rest(now).filter(|look| look.trusted) else {
            if self.state != RunState::InFocus {
                self.state = RunState::Looking;
            }
            return 0.0;
        };
        if self.is_refined() && look.index == DistanceIndex::IN_FOCUS {
            return self.stand(&look, true, now);
        }
        match self.stepwise.distance(&look, &self.config) {
            None => self.stand(&look, true, now),
            Some(distance_um) => self.order(&look, distance_um, now),
        }
    }

    /// Goes a distance on a look of the stage at rest, or as much of it as may be gone before the picture is known to follow.
    pub(super) fn order(&mut self, look: &Observation, distance_um: f64, now: Instant) -> f64 {
        let edges = self.config.edges;
        let Some(sight) = self.sight(look, false) else {
            // The stage has not reported since the frame was exposed, or never.
            self.state = match self.stage {
                Some(_) => RunState::Looking,
                None => RunState::Failed(POSITION_INVALID.to_owned()),
            };
            return 0.0;
        };
        let trial_um = Follows::trial_um(&sight, &edges);
        let leash_um = self.follows.leash_um(&sight, &edges);
        let is_down = distance_um > 0.0;
        if is_down && leash_um.is_none() {
            self.follows.lift();
            self.promised_um = 0.0;
            return self.begin(-trial_um, trial_um / TRIAL.as_secs_f64(), now);
        }
        let is_proven = self.follows.is_proven();
        let is_feeler = is_down && !self.is_felt && !is_proven;
        self.is_felt |= is_feeler;
        let (most_um, least_time) = match leash_um.filter(|_| is_down && !self.follows.is_fresh()) {
            _ if is_feeler => (FEELER_UM, FEELER),
            Some(leash_um) if is_proven => (leash_um, MIN_MOVE),
            None if is_proven => (f64::INFINITY, MIN_MOVE),
            leash_um => (trial_um.min(leash_um.unwrap_or(trial_um)), TRIAL),
        };
        let part_um = distance_um.abs().min(most_um).copysign(distance_um);
        self.promised_um = distance_um - part_um;
        self.stepwise.handle_step(look, part_um);
        if self.config.law == Law::Predictive {
            return self.begin_target(Landing::part_um(part_um, &edges), now);
        }
        let speed = speed(look, &self.config).min(part_um.abs() / least_time.as_secs_f64());
        self.begin(part_um, speed, now)
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
