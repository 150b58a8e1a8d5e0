//! Whether what looks sharp is the specimen.
//!
//! The specimen keeps its height of focus while the lens moves. Dust on the camera, a hair in the field stop, noise and a broken picture
//! look the same wherever the lens is. So an estimate near zero is focus only if another one, of the same run and from a height at least
//! [`REACH`] away, was off by as much as the lens was: slope 1 of the estimate against the height, within what estimates and play permit.
//! An approach from farther away shows that without further motion; a run that begins in focus has to rise once, and come back.

use std::time::Duration;

use super::follows::{PLAY_UM, Sight};
use crate::classes::ClassEdges;
use crate::units::Instant;

/// Least distance of the two heights, in depths of class 1.
const REACH: f64 = 1.2;
/// Length of a rise: a step that is cut short must still reach so far.
const RISE: f64 = 1.5;
/// Slopes of the estimate against the height that are those of a specimen: 0.6 to 1.4 within 24 µm of focus on 16 rendered slides.
const SLOPES: (f64, f64) = (0.6, 1.6);
/// Greatest estimate that tells a distance, in depths of class 3.
const MOST: f64 = 2.0;
/// How long a place counts as confirmed after it was in focus, and within what distance, in depths of class 1.
const RECENT: Duration = Duration::from_secs(30);
const NEARBY: f64 = 1.0;
/// Looks kept.
const KEPT: usize = 32;
/// Rises in a row that may leave the estimates in focus.
const RISES: u32 = 3;

/// What the looks of a run show.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    looks: Vec<Sight>,
    rises: u32,
    /// When and at which height focus was confirmed last; it outlives the run.
    confirmed: Option<(Instant, f64)>,
}

impl Confirmation {
    /// A new run: heights may have got another meaning, and the slide may be another one.
    pub fn restart(&mut self) {
        self.looks.clear();
        self.rises = 0;
    }

    /// What an earlier run has shown does not count.
    pub fn forget(&mut self) {
        self.confirmed = None;
    }

    /// A trusted look. One of a stage in motion counts too: what it may be off by is less than the play of the drive.
    pub fn handle_look(&mut self, look: Sight) {
        if self.looks.len() == KEPT {
            self.looks.remove(0);
        }
        self.looks.push(look);
    }

    /// Whether a look in focus shows the specimen, by the looks before it.
    pub fn confirm(&mut self, focus: &Sight, edges: &ClassEdges, now: Instant) -> bool {
        let is_recent = self.confirmed.is_some_and(|(at, z_um)| {
            now.since(at) <= RECENT && (z_um - focus.z_um).abs() <= NEARBY * edges.near_um
        });
        let is_confirmed = is_recent || self.looks.iter().any(|look| agrees(look, focus, edges));
        if is_confirmed {
            self.confirmed = Some((now, focus.z_um));
            self.rises = 0;
        }
        is_confirmed
    }

    /// By how much the lens has to rise to be seen to leave focus, µm; `None` if it has risen often enough in vain.
    pub fn rise_um(&mut self, edges: &ClassEdges) -> Option<f64> {
        self.rises += 1;
        (self.rises <= RISES).then_some(RISE * edges.near_um)
    }

    /// Why a run ends that looks sharp and is not confirmed.
    pub fn sentence(edges: &ClassEdges) -> String {
        format!(
            "what looks sharp does not follow the lens: the picture looks in focus, and still does after {RISES} steps of {:.1} µm up; \
             is there dirt on the camera or in the light path, or is the picture broken?",
            RISE * edges.near_um
        )
    }
}

/// Whether two looks differ as their heights do.
fn agrees(look: &Sight, focus: &Sight, edges: &ClassEdges) -> bool {
    let way_um = look.z_um - focus.z_um;
    let length_um = way_um.abs();
    if length_um < REACH * edges.near_um {
        return false;
    }
    if !(look.has_distance && focus.has_distance) {
        // Of an estimate without a distance only the bounds of its class are known.
        let (low, high) = edges.bounds(look.index);
        let slack_um = edges.in_focus_um + PLAY_UM;
        return look.index != focus.index && way_um >= low - slack_um && way_um <= high + slack_um;
    }
    let shown_um = (look.defocus_um - focus.defocus_um) * way_um.signum();
    let is_known = look.defocus_um.abs() <= MOST * edges.far_um;
    let least_um = SLOPES.0 * (length_um - PLAY_UM);
    let most_um = SLOPES.1 * (length_um + PLAY_UM);
    is_known && shown_um >= least_um && shown_um <= most_um
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_confirmed(before: &[(f64, f64)], focus: (f64, f64)) -> bool {
        let mut confirmation = Confirmation::default();
        for (z_um, defocus_um) in before {
            confirmation.handle_look(Sight::clear(*z_um, *defocus_um));
        }
        confirmation.confirm(
            &Sight::clear(focus.0, focus.1),
            &ClassEdges::default(),
            Instant::default(),
        )
    }

    #[test]
    fn only_what_follows_the_lens_is_confirmed() {
        for (before, focus, expected) in [
            // Nothing but itself, and a way too short to tell.
            (&[][..], (0.0, 0.2), false),
            (&[(4.0, 4.0)], (0.0, 0.2), false),
            // An approach from above, from below, and the play of the drive in the way.
            (&[(20.0, 20.0)], (0.0, 0.2), true),
            (&[(-9.0, -9.4)], (0.0, 0.2), true),
            (&[(8.0, 5.4)], (0.0, 0.2), true),
            // Dirt on the camera: the same at every height, or nearly.
            (&[(20.0, 0.3)], (0.0, 0.2), false),
            (&[(7.0, 1.9), (6.8, 2.0)], (0.0, 0.2), false),
            // The other way round, and twice as far.
            (&[(12.0, -12.0)], (0.0, 0.0), false),
            (&[(12.0, 26.0)], (0.0, 0.0), false),
            // So far away estimates tell no distance.
            (&[(61.0, 61.0)], (0.0, 0.0), false),
        ] {
            assert_eq!(is_confirmed(before, focus), expected, "{before:?} {focus:?}");
        }
    }

    #[test]
    fn classes_alone_confirm_by_their_bounds() {
        let class_of = |z_um, defocus_um| Sight {
            has_distance: false,
            ..Sight::clear(z_um, defocus_um)
        };
        for (z_um, defocus_um, expected) in [
            (20.0, 20.0, true),
            (20.0, 0.1, false),
            (30.0, 7.0, false),
            (-8.0, -7.0, true),
        ] {
            let mut confirmation = Confirmation::default();
            confirmation.handle_look(class_of(z_um, defocus_um));
            let found = confirmation.confirm(&class_of(0.0, 0.1), &ClassEdges::default(), Instant::default());
            assert_eq!(found, expected, "{z_um} {defocus_um}");
        }
    }

    #[test]
    fn a_confirmation_holds_for_a_while_and_nearby() {
        let edges = ClassEdges::default();
        let mut confirmation = Confirmation::default();
        confirmation.handle_look(Sight::clear(20.0, 20.0));
        assert!(confirmation.confirm(&Sight::clear(0.0, 0.0), &edges, Instant::default()));
        confirmation.restart();
        let soon = Instant::default() + Duration::from_secs(20);
        assert!(
            !confirmation.confirm(&Sight::clear(9.0, 0.0), &edges, soon),
            "elsewhere"
        );
        assert!(confirmation.confirm(&Sight::clear(2.0, 0.0), &edges, soon));
        let late = soon + Duration::from_secs(31);
        assert!(!confirmation.confirm(&Sight::clear(2.0, 0.0), &edges, late));
    }

    #[test]
    fn the_lens_rises_three_times() {
        let mut confirmation = Confirmation::default();
        let rises: Vec<bool> = (0..4)
            .map(|_| confirmation.rise_um(&ClassEdges::default()).is_some())
            .collect();
        assert_eq!(rises, [true, true, true, false]);
    }
}
