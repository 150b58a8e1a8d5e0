//! Everything that does I/O without ROS.

#[cfg(feature = "camera")]
pub mod calibration_file;
#[cfg(all(feature = "camera", feature = "serial"))]
pub mod camera;
#[cfg(feature = "serial")]
pub mod emulated_port;
#[cfg(feature = "camera")]
pub mod flat_field_file;
#[cfg(feature = "camera")]
pub mod image_files;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "serial")]
pub mod position_store;
#[cfg(feature = "serial")]
pub mod record_store;
#[cfg(feature = "serial")]
pub mod runtime_dir;
#[cfg(feature = "serial")]
pub mod serial;
pub mod whole_file;

/// Where drivers read the time; monotonic.
#[cfg(feature = "serial")]
pub type TimeSource = std::sync::Arc<dyn Fn() -> crate::units::Instant + Send + Sync>;
