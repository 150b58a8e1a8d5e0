//! hhnet: one camera frame in, a signed distance to focus and a safe Z velocity out.
//!
//! The crate map, in reading order:
//!
//! * [`units`], [`objective`], [`classes`], [`frame`], [`range`], [`statistics`]: the vocabulary. Time, lenses, the seven distance
//!   classes, images, the ranges of settings, medians.
//! * [`encoding`]: images of foreign cameras.
//! * [`estimate`]: HH-Net. One frame, one signed estimate. [`evaluation`]: what its estimates are worth.
//! * [`focus`]: the control laws, from an estimate to a motion along z. [`calibration`]: what is measured of the instrument.
//! * [`stage`], [`protocol`]: what every motion controller is to the rest, and the byte protocols they speak.
//! * [`commissioning`]: the first motion of a stand, and whether a controller may be driven because of it.
//! * [`sim`]: the virtual microscope, its stage and the firmware it emulates.
//! * [`dataset`]: labelled patches of it, and of recorded z-stacks; [`table`]: tables as people write them.
//! * [`pictures`]: small pictures of frames and of what the network said of them.
//! * [`drivers`]: everything that does I/O without ROS.
//!
//! Everything outside `drivers`, `ros`, `nodes` and `bin` is free of I/O, threads, clocks and logging: time is an argument,
//! randomness is seeded.

pub mod calibration;
pub mod classes;
pub mod commissioning;
pub mod dataset;
pub mod encoding;
pub mod estimate;
pub mod evaluation;
pub mod focus;
pub mod frame;
pub mod objective;
pub mod pictures;
pub mod protocol;
mod random;
pub mod range;
pub mod scan;
pub mod sim;
pub mod stage;
pub mod statistics;
pub mod table;
pub mod units;

pub mod drivers;

#[cfg(feature = "ros")]
pub mod nodes;
#[cfg(feature = "ros")]
pub mod ros;
