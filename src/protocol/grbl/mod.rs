//! GRBL 1.1. [`command`] and [`reply`] are the two directions of its text, [`host`] is what drives a controller that speaks it.

pub mod command;
pub mod host;
pub mod reply;
