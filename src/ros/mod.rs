//! The only place that knows ROS: what a node needs beyond r2r.
//!
//! * [`app`]: one process. Clock, shutdown, running nodes together.
//! * [`clock`]: its time.
//! * [`node`]: one node. Handles first, then a thread of its own for `spin_once`.
//! * `arguments`: the command line, checked before ROS sees it.
//! * [`action`]: an action server that reaches every state and rests between goals.
//! * [`params`]: declared parameters. Unknown and mistyped overrides are refused with a sentence.
//! * [`lifecycle`]: managed nodes, their five services and events.
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
//! use hhnet::parameters;
//! use hhnet::ros::action::ActionServer;
//! use hhnet::ros::app::App;
//! use hhnet::ros::diagnostics::{Diagnostics, Severity};
//! use hhnet::ros::lifecycle::Lifecycle;
//! use hhnet::ros::node::{Builder, newest_reliable};
//! use hhnet::ros::params::Checked;
//! use r2r::geometry_msgs::msg::TwistStamped;
//! use r2r::hhnet::action::MoveStage;
//!
//! parameters! {
//!     /// Parameters of the lamp.
//!     LampParameters in "lamp" {
//!         /// Brightness, 0 to 1.
//!         brightness: f64 [0.0..=1.0, live] = 0.5,
//!     }
//! }
//!
//! impl Checked for LampParameters {}
//!
//! async fn run(app: App) -> Result<()> {
//!     // Every handle is made before the node spins.
//!     let mut node = Builder::new("lamp")?;
//!     let parameters = node.parameters::<LampParameters>(app.clock)?;
//!     let mut commands = node.subscribe::<TwistStamped>("cmd_vel", newest_reliable())?;
//!     let mut goals = ActionServer::<MoveStage::Action>::new(&mut node, "move_lamp", app.clock)?;
//!     let mut diagnostics = Diagnostics::new(&mut node, "light", "none")?;
//!     let mut lifecycle = Lifecycle::new(&mut node, &app, true)?;
//!     let spinning = node.spin()?;
//!
//!     // Holds nothing until it is configured, and again once it has let go.
//!     while let Some(wish) = lifecycle.configure(&app, &mut diagnostics).await {
//!         let Some(_lamp) = wish.settle(Ok("whatever the node holds"))? else { continue };
//!         let mut is_active = false;
//!         let leaving = loop {
//!             tokio::select! {
//!                 () = app.stopped() => break None,
//!                 wish = lifecycle.next() => {
//!                     if let Some(wish) = wish.switch(&mut is_active) {
//!                         break Some(wish);
//!                     }
//!                 }
//!                 Some(_newest) = commands.next() => {
//!                     let message = format!("brightness {}", parameters.borrow().brightness);
//!                     diagnostics.publish(app.clock.now(), Severity::Ok, &message, &[]);
//!                 }
//!                 Some(request) = goals.next() => {
//!                     if is_active {
//!                         // Rather kept, followed by feedback, and ended when it is reached or cancelled.
//!                         request.accept().succeed(MoveStage::Result::default());
//!                     } else {
//!                         request.reject("the lamp is not active");
//!                     }
//!                 }
//!             }
//!         };
//!         if let Some(wish) = leaving {
//!             wish.done();
//!         }
//!     }
//!     drop(spinning);
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     hhnet::ros::app::main(|process| process.add(run))
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
pub mod node;
pub mod params;
pub mod presence;
