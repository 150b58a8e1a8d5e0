//! What is measured of an instrument so that it works better: where to look, and how far a picture moved.

pub mod places;
pub mod shift;
