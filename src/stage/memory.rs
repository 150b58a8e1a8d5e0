//! What is remembered of a motion controller from one process to the next.
//!
//! A controller counts its steps and cannot know where the lens is; the operator who homed it or accepted its position did. That
//! knowledge survives the end of a process only if nothing has happened since, and that takes three things that agree: the stage
//! stood still when it was written down, the controller still counts the same position, and it still carries the mark that was
//! left in its volatile memory, which every reset and every loss of power erases.

use serde::{Deserialize, Serialize};

/// One controller, as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Whether the stage stood still, confirmed, when this was written; false from before a motion until after it.
    pub clean: bool,
    /// The mark in the controller's volatile memory. None, of a clean record: the controller has not been driven since it was
    /// powered up where this says, as the virtual microscope writes of its own.
    pub mark: Option<u32>,
    /// What the controller counted, x, y, z, µm; means something only if clean.
    pub machine_um: [f64; 3],
    /// Stage coordinates less the controller's, µm.
    pub offset_um: [f64; 3],
    /// Whether x, y, z were vouched for.
    pub valid: [bool; 3],
}

impl Remembered {
    /// A controller that has just been powered up at `stage_um`, x, y, z, and counts from zero there.
    pub const fn powered_up_at(stage_um: [f64; 3]) -> Self {
        Self {
            clean: true,
            mark: None,
            machine_um: [0.0; 3],
            offset_um: stage_um,
            valid: [true; 3],
        }
    }

    /// Whether every number in it can be a position: finite and within 1 km.
    pub fn is_sane(&self) -> bool {
        self.machine_um
            .iter()
            .chain(&self.offset_um)
            .all(|um| um.abs() <= 1e9)
    }
}
