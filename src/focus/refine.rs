//! Refinement, if a run is asked for it: the peak of sharpness within a depth of field of where the estimates have focus.
//!
//! Five frames at rest, half a depth of field apart and all approached from above, so that the play of the drive lies on the same side in all of them;
//! the height of the top of the parabola through the logarithms of their sharpness. It is where this specimen looks sharpest through this lens, whatever
//! a network was trained to; under spherical aberration the peak is lopsided and the parabola stands up to 0.4 µm (40x/0.65) below where a well
//! trained network has focus. Where the frames tell nothing, what the estimates say stays.

use super::sweep::peak::parabola;
use super::{FocusController, Method, RunState};
use crate::units::Instant;

/// Heights that are looked at, from above, in depths of field from where the estimates have focus.
const HEIGHTS: [f64; 5] = [1.0, 0.5, 0.0, -0.5, -1.0];
/// By how much the lens rises above a height that it is to approach from above, µm: more than the play of a good drive.
const RUN_UP_UM: f64 = 4.0;
/// Part of the variance that the parabola has to explain.
const SMOOTH: f64 = 0.7;

/// What refinement has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Refined {
    /// Where the sharpest is, of where the estimates had focus, µm; positive: higher.
    pub by_um: f64,
    /// Standard deviation of that, µm.
    pub stddev_um: f64,
}

/// How far the refinement of a run is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Refinement {
    /// It has not begun.
    #[default]
    Due,
    /// It goes on.
    UnderWay(Looks),
    /// It is over, and told this.
    Over(Option<Refined>),
}

/// The looks of a refinement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Looks {
    /// Where the estimates have focus, µm.
    centre_um: f64,
    /// Heights that are still to be driven to, µm, the next one last, and whether each is looked at.
    ahead: Vec<(f64, bool)>,
    /// Whether the lens was sent to a height that is to be looked at.
    is_looking: bool,
    /// Heights, µm, and sharpness.
    looks: Vec<(f64, f64)>,
    /// Exposure of the newest look.
    seen: Instant,
    /// What they told; the lens is on its way there.
    found: Option<Refined>,
}

impl Looks {
    fn new(centre_um: f64, depth_um: f64, now: Instant) -> Self {
        let heights = HEIGHTS.map(|depths| centre_um + depths * depth_um);
        let run_up = (heights[0] + RUN_UP_UM, false);
        let mut ahead = vec![run_up];
        ahead.extend(heights.map(|z_um| (z_um, true)));
        ahead.reverse();
        Self {
            centre_um,
            ahead,
            is_looking: false,
            looks: Vec::new(),
            seen: now,
            found: None,
        }
    }

    /// The next height and whether it is to be looked at; none at the end, or where the looks show nothing.
    fn next(&mut self) -> Option<(f64, bool)> {
        if self.ahead.is_empty() && self.found.is_none() {
            let found = self.refined()?;
            let goal_um = self.centre_um + found.by_um;
            self.found = Some(found);
            self.ahead = vec![(goal_um, false), (goal_um + RUN_UP_UM, false)];
        }
        self.ahead.pop()
    }

    /// The sharpest height, from above the lowest to below the highest look; none if the looks do not show it.
    fn refined(&self) -> Option<Refined> {
        let usable = self.looks.iter().all(|look| look.1 > 0.0);
        let points: Vec<_> = self
            .looks
            .iter()
            .map(|look| (look.0 - self.centre_um, look.1.ln()))
            .collect();
        if !usable || points.len() < HEIGHTS.len() {
            return None;
        }
        let [c, b, a] = parabola(&points)?;
        let by_um = -0.5 * b / a;
        let is_inside =
            points.iter().any(|point| point.0 <= by_um) && points.iter().any(|point| point.0 >= by_um);
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
        let misses = mean(&|point| (point.1 - (c + point.0 * (b + a * point.0))).powi(2));
        let spread = mean(&|point| (point.1 - y).powi(2));
        if a >= 0.0 || !is_inside || misses > (1.0 - SMOOTH) * spread {
            return None;
        }
        // The error of the slope moves the top; three of the points are spent on the parabola.
        let noise = misses * points.len() as f64 / (points.len() - 3) as f64;
        let width = points.len() as f64 * mean(&|point| (point.0 - x).powi(2));
        let stddev_um = (noise / width).sqrt() / (2.0 * a.abs());
        Some(Refined { by_um, stddev_um })
    }
}

impl FocusController {
    /// Whether a run that is in focus at this height goes on to refine it.
    pub(super) fn begins_refinement(&mut self, z_um: f64, now: Instant) -> bool {
        let is_due = self.config.refines && self.refinement == Refinement::Due;
        if is_due {
            let depth_um = 2.0 * self.config.edges.in_focus_um;
            // The same place, approached from above.
            let centre_um = z_um + self.landing.play_um(-1.0);
            self.refinement = Refinement::UnderWay(Looks::new(centre_um, depth_um, now));
            self.state = RunState::Looking;
        }
        is_due
    }

    /// Whether a look that is in focus needs no other: it was refined, by more than one look.
    pub(super) fn is_refined(&self) -> bool {
        matches!(self.refinement, Refinement::Over(Some(_)))
    }

    /// Focus was found, where the newest estimate has this standard deviation, µm.
    pub(super) fn account_for_focus(&mut self, stddev_um: Option<f64>) {
        match self.refinement {
            Refinement::Over(Some(Refined { by_um, stddev_um })) => {
                self.account.handle_focus(Method::Refined, Some(stddev_um));
                self.account.refined_um = Some(by_um);
            }
            _ => self.account.handle_focus(Method::Estimate, stddev_um),
        }
    }

    /// The next of a refinement that is under way; the velocity commanded.
    pub(super) fn poll_refinement(&mut self, now: Instant) -> f64 {
        let under_way = self.go_on(now);
        let Refinement::UnderWay(mut looks) = std::mem::take(&mut self.refinement) else {
            return under_way;
        };
        if under_way != 0.0 {
            self.refinement = Refinement::UnderWay(looks);
            return under_way;
        }
        self.state = RunState::Looking;
        if looks.is_looking {
            let seen = looks.seen;
            let look = self.look_at_rest(now).filter(|look| look.exposed > seen);
            let Some((look, z_um)) = look.and_then(|look| self.height(&look).map(|z_um| (look, z_um))) else {
                self.refinement = Refinement::UnderWay(looks);
                return 0.0;
            };
            looks.seen = look.exposed;
            looks.looks.push((z_um, look.sharpness.unwrap_or_default()));
            looks.is_looking = false;
        }
        let from = self.stage.and_then(|stage| stage.z).map(|z| z.um());
        let next = looks.next().filter(|(goal_um, _)| self.permits(*goal_um));
        let (Some(from_um), Some((goal_um, is_looking))) = (from, next) else {
            self.refinement = Refinement::Over(looks.found.filter(|_| looks.ahead.is_empty()));
            return 0.0;
        };
        looks.is_looking = is_looking;
        self.refinement = Refinement::UnderWay(looks);
        self.aim(from_um, goal_um, self.config.speed_um_per_s, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(sharpness: impl Fn(f64) -> f64) -> Looks {
        let mut looks = Looks::new(100.0, 1.4, Instant::default());
        looks.looks = HEIGHTS
            .map(|depths| (100.0 + 1.4 * depths, sharpness(1.4 * depths)))
            .to_vec();
        looks
    }

    /// From -1 to 1, another one at every height.
    fn chance(z_um: f64) -> f64 {
        2.0 * (1e3 * (2.3 * z_um + 5.7).sin()).fract()
    }

    #[test]
    fn the_top_of_a_peak_is_found_between_the_looks() {
        let peak = |at_um: f64| looks(move |z_um| 0.02 * (-((z_um - at_um) / 2.0).powi(2)).exp()).refined();
        for at_um in [-1.0, -0.3, 0.0, 0.45, 1.2] {
            let found = peak(at_um).unwrap();
            assert!(
                (found.by_um - at_um).abs() < 1e-6 && found.stddev_um < 1e-6,
                "{at_um}: {found:?}"
            );
        }
        assert_eq!(peak(1.5), None, "beyond the looks");
    }

    #[test]
    fn noise_widens_the_error_and_what_has_no_peak_is_none() {
        let noisy = looks(|z_um| (-(z_um / 2.0).powi(2)).exp() * (1.0 + 0.02 * chance(z_um)));
        let found = noisy.refined().unwrap();
        assert!(
            found.by_um.abs() < 3.0 * found.stddev_um && found.stddev_um > 0.005,
            "{found:?}"
        );
        assert_eq!(looks(|_| 0.0).refined(), None, "black");
        assert_eq!(looks(|z_um| 1.0 + 0.1 * z_um.powi(2)).refined(), None, "a valley");
        assert_eq!(looks(|z_um| 1.0 + 0.1 * chance(z_um)).refined(), None, "chance");
    }
}
