//! `stepper_bridge`: velocity commands in, the motion controller's bytes out; position and state back.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use r2r::geometry_msgs::msg::TwistStamped;
use r2r::hhnet::action::MoveStage;
use r2r::hhnet::msg::{About, StageState as StageStateMsg};
use r2r::hhnet::srv::AcceptPosition;
use r2r::sensor_msgs::msg::JointState;
use r2r::std_srvs::srv::Trigger;
use r2r::{Publisher, QosProfile, ServiceRequest};

use super::commanders::Commanders;
use super::microscope::MicroscopeParameters;
use super::move_goals::{MoveGoals, Outcome};
use super::stage_waits::{StageWaits, respond};
use super::{position_store, virtual_port};
use crate::drivers::serial::{PortError, StageDriver, StageHandle, open_port};
use crate::parameters;
use crate::protocol;
use crate::ros::action::{ActionServer, GoalRequest};
use crate::ros::app::App;
use crate::ros::convert::{from_time, header};
use crate::ros::diagnostics::{Diagnostics, Severity};
use crate::ros::lifecycle::{Change, Lifecycle, Wish};
use crate::ros::node::{Builder, Newest, Requests, newest_reliable};
use crate::ros::params::Checked;
use crate::ros::presence::{Presence, Work, capabilities, limits};
use crate::stage::host::StageConfig;
use crate::stage::status::{StageState, StageStatus};
use crate::units::{Instant, Micrometres};

/// Why nothing moves before activation.
const INACTIVE: &str = "the stepper bridge is not active: call ~/change_state";

/// Why nothing moves without a stage.
const CLOSED: &str = "the port is closed: configure the stepper bridge by ~/change_state";

/// Age of what the driver knows above which nothing is known.
const STATUS_LIMIT: Duration = Duration::from_millis(500);

/// Time between two reports of a stage about which nothing changes; its driver asks no more often either.
const REST_PERIOD: Duration = Duration::from_millis(100);

/// How often it is looked whether what waits for the stage is over.
const SETTLE_PERIOD: Duration = Duration::from_millis(10);

/// Time a controller may take from the opening of its port to its first answer before the log mentions it.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(3);

parameters! {
    /// Parameters of the stepper bridge node.
    StepperBridgeParameters in "stepper_bridge"
        with microscope: MicroscopeParameters [x_min, x_max, y_min, y_max, z_min, z_max]
    {
        /// Serial port of the motion controller, best by its stable name under `/dev/serial/by-id`; empty for the virtual
        /// stage of this namespace.
        port: String = "",
        /// Baud rate.
        baud_rate: i64 [1200.0..=4000000.0, "baud"] = 115_200,
        /// How long to wait at start for the port to appear, s.
        open_timeout: f64 [0.0..=3600.0, "s"] = 5.0,
        /// Height of the lens at the controller's zero, m: where it powers up, or where its switches put it once `~/home` was called.
        power_up_z: f64 [-1.0..=1.0, "m"] = 0.0,
        /// Greatest speed towards the slide, m/s.
        max_approach_speed: f64 [0.0..=0.1, "m/s"] = 0.0005,
        /// Greatest speed away from the slide, m/s.
        max_speed: f64 [0.0..=0.1, "m/s"] = 0.001,
        /// A velocity command older than this stops the stage, s.
        command_timeout: f64 [0.0..=60.0, "s"] = 0.2,
        /// Greatest rate of joint_states and stage_state, Hz: that of a stage in motion. At rest they come ten times a second, and
        /// at once when something changes.
        publish_rate: f64 [1.0..=200.0, "1/s"] = 50.0,
        /// Node that sends the velocity commands: the state says so when it is gone in a motion, and another node may send them only
        /// while this one says on its `~/state` that it is not at work. Whose a message is ROS does not tell: two that command at a
        /// time stop the stage. Empty for one that gives no signs of life.
        commander: String = "focus_controller",
        /// Silence after which it counts as gone, s.
        alive_timeout: f64 [0.2..=60.0, "s"] = 1.0,
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for StepperBridgeParameters {
    fn check(&self) -> Result<()> {
        self.microscope.check()?;
        self.stage_config().map(drop)
    }
}

/// Everything the bridge reacts to.
enum Event {
    Command(TwistStamped),
    Goal(GoalRequest<MoveStage::Action>),
    Stop(ServiceRequest<Trigger::Service>),
    ClearFault(ServiceRequest<Trigger::Service>),
    Home(ServiceRequest<Trigger::Service>),
    AcceptPosition(ServiceRequest<AcceptPosition::Service>),
    Life(Wish),
    /// What waits for the stage may be over.
    Settle,
    Report,
    Second,
}

/// Runs the node.
///
/// # Errors
/// Bad parameters, a port that does not exist or is taken.
pub async fn run(app: App) -> Result<()> {
    let mut node = Builder::new("stepper_bridge")?;
    let parameters = node
        .parameters::<StepperBridgeParameters>(app.clock)?
        .borrow()
        .clone();
    let config = parameters.stage_config()?;
    let path = match parameters.port.as_str() {
        "" => virtual_port(&node.namespace()?)?,
        path => PathBuf::from(path),
    };
    let mut inlets = Inlets {
        commands: node.subscribe("cmd_vel", newest_reliable())?,
        stops: node.service("~/stop")?,
        clears: node.service("~/clear_fault")?,
        homes: node.service("~/home")?,
        accepts: node.service("~/accept_position")?,
        goals: ActionServer::new(&mut node, "move_stage", app.clock)?,
    };
    let silence = Duration::from_secs_f64(parameters.alive_timeout);
    let mut moves = MoveGoals::new(
        Micrometres::from_metres(parameters.power_up_z),
        parameters.max_speed * 1e6,
    );
    let mut outlets = Outlets {
        joints: node.publisher("joint_states", QosProfile::default())?,
        states: node.publisher("stage_state", QosProfile::default())?,
        diagnostics: Diagnostics::new(&mut node, "stage", &path.display().to_string())?,
        presence: Presence::new(&mut node, app.clock)?,
        port: path.display().to_string(),
        limits: [
            ("x_min", parameters.microscope.x_min),
            ("x_max", parameters.microscope.x_max),
            ("y_min", parameters.microscope.y_min),
            ("y_max", parameters.microscope.y_max),
            ("z_min", parameters.microscope.z_min),
            ("z_max", parameters.microscope.z_max),
            ("max_speed", parameters.max_speed),
        ],
        name: node.name().to_owned(),
        zero: Micrometres::from_metres(parameters.power_up_z),
        reported: String::new(),
        stops: 0,
        commanders: Commanders::new(&mut node, &parameters.commander, silence, app.clock)?,
        commanded: false,
        orphaned: None,
        dispute: None,
        published: None,
        patient_until: Instant::default(),
    };
    let mut lifecycle = Lifecycle::new(&mut node, &app, parameters.autostart)?;
    let spinning = node.spin()?;
    outlets.presence.set(lifecycle.work());
    loop {
        let wish = tokio::select! {
            wish = lifecycle.configure(&app, &mut outlets.diagnostics) => wish,
            never = inlets.refuse(CLOSED) => match never {},
        };
        let Some(wish) = wish else { break };
        let opened = tokio::select! {
            () = app.stopped() => break,
            stage = open(&path, &parameters, &config, &app) => stage,
            never = inlets.refuse("the stepper bridge waits for its port") => match never {},
        };
        let Some(stage) = wish.settle(opened)? else {
            continue;
        };
        outlets.patient_until = app.clock.now() + FIRST_ANSWER_LIMIT;
        tracing::info!(node = outlets.name, "stage on {}", path.display());
        let leaving = tokio::select! {
            // At once, whatever is waited for: the stage is stopped below.
            () = app.stopped() => None,
            leaving = drive(&app, &parameters, &stage, &mut lifecycle, &mut inlets, &mut moves, &mut outlets) => {
                Some(leaving)
            }
        };
        let status = stage.status();
        if let Err(unconfirmed) = stage.shutdown().await {
            // With a link the driver has stopped the stage; without one nothing can: a velocity runs out, a move ends at its target.
            tracing::warn!(node = outlets.name, "{unconfirmed}");
        }
        outlets.commanded = false;
        moves.end(
            Outcome::Failed,
            "the stepper bridge lets go of the stage",
            &status.borrow().clone(),
        );
        match leaving {
            None => outlets.let_go(Work::inactive(), app.clock.now()),
            Some(Leaving::Asked(wish)) => {
                outlets.let_go(Work::inactive(), app.clock.now());
                wish.done();
            }
            Some(Leaving::Broken(wish, reason)) => {
                outlets.let_go(Work::Fault(reason.as_str().into()), app.clock.now());
                lifecycle.fail_over(wish, &reason);
            }
        }
    }
    drop(spinning);
    Ok(())
}

/// What the bridge hears.
struct Inlets {
    commands: Newest<TwistStamped>,
    stops: Requests<Trigger::Service>,
    clears: Requests<Trigger::Service>,
    homes: Requests<Trigger::Service>,
    accepts: Requests<AcceptPosition::Service>,
    goals: ActionServer<MoveStage::Action>,
}

impl Inlets {
    /// Tells everybody why nothing can be done, for as long as it is polled; what is commanded meanwhile is not done later.
    async fn refuse(&mut self, reason: &str) -> Infallible {
        loop {
            tokio::select! {
                Some(_) = self.commands.next() => {}
                Some(request) = self.goals.next() => request.reject(reason),
                Some(request) = self.stops.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = self.clears.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = self.homes.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = self.accepts.next() => answer_acceptance(request, Err(reason)),
                // The node ends.
                else => std::future::pending().await,
            }
        }
    }
}

/// Why the bridge lets go of its stage.
enum Leaving {
    /// A transition was requested.
    Asked(Wish),
    /// The stage is not known to stand still.
    Broken(Wish, String),
}

/// Works with an open stage until it has to be let go of.
async fn drive(
    app: &App,
    parameters: &StepperBridgeParameters,
    stage: &StageHandle,
    lifecycle: &mut Lifecycle,
    inlets: &mut Inlets,
    moves: &mut MoveGoals,
    outlets: &mut Outlets,
) -> Leaving {
    let mut status = stage.status();
    let mut waits = StageWaits::default();
    let mut is_active = false;
    let mut report = tokio::time::interval(Duration::from_secs_f64(1.0 / parameters.publish_rate));
    report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut settle = tokio::time::interval(SETTLE_PERIOD);
    settle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let leaving = loop {
        let is_waiting = !waits.is_empty() || moves.is_busy();
        let event = tokio::select! {
            // A stop is taken up before anything that came with it.
            biased;
            Some(request) = inlets.stops.next() => Event::Stop(request),
            wish = lifecycle.next() => Event::Life(wish),
            Some(command) = inlets.commands.next() => Event::Command(command),
            Some(request) = inlets.goals.next() => Event::Goal(request),
            Some(request) = inlets.clears.next() => Event::ClearFault(request),
            Some(request) = inlets.homes.next() => Event::Home(request),
            Some(request) = inlets.accepts.next() => Event::AcceptPosition(request),
            _ = settle.tick(), if is_waiting => Event::Settle,
            _ = report.tick() => Event::Report,
            _ = second.tick() => Event::Second,
        };
        let now = app.clock.now();
        match event {
            Event::Life(wish) => match wish.change {
                Change::Activate => {
                    is_active = true;
                    wish.done();
                }
                Change::Deactivate => {
                    is_active = false;
                    outlets.commanded = false;
                    moves.stop("the stepper bridge was deactivated", stage, now);
                    waits.deactivate(wish, now);
                }
                Change::Configure | Change::CleanUp | Change::ShutDown => break Leaving::Asked(wish),
            },
            Event::Command(_) if !is_active => {}
            Event::Goal(request) if !is_active => {
                request.reject(INACTIVE);
            }
            // The stop goes on to hold.
            Event::Command(_) if outlets.dispute.is_some() => stage.begin_stop(),
            Event::Goal(request) if outlets.dispute.is_some() => {
                request.reject(outlets.dispute.as_deref().unwrap_or_default());
            }
            // Zeros of a commander that is done do not mean another client's move; ~/stop does.
            Event::Command(command) if command.twist.linear.z == 0.0 && moves.is_busy() => {}
            Event::Command(command) => handle_command(&command, stage, moves, outlets),
            Event::Goal(request) => moves.take_up(request, stage, now),
            Event::Stop(request) => {
                outlets.stops = outlets.stops.wrapping_add(1);
                outlets.commanded = false;
                moves.stop_all(&mut inlets.goals, stage, now);
                waits.add_stop(request, now);
            }
            Event::ClearFault(request) => {
                stage.clear_fault();
                outlets.commanded = false;
                match outlets.dispute.clone() {
                    // The controller may go on, but no command is obeyed.
                    Some(dispute) => respond(request, Err::<String, _>(dispute)),
                    None => waits.add_clear(request, now),
                }
            }
            Event::Home(request) if !is_active => respond(request, Err::<String, _>(INACTIVE)),
            Event::Home(request) => {
                let outcome = match &outlets.dispute {
                    Some(dispute) => Err(dispute.clone()),
                    None => stage.home().map_err(|refusal| refusal.to_string()),
                };
                let message = "homing; stage_state says when the position is valid";
                respond(request, outcome.map(|()| message.to_owned()));
            }
            Event::AcceptPosition(request) => {
                let outcome = accept_position(&request.message, stage, outlets.zero);
                answer_acceptance(request, outcome);
            }
            Event::Settle => {}
            Event::Report => {
                let dispute = outlets.commanders.dispute(lifecycle, now);
                if dispute.is_some() && outlets.dispute.is_none() {
                    outlets.commanded = false;
                    moves.stop("more than one node commands the stage", stage, now);
                }
                outlets.dispute = dispute;
                let gone = outlets.commanders.gone(now).filter(|_| outlets.commanded);
                if gone.is_some() && outlets.orphaned.is_none() {
                    // Its commands expire by themselves, but how soon is a parameter.
                    stage.begin_stop();
                }
                outlets.orphaned = gone;
                outlets.report(&status.borrow_and_update().clone(), is_active, now);
            }
            Event::Second => {
                let status = outlets.said_of(&status.borrow(), now);
                outlets.publish_diagnostics(&status, now);
            }
        }
        moves.follow(stage, now);
        let is_settled = waits.settle(&stage.status().borrow().clone(), outlets.zero, now);
        if let Some((wish, reason)) = is_settled {
            break Leaving::Broken(wish, reason);
        }
    };
    waits.let_go(CLOSED);
    leaving
}

/// Passes a velocity on; it takes over from a goal.
fn handle_command(command: &TwistStamped, stage: &StageHandle, moves: &mut MoveGoals, outlets: &mut Outlets) {
    let stamp = from_time(&command.header.stamp);
    outlets.commanded = command.twist.linear.z != 0.0;
    match stage.velocity(command.twist.linear.z * 1e6, stamp) {
        Ok(_) => moves.end(
            Outcome::Preempted,
            "a velocity command took over",
            &stage.status().borrow().clone(),
        ),
        // A line that repeats is counted, not repeated.
        Err(refusal) => tracing::warn!(node = outlets.name, "{refusal}"),
    }
}

/// Takes the caller's word for where the stage stands.
fn accept_position(
    request: &AcceptPosition::Request,
    stage: &StageHandle,
    zero: Micrometres,
) -> Result<String, String> {
    let um = named_positions_um(&request.axes, &request.position)?;
    let [x, y, z] = um;
    stage
        .reference([x, y, z.map(|z_um| z_um - zero.0)])
        .map_err(|refusal| refusal.to_string())?;
    let told: Vec<String> = ["x", "y", "z"]
        .into_iter()
        .zip(um)
        .filter_map(|(name, um)| um.map(|um| format!("{name} = {um:.2} µm")))
        .collect();
    Ok(format!("the stage is taken to be at {}", told.join(", ")))
}

/// x, y, z in µm from names of axes and as many positions in metres.
fn named_positions_um(axes: &[String], positions: &[f64]) -> Result<[Option<f64>; 3], String> {
    const FORM: &str = "give axes and as many positions in metres, for example axes [z], position [0.0]";
    if axes.is_empty() || axes.len() != positions.len() {
        return Err(format!(
            "{} axes and {} positions: {FORM}",
            axes.len(),
            positions.len()
        ));
    }
    let mut um = [None; 3];
    for (name, metres) in axes.iter().zip(positions) {
        let axis = ["x", "y", "z"].iter().position(|known| known == name);
        let Some(axis) = axis else {
            return Err(format!("an axis is not x, y or z: {FORM}"));
        };
        if um[axis].replace(metres * 1e6).is_some() {
            return Err(format!("the axis {name} is named twice: {FORM}"));
        }
    }
    Ok(um)
}

fn answer_acceptance(
    request: ServiceRequest<AcceptPosition::Service>,
    outcome: Result<String, impl std::fmt::Display>,
) {
    let success = outcome.is_ok();
    let message = outcome.unwrap_or_else(|error| error.to_string());
    // A reply fails only while the node ends.
    drop(request.respond(AcceptPosition::Response { success, message }));
}

impl StepperBridgeParameters {
    /// The driver's settings, in its own coordinates: they begin where the controller powers up.
    fn stage_config(&self) -> Result<StageConfig> {
        let timeout =
            Duration::try_from_secs_f64(self.command_timeout).context("stepper_bridge command_timeout")?;
        let above_zero_um = |z: f64| (z - self.power_up_z) * 1e6;
        let config = StageConfig {
            x_range_um: (self.microscope.x_min * 1e6, self.microscope.x_max * 1e6),
            y_range_um: (self.microscope.y_min * 1e6, self.microscope.y_max * 1e6),
            z_range_um: (
                above_zero_um(self.microscope.z_min),
                above_zero_um(self.microscope.z_max),
            ),
            max_um_per_s: self.max_speed * 1e6,
            max_down_um_per_s: self.max_approach_speed * 1e6,
            command_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        };
        // The host checks its settings when it is made; this one is not used.
        protocol::host(&config).context("stepper_bridge")?;
        Ok(config)
    }
}

/// Opens the port, waiting a while for one that is not there yet: nodes start in any order.
async fn open(
    path: &Path,
    parameters: &StepperBridgeParameters,
    config: &StageConfig,
    app: &App,
) -> Result<StageHandle> {
    let wait = Duration::try_from_secs_f64(parameters.open_timeout).context("stepper_bridge open_timeout")?;
    let baud = u32::try_from(parameters.baud_rate).context("stepper_bridge baud_rate")?;
    let deadline = app.clock.now() + wait;
    let clock = app.clock;
    loop {
        // Opening is tried here first, so that a port that cannot work is an error and not a reconnection without end.
        match open_port(path, baud) {
            Ok(port) => {
                drop(port);
                return Ok(StageDriver::spawn_port(
                    path.to_owned(),
                    baud,
                    protocol::host(config)?,
                    position_store(path),
                    Arc::new(move || clock.now()),
                ));
            }
            Err(PortError::Missing { .. }) if app.clock.now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What keeps the stage from moving, as a sentence; empty if nothing does.
fn trouble(status: &StageStatus) -> String {
    match status.state {
        StageState::Idle | StageState::Moving => String::new(),
        StageState::Fault => format!("stage fault: {}", status.reason),
        StageState::Disconnected => format!("stage disconnected: {}", status.reason),
    }
}

struct Outlets {
    joints: Publisher<JointState>,
    states: Publisher<StageStateMsg>,
    diagnostics: Diagnostics,
    presence: Presence,
    port: String,
    /// Limits in force, by parameter; m and m/s.
    limits: [(&'static str, f64); 7],
    name: String,
    /// Height of the driver's zero.
    zero: Micrometres,
    /// How often `~/stop` was called.
    stops: u32,
    /// Those who send velocities.
    commanders: Commanders,
    /// Whether the newest velocity was a motion.
    commanded: bool,
    /// That the commander went in a motion, until it is back, another node commands, or the fault is cleared.
    orphaned: Option<String>,
    /// Why no command is obeyed.
    dispute: Option<String>,
    /// What was published last, and when.
    published: Option<(StageStateMsg, Instant)>,
    /// The trouble that the log told last.
    reported: String,
    /// Until when a controller that has not answered yet is no trouble: it boots when the port is opened.
    patient_until: Instant,
}

impl Outlets {
    /// What is said of the stage: what its driver says, unless that is old or no command is obeyed.
    fn said_of(&self, status: &StageStatus, now: Instant) -> StageStatus {
        let is_known = !matches!(status.state, StageState::Disconnected | StageState::Fault);
        match &self.dispute {
            _ if now.since(status.stamp) > STATUS_LIMIT && status.state != StageState::Disconnected => {
                StageStatus {
                    state: StageState::Disconnected,
                    reason: "the driver of the stage has stopped: restart the stepper bridge".to_owned(),
                    position_um: [f64::NAN; 3],
                    position_valid: false,
                    xy_valid: false,
                    ..status.clone()
                }
            }
            Some(dispute) if is_known => StageStatus {
                state: StageState::Fault,
                reason: dispute.clone(),
                ..status.clone()
            },
            _ => status.clone(),
        }
    }

    /// Position and state; publishing fails only while the process ends.
    fn report(&mut self, status: &StageStatus, is_active: bool, now: Instant) {
        let status = &self.said_of(status, now);
        // What has never been in touch knows no time.
        let at = if status.state == StageState::Disconnected {
            now
        } else {
            status.stamp
        };
        self.present(status, is_active);
        let trouble = self.orphaned.clone().unwrap_or_else(|| trouble(status));
        let booting = status.state == StageState::Disconnected && now < self.patient_until;
        if trouble != self.reported && !booting {
            if !trouble.is_empty() {
                tracing::warn!(node = self.name, "{trouble}");
            }
            self.reported = trouble;
        }
        let [x, y, z] = status.position_um.map(|um| um * 1e-6);
        let z = z + self.zero.as_metres();
        let state = match status.state {
            StageState::Disconnected => StageStateMsg::DISCONNECTED as u8,
            StageState::Idle => StageStateMsg::IDLE as u8,
            StageState::Moving => StageStateMsg::MOVING as u8,
            StageState::Fault => StageStateMsg::FAULT as u8,
        };
        let message = StageStateMsg {
            header: header(at, ""),
            state,
            reason: status.reason.clone(),
            z,
            position_valid: status.position_valid,
            xy_valid: status.xy_valid,
            firmware: status.firmware.clone(),
            stops: self.stops,
        };
        if status.state != StageState::Moving && self.is_old_news(&message, now) {
            return;
        }
        drop(self.joints.publish(&JointState {
            header: message.header.clone(),
            name: ["x", "y", "z"].map(str::to_owned).to_vec(),
            position: vec![x, y, z],
            velocity: vec![0.0, 0.0, status.z_um_per_s * 1e-6],
            effort: Vec::new(),
        }));
        drop(self.states.publish(&message));
        self.published = Some((message, now));
    }

    /// Whether the same was published a short while ago; the times in it do not count.
    fn is_old_news(&self, message: &StageStateMsg, now: Instant) -> bool {
        self.published.as_ref().is_some_and(|(published, at)| {
            let same_but_for_its_time = StageStateMsg {
                header: published.header.clone(),
                ..message.clone()
            };
            now.since(*at) < REST_PERIOD && *published == same_but_for_its_time
        })
    }

    fn present(&mut self, status: &StageStatus, is_active: bool) {
        self.presence.set(match (status.state, &self.orphaned) {
            (StageState::Fault | StageState::Disconnected, _) => Work::Fault(status.reason.as_str().into()),
            _ if !is_active => Work::inactive(),
            (_, Some(orphaned)) => Work::Fault(orphaned.as_str().into()),
            (StageState::Moving, None) => Work::Busy("moving".into()),
            (StageState::Idle, None) => Work::Idle("".into()),
        });
        self.presence.introduce(About {
            capabilities: capabilities(&[
                "move_stage",
                "cmd_vel",
                "joint_states",
                "stage_state",
                "~/stop",
                "~/clear_fault",
                "~/home",
                "~/accept_position",
            ]),
            limits: limits(self.limits),
            device: format!("{} {}", self.port, status.firmware).trim_end().to_owned(),
            ..About::default()
        });
    }

    /// Without a stage nothing is known of it, and it must not be taken for standing still.
    fn let_go(&mut self, work: Work, now: Instant) {
        let reason = CLOSED.to_owned();
        self.presence.set(work);
        drop(self.states.publish(&StageStateMsg {
            header: header(now, ""),
            state: StageStateMsg::DISCONNECTED as u8,
            reason,
            z: f64::NAN,
            position_valid: false,
            xy_valid: false,
            firmware: String::new(),
            stops: self.stops,
        }));
    }

    fn diagnose(&self, status: &StageStatus) -> (Severity, String) {
        if let Some(orphaned) = &self.orphaned {
            return (Severity::Error, orphaned.clone());
        }
        match (status.state, status.warnings.first()) {
            (StageState::Fault | StageState::Disconnected, _) => (Severity::Error, status.reason.clone()),
            (StageState::Idle | StageState::Moving, Some(warning)) => (Severity::Warn, warning.clone()),
            (StageState::Idle | StageState::Moving, None) => (Severity::Ok, status.state.name().to_owned()),
        }
    }

    fn publish_diagnostics(&self, status: &StageStatus, now: Instant) {
        let (severity, message) = self.diagnose(status);
        self.diagnostics.publish(
            now,
            severity,
            &message,
            &[
                ("port", self.port.clone()),
                ("port_state", status.state.name().to_owned()),
                ("position_valid", status.position_valid.to_string()),
                ("xy_valid", status.xy_valid.to_string()),
                (
                    "status_age_ms",
                    format!("{:.1}", 1e3 * now.since(status.stamp).as_secs_f64()),
                ),
                ("firmware", status.firmware.clone()),
                ("garbled_lines", status.garbled_lines.to_string()),
                ("refused_commands", status.refused_commands.to_string()),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::named_positions_um;

    #[test]
    fn positions_are_named() {
        let check = |axes: &[&str], positions: &[f64], expected: Option<[Option<f64>; 3]>| {
            let axes: Vec<String> = axes.iter().map(|&axis| axis.to_owned()).collect();
            assert_eq!(
                named_positions_um(&axes, positions).ok(),
                expected,
                "{axes:?} {positions:?}"
            );
        };
        check(&["z"], &[0.0], Some([None, None, Some(0.0)]));
        check(&["z", "x"], &[1.0, 2.0], Some([Some(2e6), None, Some(1e6)]));
        check(&[], &[], None);
        check(&["z"], &[], None);
        check(&["z", "z"], &[1.0, 2.0], None);
        check(&["Z"], &[1.0], None);
    }
}
