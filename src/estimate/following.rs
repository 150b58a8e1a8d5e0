//! Patches that do not follow the lens lose their vote.
//!
//! Every patch that shows the specimen changes its answer by as much as the lens moves. One that lies under dust, a hair or burnt-in text
//! answers the same at every height. The first are right about the specimen, the others about the camera: where some patches of a frame are
//! seen to follow, those that are seen to stay are left out, until they follow again.

use std::collections::BTreeMap;

use crate::classes::ClassEdges;
use crate::estimate::classifier::Judged;
use crate::estimate::vote::Measurement;
use crate::units::StageHeight;

/// Least distance of two heights that are compared, in depths of class 1: play and the scatter of single patches are small beside it.
const REACH: f64 = 1.2;
/// Change of an answer, as a share of the way, below which a patch stays.
const STAYS: f64 = 0.25;
/// The same between which it follows.
const FOLLOWS: (f64, f64) = (0.5, 1.6);
/// Patches that have to follow before others lose their vote: where none follows, it is not the patches that are wrong, but the picture, the
/// axis or the whole light path.
const LEAST_FOLLOWERS: usize = 3;

/// What was seen of one patch.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Height of the lens and answer when it was seen last, µm.
    look: Option<(f64, f64)>,
    stays: bool,
}

/// What was seen of the patches of a camera, by their places in the frame.
#[derive(Clone, Debug, Default)]
pub struct Following {
    /// By the top left corner, pixels.
    patches: BTreeMap<(usize, usize), Seen>,
}

/// How the answer of a patch changed between two heights.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Follows,
    Stays,
    Neither,
}

impl Following {
    /// Nothing is known: another camera, another correction of its frames.
    pub fn reset(&mut self) {
        self.patches.clear();
    }

    /// Patches that have no vote now.
    pub fn left_out(&self) -> usize {
        self.patches.values().filter(|seen| seen.stays).count()
    }

    /// Compares a frame that was exposed at `height` with earlier ones from other heights; an unknown height tells nothing. Answers farther from
    /// focus than index 3 reaches, where they change little, and those that are vague do not count.
    pub fn handle_frame(&mut self, height: Option<StageHeight>, judged: &Judged, edges: &ClassEdges) {
        let Some(z_um) = height.map(StageHeight::um) else {
            return;
        };
        let mut changes = Vec::new();
        for (&origin, patch) in judged.origins.iter().zip(&judged.patches) {
            let tells = |measurement: &Measurement| {
                let is_sure = measurement.variance_um2 <= edges.near_um.powi(2);
                is_sure && measurement.defocus_um.abs() <= edges.far_um
            };
            let Some(Measurement { defocus_um, .. }) = patch.measurement().filter(tells) else {
                continue;
            };
            let seen = self.patches.entry(origin).or_default();
            let Some((before_um, answer_um)) = seen.look else {
                seen.look = Some((z_um, defocus_um));
                continue;
            };
            let way_um = z_um - before_um;
            if way_um.abs() >= REACH * edges.near_um {
                changes.push((origin, change((defocus_um - answer_um) / way_um)));
                seen.look = Some((z_um, defocus_um));
            }
        }
        let followers = changes
            .iter()
            .filter(|(_, change)| *change == Change::Follows)
            .count();
        for (origin, change) in changes {
            let Some(seen) = self.patches.get_mut(&origin) else {
                continue;
            };
            match change {
                Change::Follows => seen.stays = false,
                Change::Stays if followers >= LEAST_FOLLOWERS => seen.stays = true,
                Change::Stays | Change::Neither => {}
            }
        }
    }

    /// Takes the patches that stay out of a judged frame.
    pub fn leave_out(&self, judged: &mut Judged) {
        let stays = |origin: &(usize, usize)| self.patches.get(origin).is_some_and(|seen| seen.stays);
        let mut votes = judged.origins.iter().map(|origin| !stays(origin));
        judged.patches.retain(|_| votes.next().unwrap_or(true));
        judged.origins.retain(|origin| !stays(origin));
    }
}

fn change(slope: f64) -> Change {
    if (FOLLOWS.0..=FOLLOWS.1).contains(&slope) {
        Change::Follows
    } else if slope.abs() < STAYS {
        Change::Stays
    } else {
        Change::Neither
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::network::PatchPrediction;

    /// A frame of five patches side by side with these answers, µm.
    fn judged(answers_um: [f64; 5]) -> Judged {
        let mut judged = Judged::default();
        judged.origins = (0..5).map(|at| (300 * at, 0)).collect();
        judged.patches = answers_um
            .map(|um| PatchPrediction {
                probabilities: [1.0 / 7.0; 7],
                defocus_um: um as f32,
                log_variance: 0.0,
            })
            .to_vec();
        judged
    }

    /// The places that still vote after these looks: heights and answers, µm.
    fn voters(looks: &[(Option<f64>, [f64; 5])]) -> Vec<usize> {
        let mut following = Following::default();
        for (height_um, answers_um) in looks {
            let height = height_um.map(StageHeight::from_um);
            following.handle_frame(height, &judged(*answers_um), &ClassEdges::default());
        }
        let mut frame = judged([0.0; 5]);
        following.leave_out(&mut frame);
        assert_eq!(frame.patches.len(), frame.origins.len());
        assert_eq!(following.left_out(), 5 - frame.origins.len());
        frame.origins.iter().map(|(x, _)| x / 300).collect()
    }

    const ALL: [usize; 5] = [0, 1, 2, 3, 4];
    const FAR: (Option<f64>, [f64; 5]) = (Some(18.0), [18.0, 17.5, 0.2, 18.5, 18.0]);
    const NEAR: (Option<f64>, [f64; 5]) = (Some(8.0), [8.0, 8.3, 0.1, 8.0, 7.9]);

    #[test]
    fn a_patch_that_stays_where_others_follow_has_no_vote_until_it_follows() {
        assert_eq!(voters(&[FAR]), ALL);
        assert_eq!(voters(&[FAR, NEAR]), [0, 1, 3, 4]);
        // Rubbish that left: the patch shows the specimen again.
        let (wiped, on) = ([8.0, 8.0, 8.0, 8.0, 8.0], [0.0; 5]);
        assert_eq!(voters(&[FAR, NEAR, (Some(16.0), wiped), (Some(8.0), on)]), ALL);
    }

    #[test]
    fn nothing_is_left_out_without_a_way_a_height_or_others_that_follow() {
        let near = NEAR.1;
        assert_eq!(voters(&[FAR, (Some(13.0), near)]), ALL, "a short way");
        assert_eq!(voters(&[FAR, (None, near)]), ALL, "no height");
        let frozen = FAR.1;
        assert_eq!(voters(&[FAR, (Some(8.0), frozen)]), ALL, "nothing follows");
        let far = [40.0, 41.0, 0.2, 40.0, 40.0];
        assert_eq!(
            voters(&[(Some(40.0), far), (Some(30.0), far)]),
            ALL,
            "too far to tell"
        );
    }
}
