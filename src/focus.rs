//! The control laws: from what a frame says about focus to a velocity along z.
//!
//! [`Law::Paper`] is Algorithm 1 of the HH-Net paper as printed. At index 1 it moves 45 µm/s towards the slide, so one decision
//! of 25 ms moves 1.1 µm and one of 200 ms moves past the whole in-focus band: with any real latency it hunts.
//! [`Law::Stepwise`] adds the least that cures this: every move has the paper's direction and at most the paper's speed, but a
//! *length*, bounded by the edges of the class that ordered it; then the stage stops, settles, and a frame exposed while
//! it stood decides again. And since the picture's sign fades with the blur, a step *towards* the slide needs a sign that is
//! believed: in doubt the lens first rises, where a lens that was too close comes into view, and descends only if that
//! did not make the sign clear.
//!
//! [`FocusController`] holds no clock and does no I/O. What happened goes in by `handle_*`, [`FocusController::poll`] says which
//! velocity to command now. It promises: no motion while disabled, failed, or without fresh estimates; no motion towards the
//! slide on an untrusted estimate; no command that leads past the z limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classes::{ClassEdges, DistanceIndex};
use crate::units::{Instant, Micrometres};

/// How far the clock of a camera may run ahead of the controller's.
const CLOCK_SKEW: Duration = Duration::from_millis(50);

/// Age of the stage's newest report above which nothing is known of it; more than the longest period of reports (1 s).
const STAGE_LIMIT: Duration = Duration::from_millis(1500);

/// Which control law turns estimates into motion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// Algorithm 1: index 4 at the default speed, else 0.2 x default speed x index, until index 0.
    Paper,
    /// The same speeds, in bounded steps with a look after each.
    #[default]
    Stepwise,
}

/// Checked settings of the controller.
#[derive(Clone, Debug, PartialEq)]
pub struct FocusConfig {
    /// The control law.
    pub law: Law,
    /// The paper's default speed, µm/s.
    pub default_speed_um_per_s: f64,
    /// Heights between the classes, which bound the steps.
    pub edges: ClassEdges,
    /// Lowest permitted height of the lens, stage coordinates.
    pub z_min: Micrometres,
    /// Highest permitted height of the lens, stage coordinates.
    pub z_max: Micrometres,
    /// An estimate exposed longer ago than this is not acted on.
    pub estimate_timeout: Duration,
    /// Paper: motion ends when the newest estimate was exposed longer ago than this. The law moves until it hears otherwise,
    /// so this is how long it moves blind.
    pub motion_timeout: Duration,
    /// Rest between standstill and the first exposure that counts.
    pub settle: Duration,
    /// Stepwise: a move lasts at least this long, which slows short moves until timing errors no longer matter.
    pub min_move: Duration,
    /// Stepwise: remaining defocus that is not worth another step, µm.
    pub tolerance_um: f64,
    /// Stepwise: probability of the other side of focus from which the sign is in doubt, 0 to 1.
    pub doubt: f32,
    /// Stepwise: rise after which a sign still in doubt means that the lens was above focus all along, µm. Must exceed
    /// the depth below focus that is to be recovered from, less the depth from which the sign is clear.
    pub probe_um: f64,
    /// Stepwise: untrusted looks in a row before giving up.
    pub untrusted_limit: u32,
    /// Time after which a run that has not reached focus is given up.
    pub run_timeout: Duration,
}

impl Default for FocusConfig {
    fn default() -> Self {
        Self {
            law: Law::default(),
            default_speed_um_per_s: 223.7,
            edges: ClassEdges::default(),
            z_min: Micrometres(-100.0),
            z_max: Micrometres(300.0),
            estimate_timeout: Duration::from_millis(1000),
            motion_timeout: Duration::from_millis(250),
            settle: Duration::from_millis(30),
            min_move: Duration::from_millis(250),
            tolerance_um: 0.36,
            doubt: 0.1,
            probe_um: 45.0,
            untrusted_limit: 8,
            run_timeout: Duration::from_secs(30),
        }
    }
}

impl FocusConfig {
    /// The same settings if they make sense.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn checked(self) -> Result<Self, FocusConfigError> {
        let positive = |name: &'static str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(FocusConfigError::NotPositive { name, value })
            }
        };
        positive("default_speed", self.default_speed_um_per_s)?;
        positive("tolerance", self.tolerance_um)?;
        positive("estimate_timeout", self.estimate_timeout.as_secs_f64())?;
        positive("motion_timeout", self.motion_timeout.as_secs_f64())?;
        positive("min_move", self.min_move.as_secs_f64())?;
        positive("run_timeout", self.run_timeout.as_secs_f64())?;
        // Written so that NaN is refused too.
        if !(self.z_min.0.is_finite() && self.z_max.0.is_finite() && self.z_min.0 < self.z_max.0) {
            return Err(FocusConfigError::Limits {
                z_min_um: self.z_min.0,
                z_max_um: self.z_max.0,
            });
        }
        Ok(self)
    }
}

/// A setting of the controller is out of range.
#[derive(Debug, thiserror::Error)]
pub enum FocusConfigError {
    /// A quantity that must be positive is not.
    #[error("{name} must be a positive number, not {value}")]
    NotPositive {
        /// The parameter.
        name: &'static str,
        /// Its value in SI units.
        value: f64,
    },
    /// The permitted range is empty.
    #[error("z_min ({z_min_um} µm) must lie below z_max ({z_max_um} µm), both finite")]
    Limits {
        /// Lower limit, µm.
        z_min_um: f64,
        /// Upper limit, µm.
        z_max_um: f64,
    },
}

/// What one frame says, reduced to what control needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Distance index.
    pub index: DistanceIndex,
    /// Signed defocus if the model estimates it; positive: too far from the slide.
    pub defocus: Option<Micrometres>,
    /// Probability that focus lies on the other side than `index` says, 0 to 1.
    pub other_side: f32,
    /// False: must not be acted on.
    pub trusted: bool,
    /// Middle of the frame's exposure.
    pub exposed: Instant,
}

/// What the stage reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageReport {
    /// Height of the lens, stage coordinates; `None` while unknown.
    pub z: Option<Micrometres>,
    /// Whether it moves.
    pub motion: Motion,
    /// Time of the report.
    pub at: Instant,
}

/// Whether the stage moves, or why it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Standing still, ready.
    Still,
    /// In motion.
    Moving,
    /// Disconnected or refusing to move.
    Unavailable,
}

/// What the controller is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Not enabled; never moves.
    Disabled,
    /// Waiting for an estimate to act on.
    Looking,
    /// Moving towards focus.
    Moving,
    /// In focus and standing.
    InFocus,
    /// Gave up, standing; the sentence says why. Enable again to retry.
    Failed(String),
}

/// A bounded move under way.
#[derive(Clone, Copy, Debug)]
struct Step {
    velocity_um_per_s: f64,
    until: Instant,
}

/// The state machine between estimates and velocities. See the module's documentation.
#[derive(Debug)]
pub struct FocusController {
    config: FocusConfig,
    phase: Phase,
    enabled_at: Instant,
    stage: Option<StageReport>,
    /// Since when the stage has reported standstill without a break.
    still_since: Option<Instant>,
    /// Newest velocity commanded and when motion was last commanded.
    last_motion_command: Instant,
    observation: Option<Observation>,
    step: Option<Step>,
    untrusted: u32,
    /// Whether the last estimate bore a time that has yet to come.
    is_ahead: bool,
    /// How far the lens rose for a clear sign without finding one, µm.
    risen_um: f64,
}

impl FocusController {
    /// A disabled controller.
    pub fn new(config: FocusConfig) -> Self {
        Self {
            config,
            phase: Phase::Disabled,
            enabled_at: Instant::default(),
            stage: None,
            still_since: None,
            last_motion_command: Instant::default(),
            observation: None,
            step: None,
            untrusted: 0,
            is_ahead: false,
            risen_um: 0.0,
        }
    }

    /// What the controller is doing.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Goes on by other settings; the run, its limits in time included, is not begun anew.
    pub fn set_config(&mut self, config: FocusConfig) {
        self.config = config;
    }

    /// The settings.
    pub fn config(&self) -> &FocusConfig {
        &self.config
    }

    /// Begins a run. Estimates exposed before `now` do not count.
    pub fn enable(&mut self, now: Instant) {
        self.phase = Phase::Looking;
        self.enabled_at = now;
        self.last_motion_command = now;
        self.observation = None;
        self.step = None;
        self.untrusted = 0;
        self.risen_um = 0.0;
    }

    /// Ends the run; the next poll commands standstill.
    pub fn disable(&mut self) {
        self.phase = Phase::Disabled;
        self.step = None;
    }

    /// Ends the run in failure, for a reason that the controller cannot see; the next poll commands standstill.
    pub fn give_up(&mut self, reason: String) {
        self.phase = Phase::Failed(reason);
        self.step = None;
    }

    /// A new estimate has arrived. Older ones than the newest known are ignored, and so are those of the future: they would
    /// look fresh long after the estimates have ended.
    pub fn handle_observation(&mut self, observation: Observation, now: Instant) {
        self.is_ahead = observation.exposed > now + CLOCK_SKEW;
        if self.is_ahead {
            return;
        }
        let outdated = self
            .observation
            .is_some_and(|known| observation.exposed <= known.exposed);
        if outdated || observation.exposed < self.enabled_at || self.phase == Phase::Disabled {
            return;
        }
        if self.config.law == Law::Stepwise && observation.exposed >= self.counts_from() {
            self.untrusted = if observation.trusted {
                0
            } else {
                self.untrusted + 1
            };
        }
        self.observation = Some(observation);
    }

    /// The stage has reported.
    pub fn handle_stage(&mut self, report: StageReport) {
        match report.motion {
            Motion::Still => self.still_since = self.still_since.or(Some(report.at)),
            Motion::Moving | Motion::Unavailable => self.still_since = None,
        }
        self.stage = Some(report);
    }

    /// The velocity along z to command now, µm/s; positive: away from the slide. Call at least every 20 ms.
    pub fn poll(&mut self, now: Instant) -> f64 {
        if matches!(self.phase, Phase::Disabled | Phase::Failed(_)) {
            return 0.0;
        }
        let velocity = match self.give_up_reason(now) {
            Some(reason) => {
                self.give_up(reason);
                0.0
            }
            None => match self.config.law {
                Law::Paper => self.poll_paper(now),
                Law::Stepwise => self.poll_stepwise(now),
            },
        };
        if velocity != 0.0 {
            self.last_motion_command = now;
            self.still_since = None;
        }
        velocity
    }

    fn give_up_reason(&self, now: Instant) -> Option<String> {
        let in_focus = self.phase == Phase::InFocus;
        let run = now.since(self.enabled_at);
        let age = now.since(
            self.observation
                .map_or(self.enabled_at, |observation| observation.exposed),
        );
        let allowance = self.config.estimate_timeout + self.longest_step();
        let silence = self.stage.map_or(Duration::ZERO, |stage| now.since(stage.at));
        if self
            .stage
            .is_some_and(|stage| stage.motion == Motion::Unavailable)
        {
            Some("the stage is not available: see stage_state for the reason, then enable again".to_owned())
        } else if silence > STAGE_LIMIT {
            Some(format!(
                "the stage has not reported for {:.1} s: check that its driver is running",
                silence.as_secs_f64()
            ))
        } else if !in_focus && run > self.config.run_timeout {
            Some(format!(
                "no focus within {:.0} s: check light, slide and range",
                self.config.run_timeout.as_secs_f64()
            ))
        } else if age > allowance.max(self.config.estimate_timeout * 5) {
            let remedy = if self.is_ahead {
                "what arrives bears times that have yet to come; set the clocks of camera and controller alike"
            } else {
                "check that camera and classifier are running"
            };
            Some(format!("no estimate for {:.1} s: {remedy}", age.as_secs_f64()))
        } else if self.untrusted >= self.config.untrusted_limit {
            Some(format!(
                "{} frames in a row could not be judged: is there a stained slide in the light?",
                self.untrusted
            ))
        } else {
            None
        }
    }

    /// Stepwise moves are blind while they last; none takes longer than this.
    fn longest_step(&self) -> Duration {
        match self.config.law {
            Law::Paper => Duration::ZERO,
            Law::Stepwise => {
                Duration::from_secs_f64(self.config.edges.far_um / self.config.default_speed_um_per_s)
                    .max(self.config.min_move)
            }
        }
    }

    fn fresh(&self, now: Instant) -> Option<Observation> {
        self.observation
            .filter(|observation| now.since(observation.exposed) <= self.config.estimate_timeout)
    }

    /// Algorithm 1.
    fn poll_paper(&mut self, now: Instant) -> f64 {
        let is_usable =
            |look: &Observation| look.trusted && now.since(look.exposed) <= self.config.motion_timeout;
        let Some(observation) = self.fresh(now).filter(is_usable) else {
            self.phase = Phase::Looking;
            return 0.0;
        };
        if observation.index == DistanceIndex::IN_FOCUS {
            self.phase = Phase::InFocus;
            return 0.0;
        }
        self.phase = Phase::Moving;
        self.permitted(-self.speed(observation.index))
    }

    /// Exposures from here on show the stage at rest.
    fn counts_from(&self) -> Instant {
        match self.still_since {
            Some(since) => since.max(self.last_motion_command) + self.config.settle,
            None => Instant::from_nanos(u64::MAX),
        }
    }

    fn poll_stepwise(&mut self, now: Instant) -> f64 {
        if let Some(step) = self.step {
            let velocity = if now < step.until {
                self.permitted(step.velocity_um_per_s)
            } else {
                0.0
            };
            if velocity != 0.0 {
                return velocity;
            }
            self.step = None;
        }
        let counts_from = self.counts_from();
        let look = self
            .fresh(now)
            .filter(|look| look.trusted && look.exposed >= counts_from);
        let Some(look) = look else {
            if self.phase != Phase::InFocus {
                self.phase = Phase::Looking;
            }
            return 0.0;
        };
        let distance_um = self.believed_distance(look);
        if look.index == DistanceIndex::IN_FOCUS && distance_um.abs() <= self.config.tolerance_um {
            self.phase = Phase::InFocus;
            return 0.0;
        }
        // Inside index 0 the law's speed is zero; what is left is trimmed at the speed of index 1.
        let index = if look.index == DistanceIndex::IN_FOCUS {
            DistanceIndex::from_class(3)
        } else {
            look.index
        };
        let speed = self
            .speed(index)
            .abs()
            .min(distance_um.abs() / self.config.min_move.as_secs_f64());
        let velocity = self.permitted(-speed.copysign(distance_um));
        if velocity == 0.0 {
            self.phase = Phase::Failed(self.limit_sentence(distance_um));
            return 0.0;
        }
        if look.other_side > self.config.doubt && distance_um < 0.0 {
            self.risen_um -= distance_um;
        }
        self.phase = Phase::Moving;
        self.step = Some(Step {
            velocity_um_per_s: velocity,
            until: now + Duration::from_secs_f64(distance_um.abs() / speed),
        });
        velocity
    }

    /// Signed speed of Algorithm 1 for an index, µm/s; positive indices approach the slide.
    fn speed(&self, index: DistanceIndex) -> f64 {
        let factor = if index == DistanceIndex::FARTHEST {
            1.0
        } else {
            0.2 * f64::from(index.value())
        };
        factor * self.config.default_speed_um_per_s
    }

    /// The step a look orders if its sign can be believed; if not, the safe one.
    fn believed_distance(&mut self, look: Observation) -> f64 {
        let distance_um = self.distance(look);
        if look.other_side <= self.config.doubt {
            self.risen_um = 0.0;
            distance_um
        } else if self.risen_um < self.config.probe_um {
            -distance_um.abs()
        } else {
            distance_um.abs()
        }
    }

    /// Signed defocus to remove in one step, µm: the model's estimate, kept within what the class allows. Far away the
    /// step is the least distance the class promises, so that no single misjudged length reaches the slide.
    fn distance(&self, look: Observation) -> f64 {
        let edges = &self.config.edges;
        let (low, high) = match look.index.value() {
            4 => (edges.far_um, edges.far_um),
            3 => (edges.middle_um, edges.far_um),
            2 => (edges.near_um, edges.middle_um),
            1 => (edges.in_focus_um, edges.near_um),
            0 => (-edges.in_focus_um, edges.in_focus_um),
            -1 => (-edges.near_um, -edges.in_focus_um),
            _ => (-edges.far_um, -edges.near_um),
        };
        let fallback = if look.index == DistanceIndex::IN_FOCUS {
            0.0
        } else {
            low.abs().min(high.abs()).copysign(low)
        };
        look.defocus
            .map_or(fallback, |defocus| defocus.0)
            .clamp(low, high)
    }

    /// The velocity if the limits permit it, else zero: nothing moves towards a limit closer than its stopping distance,
    /// and nothing moves while the height is unknown.
    fn permitted(&self, velocity_um_per_s: f64) -> f64 {
        // 0.15 s covers the newest report's age, the bridge's queue and the controller's deceleration.
        let reach = velocity_um_per_s * 0.15;
        match self.stage.and_then(|stage| stage.z) {
            Some(z) if z.0 + reach >= self.config.z_min.0 && z.0 + reach <= self.config.z_max.0 => {
                velocity_um_per_s
            }
            _ => 0.0,
        }
    }

    fn limit_sentence(&self, distance_um: f64) -> String {
        match self.stage.and_then(|stage| stage.z) {
            None => {
                "the height of the lens is unknown: call ~/home or ~/accept_position of the stepper bridge"
                    .to_owned()
            }
            Some(z) => format!(
                "focus seems {:.1} µm {} but the lens is at {:.1} µm of {:.0} to {:.0} µm: check the slide and z limits",
                distance_um.abs(),
                if distance_um > 0.0 { "lower" } else { "higher" },
                z.0,
                self.config.z_min.0,
                self.config.z_max.0,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
