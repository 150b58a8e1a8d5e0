//! Keeping focus, once it is confirmed, of a specimen that drifts.
//!
//! Each look of the stage at rest tells where focus is. A filter of two states follows that height and its rate, so that many looks weigh
//! more than one, and says where focus will be when the lens has got there. It is moved when it would be off by more than [`DEAD`].
//!
//! Drift hides whether the picture follows the lens: a specimen that sinks as fast as the lens goes down looks the same all the time, and so
//! does a picture that stands still. What tells them apart is *when* the height of focus moves. That of a specimen moves as fast while the
//! lens stands as while it goes; that of a frozen picture moves with the lens only.

use std::time::Duration;

use super::follows::{PLAY_UM, Sight};
use super::{FocusController, Law, Method, Mismatch, RunState};
use crate::classes::ClassEdges;
use crate::units::Instant;

/// Distance from focus that is worth a move, depths of field: one and a half standard deviations of a single look of the shipped model.
const DEAD: f64 = 0.12;
/// Least standard deviation of a look, depths of field: errors of the model at one place are alike.
const NOISE: f64 = 0.07;
/// How fast a drift changes, depths of field per second and square root of a second.
const UNREST: f64 = 0.35;
/// Time from a decision to the middle of the rest after the move.
const LEAD: Duration = Duration::from_millis(250);
/// Looks of one rest before the next move, and so many once the lens has gone half the way after which the picture has to have followed: drift
/// has to be seen at rest.
const LEAST_LOOKS: u32 = 2;
const MORE_LOOKS: u32 = 5;
/// Distance from focus at which it is lost rather than drifted, depths of field, and looks in a row that have to say so.
const LOST: f64 = 1.0;
const LOST_LOOKS: u32 = 2;
/// Way in one direction after which the picture has to have followed, in depths of class 1 beyond the play, and the share of it by which a
/// picture moves along that does not.
const WAY: f64 = 1.2;
const ALONG: f64 = 0.6;

/// Where focus is, and how that changes: height µm, rate µm/s, and their covariance.
#[derive(Clone, Copy, Debug)]
struct Track {
    at: Instant,
    height_um: f64,
    rate_um_per_s: f64,
    covariance: [[f64; 2]; 2],
}

impl Track {
    fn new(at: Instant, height_um: f64, stddev_um: f64, depth_um: f64) -> Self {
        Self {
            at,
            height_um,
            rate_um_per_s: 0.0,
            covariance: [[stddev_um.powi(2), 0.0], [0.0, depth_um.powi(2)]],
        }
    }

    /// The height then, µm.
    fn height_um(&self, then: Instant) -> f64 {
        self.height_um + self.rate_um_per_s * then.since(self.at).as_secs_f64()
    }

    /// Takes in a look: the constant velocity model with white acceleration.
    fn update(&mut self, at: Instant, height_um: f64, stddev_um: f64, depth_um: f64) {
        let seconds = at.since(self.at).as_secs_f64();
        let unrest = (UNREST * depth_um).powi(2);
        let [[p00, p01], [_, p11]] = self.covariance;
        let p00 = p00 + seconds * (2.0 * p01 + seconds * p11) + unrest * seconds.powi(3) / 3.0;
        let p01 = p01 + seconds * p11 + unrest * seconds.powi(2) / 2.0;
        let p11 = p11 + unrest * seconds;
        let surprise_um = height_um - self.height_um(at);
        let (gain, gain_rate) = (p00 / (p00 + stddev_um.powi(2)), p01 / (p00 + stddev_um.powi(2)));
        self.height_um = self.height_um(at) + gain * surprise_um;
        self.rate_um_per_s += gain_rate * surprise_um;
        let cross = (1.0 - gain) * p01;
        self.covariance = [[(1.0 - gain) * p00, cross], [cross, p11 - gain_rate * p01]];
        self.at = at;
    }
}

/// What a look says of the hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Held {
    /// It goes on.
    On,
    /// Focus is somewhere else.
    Lost,
    /// The picture does not follow the lens, which was sent so far, µm.
    Frozen(f64),
}

/// A look of the stage at rest.
#[derive(Clone, Copy, Debug)]
struct Rest {
    at: Instant,
    z_um: f64,
    focus_um: f64,
}

/// What is known while focus is held.
#[derive(Debug, Default)]
pub(super) struct Hold {
    track: Option<Track>,
    newest: Option<Rest>,
    /// Looks since the newest move.
    looks: u32,
    lost: u32,
    /// Time, s, and way of focus, µm, between looks of one rest.
    at_rest: (f64, f64),
    /// Way of the lens in its newest direction, and that of focus and the time, s, between the looks around its moves.
    leg: (f64, f64, f64),
}

impl Hold {
    /// A look of the stage at rest whose estimate is trusted; `stddev_um` as the model states it.
    pub fn handle_look(
        &mut self,
        at: Instant,
        sight: &Sight,
        stddev_um: Option<f64>,
        edges: &ClassEdges,
    ) -> Held {
        let depth_um = 2.0 * edges.in_focus_um;
        self.lost = if sight.defocus_um.abs() > LOST * depth_um {
            self.lost + 1
        } else {
            0
        };
        if self.lost > 0 {
            return if self.lost >= LOST_LOOKS {
                Held::Lost
            } else {
                Held::On
            };
        }
        let focus_um = sight.z_um - sight.defocus_um;
        let rest = Rest {
            at,
            z_um: sight.z_um,
            focus_um,
        };
        if let Some(before) = self.newest.replace(rest) {
            self.handle_pair(&before, &rest);
        }
        let stddev_um = stddev_um.unwrap_or(0.0).max(NOISE * depth_um);
        match &mut self.track {
            Some(track) => track.update(at, focus_um, stddev_um, depth_um),
            None => self.track = Some(Track::new(at, focus_um, stddev_um, depth_um)),
        }
        self.looks += 1;
        self.judge(edges)
    }

    /// Two looks in a row, with a move between them or without.
    fn handle_pair(&mut self, before: &Rest, rest: &Rest) {
        let way_um = rest.z_um - before.z_um;
        let seconds = rest.at.since(before.at).as_secs_f64();
        let focus_um = rest.focus_um - before.focus_um;
        if self.looks > 0 {
            self.at_rest = (self.at_rest.0 + seconds, self.at_rest.1 + focus_um);
            return;
        }
        if way_um * self.leg.0 < 0.0 {
            self.leg = (0.0, 0.0, 0.0);
        }
        self.leg = (self.leg.0 + way_um, self.leg.1 + focus_um, self.leg.2 + seconds);
    }

    /// Whether focus went along with the lens, beyond what it does while the lens stands.
    fn judge(&mut self, edges: &ClassEdges) -> Held {
        let (sent_um, along_um, seconds) = self.leg;
        if sent_um.abs() < way_um(edges) {
            return Held::On;
        }
        let (rest_s, rest_um) = self.at_rest;
        let drift_um = if rest_s > 0.0 {
            rest_um / rest_s * seconds
        } else {
            0.0
        };
        (self.at_rest, self.leg) = ((0.0, 0.0), (0.0, 0.0, 0.0));
        if (along_um - drift_um) * sent_um.signum() > ALONG * (sent_um.abs() - PLAY_UM) {
            Held::Frozen(sent_um)
        } else {
            Held::On
        }
    }

    /// By how much a lens at `z_um` would be off when it has been moved, µm, positive: too far; none if that is not worth it, or not known.
    pub fn distance_um(&self, z_um: f64, now: Instant, edges: &ClassEdges) -> Option<f64> {
        let is_half_way = self.leg.0.abs() > 0.5 * way_um(edges);
        let looks = if is_half_way { MORE_LOOKS } else { LEAST_LOOKS };
        let track = self.track.as_ref().filter(|_| self.looks >= looks)?;
        let off_um = z_um - track.height_um(now);
        (off_um.abs() > DEAD * 2.0 * edges.in_focus_um).then(|| z_um - track.height_um(now + LEAD))
    }

    /// The lens is moved: where it comes to stand is known to the play of the drive, so that no rate of focus is seen in it.
    pub fn handle_move(&mut self) {
        self.looks = 0;
        if let Some(track) = &mut self.track {
            track.covariance[0][0] += PLAY_UM.powi(2);
        }
    }
}

/// Way in one direction after which the picture has to have followed, µm.
fn way_um(edges: &ClassEdges) -> f64 {
    WAY * edges.near_um + PLAY_UM
}

impl FocusController {
    /// Whether focus is found and kept by the estimates.
    pub(super) fn is_holding(&self) -> bool {
        self.state == RunState::InFocus
            && self.config.law == Law::Predictive
            && self.account.method == Method::Estimate
    }

    /// The next of a hold; the velocity commanded.
    pub(super) fn poll_hold(&mut self, now: Instant) -> f64 {
        let under_way = self.go_on(now);
        if under_way != 0.0 {
            return under_way;
        }
        if self.search.is_over() && self.fresh(now).is_some() {
            return self.search_up(now);
        }
        let look = self
            .look_at_rest(now)
            .filter(|look| look.trusted && look.exposed > self.compared);
        let Some((look, sight)) = look.and_then(|look| self.sight(&look, false).map(|sight| (look, sight)))
        else {
            return 0.0;
        };
        self.compared = look.exposed;
        let edges = self.config.edges;
        match self
            .hold
            .handle_look(look.exposed, &sight, look.stddev_um, &edges)
        {
            Held::On => {}
            Held::Lost => {
                // The law looks anew, and the picture has to follow from here.
                self.follows.forget();
                self.hold = Hold::default();
                self.state = RunState::Looking;
                return 0.0;
            }
            Held::Frozen(sent_um) => {
                self.is_acquainted = false;
                self.give_up(Mismatch::Frozen { sent_um }.sentence());
                return 0.0;
            }
        }
        let Some(distance_um) = self.hold.distance_um(sight.z_um, now, &edges) else {
            return 0.0;
        };
        self.hold.handle_move();
        let velocity = self.begin_target(distance_um, now);
        if velocity != 0.0 {
            self.state = RunState::InFocus;
        }
        velocity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds for a while with a look every 25 ms and a lens that is there at once; how far it was off at most, and what came of it. `focus`
    /// says where focus is for a lens at a height at a time.
    fn hold(seconds: f64, focus: impl Fn(f64, f64) -> f64) -> (f64, Held) {
        let edges = ClassEdges::default();
        let mut held = Hold::default();
        let (mut z_um, mut worst_um) = (0.0_f64, 0.0_f64);
        let mut pause = 0;
        for tick in 0..(seconds / 0.025) as u64 {
            let (at_s, at) = (
                0.025 * tick as f64,
                Instant::from_nanos(1_000_000_000 + 25_000_000 * tick),
            );
            let true_um = z_um - focus(z_um, at_s);
            worst_um = worst_um.max(true_um.abs());
            if pause > 0 {
                pause -= 1;
                continue;
            }
            let noise_um = 0.15 * ((0.618_033_988_75 * tick as f64).fract() - 0.5);
            let sight = Sight::clear(z_um, true_um + noise_um);
            let outcome = held.handle_look(at, &sight, Some(0.1), &edges);
            if outcome != Held::On {
                return (worst_um, outcome);
            }
            if let Some(distance_um) = held.distance_um(z_um, at, &edges) {
                held.handle_move();
                z_um -= distance_um;
                pause = 4;
            }
        }
        (worst_um, Held::On)
    }

    #[test]
    fn a_specimen_that_drifts_is_followed() {
        for um_per_s in [-2.0, -1.0, 0.0, 0.5, 2.0] {
            let (worst_um, outcome) = hold(30.0, |_, at_s| um_per_s * at_s);
            assert_eq!(outcome, Held::On, "{um_per_s} µm/s");
            assert!(worst_um < 0.6, "{um_per_s} µm/s: {worst_um} µm");
        }
        let (worst_um, outcome) = hold(60.0, |_, at_s| 3.0 * (0.5 * at_s).sin());
        assert_eq!(outcome, Held::On);
        assert!(worst_um < 0.6, "{worst_um} µm");
    }

    #[test]
    fn a_lens_in_focus_stands() {
        let edges = ClassEdges::default();
        let mut held = Hold::default();
        for tick in 0..400_u64 {
            let noise_um = 0.3 * ((0.618_033_988_75 * tick as f64).fract() - 0.5);
            let at = Instant::from_nanos(1_000_000_000 + 25_000_000 * tick);
            held.handle_look(at, &Sight::clear(0.0, noise_um), Some(0.1), &edges);
            assert_eq!(held.distance_um(0.0, at, &edges), None, "look {tick}");
        }
    }

    #[test]
    fn a_picture_that_moves_with_the_lens_ends_it_within_a_step() {
        // Always 0.4 µm too far, or too near, wherever the lens is.
        for off_um in [0.4, -0.4] {
            let (_, outcome) = hold(60.0, |z_um, _| z_um - off_um);
            let Held::Frozen(sent_um) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(sent_um * off_um < 0.0 && sent_um.abs() < 12.0, "{sent_um}");
        }
    }

    #[test]
    fn another_field_is_not_held() {
        let (_, outcome) = hold(10.0, |_, at_s| if at_s < 5.0 { 0.0 } else { 6.0 });
        assert_eq!(outcome, Held::Lost);
    }
}
