//! Small pictures for people.

pub mod jpeg;
pub mod preview;
