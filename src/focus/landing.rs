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
    /// Of a drive whose play was measured, µm; 0 if it was not.
    pub fn with_play(play_um: f64) -> Self {
        Self {
            play_um,
            ..Self::default()
        }
    }

    /// A new run: what was looked at before may have been another field, the drive is the same.
    pub fn restart(&mut self) {
        self.before = None;
    }

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
    /// at most the depth of class 1; none if the look is too far from focus to tell, or it is not worth it, or focus lies before the goal.
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
        let worth_um = (SURE * error_um).max(WORTH * edges.in_focus_um)..=edges.near_um;
        let is_worth_it = worth_um.contains(&rest_um.abs());
        (is_worth_it && rest_um * direction > 0.0).then_some(rest_um)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drive with that much play, which comes to rest at these heights in turn; its looks are exact.
    fn after(play_um: f64, heights_um: &[f64]) -> Landing {
        let edges = ClassEdges::default();
        let mut landing = Landing::default();
        let (mut motor_um, mut lens_um) = (0.0_f64, 0.0_f64);
        landing.handle_height(Some(motor_um));
        landing.handle_rest(&Sight::clear(motor_um, lens_um), &edges);
        for z_um in heights_um {
            while motor_um != *z_um {
                motor_um += (z_um - motor_um).clamp(-1.0, 1.0);
                lens_um = lens_um.clamp(motor_um - play_um, motor_um);
                landing.handle_height(Some(motor_um));
            }
            landing.handle_rest(&Sight::clear(motor_um, lens_um), &edges);
        }
        landing
    }

    #[test]
    fn a_play_that_was_measured_is_added_from_the_first_turn_on() {
        let mut landing = Landing::with_play(3.0);
        landing.handle_height(Some(0.0));
        landing.handle_height(Some(10.0));
        assert_eq!((landing.play_um(-5.0), landing.play_um(5.0)), (-3.0, 0.0));
        landing.handle_height(Some(5.0));
        assert_eq!((landing.play_um(-5.0), landing.play_um(5.0)), (0.0, 3.0));
    }

    #[test]
    fn the_play_is_learnt_and_only_what_is_left_of_it_is_added() {
        let turns = [-10.0, 0.0, -10.0, 0.0, -10.0, 0.0, -10.0, 0.0];
        let there = after(2.0, &turns);
        assert!((there.play_um(-5.0) + 2.0).abs() < 0.1, "{there:?}");
        assert_eq!(there.play_um(5.0), 0.0);
        // Half of it is crossed.
        let between = after(2.0, &[&turns[..], &[-1.0]].concat());
        assert!((between.play_um(-5.0) + 1.0).abs() < 0.1, "{between:?}");
        assert!((between.play_um(5.0) - 1.0).abs() < 0.1, "{between:?}");
        let rigid = after(0.0, &turns);
        assert!(rigid.play_um(-5.0).abs() < 0.01, "{rigid:?}");
    }

    #[test]
    fn another_field_teaches_nothing_of_the_drive() {
        let edges = ClassEdges::default();
        let mut landing = after(2.0, &[-10.0, 0.0, -10.0, 0.0, -10.0, 0.0, -10.0, 0.0]);
        let learnt_um = landing.play_um(-5.0);
        landing.restart();
        for z_um in [-5.0, -10.0] {
            landing.handle_height(Some(z_um));
        }
        // Focus lies elsewhere there.
        landing.handle_rest(&Sight::clear(-10.0, -4.0), &edges);
        landing.handle_height(Some(0.0));
        assert_eq!(landing.play_um(-5.0), learnt_um);
    }

    #[test]
    fn a_move_goes_on_only_where_a_look_shows_that_it_pays() {
        let landing = Landing::default();
        let rest = |z_um, defocus_um, um_per_s, direction| {
            landing.rest_um(
                &Sight::clear(z_um, defocus_um),
                um_per_s,
                0.0,
                direction,
                &ClassEdges::default(),
            )
        };
        // Seen from above on the way down to 0: focus lies at -1.
        assert_eq!(rest(1.0, 2.0, 0.0, -1.0), Some(-1.0));
        for (z_um, defocus_um, um_per_s, direction) in [
            // Not worth it; too fast to know where that was; before the goal; too far to tell; farther than one may go on.
            (1.0, 1.1, 0.0, -1.0),
            (1.0, 2.0, 400.0, -1.0),
            (1.0, 0.2, 0.0, -1.0),
            (20.0, 21.0, 0.0, -1.0),
            (-3.0, 4.0, 0.0, -1.0),
        ] {
            assert_eq!(
                rest(z_um, defocus_um, um_per_s, direction),
                None,
                "{z_um} {defocus_um}"
            );
        }
    }
}
