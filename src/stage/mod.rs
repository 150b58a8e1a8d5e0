//! What every motion controller is to the rest: the [`host::Host`] that drives one, the [`guard::Guard`] of limits, stops and positions,
//! axes, the course of a motion, a status, the [`heights::Heights`] reported lately, which controller it is, what is remembered from one start
//! to the next.

pub mod axis;
pub mod guard;
pub mod heights;
pub mod host;
pub mod identity;
pub mod memory;
pub mod status;
pub mod trajectory;

pub use axis::Axis;
