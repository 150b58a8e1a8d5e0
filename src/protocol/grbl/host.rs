//! The host of a GRBL controller, without the wire: bytes in, bytes out, time as an argument.
//!
//! GRBL has no velocity mode and no watchdog, so velocity is a stream of short relative jogs, paced by time so that at
//! most a *lookahead* of motion is ever queued: if this host dies, the stage stops by itself within that time. The
//! controller plans every queue to end in a stop, so the last target sent is also the furthest the stage can go; limits
//! are enforced on it. Rounding to the decimals of the wire never accumulates.
//!
//! Stopping: a short queue simply runs out, which leaves the stage on an exactly known target. Otherwise the jog is
//! cancelled by the recipe that survives the firmware's traps: write nothing more, wait for the outstanding
//! acknowledgements, ask for the state, cancel once and only in Jog, ask until Idle, prove with an empty line that the
//! controller still listens; if any of that fails, reset it (and the position is lost).
//!
//! Use: [`GrblHost::handle_open`] and [`GrblHost::handle_close`] with the link, [`GrblHost::handle_bytes`] with what it
//! brings, the `command_*` functions with what is wanted, and [`GrblHost::poll`] for the bytes to write, again at
//! [`GrblHost::next_wakeup`].

mod command;
mod contact;
mod firmware;
mod first_motion;
mod foreign;
mod limits;
mod motion;
mod patience;
mod reply;
mod timing;
mod trust;

use std::collections::VecDeque;
use std::time::Duration;

use super::reply::{LineSplitter, MachineState};
use crate::stage::guard::Guard;
use crate::stage::host::Host;
use crate::stage::identity::Identity;
use crate::stage::memory::Remembered;
use crate::stage::status::{Refusal, StageState, StageStatus};
use crate::units::Instant;
use firmware::Firmware;
use first_motion::{FirstMotion, Onward};
use patience::Patience;
use trust::{Mark, Position, REPORT_TOLERANCE_UM};

/// Slowest velocity that is a motion, µm/s: below it a jog of 0.1 µm takes longer than anybody waits.
const SLOWEST_UM_PER_S: f64 = 0.01;
/// Motion the controller commits before it can react to anything.
const SEGMENT_BUFFER: Duration = Duration::from_millis(50);
/// Period of `?` while waiting for standstill.
const STOP_POLL: Duration = Duration::from_millis(10);
/// Longest time from the command to stop to the beginning of the deceleration: the question whether it is a jog, the answer, the cancel, what is
/// committed, and a busy computer.
const STOP_LATENCY: Duration = Duration::from_millis(500);
/// Resets without an answer after which the link itself is doubted.
const VAIN_RESETS: u32 = 2;

/// What an unacknowledged line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Hello,
    BuildInfo,
    Settings,
    Unlock,
    Jog,
    Fence,
    Home,
    /// The mark: see `trust`.
    Mark,
    /// `$G`, which tells the mark.
    Look,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    what: Sent,
    /// Whether it is a jog that leads up.
    is_rise: bool,
    bytes: usize,
    at: Instant,
}

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// No link.
    Closed,
    /// Getting in touch: waiting for an acknowledgement and a report.
    Hello {
        since: Instant,
        next: Instant,
        acknowledged: bool,
    },
    /// A reset was sent; waiting for the welcome.
    Resetting { deadline: Instant },
    /// `$X`, `$I` or `$$` sent.
    Asking { deadline: Instant },
    /// Able to move (unless there is a fault).
    Ready,
}

/// What the stage is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manoeuvre {
    Rest,
    /// A stream of jogs.
    Velocity,
    /// What is queued runs out by itself; the state is asked for from `ask_from`, patience ends at `deadline`.
    RunOut {
        ask_from: Instant,
        deadline: Instant,
    },
    /// Stopping, step 1: outstanding acknowledgements.
    AwaitAcks {
        deadline: Instant,
    },
    /// Step 2: is it a jog?
    AwaitState {
        deadline: Instant,
    },
    /// Step 3: cancelled; until Idle.
    AwaitIdle {
        deadline: Instant,
    },
    /// Step 4: the empty line.
    AwaitFence,
    /// `$H` until acknowledged.
    Homing {
        deadline: Instant,
    },
}

/// The host.
#[derive(Clone, Debug)]
pub struct GrblHost {
    guard: Guard,
    contact: Contact,
    manoeuvre: Manoeuvre,
    splitter: LineSplitter,
    pending: VecDeque<Pending>,
    out: Vec<u8>,
    firmware: Firmware,
    position: Position,
    mark: Mark,
    /// The mark at the time when contact was lost.
    lost_mark: Option<u32>,
    /// What was written down about this controller before this process.
    memory: Option<Remembered>,
    first_motion: FirstMotion,
    /// What follows once the first motion was found right.
    onward: Option<Onward>,
    /// How far the check of the first motion has moved the lens, µm.
    checked_um: f64,
    machine: Option<MachineState>,
    /// Decimals of the last reported position.
    decimals: u8,
    /// Standing fault: why motion is refused.
    fault: Option<String>,
    /// Whether the fault is an alarm that homing ends.
    is_locked: bool,
    /// Whether something that is no GRBL 1.1 answers, known by name or by nothing that could be read.
    is_foreign: bool,
    is_unintelligible: bool,
    /// Whether this host has reset a controller that stood still.
    reset_at_rest: bool,
    /// A line that could not be read, and when.
    unread: Option<(String, Instant)>,
    reason: String,
    ever_connected: bool,
    unlock: bool,
    /// Why the controller did not unlock.
    unlock_refused: Option<String>,
    /// Velocity asked for, where it ends if a height was asked for, and when.
    wanted_um_per_s: f64,
    goal_um: Option<f64>,
    command_at: Instant,
    /// Velocity of the last jogs sent.
    streamed_um_per_s: f64,
    /// When what was sent will have been executed.
    planned_until: Instant,
    /// The target must be taken from the next report at rest.
    resync: bool,
    /// A jog was refused, or the stage was homed: until the next report at rest the lens is not where the plan has it.
    is_adrift: bool,
    axes_um: [f64; 3],
    /// When the plan was last put off for a controller that falls behind.
    paced_at: Instant,
    /// Until when the lens may run ahead of the plan, after a change from slow to fast.
    hurried_until: Instant,
    /// Height at which the motion under way began, µm.
    motion_from_um: f64,
    /// Whether motion was sent that has not been seen to end.
    may_move: bool,
    /// Looks at the mark in a row that were not answered at rest.
    unanswered_looks: u32,
    asked: Option<Instant>,
    /// Which question the newest line but for reports has answered.
    answered: Option<Sent>,
    /// Whether nothing was unacknowledged when the open request was sent.
    asked_clean: bool,
    last_asked: Instant,
    /// Until when the open request may be answered.
    answer_due: Instant,
    misses: u32,
    patience: Patience,
    mute: bool,
    /// Contact was lost and nothing has been heard since.
    silent: bool,
    /// Resets in a row that brought no answer.
    vain_resets: u32,
    garbled_lines: u64,
    clock: Instant,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Host for GrblHost {
    fn handle_open(&mut self, now: Instant) {
        Self::handle_open(self, now)
    }

    fn handle_close(&mut self, reason: &str, now: Instant) {
        Self::handle_close(self, reason, now)
    }

    fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        Self::handle_bytes(self, bytes, now)
    }

    fn poll(&mut self, now: Instant) -> Vec<u8> {
        Self::poll(self, now)
    }

    fn next_wakeup(&self) -> Option<Instant> {
        Self::next_wakeup(self)
    }

    fn state(&self) -> StageStatus {
        Self::state(self)
    }

    fn expected_z_um(&self, at: Instant) -> f64 {
        Self::expected_z_um(self, at)
    }

    fn identity(&self) -> Option<Identity> {
        (self.contact == Contact::Ready)
            .then(|| self.firmware.identity())
            .flatten()
    }

    fn stopping_um(&self, um_per_s: f64) -> f64 {
        let braking_um = um_per_s * um_per_s / (2.0 * self.firmware.um_per_s2[2].unwrap_or(f64::NAN));
        um_per_s.abs() * STOP_LATENCY.as_secs_f64()
            + braking_um
            + REPORT_TOLERANCE_UM
            + self.firmware.z_step_um()
    }

    fn is_unreachable(&self) -> bool {
        Self::is_unreachable(self)
    }

    fn is_foreign(&self) -> bool {
        self.is_foreign || self.is_unintelligible
    }

    fn is_safe(&self) -> bool {
        Self::is_safe(self)
    }

    fn set_memory(&mut self, memory: Option<Remembered>) {
        Self::set_memory(self, memory)
    }

    fn memory(&self) -> Option<Remembered> {
        Self::memory(self)
    }

    fn command_velocity(&mut self, z_um_per_s: f64, stamp: Instant, now: Instant) -> Result<f64, Refusal> {
        Self::command_velocity(self, z_um_per_s, stamp, now)
    }

    fn command_target(
        &mut self,
        z_um: f64,
        um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        Self::command_target(self, z_um, um_per_s, stamp, now)
    }

    fn command_move_relative(
        &mut self,
        by_um: [f64; 3],
        um_per_s: f64,
        now: Instant,
    ) -> Result<Duration, Refusal> {
        Self::command_move_relative(self, by_um, um_per_s, now)
    }

    fn check_reach(&self, from_um: [f64; 3], by_um: [f64; 3]) -> Result<(), Refusal> {
        self.guard.check_reach(from_um, by_um)
    }

    fn command_stop(&mut self, now: Instant) {
        Self::command_stop(self, now)
    }

    fn command_clear_fault(&mut self, now: Instant) {
        Self::command_clear_fault(self, now)
    }

    fn command_reference(&mut self, um: [Option<f64>; 3], now: Instant) -> Result<(), Refusal> {
        Self::command_reference(self, um, now)
    }

    fn command_home(&mut self, now: Instant) -> Result<(), Refusal> {
        Self::command_home(self, now)
    }

    fn awaits_memory(&self) -> bool {
        self.awaits_mark()
    }
}

impl GrblHost {
    /// A host without a link.
    pub fn new(guard: Guard) -> Self {
        Self {
            guard,
            contact: Contact::Closed,
            manoeuvre: Manoeuvre::Rest,
            splitter: LineSplitter::default(),
            pending: VecDeque::new(),
            out: Vec::new(),
            firmware: Firmware::default(),
            position: Position::unknown(),
            mark: Mark::default(),
            lost_mark: None,
            memory: None,
            first_motion: FirstMotion::default(),
            onward: None,
            checked_um: 0.0,
            machine: None,
            decimals: 0,
            fault: None,
            is_locked: false,
            is_foreign: false,
            is_unintelligible: false,
            reset_at_rest: false,
            unread: None,
            reason: "not connected yet".to_owned(),
            ever_connected: false,
            unlock: false,
            unlock_refused: None,
            wanted_um_per_s: 0.0,
            goal_um: None,
            command_at: Instant::default(),
            streamed_um_per_s: 0.0,
            planned_until: Instant::default(),
            resync: false,
            is_adrift: false,
            axes_um: [f64::NAN; 3],
            paced_at: Instant::default(),
            hurried_until: Instant::default(),
            motion_from_um: 0.0,
            may_move: false,
            unanswered_looks: 0,
            asked: None,
            answered: None,
            asked_clean: false,
            last_asked: Instant::default(),
            answer_due: Instant::default(),
            misses: 0,
            patience: Patience::default(),
            mute: false,
            silent: false,
            vain_resets: 0,
            garbled_lines: 0,
            clock: Instant::default(),
        }
    }

    /// The same with what was written down about the controller by an earlier process; it counts if the controller agrees.
    #[must_use]
    pub fn with_memory(mut self, memory: Option<Remembered>) -> Self {
        self.memory = memory;
        self
    }

    /// The same, before the first contact.
    pub fn set_memory(&mut self, memory: Option<Remembered>) {
        self.memory = memory;
    }

    /// What the stage is doing, as far as is known.
    pub fn state(&self) -> StageStatus {
        let state = match (self.contact, &self.fault, self.manoeuvre) {
            (Contact::Closed, ..) => StageState::Disconnected,
            _ if self.silent => StageState::Disconnected,
            (_, Some(_), _) => StageState::Fault,
            (Contact::Ready, None, Manoeuvre::Rest) => StageState::Idle,
            (Contact::Ready, None, _) => StageState::Moving,
            _ => StageState::Disconnected,
        };
        // On the way to its switches the controller reports nothing.
        let is_homing = matches!(self.manoeuvre, Manoeuvre::Homing { .. });
        let known = self.position.machine_um.is_some() && state != StageState::Disconnected && !is_homing;
        let z_um = if self.manoeuvre == Manoeuvre::Rest {
            self.axes_um[2]
        } else {
            self.expected_z_um(self.clock)
        };
        let told_um = [self.axes_um[0], self.axes_um[1], z_um];
        let [x_valid, y_valid, z_valid] = self.guard.valid().map(|valid| known && valid);
        let valid = [x_valid, y_valid, z_valid && !self.is_adrift];
        StageStatus {
            stamp: self.clock,
            state,
            reason: self.reason_of(state),
            position_um: std::array::from_fn(|axis| {
                match valid[axis] || (known && self.guard.is_offered() && !self.is_adrift) {
                    true => told_um[axis],
                    false => f64::NAN,
                }
            }),
            z_um_per_s: self.position.expected.um_per_s(self.clock),
            position_valid: valid[2],
            xy_valid: valid[0] && valid[1],
            // What was in touch and is not any more may do anything.
            may_move: self.may_move || (self.ever_connected && state == StageState::Disconnected),
            firmware: self.firmware.name(),
            warnings: self.firmware.warnings(),
            garbled_lines: self.garbled_lines,
            refused_commands: self.guard.refused(),
        }
    }

    fn reason_of(&self, state: StageState) -> String {
        match &self.fault {
            Some(fault) if state == StageState::Fault => fault.clone(),
            _ if self.reason.is_empty() && state == StageState::Idle => self.guard.doubt().to_owned(),
            _ => self.reason.clone(),
        }
    }

    /// Dead-reckoned height at `at`, µm in stage coordinates; meaningful while connected.
    pub fn expected_z_um(&self, at: Instant) -> f64 {
        self.position.expected.position_um(at)
    }

    /// Whether not even resets are answered: what is behind the link may be another device by now, so the link should be
    /// closed and opened anew.
    pub fn is_unreachable(&self) -> bool {
        self.vain_resets >= VAIN_RESETS
    }

    /// Whether the stage is connected and confirmed at rest.
    pub fn is_at_rest(&self) -> bool {
        self.contact == Contact::Ready && self.manoeuvre == Manoeuvre::Rest
    }

    /// Whether nothing that could move is known to be connected: at rest, disconnected or stopped by a fault.
    pub fn is_safe(&self) -> bool {
        self.contact == Contact::Closed || self.manoeuvre == Manoeuvre::Rest
    }
}
