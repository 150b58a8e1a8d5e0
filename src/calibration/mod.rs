//! What is measured of an instrument so that it works better: here, where to look.

pub mod places;
