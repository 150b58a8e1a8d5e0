//! The byte protocols motion controllers speak, without the wires.
//!
//! [`grbl`] and [`grbl_reply`] are the two directions of GRBL's text protocol, [`grbl_emulator`] is a controller that
//! speaks it (its motion in [`grbl_planner`]), [`grbl_host`] is the host that drives one. [`status`] is what every host
//! tells the rest of the program.

pub mod grbl;
pub mod grbl_emulator;
pub mod grbl_host;
pub mod grbl_planner;
pub mod grbl_reply;
pub mod status;
