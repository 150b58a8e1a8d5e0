//! Scanning a slide: where to look, in which order, and at which height focus is to be expected there. Without I/O, clocks or ROS.

pub mod plan;
pub mod region;
pub mod surface;
