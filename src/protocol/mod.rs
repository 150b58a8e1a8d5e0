//! The byte protocols motion controllers speak, without the wires: a folder for each.

pub mod grbl;

use crate::stage::host::{Host, StageConfig};
use grbl::host::{GrblConfig, GrblConfigError, GrblHost};

/// Settings that no controller can be driven with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(#[from] GrblConfigError);

/// The host of the controller behind a port. Another protocol is another folder, and a choice here.
///
/// # Errors
/// If the settings are out of range or contradict each other.
pub fn host(stage: &StageConfig) -> Result<Box<dyn Host>, ConfigError> {
    Ok(Box::new(GrblHost::new(GrblConfig::for_stage(stage))?))
}
