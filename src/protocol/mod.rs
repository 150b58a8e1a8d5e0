//! The byte protocols motion controllers speak, without the wires: a folder for each.

pub mod grbl;

use std::collections::VecDeque;

use crate::stage::guard::{Guard, StageConfigError};
use crate::stage::host::{Host, Hosts, StageConfig};
use grbl::host::GrblHost;

/// The protocols after GRBL, in the order in which a controller is asked whether it speaks them. One more is another folder, and a line here.
const OTHERS: [fn(Guard) -> Box<dyn Host>; 0] = [];

/// A host for each protocol: the driver talks by the first that understands what is behind the port.
///
/// # Errors
/// If the settings are out of range or contradict each other.
pub fn hosts(stage: &StageConfig) -> Result<Hosts, StageConfigError> {
    let guard = Guard::new(stage.clone())?;
    Ok(Hosts {
        others: VecDeque::from(OTHERS.map(|host| host(guard.clone()))),
        first: Box::new(GrblHost::new(guard)),
    })
}
