//! Small pictures for people.

pub mod flat_field;
pub mod jpeg;
pub mod preview;
