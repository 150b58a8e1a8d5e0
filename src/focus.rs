//! The control laws: from what a frame says about focus to a motion along z.
//!
//! [`Law::Paper`] is Algorithm 1 of the HH-Net paper as printed. At index 1 it moves 45 µm/s towards the slide, so one decision
//! of 25 ms moves 1.1 µm and one of 200 ms moves past the whole in-focus band: with any real latency it hunts.
//! [`Law::Stepwise`] adds the least that cures this: every move has the paper's direction and at most the paper's speed, but a
//! *length*, bounded by the edges of the class that ordered it; then the stage stops, settles, and a frame exposed while
//! it stood decides again. And since the picture's sign fades with the blur, a step *towards* the slide needs a sign that is
//! believed: in doubt the lens first rises, where a lens that was too close comes into view, and descends only if that
//! did not make the sign clear.
//!
//! [`Law::Predictive`] takes the same looks with the same care and commands the *height* at which the look has focus ([`predictive`]).
//!
//! Three rules stand above the laws. The picture has to follow the stage ([`follows`]): a run begins with a short step, and the
//! lens does not descend a second time unless it was seen to descend. In focus is only what a frame says that was exposed while the
//! stage stood, and that was seen to follow the lens ([`confirmation`]). And where no estimate can be trusted, the lens looks longer, steps
//! away from the slide and sweeps the range before it gives up ([`lost`]).
//!
//! [`FocusController`] holds no clock and does no I/O. What happened goes in by `handle_*`, [`FocusController::poll`] says what
//! to command now. It promises: no motion while disabled, failed, or without fresh estimates; towards the slide no motion
//! that no trusted estimate ordered, but for a sweep, which is slow and bounded; no command that leads past the z limits.

mod account;
mod config;
mod confirmation;
mod follows;
mod hold;
mod landing;
mod left_out;
mod lost;
mod paper;
mod predictive;
mod refine;
mod search;
pub mod session;
mod step;
mod stepwise;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

pub use account::{Account, Method};
pub use config::{FocusConfig, FocusConfigError, Law, Sweeping, Wanted};
use confirmation::Confirmation;
use follows::{Follows, Mismatch, Sight};
use hold::Hold;
use landing::Landing;
use left_out::LeftOut;
use refine::Refinement;
use search::Search;
use step::{LEAST_COMMAND_S, Step};
use stepwise::{DOUBT, MIN_MOVE, Stepwise, TRIAL};
use sweep::Sweep;
pub(crate) use sweep::peak;

use crate::classes::DistanceIndex;
use crate::stage::heights::Heights;
use crate::units::{CLOCK_SKEW, Defocus, Instant, StageHeight};

/// Time after which the lens has come to rest from a motion that was not this run's: ringing of half a micrometre and more, after a long
/// move, is gone.
const FOREIGN_SETTLE: Duration = Duration::from_millis(250);

/// Age of the stage's newest report above which nothing is known of it; more than the longest period of reports (1 s).
const STAGE_LIMIT: Duration = Duration::from_millis(1500);

/// Why nothing moves while the height is unknown.
pub const POSITION_INVALID: &str =
    "the position of the stage is not valid: call home or accept_position of the stepper bridge";

/// What one frame says, reduced to what control needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Distance index.
    pub index: DistanceIndex,
    /// Signed defocus if the model estimates it; positive: too far from the slide.
    pub defocus: Option<Defocus>,
    /// Standard deviation of `defocus`, µm, if the model states it.
    pub stddev_um: Option<f64>,
    /// Sharpness of the whole picture (Tenengrad), to be compared with that of other frames of the run; none of a frame that shows nothing.
    pub sharpness: Option<f64>,
    /// Probability that focus lies on the other side than `index` says, 0 to 1.
    pub other_side: f32,
    /// False: must not be acted on.
    pub trusted: bool,
    /// Why it is not trusted, one sentence; empty when trusted or not said.
    pub reason: Arc<str>,
    /// Whether anything was seen that could be judged. False: index and defocus mean nothing.
    pub has_specimen: bool,
    /// Patches that had no vote, because they were seen not to follow the lens.
    pub left_out: u16,
    /// Middle of the frame's exposure.
    pub exposed: Instant,
}

/// What the stage reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageReport {
    /// Height of the lens, stage coordinates; `None` while unknown.
    pub z: Option<StageHeight>,
    /// Whether it moves.
    pub motion: StageMotion,
    /// Time of the report.
    pub at: Instant,
}

/// Whether the stage moves, or why it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageMotion {
    /// Standing still, ready.
    Still,
    /// In motion.
    Moving,
    /// Disconnected or refusing to move.
    Unavailable,
}

/// What the controller is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// Not enabled; never moves.
    Disabled,
    /// Waiting for an estimate to act on.
    Looking,
    /// Moving towards focus.
    Moving,
    /// Moving although no estimate can be trusted, to find one that can, or sharpness.
    Searching,
    /// In focus, and kept so by small moves.
    InFocus,
    /// Gave up, standing; the sentence says why. Enable again to retry.
    Failed(String),
}

/// What the stage is to do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Go at this velocity along z, µm/s, until told otherwise; positive: away from the slide.
    Velocity(f64),
    /// Drive to this height at most at this speed, µm/s.
    Target(StageHeight, f64),
}

impl Command {
    /// Stand.
    pub const STAND: Self = Self::Velocity(0.0);

    /// Whether it is a motion.
    pub fn is_motion(self) -> bool {
        self != Self::STAND
    }
}

/// What is wrong with the times of the estimates that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdated {
    Ahead,
    Behind,
}

/// The state machine between estimates and velocities. See the module's documentation.
#[derive(Debug)]
pub struct FocusController {
    config: FocusConfig,
    state: RunState,
    enabled_at: Instant,
    /// When the run began, or was in focus last.
    sought_since: Instant,
    stage: Option<StageReport>,
    heights: Heights,
    /// Since when the stage has reported standstill without a break.
    still_since: Option<Instant>,
    /// When motion was last commanded, or the run began.
    last_motion_command: Instant,
    /// When motion was last commanded, in this run or one before: what the stage reported earlier says nothing of where it stands.
    driven: Instant,
    observation: Option<Observation>,
    /// Exposure of the newest estimate that was held against the stage's travel.
    compared: Instant,
    step: Option<Step>,
    /// The newest step that is over and has not been measured.
    ended: Option<Step>,
    /// How long the stage goes on after the end of a command, s: its queue and its deceleration. Learnt from every step.
    overrun_s: f64,
    /// What is left of a distance that a trusted estimate ordered, while the picture was not yet known to follow; signed defocus, µm.
    promised_um: f64,
    follows: Follows,
    /// Whether an earlier run of this stage, of which nothing was lost since, was confirmed: the picture is known to follow.
    is_acquainted: bool,
    confirmation: Confirmation,
    is_felt: bool,
    stepwise: Stepwise,
    landing: Landing,
    /// Whether a move has gone on by what was seen on its way since the newest look at rest.
    is_steered: bool,
    left_out: LeftOut,
    refinement: Refinement,
    search: Search,
    hold: Hold,
    /// The sweep under way.
    sweep: Option<Sweep>,
    /// Sweeps of this run.
    sweeps: u32,
    /// Exposure of the newest look that the sweep has seen.
    swept: Instant,
    account: Account,
    misdated: Option<Misdated>,
    /// What the newest estimate says why it is not trusted, whatever its time.
    complaint: Arc<str>,
}

impl FocusController {
    /// A disabled controller.
    pub fn new(config: FocusConfig) -> Self {
        Self {
            landing: Landing::with_play(config.play_um),
            config,
            state: RunState::Disabled,
            enabled_at: Instant::default(),
            sought_since: Instant::default(),
            stage: None,
            heights: Heights::default(),
            still_since: None,
            last_motion_command: Instant::default(),
            driven: Instant::default(),
            observation: None,
            compared: Instant::default(),
            step: None,
            ended: None,
            overrun_s: 0.08,
            promised_um: 0.0,
            follows: Follows::default(),
            is_acquainted: false,
            confirmation: Confirmation::default(),
            is_felt: false,
            stepwise: Stepwise::default(),
            is_steered: false,
            left_out: LeftOut::default(),
            refinement: Refinement::default(),
            search: Search::default(),
            hold: Hold::default(),
            sweep: None,
            sweeps: 0,
            swept: Instant::default(),
            account: Account::default(),
            misdated: None,
            complaint: "".into(),
        }
    }

    /// What the controller is doing.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Goes on by other settings; the run, its limits in time included, is not begun anew.
    pub fn set_config(&mut self, config: FocusConfig) {
        self.is_acquainted &= config.edges == self.config.edges;
        // What was learnt meanwhile stays, unless the play was measured anew.
        if config.play_um != self.config.play_um {
            self.landing = Landing::with_play(config.play_um);
        }
        self.config = config;
    }

    /// What the run can say for itself so far.
    pub fn account(&self) -> Account {
        self.account
    }

    /// The settings.
    pub fn config(&self) -> &FocusConfig {
        &self.config
    }

    /// Begins a run. Estimates exposed before `now` do not count.
    pub fn enable(&mut self, now: Instant) {
        self.state = RunState::Looking;
        (self.enabled_at, self.sought_since) = (now, now);
        self.last_motion_command = now;
        self.observation = None;
        self.step = None;
        self.ended = None;
        self.promised_um = 0.0;
        self.follows = if self.is_acquainted && self.config.law == Law::Predictive {
            Follows::proven()
        } else {
            Follows::default()
        };
        self.confirmation.restart();
        if self.config.confirms_anew {
            self.confirmation.forget();
        }
        self.is_felt = false;
        self.stepwise = Stepwise::default();
        self.landing.restart();
        self.is_steered = false;
        self.left_out.restart();
        self.refinement = Refinement::default();
        self.search = Search::default();
        self.hold = Hold::default();
        (self.sweep, self.sweeps) = (None, 0);
        self.account = Account::default();
        self.misdated = None;
        self.complaint = "".into();
    }

    /// Ends the run; the next poll commands standstill.
    pub fn disable(&mut self) {
        self.state = RunState::Disabled;
        (self.step, self.sweep) = (None, None);
    }

    /// Ends the run in failure, for a reason that the controller cannot see; the next poll commands standstill.
    pub fn give_up(&mut self, reason: String) {
        self.state = RunState::Failed(reason);
        (self.step, self.sweep) = (None, None);
    }

    /// A new estimate has arrived. Older ones than the newest known are ignored, and so are those of the future: they would
    /// look fresh long after the estimates have ended.
    pub fn handle_observation(&mut self, observation: Observation, now: Instant) {
        self.complaint = observation.reason.clone();
        self.misdated = if observation.exposed > now + CLOCK_SKEW {
            Some(Misdated::Ahead)
        } else if observation.exposed + self.config.estimate_timeout < self.enabled_at {
            Some(Misdated::Behind)
        } else {
            None
        };
        let outdated = self
            .observation
            .as_ref()
            .is_some_and(|known| observation.exposed <= known.exposed);
        let is_early = outdated || observation.exposed < self.enabled_at;
        if is_early || self.misdated.is_some() || self.state == RunState::Disabled {
            return;
        }
        if observation.exposed >= self.counts_from() {
            self.search.handle_look(&observation);
        }
        self.account.frames += 1;
        self.observation = Some(observation);
    }

    /// The stage has reported.
    pub fn handle_stage(&mut self, report: StageReport) {
        match report.motion {
            StageMotion::Still if report.at <= self.driven => {}
            StageMotion::Still => self.still_since = self.still_since.or(Some(report.at)),
            StageMotion::Moving | StageMotion::Unavailable => self.still_since = None,
        }
        self.is_acquainted &= report.z.is_some() && report.motion != StageMotion::Unavailable;
        self.landing.handle_height(report.z.map(|z| z.um()));
        if let Some(step) = self.step.take_if(|step| step.is_ended_by(&report)) {
            self.still_since = Some(report.at);
            self.ended = Some(step);
        }
        self.step.take_if(|step| step.is_astray(&report));
        self.heights.handle_report(report.at, report.z.map(|z| z.um()));
        self.stage = Some(report);
    }

    /// What to command now. Call at least every 20 ms.
    pub fn poll(&mut self, now: Instant) -> Command {
        if matches!(self.state, RunState::Disabled | RunState::Failed(_)) {
            return Command::STAND;
        }
        if self.state == RunState::InFocus {
            self.sought_since = now;
        }
        let velocity = match self.give_up_reason(now) {
            Some(reason) => {
                self.give_up(reason);
                0.0
            }
            None => self.drive(now),
        };
        if self.step.is_some() || velocity != 0.0 {
            self.driven = now;
        }
        let goal = self.step.and_then(|step| Some((step, step.goal_um?)));
        if let Some((step, goal_um)) = goal {
            // Said again it is no new motion.
            if step.began == now {
                self.last_motion_command = now;
                self.still_since = None;
            }
            return Command::Target(StageHeight::from_um(goal_um), step.velocity_um_per_s.abs());
        }
        if velocity != 0.0 {
            self.last_motion_command = now;
            self.still_since = None;
        }
        Command::Velocity(velocity)
    }

    fn give_up_reason(&self, now: Instant) -> Option<String> {
        self.stage_reason(now).or_else(|| self.estimate_reason(now))
    }

    fn stage_reason(&self, now: Instant) -> Option<String> {
        let stage = self.stage?;
        let silence = now.since(stage.at);
        if stage.motion == StageMotion::Unavailable {
            Some("the stage is not available: see stage_state for the reason, then enable again".to_owned())
        } else if stage.z.is_none() {
            Some(POSITION_INVALID.to_owned())
        } else if silence > STAGE_LIMIT {
            Some(format!(
                "the stage has not reported for {:.1} s: check that its driver is running",
                silence.as_secs_f64()
            ))
        } else {
            None
        }
    }

    fn estimate_reason(&self, now: Instant) -> Option<String> {
        let exposed = self.observation.as_ref().map(|observation| observation.exposed);
        let age = now.since(exposed.unwrap_or(self.enabled_at));
        let allowance = self.config.estimate_timeout + self.longest_step();
        if now.since(self.sought_since) > self.config.run_timeout {
            let remedy = self.complaint_or("check light, slide and range");
            let limit_s = self.config.run_timeout.as_secs_f64();
            Some(format!("no focus within {limit_s:.0} s: {remedy}"))
        } else if age > allowance.max(self.config.estimate_timeout * 5) {
            let remedy = match self.misdated {
                Some(Misdated::Ahead) => self.complaint_or(
                    "what arrives bears times that have yet to come; set the clocks of camera and controller alike",
                ),
                Some(Misdated::Behind) => {
                    self.complaint_or("what arrives bears times before the run; check the camera's stamps and clock")
                }
                None => self.complaint_or("check that camera and classifier are running"),
            };
            Some(format!("no estimate for {:.1} s: {remedy}", age.as_secs_f64()))
        } else {
            None
        }
    }

    /// What the estimates say themselves, else what is likely.
    fn complaint_or<'a>(&'a self, likely: &'a str) -> &'a str {
        if self.complaint.is_empty() {
            likely
        } else {
            &self.complaint
        }
    }

    /// Moves of a length are blind while they last; none takes longer than this.
    fn longest_step(&self) -> Duration {
        Duration::from_secs_f64(self.config.edges.far_um / self.config.default_speed_um_per_s).max(MIN_MOVE)
    }

    fn fresh(&self, now: Instant) -> Option<Observation> {
        self.observation
            .clone()
            .filter(|observation| now.since(observation.exposed) <= self.config.estimate_timeout)
    }

    /// Exposures from here on show the stage at rest.
    fn counts_from(&self) -> Instant {
        match self.still_since {
            // A motion that was not this run's, just before it: longer and faster than a step, and the lens rings longer after it.
            Some(since) if self.last_motion_command == self.enabled_at => {
                (since + FOREIGN_SETTLE).max(self.enabled_at)
            }
            Some(since) => since.max(self.last_motion_command) + self.config.settle,
            None => Instant::from_nanos(u64::MAX),
        }
    }

    /// The newest estimate, if it is fresh and the stage stood.
    fn look_at_rest(&self, now: Instant) -> Option<Observation> {
        let counts_from = self.counts_from();
        self.fresh(now).filter(|look| look.exposed >= counts_from)
    }

    fn drive(&mut self, now: Instant) -> f64 {
        if self.sweep.is_some() {
            return self.poll_sweep(now);
        }
        if let Refinement::UnderWay(_) = self.refinement {
            return self.poll_refinement(now);
        }
        if self.is_holding() {
            return self.poll_hold(now);
        }
        self.steer(now);
        let under_way = self.go_on(now);
        if under_way != 0.0 {
            return under_way;
        }
        if let Err(mismatch) = self.compare(now) {
            self.is_acquainted = false;
            self.give_up(mismatch.sentence());
            return 0.0;
        }
        if self.account.method == Method::Sweep {
            // Found by sharpness: nothing here says how to stay there.
            return 0.0;
        }
        let is_quick = self.config.law == Law::Predictive && self.search.is_step_due();
        // Looks of long ago are no reason to move.
        let is_due = self.search.is_over() || (is_quick && self.may_search_up());
        if is_due && self.fresh(now).is_some() {
            return self.search_up(now);
        }
        if self.is_promise_due(now) {
            let distance_um = std::mem::take(&mut self.promised_um);
            let speed = distance_um.abs() / MIN_MOVE.as_secs_f64();
            return self.begin(
                distance_um,
                speed.min(self.config.speed(DistanceIndex::FARTHEST)),
                now,
            );
        }
        match self.config.law {
            Law::Paper => self.poll_paper(now),
            Law::Stepwise | Law::Predictive => self.poll_stepwise(now),
        }
    }

    /// The velocity of the step under way.
    fn go_on(&mut self, now: Instant) -> f64 {
        let Some(step) = self.step else { return 0.0 };
        let velocity = if now >= step.until {
            0.0
        } else if step.goal_um.is_some() {
            step.velocity_um_per_s
        } else {
            self.permitted(step.velocity_um_per_s)
        };
        if velocity == 0.0 {
            self.ended = self.step.take();
        }
        velocity
    }

    /// Learns from where the stage came to stand.
    fn measure_step(&mut self) {
        let Some(z) = self.stage.and_then(|stage| stage.z) else {
            return;
        };
        if let Some(overrun_s) = self.ended.take().and_then(|step| step.overrun_s(z.um())) {
            self.overrun_s += 0.5 * (overrun_s - self.overrun_s);
        }
    }

    /// Holds the newest estimate against the stage's travel. Between steps only those of a stage at rest count.
    fn compare(&mut self, now: Instant) -> Result<(), Mismatch> {
        let Some(look) = self.fresh(now).filter(|look| look.exposed > self.compared) else {
            return Ok(());
        };
        let in_motion = look.exposed < self.counts_from();
        let is_continuous = self.config.law == Law::Paper && self.follows.is_proven();
        // Where a stage in motion was is known once it has reported from later.
        if in_motion && (!is_continuous || self.height(&look).is_none()) {
            return Ok(());
        }
        self.compared = look.exposed;
        if self.left_out.is_news(look.left_out) {
            // Dirt was told from the specimen, and what it said is no measure of what the rest says.
            self.follows.forget();
            self.confirmation.restart();
        }
        if !in_motion {
            self.is_steered = false;
            self.measure_step();
            if let Some(sight) = self.sight(&look, false) {
                self.landing.handle_rest(&sight, &self.config.edges);
            }
        }
        let Some(sight) = self.sight(&look, in_motion) else {
            return Ok(());
        };
        if sight.is_trusted && sight.is_sided {
            self.confirmation.handle_look(sight);
        }
        self.follows.handle_sight(sight, &self.config.edges)
    }

    /// Where the lens was at the exposure, µm; none while a stage in motion has not reported from later.
    fn height(&self, look: &Observation) -> Option<f64> {
        let stands = |_: &f64| look.exposed >= self.counts_from();
        let newest = || self.heights.newest().filter(stands);
        self.heights.at(look.exposed).or_else(newest)
    }

    /// The estimate beside the height at its exposure; none if either says nothing.
    fn sight(&self, look: &Observation, in_motion: bool) -> Option<Sight> {
        let is_usable = look.trusted || (look.has_specimen && look.defocus.is_some());
        let z_um = self.height(look).filter(|_| is_usable)?;
        let defocus_um = match look.defocus {
            Some(defocus) => defocus.um(),
            None => stepwise::distance(look, &self.config.edges),
        };
        Some(Sight {
            z_um,
            defocus_um,
            index: look.index,
            has_distance: look.defocus.is_some(),
            is_trusted: look.trusted,
            is_sided: look.other_side <= DOUBT,
            in_motion,
        })
    }

    fn has_room_above(&self, step_um: f64) -> bool {
        self.stage
            .and_then(|stage| stage.z)
            .is_some_and(|z| z.um() + step_um <= self.config.z_max.um())
    }

    /// Whether the rest of an ordered distance is to be gone although the estimate at this place is not trusted: it shows that the
    /// picture follows, and the distance was ordered by one that was.
    fn is_promise_due(&self, now: Instant) -> bool {
        self.promised_um != 0.0
            && self.follows.is_proven()
            && self
                .look_at_rest(now)
                .is_some_and(|look| !look.trusted && look.exposed <= self.compared)
    }

    /// The newest estimate says in focus. It is if the stage stood when the frame was exposed and what looks sharp was seen to follow the
    /// lens; what was not yet seen to is looked at from farther up.
    fn stand(&mut self, look: &Observation, is_at_rest: bool, now: Instant) -> f64 {
        let edges = self.config.edges;
        let Some(sight) = self.sight(look, false).filter(|_| is_at_rest) else {
            if self.state != RunState::InFocus {
                self.state = RunState::Looking;
            }
            return 0.0;
        };
        if self.confirmation.confirm(&sight, &edges, now) {
            if self.begins_refinement(sight.z_um, now) {
                return self.poll_refinement(now);
            }
            self.is_acquainted |= self.follows.is_proven();
            self.follows.rest();
            self.account_for_focus(look.stddev_um);
            self.hold = Hold::default();
            self.state = RunState::InFocus;
            return 0.0;
        }
        match self.confirmation.rise_um(&edges) {
            Some(rise_um) if self.has_room_above(rise_um) => {
                return self.begin(-rise_um, rise_um / TRIAL.as_secs_f64(), now);
            }
            Some(rise_um) => self.give_up(format!(
                "what looks sharp cannot be confirmed: z_max ({:.0} µm) leaves no room for a step of {rise_um:.1} µm up",
                self.config.z_max.um()
            )),
            None => self.give_up(Confirmation::sentence(&edges)),
        }
        0.0
    }

    /// Whether the lens must not descend before it was seen to move.
    fn is_leashed(&self, look: &Observation) -> bool {
        self.sight(look, true)
            .is_none_or(|sight| self.follows.leash_um(&sight, &self.config.edges).is_none())
    }

    /// Begins a step that removes so much defocus.
    fn begin(&mut self, distance_um: f64, speed: f64, now: Instant) -> f64 {
        if self.config.law == Law::Predictive {
            return self.begin_target(distance_um, now);
        }
        let velocity = self.permitted(-speed.copysign(distance_um));
        if velocity == 0.0 {
            self.give_up(self.limit_sentence(distance_um));
            return 0.0;
        }
        self.state = RunState::Moving;
        let commanded_s = (distance_um.abs() / speed - self.overrun_s).max(LEAST_COMMAND_S);
        self.step = Some(Step {
            velocity_um_per_s: velocity,
            began: now,
            until: now + Duration::from_secs_f64(commanded_s),
            from_um: self.stage.and_then(|stage| stage.z).map_or(f64::NAN, |z| z.um()),
            goal_um: None,
        });
        velocity
    }

    /// The velocity if the limits permit it, else zero: nothing moves towards a limit closer than its stopping distance,
    /// and nothing moves while the height is unknown.
    fn permitted(&self, velocity_um_per_s: f64) -> f64 {
        // 0.15 s covers the newest report's age, the bridge's queue and the controller's deceleration.
        let reach = velocity_um_per_s * 0.15;
        match self.stage.and_then(|stage| stage.z) {
            Some(z)
                if z.um() + reach >= self.config.z_min.um() && z.um() + reach <= self.config.z_max.um() =>
            {
                velocity_um_per_s
            }
            _ => 0.0,
        }
    }

    fn limit_sentence(&self, distance_um: f64) -> String {
        match self.stage.and_then(|stage| stage.z) {
            None => POSITION_INVALID.to_owned(),
            Some(z) => format!(
                "focus seems {:.1} µm {} but the lens is at {:.1} µm of {:.0} to {:.0} µm: check the slide and z limits",
                distance_um.abs(),
                if distance_um > 0.0 { "lower" } else { "higher" },
                z.um(),
                self.config.z_min.um(),
                self.config.z_max.um(),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
