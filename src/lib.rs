//! hhnet: one camera frame in, a signed distance to focus and a safe Z velocity out.
//!
//! The crate map, in reading order:
//!
//! * [`units`], [`objective`], [`classes`], [`frame`]: the vocabulary. Time, lenses, the seven distance classes, images.
//! * [`encoding`], [`resample`], [`frozen`]: images of foreign cameras, as the network knows them; cameras that stand still.
//! * [`patches`], [`features`], [`vote`], [`network`], [`classifier`]: HH-Net. A frame becomes patches and 18 numbers, the network's
//!   answer per patch becomes one [`classifier::Estimate`].
//! * [`calibration`]: how sure it may say it is.
//! * [`preview`]: small pictures of frames and of what the network said of them.
//! * [`focus`]: the control laws, from an estimate to a velocity along z.
//! * [`slide`], [`optics`], [`sensor`], [`microscope`]: the virtual microscope's picture.
//! * [`dataset`]: labelled patches of it, and of recorded z-stacks; [`table`]: tables as people write them.
//! * [`stage`], [`protocol`]: its stage, and the byte protocols real controllers speak.
//! * [`drivers`]: everything that does I/O without ROS.
//!
//! Everything outside `drivers`, `ros`, `nodes` and `bin` is free of I/O, threads, clocks and logging: time is an argument,
//! randomness is seeded.

pub mod calibration;
pub mod classes;
pub mod classifier;
pub mod dataset;
pub mod encoding;
pub mod features;
pub mod focus;
pub mod frame;
pub mod frozen;
pub mod jpeg;
pub mod microscope;
pub mod network;
pub mod objective;
pub mod optics;
pub mod patches;
pub mod preview;
pub mod protocol;
pub mod resample;
pub mod sensor;
pub mod slide;
pub mod stage;
pub mod table;
pub mod units;
pub mod vote;

pub mod drivers;

#[cfg(feature = "ros")]
pub mod nodes;
#[cfg(feature = "ros")]
pub mod ros;
