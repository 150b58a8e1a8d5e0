//! What every motion controller is to the rest: axes, the course of a motion, a status, what is remembered from one start to the next.

pub mod axis;
pub mod memory;
pub mod status;
pub mod trajectory;

pub use axis::Axis;
