//! The only place that knows ROS: what a node needs beyond r2r.
//!
//! * [`app`]: one process. Clock, shutdown, running nodes together.
//! * [`node`]: one node. Handles first, then a thread of its own for `spin_once`.
//! * [`action`]: an action server that reaches every state and rests between goals.
//! * [`params`]: declared parameters. Unknown and mistyped overrides are refused with a sentence.
//! * [`lifecycle`]: managed nodes, their five services and events.
//! * [`presence`]: `~/state` and `~/about` for orchestrators.
//! * [`log`]: `tracing` to the console and to `/rosout`, which r2r leaves silent on Jazzy.
//! * [`diagnostics`]: `/diagnostics` at 1 Hz.
//! * [`convert`]: messages from and to the core's types.

pub mod action;
pub mod app;
pub mod convert;
pub mod diagnostics;
pub mod lifecycle;
pub mod log;
pub mod node;
pub mod params;
pub mod presence;
