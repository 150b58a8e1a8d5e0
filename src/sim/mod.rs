//! The virtual microscope: a [`slide`], the [`optics`] that image it, the [`sensor`] that records it, all in [`microscope`]; the
//! [`mechanics`] between motor and lens, and [`grbl`], the motion controller in front of them.

pub mod grbl;
pub mod mechanics;
pub mod microscope;
pub mod optics;
pub mod sensor;
pub mod slide;
