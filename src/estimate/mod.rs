//! One frame in, one signed estimate out.
//!
//! A frame becomes [`patches`] and 18 numbers ([`features`]), the [`network`]'s answer for each patch becomes one
//! [`classifier::Estimate`] by certainty-weighted [`vote`]s, and [`temperature`] says how sure it may be. [`resample`] brings frames of
//! other cameras to the network's pixels, [`frozen`] notices those that stand still, [`following`] the patches that do not follow the lens, and [`sharpness`] measures what needs no network.

pub mod classifier;
pub mod features;
pub mod flat_field;
pub mod following;
pub mod frozen;
pub mod network;
pub mod patches;
pub mod resample;
pub mod sharpness;
pub mod temperature;
pub mod vote;
