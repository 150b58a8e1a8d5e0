//! `stepper_bridge`: velocities and heights in, the motion controller's bytes out; position and state back.

mod acceptance;
mod outlets;
mod silence;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use r2r::ServiceRequest;
use r2r::geometry_msgs::msg::TwistStamped;
use r2r::hhnet::action::MoveStage;
use r2r::hhnet::msg::StageTarget;
use r2r::hhnet::srv::AcceptPosition;
use r2r::std_srvs::srv::Trigger;
use tokio::time::{Interval, MissedTickBehavior};

use self::acceptance::{accept_position, answer_acceptance};
use self::outlets::{Outlets, said_of};
use self::silence::Silence;
use super::commanders::Commanders;
use super::microscope::MicroscopeParameters;
use super::move_goals::{MoveGoals, Outcome};
use super::stage_waits::{StageWaits, respond};
use super::{position_store, virtual_port};
use crate::commissioning::clearance::{Clearance, Demand};
use crate::drivers::record_store::RecordStore;
use crate::drivers::runtime_dir::state_dir;
use crate::drivers::serial::{PortError, StageDriver, StageHandle, open_port};
use crate::protocol;
use crate::ros::action::{ActionServer, GoalRequest};
use crate::ros::app::App;
use crate::ros::clock::Clock;
use crate::ros::convert::from_time;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::{Builder, Newest, Requests, newest_reliable};
use crate::ros::params::Checked;
use crate::stage::host::StageConfig;
use crate::stage::status::{Refusal, StageStatus};
use crate::units::{Instant, Micrometres};
use crate::{choices, parameters};

/// Why nothing moves before activation.
const INACTIVE: &str = "the stepper bridge is not active: call ~/change_state";

/// Why nothing moves without a stage.
const CLOSED: &str = "the port is closed: configure the stepper bridge by ~/change_state";

/// How often it is looked whether what waits for the stage is over.
const SETTLE_PERIOD: Duration = Duration::from_millis(10);

/// Time a controller may take from the opening of its port to its first answer before the log mentions it.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(3);

choices! {
    /// Whether a first motion is asked for.
    FirstMotion {
        /// It has to have been made, and found right.
        Required = "required",
        /// The owner answers for the stand.
        Waived = "waived",
    }
}

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
        /// Whether a controller has to have made its first motion, `hhnet first-motion`, before anything is obeyed that moves it: `required`, or
        /// `waived` by whoever answers for directions, steps/mm and stops of this stand. A virtual stage needs none.
        first_motion: FirstMotion = FirstMotion::Required,
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
    Velocity(TwistStamped),
    Target(StageTarget),
    Goal(GoalRequest<MoveStage::Action>),
    Stop(ServiceRequest<Trigger::Service>),
    ClearFault(ServiceRequest<Trigger::Service>),
    Home(ServiceRequest<Trigger::Service>),
    AcceptPosition(ServiceRequest<AcceptPosition::Service>),
    /// What waits for the stage may be over.
    Settle,
    /// It is time to tell where the stage is.
    Report,
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
    let path = match parameters.port.as_str() {
        "" => virtual_port(&node.namespace()?)?,
        path => PathBuf::from(path),
    };
    let zero = Micrometres::from_metres(parameters.power_up_z);
    let bridge = Bridge {
        inlets: Inlets {
            velocities: node.subscribe("cmd_vel", newest_reliable())?,
            targets: node.subscribe("cmd_target", newest_reliable())?,
            stops: node.service("~/stop")?,
            clears: node.service("~/clear_fault")?,
            homes: node.service("~/home")?,
            accepts: node.service("~/accept_position")?,
            goals: ActionServer::new(&mut node, "move_stage", app.clock)?,
        },
        moves: MoveGoals::new(zero, parameters.max_speed * 1e6),
        commanders: Commanders::new(
            &mut node,
            &parameters.commander,
            Duration::from_secs_f64(parameters.alive_timeout),
            app.clock,
        )?,
        outlets: Outlets::new(&mut node, &path, &parameters, zero)?,
        dispute: None,
        silence: Silence::default(),
        commanded: false,
        aimed_at: Instant::default(),
        config: parameters.stage_config()?,
        clock: app.clock,
        parameters,
        path,
    };
    let device = bridge.path.display().to_string();
    let base = Base::start(node, app, "stage", &device, bridge.parameters.autostart)?;
    base.run(bridge).await
}

/// What the bridge hears.
struct Inlets {
    velocities: Newest<TwistStamped>,
    targets: Newest<StageTarget>,
    stops: Requests<Trigger::Service>,
    clears: Requests<Trigger::Service>,
    homes: Requests<Trigger::Service>,
    accepts: Requests<AcceptPosition::Service>,
    goals: ActionServer<MoveStage::Action>,
}

/// The node between its events.
struct Bridge {
    parameters: StepperBridgeParameters,
    config: StageConfig,
    path: PathBuf,
    clock: Clock,
    inlets: Inlets,
    moves: MoveGoals,
    /// Those who send velocities.
    commanders: Commanders,
    /// Why no command is obeyed.
    dispute: Option<String>,
    silence: Silence,
    /// Whether the newest command was a motion.
    commanded: bool,
    /// When the newest height that was taken was decided.
    aimed_at: Instant,
    outlets: Outlets,
}

/// An open stage.
struct Stage {
    handle: StageHandle,
    waits: StageWaits,
    report: Interval,
    settle: Interval,
}

impl Stage {
    fn new(handle: StageHandle, publish_rate: f64) -> Self {
        let every = |period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            interval
        };
        Self {
            handle,
            waits: StageWaits::default(),
            report: every(Duration::from_secs_f64(1.0 / publish_rate)),
            settle: every(SETTLE_PERIOD),
        }
    }

    fn status(&self) -> StageStatus {
        self.handle.status().borrow().clone()
    }
}

impl Managed for Bridge {
    type Device = Stage;
    type Event = Event;

    fn open(&mut self) -> BoxFuture<'static, Result<Stage>> {
        let (path, parameters) = (self.path.clone(), self.parameters.clone());
        let (config, clock) = (self.config.clone(), self.clock);
        async move {
            let handle = open(&path, &parameters, &config, clock).await?;
            Ok(Stage::new(handle, parameters.publish_rate))
        }
        .boxed()
    }

    fn handle_opened(&mut self, _: &mut Stage, base: &mut Base) -> Result<()> {
        self.outlets.expect_answer_by(base.now() + FIRST_ANSWER_LIMIT);
        tracing::info!(node = base.name, "stage on {}", self.path.display());
        Ok(())
    }

    /// What is commanded meanwhile is not done later.
    async fn refuse(&mut self, is_opening: bool) -> Infallible {
        let reason = if is_opening {
            "the stepper bridge waits for its port"
        } else {
            CLOSED
        };
        let inlets = &mut self.inlets;
        loop {
            tokio::select! {
                Some(_) = inlets.velocities.next() => {}
                Some(_) = inlets.targets.next() => {}
                Some(request) = inlets.goals.next() => request.reject(reason),
                Some(request) = inlets.stops.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = inlets.clears.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = inlets.homes.next() => respond(request, Err::<String, _>(reason)),
                Some(request) = inlets.accepts.next() => answer_acceptance(request, Err(reason)),
                // The node ends.
                else => std::future::pending().await,
            }
        }
    }

    async fn next_event(&mut self, stage: &mut Stage, _: bool) -> Event {
        let is_waiting = !stage.waits.is_empty() || self.moves.is_busy();
        let inlets = &mut self.inlets;
        tokio::select! {
            // A stop is taken up before anything that came with it.
            biased;
            Some(request) = inlets.stops.next() => Event::Stop(request),
            Some(command) = inlets.velocities.next() => Event::Velocity(command),
            Some(command) = inlets.targets.next() => Event::Target(command),
            Some(request) = inlets.goals.next() => Event::Goal(request),
            Some(request) = inlets.clears.next() => Event::ClearFault(request),
            Some(request) = inlets.homes.next() => Event::Home(request),
            Some(request) = inlets.accepts.next() => Event::AcceptPosition(request),
            _ = stage.settle.tick(), if is_waiting => Event::Settle,
            _ = stage.report.tick() => Event::Report,
        }
    }

    async fn handle(&mut self, event: Event, stage: &mut Stage, base: &mut Base) -> Result<Flow> {
        let now = base.now();
        match event {
            Event::Velocity(command) => self.handle_velocity(&command, &stage.handle, base),
            Event::Target(command) => self.handle_target(&command, &stage.handle, base),
            Event::Goal(request) => self.handle_goal(request, &stage.handle, base),
            Event::Stop(request) => self.handle_stop(request, stage, now),
            Event::ClearFault(request) => self.handle_clear(request, stage, now),
            Event::Home(request) => self.handle_home(request, &stage.handle, base),
            Event::AcceptPosition(request) => self.handle_acceptance(request, &stage.handle),
            Event::Settle => {}
            Event::Report => self.handle_report(stage, base),
        }
        self.moves.follow(&stage.handle, now);
        let broken = stage.waits.settle(&stage.status(), self.outlets.zero(), now);
        Ok(broken.map_or(Flow::Continue, |(wish, reason)| Flow::FailIn(wish, reason)))
    }

    fn handle_switch(&mut self, wish: Wish, stage: &mut Stage, base: &mut Base) {
        if base.is_active() {
            wish.done();
            return;
        }
        self.commanded = false;
        let now = base.now();
        self.moves
            .stop("the stepper bridge was deactivated", &stage.handle, now);
        stage.waits.deactivate(wish, now);
    }

    fn handle_second(&mut self, stage: &mut Stage, base: &mut Base) {
        let objection = self.objection(&stage.handle);
        let status = said_of(&stage.status(), objection.as_deref(), self.silence.lasted());
        self.outlets
            .publish_diagnostics(&status, stage.handle.clearance(), base);
    }

    async fn close(&mut self, mut stage: Stage, base: &mut Base) {
        stage.waits.let_go(CLOSED);
        let status = stage.handle.status();
        if let Err(unconfirmed) = stage.handle.shutdown().await {
            // With a link the driver has stopped the stage; without one nothing can: a velocity runs out, a move ends at its target.
            tracing::warn!(node = base.name, "{unconfirmed}");
        }
        self.commanded = false;
        let status = status.borrow().clone();
        self.moves.end(
            Outcome::Failed,
            "the stepper bridge lets go of the stage",
            &status,
        );
        self.outlets.let_go(base.now());
    }
}

impl Bridge {
    /// Passes a velocity on.
    fn handle_velocity(&mut self, command: &TwistStamped, stage: &StageHandle, base: &Base) {
        let (z_um_per_s, decided) = (command.twist.linear.z * 1e6, from_time(&command.header.stamp));
        // Zeros of a commander that is done do not mean another client's move; ~/stop does. And one that a height has overtaken is over.
        let is_over = self.moves.is_busy() || decided < self.aimed_at;
        if (z_um_per_s == 0.0 && is_over) || !self.may_command(stage, base) {
            return;
        }
        self.commanded = z_um_per_s != 0.0;
        self.take_over(
            stage.velocity(z_um_per_s, decided).map(drop),
            "a velocity on cmd_vel took over",
            stage,
            base,
        );
    }

    /// Passes a height on.
    fn handle_target(&mut self, command: &StageTarget, stage: &StageHandle, base: &Base) {
        if !self.may_command(stage, base) {
            return;
        }
        self.commanded = true;
        let decided = from_time(&command.header.stamp);
        let z_um = Micrometres::from_metres(command.z) - self.outlets.zero();
        let outcome = stage.target(z_um.0, command.max_speed * 1e6, decided);
        if outcome.is_ok() {
            self.aimed_at = decided;
        }
        self.take_over(outcome, "a height on cmd_target took over", stage, base);
    }

    /// Whether a command is to be obeyed.
    fn may_command(&self, stage: &StageHandle, base: &Base) -> bool {
        if base.is_active() && self.dispute.is_some() {
            // The stop goes on to hold.
            stage.begin_stop();
        }
        base.is_active() && self.dispute.is_none()
    }

    /// A command takes over from a goal, which ends with this sentence.
    fn take_over(&mut self, outcome: Result<(), Refusal>, sentence: &str, stage: &StageHandle, base: &Base) {
        match outcome {
            Ok(()) => {
                let status = stage.status().borrow().clone();
                self.moves.end(Outcome::Preempted, sentence, &status);
            }
            // A line that repeats is counted, not repeated.
            Err(refusal) => tracing::warn!(node = base.name, "{refusal}"),
        }
    }

    fn handle_goal(&mut self, request: GoalRequest<MoveStage::Action>, stage: &StageHandle, base: &Base) {
        match self.check_able(stage, base) {
            Err(reason) => request.reject(&reason),
            Ok(()) => self.moves.take_up(request, stage, base.now()),
        }
    }

    fn handle_stop(&mut self, request: ServiceRequest<Trigger::Service>, stage: &mut Stage, now: Instant) {
        self.outlets.count_stop();
        self.commanded = false;
        self.moves.stop_all(&mut self.inlets.goals, &stage.handle, now);
        stage.waits.add_stop(request, now);
    }

    fn handle_clear(&mut self, request: ServiceRequest<Trigger::Service>, stage: &mut Stage, now: Instant) {
        stage.handle.clear_fault();
        self.commanded = false;
        match self.objection(&stage.handle) {
            // The controller may go on, but no command is obeyed.
            Some(objection) => respond(request, Err::<String, _>(objection)),
            None => stage.waits.add_clear(request, now),
        }
    }

    fn handle_home(&mut self, request: ServiceRequest<Trigger::Service>, stage: &StageHandle, base: &Base) {
        let able = self.check_able(stage, base);
        let outcome = able.and_then(|()| stage.home().map_err(|refusal| refusal.to_string()));
        let message = "homing; stage_state says when the position is valid";
        respond(request, outcome.map(|()| message.to_owned()));
    }

    fn handle_acceptance(&self, request: ServiceRequest<AcceptPosition::Service>, stage: &StageHandle) {
        let outcome = accept_position(&request.message, stage, self.outlets.zero());
        answer_acceptance(request, outcome);
    }

    /// Why nothing may move the stage.
    fn check_able(&self, stage: &StageHandle, base: &Base) -> Result<(), String> {
        if !base.is_active() {
            return Err(INACTIVE.to_owned());
        }
        self.objection(stage).map_or(Ok(()), Err)
    }

    /// Why no command is obeyed, whatever the stage says.
    fn objection(&self, stage: &StageHandle) -> Option<String> {
        self.dispute.clone().or_else(|| stage.objection())
    }

    /// Looks who commands, and publishes what the stage does.
    fn handle_report(&mut self, stage: &mut Stage, base: &mut Base) {
        let now = base.now();
        let dispute = self.commanders.dispute(&base.lifecycle, now);
        if dispute.is_some() && self.dispute.is_none() {
            self.commanded = false;
            self.moves
                .stop("more than one node commands the stage", &stage.handle, now);
        }
        self.dispute = dispute;
        let gone = self.commanders.gone(now).filter(|_| self.commanded);
        if gone.is_some() && !self.outlets.is_orphaned() {
            // Its commands expire by themselves, but how soon is a parameter.
            stage.handle.begin_stop();
        }
        self.outlets.set_orphaned(gone);
        let objection = self.objection(&stage.handle);
        let status = stage.status();
        self.silence.look(status.stamp, now);
        let status = said_of(&status, objection.as_deref(), self.silence.lasted());
        self.outlets.report(&status, base);
    }
}

impl StepperBridgeParameters {
    /// Whether the controller on this port may be driven.
    fn clearance(&self, path: &Path) -> Clearance {
        let record = match state_dir() {
            Ok(folder) => RecordStore::of_port(&folder, path).load(),
            Err(error) => {
                tracing::warn!("the record of a first motion cannot be read: {error}");
                None
            }
        };
        let range_um = (self.microscope.z_min * 1e6, self.microscope.z_max * 1e6);
        let demand = match self.first_motion {
            FirstMotion::Required => Demand::Required,
            FirstMotion::Waived => Demand::Waived,
        };
        Clearance::new(demand, record, range_um)
    }

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
        protocol::hosts(&config).context("stepper_bridge")?;
        Ok(config)
    }
}

/// Opens the port, waiting a while for one that is not there yet: nodes start in any order.
async fn open(
    path: &Path,
    parameters: &StepperBridgeParameters,
    config: &StageConfig,
    clock: Clock,
) -> Result<StageHandle> {
    let wait = Duration::try_from_secs_f64(parameters.open_timeout).context("stepper_bridge open_timeout")?;
    let baud = u32::try_from(parameters.baud_rate).context("stepper_bridge baud_rate")?;
    let deadline = clock.now() + wait;
    loop {
        // Opening is tried here first, so that a port that cannot work is an error and not a reconnection without end.
        match open_port(path, baud) {
            Ok(port) => {
                drop(port);
                let clearance = parameters.clearance(path);
                let stage = StageDriver::spawn_port(
                    path.to_owned(),
                    baud,
                    protocol::hosts(config)?,
                    position_store(path),
                    Arc::new(move || clock.now()),
                );
                stage.require(clearance);
                return Ok(stage);
            }
            Err(PortError::Missing { .. }) if clock.now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commissioning::clearance::Way;
    use crate::stage::identity::Identity;

    #[test]
    fn a_first_motion_is_required_unless_it_is_waived() {
        let identity = Identity {
            firmware: "GRBL 1.1h.20190830".to_owned(),
            ..Identity::default()
        };
        let check = |first_motion| {
            let parameters = StepperBridgeParameters {
                first_motion,
                ..StepperBridgeParameters::default()
            };
            let clearance = parameters.clearance(Path::new("/dev/a-port-that-never-was"));
            clearance.check(Some(&identity), Way::Height)
        };
        assert_eq!(
            StepperBridgeParameters::default().first_motion,
            FirstMotion::Required
        );
        let refused = check(FirstMotion::Required).unwrap_err();
        assert!(
            refused.contains("hhnet first-motion") && refused.contains("waived"),
            "{refused}"
        );
        assert_eq!(check(FirstMotion::Waived), Ok(()));
    }

    #[test]
    fn the_defaults_are_those_of_the_core() {
        let given = StepperBridgeParameters::default().stage_config().unwrap();
        let core = StageConfig::default();
        assert_eq!(
            (
                given.max_um_per_s,
                given.max_down_um_per_s,
                given.command_timeout_ms
            ),
            (core.max_um_per_s, core.max_down_um_per_s, core.command_timeout_ms)
        );
    }
}
