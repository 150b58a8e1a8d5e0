//! An emulated GRBL 1.1h: the controller of the virtual microscope, byte for byte and trap for trap.
//!
//! Modelled on the behaviour recorded from the real firmware: bytes arrive and leave at the speed of the line, real-time
//! bytes act in the receive interrupt while lines wait for the main loop, jogs run through a planner of 15 blocks and a
//! segment buffer of about 50 ms, and the oddities are kept (a cancel that arrives before its jog is parsed is lost; a
//! second one at the end of a cancelled jog leaves the controller deaf; a hold while idle swallows the next jog).
//!
//! Machine positions are millimetres from where the controller counts; the height of the real lens differs by an offset
//! the controller cannot know, and a power cut moves the count, not the lens. Between each motor and what it moves lie
//! [`Mechanics`]: play, stops, settling, drift, and the limit switches, of which the controller sees one pin per axis.

mod homing;
mod main_loop;
pub mod planner;
mod settings;

use std::collections::VecDeque;
use std::time::Duration;

use self::planner::{Limits, Planner, SEGMENTS_AHEAD};
use crate::protocol::grbl::command::{RX_BUFFER, RealTime};
use crate::protocol::grbl::reply::{AlarmCode, MachineState, Reply};
use crate::sim::mechanics::{Mechanics, MechanicsConfig, Microsteps};
use crate::stage::Axis;
use crate::stage::identity::VIRTUAL_BUILD;
use crate::units::Instant;

/// Bytes that may be on their way to the controller; what a host writes beyond is dropped.
const WIRE_CAPACITY: usize = 64 * 1024;
/// Time one byte takes at 115200 baud, 8N1.
const BYTE_TIME: Duration = Duration::from_nanos(86_806);
/// The pause of the firmware's alarm message.
const ALARM_PAUSE: Duration = Duration::from_millis(500);
/// From a reset to the welcome line.
const RESTART_TIME: Duration = Duration::from_millis(2);
/// `$1` value that keeps the motors energised.
const ALWAYS_ON: f64 = 255.0;

/// What is emulated.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorConfig {
    /// Steps per millimetre of x, y, z (`$100..102`).
    pub steps_per_mm: [f64; 3],
    /// Highest speed of x, y, z, mm/s (`$110..112`, there mm/min).
    pub max_mm_per_s: [f64; 3],
    /// Acceleration of x, y, z, mm/s² (`$120..122`).
    pub mm_per_s2: [f64; 3],
    /// Travel of x, y, z, mm (`$130..132`): soft limits, if on, permit machine positions from minus this to 0.
    pub travel_mm: [f64; 3],
    /// Time the motors stay energised after a motion, ms; 255 for ever (`$1`).
    pub idle_lock_ms: u8,
    /// Where the axes really are at power-up, µm; the controller believes 0. Beyond a stop means at the stop.
    pub physical_offset_um: [f64; 3],
    /// What lies between the motors of x, y, z and what they move; stops and switches are physical positions.
    pub mechanics: [MechanicsConfig; 3],
    /// Time the main loop needs for a line.
    pub parse_time: Duration,
    /// From power-up to the welcome line.
    pub boot_time: Duration,
    /// How far x, y, z really go, µm, for each µm that the controller counts: 1; -1 for a motor that was plugged in the wrong way round, 2
    /// for steps/mm that were set twice too high. Not 0. The controller knows nothing of it; `$3` turns the sign over.
    pub um_per_counted_um: [f64; 3],
    /// What `$I` says after the version: of a real controller, whatever its owner wrote there.
    pub build: String,
}

impl Default for EmulatorConfig {
    /// The virtual microscope's controller: Z microsteps of 0.05 µm, X and Y of 0.5 µm; Z 100 mm/s² and up to 5 mm/s. Its
    /// mechanics are rigid and endless, so that the lens is where the motor is.
    fn default() -> Self {
        Self {
            steps_per_mm: [2000.0, 2000.0, 20_000.0],
            max_mm_per_s: [20.0, 20.0, 5.0],
            mm_per_s2: [200.0, 200.0, 100.0],
            travel_mm: [200.0; 3],
            idle_lock_ms: 255,
            physical_offset_um: [0.0; 3],
            mechanics: [const { MechanicsConfig::rigid() }; 3],
            parse_time: Duration::from_millis(2),
            boot_time: Duration::from_millis(100),
            um_per_counted_um: [1.0; 3],
            build: VIRTUAL_BUILD.to_owned(),
        }
    }
}

/// What the main loop is doing while it cannot do anything else.
#[derive(Clone, Debug, PartialEq)]
enum Job {
    /// Parsing and executing a line.
    Execute(Vec<u8>),
    /// A motion waits for room in the planner.
    Wait([f64; 3], Option<f64>),
    /// Homing until done, or until it is known to fail.
    Homing(Result<(), AlarmCode>),
    /// About to report an alarm; then restart, or stay mute.
    Alarm(AlarmCode),
    /// Alarm reported, pausing; then mute.
    Muting,
    /// Waiting for a reset that alone helps.
    Mute,
    /// About to say welcome.
    Restart,
}

/// The `$1` pause at the end of a motion, in which nothing but interrupts runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindDown {
    No,
    /// In the step interrupt.
    First(Instant),
    /// In the main loop, only after a cancelled jog: the trap.
    Second(Instant),
}

/// Real-time requests flagged by the interrupt, waiting for the main loop.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    report: bool,
    cancel: bool,
    hold: bool,
    resume: bool,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Emulator {
    settings: Vec<(u8, f64)>,
    parse_time: Duration,
    boot_time: Duration,
    um_per_counted_um: [f64; 3],
    build: String,
    state: MachineState,
    /// In a hold that is complete: lines are not executed until resumed.
    suspended: bool,
    /// A jog is being cancelled, or a hold is decelerating.
    braking: bool,
    flags: Flags,
    wind_down: WindDown,
    job: Option<(Option<Instant>, Job)>,
    wire: VecDeque<(Instant, u8)>,
    wire_free: Instant,
    rx: VecDeque<u8>,
    line: Vec<u8>,
    line_overflow: bool,
    out: VecDeque<(Instant, u8)>,
    out_free: Instant,
    planner: Planner,
    /// The parser's position, mm, in the single precision the firmware has.
    parser_mm: [f32; 3],
    /// The parser's modal feed, mm/min.
    modal_feed: u32,
    /// End times of the committed segments.
    segments: VecDeque<Instant>,
    /// Motors and what they move, µm.
    axes: [Mechanics; 3],
    /// Position of the motors at the controller's zero, µm.
    zero_um: [f64; 3],
    /// When a limit pin will next change in the committed motion.
    pin_change: Option<Instant>,
    time: Instant,
    offset_countdown: u8,
    override_countdown: u8,
}

impl Emulator {
    /// A controller that is powered up at its first use.
    pub fn new(config: EmulatorConfig) -> Self {
        let settings = settings::settings(&config);
        let [x_um, y_um, z_um] = config.physical_offset_um;
        let [x, y, z] = config.mechanics;
        let axes = [(x, x_um), (y, y_um), (z, z_um)].map(|(axis, um)| Mechanics::new(axis, um));
        let mut emulator = Self {
            settings,
            parse_time: config.parse_time,
            boot_time: config.boot_time,
            um_per_counted_um: config.um_per_counted_um,
            build: config.build.clone(),
            state: MachineState::Idle,
            suspended: false,
            braking: false,
            flags: Flags::default(),
            wind_down: WindDown::No,
            job: None,
            wire: VecDeque::new(),
            wire_free: Instant::default(),
            rx: VecDeque::new(),
            line: Vec::new(),
            line_overflow: false,
            out: VecDeque::new(),
            out_free: Instant::default(),
            planner: Planner::default(),
            parser_mm: [0.0; 3],
            modal_feed: 0,
            segments: VecDeque::new(),
            zero_um: std::array::from_fn(|axis| axes[axis].motor().end_um()),
            axes,
            pin_change: None,
            time: Instant::default(),
            offset_countdown: 0,
            override_countdown: 0,
        };
        emulator.job = Some((Some(Instant::default() + config.boot_time), Job::Restart));
        emulator
    }

    /// Takes bytes the host wrote at `now`; they arrive one after the other at the speed of the line.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.advance(now);
        for byte in bytes {
            if self.wire.len() >= WIRE_CAPACITY {
                return;
            }
            self.wire_free = self.wire_free.max(now) + BYTE_TIME;
            self.wire.push_back((self.wire_free, *byte));
        }
    }

    /// Lets time pass until `now` and returns what the controller has sent by then.
    pub fn poll(&mut self, now: Instant) -> Vec<u8> {
        self.advance(now);
        let due = self.out.iter().take_while(|(at, _)| *at <= now).count();
        self.out.drain(..due).map(|(_, byte)| byte).collect()
    }

    /// When something next happens by itself: output due, or a change inside. `None` while nothing will.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let output = self.out.front().map(|(at, _)| *at);
        output
            .into_iter()
            .chain(self.next_event())
            .min()
            .map(|at| at.max(now))
    }

    /// Where an axis really is (or was, or is committed to be) at `at`, µm: the lens, for z, relative to the slide. With
    /// rigid mechanics this is a whole step.
    ///
    /// Exact for the last 2 s, in any order; call [`Self::poll`] first if `at` may be later than the last call.
    pub fn position_um(&self, axis: Axis, at: Instant) -> f64 {
        let index = axis.index();
        self.axes[index].lens_um(at, Some(self.steps(index)))
    }

    /// Physical velocity of an axis at `at`, µm/s.
    pub fn um_per_s(&self, axis: Axis, at: Instant) -> f64 {
        self.axes[axis.index()].lens_um_per_s(at)
    }

    /// The mechanics of an axis, which know what the controller does not.
    pub fn mechanics(&self, axis: Axis) -> &Mechanics {
        &self.axes[axis.index()]
    }

    /// Whether any motor moves at `at`.
    pub fn is_moving(&self, at: Instant) -> bool {
        self.motion_end() > at
    }

    /// When the last committed motion of a motor ends; the clock's epoch if there never was any.
    pub fn motion_end(&self) -> Instant {
        self.axes
            .iter()
            .map(|axis| axis.motor().end())
            .max()
            .unwrap_or_default()
    }

    fn steps(&self, axis: usize) -> Microsteps {
        Microsteps {
            origin_um: self.zero_um[axis],
            step_um: 1000.0 / self.limits().steps_per_mm[axis] * self.um_per_counted_um[axis].abs(),
        }
    }

    /// How far an axis goes, µm, when the count goes up by 1 µm.
    fn um_per_counted_um(&self, axis: usize) -> f64 {
        let is_turned_over = self.setting(3) as u32 >> axis & 1 == 1;
        self.um_per_counted_um[axis] * if is_turned_over { -1.0 } else { 1.0 }
    }

    /// Makes the controller count an axis that stands now as `mm`.
    fn count_from(&mut self, axis: usize, mm: f64) {
        // On the lattice of the steps, so that the rotor stays where it is.
        let steps = self.steps(axis);
        let standing_um = steps.nearest_um(self.axes[axis].motor().position_um(self.time));
        let um = mm * 1000.0 * self.um_per_counted_um(axis);
        self.zero_um[axis] = standing_um - (um / steps.step_um).round() * steps.step_um;
    }

    /// Cuts the power and restores it at once: motion, queue, position count and everything sent but not yet acted on are
    /// gone. The axes stay where they are, play and lost steps included; the settings are in EEPROM; the stand stays warm.
    pub fn power_cut(&mut self, now: Instant) {
        self.advance(now);
        self.halt(now);
        for axis in 0..3 {
            self.count_from(axis, 0.0);
        }
        self.forget();
        self.wire.clear();
        self.wire_free = now;
        self.out.clear();
        self.out_free = now;
        self.override_countdown = 0;
        self.planner = Planner::default();
        self.parser_mm = [0.0; 3];
        let homing = self.setting(22) != 0.0;
        self.state = if homing {
            MachineState::Alarm
        } else {
            MachineState::Idle
        };
        self.job = Some((Some(now + self.boot_time), Job::Restart));
    }

    /// Presses a limit switch by hand: with hard limits on (`$21=1`), an instant stop and ALARM:1.
    pub fn trip_limit(&mut self, now: Instant) {
        self.advance(now);
        self.handle_pin_change(now);
    }

    /// The pin change interrupt. As in the firmware (`limits.c`), a switch that lets go alarms too.
    fn handle_pin_change(&mut self, now: Instant) {
        let homing = self.state == MachineState::Home;
        if self.setting(21) != 0.0 && self.state != MachineState::Alarm && !homing {
            self.halt(now);
            self.alarm(AlarmCode::HARD_LIMIT, now);
        }
    }

    /// Whether the controller sees an axis' limit switch as pressed (`$5` inverts).
    fn is_limit_active(&self, axis: usize, at: Instant) -> bool {
        self.axes[axis].is_switch_pressed(at) != (self.setting(5) != 0.0)
    }

    /// State as a status report would give it.
    pub fn state(&self) -> MachineState {
        self.state
    }

    fn setting(&self, number: u8) -> f64 {
        self.settings
            .iter()
            .find(|(n, _)| *n == number)
            .map_or(0.0, |(_, value)| *value)
    }

    fn limits(&self) -> Limits {
        let three = |first: u8| [first, first + 1, first + 2].map(|number| self.setting(number));
        Limits {
            steps_per_mm: three(100),
            mm_per_s: three(110).map(|per_minute| per_minute / 60.0),
            mm_per_s2: three(120),
            junction_mm: self.setting(11),
        }
    }

    fn idle_lock(&self) -> Duration {
        Duration::from_millis(self.setting(1) as u64)
    }

    /// Machine position at `at`, mm.
    fn machine_mm(&self, at: Instant) -> [f64; 3] {
        std::array::from_fn(|axis| {
            let motor_um = self.axes[axis].motor().position_um(at);
            let um = self.steps(axis).nearest_um(motor_um) - self.zero_um[axis];
            um / self.um_per_counted_um(axis) / 1000.0
        })
    }

    /// Sends a line.
    fn say(&mut self, reply: &Reply) {
        for byte in reply.emit().bytes().chain(*b"\r\n") {
            self.out_free = self.out_free.max(self.time) + BYTE_TIME;
            self.out.push_back((self.out_free, byte));
        }
    }

    fn say_message(&mut self, text: &str) {
        self.say(&Reply::Message {
            tag: "MSG".to_owned(),
            text: text.to_owned(),
        });
    }
}

/// The passing of time.
impl Emulator {
    fn next_event(&self) -> Option<Instant> {
        let wire = self.wire.front().map(|(at, _)| *at);
        let motion = self.segments.front().copied();
        let main = match (self.wind_down, &self.job) {
            (WindDown::First(end) | WindDown::Second(end), _) => Some(end),
            (WindDown::No, Some((end, _))) => *end,
            (WindDown::No, None) => None,
        };
        wire.into_iter()
            .chain(motion)
            .chain(main)
            .chain(self.pin_change)
            .min()
    }

    fn advance(&mut self, now: Instant) {
        for axis in &mut self.axes {
            axis.power_up(now);
        }
        while let Some(at) = self.next_event().filter(|at| *at <= now) {
            self.time = self.time.max(at);
            if self.pin_change.is_some_and(|change| change <= at) {
                self.pin_change = None;
                self.handle_pin_change(at);
                continue;
            }
            let segment_done = self.segments.front().is_some_and(|end| *end <= at);
            if segment_done {
                self.segments.pop_front();
                self.cut_segments();
                if self.segments.is_empty() {
                    self.handle_motion_end();
                }
            } else if let Some((_, byte)) = self.due_byte(at) {
                self.handle_byte(byte);
            } else {
                self.handle_main_timer();
            }
            self.run_main_loop();
        }
        self.time = self.time.max(now);
    }

    fn due_byte(&mut self, at: Instant) -> Option<(Instant, u8)> {
        if self.wire.front()?.0 <= at {
            self.wire.pop_front()
        } else {
            None
        }
    }

    /// The receive interrupt.
    fn handle_byte(&mut self, byte: u8) {
        match RealTime::from_byte(byte) {
            Some(RealTime::Status) => self.flags.report = true,
            Some(RealTime::FeedHold) => self.flags.hold = true,
            Some(RealTime::Resume) => self.flags.resume = true,
            Some(RealTime::Reset) => self.handle_reset(),
            Some(RealTime::JogCancel) => self.flags.cancel |= self.state == MachineState::Jog,
            Some(RealTime::Other) => {}
            None if self.rx.len() < RX_BUFFER => self.rx.push_back(byte),
            None => {}
        }
    }

    fn handle_reset(&mut self) {
        let now = self.time;
        if matches!(self.job, Some((_, Job::Restart))) {
            return;
        }
        let homing = matches!(self.job, Some((_, Job::Homing(_))));
        let moving = !self.segments.is_empty() || matches!(self.state, MachineState::Jog | MachineState::Run);
        self.halt(now);
        self.forget();
        if moving || homing {
            let code = if homing {
                AlarmCode(6)
            } else {
                AlarmCode::RESET_IN_MOTION
            };
            self.state = MachineState::Alarm;
            self.job = Some((Some(now + self.idle_lock() + RESTART_TIME), Job::Alarm(code)));
        } else {
            if self.state != MachineState::Alarm {
                self.state = MachineState::Idle;
            }
            self.job = Some((Some(now + RESTART_TIME), Job::Restart));
        }
    }

    /// Stops pulsing at once, where the axes are.
    fn halt(&mut self, now: Instant) {
        for axis in &mut self.axes {
            axis.truncate(now);
        }
        self.pin_change = None;
        self.segments.clear();
        self.sync_planner();
    }

    /// Everything the restart clears.
    fn forget(&mut self) {
        self.rx.clear();
        self.line.clear();
        self.line_overflow = false;
        self.suspended = false;
        self.braking = false;
        self.flags = Flags::default();
        self.wind_down = WindDown::No;
        self.job = None;
        self.modal_feed = 0;
        self.offset_countdown = 0;
    }

    /// Empties the planner and makes it and the parser believe in the present position.
    fn sync_planner(&mut self) {
        let limits = self.limits();
        let mm = self.machine_mm(self.time);
        let mut steps = [0; 3];
        for axis in 0..3 {
            steps[axis] = (mm[axis] * limits.steps_per_mm[axis]).round() as i64;
        }
        self.planner = Planner::at(steps, &limits);
        self.parser_mm = mm.map(|mm| mm as f32);
    }

    fn alarm(&mut self, code: AlarmCode, now: Instant) {
        self.forget();
        self.state = MachineState::Alarm;
        self.job = Some((Some(now + self.idle_lock()), Job::Alarm(code)));
    }

    /// Commits motion up to the segment buffer's capacity.
    fn cut_segments(&mut self) {
        let frozen = self.wind_down != WindDown::No || self.suspended;
        let limits = self.limits();
        while !frozen && self.segments.len() < SEGMENTS_AHEAD {
            let cut = if self.braking {
                self.planner.cut_braking(&limits)
            } else {
                self.planner.cut(&limits)
            };
            let Some(segment) = cut else { return };
            let start = self.segments.back().copied().unwrap_or(self.time);
            let duration = Duration::from_secs_f64(segment.seconds);
            for axis in 0..3 {
                let um = segment.to_mm[axis] * 1000.0 * self.um_per_counted_um(axis);
                let to_um = self.zero_um[axis] + um;
                self.axes[axis].forget(self.time);
                self.axes[axis].push_steady(start, duration, to_um);
            }
            self.segments.push_back(start + duration);
            self.watch_limits(start, start + duration);
        }
    }

    /// Notes the first change of a limit pin in a segment just committed.
    fn watch_limits(&mut self, start: Instant, end: Instant) {
        let change = self
            .axes
            .iter()
            .filter_map(|axis| axis.switch_change(start, end))
            .min();
        self.pin_change = self.pin_change.or(change);
    }

    /// The step interrupt found nothing more to do.
    fn handle_motion_end(&mut self) {
        if self.state == MachineState::Home || matches!(self.job, Some((_, Job::Homing(_)))) {
            return;
        }
        if self.setting(1) == ALWAYS_ON {
            self.finish_cycle();
        } else {
            self.wind_down = WindDown::First(self.time + self.idle_lock());
        }
    }

    /// The main loop sees that motion has ended.
    fn finish_cycle(&mut self) {
        self.wind_down = WindDown::No;
        // A cancel flagged in the pause is harmless here: the state still is Jog.
        self.flags.cancel = false;
        if self.state == MachineState::Hold(1) {
            self.state = MachineState::Hold(0);
            self.braking = false;
            self.suspended = true;
            return;
        }
        if self.braking && self.state == MachineState::Jog {
            self.sync_planner();
            if self.setting(1) != ALWAYS_ON {
                self.wind_down = WindDown::Second(self.time + self.idle_lock());
                return;
            }
        }
        self.finish_motion();
    }

    fn finish_motion(&mut self) {
        self.wind_down = WindDown::No;
        self.braking = false;
        self.state = MachineState::Idle;
    }

    fn handle_main_timer(&mut self) {
        match self.wind_down {
            WindDown::First(_) => return self.finish_cycle(),
            WindDown::Second(_) => return self.finish_motion(),
            WindDown::No => {}
        }
        match self.job.take() {
            Some((_, Job::Execute(line))) => self.execute(&line),
            Some((_, Job::Alarm(code))) => {
                self.say(&Reply::Alarm(code));
                let next = if code.is_mute() { Job::Muting } else { Job::Restart };
                self.job = Some((Some(self.time + ALARM_PAUSE), next));
            }
            Some((_, Job::Muting)) => {
                self.say_message("Reset to continue");
                self.job = Some((None, Job::Mute));
            }
            Some((_, Job::Restart)) => self.restart(),
            Some((_, Job::Homing(outcome))) => self.finish_homing(outcome),
            other => self.job = other,
        }
    }

    fn restart(&mut self) {
        self.forget();
        self.say(&Reply::Welcome("Grbl 1.1h".to_owned()));
        let pressed = (0..3).any(|axis| self.is_limit_active(axis, self.time));
        if self.setting(21) != 0.0 && pressed {
            // CHECK_LIMITS_AT_INIT: a switch that is pressed from the start.
            self.say_message("Check Limits");
            self.state = MachineState::Alarm;
        }
        if self.state == MachineState::Alarm {
            self.say_message("'$H'|'$X' to unlock");
        }
    }
}
