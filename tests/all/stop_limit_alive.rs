//! Who may stop whom: every sequence of so many events of commanders, operator, firmware and cable, with the real host and the emulated
//! controller. Found breadth first; a state that was met before, by a sequence that is no longer, is not gone on from.
//!
//! States are the same if host and controller say the same of themselves and take the same commands. What is asserted in each, of the motor:
//!
//! * after a stop it stands, until the stop is released or a new goal is given;
//! * without a valid position it stands, but for a slow move up that was asked for, and homing;
//! * it never passes a limit;
//! * a position that is called valid is where it is, and a stage that is called idle can move, or the contrary is found out in time;
//! * what is refused has no effect;
//! * from there an operator brings the stage to obey again.

use std::collections::HashSet;
use std::time::Duration;

use hhnet::protocol::grbl::host::GrblHost;
use hhnet::protocol::grbl::reply::MachineState;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::stage::Axis;
use hhnet::stage::guard::BLIND_UM_PER_S;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::{Refusal, StageState};
use hhnet::units::Instant;

use crate::common::pair::{Around, Pair};
use crate::positions::{DETECTION, tolerance_um};

/// Events in a row.
const DEPTH: usize = 5;
/// Time that passes after each.
const AFTER: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(20);
/// Permitted heights, µm; machine zero is at the upper switch.
const RANGE_UM: (f64, f64) = (-70.0, -5.0);
/// Where the lens is at first, µm; the lower limit is reached in half a second.
const START_UM: f64 = -55.0;
/// Motor's coordinates of the switches, µm.
const SWITCH_UM: f64 = 1000.0;
/// Time to standstill: the command timeout, what is queued, braking.
const STOPS_WITHIN: Duration = Duration::from_millis(320);
/// Silence of the commander that releases a stop.
const RELEASE: Duration = Duration::from_millis(500);
const STEP_UM: f64 = 0.051;
/// Silence of a controller at rest after which contact is lost: ten questions.
const SILENCE: Duration = Duration::from_millis(1200);
/// Way beyond the upper limit, away from the slide, until jogs down that a cable lost are missed, µm.
const LOST_UM: f64 = 5.0;
/// Longest queue of motion that the host sends ahead, s.
const QUEUED_S: f64 = 0.1;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// Nothing.
    Wait,
    /// Nothing for longer than a stop holds against silence.
    WaitLong,
    /// The commander begins to say this every 20 ms.
    Say(Stream),
    /// A goal of `move_stage`, µm up.
    Goal(i8),
    Stop,
    ClearFault,
    Home,
    /// `accept_position` with where the stage is.
    Accept,
    /// The controller is switched off and on.
    Reset,
    /// The limit switch is touched.
    Touch,
    /// The cable is pulled, or put back.
    Cable(bool),
}

/// What a commander says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stream {
    Nothing,
    Down,
    Up,
    /// A height beyond the lower limit, and one in the middle.
    Beyond,
    Middle,
}

const EVENTS: [Event; 18] = [
    Event::Wait,
    Event::WaitLong,
    Event::Say(Stream::Nothing),
    Event::Say(Stream::Down),
    Event::Say(Stream::Up),
    Event::Say(Stream::Beyond),
    Event::Say(Stream::Middle),
    Event::Goal(-10),
    Event::Goal(20),
    Event::Goal(-100),
    Event::Stop,
    Event::ClearFault,
    Event::Home,
    Event::Accept,
    Event::Reset,
    Event::Touch,
    Event::Cable(false),
    Event::Cable(true),
];

/// The commander and the cable, and what the motor was seen to do.
#[derive(Clone)]
struct Watch {
    stream: Stream,
    next_tick: Instant,
    has_cable: bool,
    /// When a stop was asked for that holds, and since when nothing but a stream has asked for motion.
    stopped: Option<Instant>,
    asked: Instant,
    /// Since when the position is not valid, and whether a goal upwards or homing was taken since.
    invalid: Option<Instant>,
    may_rise: bool,
    /// Whether the lens went up without a position, which may lead beyond the upper limit.
    was_blind: bool,
    /// Whether the cable was out.
    was_cut: bool,
    /// Since when a valid position has not been where the motor is, and since when a controller that cannot move is called idle.
    untrue: Option<Instant>,
    unfit: Option<Instant>,
    wrong: Option<String>,
}

type Stage = Pair<Watch>;

impl Watch {
    fn say(&mut self, host: &mut GrblHost, now: Instant) {
        let middle_um = 0.5 * (RANGE_UM.0 + RANGE_UM.1);
        if self.stream == Stream::Nothing {
            return;
        }
        if now.since(self.asked) > RELEASE {
            self.stopped = None;
        }
        self.asked = now;
        let stream = self.stream;
        self.ask(host, |host| match stream {
            Stream::Nothing => Ok(()),
            Stream::Down => host.command_velocity(-200.0, now, now).map(drop),
            Stream::Up => host.command_velocity(50.0, now, now).map(drop),
            Stream::Beyond => host.command_target(RANGE_UM.0 - 30.0, 200.0, now, now),
            Stream::Middle => host.command_target(middle_um, 100.0, now, now),
        });
    }

    /// Whether a command is taken. One that is refused changes nothing.
    fn ask(
        &mut self,
        host: &mut GrblHost,
        command: impl FnOnce(&mut GrblHost) -> Result<(), Refusal>,
    ) -> bool {
        let before = host.state();
        let outcome = command(host);
        if let Err(refusal) = &outcome
            && (before.state, before.reason) != (host.state().state, host.state().reason)
        {
            self.wrong = Some(format!("refused, '{refusal}', and has an effect"));
        }
        outcome.is_ok()
    }

    /// A goal was asked for; one that is taken comes after a stop, and may lead up without a position.
    fn take_goal(&mut self, is_taken: bool) {
        if is_taken {
            (self.stopped, self.may_rise) = (None, true);
        }
    }

    fn judge(&mut self, host: &GrblHost, emulator: &Emulator, now: Instant) -> Result<(), String> {
        let status = host.state();
        let (z_um, um_per_s) = height(emulator, now);
        if status.position_valid {
            (self.invalid, self.may_rise) = (None, false);
        } else {
            self.invalid = self.invalid.or(Some(now));
        }
        let tolerance_um = tolerance_um(status.state) + QUEUED_S * status.z_um_per_s.abs();
        let is_true = !status.position_valid || (status.z_um() - z_um).abs() <= tolerance_um;
        self.untrue = self.untrue.or(Some(now)).filter(|_| !is_true);
        let after = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| now.since(since));
        if after(self.untrue) > DETECTION {
            return Err(format!("at {z_um} µm {} µm is valid", status.z_um()));
        }
        let is_unfit = !self.has_cable || emulator.state() == MachineState::Alarm;
        let is_told = status.state == StageState::Idle && is_unfit;
        self.unfit = self.unfit.or(Some(now)).filter(|_| is_told);
        if after(self.unfit) > SILENCE {
            return Err("called idle, and cannot move".to_owned());
        }
        let is_homing = emulator.state() == MachineState::Home;
        if z_um < RANGE_UM.0 - STEP_UM {
            return Err(format!("{z_um} µm, below the limit"));
        }
        self.was_blind |= is_homing || self.invalid.is_some() && um_per_s > 0.0;
        let ceiling_um = RANGE_UM.1 + if self.was_cut { LOST_UM } else { STEP_UM };
        if z_um > ceiling_um && !self.was_blind {
            return Err(format!("{z_um} µm, above the limit"));
        }
        if um_per_s == 0.0 || is_homing {
            return Ok(());
        }
        if after(self.stopped) > STOPS_WITHIN {
            return Err(format!("{um_per_s} µm/s, {:?} after a stop", after(self.stopped)));
        }
        let is_slow_rise = self.may_rise && um_per_s > 0.0 && um_per_s <= BLIND_UM_PER_S * 1.01;
        if after(self.invalid) > STOPS_WITHIN && !is_slow_rise {
            return Err(format!("{um_per_s} µm/s without a valid position"));
        }
        Ok(())
    }
}

impl Around for Watch {
    fn to_host(&mut self, bytes: Vec<u8>, _: Instant) -> Vec<u8> {
        if self.has_cable { bytes } else { Vec::new() }
    }

    fn to_controller(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.has_cable { bytes } else { Vec::new() }
    }

    fn act(&mut self, host: &mut GrblHost, _: &Emulator, now: Instant) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.say(host, now);
        }
    }

    fn look(&mut self, host: &GrblHost, emulator: &Emulator, now: Instant) {
        if self.wrong.is_none() {
            self.wrong = self.judge(host, emulator, now).err();
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        (self.stream != Stream::Nothing).then_some(self.next_tick)
    }
}

/// The motor's height in stage coordinates, µm, and its velocity, µm/s.
fn height(emulator: &Emulator, now: Instant) -> (f64, f64) {
    let motor = emulator.mechanics(Axis::Z).motor();
    (motor.position_um(now) - SWITCH_UM, motor.um_per_s(now))
}

/// Connected, the first motion checked, all switches on.
fn connected() -> Stage {
    let now = Instant::from_nanos(1_000_000_000);
    let stage = StageConfig {
        z_range_um: RANGE_UM,
        ..StageConfig::default()
    };
    let axis = MechanicsConfig::rigid()
        .with_stops(-3000.0, SWITCH_UM + 200.0, 200.0)
        .unwrap();
    let emulator = EmulatorConfig {
        mechanics: [axis.clone(), axis.clone(), axis],
        physical_offset_um: [SWITCH_UM - 50.0, SWITCH_UM - 50.0, SWITCH_UM + START_UM],
        ..EmulatorConfig::default()
    };
    let watch = Watch {
        stream: Stream::Nothing,
        next_tick: now,
        has_cable: true,
        stopped: None,
        asked: now,
        invalid: None,
        may_rise: false,
        was_blind: false,
        was_cut: false,
        untrue: None,
        unfit: None,
        wrong: None,
    };
    let mut stage = Pair::new(stage, emulator, START_UM, now, watch);
    stage.run_ms(1000);
    // Homing and hard limits; the way off a switch is 0.02 mm.
    stage.emulator.receive(b"$22=1\n$21=1\n$27=0.02\n", stage.now);
    stage.run_ms(200);
    stage.check_first_motion();
    assert_eq!(stage.around.wrong, None);
    assert!(
        stage.host.state().position_valid && stage.host.is_at_rest(),
        "{:?}",
        stage.host.state()
    );
    stage
}

impl Stage {
    fn happen(&mut self, event: Event) {
        let now = self.now;
        let watch = &mut self.around;
        match event {
            Event::Wait => self.run_ms(150),
            Event::WaitLong => self.run_ms(650),
            Event::Say(stream) => (watch.stream, watch.next_tick) = (stream, now),
            Event::Goal(by_um) => {
                let way_um = [0.0, 0.0, f64::from(by_um)];
                let taken = watch.ask(&mut self.host, |host| {
                    host.command_move_relative(way_um, 150.0, now).map(drop)
                });
                watch.take_goal(taken);
            }
            Event::Stop => {
                (watch.stopped, watch.asked) = (Some(now), now);
                self.host.command_stop(now);
            }
            Event::ClearFault => {
                watch.stopped = None;
                self.host.command_clear_fault(now);
            }
            Event::Home => {
                let taken = watch.ask(&mut self.host, |host| host.command_home(now));
                watch.take_goal(taken);
            }
            Event::Accept => {
                let z_um = height(&self.emulator, now).0;
                let [x_um, y_um, _] = Axis::ALL.map(|axis| self.emulator.position_um(axis, now) - SWITCH_UM);
                let um = [x_um, y_um, z_um].map(Some);
                watch.ask(&mut self.host, |host| host.command_reference(um, now));
            }
            Event::Reset => self.emulator.power_cut(now),
            Event::Touch => self.emulator.trip_limit(now),
            Event::Cable(is_in) => {
                watch.has_cable = is_in;
                watch.was_cut |= !is_in;
            }
        }
        self.run_until(self.now + AFTER);
    }

    /// What tells one state from another: what host and controller say of themselves, and what the host would do now.
    fn print(&self) -> String {
        let (status, watch, now) = (self.host.state(), &self.around, self.now);
        let whole = |um: f64| (um / 10.0).round();
        let inside = format!("{:?}", self.host);
        let words = [
            "contact: ",
            "manoeuvre: ",
            "first_motion: ",
            "is_held: ",
            "mute: ",
            "unlock: ",
            "is_locked: ",
            "silent: ",
        ]
        .map(|field| word_after(&inside, field));
        let host = &self.host;
        let takes = [
            host.clone().command_velocity(-10.0, now, now).is_ok(),
            host.clone().command_velocity(10.0, now, now).is_ok(),
            host.clone().command_target(-30.0, 10.0, now, now).is_ok(),
            host.clone()
                .command_move_relative([0.0, 0.0, -10.0], 10.0, now)
                .is_ok(),
            host.clone()
                .command_move_relative([0.0, 0.0, 20.0], 10.0, now)
                .is_ok(),
            host.clone().command_reference([Some(0.0); 3], now).is_ok(),
            host.clone().command_home(now).is_ok(),
        ];
        format!(
            "{:?} {} {} {} {} {} {words:?} {takes:?} {:?} {} {} {:?} {} {} {} {} {} {}",
            status.state,
            whole(status.z_um()),
            status.position_valid,
            status.xy_valid,
            status.may_move,
            host.is_unreachable(),
            self.emulator.state(),
            self.emulator.is_moving(now),
            whole(height(&self.emulator, now).0),
            watch.stream,
            watch.has_cable,
            watch.stopped.is_some(),
            now.since(watch.asked) > RELEASE,
            watch.may_rise,
            watch.was_blind,
            watch.was_cut,
        )
    }

    /// Does what an operator does about a stage that does not obey: the cable put back, the fault cleared, the position accepted; if that does
    /// not help, for a stage that stands on a switch, home.
    ///
    /// # Errors
    /// Why it does not obey after that.
    fn recover(mut self) -> Result<(), String> {
        self.around.has_cable = true;
        self.clear()?;
        if self.try_out().is_err() {
            self.clear()?;
            self.happen(Event::Home);
            self.run_ms(8000);
            self.clear()?;
            self.try_out()?;
        }
        self.around.wrong.map_or(Ok(()), Err)
    }

    /// Clears faults until there are none.
    fn clear(&mut self) -> Result<(), String> {
        self.around.stream = Stream::Nothing;
        let (patience, limit) = [10, 40].map(|s| self.now + Duration::from_secs(s)).into();
        loop {
            self.run_ms(700);
            // As the driver does.
            if self.host.is_unreachable() {
                self.host.handle_close("opened anew", self.now);
                self.host.handle_open(self.now);
            }
            match self.host.state().state {
                StageState::Idle => return Ok(()),
                StageState::Fault => self.happen(Event::ClearFault),
                // Homing that never began, because the cable was out: it is waited for.
                StageState::Moving if self.now > patience => self.happen(Event::Stop),
                StageState::Moving | StageState::Disconnected => {}
            }
            if self.now > limit {
                return Err(format!("still {:?}", self.host.state()));
            }
        }
    }

    /// Drives a little.
    fn try_out(&mut self) -> Result<(), String> {
        if !self.host.state().position_valid {
            self.happen(Event::Accept);
        }
        let (from_um, _) = height(&self.emulator, self.now);
        let is_low = from_um < 0.5 * (RANGE_UM.0 + RANGE_UM.1);
        self.around.stream = if is_low { Stream::Up } else { Stream::Down };
        self.run_ms(600);
        let (to_um, _) = height(&self.emulator, self.now);
        let way_um = if is_low { to_um - from_um } else { from_um - to_um };
        if way_um > 3.0 {
            Ok(())
        } else {
            Err(format!(
                "went {way_um} µm from {from_um} µm: {:?}",
                self.host.state()
            ))
        }
    }
}

/// The word that stands behind a field's name in what `Debug` prints.
fn word_after(text: &str, field: &str) -> String {
    let at = text.find(field).expect("a field of the host");
    text[at + field.len()..]
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect()
}

#[test]
fn whatever_happens_a_stop_holds_a_limit_holds_and_there_is_a_way_back() {
    let began = std::time::Instant::now();
    let start = connected();
    let mut met = HashSet::from([start.print()]);
    let mut open = vec![(start, Vec::new())];
    let mut transitions = 0_u64;
    for depth in 1..=DEPTH {
        let mut next = Vec::new();
        for (stage, path) in &open {
            for event in EVENTS {
                let mut stage = stage.clone();
                stage.happen(event);
                transitions += 1;
                let path: Vec<Event> = path.iter().copied().chain([event]).collect();
                assert_eq!(stage.around.wrong, None, "{path:?}");
                if met.insert(stage.print()) {
                    let recovered = stage.clone().recover();
                    assert_eq!(recovered, Ok(()), "no way back from {path:?}");
                    next.push((stage, path));
                }
            }
        }
        open = next;
        println!(
            "depth {depth}: {} states, {transitions} transitions, {:.1} s",
            met.len(),
            began.elapsed().as_secs_f64()
        );
    }
}

/// A cable that is out for an instant takes goals and jogs up with it, and the commander turns at once.
#[test]
fn a_way_up_that_was_lost_on_the_line_is_no_room_for_a_way_down() {
    for above_um in [2.0, 10.0, 40.0] {
        for glitch_ms in [20, 40, 60, 100, 150] {
            for up_um_per_s in [50.0, 200.0, 1000.0] {
                for is_goal in [true, false] {
                    let mut stage = connected();
                    stage
                        .move_z(RANGE_UM.0 + 1.0 + above_um - START_UM, 100.0)
                        .unwrap();
                    stage.run_to_rest(3000);
                    stage.happen(Event::Cable(false));
                    if is_goal {
                        drop(stage.move_z(60.0 - above_um, up_um_per_s));
                        stage.run_ms(glitch_ms);
                    } else {
                        stage.drive(up_um_per_s, glitch_ms);
                    }
                    stage.around.has_cable = true;
                    stage.drive(-500.0, 1000);
                    let wrong = &stage.around.wrong;
                    assert_eq!(
                        *wrong, None,
                        "{above_um} µm, {glitch_ms} ms, {up_um_per_s} µm/s, {is_goal}"
                    );
                }
            }
        }
    }
}
