//! The virtual microscope: a [`slide`], the [`optics`] that image it, the [`sensor`] that records it, all in [`microscope`]; the
//! [`mechanics`] between motor and lens, and [`grbl`], the motion controller in front of them; [`pair`] is that and its host in virtual time.

pub mod grbl;
pub mod mechanics;
pub mod microscope;
pub mod optics;
pub mod pair;
pub mod sensor;
pub mod slide;
