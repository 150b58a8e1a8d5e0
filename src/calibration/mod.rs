//! What is measured of an instrument so that it works better: where to look, what a few frames tell of it, and the card that says so.
//!
//! * [`places`], [`heights`]: where the stage goes.
//! * [`pass`]: once through focus, frame by frame; [`focus_height`]: where focus lies by sharpness alone; [`response`]: what the network states of
//!   heights that the stage knows; [`backlash`]: passes from above and from below.
//! * [`latency`]: by how much the stamps of frames are late, by frames of a moving lens.
//! * [`shift`]: how far a picture moved; [`pixel_size`]: moved pictures and a moved stage make a pixel.
//! * [`card`]: what was measured, what it is worth, and what to do about it; [`report`] fills it in.

pub mod backlash;
pub mod card;
pub mod focus_height;
pub mod heights;
pub mod latency;
pub mod pass;
pub mod pixel_size;
pub mod places;
pub mod report;
pub mod response;
pub mod shift;
