//! The first motion of a stand: what nobody knows of it before it has moved, found out with the least that can go wrong.
//!
//! Which way a motor turns, how far a count leads and whether a stop stops stand in no setting that can be trusted. So before a controller
//! is driven for the first time, `hhnet first-motion` asks and tries: [`questions`] are what only a person knows, [`plan`] how far may be gone,
//! [`course`] the order of what is asked, commanded and expected, [`sight`] what pictures say of it, [`record`] what was found, and
//! [`clearance`] whether a controller may be driven because of it.
//!
//! Not to be confused with the check that a host makes of the first motion after each start (`protocol::grbl::host`): that one compares the
//! controller with itself, and cannot know what a count is worth.

pub mod clearance;
pub mod course;
pub mod plan;
pub mod questions;
pub mod record;
pub mod sight;
