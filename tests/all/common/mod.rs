//! What tests of several subjects use.

pub mod faults;
pub mod sharpness;
