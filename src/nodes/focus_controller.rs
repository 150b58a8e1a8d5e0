//! `focus_controller`: estimates in, heights to drive to or velocities along z out, while enabled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use r2r::geometry_msgs::msg::{Twist, TwistStamped, Vector3};
use r2r::hhnet::action::Autofocus;
use r2r::hhnet::msg::{About, FocusEstimate, FocusState, StageState, StageTarget};
use r2r::std_srvs::srv::{SetBool, Trigger};
use r2r::{QosProfile, ServiceRequest};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::demand::Demand;
use super::frame_in;
use super::frames::to_text;
use super::microscope::MicroscopeParameters;
use super::recorded::{REFUSAL, Recorded};
use crate::classes::{ClassEdges, DistanceIndex};
use crate::focus::session::{Answer, End, Goal, Session, StageNews, Surroundings};
use crate::focus::{
    Account, Command, FocusConfig, FocusController, Law, Method, Observation, RunState, StageMotion,
    StageReport, Sweeping, Wanted,
};
use crate::objective::Objective;
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::ros::app::App;
use crate::ros::bond::Bonds;
use crate::ros::clock::Clock;
use crate::ros::convert::{from_time, header};
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::{Change, Wish};
use crate::ros::managed::Base;
use crate::ros::node::{Builder, Newest, Publisher, Requests, latched, newest_reliable, reply};
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities, limits};
use crate::statistics::median;
use crate::units::{Defocus, Instant, StageHeight};
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
    FocusControllerParameters in "focus_controller" with microscope: MicroscopeParameters [objective, z_min, z_max] {
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
            confirms_anew: false,
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
            outlets: Outlets {
                velocities: node.publisher("cmd_vel", newest_reliable())?,
                targets: node.publisher("cmd_target", newest_reliable())?,
                states: node.publisher("focus_state", latched())?,
                frame_id: frame_in(&node.namespace()?, "z"),
                demand: Demand::new(node, "focus")?,
                tally: Tally::default(),
                heard: Heard::default(),
                published: None,
            },
            live,
        })
    }

    /// Takes over changed parameters, and looks who is there.
    fn look_around(&mut self, base: &mut Base) -> Result<()> {
        if self.live.has_changed().unwrap_or(false) {
            // They were checked before they were accepted.
            self.session.set_config(self.live.borrow_and_update().config()?);
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
        if let Some(observation) = to_observation(estimate) {
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

/// What the newest messages said, for those who watch a goal.
struct Heard {
    index: i8,
    certainty: f32,
    defocus: f64,
    z: f64,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            index: 0,
            certainty: 0.0,
            defocus: f64::NAN,
            z: f64::NAN,
        }
    }
}

/// What a goal asks for beyond the parameters.
///
/// # Errors
/// Names the field that makes no sense, and what it may be.
fn to_wanted(goal: &Autofocus::Goal) -> Result<Wanted, String> {
    const MODES: [(u8, Option<Law>); 4] = [
        (Autofocus::Goal::MODE_DEFAULT as u8, None),
        (Autofocus::Goal::MODE_PREDICTIVE as u8, Some(Law::Predictive)),
        (Autofocus::Goal::MODE_STEPWISE as u8, Some(Law::Stepwise)),
        (Autofocus::Goal::MODE_PAPER as u8, Some(Law::Paper)),
    ];
    let Autofocus::Goal {
        mode,
        timeout,
        reach,
        tolerance,
        confirm,
        hold,
    } = *goal;
    let law = MODES.iter().find(|(code, _)| *code == mode).map(|(_, law)| *law);
    let law = law.ok_or_else(|| format!("mode {mode} is none: give one of the constants MODE_*"))?;
    let limit = Duration::try_from_secs_f64(timeout)
        .map_err(|_| format!("a timeout of {timeout} s is no time: give seconds, or 0"))?;
    // Written so that NaN is refused too.
    if !(reach >= 0.0 && reach.is_finite()) {
        return Err(format!("a reach of {reach} m is no length: give metres, or 0"));
    }
    if !(0.0..=0.5).contains(&tolerance) {
        return Err(format!(
            "a tolerance of {tolerance} depths of field: give up to 0.5, or 0"
        ));
    }
    Ok(Wanted {
        law,
        limit: (limit > Duration::ZERO).then_some(limit),
        reach_um: (reach > 0.0).then_some(1e6 * reach),
        tolerance_depths: (tolerance > 0.0).then_some(tolerance),
        confirms_anew: confirm,
        holds: hold,
    })
}

/// `None` for an index that does not exist.
fn to_observation(estimate: &FocusEstimate) -> Option<Observation> {
    let index = DistanceIndex::ALL
        .into_iter()
        .find(|index| index.value() == estimate.distance_index)?;
    let known = |value: f64| value.is_finite().then_some(value);
    let other_side = DistanceIndex::ALL
        .into_iter()
        .zip(&estimate.probabilities)
        .filter(|(class, _)| class.value() * index.value() < 0)
        .map(|(_, probability)| *probability)
        .sum();
    let exposed = from_time(&estimate.header.stamp);
    Some(Observation {
        index,
        defocus: known(estimate.defocus).map(Defocus::from_metres),
        stddev_um: known(1e6 * estimate.defocus_stddev),
        // 0 is what one leaves who does not know it.
        sharpness: known(estimate.sharpness).filter(|sharpness| *sharpness > 0.0),
        other_side,
        trusted: estimate.trusted,
        reason: estimate.reason.as_str().into(),
        has_specimen: estimate.patches_used > 0,
        exposed,
    })
}

fn to_news(stage: StageState) -> StageNews {
    const IDLE: u8 = StageState::IDLE as u8;
    const MOVING: u8 = StageState::MOVING as u8;
    let motion = match stage.state {
        IDLE => StageMotion::Still,
        MOVING => StageMotion::Moving,
        _ => StageMotion::Unavailable,
    };
    let z = (stage.position_valid && stage.z.is_finite()).then(|| StageHeight::from_metres(stage.z));
    StageNews {
        report: StageReport {
            z,
            motion,
            at: from_time(&stage.header.stamp),
        },
        reason: stage.reason,
        stops: stage.stops,
    }
}

struct Outlets {
    velocities: Publisher<TwistStamped>,
    targets: Publisher<StageTarget>,
    states: Publisher<FocusState>,
    /// The frame in which velocities are meant.
    frame_id: Arc<str>,
    demand: Demand,
    tally: Tally,
    heard: Heard,
    published: Option<RunState>,
}

impl Outlets {
    fn command(&self, command: Command, now: Instant) {
        match command {
            Command::Velocity(um_per_s) => self.command_velocity(um_per_s, now),
            Command::Target(z, um_per_s) => self.targets.publish(&StageTarget {
                header: header(now, &self.frame_id),
                z: z.as_metres(),
                max_speed: um_per_s * 1e-6,
            }),
        }
    }

    fn command_velocity(&self, velocity_um_per_s: f64, now: Instant) {
        let linear = Vector3 {
            x: 0.0,
            y: 0.0,
            z: velocity_um_per_s * 1e-6,
        };
        let twist = Twist {
            linear,
            angular: Vector3::default(),
        };
        self.velocities.publish(&TwistStamped {
            header: header(now, &self.frame_id),
            twist,
        });
    }

    /// Publishes the state when it has changed.
    fn publish_state(&mut self, controller: &FocusController, base: &Base) {
        if self.published.as_ref() == Some(controller.state()) {
            return;
        }
        let (state, reason) = describe(controller.state());
        match controller.state() {
            RunState::Failed(reason) => tracing::warn!(node = base.name, "gave up: {reason}"),
            RunState::InFocus => tracing::info!(node = base.name, "in focus"),
            RunState::Disabled | RunState::Looking | RunState::Moving | RunState::Searching => {}
        }
        self.published = Some(controller.state().clone());
        let reason = reason.to_owned();
        self.states.publish(&FocusState {
            header: header(base.now(), ""),
            state,
            reason,
            confirmed: *controller.state() == RunState::InFocus && controller.account().is_confirmed,
        });
    }

    /// Tells the one who asked.
    fn answer(&self, answer: Answer<Handle, Call, Wish>, base: &mut Base) {
        match answer {
            Answer::Goal {
                goal,
                end,
                message,
                account,
            } => self.end(goal, end, message, account, base.now()),
            Answer::Call(call, Ok(message)) => call.answer(true, message.to_owned()),
            Answer::Call(call, Err(message)) => call.answer(false, message),
            Answer::Left(wish, Ok(())) => wish.done(),
            Answer::Left(wish, Err(reason)) => base.lifecycle.fail_over(wish, reason),
        }
    }

    fn end(&self, goal: Handle, end: End, message: String, account: Account, now: Instant) {
        let code = match end {
            End::InFocus => Autofocus::Result::IN_FOCUS as u8,
            End::Cancelled => Autofocus::Result::CANCELED as u8,
            End::Preempted => Autofocus::Result::PREEMPTED as u8,
            End::GaveUp => Autofocus::Result::GAVE_UP as u8,
            End::NodeGone => Autofocus::Result::NODE_GONE as u8,
        };
        let result = Autofocus::Result {
            code,
            message,
            z: self.heard.z,
            defocus: self.heard.defocus,
            expected_error: account.error_um.map_or(f64::NAN, |um| 1e-6 * um),
            confirmed: end == End::InFocus && account.is_confirmed,
            method: match account.method {
                Method::None => Autofocus::Result::METHOD_NONE as u8,
                Method::Estimate => Autofocus::Result::METHOD_ESTIMATE as u8,
                Method::Sweep => Autofocus::Result::METHOD_SWEEP as u8,
            },
            frames: account.frames,
            duration: now.since(goal.accepted()).as_secs_f64(),
        };
        match end {
            End::InFocus => goal.succeed(result),
            End::Cancelled => goal.cancelled(result),
            End::Preempted | End::GaveUp | End::NodeGone => goal.abort(result),
        }
    }

    fn publish_diagnostics(&mut self, session: &Focusing, base: &Base) {
        let controller = session.controller();
        let (_, reason) = describe(controller.state());
        let (severity, message) = match controller.state() {
            _ if !session.is_active() => (Severity::Warn, "not active"),
            RunState::Failed(_) => (Severity::Error, reason),
            RunState::Disabled => (Severity::Ok, "disabled"),
            RunState::Looking => (Severity::Ok, "looking"),
            RunState::Moving => (Severity::Ok, "moving"),
            RunState::Searching => (Severity::Ok, "searching"),
            RunState::InFocus => (Severity::Ok, "in focus"),
        };
        let mode = controller.config().law.name().to_owned();
        let [rate, untrusted, age] = std::mem::take(&mut self.tally).values();
        let values = [("mode", mode), rate, untrusted, age];
        base.diagnostics.publish(base.now(), severity, message, &values);
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

/// Numbers for the diagnostics of one second.
#[derive(Default)]
struct Tally {
    untrusted: u64,
    ages_ms: Vec<f64>,
}

impl Tally {
    fn handle_estimate(&mut self, estimate: &FocusEstimate, now: Instant) {
        let age = now.since(from_time(&estimate.header.stamp));
        self.ages_ms.push(1e3 * age.as_secs_f64());
        self.untrusted += u64::from(!estimate.trusted);
    }

    fn values(self) -> [(&'static str, String); 3] {
        [
            ("estimates_per_second", self.ages_ms.len().to_string()),
            ("untrusted_per_second", self.untrusted.to_string()),
            ("estimate_age_ms_median", to_text(median(self.ages_ms))),
        ]
    }
}

fn describe(state: &RunState) -> (u8, &str) {
    match state {
        RunState::Disabled => (FocusState::DISABLED as u8, ""),
        RunState::Looking => (FocusState::LOOKING as u8, ""),
        RunState::Moving => (FocusState::MOVING as u8, ""),
        RunState::Searching => (FocusState::SEARCHING as u8, ""),
        RunState::InFocus => (FocusState::IN_FOCUS as u8, ""),
        RunState::Failed(reason) => (FocusState::FAILED as u8, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_makes_no_sense_is_refused_by_its_field() {
        let refused = |change: fn(&mut Autofocus::Goal)| {
            let mut goal = Autofocus::Goal::default();
            change(&mut goal);
            to_wanted(&goal).err().unwrap_or_default()
        };
        assert_eq!(to_wanted(&Autofocus::Goal::default()), Ok(Wanted::default()));
        assert!(refused(|goal| goal.timeout = f64::NAN).contains("no time"));
        assert!(refused(|goal| goal.timeout = -1.0).contains("no time"));
        assert!(refused(|goal| goal.mode = 9).contains("mode 9"));
        assert!(refused(|goal| goal.reach = -1e-6).contains("reach"));
        assert!(refused(|goal| goal.tolerance = 0.6).contains("up to 0.5"));
        let asked = Autofocus::Goal {
            mode: Autofocus::Goal::MODE_PAPER as u8,
            timeout: 2.0,
            reach: 20e-6,
            tolerance: 0.1,
            confirm: true,
            hold: true,
        };
        let wanted = Wanted {
            law: Some(Law::Paper),
            limit: Some(Duration::from_secs(2)),
            reach_um: Some(20.0),
            tolerance_depths: Some(0.1),
            confirms_anew: true,
            holds: true,
        };
        let found = to_wanted(&asked).unwrap();
        assert!((found.reach_um.unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(
            Wanted {
                reach_um: Some(20.0),
                ..found
            },
            wanted
        );
    }

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
