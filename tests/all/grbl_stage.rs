//! The GRBL host against the emulated controller, in virtual time over an in-memory link.

use std::time::Duration;

use crate::common::pair::Around;
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::stage::Axis;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::{Refusal, StageState};
use hhnet::units::Instant;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// A cable that can be cut, and what is seen of the stage.
#[derive(Clone)]
struct Seen {
    /// Whether bytes get through.
    cable: bool,
    /// Physical height, µm; the lowest, and when it last changed.
    z_um: f64,
    lowest_um: f64,
    last_step: Instant,
    /// Bytes that the host has written.
    written: usize,
}

impl Around for Seen {
    fn to_host(&mut self, bytes: Vec<u8>, _: Instant) -> Vec<u8> {
        if self.cable { bytes } else { Vec::new() }
    }

    fn to_controller(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.written += bytes.len();
        if self.cable { bytes } else { Vec::new() }
    }

    fn look(&mut self, _: &GrblHost, emulator: &Emulator, now: Instant) {
        let z_um = emulator.position_um(Axis::Z, now);
        self.lowest_um = self.lowest_um.min(z_um);
        if std::mem::replace(&mut self.z_um, z_um) != z_um {
            self.last_step = now;
        }
    }
}

type Pair = crate::common::pair::Pair<Seen>;

fn powered_up(config: StageConfig, emulator: EmulatorConfig) -> Pair {
    let now = Instant::from_nanos(1_000_000 * MS);
    let seen = Seen {
        cable: true,
        z_um: emulator.physical_offset_um[2],
        lowest_um: f64::INFINITY,
        last_step: now,
        written: 0,
    };
    Pair::new(config, emulator, 0.0, now, seen)
}

fn connected() -> Pair {
    connected_with(StageConfig::default(), EmulatorConfig::default())
}

fn connected_with(config: StageConfig, emulator: EmulatorConfig) -> Pair {
    let mut pair = powered_up(config, emulator);
    pair.run_ms(1000);
    let status = pair.host.state();
    assert_eq!(status.state, StageState::Idle, "{status:?}");
    assert!(status.position_valid && status.xy_valid, "{status:?}");
    let stood = pair.z_um();
    pair.check_first_motion();
    assert!((pair.z_um() - stood).abs() < 1e-6);
    pair.around.lowest_um = stood;
    pair
}

fn recorded() -> EmulatorConfig {
    EmulatorConfig {
        idle_lock_ms: 25,
        ..EmulatorConfig::default()
    }
}

#[test]
fn connecting_reads_what_is_there() {
    let pair = connected_with(StageConfig::default(), recorded());
    let status = pair.host.state();
    assert_eq!(status.firmware, "GRBL 1.1h");
    assert!(
        status.position_valid && status.z_um() == 0.0 && status.reason.is_empty(),
        "{status:?}"
    );
    assert_eq!(status.warnings.len(), 1, "{:?}", status.warnings);
    assert!(connected().host.state().warnings.is_empty());
}

#[test]
fn velocity_is_smooth_and_stops_on_the_exact_target() {
    for um_per_s in [223.7, -223.7, 44.74, -44.74, 5.0, 1000.0, 120.0] {
        for emulator in [EmulatorConfig::default(), recorded()] {
            let mut pair = connected_with(StageConfig::default(), emulator);
            assert!(pair.drive(um_per_s, 1000));
            let moved = pair.z_um();
            let expected = um_per_s.clamp(-500.0, 1000.0);
            assert!(
                (moved / expected - 1.0).abs() < 0.08,
                "{um_per_s}: {moved} in 1 s"
            );
            pair.velocity(0.0).unwrap();
            let took_ms = pair.run_to_rest(500);
            let status = pair.host.state();
            assert!(
                (status.z_um() - pair.z_um()).abs() <= 0.5,
                "{} vs {}",
                status.z_um(),
                pair.z_um()
            );
            if um_per_s.abs() <= 300.0 {
                assert!(
                    (status.z_um() - pair.z_um()).abs() < 0.06,
                    "{} vs {}",
                    status.z_um(),
                    pair.z_um()
                );
            }
            println!(
                "{um_per_s} um/s: rest known after {took_ms} ms, stopped {} um later",
                pair.z_um() - moved
            );
            assert!(took_ms < 250.0, "{took_ms}");
        }
    }
}

#[test]
fn dead_reckoning_follows_the_stage() {
    let mut pair = connected();
    let mut worst = 0.0f64;
    for (um_per_s, ms) in [(223.7, 700), (-223.7, 300), (44.7, 400), (-100.0, 300)] {
        let end = pair.now + Duration::from_millis(ms);
        while pair.now < end {
            pair.velocity(um_per_s).unwrap();
            for _ in 0..10 {
                pair.run_ms(2);
                worst = worst.max((pair.host.expected_z_um(pair.now) - pair.z_um()).abs());
            }
        }
    }
    println!("dead reckoning is off by at most {worst} um");
    assert!(worst < 2.0, "{worst}");
}

#[test]
fn silence_stops_the_stage() {
    for (um_per_s, limit_um) in [(100.0, 30.0), (223.7, 300.0), (1000.0, 300.0), (-500.0, 300.0)] {
        let mut pair = connected();
        assert!(pair.drive(um_per_s, 500));
        pair.velocity(um_per_s).unwrap();
        let (last_command, from) = (pair.now, pair.z_um());
        pair.run_ms(2000);
        let last_ms = pair.around.last_step.since(last_command).as_secs_f64() * 1000.0;
        let way = (pair.z_um() - from).abs();
        println!("{um_per_s} um/s: last step {last_ms} ms and {way} um after the last command");
        assert!(
            last_ms <= 300.0 && way <= limit_um,
            "{um_per_s}: {last_ms} ms, {way} um"
        );
        assert_eq!(pair.host.state().state, StageState::Idle);
        assert!(pair.host.state().reason.contains("no velocity command"));
    }
}

#[test]
fn a_dead_host_stops_the_stage() {
    for um_per_s in [100.0, 223.7, 1000.0] {
        let mut pair = connected();
        assert!(pair.drive(um_per_s, 500));
        pair.around.cable = false;
        let cut = pair.now;
        pair.run_ms(1000);
        let last_ms = pair.around.last_step.since(cut).as_secs_f64() * 1000.0;
        println!("{um_per_s} um/s: last step {last_ms} ms after the last byte");
        assert!(last_ms <= 200.0, "{last_ms}");
        assert_eq!(pair.host.state().state, StageState::Disconnected);
        pair.around.cable = true;
        let from = pair.z_um();
        pair.run_ms(2000);
        let status = pair.host.state();
        assert_eq!(
            (status.state, status.position_valid),
            (StageState::Fault, false),
            "{status:?}"
        );
        assert!(matches!(pair.velocity(10.0), Err(Refusal::NotReady { .. })));
        pair.host.command_clear_fault(pair.now);
        pair.run_ms(1000);
        assert_eq!(pair.host.state().state, StageState::Idle);
        assert_eq!(pair.z_um(), from, "moved by itself");
        assert!((pair.host.state().z_um() - from).abs() <= 0.5);
    }
}

#[test]
fn exact_moves() {
    let mut pair = connected();
    let mut target = [0.0; 3];
    for (by, speed) in [
        ([0.0, 0.0, 12.3], 223.7),
        ([0.0, 0.0, -3.1], 50.0),
        ([500.0, -250.0, 0.0], 5000.0),
    ] {
        for axis in 0..3 {
            target[axis] += by[axis];
        }
        pair.host.command_move_relative(by, speed, pair.now).unwrap();
        assert_eq!(
            pair.host.command_move_relative(by, speed, pair.now),
            Err(Refusal::Busy)
        );
        let took = pair.run_to_rest(1000);
        println!("{by:?} at {speed} um/s took {took} ms");
        for axis in Axis::ALL {
            let um = pair.emulator.position_um(axis, pair.now);
            // A microstep.
            let tolerance_um = if axis == Axis::Z { 0.051 } else { 0.501 };
            assert!((um - target[axis.index()]).abs() <= tolerance_um, "{axis:?} {um}");
            assert!(
                (pair.host.state().position_um[axis.index()] - um).abs() <= 0.5,
                "{axis:?} {um}"
            );
        }
    }
    assert!(matches!(
        pair.move_z(-3000.0, 100.0),
        Err(Refusal::OutOfRange { .. })
    ));
    // A zero velocity ends a long move.
    pair.move_z(1500.0, 200.0).unwrap();
    pair.run_ms(300);
    pair.velocity(0.0).unwrap();
    pair.run_to_rest(400);
    assert!(pair.z_um() < 100.0 && (pair.host.state().z_um() - pair.z_um()).abs() <= 0.5);
}

#[test]
fn nonsense_is_refused_and_counted() {
    let mut pair = connected();
    for velocity in [f64::NAN, f64::INFINITY, 1e300, -1e300] {
        assert!(pair.velocity(velocity).is_err());
    }
    let old = Instant::from_nanos(pair.now.as_nanos() - 300 * MS);
    assert!(matches!(
        pair.host.command_velocity(1.0, old, pair.now),
        Err(Refusal::Stale { .. })
    ));
    for (by, speed) in [
        ([0.0, 0.0, f64::NAN], 1.0),
        ([1e300, 0.0, 0.0], 1.0),
        ([1.0, 0.0, 0.0], 0.0),
    ] {
        assert!(pair.host.command_move_relative(by, speed, pair.now).is_err());
    }
    assert_eq!(pair.host.state().refused_commands, 8);
    pair.run_ms(300);
    assert_eq!(pair.z_um(), 0.0);
}

#[test]
fn a_reset_behind_our_back_is_a_fault_and_the_height_is_unknown() {
    let mut pair = connected();
    assert!(pair.drive(200.0, 500));
    pair.emulator.power_cut(pair.now);
    let height = pair.z_um();
    pair.run_ms(150);
    let status = pair.host.state();
    assert_eq!(
        (status.state, status.position_valid),
        (StageState::Fault, false),
        "{status:?}"
    );
    assert!(status.reason.contains("reset"), "{}", status.reason);
    pair.run_ms(2000);
    assert!(pair.velocity(100.0).is_err());
    assert_eq!(pair.z_um(), height);
    pair.host.command_clear_fault(pair.now);
    pair.run_ms(1000);
    let status = pair.host.state();
    assert_eq!(
        (status.state, status.position_valid),
        (StageState::Idle, false),
        "{status:?}"
    );
    assert!(
        status.z_um().is_nan(),
        "a height that nobody measured: {status:?}"
    );
    assert!(status.reason.contains("accept_position"), "{}", status.reason);
    for by_um in [-1.0, 600.0] {
        let refused = pair.move_z(by_um, 50.0);
        assert_eq!(refused, Err(Refusal::Unvouched { most_um: 500.0 }));
    }
    assert_eq!(pair.velocity(50.0), Err(Refusal::Unvouched { most_um: 500.0 }));
    pair.move_z(20.0, 1000.0).unwrap();
    let took_ms = pair.run_to_rest(1000);
    assert!(
        (pair.z_um() - height - 20.0).abs() < 0.06 && took_ms > 200.0,
        "up, and slowly"
    );
    let height = pair.z_um();
    pair.host
        .command_reference([None, None, Some(0.0)], pair.now)
        .unwrap();
    assert!(pair.host.state().position_valid && pair.host.state().z_um() == 0.0);
    assert!(pair.drive(100.0, 200));
    assert!(pair.z_um() > height + 10.0);
}

#[test]
fn alarms_are_faults_until_cleared() {
    let mut pair = connected();
    pair.run_ms(10);
    pair.emulator.receive(b"$21=1\n", pair.now);
    pair.run_ms(50);
    assert!(pair.drive(200.0, 300));
    pair.emulator.trip_limit(pair.now);
    let tripped = pair.now;
    while pair.host.state().state != StageState::Fault {
        pair.run_ms(1);
        assert!(pair.now.since(tripped) < Duration::from_millis(400));
    }
    assert!(
        pair.host.state().reason.contains("ALARM:1"),
        "{}",
        pair.host.state().reason
    );
    pair.run_ms(3000);
    assert_eq!(pair.host.state().state, StageState::Fault);
    pair.host.command_clear_fault(pair.now);
    pair.run_ms(1500);
    assert_eq!(
        pair.host.state().state,
        StageState::Idle,
        "{:?}",
        pair.host.state()
    );
}

#[test]
fn a_hold_left_behind_is_left_by_a_reset_and_the_stale_jog_never_runs() {
    let mut pair = powered_up(StageConfig::default(), EmulatorConfig::default());
    pair.around.cable = false;
    pair.run_ms(500);
    pair.emulator.receive(b"!$J=G91Z1F600\n$J=G91 Z", pair.now);
    pair.run_ms(100);
    pair.around.cable = true;
    pair.host.handle_open(pair.now);
    pair.run_ms(2000);
    assert_eq!(
        pair.host.state().state,
        StageState::Idle,
        "{:?}",
        pair.host.state()
    );
    assert_eq!(pair.z_um(), 0.0);
}

#[test]
fn a_jog_left_behind_is_ended() {
    let mut pair = powered_up(StageConfig::default(), EmulatorConfig::default());
    pair.around.cable = false;
    pair.run_ms(500);
    pair.emulator.receive(b"$J=G91Z5F60\n$J=G91 Z", pair.now);
    pair.run_ms(100);
    pair.around.cable = true;
    pair.host.handle_open(pair.now);
    pair.run_ms(2000);
    assert_eq!(
        pair.host.state().state,
        StageState::Idle,
        "{:?}",
        pair.host.state()
    );
    assert!(pair.z_um() < 600.0, "{}", pair.z_um());
}

#[test]
fn homing() {
    // Switches at 1 mm, the way off them 0.2 mm: homed is 0.8 mm, which the controller calls -0.2 mm.
    let switched = MechanicsConfig::rigid()
        .with_stops(-3000.0, 1200.0, 200.0)
        .unwrap();
    let mut pair = connected_with(
        StageConfig::default(),
        EmulatorConfig {
            mechanics: [switched.clone(), switched.clone(), switched],
            physical_offset_um: [-700.0, 300.0, -150.0],
            ..EmulatorConfig::default()
        },
    );
    pair.emulator.receive(b"$22=1\n$27=0.2\n", pair.now);
    pair.run_ms(50);
    assert!(pair.drive(-100.0, 500));
    pair.velocity(0.0).unwrap();
    pair.run_to_rest(300);
    pair.host.command_home(pair.now).unwrap();
    pair.run_to_rest(10_000);
    let status = pair.host.state();
    assert!(status.position_valid && status.z_um() == -200.0, "{status:?}");
    assert!((pair.z_um() - 800.0).abs() <= 0.05, "{}", pair.z_um());
}

#[test]
fn ten_thousand_stops_right_after_a_jog() {
    // A long jog has to be cancelled; the stop comes 0 to 20 ms after it was written (trap 1).
    let fresh = [connected(), connected_with(StageConfig::default(), recorded())];
    let mut worst_um = 0.0f64;
    let mut worst_ms = 0.0f64;
    for case in 0..10_000u64 {
        let source = &fresh[(case % 2) as usize];
        let mut pair = source.clone();
        let speed = 200.0 + (case % 7) as f64 * 130.0;
        pair.run_until(pair.now + Duration::from_nanos(case * 7919 % (100 * MS)));
        pair.move_z(1900.0, speed).unwrap();
        pair.run_until(pair.now + Duration::from_nanos(case * 104_729 % (20 * MS)));
        pair.host.command_stop(pair.now);
        let took = pair.run_to_rest(400);
        // 50 ms of segments, braking, and the way to a confirmed state first.
        let allowed_um = speed * 0.095 + speed * speed / 200_000.0;
        assert!(
            pair.z_um() <= allowed_um,
            "case {case}: {} um at {speed} um/s",
            pair.z_um()
        );
        assert!(
            (pair.host.state().z_um() - pair.z_um()).abs() <= 0.55,
            "case {case}"
        );
        assert!(pair.host.state().position_valid);
        worst_um = worst_um.max(pair.z_um() / speed * 1000.0);
        worst_ms = worst_ms.max(took);
        let mut line = pair.emulator.clone();
        line.receive(b"\n", pair.now);
        let answer = line.poll(pair.now + Duration::from_millis(400));
        assert!(answer.windows(2).any(|pair| pair == b"ok"), "case {case}: deaf");
    }
    println!("worst: way of {worst_um} ms at full speed, rest confirmed after {worst_ms} ms");
}

#[test]
fn late_answers_to_the_greeting_are_not_taken_for_those_of_commands() {
    let mut pair = powered_up(StageConfig::default(), EmulatorConfig::default());
    // The greeting and the first question for the state; then what the controller says of itself is asked.
    while pair.around.written <= 3 {
        pair.run_ms(1);
    }
    pair.host.handle_bytes(b"ok\r\nok\r\n", pair.now);
    while pair.host.state().state != StageState::Idle {
        pair.run_ms(1);
        assert!(pair.now < Instant::from_nanos(1_010_000 * MS), "never ready");
    }
    pair.host.command_home(pair.now).unwrap();
    pair.run_ms(200);
    let reason = pair.host.state().reason;
    assert!(reason.contains("refused to home"), "taken for done: '{reason}'");
}

#[test]
fn a_stop_holds_until_the_commander_lets_go() {
    let mut pair = connected();
    assert!(pair.drive(-100.0, 300));
    pair.host.command_stop(pair.now);
    pair.run_to_rest(400);
    let stood = pair.z_um();
    for _ in 0..50 {
        assert_eq!(pair.velocity(-100.0), Err(Refusal::Stopped));
        pair.run_ms(20);
    }
    assert_eq!(pair.z_um(), stood);
    pair.velocity(0.0).unwrap();
    assert_eq!(
        pair.velocity(-100.0),
        Err(Refusal::Stopped),
        "a zero may be another commander's"
    );
    pair.run_ms(450);
    assert_eq!(pair.velocity(-100.0), Err(Refusal::Stopped), "late, not silent");
    pair.host.command_release(pair.now);
    assert_eq!(pair.velocity(-100.0), Ok(-100.0), "released");
    pair.run_ms(100);
    pair.host.command_stop(pair.now);
    pair.run_ms(550);
    assert_eq!(pair.velocity(-100.0), Ok(-100.0), "silent for half a second");
}

#[test]
fn a_controller_that_answers_nothing_has_its_port_opened_anew() {
    let mut pair = connected();
    pair.around.cable = false;
    pair.run_ms(3000);
    assert!(!pair.host.is_unreachable(), "a controller may be slow to boot");
    pair.run_ms(20_000);
    assert!(pair.host.is_unreachable());
    pair.host.handle_close("opened anew", pair.now);
    pair.around.cable = true;
    pair.host.handle_open(pair.now);
    pair.run_ms(1000);
    assert!(!pair.host.is_unreachable());
}

#[test]
fn a_flood_of_commands_changes_nothing() {
    let mut pair = connected();
    for step in 0..20_000u64 {
        pair.velocity(if step % 2 == 0 { 100.0 } else { 101.0 }).unwrap();
        pair.run_until(pair.now + Duration::from_nanos(MS / 10));
    }
    assert!((pair.z_um() - 200.0).abs() < 15.0, "{}", pair.z_um());
    assert!(
        pair.around.written < 5000,
        "{} bytes written",
        pair.around.written
    );
    pair.velocity(0.0).unwrap();
    assert!(pair.run_to_rest(300) < 250.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_below_the_limit_and_always_at_rest_after_silence(
        commands in prop::collection::vec((-2000.0..2000.0f64, 1u64..300), 1..15),
        offset in -500.0..500.0f64,
        lock in prop::sample::select(vec![25u8, 255]),
    ) {
        let config = StageConfig { z_range_um: (-60.0, 60.0), ..StageConfig::default() };
        let emulator = EmulatorConfig { idle_lock_ms: lock, physical_offset_um: [0.0, 0.0, offset], ..EmulatorConfig::default() };
        let mut pair = connected_with(config, emulator);
        let mut last_command = pair.now;
        let mut highest = f64::NEG_INFINITY;
        for (velocity, wait_ms) in commands {
            if pair.velocity(velocity).is_ok() {
                last_command = pair.now;
            }
            for _ in 0..wait_ms {
                pair.run_ms(1);
                highest = highest.max(pair.z_um() - offset);
            }
            prop_assert!(pair.host.state().state != StageState::Fault, "{:?}", pair.host.state());
        }
        pair.run_ms(1000);
        prop_assert!(pair.around.lowest_um - offset >= -60.0, "{}", pair.around.lowest_um - offset);
        prop_assert!(highest <= 60.0, "{highest}");
        prop_assert!(pair.around.last_step.since(last_command) <= Duration::from_millis(300));
        prop_assert!(pair.host.state().state == StageState::Idle, "{:?}", pair.host.state());
        prop_assert!((pair.host.state().z_um() - (pair.z_um() - offset)).abs() <= 0.55);
    }

    #[test]
    fn distance_is_right_within_a_step(um_per_s in 1.0..300.0f64, chunks in 4u64..60, down: bool) {
        let um_per_s = if down { -um_per_s } else { um_per_s };
        let mut pair = connected();
        assert!(pair.drive(um_per_s, chunks * 25));
        pair.velocity(0.0).unwrap();
        pair.run_to_rest(300);
        prop_assert!((pair.host.state().z_um() - pair.z_um()).abs() <= 0.06);
        let chunk = um_per_s * 0.025;
        let count = (pair.z_um() / chunk).round();
        prop_assert!((pair.z_um() - count * chunk).abs() <= 0.11, "{} is not whole chunks of {chunk}", pair.z_um());
    }

    #[test]
    fn noise_on_the_line_never_ends_in_an_unsafe_state(
        noise in prop::collection::vec((0u64..400, prop::collection::vec(any::<u8>(), 1..40), any::<bool>()), 1..6),
    ) {
        let config = StageConfig { z_range_um: (-60.0, 60.0), ..StageConfig::default() };
        let mut pair = connected_with(config, EmulatorConfig::default());
        for (wait_ms, bytes, to_host) in noise {
            let _ = pair.velocity(-200.0);
            pair.run_ms(wait_ms);
            if to_host {
                pair.host.handle_bytes(&bytes, pair.now);
            } else {
                // Noise that happens to be a whole command is a command; it is kept from being one here.
                let bytes: Vec<u8> = bytes.into_iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
                pair.emulator.receive(&bytes, pair.now);
            }
        }
        pair.run_ms(6000);
        prop_assert!(!pair.emulator.is_moving(pair.now));
        prop_assert!(pair.host.state().state != StageState::Moving, "{:?}", pair.host.state());
        prop_assert!(pair.around.lowest_um >= -60.5, "{}", pair.around.lowest_um);
    }
}

#[test]
fn a_fence_spoilt_by_noise_still_ends_the_stop() {
    let mut pair = connected();
    assert!(pair.drive(-200.0, 200));
    pair.host.command_stop(pair.now);
    pair.emulator.receive(b"\"", pair.now);
    pair.run_to_rest(400);
}
