//! The law of heights: a look says at which height focus is, the stage drives there at its own speed, and the next look decides again.
//!
//! What is looked at, what is believed and how far the lens may go are those of [`super::stepwise`]; only the way there differs. A move to a
//! height lands where it was meant to, whatever the latencies; what is left over is the error of the estimate and the play of the drive
//! ([`super::landing`]). Most of a long way is gone at once, and the rest by what a frame of its end says.

use std::time::Duration;

use super::step::{Step, TARGET_PATIENCE};
use super::{FocusController, Observation, RunState};
use crate::units::Instant;

/// Way from the limits that no height is sent into, µm: a stage keeps a margin of its own for the rounding of what it reports, and refuses.
const MARGIN_UM: f64 = 1.5;

impl FocusController {
    /// Lands by what is seen on the way: a move to a height goes on to where a frame of its end has focus. Once only: before it goes on
    /// again a look at rest has to show that the picture follows.
    pub(super) fn steer(&mut self, now: Instant) {
        let Some(step) = self
            .step
            .or(self.ended)
            .filter(|_| self.follows.is_proven() && !self.is_steered)
        else {
            return;
        };
        // Where it was before the stage told of this motion is not known well enough.
        let in_motion = |look: &Observation| {
            look.exposed > self.compared
                && look.exposed < self.counts_from()
                && self.heights.are_told(step.began, look.exposed)
        };
        let (Some(goal_um), Some(look)) = (step.goal_um, self.fresh(now).filter(in_motion)) else {
            return;
        };
        let Some(sight) = self.sight(&look, true) else {
            return;
        };
        let um_per_s = self.heights.um_per_s(look.exposed);
        let direction = step.velocity_um_per_s.signum();
        let rest_um = self
            .landing
            .rest_um(&sight, um_per_s, goal_um, direction, &self.config.edges);
        let Some(rest_um) = rest_um.filter(|rest_um| self.permits(goal_um + rest_um)) else {
            return;
        };
        self.is_steered = true;
        self.compared = look.exposed;
        self.confirmation.handle_look(sight);
        match &mut self.step {
            Some(step) => {
                step.goal_um = Some(goal_um + rest_um);
                // What the stage reported before is not the end of this way.
                step.began = now;
            }
            None => {
                self.begin_target(-rest_um, now);
            }
        }
    }

    /// The same by a height to drive to.
    pub(super) fn begin_target(&mut self, distance_um: f64, now: Instant) -> f64 {
        let from_um = self.stage.and_then(|stage| stage.z).map_or(f64::NAN, |z| z.um());
        let goal_um = from_um - distance_um + self.landing.play_um(-distance_um);
        if !self.permits(goal_um) {
            self.give_up(self.limit_sentence(distance_um));
            return 0.0;
        }
        self.aim(from_um, goal_um, self.config.speed_um_per_s, now)
    }

    /// Begins to drive to a height, which is permitted; the velocity.
    pub(super) fn aim(&mut self, from_um: f64, goal_um: f64, um_per_s: f64, now: Instant) -> f64 {
        let velocity = um_per_s.copysign(goal_um - from_um);
        let takes = Duration::from_secs_f64(2.0 * (goal_um - from_um).abs() / um_per_s);
        self.state = RunState::Moving;
        self.step = Some(Step {
            velocity_um_per_s: velocity,
            began: now,
            until: now + takes + TARGET_PATIENCE,
            from_um,
            goal_um: Some(goal_um),
        });
        velocity
    }

    /// Lowest and highest height that may be driven to, µm.
    pub(super) fn limits_um(&self) -> (f64, f64) {
        (
            self.config.z_min.um() + MARGIN_UM,
            self.config.z_max.um() - MARGIN_UM,
        )
    }

    /// Whether a height may be driven to. Written so that NaN may not.
    pub(super) fn permits(&self, goal_um: f64) -> bool {
        let (low_um, high_um) = self.limits_um();
        goal_um >= low_um && goal_um <= high_um
    }
}
