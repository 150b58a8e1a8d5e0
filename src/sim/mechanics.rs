//! What lies between a stepper and the lens: play, stops, a carriage that rings, and a stand that warms up.
//!
//! The controller counts steps; where the lens is, it never learns. From motor to lens, in this order:
//!
//! * **Hard stops.** Where the carriage cannot go on, the rotor stays and the count runs away from it, as in any stepper
//!   without an encoder: the steps are lost, and the way back begins at once. (A real rotor loses whole electrical
//!   cycles; here any amount is lost.)
//! * **Backlash**, as a play operator: the carriage follows the rotor upwards at one end of the play and downwards at the
//!   other. At the start the play is taken up upwards, as after a lens was lifted from a slide; a lens is thus never
//!   lower than its count says on account of backlash.
//! * **Settling.** The carriage hangs on its drive as a damped spring: with y its departure from the drive's position d,
//!   y'' + 2ζω y' + ω² y = -d''. Within a stretch of constant acceleration this has a closed form, and where the drive's
//!   velocity jumps (segments of a controller, the end of the play, a stop) y' jumps the other way. Nothing is stepped,
//!   so the answer for a moment does not depend on what was asked before, nor on how often.
//! * **Drift** of the stand between drive and slide, a function of the time since power-up alone. It is not held by the
//!   stops.
//!
//! Switches at the ends of the travel are worked by the drive, in front of the spring: they do not chatter.
//!
//! [`Mechanics`] keeps the past as far back as [`HISTORY`] and a committed future that may be cut off, like the
//! [`Trajectory`] of the motor inside it. Lengths are µm, times s.

use std::collections::VecDeque;
use std::time::Duration;

use crate::range::{OutOfRange, within};
use crate::stage::trajectory::{HISTORY, Piece, Trajectory};
use crate::units::Instant;

/// Expansion of the stand: it moves the lens relative to the slide, upwards if positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Where warming up ends, µm; -1000 to 1000.
    pub warm_up_um: f64,
    /// Time constant of warming up, s; 1 to 1e6.
    pub warm_up_s: f64,
    /// Amplitude of a slow sine, as an air conditioner makes it, µm; 0 to 1000.
    pub swing_um: f64,
    /// Its period, s; 1 to 1e6.
    pub swing_s: f64,
}

impl Drift {
    /// A stand that keeps its length.
    pub const NONE: Self = Self {
        warm_up_um: 0.0,
        warm_up_s: 1200.0,
        swing_um: 0.0,
        swing_s: 600.0,
    };

    /// Height `seconds` after power-up, µm, and its rate, µm/s.
    fn at(&self, seconds: f64) -> (f64, f64) {
        let left = (-seconds / self.warm_up_s).exp();
        let angular = std::f64::consts::TAU / self.swing_s;
        let (sin, cos) = (angular * seconds).sin_cos();
        (
            self.warm_up_um * (1.0 - left) + self.swing_um * sin,
            self.warm_up_um * left / self.warm_up_s + self.swing_um * angular * cos,
        )
    }
}

/// The carriage's spring.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settling {
    /// Natural angular frequency ω, rad/s.
    per_s: f64,
    /// Damping ratio ζ, below 1.
    damping: f64,
}

/// The mechanics of one axis. A value of this type is always possible: the `with_…` methods refuse the others.
#[derive(Clone, Debug, PartialEq)]
pub struct MechanicsConfig {
    backlash_um: f64,
    settling: Option<Settling>,
    drift: Drift,
    stops_um: (f64, f64),
    switches_um: (f64, f64),
}

impl MechanicsConfig {
    /// The lens is where the motor is, however far that goes.
    pub const fn rigid() -> Self {
        Self {
            backlash_um: 0.0,
            settling: None,
            drift: Drift::NONE,
            stops_um: (f64::NEG_INFINITY, f64::INFINITY),
            switches_um: (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// The fine focus of a microscope, driven through a planetary gear.
    ///
    /// Backlash 2 µm: Squid clears the play of its focus drive with a detour of 5 µm, so it has less. 60 Hz at a damping
    /// ratio of 0.15: what a stop at autofocus speed (0.22 mm/s) excites, 0.6 µm, falls below 0.04 µm within the 50 ms
    /// OpenFlexure allows for settling. Drift of 3 µm over 20 minutes and ±0.2 µm in 10: chosen, not measured, as a fair
    /// warm-up of a small stand. No stops and no switches.
    pub const fn fine_focus() -> Self {
        Self {
            backlash_um: 2.0,
            settling: Some(Settling {
                per_s: 60.0 * std::f64::consts::TAU,
                damping: 0.15,
            }),
            drift: Drift {
                warm_up_um: 3.0,
                swing_um: 0.2,
                ..Drift::NONE
            },
            ..Self::rigid()
        }
    }

    /// One direction of a cross table on a lead screw: 5 µm of play, 40 Hz at a damping ratio of 0.2 for the heavier
    /// carriage, no drift: chosen, not measured. No stops and no switches.
    pub const fn cross_table() -> Self {
        Self {
            backlash_um: 5.0,
            settling: Some(Settling {
                per_s: 40.0 * std::f64::consts::TAU,
                damping: 0.2,
            }),
            ..Self::rigid()
        }
    }

    /// The same with this play, µm; 0 to 1000.
    ///
    /// # Errors
    /// A sentence naming the value and its range; so for all of these.
    pub fn with_backlash(mut self, backlash_um: f64) -> Result<Self, MechanicsError> {
        self.backlash_um = within("backlash_um", backlash_um, 0.0, 1000.0)?;
        Ok(self)
    }

    /// The same with this natural frequency, 1 to 1000 Hz, and damping ratio, 0.01 to 0.95.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn with_settling(mut self, hz: f64, damping: f64) -> Result<Self, MechanicsError> {
        self.settling = Some(Settling {
            per_s: within("settling_hz", hz, 1.0, 1000.0)? * std::f64::consts::TAU,
            damping: within("settling_damping", damping, 0.01, 0.95)?,
        });
        Ok(self)
    }

    /// The same with a carriage that follows its drive at once.
    #[must_use]
    pub const fn without_settling(mut self) -> Self {
        self.settling = None;
        self
    }

    /// The same with this drift.
    ///
    /// # Errors
    /// If one of its values is out of range.
    pub fn with_drift(mut self, drift: Drift) -> Result<Self, MechanicsError> {
        within("drift.warm_up_um", drift.warm_up_um, -1000.0, 1000.0)?;
        within("drift.warm_up_s", drift.warm_up_s, 1.0, 1e6)?;
        within("drift.swing_um", drift.swing_um, 0.0, 1000.0)?;
        within("drift.swing_s", drift.swing_s, 1.0, 1e6)?;
        self.drift = drift;
        Ok(self)
    }

    /// The same between hard stops, and with a limit switch this far in front of each; all µm. The switches leave at least
    /// twice their distance between them.
    ///
    /// # Errors
    /// If there is no room between stops or switches.
    pub fn with_stops(
        mut self,
        low_um: f64,
        high_um: f64,
        switch_margin_um: f64,
    ) -> Result<Self, MechanicsError> {
        let possible = low_um.is_finite()
            && high_um.is_finite()
            && switch_margin_um >= 0.0
            && low_um + 4.0 * switch_margin_um < high_um;
        if !possible {
            return Err(MechanicsError::Stops {
                low_um,
                high_um,
                switch_margin_um,
            });
        }
        self.stops_um = (low_um, high_um);
        self.switches_um = (low_um + switch_margin_um, high_um - switch_margin_um);
        Ok(self)
    }

    /// The play, µm.
    pub const fn backlash_um(&self) -> f64 {
        self.backlash_um
    }

    /// The hard stops, µm; infinite if there are none.
    pub const fn stops_um(&self) -> (f64, f64) {
        self.stops_um
    }

    /// Where the switches begin to be pressed, µm: at and below the first, at and above the second; infinite if there are
    /// none.
    pub const fn switches_um(&self) -> (f64, f64) {
        self.switches_um
    }
}

/// An axis cannot be built like this.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MechanicsError {
    /// A value is out of range.
    #[error("{0}; beyond that the mechanics have no model")]
    Value(#[from] OutOfRange),
    /// No room to move.
    #[error(
        "no travel between stops at {low_um} and {high_um} µm with switches {switch_margin_um} µm in front of them: \
         the first must be lower, with room for the switches"
    )]
    Stops {
        /// Lower stop, µm.
        low_um: f64,
        /// Upper stop, µm.
        high_um: f64,
        /// Distance of the switches, µm.
        switch_margin_um: f64,
    },
}

/// The lattice of positions a stepper can hold, in the motor's coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Microsteps {
    /// One of the positions, µm.
    pub origin_um: f64,
    /// Distance between them, µm; above 0.
    pub step_um: f64,
}

impl Microsteps {
    /// The nearest position of the lattice, µm.
    pub fn nearest_um(&self, um: f64) -> f64 {
        self.origin_um + ((um - self.origin_um) / self.step_um).round() * self.step_um
    }
}

/// How motion reaches the carriage during a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coupling {
    /// The motor crosses the play; the drive stands.
    Free,
    /// The drive follows the motor.
    Driven,
    /// The drive is at a stop; the motor loses steps.
    Stalled,
}

/// Which end of the play is in contact, by the direction of motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// The state of the drive behind the play.
#[derive(Clone, Copy, Debug)]
struct Drive {
    um: f64,
    um_per_s: f64,
    /// Rotor less count: what lost steps have added up to, and the play at the start.
    slip_um: f64,
    /// Drive less motor when they last moved together: where the microsteps are.
    lattice_um: f64,
    /// Whether it rests against a stop, off the microsteps.
    stalled: bool,
}

/// Departure of the carriage from its drive.
#[derive(Clone, Copy, Debug, Default)]
struct Sway {
    um: f64,
    um_per_s: f64,
}

impl Settling {
    /// The departure after `seconds` of constant acceleration of the drive.
    fn after(&self, from: Sway, seconds: f64, um_per_s2: f64) -> Sway {
        let Self { per_s, damping } = *self;
        let rest_um = -um_per_s2 / (per_s * per_s);
        let decay = damping * per_s;
        let ringing = per_s * (1.0 - damping * damping).sqrt();
        let (sin, cos) = (ringing * seconds).sin_cos();
        let shrunk = (-decay * seconds).exp();
        let z = from.um - rest_um;
        let v = from.um_per_s;
        Sway {
            um: rest_um + shrunk * (z * cos + (v + decay * z) / ringing * sin),
            um_per_s: shrunk * (v * cos - (decay * v + per_s * per_s * z) / ringing * sin),
        }
    }
}

/// A part of a motor's piece with one kind of coupling.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    piece: Piece,
    start: Instant,
    end: Instant,
    coupling: Coupling,
    direction: Direction,
    /// The drive at `start`, its velocity not counted.
    from: Drive,
    /// The carriage just after `start`.
    sway: Sway,
}

impl Stretch {
    /// The drive at `at`, not after `end`, as it moves.
    fn moving(&self, at: Instant, config: &MechanicsConfig) -> Drive {
        let motor_um = self.piece.position_um(at);
        let mut drive = self.from;
        match self.coupling {
            Coupling::Free => {}
            Coupling::Driven => {
                drive.um = motor_um + drive.lattice_um;
                drive.um_per_s = self.motor_um_per_s(at);
            }
            Coupling::Stalled => {
                drive.lattice_um = drive.um - motor_um;
                drive.slip_um = drive.lattice_um + self.direction.play_um(config);
                drive.stalled = true;
            }
        }
        drive
    }

    /// The motor's velocity at `at`, up to and including the end of its piece.
    fn motor_um_per_s(&self, at: Instant) -> f64 {
        self.piece.from_um_per_s + self.piece.um_per_s2 * at.since(self.piece.start).as_secs_f64()
    }

    /// Drive and carriage at `at`, from `start` on: in motion, then ringing out.
    fn at(&self, at: Instant, config: &MechanicsConfig) -> (Drive, Sway) {
        let until = at.min(self.end);
        let mut drive = self.moving(until, config);
        let Some(settling) = config.settling else {
            if at >= self.end {
                drive.um_per_s = 0.0;
            }
            return (drive, Sway::default());
        };
        let driven = self.coupling == Coupling::Driven;
        let um_per_s2 = if driven { self.piece.um_per_s2 } else { 0.0 };
        let seconds = until.since(self.start).as_secs_f64();
        let mut sway = settling.after(self.sway, seconds, um_per_s2);
        if at >= self.end {
            sway.um_per_s += drive.um_per_s;
            drive.um_per_s = 0.0;
            sway = settling.after(sway, at.since(self.end).as_secs_f64(), 0.0);
        }
        (drive, sway)
    }
}

impl Direction {
    /// What the play takes off the rotor's position.
    const fn play_um(self, config: &MechanicsConfig) -> f64 {
        match self {
            Self::Up => config.backlash_um,
            Self::Down => 0.0,
        }
    }
}

/// One axis from its motor to the lens. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Mechanics {
    config: MechanicsConfig,
    motor: Trajectory,
    stretches: VecDeque<Stretch>,
    /// The drive before the first stretch.
    before: Drive,
    powered: Option<Instant>,
}

impl Mechanics {
    /// At rest with motor and lens at `position_um`, or at the stop if that is beyond one.
    pub fn new(config: MechanicsConfig, position_um: f64) -> Self {
        let um = position_um.clamp(config.stops_um.0, config.stops_um.1);
        Self {
            before: Drive {
                um,
                um_per_s: 0.0,
                slip_um: config.backlash_um,
                lattice_um: 0.0,
                stalled: false,
            },
            config,
            motor: Trajectory::at_rest(um),
            stretches: VecDeque::new(),
            powered: None,
        }
    }

    /// What it is built like.
    pub const fn config(&self) -> &MechanicsConfig {
        &self.config
    }

    /// Where the motor was, is and will be by its steps, µm.
    pub const fn motor(&self) -> &Trajectory {
        &self.motor
    }

    /// Begins to warm up, unless that has begun already.
    pub fn power_up(&mut self, now: Instant) {
        self.powered.get_or_insert(now);
    }

    /// Moves the motor: see [`Trajectory::push_steady`].
    pub fn push_steady(&mut self, start: Instant, duration: Duration, to_um: f64) {
        self.motor.push_steady(start, duration, to_um);
        self.follow();
    }

    /// Moves the motor: see [`Trajectory::push_ramp`].
    pub fn push_ramp(&mut self, start: Instant, seconds: f64, um_per_s: f64, um_per_s2: f64) {
        self.motor.push_ramp(start, seconds, um_per_s, um_per_s2);
        self.follow();
    }

    /// Stops the motor at `at`, dropping what was committed after; the carriage rings out.
    pub fn truncate(&mut self, at: Instant) {
        self.motor.truncate(at);
        while self.stretches.back().is_some_and(|last| last.start >= at) {
            self.stretches.pop_back();
        }
        if let Some(last) = self.stretches.back_mut() {
            last.end = last.end.min(at);
        }
    }

    /// Drops what is more than [`HISTORY`] before `now`.
    pub fn forget(&mut self, now: Instant) {
        self.motor.forget(now);
        while self.stretches.len() > 1 && self.stretches[1].start + HISTORY < now {
            let (drive, _) = self.at(self.stretches[1].start);
            self.before = drive;
            self.stretches.pop_front();
        }
    }

    /// Where the drive was behind play and stops, before the spring, µm; this is what works the switches.
    pub fn drive_um(&self, at: Instant) -> f64 {
        self.at(at).0.um
    }

    /// Whether a limit switch is pressed.
    pub fn is_switch_pressed(&self, at: Instant) -> bool {
        let (low_um, high_um) = self.config.switches_um;
        let um = self.drive_um(at);
        um <= low_um || um >= high_um
    }

    /// Where the carriage was between its stops, µm: everything but drift. `steps` is the motor's lattice, `None` for a
    /// motor that stands anywhere.
    pub fn carriage_um(&self, at: Instant, steps: Option<Microsteps>) -> f64 {
        let (drive, sway) = self.at(at);
        let stepped = match steps {
            Some(steps) if !drive.stalled => drive.lattice_um + steps.nearest_um(drive.um - drive.lattice_um),
            _ => drive.um,
        };
        let (low_um, high_um) = self.config.stops_um;
        (stepped + sway.um).clamp(low_um, high_um)
    }

    /// How far the stand has grown by `at`, µm.
    pub fn drift_um(&self, at: Instant) -> f64 {
        self.config.drift.at(self.warm_s(at)).0
    }

    /// Where the lens was relative to the slide, µm; exact for the last [`HISTORY`], in whatever order it is asked.
    pub fn lens_um(&self, at: Instant, steps: Option<Microsteps>) -> f64 {
        self.carriage_um(at, steps) + self.drift_um(at)
    }

    /// How fast the lens moved, µm/s, microsteps not counted.
    pub fn lens_um_per_s(&self, at: Instant) -> f64 {
        let (drive, sway) = self.at(at);
        let (low_um, high_um) = self.config.stops_um;
        let um = drive.um + sway.um;
        let drift = match self.powered {
            Some(_) => self.config.drift.at(self.warm_s(at)).1,
            None => 0.0,
        };
        if um < low_um || um > high_um {
            drift
        } else {
            drive.um_per_s + sway.um_per_s + drift
        }
    }

    /// Steps lost at the stops so far, µm: positive if the count is above the carriage, beyond what play explains.
    pub fn lost_um(&self, at: Instant) -> f64 {
        self.config.backlash_um - self.at(at).0.slip_um
    }

    /// The first moment after `from` and up to `to`, between which the drive goes one way at most, at which the switches
    /// are not as they were.
    pub fn switch_change(&self, from: Instant, to: Instant) -> Option<Instant> {
        let pressed = self.is_switch_pressed(from);
        if self.is_switch_pressed(to) == pressed {
            return None;
        }
        let (mut same, mut changed) = (from.as_nanos(), to.as_nanos());
        while changed - same > 1 {
            let middle = same.midpoint(changed);
            if self.is_switch_pressed(Instant::from_nanos(middle)) == pressed {
                same = middle;
            } else {
                changed = middle;
            }
        }
        Some(Instant::from_nanos(changed))
    }

    fn warm_s(&self, at: Instant) -> f64 {
        self.powered
            .map_or(0.0, |powered| at.since(powered).as_secs_f64())
    }

    fn at(&self, at: Instant) -> (Drive, Sway) {
        self.stretches
            .iter()
            .rev()
            .find(|stretch| stretch.start <= at)
            .map_or((self.before, Sway::default()), |stretch| {
                stretch.at(at, &self.config)
            })
    }

    /// Lets the drive follow the motor's newest piece.
    fn follow(&mut self) {
        let Some(piece) = self.motor.last_piece() else {
            return;
        };
        let seconds = piece.end.since(piece.start).as_secs_f64();
        let turn = -piece.from_um_per_s / piece.um_per_s2;
        if piece.um_per_s2 != 0.0 && turn > 0.0 && turn < seconds {
            let turning = piece.start + Duration::from_secs_f64(turn);
            self.follow_one_way(piece, piece.start, turning);
            self.follow_one_way(piece, turning, piece.end);
        } else {
            self.follow_one_way(piece, piece.start, piece.end);
        }
    }

    /// The same for a part of it in which the motor does not turn: across the play, along, and against the stop.
    fn follow_one_way(&mut self, piece: Piece, start: Instant, end: Instant) {
        let (from_um, to_um) = (piece.position_um(start), piece.position_um(end));
        if start >= end || from_um == to_um {
            return;
        }
        let (drive, _) = self.at(start);
        let (direction, stop_um) = if to_um > from_um {
            (Direction::Up, self.config.stops_um.1)
        } else {
            (Direction::Down, self.config.stops_um.0)
        };
        let play_um = direction.play_um(&self.config);
        // When the motor has brought the drive to a height, within this part.
        let reached = |drive_um: f64| {
            let motor_um = drive_um + play_um - drive.slip_um;
            let (passed, never) = match direction {
                Direction::Up => (motor_um <= from_um, motor_um >= to_um),
                Direction::Down => (motor_um >= from_um, motor_um <= to_um),
            };
            match (passed, never) {
                (true, _) => start,
                (false, true) => end,
                (false, false) => time_of(&piece, motor_um, direction).clamp(start, end),
            }
        };
        let contact = reached(drive.um);
        let stop = if stop_um.is_finite() {
            reached(stop_um).max(contact)
        } else {
            end
        };
        self.couple(piece, start, contact, Coupling::Free, direction);
        self.couple(piece, contact, stop, Coupling::Driven, direction);
        self.couple(piece, stop, end, Coupling::Stalled, direction);
    }

    fn couple(
        &mut self,
        piece: Piece,
        start: Instant,
        end: Instant,
        coupling: Coupling,
        direction: Direction,
    ) {
        if start >= end {
            return;
        }
        let (mut from, mut sway) = self.at(start);
        match coupling {
            Coupling::Free => {}
            Coupling::Driven => {
                from.lattice_um = from.slip_um - direction.play_um(&self.config);
                from.stalled = false;
            }
            Coupling::Stalled => {
                from.um = match direction {
                    Direction::Up => self.config.stops_um.1,
                    Direction::Down => self.config.stops_um.0,
                }
            }
        }
        let mut stretch = Stretch {
            piece,
            start,
            end,
            coupling,
            direction,
            from,
            sway,
        };
        sway.um_per_s -= stretch.moving(start, &self.config).um_per_s;
        stretch.sway = sway;
        self.stretches.push_back(stretch);
    }
}

/// When the motor passes `motor_um`, which lies on its piece, in this direction.
fn time_of(piece: &Piece, motor_um: f64, direction: Direction) -> Instant {
    let ahead_um = motor_um - piece.from_um;
    let from = piece.from_um_per_s;
    // Rounding may put the place a little beyond where the motor turns.
    let speed = (from * from + 2.0 * piece.um_per_s2 * ahead_um).max(0.0).sqrt();
    let then = match direction {
        Direction::Up => speed,
        Direction::Down => -speed,
    };
    let seconds = if from * then < 0.0 {
        // On the way back; the quotient below would lose all figures near the start.
        (then - from) / piece.um_per_s2
    } else {
        2.0 * ahead_um / (from + then)
    };
    if seconds.is_finite() && seconds > 0.0 {
        piece.start + Duration::from_secs_f64(seconds.min(1e9))
    } else {
        piece.start
    }
}

#[cfg(test)]
mod tests;
