//! The byte protocols motion controllers speak, without the wires: a folder for each.

pub mod grbl;

use crate::stage::guard::{Guard, StageConfigError};
use crate::stage::host::{Host, StageConfig};
use grbl::host::GrblHost;

/// The host of the controller behind a port. Another protocol is another folder, and a choice here.
///
/// # Errors
/// If the settings are out of range or contradict each other.
pub fn host(stage: &StageConfig) -> Result<Box<dyn Host>, StageConfigError> {
    let guard = Guard::new(stage.clone())?;
    Ok(Box::new(GrblHost::new(guard)))
}
