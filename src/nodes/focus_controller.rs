//! `focus_controller`: estimates in, heights to drive to or velocities along z out, while enabled.

mod messages;
mod outlets;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use r2r::hhnet::action::Autofocus;
use r2r::hhnet::msg::{About, FocusEstimate, StageState};
use r2r::std_srvs::srv::{SetBool, Trigger};
use r2r::{QosProfile, ServiceRequest};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use self::messages::{describe, to_news, to_observation, to_wanted};
use self::outlets::{Heard, Outlets};
use super::calibration::CalibrationInForce;
use super::microscope::MicroscopeParameters;
use super::recorded::{REFUSAL, Recorded};
use crate::calibration::card::Quantity;
use crate::classes::ClassEdges;
use crate::focus::session::{Goal, Session, Surroundings};
use crate::focus::{Command, FocusConfig, Law, RunState, Sweeping};
use crate::objective::Objective;
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::ros::app::App;
use crate::ros::bond::Bonds;
use crate::ros::clock::Clock;
use crate::ros::lifecycle::{Change, Wish};
use crate::ros::managed::Base;
use crate::ros::node::{Builder, Newest, Requests, reply};
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities, limits};
use crate::units::{Instant, StageHeight};
use crate::{choices, parameters};

/// Period of velocity commands; a tenth of the bridge's command timeout.
const COMMAND_PERIOD: Duration = Duration::from_millis(20);

choices! {
    /// The control law.
    Mode {
        /// Heights to drive to at the speed of the stage, with a look after each.
        Predictive = "predictive",
        /// Bounded steps, with a look between them.
        Stepwise = "stepwise",
        /// Algorithm 1 of the paper as printed.
        Paper = "paper",
    }
}

choices! {
    /// Where the permitted range may be swept.
    Sweep {
        /// On a stage that the picture was seen to follow.
        Known = "known",
        /// On any.
        Always = "always",
        /// Nowhere.
        Never = "never",
    }
}

parameters! {
    /// Parameters of the focus controller node.
    FocusControllerParameters in "focus_controller" with microscope: MicroscopeParameters [objective, calibration, z_min, z_max] {
        /// Control law: `predictive` (drives to the height at which a look has focus, and looks again), `stepwise` (the same in bounded steps at
        /// the paper's speeds) or `paper` (Algorithm 1 as printed).
        mode: Mode [live] = Mode::Predictive,
        /// Mode `predictive`: greatest speed, m/s; the bridge has limits of its own.
        speed: f64 [0.000001..=0.1, "m/s", live] = 0.0005,
        /// The paper's default speed, m/s.
        default_speed: f64 [0.000001..=0.01, "m/s", live] = 0.0002237,
        /// An estimate exposed longer ago than this is not acted on, s.
        estimate_timeout: f64 [0.01..=60.0, "s", live] = 1.0,
        /// Mode `paper`: motion ends when the newest estimate was exposed longer ago than this, s.
        motion_timeout: f64 [0.02..=1.0, "s", live] = 0.25,
        /// What is left of the defocus and not worth another move, depths of field; in the modes `predictive` and `stepwise`.
        tolerance: f64 [0.05..=0.5, "", live] = 0.35,
        /// Mode `predictive`: where no estimate can be trusted, sweep the permitted range slowly for one that can, or for the peak of sharpness:
        /// `known` (on a stage that the picture was seen to follow since its position was lost last), `always` (as with the virtual microscope: with
        /// z the wrong way round, up leads to the slide) or `never`.
        sweep: Sweep [live] = Sweep::Known,
        /// Rest between standstill and the first exposure that counts, s; longer for a carriage that rings after a stop (0.1 at 25 Hz).
        settle: f64 [0.0..=10.0, "s", live] = 0.03,
        /// A run that has not reached focus after this time is given up, s.
        run_timeout: f64 [0.1..=3600.0, "s", live] = 30.0,
        /// Nodes that focusing needs: when one of them falls silent or is no longer active, the run ends and the stage stops.
        /// One that has never been heard, like a foreign camera driver, is not missed. `[""]` for none.
        needs: Vec<String> = ["camera", "classifier", "stepper_bridge"].map(str::to_owned),
        /// Silence after which one of them counts as gone, s.
        alive_timeout: f64 [0.2..=60.0, "s"] = 1.0,
        /// Let a camera that shows recorded images move the stage: they cannot show what it does.
        recorded_frames_may_move: bool [live] = false,
        /// Begin to focus as soon as the stage is ready, without waiting for `~/enable`.
        enabled: bool = false,
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for FocusControllerParameters {
    fn check(&self) -> Result<()> {
        self.microscope.check()?;
        self.config().map(drop)
    }
}

impl FocusControllerParameters {
    fn config(&self) -> Result<FocusConfig> {
        let objective = Objective::by_name(&self.microscope.objective)?;
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .with_context(|| format!("focus_controller {name} is {value} s"))
        };
        let config = FocusConfig {
            law: match self.mode {
                Mode::Predictive => Law::Predictive,
                Mode::Stepwise => Law::Stepwise,
                Mode::Paper => Law::Paper,
            },
            default_speed_um_per_s: self.default_speed * 1e6,
            speed_um_per_s: self.speed * 1e6,
            edges: ClassEdges::for_objective(&objective),
            z_min: StageHeight::from_metres(self.microscope.z_min),
            z_max: StageHeight::from_metres(self.microscope.z_max),
            estimate_timeout: seconds("estimate_timeout", self.estimate_timeout)?,
            motion_timeout: seconds("motion_timeout", self.motion_timeout)?,
            tolerance_depths: self.tolerance,
            sweeping: match self.sweep {
                Sweep::Known => Sweeping::Known,
                Sweep::Always => Sweeping::Always,
                Sweep::Never => Sweeping::Never,
            },
            play_um: 0.0,
            confirms_anew: false,
            refines: false,
            settle: seconds("settle", self.settle)?,
            run_timeout: seconds("run_timeout", self.run_timeout)?,
        };
        config.checked().context("focus_controller")
    }
}

/// Everything the controller reacts to.
enum Event {
    Estimate(FocusEstimate),
    Stage(StageState),
    Goal(GoalRequest<Autofocus::Action>),
    Enable(ServiceRequest<SetBool::Service>),
    Stop(ServiceRequest<Trigger::Service>),
    Life(Wish),
    /// It is time to command.
    Tick,
    Second,
}

type Handle = GoalHandle<Autofocus::Action>;

impl Goal for Handle {
    fn accepted(&self) -> Instant {
        self.accepted()
    }

    fn is_cancelling(&self) -> bool {
        self.is_cancelling()
    }
}

/// A call to be answered.
enum Call {
    Enable(ServiceRequest<SetBool::Service>),
    Stop(ServiceRequest<Trigger::Service>),
}

impl Call {
    fn answer(self, success: bool, message: String) {
        // A client that has gone needs no answer.
        match self {
            Self::Enable(request) => reply(request, SetBool::Response { success, message }),
            Self::Stop(request) => reply(request, Trigger::Response { success, message }),
        }
    }
}

type Focusing = Session<Handle, Call, Wish>;

/// Runs the node.
///
/// # Errors
/// Bad parameters.
pub async fn run(app: App) -> Result<()> {
    let mut node = Builder::new("focus_controller")?;
    let live = node.parameters::<FocusControllerParameters>(app.clock)?;
    let mut inlets = Inlets::new(&mut node, app.clock)?;
    let mut focusing = FocusNode::new(&mut node, live, app.clock)?;
    let autostart = focusing.live.borrow().autostart;
    let mut base = Base::start(node, app, "focus", "none", autostart)?;
    introduce(&focusing.live.borrow(), &mut base);
    focusing
        .outlets
        .publish_state(focusing.session.controller(), &base);
    loop {
        let is_busy = focusing.session.is_busy();
        let event = tokio::select! {
            () = base.app.stopped() => break,
            wish = base.lifecycle.next() => Event::Life(wish),
            event = inlets.next_event(is_busy) => event,
        };
        focusing.look_around(&mut base)?;
        focusing.handle(event, &mut base);
        focusing.act(&mut base);
    }
    focusing.close(&mut base);
    Ok(())
}

/// What the controller hears.
struct Inlets {
    estimates: Newest<FocusEstimate>,
    stages: Newest<StageState>,
    goals: ActionServer<Autofocus::Action>,
    enables: Requests<SetBool::Service>,
    stops: Requests<Trigger::Service>,
    tick: Interval,
    second: Interval,
}

impl Inlets {
    fn new(node: &mut Builder, clock: Clock) -> Result<Self> {
        let mut tick = tokio::time::interval(COMMAND_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            estimates: node.subscribe("focus", QosProfile::default())?,
            stages: node.subscribe("stage_state", QosProfile::default())?,
            enables: node.service("~/enable")?,
            stops: node.service("~/stop")?,
            goals: ActionServer::new(node, "autofocus", clock)?,
            tick,
            second: tokio::time::interval(Duration::from_secs(1)),
        })
    }

    async fn next_event(&mut self, is_busy: bool) -> Event {
        tokio::select! {
            Some(estimate) = self.estimates.next() => Event::Estimate(estimate),
            Some(stage) = self.stages.next() => Event::Stage(stage),
            Some(request) = self.goals.next() => Event::Goal(request),
            Some(request) = self.enables.next() => Event::Enable(request),
            Some(request) = self.stops.next() => Event::Stop(request),
            // A session at rest commands nothing, and hears of the world by its messages.
            _ = self.tick.tick(), if is_busy => Event::Tick,
            _ = self.second.tick() => Event::Second,
        }
    }
}

/// The node between its events.
struct FocusNode {
    live: watch::Receiver<FocusControllerParameters>,
    session: Focusing,
    bonds: Bonds,
    recorded: Recorded,
    calibration: CalibrationInForce,
    outlets: Outlets,
}

impl FocusNode {
    fn new(
        node: &mut Builder,
        mut live: watch::Receiver<FocusControllerParameters>,
        clock: Clock,
    ) -> Result<Self> {
        let parameters = live.borrow_and_update().clone();
        let names = parameters.needs.iter().map(String::as_str);
        let silence = Duration::from_secs_f64(parameters.alive_timeout);
        Ok(Self {
            // A motion controller boots when its port is opened; enabled before that, the run would end at once.
            session: Focusing::new(parameters.config()?, parameters.enabled),
            bonds: Bonds::new(node, names.clone(), silence, clock)?,
            recorded: Recorded::new(node, names.chain(["camera"]).collect::<BTreeSet<_>>())?,
            calibration: CalibrationInForce::default(),
            outlets: Outlets::new(node)?,
            live,
        })
    }

    /// The settings by parameters, and by what was measured of the drive.
    fn config(&self) -> Result<FocusConfig> {
        let mut config = self.live.borrow().config()?;
        let play_um = self.calibration.good(Quantity::Backlash);
        config.play_um = play_um.map_or(0.0, |play_um| play_um.max(0.0));
        Ok(config)
    }

    /// Takes over a calibration whose file has been replaced, or another file.
    fn look_at_calibration(&mut self, node: &str) {
        let microscope = self.live.borrow().microscope.clone();
        if !self
            .calibration
            .refresh(&microscope.calibration, &microscope.objective)
        {
            return;
        }
        match (self.calibration.error(), self.config()) {
            (Some(reason), _) => tracing::error!(node, "{reason}"),
            (None, Ok(config)) => {
                tracing::info!(node, "calibration: {}", self.calibration.describe());
                self.session.set_config(config);
            }
            (None, Err(error)) => tracing::error!(node, "the calibration is not in force: {error:#}"),
        }
    }

    /// Takes over changed parameters, and looks who is there.
    fn look_around(&mut self, base: &mut Base) -> Result<()> {
        if self.live.has_changed().unwrap_or(false) {
            // They were checked before they were accepted.
            drop(self.live.borrow_and_update());
            self.session.set_config(self.config()?);
            introduce(&self.live.borrow(), base);
        }
        let is_unfit = self.recorded.is_recorded() && !self.live.borrow().recorded_frames_may_move;
        let now = base.now();
        let around = Surroundings {
            missing: self.bonds.missing(now),
            unfit: is_unfit.then_some(REFUSAL),
            is_ending: base.app.is_stopping(),
        };
        self.session.handle_surroundings(around, now);
        Ok(())
    }

    fn handle(&mut self, event: Event, base: &mut Base) {
        let now = base.now();
        let session = &mut self.session;
        match event {
            Event::Estimate(estimate) => self.handle_estimate(&estimate, now),
            Event::Stage(stage) => {
                self.outlets.heard.z = stage.z;
                session.handle_stage(to_news(stage), now);
            }
            Event::Goal(request) => self.handle_goal(request, now),
            Event::Enable(request) if request.message.data => session.enable(Call::Enable(request), now),
            Event::Enable(request) => session.disable(Call::Enable(request), now),
            Event::Stop(request) => session.stop(Call::Stop(request), now),
            Event::Life(wish) => self.handle_life(wish, now),
            Event::Tick => {}
            Event::Second => {
                self.look_at_calibration(&base.name);
                let session = &self.session;
                self.outlets.publish_diagnostics(session, base);
                self.outlets.demand.repeat();
            }
        }
    }

    fn handle_life(&mut self, wish: Wish, now: Instant) {
        match wish.change {
            // It holds nothing but its parameters.
            Change::Configure | Change::CleanUp => wish.done(),
            Change::Activate => {
                self.session.activate();
                wish.done();
            }
            Change::Deactivate | Change::ShutDown => self.session.deactivate(wish, now),
        }
    }

    fn handle_estimate(&mut self, estimate: &FocusEstimate, now: Instant) {
        let (session, outlets) = (&mut self.session, &mut self.outlets);
        outlets.tally.handle_estimate(estimate, now);
        if let Some(mut observation) = to_observation(estimate) {
            observation.exposed = self.calibration.exposed(observation.exposed);
            session.handle_estimate(observation, now);
        }
        outlets.heard = Heard {
            index: estimate.distance_index,
            certainty: estimate.certainty,
            defocus: estimate.defocus,
            ..outlets.heard
        };
        if let Some(goal) = session.goal() {
            goal.feedback(Autofocus::Feedback {
                state: describe(session.controller().state()).0,
                distance_index: outlets.heard.index,
                certainty: outlets.heard.certainty,
                defocus: outlets.heard.defocus,
                z: outlets.heard.z,
            });
        }
    }

    fn handle_goal(&mut self, request: GoalRequest<Autofocus::Action>, now: Instant) {
        let session = &mut self.session;
        session.handle_request();
        match session.check_goal().and_then(|()| to_wanted(&request.goal)) {
            Err(reason) => request.reject(&reason),
            Ok(wanted) => session.begin(request.accept(), wanted, now),
        }
    }

    /// Commands, says how it is, and answers.
    fn act(&mut self, base: &mut Base) {
        let now = base.now();
        if let Some(command) = self.session.poll(now) {
            self.outlets.command(command, now);
        }
        let controller = self.session.controller();
        self.outlets.demand.set(wants_estimates(controller.state()));
        self.outlets.publish_state(controller, base);
        publish_work(&self.session, base);
        self.answer(base);
    }

    fn answer(&mut self, base: &mut Base) {
        for answer in self.session.answers() {
            self.outlets.answer(answer, base);
        }
    }

    fn close(&mut self, base: &mut Base) {
        self.session.close();
        self.answer(base);
        self.outlets.command(Command::STAND, base.now());
    }
}

fn introduce(parameters: &FocusControllerParameters, base: &mut Base) {
    base.presence.introduce(About {
        capabilities: capabilities(&[
            "autofocus",
            "focus_state",
            "cmd_vel",
            "cmd_target",
            "~/enable",
            "~/stop",
        ]),
        limits: limits([
            ("z_min", parameters.microscope.z_min),
            ("z_max", parameters.microscope.z_max),
            ("run_timeout", parameters.run_timeout),
        ]),
        ..About::default()
    });
}

/// What an orchestrator has to know before it sends a goal.
fn publish_work(session: &Focusing, base: &mut Base) {
    let state = session.controller().state();
    base.presence.set(if !session.is_active() {
        base.lifecycle.work()
    } else if matches!(state, RunState::Looking | RunState::Moving | RunState::Searching) {
        Work::Busy("focusing".into())
    } else {
        match session.check_able() {
            Ok(()) => Work::Idle("".into()),
            Err(reason) => Work::Fault(reason.into()),
        }
    });
}

/// Whether the controller looks at what the classifier says.
fn wants_estimates(state: &RunState) -> bool {
    match state {
        RunState::Looking | RunState::Moving | RunState::Searching | RunState::InFocus => true,
        RunState::Disabled | RunState::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        let given = FocusControllerParameters::default().config().unwrap();
        let core = FocusConfig::default();
        let um_per_s = |config: &FocusConfig| [config.default_speed_um_per_s, config.speed_um_per_s];
        for (given, core) in um_per_s(&given).into_iter().zip(um_per_s(&core)) {
            assert!((given - core).abs() < 1e-9 * core, "{given} {core}");
        }
        let [default_speed_um_per_s, speed_um_per_s] = um_per_s(&core);
        let given = FocusConfig {
            default_speed_um_per_s,
            speed_um_per_s,
            ..given
        };
        assert_eq!(given, core);
    }
}
