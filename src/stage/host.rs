//! The seam between the rest and a motion controller: bytes in, bytes out, time as an argument.

use std::collections::VecDeque;

use crate::stage::identity::Identity;
use crate::stage::memory::Remembered;
use crate::stage::status::{Refusal, StageStatus};
use crate::units::Instant;

/// What every stage is told, whatever its protocol: limits in stage coordinates, speeds, patience.
#[derive(Clone, Debug, PartialEq)]
pub struct StageConfig {
    /// Permitted x, lowest and highest, µm.
    pub x_range_um: (f64, f64),
    /// Permitted y.
    pub y_range_um: (f64, f64),
    /// Permitted heights.
    pub z_range_um: (f64, f64),
    /// Highest speed, µm/s.
    pub max_um_per_s: f64,
    /// Highest speed towards the slide (negative z), µm/s.
    pub max_down_um_per_s: f64,
    /// Age at which a velocity command no longer holds, ms.
    pub command_timeout_ms: u64,
}

impl Default for StageConfig {
    /// A stage of ±50 mm and ±2 mm, with the speeds of a fine focus drive.
    fn default() -> Self {
        Self {
            x_range_um: (-50_000.0, 50_000.0),
            y_range_um: (-50_000.0, 50_000.0),
            z_range_um: (-2000.0, 2000.0),
            max_um_per_s: 1000.0,
            max_down_um_per_s: 500.0,
            command_timeout_ms: 200,
        }
    }
}

/// Hosts of several protocols, in the order in which a controller is asked whether it speaks theirs.
pub struct Hosts {
    /// The first that asks.
    pub first: Box<dyn Host>,
    /// Those that ask if it does not understand the answer.
    pub others: VecDeque<Box<dyn Host>>,
}

impl<H: Host + 'static> From<Box<H>> for Hosts {
    fn from(host: Box<H>) -> Self {
        Self {
            first: host,
            others: VecDeque::new(),
        }
    }
}

/// The host of a motion controller: it turns commands into bytes and bytes into a [`StageStatus`], and does neither I/O nor waiting.
///
/// Its owner reports what the link does (`handle_*`), calls [`Self::poll`] after everything that happens and at
/// [`Self::next_wakeup`], and writes what that returns. All times are of one monotonic clock. Commands are checked by its
/// [`super::guard::Guard`]: whatever is refused has no effect.
pub trait Host: Send {
    /// The link is open: get in touch.
    fn handle_open(&mut self, now: Instant);
    /// The link is gone, for the reason given as a sentence.
    fn handle_close(&mut self, reason: &str, now: Instant);
    /// What the link brought.
    fn handle_bytes(&mut self, bytes: &[u8], now: Instant);
    /// What to write now.
    fn poll(&mut self, now: Instant) -> Vec<u8>;
    /// When to poll at the latest; None if only an event can change anything.
    fn next_wakeup(&self) -> Option<Instant>;

    /// What is known of the stage.
    fn state(&self) -> StageStatus;
    /// Where the lens is expected at `at`, µm; NaN while unknown.
    fn expected_z_um(&self, at: Instant) -> f64;
    /// Which controller it is, once it is in touch and has said so; a protocol without such words never tells.
    fn identity(&self) -> Option<Identity> {
        None
    }
    /// How far the stage may still go after a stop at such a speed, µm, by what is known of the controller; NaN if nothing is.
    fn stopping_um(&self, _um_per_s: f64) -> f64 {
        f64::NAN
    }
    /// Whether nothing helps but to open the link anew.
    fn is_unreachable(&self) -> bool;
    /// Whether something answers that does not speak this host's protocol.
    fn is_foreign(&self) -> bool;
    /// Whether the link may be let go of: nothing moves, or nothing can be done about it.
    fn is_safe(&self) -> bool;

    /// What is known of the controller from before this process.
    fn set_memory(&mut self, memory: Option<Remembered>);
    /// What may be written down of the controller now, before anything more is sent; None while that is not known.
    fn memory(&self) -> Option<Remembered>;
    /// Whether the end of this process has to wait for what is to be remembered.
    fn awaits_memory(&self) -> bool;

    /// Asks for a velocity along z, µm/s, up positive, decided at `stamp`; it holds until the next one or the command timeout.
    /// Returns the velocity as it will be executed.
    ///
    /// # Errors
    /// What is refused, and why.
    fn command_velocity(&mut self, z_um_per_s: f64, stamp: Instant, now: Instant) -> Result<f64, Refusal>;
    /// Asks for a height, µm, to be driven to at most at `um_per_s`, decided at `stamp`. It is a velocity that ends there: it holds until the
    /// next command or the command timeout, is queued no farther ahead, and is held, refused and cut to the permitted speed like one.
    ///
    /// # Errors
    /// What is refused, and why.
    fn command_target(
        &mut self,
        z_um: f64,
        um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<(), Refusal>;
    /// Moves by x, y, z, µm, at `um_per_s`; the time it is planned to take.
    ///
    /// # Errors
    /// What is refused, and why.
    fn command_move_relative(
        &mut self,
        by_um: [f64; 3],
        um_per_s: f64,
        now: Instant,
    ) -> Result<std::time::Duration, Refusal>;
    /// Whether a move is within the limits, wherever it is started from.
    ///
    /// # Errors
    /// The limit that it would pass.
    fn check_reach(&self, from_um: [f64; 3], by_um: [f64; 3]) -> Result<(), Refusal>;
    /// Stops the stage as fast as is safe, and holds against the commands that it stopped.
    fn command_stop(&mut self, now: Instant);
    /// Takes up work again after a fault and releases a stop that holds.
    fn command_clear_fault(&mut self, now: Instant);
    /// Takes the caller's word for where the stage stands along the axes given, µm.
    ///
    /// # Errors
    /// If the stage does not stand.
    fn command_reference(&mut self, um: [Option<f64>; 3], now: Instant) -> Result<(), Refusal>;
    /// Begins the controller's homing cycle.
    ///
    /// # Errors
    /// If it cannot begin now.
    fn command_home(&mut self, now: Instant) -> Result<(), Refusal>;
}
