//! How a move to a height lands in focus: the play of the drive, learnt from the looks before and after a turn, and what is left to go by a
//! frame that was exposed on the way.

use super::follows::{PLAY_UM, Sight};
use crate::classes::ClassEdges;

/// Part by which the play learnt follows what the newest turn shows.
const LEARN: f64 = 0.4;
/// What an estimate may be off by: so much, µm, that share of it, and the way of the stage in that time, s.
const ERROR_UM: f64 = 0.1;
const ERROR_SHARE: f64 = 0.06;
const ERROR_S: f64 = 0.004;
/// A correction on the way is worth it from so many times that on, and from so much of the depth of class 0 on.
const SURE: f64 = 2.0;
const WORTH: f64 = 0.4;
/// Part of a long way that is left to be gone by what is seen on it: to go on costs less than to turn.
const LEFT: f64 = 0.05;

/// What is known of the drive.
#[derive(Debug)]
pub(super) struct Landing {
    /// The newest height of the stage, µm.
    z_um: Option<f64>,
    /// Way between a turn of the motor and that of the lens, µm, as learnt.
    play_um: f64,
    /// Share of the play that the motor has to cross before it drives the lens up; the rest is to be crossed downwards.
    slack: f64,
    /// The look at rest before, and the slack there.
    before: Option<(Sight, f64)>,
}

impl Default for Landing {
    fn default() -> Self {
        Self {
            z_um: None,
            play_um: 0.0,
            slack: 0.5,
            before: None,
        }
    }
}

impl Landing {
    /// The stage has reported a height; `None` while it is unknown.
    pub fn handle_height(&mut self, z_um: Option<f64>) {
        let before_um = std::mem::replace(&mut self.z_um, z_um);
        let (Some(z_um), Some(before_um)) = (z_um, before_um) else {
            return;
        };
        // As if there were that much, while less is known of.
        let play_um = self.play_um.max(0.5);
        self.slack = (self.slack - (z_um - before_um) / play_um).clamp(0.0, 1.0);
    }

    /// A look of the stage at rest.
    pub fn handle_rest(&mut self, look: &Sight, edges: &ClassEdges) {
        let before = self.before.replace((*look, self.slack));
        let is_known = |look: &Sight| {
            look.is_trusted && look.is_sided && look.has_distance && look.defocus_um.abs() <= edges.middle_um
        };
        let Some((before, slack)) = before else { return };
        let sent_um = look.z_um - before.z_um;
        let has_turned = if sent_um > 0.0 { slack == 1.0 } else { slack == 0.0 };
        if has_turned && sent_um.abs() > 2.0 * PLAY_UM && is_known(look) && is_known(&before) {
            let seen_um = look.defocus_um - before.defocus_um;
            let missing_um = (sent_um - seen_um) * sent_um.signum();
            self.play_um += LEARN * (missing_um.clamp(0.0, 2.0 * PLAY_UM) - self.play_um);
        }
    }

    /// What has to be added to a way, µm, positive up, so that the lens goes it: what is left of the play in that direction.
    pub fn play_um(&self, way_um: f64) -> f64 {
        let crossed = if way_um > 0.0 {
            self.slack
        } else {
            self.slack - 1.0
        };
        self.play_um * crossed
    }

    /// The part of a distance to focus that is gone at once.
    pub fn part_um(distance_um: f64, edges: &ClassEdges) -> f64 {
        if distance_um.abs() > edges.near_um {
            (1.0 - LEFT) * distance_um
        } else {
            distance_um
        }
    }

    /// How much farther than `goal_um` a move in a direction has to go, by a look on the way that was taken at `um_per_s`, µm, positive up;
    /// none if the look is too far from focus to tell, or it is not worth it, or focus lies before the goal.
    pub fn rest_um(
        &self,
        look: &Sight,
        um_per_s: f64,
        goal_um: f64,
        direction: f64,
        edges: &ClassEdges,
    ) -> Option<f64> {
        let is_clear = look.is_trusted && look.is_sided && look.has_distance;
        if !is_clear || look.defocus_um.abs() > edges.near_um {
            return None;
        }
        let error_um = ERROR_UM + ERROR_SHARE * look.defocus_um.abs() + ERROR_S * um_per_s.abs();
        let rest_um = look.z_um - look.defocus_um - goal_um;
        let is_worth_it = rest_um.abs() > (SURE * error_um).max(WORTH * edges.in_focus_um);
        (is_worth_it && rest_um * direction > 0.0).then_some(rest_um)
    }
}
