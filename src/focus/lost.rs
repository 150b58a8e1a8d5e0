//! Lost: no estimate can be trusted. The lens looks longer, steps away from the slide, and at last sweeps the range ([`super::sweep`]); then
//! the run ends.

use std::time::Duration;

use super::search::Search;
use super::sweep::{Leg, Next, NoPeak, Promise, Sweep};
use super::{FocusController, Law, Method, RunState, Sweeping};
use crate::classes::DistanceIndex;
use crate::units::Instant;

/// Steps up where no estimate can be trusted, and the length of each in depths of class 1: less than the least step down from far away
/// by more than the error of either, so that the lens does not come back to where it was.
const SEARCH_STEPS: usize = 2;
const SEARCH_REACH: f64 = 4.8;
/// Sweeps of a run: one may lead to where estimates are trusted; if they lead to where they are not, as in fields with hardly anything in them,
/// another goes by sharpness alone.
const MOST_SWEEPS: u32 = 2;
/// Time from frame to frame that a sweep reckons with, s, where it is not known, and its bounds.
const FRAME_S: f64 = 0.05;
const FRAMES_S: (f64, f64) = (0.01, 0.12);
/// Age of the newest exposure above which a sweep stands and waits: there is nothing to be seen on the way.
const BLIND: Duration = Duration::from_millis(500);

impl FocusController {
    /// Nothing here can be trusted: the lens steps away from the slide and looks again, or the run ends.
    pub(super) fn search_up(&mut self, now: Instant) -> f64 {
        let edges = self.config.edges;
        let z_um = self.stage.and_then(|stage| stage.z).map_or(f64::NAN, |z| z.um());
        let sent_um = self.follows.travelled_um(z_um);
        let is_known = self.follows.is_proven();
        if !is_known && self.search.steps() == 0 && sent_um.abs() > 0.5 * edges.near_um {
            let way = if sent_um > 0.0 { "up" } else { "down" };
            let remedy = self.complaint_or("check the steps per millimetre and the direction of z");
            self.give_up(format!(
                "the picture was lost when the lens was sent {way} by {:.1} µm: {remedy}",
                sent_um.abs()
            ));
            return 0.0;
        }
        let step_um = SEARCH_REACH * edges.near_um;
        let speed = self.config.speed(DistanceIndex::from_class(3));
        if self.may_search_up() {
            self.search.handle_step(step_um);
            self.promised_um = 0.0;
            let velocity = self.begin(-step_um, speed, now);
            if velocity != 0.0 {
                self.state = RunState::Searching;
            }
            return velocity;
        }
        if self.may_sweep() {
            return self.begin_sweep(now);
        }
        self.give_up(self.search.sentence(None, &self.complaint));
        0.0
    }

    /// Whether a step up is left that could bring a specimen to view.
    pub(super) fn may_search_up(&self) -> bool {
        let most_steps = if self.follows.is_proven() { SEARCH_STEPS } else { 1 };
        let has_specimen = self.observation.as_ref().is_some_and(|look| look.has_specimen);
        self.state != RunState::InFocus
            && has_specimen
            && self.search.steps() < most_steps
            && self.has_room_above(SEARCH_REACH * self.config.edges.near_um)
    }

    /// Whether a sweep is left, and the picture shows something whose sharpness can be told.
    fn may_sweep(&self) -> bool {
        let is_permitted = match self.config.sweeping {
            Sweeping::Never => false,
            Sweeping::Known => self.follows.is_proven(),
            Sweeping::Always => true,
        };
        self.config.law == Law::Predictive
            && is_permitted
            && self.sweeps < MOST_SWEEPS
            && self.state != RunState::InFocus
            && self
                .observation
                .as_ref()
                .is_some_and(|look| look.sharpness.is_some())
    }

    fn begin_sweep(&mut self, now: Instant) -> f64 {
        let Some(z) = self.stage.and_then(|stage| stage.z) else {
            return 0.0;
        };
        let frame_s = self
            .search
            .frame_s()
            .unwrap_or(FRAME_S)
            .clamp(FRAMES_S.0, FRAMES_S.1);
        self.promised_um = 0.0;
        let is_first = self.sweeps == 0;
        self.sweeps += 1;
        let lost_um = z.um() - self.search.risen_um();
        let sweep = Sweep::new((lost_um, z.um()), self.limits_um(), frame_s, &self.config.edges);
        self.sweep = Some(if is_first { sweep } else { sweep.by_sharpness() });
        self.poll_sweep(now)
    }

    /// The next of a sweep; the velocity commanded.
    pub(super) fn poll_sweep(&mut self, now: Instant) -> f64 {
        let Some(mut sweep) = self.sweep.take() else {
            return 0.0;
        };
        self.state = RunState::Searching;
        if self.is_trusted_again(&mut sweep, now) {
            self.end_sweep();
            return 0.0;
        }
        let is_blind = self
            .observation
            .as_ref()
            .is_none_or(|look| now.since(look.exposed) > BLIND);
        if is_blind || sweep.is_waiting() {
            (self.step, self.sweep) = (None, Some(sweep));
            return 0.0;
        }
        if let (Some(step), Some(um_per_s)) = (&mut self.step, sweep.speed_um_per_s()) {
            step.slow_down(um_per_s, now);
        }
        let under_way = self.go_on(now);
        let height = self
            .stage
            .and_then(|stage| stage.z)
            .filter(|_| self.still_since.is_some());
        let (Some(z), true) = (height, under_way == 0.0) else {
            self.sweep = Some(sweep);
            return under_way;
        };
        match sweep.next(z.um()) {
            Next::Go(leg) => {
                self.sweep = Some(sweep);
                self.begin_leg(leg, z.um(), now)
            }
            Next::Compare(needed) => {
                self.compare_sharpness(sweep, needed, now);
                0.0
            }
            Next::Fail(cause) => {
                self.give_up(self.sweep_sentence(&sweep, cause));
                0.0
            }
        }
    }

    /// Shows the sweep the newest look; whether the estimates can be trusted again.
    fn is_trusted_again(&mut self, sweep: &mut Sweep, now: Instant) -> bool {
        if sweep.is_waiting() {
            let Some(look) = self.look_at_rest(now) else {
                return false;
            };
            sweep.go_on();
            return look.trusted;
        }
        let Some(began) = self.step.map(|step| step.began) else {
            return false;
        };
        let look = self
            .fresh(now)
            .filter(|look| look.exposed > self.swept && look.exposed >= began);
        let Some((look, z_um)) = look.and_then(|look| self.height(&look).map(|z_um| (look, z_um))) else {
            return false;
        };
        self.swept = look.exposed;
        let sight = self.sight(&look, true);
        sweep.handle_look(look.exposed, z_um, look.sharpness, sight.as_ref()) == Promise::Kept
    }

    /// The lens stands where the picture was sharpest: it has to be so now.
    fn compare_sharpness(&mut self, mut sweep: Sweep, needed: f64, now: Instant) {
        match self.look_at_rest(now) {
            Some(look) if look.trusted && sweep.hears_estimates() => self.end_sweep(),
            Some(look) => {
                let found = look.sharpness.unwrap_or_default();
                if sweep.compare(found, needed) {
                    self.account.handle_focus(Method::Sweep, None);
                    self.state = RunState::InFocus;
                } else {
                    self.sweep = Some(sweep);
                }
            }
            None => self.sweep = Some(sweep),
        }
    }

    /// The law goes on from here.
    fn end_sweep(&mut self) {
        (self.step, self.ended) = (None, None);
        self.follows.forget();
        self.search = Search::default();
        self.state = RunState::Looking;
    }

    fn begin_leg(&mut self, leg: Leg, from_um: f64, now: Instant) -> f64 {
        let um_per_s = leg
            .um_per_s
            .unwrap_or(f64::INFINITY)
            .min(self.config.speed_um_per_s);
        let velocity = self.aim(from_um, leg.goal_um, um_per_s, now);
        self.state = RunState::Searching;
        velocity
    }

    fn sweep_sentence(&self, sweep: &Sweep, cause: NoPeak) -> String {
        let (low_um, high_um) = sweep.range_um();
        let text = format!("from {low_um:.0} to {high_um:.0} µm, and {}", cause.text());
        self.search.sentence(Some(&text), &self.complaint)
    }
}
