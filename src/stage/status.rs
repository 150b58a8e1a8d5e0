//! What a stage's host tells the rest of the program, whichever protocol it speaks.

use crate::units::Instant;

/// State of the motion controller, as in `msg/StageState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageState {
    /// Link not yet established, or lost.
    Disconnected,
    /// Standing still and ready.
    Idle,
    /// At least one axis is moving.
    Moving,
    /// Motion is refused until the fault is cleared.
    Fault,
}

impl StageState {
    /// As diagnostics show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Idle => "idle",
            Self::Moving => "moving",
            Self::Fault => "fault",
        }
    }
}

/// A snapshot of the stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageStatus {
    /// When this was true.
    pub stamp: Instant,
    /// What the stage is doing.
    pub state: StageState,
    /// Why, in one sentence; empty when there is nothing to say.
    pub reason: String,
    /// x, y, z in stage coordinates, µm, z up; NaN while unknown. In motion, dead reckoning checked against reports.
    pub position_um: [f64; 3],
    /// Velocity along z that is being executed, µm/s.
    pub z_um_per_s: f64,
    /// Whether the height is vouched for: by homing, by an operator, or by an unbroken history of reports since.
    pub position_valid: bool,
    /// The same for x and y.
    pub xy_valid: bool,
    /// Whether motion was sent that has not been seen to end. False: nothing moves, whatever else is unknown.
    pub may_move: bool,
    /// Protocol and firmware version, for example `GRBL 1.1h`; empty while unknown.
    pub firmware: String,
    /// Something the operator should change, one sentence each, for example an unsuitable setting.
    pub warnings: Vec<String>,
    /// Lines from the controller that could not be understood.
    pub garbled_lines: u64,
    /// Commands refused.
    pub refused_commands: u64,
}

impl StageStatus {
    /// Height of the lens, µm; NaN while unknown.
    pub fn z_um(&self) -> f64 {
        self.position_um[2]
    }
}

/// A command the host did not pass on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A number that is not one.
    #[error("refused a command that is not finite")]
    NotFinite,
    /// A number no microscope stage can mean.
    #[error("refused a command of {value} {unit}: beyond anything a stage can do")]
    Implausible {
        /// The number.
        value: f64,
        /// Its unit.
        unit: &'static str,
    },
    /// Older than the command timeout.
    #[error("refused a command that is {age_ms} ms old: the limit is {limit_ms} ms")]
    Stale {
        /// Age on arrival, ms.
        age_ms: u128,
        /// The command timeout, ms.
        limit_ms: u128,
    },
    /// Stamped later than now.
    #[error("refused a command stamped {ahead_ms} ms in the future: set the clocks of both computers alike")]
    Future {
        /// How far ahead, ms.
        ahead_ms: u128,
    },
    /// Slower than the wire can say.
    #[error("refused a velocity of {um_per_s:e} µm/s: the slowest is {least_um_per_s} µm/s")]
    TooSlow {
        /// The velocity, µm/s.
        um_per_s: f64,
        /// The slowest one, µm/s.
        least_um_per_s: f64,
    },
    /// The stage was stopped, and the commands that were stopped go on.
    #[error("the stage was stopped: release the joystick for half a second, then command again")]
    Stopped,
    /// The height is not vouched for.
    #[error(
        "the position is not valid, so only a relative move straight up, of at most {most_um} µm, is possible: call ~/home or \
         ~/accept_position"
    )]
    Unvouched {
        /// Longest move, µm.
        most_um: f64,
    },
    /// The place on the slide is not vouched for.
    #[error("the position along x and y is not valid: call ~/home or ~/accept_position")]
    UnvouchedXy,
    /// No controller, or a fault.
    #[error("the stage cannot move: {reason}")]
    NotReady {
        /// The status sentence.
        reason: String,
    },
    /// Nothing is known of how the controller moves.
    #[error("{reason}")]
    NotCleared {
        /// Why, and what to do.
        reason: String,
    },
    /// Another motion has to end first.
    #[error("the stage is already moving: wait for it or stop it first")]
    Busy,
    /// Target outside the limits.
    #[error("refused a move to {axis} = {target_um:.1} µm: permitted are {low_um:.1} to {high_um:.1} µm")]
    OutOfRange {
        /// `x`, `y` or `z`.
        axis: char,
        /// Where it would have ended, µm.
        target_um: f64,
        /// Lower limit, µm.
        low_um: f64,
        /// Upper limit, µm.
        high_um: f64,
    },
}
