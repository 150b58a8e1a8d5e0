//! How far is gone in a first motion, by what is free between lens and slide.
//!
//! Until the direction of z is known, everything that is called up may lead down. So all that is gone until then is less than 0.35 of
//! the free distance, and all that is gone at all less than 0.6 of it.

/// Least first rise, µm: more than the host's own check of 2 and 5 µm.
const SHORT_UM: f64 = 8.0;
/// First rise in depths of field, where pictures are to show it: well seen, and within what estimates are trusted at.
const SHORT_DEPTHS: f64 = 5.5;
/// Longest rise for the eye, µm.
const VISIBLE_UM: f64 = 300.0;
/// Longest rise in which the stop is tried, µm.
const STOPPED_UM: f64 = 200.0;
/// Greatest speed of what is tried, µm/s.
const TRIED_UM_PER_S: f64 = 80.0;

/// Lengths of one first motion, µm, and speeds, µm/s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The first rise.
    pub short_um: f64,
    /// One more, as the play of the drive is taken up.
    pub second_um: f64,
    /// The rise for the eye.
    pub visible_um: f64,
    /// The rise that is stopped on the way.
    pub stopped_um: f64,
    /// Its speed.
    pub stopped_um_per_s: f64,
    /// Speed of the others.
    pub um_per_s: f64,
    /// A move of x or y that shows in a picture.
    pub aside_um: f64,
    /// What goes before it, which takes up the play.
    pub run_up_um: f64,
}

impl Plan {
    /// Of a stand without pictures, with so much between lens and slide, µm.
    pub fn new(free_um: f64) -> Self {
        Self {
            short_um: SHORT_UM,
            second_um: 0.75 * SHORT_UM,
            visible_um: (0.2 * free_um).min(VISIBLE_UM),
            stopped_um: (0.2 * free_um).min(STOPPED_UM),
            stopped_um_per_s: (0.1 * free_um).min(TRIED_UM_PER_S),
            um_per_s: (0.2 * free_um).min(TRIED_UM_PER_S),
            aside_um: 1000.0,
            run_up_um: 50.0,
        }
    }

    /// The same, with pictures through an objective of this depth of field whose field has this width, µm.
    #[must_use]
    pub fn with_pictures(self, free_um: f64, depth_of_field_um: f64, field_um: f64) -> Self {
        let short_um = (SHORT_DEPTHS * depth_of_field_um)
            .min(free_um / 20.0)
            .max(SHORT_UM);
        Self {
            short_um,
            second_um: 0.75 * short_um,
            aside_um: (0.2 * field_um).max(20.0),
            run_up_um: (0.1 * field_um).max(10.0),
            ..self
        }
    }

    /// How far up all of it leads, with what a controller may add, µm.
    pub fn rise_um(&self) -> f64 {
        // Pictures may make the first two as long as 0.0875 of what is free; heights are to suffice with and without them.
        let small_um = self.short_um + self.second_um;
        let most_small_um = small_um.max(0.09 * self.visible_um / 0.2);
        most_small_um + self.visible_um + self.stopped_um
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_leads_to_the_slide_even_if_up_is_down() {
        for free_um in [100.0, 130.0, 600.0, 2000.0, 10_000.0, 50_000.0] {
            for depth_um in [0.0, 0.9, 1.4, 9.5] {
                let plan = Plan::new(free_um).with_pictures(free_um, depth_um, 176.0);
                let unseen_um = plan.short_um + plan.second_um + plan.visible_um;
                assert!(unseen_um < 0.35 * free_um, "{free_um} {depth_um}: {plan:?}");
                assert!(
                    unseen_um + plan.stopped_um < 0.6 * free_um,
                    "{free_um} {depth_um}: {plan:?}"
                );
                assert!(plan.visible_um >= 0.2 * free_um.min(1500.0));
            }
        }
    }
}
