//! A position is a promise: whatever happens to the controller, no position that is wrong is called valid for longer than it
//! takes to find out, and the lens never gets below its limit. Virtual time; 100 random phases each, from a printed seed.

use std::time::Duration;

use crate::common::faults::{FOREVER, Fault, Line, Plan};
use crate::common::pair::{Around, Pair};
use hhnet::protocol::grbl::command::{self, Command, Distance};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::stage::Axis;
use hhnet::stage::guard::Guard;
use hhnet::stage::host::StageConfig;
use hhnet::stage::memory::Remembered;
use hhnet::stage::status::StageState;
use hhnet::units::Instant;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

const PHASES: u64 = 100;
const Z_MIN_UM: f64 = -100.0;
const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// Longest time in which a wrong position may still be called valid: two looks at the mark.
pub const DETECTION: Duration = Duration::from_millis(450);

/// Most that a valid position may be off, µm. In motion the plan runs ahead of the lens by what is under way.
pub fn tolerance_um(state: StageState) -> f64 {
    if state == StageState::Moving { 6.0 } else { 1.0 }
}

/// What happens to lines on their way to the host.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Welcome {
    Heard,
    Garbled,
    Lost,
}

/// A cable that does what it likes, and what is promised of the position meanwhile.
struct Cable {
    /// Factor on every jog along z.
    scale: f64,
    welcome: Welcome,
    to_controller: Vec<u8>,
    from_controller: Vec<u8>,
    /// The way of lines to the host.
    line: Line,
    /// What a store would hold.
    record: Option<Remembered>,
    lowest_um: f64,
    /// Since when a valid position has been wrong.
    wrong_since: Option<Instant>,
    longest_wrong: Duration,
}

type World = Pair<Cable>;

fn config() -> StageConfig {
    StageConfig {
        z_range_um: (Z_MIN_UM, 300.0),
        ..StageConfig::default()
    }
}

/// A stage that stands at `z_um` and whose controller counts from there.
fn at(z_um: f64, boot: Duration) -> World {
    configured(z_um, boot, config())
}

fn configured(z_um: f64, boot: Duration, config: StageConfig) -> World {
    let emulator = EmulatorConfig {
        physical_offset_um: [0.0, 0.0, z_um],
        boot_time: boot,
        ..EmulatorConfig::default()
    };
    let cable = Cable {
        scale: 1.0,
        welcome: Welcome::Heard,
        to_controller: Vec::new(),
        from_controller: Vec::new(),
        line: Line::new(Plan::default()),
        record: Some(Remembered::powered_up_at([0.0, 0.0, z_um])),
        lowest_um: f64::INFINITY,
        wrong_since: None,
        longest_wrong: Duration::ZERO,
    };
    let mut world = World::new(config, emulator, z_um, START, cable);
    world.run_ms(1000);
    world
}

impl Around for Cable {
    /// Whole lines reach the host.
    fn to_host(&mut self, bytes: Vec<u8>, now: Instant) -> Vec<u8> {
        self.collect(bytes, now);
        std::iter::from_fn(|| self.line.receive(now)).flatten().collect()
    }

    /// Whole lines reach the controller, and real-time commands at once; jogs as it is wired.
    fn to_controller(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let mut arrived = Vec::new();
        for byte in bytes {
            let is_real_time = matches!(byte, b'?' | b'!' | b'~' | 0x18) || byte >= 0x80;
            if is_real_time {
                arrived.push(byte);
                continue;
            }
            self.to_controller.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.to_controller);
                arrived.extend(self.twisted(&line));
            }
        }
        arrived
    }

    fn look(&mut self, host: &GrblHost, emulator: &Emulator, now: Instant) {
        self.record = host.memory().or(self.record);
        let (status, z_um) = (host.state(), emulator.position_um(Axis::Z, now));
        self.lowest_um = self.lowest_um.min(z_um);
        let is_wrong = status.position_valid && (status.z_um() - z_um).abs() > tolerance_um(status.state);
        match (is_wrong, self.wrong_since) {
            (true, None) => self.wrong_since = Some(now),
            (true, Some(since)) => self.longest_wrong = self.longest_wrong.max(now.since(since)),
            (false, _) => self.wrong_since = None,
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.line.next_wakeup()
    }
}

impl Cable {
    fn twisted(&self, line: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(line);
        match Command::parse(text.trim_end()) {
            Ok(Command::Jog(command::Line {
                mode,
                axes: [x, y, Some(z)],
                feed,
            })) => {
                let z = Distance::from_um(z.um() * self.scale);
                Command::Jog(command::Line {
                    mode,
                    axes: [x, y, z],
                    feed,
                })
                .emit()
                .into_bytes()
            }
            _ => line.to_vec(),
        }
    }

    /// Whole lines come out of the controller, the welcome as the cable lets it.
    fn collect(&mut self, bytes: Vec<u8>, now: Instant) {
        for byte in bytes {
            self.from_controller.push(byte);
            if byte != b'\n' {
                continue;
            }
            let mut line = std::mem::take(&mut self.from_controller);
            if line.starts_with(b"Grbl") {
                match self.welcome {
                    Welcome::Heard => {}
                    Welcome::Garbled => line[..3].copy_from_slice(&[0xff, 0x00, b'#']),
                    Welcome::Lost => continue,
                }
            }
            self.line.send(&line, now);
        }
    }
}

impl World {
    /// The host does not run for so long, and its deadlines come before what it could read.
    fn sleep_over(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.around.collect(self.emulator.poll(self.now), self.now);
            self.now = self.now + Duration::from_millis(1);
        }
        let sent = self.around.to_controller(self.host.poll(self.now));
        self.emulator.receive(&sent, self.now);
    }

    /// The bridge's process ends without a word, and another one starts on the same port.
    fn restart_process(&mut self) {
        self.around.to_controller.clear();
        self.host = GrblHost::new(Guard::new(config()).unwrap()).with_memory(self.around.record);
        self.host.handle_open(self.now);
        self.run_ms(3500);
    }

    /// Every way an operator or a program has to go on without saying where the lens is.
    fn try_to_go_on(&mut self, rng: &mut Pcg64) {
        if rng.random_bool(0.5) {
            self.restart_process();
        } else {
            self.run_ms(3500);
        }
        for _ in 0..2 {
            self.host.command_clear_fault(self.now);
            self.run_ms(3500);
        }
        self.drive(-500.0, 1000);
        self.run_ms(500);
    }
}

fn rng(name: &str, phase: u64) -> Pcg64 {
    let seed = 0x5eed_0000 + phase;
    println!("{name}: seed {seed}");
    Pcg64::seed_from_u64(seed)
}

/// A stage that is driven this way and that, about to meet its fate.
fn in_motion(rng: &mut Pcg64) -> World {
    let boot = if rng.random_bool(0.5) { 100 } else { 3 };
    let mut world = at(rng.random_range(-60.0..60.0), Duration::from_millis(boot));
    for _ in 0..rng.random_range(1..4) {
        let speed = rng.random_range(20.0..450.0) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        assert!(world.drive(speed, rng.random_range(40..700)));
    }
    world
}

fn check_lost(world: &World, what: &str) {
    let status = world.host.state();
    assert!(!status.position_valid, "{what}: {status:?}");
    assert!(
        world.around.lowest_um >= Z_MIN_UM,
        "{what}: {} µm",
        world.around.lowest_um
    );
    assert!(
        world.around.longest_wrong <= DETECTION,
        "{what}: wrong for {:?}",
        world.around.longest_wrong
    );
}

#[test]
fn power_lost_in_motion_is_a_position_lost_whatever_follows() {
    for welcome in [Welcome::Heard, Welcome::Garbled, Welcome::Lost] {
        for phase in 0..PHASES {
            let mut rng = rng("power", phase);
            let mut world = in_motion(&mut rng);
            world.around.welcome = welcome;
            world.emulator.power_cut(world.now);
            if rng.random_bool(0.5) {
                // The commander has not noticed.
                world.drive(rng.random_range(-500.0..500.0), 400);
            }
            world.try_to_go_on(&mut rng);
            check_lost(&world, &format!("{welcome:?} {phase}"));
        }
    }
}

#[test]
fn power_lost_at_rest_is_a_position_lost() {
    for welcome in [Welcome::Heard, Welcome::Garbled, Welcome::Lost] {
        for phase in 0..PHASES / 4 {
            let mut rng = rng("power at rest", phase);
            let mut world = in_motion(&mut rng);
            world.run_ms(1500);
            world.around.welcome = welcome;
            world.emulator.power_cut(world.now);
            world.run_ms(1200 + rng.random_range(0..1000));
            world.try_to_go_on(&mut rng);
            check_lost(&world, &format!("{welcome:?} {phase}"));
        }
    }
}

#[test]
fn an_alarm_in_motion_is_a_position_lost() {
    for phase in 0..PHASES {
        let mut rng = rng("alarm", phase);
        let mut world = at(rng.random_range(-60.0..60.0), Duration::from_millis(100));
        world.emulator.receive(b"$21=1\n", world.now);
        world.run_ms(50);
        world.drive(rng.random_range(-400.0..400.0), rng.random_range(200..600));
        world.emulator.trip_limit(world.now);
        world.run_ms(rng.random_range(0..1500));
        world.try_to_go_on(&mut rng);
        check_lost(&world, &format!("{phase}"));
    }
}

#[test]
fn a_process_killed_in_motion_leaves_a_position_that_nobody_vouches_for() {
    for phase in 0..PHASES {
        let mut rng = rng("kill", phase);
        let mut world = in_motion(&mut rng);
        let speed = if world.z_um() > 50.0 { -150.0 } else { 150.0 };
        world.drive(speed, rng.random_range(300..500));
        assert!(world.emulator.is_moving(world.now));
        world.restart_process();
        let status = world.host.state();
        assert!(
            !status.position_valid && status.reason.contains("accept_position"),
            "{status:?}"
        );
        // What the controller has counted since is still told.
        assert!(
            (status.z_um() - world.z_um()).abs() <= 1.0,
            "{} vs {}",
            status.z_um(),
            world.z_um()
        );
        world.try_to_go_on(&mut rng);
        check_lost(&world, &format!("{phase}"));
    }
}

#[test]
fn a_process_that_ends_at_rest_hands_its_position_on() {
    for phase in 0..PHASES {
        let mut rng = rng("rest", phase);
        let mut world = in_motion(&mut rng);
        world.run_ms(1000);
        world.restart_process();
        let status = world.host.state();
        assert!(status.position_valid && status.xy_valid, "{phase}: {status:?}");
        assert!((status.z_um() - world.z_um()).abs() <= 1.0);
        assert!(world.drive(-500.0, 1500));
        world.run_ms(500);
        assert!(
            world.host.state().position_valid && world.around.lowest_um >= Z_MIN_UM,
            "{} µm",
            world.around.lowest_um
        );
        // Nothing but a turn at full speed, where the plan leads.
        assert!(
            world.around.longest_wrong < Duration::from_millis(50),
            "{:?}",
            world.around.longest_wrong
        );
    }
}

#[test]
fn the_very_first_start_is_invalid_and_says_what_to_do() {
    let mut world = at(-40.0, Duration::from_millis(100));
    world.around.record = None;
    world.restart_process();
    let status = world.host.state();
    assert_eq!((status.state, status.position_valid), (StageState::Idle, false));
    assert!(
        status.reason.contains("has not been driven from here before")
            && status.reason.contains("~/accept_position")
    );
    assert!(!world.drive(-10.0, 100) && !world.drive(10.0, 100));
    world
        .host
        .command_reference([None, None, Some(-40.0)], world.now)
        .unwrap();
    let status = world.host.state();
    assert!(
        status.position_valid && !status.xy_valid && status.reason.is_empty(),
        "{status:?}"
    );
    assert!(
        world
            .host
            .command_move_relative([5.0, 0.0, 0.0], 100.0, world.now)
            .is_err()
    );
    assert!(world.drive(-500.0, 800));
    world.run_ms(1000);
    world.restart_process();
    assert!(world.host.state().position_valid);
}

#[test]
fn a_controller_that_does_not_as_told_is_found_out_by_its_first_motion() {
    for (scale, cause) in [
        (-1.0, "wrong way"),
        (1.5, "1.5"),
        (25.4, "25.4"),
        (0.1, "hardly moves"),
        (0.0, "hardly moves"),
    ] {
        for phase in 0..PHASES {
            let mut rng = rng("scale", phase);
            let start_um = rng.random_range(-96.0..60.0);
            let mut world = at(start_um, Duration::from_millis(100));
            world.around.scale = scale;
            let speed = rng.random_range(-500.0..500.0);
            world.drive(speed, 1500);
            world.run_ms(1500);
            let status = world.host.state();
            assert_eq!(status.state, StageState::Fault, "{scale} {phase}: {status:?}");
            assert!(
                status.reason.contains(cause),
                "{scale} {phase}: {}",
                status.reason
            );
            let worst_um = if scale < 0.0 { 2.1 } else { 0.1 };
            assert!(
                world.around.lowest_um >= start_um - worst_um,
                "{scale}: {} from {start_um}",
                world.around.lowest_um
            );
            world.try_to_go_on(&mut rng);
            check_lost(&world, &format!("{scale} {phase}"));
        }
    }
}

#[test]
fn a_controller_that_changes_its_mind_later_is_found_out_above_the_limit() {
    for scale in [-1.0, 1.5, 25.4] {
        for phase in 0..PHASES {
            let mut rng = rng("later", phase);
            let mut world = at(rng.random_range(-80.0..60.0), Duration::from_millis(100));
            world.drive(100.0, 300);
            world.around.scale = scale;
            for _ in 0..4 {
                let speed = rng.random_range(100.0..500.0) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
                world.drive(speed, rng.random_range(100..900));
            }
            world.run_ms(1000);
            assert_eq!(world.host.state().state, StageState::Fault, "{scale} {phase}");
            assert!(
                world.around.lowest_um >= Z_MIN_UM,
                "{scale} {phase}: {} µm",
                world.around.lowest_um
            );
        }
    }
}

/// Against a joystick that goes on, with replies 40 to 80 ms late and zeros of somebody else in between; only silence releases.
#[test]
fn a_stop_holds_against_what_it_stopped() {
    for phase in 0..PHASES {
        let mut rng = rng("stopped", phase);
        let config = StageConfig {
            command_timeout_ms: rng.random_range(60..300),
            ..config()
        };
        let mut world = configured(rng.random_range(-20.0..150.0), Duration::from_millis(100), config);
        // The check of the first motion, undisturbed.
        world.drive(100.0, 400);
        world.run_ms(500);
        let late = Fault::Delay(Duration::from_millis(40)..Duration::from_millis(80));
        world.around.line = Line::new(Plan::new(phase).with(world.now..FOREVER, late));
        let um_per_s = rng.random_range(-200.0..-10.0);
        let period_ms = rng.random_range(15..50);
        let joystick = |world: &mut World, ms: u64, zero_at: Option<u64>| {
            let mut obeyed = 0;
            for at in (0..ms).step_by(period_ms as usize) {
                if zero_at.is_some_and(|zero| (at..at + period_ms).contains(&zero)) {
                    drop(world.host.command_velocity(0.0, world.now, world.now));
                }
                obeyed += u32::from(
                    world
                        .host
                        .command_velocity(um_per_s, world.now, world.now)
                        .is_ok(),
                );
                world.run_ms(period_ms);
            }
            obeyed
        };
        let began_um = world.z_um();
        joystick(&mut world, rng.random_range(300..1200), None);
        assert!(
            world.z_um() < began_um - 1.0,
            "it moves: {:?}",
            world.host.state()
        );
        world.host.command_stop(world.now);
        joystick(&mut world, 400, None);
        let stood_um = world.z_um();
        let obeyed = joystick(&mut world, 2000, Some(rng.random_range(0..2000)));
        assert_eq!(obeyed, 0, "a stop holds");
        assert!(
            (world.z_um() - stood_um).abs() < 0.05,
            "{} after {stood_um} µm",
            world.z_um()
        );
        assert_eq!(world.host.state().state, StageState::Idle);
        world.run_ms(700);
        assert!(joystick(&mut world, 400, None) > 0, "silence releases it");
        assert!(world.z_um() < stood_um - 0.5 && world.around.lowest_um >= Z_MIN_UM);
    }
}

/// A process that the computer does not let run finds its answers unread when it wakes. It asks before it reads, as the driver does.
#[test]
fn a_host_that_does_not_run_does_not_lose_contact() {
    for phase in 0..PHASES {
        let mut rng = rng("busy", phase);
        let mut world = at(rng.random_range(-20.0..150.0), Duration::from_millis(100));
        world.drive(100.0, 400);
        world.run_ms(500);
        let is_stopped = rng.random_bool(0.5);
        world.drive(rng.random_range(-200.0..200.0), rng.random_range(200..600));
        if is_stopped {
            world.host.command_stop(world.now);
        }
        for _ in 0..4 {
            world.sleep_over(rng.random_range(20..240));
        }
        world.run_ms(1500);
        let status = world.host.state();
        assert_eq!(
            status.state,
            StageState::Idle,
            "{phase} {is_stopped}: {}",
            status.reason
        );
        assert!(
            status.position_valid && (status.z_um() - world.z_um()).abs() < 0.3,
            "{phase}"
        );
        assert!(world.around.lowest_um >= Z_MIN_UM);
    }
}

#[test]
fn a_controller_that_is_gone_is_missed_however_busy_the_computer() {
    for phase in 0..PHASES {
        let mut rng = rng("gone", phase);
        let mut world = at(40.0, Duration::from_millis(100));
        world.drive(100.0, 400);
        world.run_ms(500);
        world.drive(-100.0, 200);
        let gone = world.now;
        while world.host.state().state == StageState::Moving {
            world.now = world.now + Duration::from_millis(rng.random_range(5..240));
            world.host.poll(world.now);
            let silent = world.now.since(gone);
            assert!(
                silent < Duration::from_millis(2500),
                "{phase}: silent for {silent:?}"
            );
        }
        assert!(!world.host.state().position_valid, "{phase}");
    }
}
