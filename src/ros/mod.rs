//! The only place that knows ROS: what a node needs beyond r2r.
//!
//! * [`app`]: one process. Clock, shutdown, running nodes together.
//! * [`clock`]: its time.
//! * [`node`]: one node. Handles first, then a thread of its own for `spin_once`.
//! * `arguments`: the command line, checked before ROS sees it.
//! * [`action`]: an action server that reaches every state and rests between goals, and a client of actions.
//! * [`params`]: declared parameters. Unknown and mistyped overrides are refused with a sentence.
//! * [`managed`]: the skeleton of a managed node.
//! * [`lifecycle`]: its five services and events.
//! * [`bond`]: signs of life, and who misses them.
//! * [`graph`]: who publishes what.
//! * [`presence`]: `~/state` and `~/about` for orchestrators.
//! * [`log`]: `tracing` to the console and to `/rosout`, which r2r leaves silent on Jazzy.
//! * [`diagnostics`]: `/diagnostics` at 1 Hz.
//! * [`convert`]: messages from and to the core's types.
//!
//! # A whole node
//!
//! A lamp that is lit while the node is active, with one parameter, one service and one action. It starts by itself, stops at
//! SIGINT, answers `ros2 lifecycle`, `ros2 param` and `ros2 action`, and shows in rqt.
//!
//! ```no_run
//! use anyhow::Result;
//! use futures::FutureExt as _;
//! use futures::future::BoxFuture;
//! use hhnet::parameters;
//! use hhnet::ros::action::{ActionServer, GoalRequest};
//! use hhnet::ros::app::App;
//! use hhnet::ros::diagnostics::Severity;
//! use hhnet::ros::managed::{Base, Flow, Managed};
//! use hhnet::ros::node::Builder;
//! use hhnet::ros::params::Checked;
//! use hhnet::ros::presence::Work;
//! use r2r::hhnet::action::MoveStage;
//!
//! parameters! {
//!     /// Parameters of the lamp.
//!     LampParameters in "lamp" {
//!         /// Brightness, 0 to 1.
//!         brightness: f64 [0.0..=1.0] = 0.5,
//!     }
//! }
//!
//! impl Checked for LampParameters {}
//!
//! /// Everything the lamp reacts to.
//! enum Event {
//!     Goal(GoalRequest<MoveStage::Action>),
//! }
//!
//! struct Lamp {
//!     goals: ActionServer<MoveStage::Action>,
//! }
//!
//! impl Managed for Lamp {
//!     type Device = f64;
//!     type Event = Event;
//!
//!     fn open(&mut self) -> BoxFuture<'static, Result<f64>> {
//!         async { Ok(0.5) }.boxed()
//!     }
//!
//!     fn handle_opened(&mut self, _: &mut f64, base: &mut Base) -> Result<()> {
//!         tracing::info!(node = base.name, "there is a lamp");
//!         Ok(())
//!     }
//!
//!     async fn next_event(&mut self, _: &mut f64, _is_active: bool) -> Event {
//!         match self.goals.next().await {
//!             Some(request) => Event::Goal(request),
//!             None => std::future::pending().await,
//!         }
//!     }
//!
//!     async fn handle(&mut self, event: Event, _: &mut f64, base: &mut Base) -> Result<Flow> {
//!         match event {
//!             Event::Goal(request) if !base.is_active() => request.reject("the lamp is not active"),
//!             // Rather kept, followed by feedback, and ended when it is reached or cancelled.
//!             Event::Goal(request) => request.accept().succeed(MoveStage::Result::default()),
//!         }
//!         Ok(Flow::Continue)
//!     }
//!
//!     fn handle_second(&mut self, _: &mut f64, base: &mut Base) {
//!         base.report(Severity::Ok, "lit", &[], Work::Busy("lit".into()));
//!     }
//!
//!     async fn close(&mut self, _: f64, _: &mut Base) {}
//! }
//!
//! async fn run(app: App) -> Result<()> {
//!     // Every handle is made before the node spins.
//!     let mut node = Builder::new("lamp")?;
//!     node.parameters::<LampParameters>(app.clock)?;
//!     let goals = ActionServer::new(&mut node, "move_lamp", app.clock)?;
//!     let base = Base::start(node, app, "light", "none", true)?;
//!     base.run(Lamp { goals }).await
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     hhnet::ros::app::main(&["lamp"], |process| process.add(run))
//! }
//! ```
//!
//! The parts that need no ROS to be right are tested without it (parameters, the rules of actions, the lifecycle's graph,
//! bonds, the newest-message slot, the spin guard); all of it is driven by rclpy in `tests/ros`.

pub mod action;
pub mod app;
mod arguments;
pub mod bond;
pub mod clock;
pub mod convert;
pub mod diagnostics;
pub mod graph;
mod life;
pub mod lifecycle;
pub mod log;
pub mod managed;
pub mod node;
pub mod params;
pub mod presence;
