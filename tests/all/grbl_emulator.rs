//! The emulated controller against the exchanges recorded from the real firmware.

use std::time::Duration;

use hhnet::protocol::grbl::reply::MachineState;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::{Drift, MechanicsConfig};
use hhnet::stage::Axis;
use hhnet::units::Instant;
const START: Instant = Instant::from_nanos(1_000_000_000);

/// The image the exchanges were recorded from: 250 steps/mm, factory `$1=25`.
fn recorded() -> Emulator {
    let mut emulator = Emulator::new(EmulatorConfig {
        steps_per_mm: [250.0; 3],
        max_mm_per_s: [50.0; 3],
        mm_per_s2: [100.0; 3],
        idle_lock_ms: 25,
        ..EmulatorConfig::default()
    });
    assert_eq!(text(&mut emulator, START), "Grbl 1.1h ['$' for help]");
    emulator
}

fn ms(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

fn text(emulator: &mut Emulator, now: Instant) -> String {
    String::from_utf8(emulator.poll(now))
        .unwrap()
        .trim_end()
        .replace("\r\n", "\n")
}

/// Writes `bytes` and returns what comes back within `wait_ms`.
fn exchange(emulator: &mut Emulator, clock: &mut u64, bytes: &[u8], wait_ms: u64) -> String {
    emulator.receive(bytes, ms(*clock));
    *clock += wait_ms;
    text(emulator, ms(*clock))
}

fn check(setup: &[&str], rows: &[(&[u8], u64, &str)]) {
    let (mut emulator, mut clock) = (recorded(), 10);
    for line in setup {
        assert_eq!(
            exchange(&mut emulator, &mut clock, line.as_bytes(), 20),
            "ok",
            "{line}"
        );
    }
    for (sent, wait_ms, expected) in rows {
        let got = exchange(&mut emulator, &mut clock, sent, *wait_ms);
        assert_eq!(got, *expected, "after {:?}", String::from_utf8_lossy(sent));
    }
}

#[test]
fn identification_and_status() {
    check(
        &[],
        &[
            (
                b"?",
                20,
                "<Idle|MPos:0.000,0.000,0.000|FS:0,0|WCO:0.000,0.000,0.000>",
            ),
            (b"?", 20, "<Idle|MPos:0.000,0.000,0.000|FS:0,0|Ov:100,100,100>"),
            (b"?", 20, "<Idle|MPos:0.000,0.000,0.000|FS:0,0>"),
            (b"\n", 5, "ok"),
            (
                b"$I\n",
                20,
                "[VER:1.1h.20190830:hhnet-virtual]\n[OPT:V,15,128]\nok",
            ),
            (b"\x80\x90$X\n", 20, "ok"),
        ],
    );
}

#[test]
fn a_jog_is_acknowledged_at_once_and_seen_moving() {
    check(
        &[],
        &[
            (b"$J=G91 Z10 F600\n", 10, "ok"),
            (b"G1Z1F100\n", 10, "error:9"),
            (
                b"?",
                1280,
                "<Jog|MPos:0.000,0.000,0.016|FS:360,0|WCO:0.000,0.000,0.000>",
            ),
            (b"?", 20, "<Idle|MPos:0.000,0.000,10.000|FS:0,0|Ov:100,100,100>"),
        ],
    );
}

#[test]
fn soft_limits() {
    check(
        &["$22=1\n", "$20=1\n"],
        &[
            (b"$J=G91Z500F300\n", 20, "error:15"),
            (
                b"?",
                20,
                "<Idle|MPos:0.000,0.000,0.000|FS:0,0|WCO:0.000,0.000,0.000>",
            ),
            (b"$J=G91Z-1F300\n", 400, "ok"),
            (b"G90G1Z500F300\n", 600, "ALARM:2\n[MSG:Reset to continue]"),
            (b"?$X\n", 500, ""),
            (b"\x18", 20, "Grbl 1.1h ['$' for help]\n[MSG:'$H'|'$X' to unlock]"),
        ],
    );
    check(&[], &[(b"$20=1\n", 20, "error:10")]);
}

#[test]
fn refusals() {
    let long = [b"$J=G91Z1F1".as_slice(), &[b'0'; 80], b"\n"].concat();
    check(
        &[],
        &[
            (b"$J=G91 Z1 $J=G91 Z1 F600\n", 20, "error:1"),
            (b"$J=G91Z1\n", 20, "error:22"),
            (b"$Q\n", 20, "error:3"),
            (&long, 20, "error:11"),
            (b"G90G1Z500F300\n", 100, "ok"),
            (b"$J=G91Z1F600\n", 20, "error:8"),
        ],
    );
}

#[test]
fn a_reset_in_motion_alarms_and_locks() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$J=G91Z10F600\n", 500);
    let before = emulator.position_um(Axis::Z, ms(clock));
    assert_eq!(exchange(&mut emulator, &mut clock, b"\x18", 29), "ALARM:3");
    let after = emulator.position_um(Axis::Z, ms(clock));
    assert!(after - before < 52.0, "{before} to {after}");
    assert_eq!(exchange(&mut emulator, &mut clock, b"", 490), "");
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"", 40),
        "Grbl 1.1h ['$' for help]\n[MSG:'$H'|'$X' to unlock]"
    );
    assert!(exchange(&mut emulator, &mut clock, b"?", 20).starts_with("<Alarm|MPos:0.000,0.000,4."));
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"$J=G91Z1F600\n", 20),
        "error:8"
    );
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"$X\n", 20),
        "[MSG:Caution: Unlocked]\nok"
    );
}

#[test]
fn a_limit_switch_stops_and_mutes() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$21=1\n", 20);
    exchange(&mut emulator, &mut clock, b"$J=G91Z10F600\n", 300);
    emulator.trip_limit(ms(clock));
    assert_eq!(exchange(&mut emulator, &mut clock, b"", 39), "ALARM:1");
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"?", 600),
        "[MSG:Reset to continue]"
    );
    assert_eq!(exchange(&mut emulator, &mut clock, b"?$X\n", 100), "");
    assert!(exchange(&mut emulator, &mut clock, b"\x18", 20).starts_with("Grbl"));
}

#[test]
fn cancels_take_the_recorded_time_and_way() {
    // mm/s, ms to Idle, mm after the byte, as measured on the firmware.
    for (speed, idle_ms, way_mm) in [(1.0, 114.0, 0.060), (10.0, 194.0, 0.99), (30.0, 398.0, 5.96)] {
        for cancel in [b"\x85", b"!"] {
            let (mut emulator, mut clock) = (recorded(), 10);
            let line = format!("$J=G91Z100F{}\n", speed * 60.0);
            exchange(&mut emulator, &mut clock, line.as_bytes(), 800);
            let before = emulator.position_um(Axis::Z, ms(clock));
            let sent = clock;
            exchange(&mut emulator, &mut clock, cancel, 0);
            while emulator.state() == MachineState::Jog {
                exchange(&mut emulator, &mut clock, b"", 1);
            }
            let way = (emulator.position_um(Axis::Z, ms(clock)) - before) / 1000.0;
            assert!(
                (way - way_mm).abs() < 0.05 * way_mm + 0.012,
                "{speed} mm/s: {way} mm"
            );
            let took = (clock - sent) as f64;
            // The recorded times end with the report that says Idle.
            assert!((took - idle_ms).abs() < 15.0, "{speed} mm/s: {took} ms");
        }
    }
}

#[test]
fn trap_1_a_cancel_written_with_its_jog_is_lost() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$J=G91Z5F300\n\x85", 1500);
    assert_eq!(emulator.position_um(Axis::Z, ms(clock)), 5000.0);
}

#[test]
fn trap_1b_a_second_cancel_near_the_end_deafens_unless_motors_stay_on() {
    for (lock, expected) in [("$1=25\n", ""), ("$1=255\n", "ok")] {
        let (mut emulator, mut clock) = (recorded(), 10);
        exchange(&mut emulator, &mut clock, lock.as_bytes(), 20);
        exchange(&mut emulator, &mut clock, b"$J=G91Z5F300\n", 400);
        exchange(&mut emulator, &mut clock, b"\x85", 0);
        for _ in 0..11 {
            exchange(&mut emulator, &mut clock, b"\x85", 17);
        }
        assert!(exchange(&mut emulator, &mut clock, b"?", 200).contains("<Idle|"));
        assert_eq!(
            exchange(&mut emulator, &mut clock, b"\n", 400),
            expected,
            "{lock}"
        );
        if expected.is_empty() {
            assert!(exchange(&mut emulator, &mut clock, b"\x18", 20).starts_with("Grbl"));
            assert_eq!(exchange(&mut emulator, &mut clock, b"\n", 20), "ok");
        }
    }
}

#[test]
fn trap_2_a_hold_while_idle_keeps_the_next_jog_for_later() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"!", 10);
    assert!(exchange(&mut emulator, &mut clock, b"?", 20).starts_with("<Hold:0|"));
    assert_eq!(exchange(&mut emulator, &mut clock, b"$J=G91Z1F600\n", 500), "");
    assert_eq!(emulator.position_um(Axis::Z, ms(clock)), 0.0);
    assert_eq!(exchange(&mut emulator, &mut clock, b"~", 500), "ok");
    assert_eq!(emulator.position_um(Axis::Z, ms(clock)), 1000.0);
}

#[test]
fn trap_4_too_many_bytes_at_once_are_lost() {
    let (mut emulator, mut clock) = (recorded(), 10);
    let replies = exchange(&mut emulator, &mut clock, &b"$J=G91Z1F600\n".repeat(40), 60_000);
    assert!(
        (15..40).contains(&replies.lines().count()),
        "{}",
        replies.lines().count()
    );
}

#[test]
fn trap_5_a_power_cut_forgets_silently_where_it_is() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$J=G91Z10F600\n", 500);
    emulator.power_cut(ms(clock));
    let height = emulator.position_um(Axis::Z, ms(clock));
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"", 200),
        "Grbl 1.1h ['$' for help]"
    );
    assert!(exchange(&mut emulator, &mut clock, b"?", 20).starts_with("<Idle|MPos:0.000,0.000,0.000|"));
    assert!(height > 4000.0 && emulator.position_um(Axis::Z, ms(clock)) == height);
}

/// Stops 3 mm below and 1.2 mm above 0, with a switch 0.2 mm in front of each.
fn with_switches(mechanics: MechanicsConfig, offset_um: f64) -> Emulator {
    let mechanics = mechanics.with_stops(-3000.0, 1200.0, 200.0).unwrap();
    let mut emulator = Emulator::new(EmulatorConfig {
        physical_offset_um: [offset_um; 3],
        mechanics: [mechanics.clone(), mechanics.clone(), mechanics],
        ..EmulatorConfig::default()
    });
    assert_eq!(text(&mut emulator, START), "Grbl 1.1h ['$' for help]");
    emulator
}

/// Homed from anywhere, the axis stands `$27` = 1 mm in front of the switch at 1 mm, and the controller calls that -1.
#[test]
fn homing_finds_the_switch_from_an_unknown_start() {
    let fine = || {
        MechanicsConfig::fine_focus()
            .with_drift(Drift::NONE)
            .unwrap()
            .without_settling()
    };
    let mut ends = Vec::new();
    for (mechanics, offset_um, play_um) in [
        (MechanicsConfig::rigid(), 0.0, 0.0),
        (MechanicsConfig::rigid(), -2650.0, 0.0),
        (MechanicsConfig::rigid(), 1100.0, 0.0),
        (fine(), -2000.0, 2.0),
        (fine(), 500.0, 2.0),
    ] {
        let (mut emulator, mut clock) = (with_switches(mechanics, offset_um), 10);
        exchange(&mut emulator, &mut clock, b"$22=1\n", 20);
        assert_eq!(exchange(&mut emulator, &mut clock, b"$H\n", 300), "");
        assert_eq!(emulator.state(), MachineState::Home);
        let replies = exchange(&mut emulator, &mut clock, b"?", 15_000);
        assert!(
            replies.contains("ok\n<Idle|MPos:-1.000,-1.000,-1.000|"),
            "{replies}"
        );
        for axis in Axis::ALL {
            let um = emulator.position_um(axis, ms(clock));
            // Off the switch the play has to be crossed first.
            assert!((um - play_um).abs() <= 0.6, "{axis:?} from {offset_um}: {um}");
        }
        ends.push(emulator.position_um(Axis::Z, ms(clock)));
    }
    assert!(
        (ends[0] - ends[1]).abs() <= 0.05 && (ends[3] - ends[4]).abs() <= 0.05,
        "{ends:?}"
    );
}

#[test]
fn homing_can_go_down_and_can_fail() {
    let (mut emulator, mut clock) = (with_switches(MechanicsConfig::rigid(), 0.0), 10);
    exchange(
        &mut emulator,
        &mut clock,
        b"$22=1\n$23=4\n$130=4\n$131=4\n$132=4\n",
        40,
    );
    exchange(&mut emulator, &mut clock, b"$H\n", 15_000);
    let report = exchange(&mut emulator, &mut clock, b"?", 20);
    assert!(report.starts_with("<Idle|MPos:-1.000,-1.000,-3.000|"), "{report}");
    assert!((emulator.position_um(Axis::Z, ms(clock)) - -1800.0).abs() <= 0.05);
    // No switch within 1.5 times the travel.
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$22=1\n$132=2\n", 30);
    let replies = exchange(&mut emulator, &mut clock, b"$H\n", 5000);
    assert_eq!(
        replies,
        "ALARM:9\nGrbl 1.1h ['$' for help]\n[MSG:'$H'|'$X' to unlock]"
    );
    assert_eq!(emulator.position_um(Axis::Z, ms(clock)), 3000.0);
    // Not off the switch after the way off: the pull-off is shorter than the play.
    let loose = MechanicsConfig::rigid().with_backlash(50.0).unwrap();
    let (mut emulator, mut clock) = (with_switches(loose, 0.0), 10);
    exchange(&mut emulator, &mut clock, b"$22=1\n$27=0.04\n", 30);
    let replies = exchange(&mut emulator, &mut clock, b"$H\n", 5000);
    assert!(replies.starts_with("ALARM:8"), "{replies}");
    // Interrupted.
    let (mut emulator, mut clock) = (with_switches(MechanicsConfig::rigid(), -2000.0), 10);
    exchange(&mut emulator, &mut clock, b"$22=1\n$H\n", 200);
    let um = emulator.position_um(Axis::Z, ms(clock));
    let replies = exchange(&mut emulator, &mut clock, b"\x18", 1500);
    assert!(replies.starts_with("ALARM:6"), "{replies}");
    assert!((emulator.position_um(Axis::Z, ms(clock)) - um).abs() < 10.0);
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"$J=G91Z1F60\n", 20),
        "error:8"
    );
}

#[test]
fn a_limit_switch_that_is_reached_stops_and_mutes() {
    for (hard, direction, end_um) in [(true, 1, 1000.0), (true, -1, -2800.0), (false, 1, 1200.0)] {
        let (mut emulator, mut clock) = (with_switches(MechanicsConfig::rigid(), 0.0), 10);
        if hard {
            exchange(&mut emulator, &mut clock, b"$21=1\n", 20);
        }
        let line = format!("$J=G91Z{}F120\n", 4 * direction);
        let replies = exchange(&mut emulator, &mut clock, line.as_bytes(), 4000);
        let um = emulator.position_um(Axis::Z, ms(clock));
        assert!((um - end_um).abs() <= 0.05, "{um}");
        if !hard {
            // Nothing but the lens knows that 2.8 mm of steps are lost.
            let report = exchange(&mut emulator, &mut clock, b"?", 20);
            assert!(
                report.starts_with("<Idle|MPos:0.000,0.000,4.000|FS:0,0|Pn:Z"),
                "{report}"
            );
            let lost_um = emulator.mechanics(Axis::Z).lost_um(ms(clock));
            assert!((lost_um - 2800.0).abs() < 1e-3, "{lost_um}");
            continue;
        }
        assert_eq!(replies, "ok\nALARM:1\n[MSG:Reset to continue]");
        // Still pressed: it says so, and stays locked until told otherwise.
        let welcome = "Grbl 1.1h ['$' for help]\n[MSG:Check Limits]\n[MSG:'$H'|'$X' to unlock]";
        assert_eq!(exchange(&mut emulator, &mut clock, b"\x18", 20), welcome);
        assert_eq!(
            exchange(&mut emulator, &mut clock, b"$J=G91Z1F60\n", 20),
            "error:8"
        );
        // Driving off, the edge of the switch that lets go alarms once more, as in the firmware.
        assert_eq!(
            exchange(&mut emulator, &mut clock, b"$X\n", 20),
            "[MSG:Caution: Unlocked]\nok"
        );
        let line = format!("$J=G91Z{}F120\n", -direction);
        assert!(exchange(&mut emulator, &mut clock, line.as_bytes(), 900).contains("ALARM:1"));
        let welcome = "Grbl 1.1h ['$' for help]\n[MSG:'$H'|'$X' to unlock]";
        assert_eq!(exchange(&mut emulator, &mut clock, b"\x18", 20), welcome);
        exchange(&mut emulator, &mut clock, b"$X\n", 20);
        assert_eq!(exchange(&mut emulator, &mut clock, line.as_bytes(), 900), "ok");
    }
}

#[test]
fn soft_limits_end_with_homing() {
    let (mut emulator, mut clock) = (recorded(), 10);
    exchange(&mut emulator, &mut clock, b"$22=1\n$20=1\n$22=0\n", 30);
    assert_eq!(exchange(&mut emulator, &mut clock, b"$J=G91Z1F600\n", 20), "ok");
}

/// What a controller forgets without power, what it keeps, and what was never in it.
#[test]
fn a_power_cut_keeps_the_settings_the_lens_and_its_play() {
    let focus = MechanicsConfig::fine_focus().with_drift(Drift::NONE).unwrap();
    let (mut emulator, mut clock) = (with_switches(focus, 100.0), 10);
    exchange(&mut emulator, &mut clock, b"$110=321.000\n", 20);
    exchange(&mut emulator, &mut clock, b"$J=G91Z0.5F60\n", 1500);
    // Down by half of the play, so that the lens has not followed; then a long jog is cut short.
    exchange(&mut emulator, &mut clock, b"$J=G91Z-0.001F60\n", 1000);
    let before_um = emulator.position_um(Axis::Z, ms(clock));
    assert!((before_um - 600.0).abs() < 1e-6, "{before_um}");
    exchange(
        &mut emulator,
        &mut clock,
        b"$J=G91X0.9F60\n$J=G91X-0.9F60\n?",
        500,
    );
    emulator.receive(b"$J=G91Z1F60\n$J=G9", ms(clock));
    emulator.power_cut(ms(clock));
    assert_eq!(
        exchange(&mut emulator, &mut clock, b"", 500),
        "Grbl 1.1h ['$' for help]"
    );
    let report = exchange(&mut emulator, &mut clock, b"?", 20);
    assert_eq!(
        report,
        "<Idle|MPos:0.000,0.000,0.000|FS:0,0|WCO:0.000,0.000,0.000>"
    );
    assert_eq!(emulator.position_um(Axis::Z, ms(clock)), before_um);
    assert!(exchange(&mut emulator, &mut clock, b"$$\n", 500).contains("$110=321.000"));
    // The half line is gone: the next one is understood. The other half of the play is still there.
    for (line, moved_um) in [("$J=G91Z-0.001F60\n", 0.0), ("$J=G91Z-0.001F60\n", -1.0)] {
        assert_eq!(exchange(&mut emulator, &mut clock, line.as_bytes(), 2000), "ok");
        let um = emulator.position_um(Axis::Z, ms(clock)) - before_um;
        assert!((um - moved_um).abs() < 0.03, "{um}");
    }
}

/// The lens rings and lags; what the controller sends does not depend on it.
#[test]
fn the_controller_cannot_tell_its_mechanics() {
    let run = |mechanics: MechanicsConfig| {
        let (mut emulator, mut clock) = (with_switches(mechanics, 0.0), 10);
        let mut heard = String::new();
        for line in ["$J=G91Z0.3F60\n", "$J=G91Z-0.2X0.1F90\n", "$J=G91Z0.6F10\n"] {
            heard += &exchange(&mut emulator, &mut clock, line.as_bytes(), 150);
            for _ in 0..30 {
                heard += &exchange(&mut emulator, &mut clock, b"?", 10);
            }
            heard += &exchange(&mut emulator, &mut clock, b"\x85", 300);
        }
        heard
    };
    assert_eq!(run(MechanicsConfig::rigid()), run(MechanicsConfig::fine_focus()));
}

#[test]
fn noise_never_panics_and_the_future_is_bounded() {
    let mut emulator = recorded();
    let mut seed = 1u64;
    for at in 0..3000 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        emulator.receive(&seed.to_be_bytes(), ms(at));
        emulator.poll(ms(at));
    }
}
