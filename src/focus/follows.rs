//! Whether the picture follows the stage: what the stage reports as travelled, held against what the estimates say.
//!
//! A lens that rises by 5 µm has 5 µm more defocus. An axis that runs the wrong way, a picture that stands still and a scale of the
//! stage that is wrong all break this, and nothing else tells them from a specimen far away. [`Follows`] adds up both since the picture
//! followed last and says what is wrong, and how far the lens may still descend without having been seen to do so (the leash).
//!
//! How much an estimate may be off stands in `noise_um` and the constants below, measured on 16 rendered slides at ±72 µm: the local
//! slope of the estimates is 0.6 to 1.4 within 24 µm of focus, 0.3 to 2.4 out to 60 µm, and anything beyond.

use crate::classes::{ClassEdges, DistanceIndex};

/// Play between motor and lens that is taken for granted, µm, and what a worn drive may have.
pub(super) const PLAY_UM: f64 = 2.5;
const WORN_PLAY_UM: f64 = 10.0;

/// Share of the travel, beyond the play, that the estimate must show.
const LEAST_SHARE: f64 = 0.25;

/// Multiple of the travel that no estimate shows by mistake.
const MOST_SHARE: f64 = 3.0;

/// What a soft stage still rings by when a look counts, in depths of class 0: a carriage of 25 Hz does so by half a micrometre and more.
const RINGING: f64 = 0.8;

/// Part of a distance by which its estimate may be too long twice in a run.
const STRETCH: f64 = 0.22;

/// Less travel than this is standstill, µm.
const STANDSTILL_UM: f64 = 0.05;

/// Where the lens was and how far from focus it looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sight {
    /// Height of the lens by the stage, µm.
    pub z_um: f64,
    /// Signed defocus: the model's, or the least its class promises, µm.
    pub defocus_um: f64,
    /// The class.
    pub index: DistanceIndex,
    /// Whether the model states a distance, not only a class.
    pub has_distance: bool,
    /// Whether the estimate may be acted on: one that may not can show that the picture follows, never that it does not.
    pub is_trusted: bool,
    /// Whether the side of focus is clear.
    pub is_sided: bool,
    /// Whether the lens moved when it was exposed: stage and camera then agree only to their latencies.
    pub in_motion: bool,
}

#[cfg(test)]
impl Sight {
    /// A clear look of a stage at rest, for tests.
    pub fn clear(z_um: f64, defocus_um: f64) -> Self {
        Self {
            z_um,
            defocus_um,
            index: ClassEdges::default().classify(crate::units::Micrometres(defocus_um)),
            has_distance: true,
            is_trusted: true,
            is_sided: true,
            in_motion: false,
        }
    }
}

/// How picture and stage disagree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mismatch {
    /// The picture shows the opposite motion. Lengths in µm, positive: away from the slide.
    Contrary { sent_um: f64 },
    /// The picture shows no motion.
    Frozen { sent_um: f64 },
    /// The picture shows much more motion.
    Scale { sent_um: f64, seen_um: f64 },
}

impl Mismatch {
    /// The cause in one sentence.
    pub fn sentence(self) -> String {
        let way = |um: f64| if um > 0.0 { "up" } else { "down" };
        match self {
            Self::Contrary { sent_um } => format!(
                "the picture says the lens moved {} while it was sent {} by {:.1} µm: z runs the wrong way, or dirt on the camera hides the specimen; \
                 look which before you reverse the z axis",
                way(-sent_um),
                way(sent_um),
                sent_um.abs()
            ),
            Self::Frozen { sent_um } => format!(
                "the picture does not change although the lens was sent {} by {:.1} µm: is the camera frozen, does dirt on it hide the specimen, or does \
                 the z motor not turn?",
                way(sent_um),
                sent_um.abs()
            ),
            Self::Scale { sent_um, seen_um } => format!(
                "the picture says the lens moved {:.1} µm while it was sent {:.1} µm: check the steps per millimetre of z",
                seen_um.abs(),
                sent_um.abs()
            ),
        }
    }
}

/// What a run knows about the picture and the stage.
#[derive(Debug)]
pub(super) struct Follows {
    last: Option<Sight>,
    /// Travel by the stage and by the picture since the picture followed last, µm.
    sent_um: f64,
    seen_um: f64,
    /// The same since the lens turned last: what it travelled before a turn is no sign that it went the wrong way after it.
    leg_um: (f64, f64),
    /// Whether the lens moved at the look that the sums, or those since the turn, begin with.
    began_in_motion: bool,
    leg_began_in_motion: bool,
    /// An estimate that was not trusted, or of no clear side, is part of the two sums.
    is_doubtful: bool,
    is_sideless: bool,
    is_proven: bool,
    /// The lens rises, because it was not seen to descend.
    is_lifting: bool,
    /// Steps that looked too long.
    stretched: u32,
    play_um: f64,
}

impl Default for Follows {
    fn default() -> Self {
        Self {
            last: None,
            sent_um: 0.0,
            seen_um: 0.0,
            leg_um: (0.0, 0.0),
            began_in_motion: false,
            leg_began_in_motion: false,
            is_doubtful: false,
            is_sideless: false,
            is_proven: false,
            is_lifting: false,
            stretched: 0,
            play_um: PLAY_UM,
        }
    }
}

impl Follows {
    /// Of a stage that the picture is known to follow.
    pub fn proven() -> Self {
        Self {
            is_proven: true,
            ..Self::default()
        }
    }

    /// Whether the picture has followed the stage in this run.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Whether the lens has hardly moved since the picture followed last.
    pub fn is_fresh(&self) -> bool {
        self.sent_um.abs() < 1.0
    }

    /// The stage's travel, up to `z_um`, since the picture followed last.
    pub fn travelled_um(&self, z_um: f64) -> f64 {
        self.last.map_or(0.0, |last| self.sent_um + z_um - last.z_um)
    }

    /// Focus is reached: what the lens does from here on to stay there is counted anew.
    pub fn rest(&mut self) {
        self.restart();
    }

    /// The lens was moved by what no estimate shows: the next look is a first one.
    pub fn forget(&mut self) {
        self.last = None;
        self.restart();
    }

    /// What the newest estimate shows.
    ///
    /// # Errors
    /// If the picture cannot be that of a lens which moved as the stage says.
    pub fn handle_sight(&mut self, sight: Sight, edges: &ClassEdges) -> Result<(), Mismatch> {
        let Some(last) = self.last.replace(sight) else {
            self.restart();
            return Ok(());
        };
        let step_um = sight.z_um - last.z_um;
        if step_um.abs() < STANDSTILL_UM {
            if !sight.is_trusted && last.is_trusted {
                self.last = Some(last);
            }
            return Ok(());
        }
        let shown_um = sight.defocus_um - last.defocus_um;
        self.sent_um += step_um;
        self.seen_um += shown_um;
        if step_um * self.leg_um.0 < 0.0 {
            self.leg_um = (0.0, 0.0);
            self.leg_began_in_motion = last.in_motion;
        }
        self.leg_um = (self.leg_um.0 + step_um, self.leg_um.1 + shown_um);
        self.is_sideless |= !sight.is_sided;
        self.is_doubtful |= !sight.is_trusted || self.is_sideless;
        self.judge(last, sight, edges)
    }

    fn judge(&mut self, last: Sight, sight: Sight, edges: &ClassEdges) -> Result<(), Mismatch> {
        let (sent_um, seen_um) = (self.sent_um, self.seen_um);
        let way_um = sent_um.abs();
        // Without a side the picture still shows whether it changes.
        let shown_um = if self.is_sideless {
            seen_um.abs()
        } else {
            seen_um * sent_um.signum()
        };
        let reach_um = sight.defocus_um.abs().max(last.defocus_um.abs());
        // Both ends of a way count as far as stage and camera agree where they were.
        let is_clear = |way_um: f64, began_in_motion: bool| {
            let at_rest = !sight.in_motion && !began_in_motion;
            !self.is_doubtful && (at_rest || way_um >= 2.0 * edges.near_um)
        };
        let (leg_um, leg_seen_um) = self.leg_um;
        let error_um = noise_um(reach_um, sight, edges) + RINGING * edges.in_focus_um;
        if is_clear(leg_um.abs(), self.leg_began_in_motion) && leg_seen_um * leg_um.signum() < -error_um {
            return Err(Mismatch::Contrary { sent_um: leg_um });
        }
        let is_measured = is_clear(way_um, self.began_in_motion) && sight.has_distance && last.has_distance;
        let most_um = MOST_SHARE * way_um + 0.5 + 0.5 * edges.in_focus_um + 0.05 * reach_um;
        if is_measured && shown_um > most_um {
            return Err(Mismatch::Scale { sent_um, seen_um });
        }
        let stretch_um = STRETCH * (sight.defocus_um.abs() + last.defocus_um.abs()) + 0.5;
        if is_measured && !sight.in_motion && shown_um - way_um > stretch_um {
            self.stretched += 1;
            if self.stretched > 1 {
                return Err(Mismatch::Scale { sent_um, seen_um });
            }
        }
        let least_um = LEAST_SHARE * (way_um - self.play_um).max(0.0);
        let is_long = way_um >= 0.2 * edges.near_um;
        if is_long && shown_um >= least_um.max(proof_um(reach_um, edges)) {
            self.is_proven = true;
            if std::mem::take(&mut self.is_lifting) {
                // It follows, and did not before: so much was play.
                self.play_um = WORN_PLAY_UM;
            }
            self.restart();
        } else if sent_um > self.rise_um(sight, edges) {
            return Err(Mismatch::Frozen { sent_um });
        }
        Ok(())
    }

    fn restart(&mut self) {
        (self.sent_um, self.seen_um, self.leg_um) = (0.0, 0.0, (0.0, 0.0));
        self.began_in_motion = self.last.is_some_and(|last| last.in_motion);
        self.leg_began_in_motion = self.began_in_motion;
        self.is_sideless = self.last.is_some_and(|last| !last.is_sided);
        self.is_doubtful = self.is_sideless || self.last.is_some_and(|last| !last.is_trusted);
    }

    /// Length of a step that is to show whether the picture follows, µm: it costs little if the picture does not.
    pub fn trial_um(look: &Sight, edges: &ClassEdges) -> f64 {
        if look.defocus_um.abs() >= edges.far_um {
            1.2 * edges.near_um
        } else {
            edges.near_um
        }
    }

    /// How far the lens may descend now, µm, none if it has to rise first. So far it may go without being seen to follow: what its
    /// class promises where estimates saturate, else one step.
    pub fn leash_um(&self, look: &Sight, edges: &ClassEdges) -> Option<f64> {
        let trial_um = Self::trial_um(look, edges);
        let play_um = if self.play_um > PLAY_UM { self.play_um } else { 0.0 };
        let span_um = match look.index.value() {
            4 if !look.has_distance || look.defocus_um > 2.0 * edges.far_um => edges.far_um,
            3 if !look.has_distance => edges.far_um - edges.middle_um + PLAY_UM,
            2 if !look.has_distance => edges.middle_um - edges.near_um + PLAY_UM,
            1 if !look.has_distance => edges.near_um - edges.in_focus_um + PLAY_UM,
            _ => 1.1 * trial_um + play_um,
        };
        let left_um = span_um + self.sent_um.min(0.0);
        (!self.is_lifting && left_um > 0.15 * trial_um).then_some(left_um)
    }

    /// The lens has to rise to be seen to move.
    pub fn lift(&mut self) {
        if !self.is_lifting {
            self.is_lifting = true;
            self.restart();
        }
    }

    /// How far the lens may rise without being seen to follow, µm.
    fn rise_um(&self, look: Sight, edges: &ClassEdges) -> f64 {
        let is_measured = look.has_distance && !self.is_doubtful;
        if is_measured || look.index.value() > -2 || self.is_lifting {
            2.8 * edges.near_um
        } else {
            2.0 * edges.far_um
        }
    }
}

/// By how much the difference of two estimates may be off, µm, the farther of which says `reach_um`.
fn noise_um(reach_um: f64, sight: Sight, edges: &ClassEdges) -> f64 {
    if !sight.has_distance {
        return edges.near_um;
    }
    let share = if reach_um > 2.0 * edges.far_um { 0.15 } else { 0.04 };
    0.4 * edges.in_focus_um + share * reach_um
}

/// Change of the estimates that two frames of a lens at rest do not show, µm.
fn proof_um(reach_um: f64, edges: &ClassEdges) -> f64 {
    let share = if reach_um > 2.0 * edges.far_um { 0.05 } else { 0.02 };
    0.4 * edges.in_focus_um + share * reach_um
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the sights of a lens say, each a height, an estimate and whether the lens moved.
    fn verdict(sights: &[(f64, f64, bool)]) -> Result<(), Mismatch> {
        let mut follows = Follows::proven();
        sights.iter().try_for_each(|&(z_um, defocus_um, in_motion)| {
            let sight = Sight {
                in_motion,
                ..Sight::clear(z_um, defocus_um)
            };
            follows.handle_sight(sight, &ClassEdges::default())
        })
    }

    #[test]
    fn a_way_that_began_in_motion_is_as_uncertain_as_one_that_ends_there() {
        // The lens hunts: it passed 0 µm when it was reported at 2 µm, turned, and stands at 2.1 µm.
        let hunting = [(12.0, 12.0, false), (2.0, 0.0, true), (2.1, 2.1, false)];
        assert_eq!(verdict(&hunting), Ok(()));
        let at_rest = hunting.map(|(z_um, defocus_um, _)| (z_um, defocus_um, false));
        assert!(matches!(verdict(&at_rest), Err(Mismatch::Scale { .. })));
        // A long way is clear all the same.
        let reversed = [(0.0, 30.0, true), (-6.0, 36.0, true), (-11.0, 41.0, true)];
        assert!(matches!(verdict(&reversed), Err(Mismatch::Contrary { .. })));
    }
}
