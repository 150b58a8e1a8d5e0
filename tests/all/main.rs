//! The Rust integration tests, one program: what they need is linked once. A module is a subject; `cargo test --test all serial::`
//! runs that of the serial port.
#![allow(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

mod common;

#[cfg(all(feature = "camera", feature = "onnx"))]
mod calibrate;
mod camera;
#[cfg(feature = "onnx")]
mod dirty_frames;
mod first_motion;
#[cfg(all(feature = "camera", feature = "serial"))]
mod first_motion_cli;
mod flat_field;
mod focus_curves;
mod focus_loop;
mod focus_safety;
#[cfg(all(feature = "camera", feature = "onnx"))]
mod fuzzed;
mod grbl_emulator;
mod grbl_stage;
mod live;
mod microscope;
#[cfg(feature = "onnx")]
mod onnx;
mod optics_physics;
mod optics_reference;
mod positions;
mod rendered_loop;
#[cfg(feature = "camera")]
mod scan;
#[cfg(feature = "serial")]
mod second_protocol;
#[cfg(feature = "serial")]
mod serial;
#[cfg(feature = "serial")]
mod serial_faults;
mod stop_limit_alive;
mod targets;
mod tidy;
mod troubleshooting;
#[cfg(feature = "onnx")]
mod untrusted;
#[cfg(feature = "camera")]
mod virtual_microscope_cli;
