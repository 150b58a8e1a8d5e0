//! `focus_controller`: estimates in, velocity along z out, while enabled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use r2r::geometry_msgs::msg::{Twist, TwistStamped, Vector3};
use r2r::hhnet::action::Autofocus;
use r2r::hhnet::msg::{About, FocusEstimate, FocusState, StageState};
use r2r::std_srvs::srv::{SetBool, Trigger};
use r2r::{Publisher, QosProfile, ServiceRequest};

use super::demand::Demand;
use super::frame_in;
use super::frames::to_text;
use super::recorded::{REFUSAL, Recorded};
use crate::classes::{ClassEdges, DistanceIndex};
use crate::focus::{
    FocusConfig, FocusController, Law, Motion, Observation, POSITION_INVALID, Phase, StageReport,
};
use crate::objective::Objective;
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::ros::app::App;
use crate::ros::bond::Bonds;
use crate::ros::convert::{from_time, header};
use crate::ros::diagnostics::{Diagnostics, Severity};
use crate::ros::lifecycle::{Change, Lifecycle, Wish};
use crate::ros::node::{Builder, latched, newest_reliable};
use crate::ros::params::Checked;
use crate::ros::presence::{Presence, Work, capabilities, limits};
use crate::statistics::median;
use crate::units::{Instant, Micrometres};
use crate::{choices, parameters};

/// Period of velocity commands; a tenth of the bridge's command timeout.
const COMMAND_PERIOD: Duration = Duration::from_millis(20);

/// Time for the stage to stand before a stop or a deactivation is answered all the same.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// Time for a stage that goes on reporting motion to stand before a goal ends all the same.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Calls that wait for the stage to stand; more are answered at once that it is not known.
const MOST_PENDING: usize = 100;

/// Time from a command to the first report that shows what came of it.
const REACTION: Duration = Duration::from_millis(100);

/// Why nothing is done before activation.
const INACTIVE: &str = "the focus controller is not active: call ~/change_state";

/// Why nothing is done without a stage.
const UNAVAILABLE: &str = "the stage is not ready: look at stage_state for the reason";

/// Zero velocities sent after the last motion, so that one lost message does not delay a stop.
const STOP_REPEATS: u32 = 5;

choices! {
    /// The control law.
    Mode {
        /// Bounded steps, with a look between them.
        Stepwise = "stepwise",
        /// Algorithm 1 of the paper as printed.
        Paper = "paper",
    }
}

parameters! {
    /// Parameters of the focus controller node.
    FocusControllerParameters in "focus_controller" {
        /// Control law: `stepwise` (bounded steps, look after each) or `paper` (Algorithm 1 as printed).
        mode: Mode [live] = Mode::Stepwise,
        /// The paper's default speed, m/s.
        default_speed: f64 [0.000001..=0.01, "m/s", live] = 0.0002237,
        /// Objective in use; its depth of field sets class edges and tolerance.
        objective: String = "40x0.65",
        /// Lowest permitted height of the lens, m.
        z_min: f64 [-1.0..=1.0, "m"] = -100e-6,
        /// Highest permitted height of the lens, m.
        z_max: f64 [-1.0..=1.0, "m"] = 300e-6,
        /// An estimate exposed longer ago than this is not acted on, s.
        estimate_timeout: f64 [0.01..=60.0, "s", live] = 1.0,
        /// Mode `paper`: motion ends when the newest estimate was exposed longer ago than this, s.
        motion_timeout: f64 [0.02..=1.0, "s", live] = 0.25,
        /// Rest between standstill and the first exposure that counts, s.
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
        self.config().map(drop)
    }
}

impl FocusControllerParameters {
    fn config(&self) -> Result<FocusConfig> {
        let objective = Objective::by_name(&self.objective)?;
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .with_context(|| format!("focus_controller {name} is {value} s"))
        };
        let config = FocusConfig {
            law: match self.mode {
                Mode::Stepwise => Law::Stepwise,
                Mode::Paper => Law::Paper,
            },
            default_speed_um_per_s: self.default_speed * 1e6,
            edges: ClassEdges::for_objective(&objective),
            tolerance_um: 0.25 * objective.depth_of_field_um(),
            z_min: Micrometres::from_metres(self.z_min),
            z_max: Micrometres::from_metres(self.z_max),
            estimate_timeout: seconds("estimate_timeout", self.estimate_timeout)?,
            motion_timeout: seconds("motion_timeout", self.motion_timeout)?,
            settle: seconds("settle", self.settle)?,
            run_timeout: seconds("run_timeout", self.run_timeout)?,
            ..FocusConfig::default()
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
    Tick,
    Second,
    Shutdown,
}

/// Runs the node.
///
/// # Errors
/// Bad parameters.
pub async fn run(app: App) -> Result<()> {
    let mut node = Builder::new("focus_controller")?;
    let mut live = node.parameters::<FocusControllerParameters>(app.clock)?;
    let parameters = live.borrow_and_update().clone();
    let mut controller = FocusController::new(parameters.config()?);
    let mut estimates = node.subscribe::<FocusEstimate>("focus", QosProfile::default())?;
    let mut stages = node.subscribe::<StageState>("stage_state", QosProfile::default())?;
    let mut enables = node.service::<SetBool::Service>("~/enable")?;
    let mut stops = node.service::<Trigger::Service>("~/stop")?;
    let mut goals = ActionServer::<Autofocus::Action>::new(&mut node, "autofocus", app.clock)?;
    let names = parameters.needs.iter().map(String::as_str);
    let silence = Duration::from_secs_f64(parameters.alive_timeout);
    let bonds = Bonds::new(&mut node, names, silence, app.clock)?;
    let cameras: BTreeSet<&str> = parameters
        .needs
        .iter()
        .map(String::as_str)
        .chain(["camera"])
        .collect();
    let recorded = Recorded::new(&mut node, cameras)?;
    let mut run: Option<Run> = None;
    let mut pending: Vec<Pending> = Vec::new();
    let mut known = Known {
        index: 0,
        defocus: f64::NAN,
        z: f64::NAN,
        motion: None,
        stage_reason: String::new(),
        is_lost: false,
        is_recorded: false,
        stops: None,
        stage_heard: Instant::default(),
        stage_at: Instant::default(),
        commanded: Instant::default(),
        missing: None,
    };
    // Whether the run before was given up because a node is missing.
    let mut is_bereft = false;
    let mut outlets = Outlets {
        commands: node.publisher("cmd_vel", newest_reliable())?,
        states: node.publisher("focus_state", latched())?,
        diagnostics: Diagnostics::new(&mut node, "focus", "none")?,
        presence: Presence::new(&mut node, app.clock)?,
        name: node.name().to_owned(),
        frame_id: frame_in(&node.namespace()?, "z"),
        demand: Demand::new(&mut node, "focus")?,
        tally: Tally::default(),
        published: None,
        stop_repeats: 0,
    };
    let mut lifecycle = Lifecycle::new(&mut node, &app, parameters.autostart)?;
    let mut is_active = false;
    let mut leaving: Option<(Wish, Instant)> = None;
    let spinning = node.spin()?;
    outlets.introduce(&parameters);
    // A motion controller boots when its port is opened; enabled before that, the run would end at once.
    let mut enable_when_ready = parameters.enabled;
    outlets.publish_state(&controller, app.clock.now());

    let mut tick = tokio::time::interval(COMMAND_PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        // A controller at rest commands nothing, and hears of the world by its messages.
        let is_busy = is_running(&controller)
            || outlets.stop_repeats > 0
            || leaving.is_some()
            || run.is_some()
            || !pending.is_empty();
        let event = tokio::select! {
            () = app.stopped() => Event::Shutdown,
            Some(estimate) = estimates.next() => Event::Estimate(estimate),
            Some(stage) = stages.next() => Event::Stage(stage),
            Some(request) = goals.next() => Event::Goal(request),
            Some(request) = enables.next() => Event::Enable(request),
            Some(request) = stops.next() => Event::Stop(request),
            wish = lifecycle.next() => Event::Life(wish),
            _ = tick.tick(), if is_busy => Event::Tick,
            _ = second.tick() => Event::Second,
        };
        let now = app.clock.now();
        known.missing = bonds.missing(now);
        known.is_recorded = recorded.is_recorded() && !live.borrow().recorded_frames_may_move;
        if live.has_changed().unwrap_or(false) {
            // They were checked before they were accepted.
            controller.set_config(live.borrow_and_update().config()?);
            outlets.introduce(&live.borrow());
        }
        match event {
            Event::Estimate(estimate) => {
                outlets.tally.handle_estimate(&estimate, now);
                if let Some(observation) = to_observation(&estimate) {
                    controller.handle_observation(observation, now);
                }
                (known.index, known.defocus) = (estimate.distance_index, estimate.defocus);
                if let Some(run) = &run {
                    known.feedback(run, &controller);
                }
            }
            Event::Stage(stage) => {
                let report = to_report(&stage);
                controller.handle_stage(report);
                (known.motion, known.z, known.is_lost) = (Some(report.motion), stage.z, report.z.is_none());
                (known.stage_heard, known.stage_at) = (now, report.at);
                known.stage_reason = stage.reason;
                let is_running = !matches!(controller.phase(), Phase::Disabled | Phase::Failed(_));
                if is_running && report.motion == Motion::Unavailable {
                    controller.give_up(known.unavailable());
                }
                if known
                    .stops
                    .replace(stage.stops)
                    .is_some_and(|stops| stops != stage.stops)
                {
                    // A stage that was stopped is to stand, not to be looked at and driven on.
                    controller.disable();
                    enable_when_ready = false;
                    end_soon(
                        &mut run,
                        End::Preempted,
                        "~/stop of the stepper bridge was called",
                        now,
                    );
                }
                if enable_when_ready && known.hindrance(is_active).is_none() {
                    enable_when_ready = false;
                    controller.enable(now);
                }
            }
            Event::Goal(request) => {
                enable_when_ready = false;
                let older = run.take();
                match known.check(&request.goal, is_active) {
                    Err(reason) => {
                        request.reject(&reason);
                        run = older;
                    }
                    Ok(limit) => {
                        if let Some(older) = older {
                            known.end(older, End::Preempted, "a newer goal took over", now);
                        }
                        run = Some(Run {
                            handle: request.accept(),
                            limit,
                            ending: None,
                        });
                        controller.enable(now);
                    }
                }
            }
            Event::Enable(request) if request.message.data => {
                enable_when_ready &= known.hindrance(is_active).is_some();
                if let Some(reason) = known.hindrance(is_active) {
                    Reply::Enable(request).give(false, &reason);
                } else {
                    if let Some(run) = run.take() {
                        known.end(run, End::Preempted, "~/enable was called", now);
                    }
                    controller.enable(now);
                    Reply::Enable(request).give(true, "focusing");
                }
            }
            Event::Enable(request) if !is_active => Reply::Enable(request).give(false, INACTIVE),
            Event::Enable(request) => {
                end_soon(&mut run, End::Preempted, "~/enable was called", now);
                enable_when_ready = false;
                controller.disable();
                outlets.command(0.0, now);
                pending.push(Pending::new(Reply::Enable(request), now));
            }
            Event::Stop(request) => {
                end_soon(&mut run, End::Preempted, "~/stop was called", now);
                enable_when_ready = false;
                controller.disable();
                outlets.command(0.0, now);
                pending.push(Pending::new(Reply::Stop(request), now));
            }
            Event::Life(wish) => match wish.change {
                // It holds nothing but its parameters.
                Change::Configure | Change::CleanUp => wish.done(),
                Change::Activate => {
                    is_active = true;
                    wish.done();
                }
                Change::Deactivate | Change::ShutDown => {
                    is_active = false;
                    enable_when_ready = false;
                    controller.disable();
                    outlets.command(0.0, now);
                    end_soon(
                        &mut run,
                        End::Preempted,
                        "the focus controller was deactivated",
                        now,
                    );
                    leaving = Some((wish, now + STOP_LIMIT));
                }
            },
            Event::Tick => {}
            Event::Second => {
                outlets.publish_diagnostics(&controller, is_active, now);
                outlets.demand.repeat();
            }
            Event::Shutdown => break,
        }
        match &known.missing {
            // Nodes of this process that end with it are no news.
            Some(missing) if is_running(&controller) && !app.is_stopping() => {
                is_bereft = true;
                controller.give_up(missing.clone());
                end_soon(&mut run, End::NodeGone, missing, now);
            }
            None if known.is_recorded && is_running(&controller) => controller.give_up(REFUSAL.to_owned()),
            // Work can be given again; nothing resumes by itself.
            None if std::mem::take(&mut is_bereft) && !is_running(&controller) => controller.disable(),
            Some(_) | None => {}
        }
        let velocity = controller.poll(now);
        if velocity != 0.0 {
            known.commanded = now;
        }
        if velocity != 0.0 || outlets.stop_repeats > 0 {
            outlets.command(velocity, now);
        }
        outlets.demand.set(wants_estimates(controller.phase()));
        outlets.publish_state(&controller, now);
        let rest = (!is_active).then(|| lifecycle.work());
        outlets.publish_work(&controller, &known, rest);
        // Deactivated in motion: the motion ends first, unless no stage is left to say that it has.
        let has_left = |(_, limit): &mut (Wish, Instant)| !known.may_move() || now >= *limit;
        if let Some((wish, _)) = leaving.take_if(has_left) {
            if known.may_move() {
                lifecycle.fail_over(wish, "the stage was told to stop and has not reported standstill");
            } else {
                wish.done();
            }
        }
        run = run.and_then(|run| known.follow(run, &mut controller, now));
        pending = known.answer(pending, now);
    }
    for pending in pending {
        pending.reply.give(
            false,
            "disabled, but the focus controller ends before the stage is known to stand",
        );
    }
    if let Some(run) = run {
        known.end(run, End::GaveUp, "the focus controller ends", app.clock.now());
    }
    outlets.command(0.0, app.clock.now());
    drop(spinning);
    Ok(())
}

/// Whether the controller may command a motion.
fn is_running(controller: &FocusController) -> bool {
    !matches!(controller.phase(), Phase::Disabled | Phase::Failed(_))
}

/// A goal being worked on.
struct Run {
    handle: GoalHandle<Autofocus::Action>,
    /// Time it may take; None for the controller's own limit.
    limit: Option<Duration>,
    /// How it ends once the stage stands, and since when that is known.
    ending: Option<(End, String, Instant)>,
}

/// Has a goal end when the stage stands.
fn end_soon(run: &mut Option<Run>, end: End, message: &str, now: Instant) {
    if let Some(run) = run {
        run.ending.get_or_insert_with(|| (end, message.to_owned(), now));
    }
}

/// A call to be answered.
enum Reply {
    Enable(ServiceRequest<SetBool::Service>),
    Stop(ServiceRequest<Trigger::Service>),
}

impl Reply {
    fn give(self, success: bool, message: &str) {
        let message = message.to_owned();
        // A client that has gone needs no answer.
        match self {
            Self::Enable(request) => drop(request.respond(SetBool::Response { success, message })),
            Self::Stop(request) => drop(request.respond(Trigger::Response { success, message })),
        }
    }

    /// What it asked for, done.
    fn done(self) {
        match self {
            Self::Enable(_) => self.give(true, "disabled, the stage stands"),
            Self::Stop(_) => self.give(true, "disabled and stopped, the stage stands"),
        }
    }
}

/// A call that is answered when the stage stands.
struct Pending {
    reply: Reply,
    asked: Instant,
}

impl Pending {
    fn new(reply: Reply, asked: Instant) -> Self {
        Self { reply, asked }
    }
}

/// How a goal ended.
#[derive(Clone, Copy)]
enum End {
    InFocus,
    Cancelled,
    Preempted,
    GaveUp,
    NodeGone,
}

/// What the newest messages said.
struct Known {
    index: i8,
    defocus: f64,
    z: f64,
    /// None until the stage has been heard of.
    motion: Option<Motion>,
    /// What the stage says of it.
    stage_reason: String,
    /// The stage was heard of, and its height does not count.
    is_lost: bool,
    /// The camera shows recorded images, which may not move the stage.
    is_recorded: bool,
    /// How often the stage was stopped.
    stops: Option<u32>,
    /// When the stage was heard of last.
    stage_heard: Instant,
    /// Time that its newest report is about.
    stage_at: Instant,
    /// When a motion was last commanded.
    commanded: Instant,
    /// Which of the nodes that focusing needs is missing.
    missing: Option<String>,
}

impl Known {
    fn is_stageless(&self) -> bool {
        matches!(self.motion, None | Some(Motion::Unavailable))
    }

    /// Why the stage does not move.
    fn unavailable(&self) -> String {
        match self.stage_reason.as_str() {
            "" => UNAVAILABLE.to_owned(),
            reason => format!("the stage is not available: {reason}"),
        }
    }

    /// Why no run can begin.
    fn hindrance(&self, is_active: bool) -> Option<String> {
        if !is_active {
            Some(INACTIVE.to_owned())
        } else if self.missing.is_some() {
            self.missing.clone()
        } else if self.motion == Some(Motion::Unavailable) {
            Some(self.unavailable())
        } else if self.is_lost {
            Some(POSITION_INVALID.to_owned())
        } else {
            self.is_recorded.then(|| REFUSAL.to_owned())
        }
    }

    /// The goal's own time limit, if it has one.
    fn check(&self, goal: &Autofocus::Goal, is_active: bool) -> Result<Option<Duration>, String> {
        if !is_active {
            return Err(INACTIVE.to_owned());
        }
        let limit = Duration::try_from_secs_f64(goal.timeout)
            .map_err(|_| format!("a timeout of {} s is no time: give seconds, or 0", goal.timeout))?;
        if let Some(reason) = self.hindrance(is_active) {
            return Err(reason);
        }
        if self.is_stageless() {
            return Err(self.unavailable());
        }
        Ok((limit > Duration::ZERO).then_some(limit))
    }

    fn feedback(&self, run: &Run, controller: &FocusController) {
        run.handle.feedback(Autofocus::Feedback {
            state: describe(controller.phase()).0,
            distance_index: self.index,
            defocus: self.defocus,
            z: self.z,
        });
    }

    /// Whether the stage may move: it says that it does, or has not told yet what came of the last command.
    fn may_move(&self) -> bool {
        match self.motion {
            Some(Motion::Moving) => true,
            Some(Motion::Still) => self.stage_at <= self.commanded + REACTION,
            Some(Motion::Unavailable) | None => false,
        }
    }

    /// How the goal ends, if its end has come.
    fn verdict(
        &self,
        run: &Run,
        controller: &FocusController,
        now: Instant,
    ) -> Option<(End, String, Instant)> {
        let is_late = run
            .limit
            .is_some_and(|limit| now.since(run.handle.accepted()) > limit);
        let (end, message) = match controller.phase() {
            Phase::InFocus => (End::InFocus, "in focus"),
            Phase::Failed(reason) => (End::GaveUp, reason.as_str()),
            _ if run.handle.is_cancelling() => (End::Cancelled, "stopped as asked"),
            _ if is_late => (End::GaveUp, "not in focus within the goal's timeout"),
            _ => return None,
        };
        Some((end, message.to_owned(), now))
    }

    /// Ends the goal if its end has come and the stage stands; the controller is left disabled: nothing moves between goals.
    fn follow(&self, mut run: Run, controller: &mut FocusController, now: Instant) -> Option<Run> {
        if run.ending.is_none() {
            run.ending = self.verdict(&run, controller, now);
        }
        let Some((end, message, since)) = run.ending.clone() else {
            return Some(run);
        };
        if is_running(controller) {
            controller.disable();
        }
        let silence = now.since(self.stage_heard.max(self.commanded));
        if !self.may_move() {
            self.end(run, end, &message, now);
        } else if silence < STOP_LIMIT && now.since(since) < END_LIMIT {
            return Some(run);
        } else if matches!(end, End::InFocus | End::Cancelled) {
            let sentence = "the stage was told to stop and has not been heard of since";
            self.end(run, End::GaveUp, sentence, now);
        } else {
            let sentence = format!("{message}; the stage was told to stop and has not been heard of since");
            self.end(run, end, &sentence, now);
        }
        None
    }

    /// Answers the calls that waited for the stage to stand, as far as that is known; returns the others.
    fn answer(&self, pending: Vec<Pending>, now: Instant) -> Vec<Pending> {
        let is_crowded = pending.len() > MOST_PENDING;
        let mut waiting = Vec::new();
        for call in pending {
            let is_late = now.since(call.asked) >= STOP_LIMIT || is_crowded;
            match self.motion {
                Some(Motion::Still) if self.stage_at > call.asked.max(self.commanded + REACTION) => {
                    call.reply.done();
                }
                Some(Motion::Unavailable) | None => call.reply.give(
                    false,
                    "disabled, but the stage is not ready and may move: look at stage_state for the reason",
                ),
                Some(Motion::Moving) if is_late => call.reply.give(
                    false,
                    "disabled, but the stage still moves: call stop of the stepper bridge",
                ),
                Some(Motion::Still) if is_late => call.reply.give(
                    false,
                    "disabled, but the stage has not reported since: check that its driver is running",
                ),
                Some(Motion::Moving | Motion::Still) => waiting.push(call),
            }
        }
        waiting
    }

    fn end(&self, run: Run, end: End, message: &str, now: Instant) {
        let code = match end {
            End::InFocus => Autofocus::Result::IN_FOCUS as u8,
            End::Cancelled => Autofocus::Result::CANCELED as u8,
            End::Preempted => Autofocus::Result::PREEMPTED as u8,
            End::GaveUp => Autofocus::Result::GAVE_UP as u8,
            End::NodeGone => Autofocus::Result::NODE_GONE as u8,
        };
        let result = Autofocus::Result {
            code,
            message: message.to_owned(),
            z: self.z,
            defocus: self.defocus,
            duration: now.since(run.handle.accepted()).as_secs_f64(),
        };
        match end {
            End::InFocus => run.handle.succeed(result),
            End::Cancelled => run.handle.cancelled(result),
            End::Preempted | End::GaveUp | End::NodeGone => run.handle.abort(result),
        }
    }
}

/// `None` for an index that does not exist.
fn to_observation(estimate: &FocusEstimate) -> Option<Observation> {
    let index = DistanceIndex::ALL
        .into_iter()
        .find(|index| index.value() == estimate.distance_index)?;
    let defocus = estimate
        .defocus
        .is_finite()
        .then(|| Micrometres::from_metres(estimate.defocus));
    let other_side = DistanceIndex::ALL
        .into_iter()
        .zip(&estimate.probabilities)
        .filter(|(class, _)| class.value() * index.value() < 0)
        .map(|(_, probability)| *probability)
        .sum();
    let exposed = from_time(&estimate.header.stamp);
    Some(Observation {
        index,
        defocus,
        other_side,
        trusted: estimate.trusted,
        reason: estimate.reason.as_str().into(),
        has_specimen: estimate.patches_used > 0,
        exposed,
    })
}

fn to_report(stage: &StageState) -> StageReport {
    const IDLE: u8 = StageState::IDLE as u8;
    const MOVING: u8 = StageState::MOVING as u8;
    let motion = match stage.state {
        IDLE => Motion::Still,
        MOVING => Motion::Moving,
        _ => Motion::Unavailable,
    };
    let z = (stage.position_valid && stage.z.is_finite()).then(|| Micrometres::from_metres(stage.z));
    StageReport {
        z,
        motion,
        at: from_time(&stage.header.stamp),
    }
}

struct Outlets {
    commands: Publisher<TwistStamped>,
    states: Publisher<FocusState>,
    diagnostics: Diagnostics,
    presence: Presence,
    name: String,
    /// The frame in which velocities are meant.
    frame_id: Arc<str>,
    demand: Demand,
    tally: Tally,
    published: Option<Phase>,
    stop_repeats: u32,
}

impl Outlets {
    fn command(&mut self, velocity_um_per_s: f64, now: Instant) {
        self.stop_repeats = if velocity_um_per_s != 0.0 {
            STOP_REPEATS
        } else {
            self.stop_repeats.saturating_sub(1)
        };
        let linear = Vector3 {
            x: 0.0,
            y: 0.0,
            z: velocity_um_per_s * 1e-6,
        };
        let twist = Twist {
            linear,
            angular: Vector3::default(),
        };
        // Publishing fails only while the process ends, and then the bridge's timeout stops the stage.
        drop(self.commands.publish(&TwistStamped {
            header: header(now, &self.frame_id),
            twist,
        }));
    }

    /// Publishes the state when it has changed.
    fn publish_state(&mut self, controller: &FocusController, now: Instant) {
        if self.published.as_ref() == Some(controller.phase()) {
            return;
        }
        let (state, reason) = describe(controller.phase());
        match controller.phase() {
            Phase::Failed(reason) => tracing::warn!(node = self.name, "gave up: {reason}"),
            Phase::InFocus => tracing::info!(node = self.name, "in focus"),
            Phase::Disabled | Phase::Looking | Phase::Moving => {}
        }
        self.published = Some(controller.phase().clone());
        let reason = reason.to_owned();
        drop(self.states.publish(&FocusState {
            header: header(now, ""),
            state,
            reason,
        }));
    }

    fn introduce(&mut self, parameters: &FocusControllerParameters) {
        self.presence.introduce(About {
            capabilities: capabilities(&["autofocus", "focus_state", "cmd_vel", "~/enable", "~/stop"]),
            limits: limits([
                ("z_min", parameters.z_min),
                ("z_max", parameters.z_max),
                ("run_timeout", parameters.run_timeout),
            ]),
            ..About::default()
        });
    }

    /// What an orchestrator has to know before it sends a goal; `rest` is what a node that is not active says.
    fn publish_work(&mut self, controller: &FocusController, known: &Known, rest: Option<Work>) {
        if let Some(rest) = rest {
            self.presence.set(rest);
            return;
        }
        self.presence.set(match (controller.phase(), &known.missing) {
            (Phase::Looking | Phase::Moving, _) => Work::Busy("focusing".into()),
            (Phase::Failed(reason), _) | (_, Some(reason)) => Work::Fault(reason.as_str().into()),
            (Phase::Disabled | Phase::InFocus, None) if known.is_stageless() => {
                Work::Fault(known.unavailable().into())
            }
            (Phase::Disabled | Phase::InFocus, None) if known.is_lost => Work::Fault(POSITION_INVALID.into()),
            (Phase::Disabled | Phase::InFocus, None) if known.is_recorded => Work::Fault(REFUSAL.into()),
            (Phase::Disabled | Phase::InFocus, None) => Work::Idle("".into()),
        });
    }

    fn publish_diagnostics(&mut self, controller: &FocusController, is_active: bool, now: Instant) {
        let (_, reason) = describe(controller.phase());
        let (severity, message) = match controller.phase() {
            _ if !is_active => (Severity::Warn, "not active"),
            Phase::Failed(_) => (Severity::Error, reason),
            Phase::Disabled => (Severity::Ok, "disabled"),
            Phase::Looking => (Severity::Ok, "looking"),
            Phase::Moving => (Severity::Ok, "moving"),
            Phase::InFocus => (Severity::Ok, "in focus"),
        };
        let mode = format!("{:?}", controller.config().law).to_lowercase();
        let [rate, untrusted, age] = std::mem::take(&mut self.tally).values();
        self.diagnostics
            .publish(now, severity, message, &[("mode", mode), rate, untrusted, age]);
    }
}

/// Whether the controller looks at what the classifier says.
fn wants_estimates(phase: &Phase) -> bool {
    match phase {
        Phase::Looking | Phase::Moving | Phase::InFocus => true,
        Phase::Disabled | Phase::Failed(_) => false,
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
            (
                "estimate_age_ms_median",
                to_text(median(self.ages_ms).unwrap_or(f64::NAN)),
            ),
        ]
    }
}

fn describe(phase: &Phase) -> (u8, &str) {
    match phase {
        Phase::Disabled => (FocusState::DISABLED as u8, ""),
        Phase::Looking => (FocusState::LOOKING as u8, ""),
        Phase::Moving => (FocusState::MOVING as u8, ""),
        Phase::InFocus => (FocusState::IN_FOCUS as u8, ""),
        Phase::Failed(reason) => (FocusState::FAILED as u8, reason),
    }
}
