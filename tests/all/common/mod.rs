//! What tests of several subjects use.

pub mod sharpness;
