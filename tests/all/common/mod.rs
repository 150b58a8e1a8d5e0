//! What tests of several subjects use.

pub mod dirt;
pub mod faults;
#[cfg(feature = "onnx")]
pub mod onnx_runtime;
pub mod pair;
pub mod sharpness;
