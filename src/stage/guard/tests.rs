//! The rules for commands, limits and positions, without any protocol.

use proptest::prelude::*;

use super::*;

const PACE: Pace = Pace {
    slowest_um_per_s: 0.01,
    fastest_um_per_s: 800.0,
};

/// The share of z in a path is a quotient.
const ROUNDING: f64 = 1e-9;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(10_000_000_000 + ms * 1_000_000)
}

/// A stage from -100 to 300 µm whose position counts.
fn guard() -> Guard {
    let mut guard = Guard::new(StageConfig {
        z_range_um: (-100.0, 300.0),
        ..StageConfig::default()
    })
    .unwrap();
    guard.vouch([true; 3]);
    guard
}

fn velocity(guard: &mut Guard, um_per_s: f64, ms: u64) -> Result<f64, Refusal> {
    guard.check_velocity(um_per_s, at(ms), at(ms), Ok(()), PACE)
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let default = StageConfig::default;
    for (config, word) in [
        (
            StageConfig {
                z_range_um: (5.0, 5.0),
                ..default()
            },
            "z_min 5",
        ),
        (
            StageConfig {
                y_range_um: (f64::NAN, 5.0),
                ..default()
            },
            "y_min NaN",
        ),
        (
            StageConfig {
                x_range_um: (0.0, 2e6),
                ..default()
            },
            "x_max 2000000",
        ),
        (
            StageConfig {
                max_um_per_s: 0.0,
                ..default()
            },
            "max_um_per_s is 0",
        ),
        (
            StageConfig {
                max_down_um_per_s: f64::NAN,
                ..default()
            },
            "max_down_um_per_s is NaN",
        ),
        (
            StageConfig {
                command_timeout_ms: 10,
                ..default()
            },
            "command_timeout_ms is 10",
        ),
    ] {
        let sentence = Guard::new(config).unwrap_err().to_string();
        assert!(sentence.contains(word), "{sentence}");
    }
}

#[test]
fn velocities_are_cut_or_refused() {
    for (um_per_s, expected) in [(100.0, 100.0), (0.0, 0.0), (5000.0, 800.0), (-5000.0, -500.0)] {
        assert_eq!(velocity(&mut guard(), um_per_s, 0), Ok(expected), "{um_per_s}");
    }
    for (um_per_s, word) in [
        (f64::NAN, "not finite"),
        (f64::INFINITY, "not finite"),
        (1e300, "beyond anything"),
        (1e-12, "the slowest is"),
    ] {
        let refused = velocity(&mut guard(), um_per_s, 0).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let mut guard = guard();
    let stale = guard.check_velocity(10.0, at(0), at(201), Ok(()), PACE);
    assert!(
        matches!(
            stale,
            Err(Refusal::Stale {
                age_ms: 201,
                limit_ms: 200
            })
        ),
        "{stale:?}"
    );
    let future = guard.check_velocity(10.0, at(60), at(0), Ok(()), PACE);
    assert!(
        matches!(future, Err(Refusal::Future { ahead_ms: 60 })),
        "{future:?}"
    );
    assert_eq!(
        guard.check_velocity(10.0, at(0), at(0), Err(Refusal::Busy), PACE),
        Err(Refusal::Busy)
    );
    assert_eq!(
        guard.check_velocity(0.0, at(0), at(0), Err(Refusal::Busy), PACE),
        Ok(0.0),
        "a zero is always heard"
    );
    assert_eq!(guard.refused(), 3);
}

#[test]
fn a_stop_holds_until_the_stream_is_silent() {
    let mut guard = guard();
    assert_eq!(velocity(&mut guard, -50.0, 0), Ok(-50.0));
    guard.stop(at(10));
    for ms in (20..2000).step_by(20) {
        assert_eq!(velocity(&mut guard, -50.0, ms), Err(Refusal::Stopped), "{ms} ms");
    }
    assert_eq!(
        velocity(&mut guard, 0.0, 2000),
        Ok(0.0),
        "a zero may come from another commander"
    );
    assert_eq!(velocity(&mut guard, -50.0, 2480), Err(Refusal::Stopped));
    assert_eq!(velocity(&mut guard, -50.0, 2990), Ok(-50.0));
    guard.stop(at(3000));
    guard.release();
    assert_eq!(velocity(&mut guard, -50.0, 3001), Ok(-50.0));
}

#[test]
fn moves_stay_inside_and_are_slow_near_the_slide() {
    for (from_um, by_um, um_per_s, expected) in [
        ([0.0; 3], [0.0, 0.0, 299.0], 100.0, Ok(100.0)),
        (
            [0.0; 3],
            [0.0, 0.0, 299.1],
            100.0,
            Err("z = 299.1 µm: permitted are -99.0 to 299.0"),
        ),
        ([0.0; 3], [0.0, 0.0, -99.1], 100.0, Err("z = -99.1")),
        ([0.0; 3], [60_000.0, 0.0, 0.0], 100.0, Err("x = 60000.0")),
        ([0.0; 3], [0.0, f64::NAN, 0.0], 100.0, Err("not finite")),
        ([0.0; 3], [0.0, 0.0, 10.0], f64::NAN, Err("not finite")),
        ([0.0; 3], [0.0, 0.0, 10.0], 0.0, Err("beyond anything")),
        // From beyond a limit back is permitted, further out is not; and nothing from a place that is not known.
        ([0.0, 0.0, -140.0], [0.0, 0.0, 10.0], 100.0, Ok(100.0)),
        ([0.0, 0.0, -140.0], [0.0, 0.0, -1.0], 100.0, Err("z = -141.0")),
        ([0.0, 0.0, f64::NAN], [0.0, 0.0, 1.0], 100.0, Err("z = NaN")),
        // 25 µm above the limit a quarter of a second is 100 µm/s.
        ([0.0; 3], [0.0, 0.0, -75.0], 900.0, Ok(100.0)),
        // Along the path: z has a share of 0.6.
        ([0.0; 3], [80.0, 0.0, -60.0], 900.0, Ok(160.0 / 0.6)),
    ] {
        let found = guard().check_move(from_um, by_um, um_per_s, Ok(()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert!((found - expected).abs() < 1e-9, "{by_um:?}: {found}"),
            (Err(refusal), Err(word)) => assert!(refusal.to_string().contains(word), "{by_um:?}: {refusal}"),
            (found, _) => panic!("{from_um:?} {by_um:?}: {found:?}, not {expected:?}"),
        }
    }
    let busy = guard().check_move([0.0; 3], [1.0, 0.0, 0.0], 10.0, Err(Refusal::Busy));
    assert_eq!(busy, Err(Refusal::Busy));
}

#[test]
fn without_a_position_only_a_slow_way_up_is_left() {
    let mut guard = guard();
    guard.distrust("something happened");
    assert!(guard.doubt().starts_with("something happened; ") && guard.doubt().contains("accept_position"));
    assert!(matches!(
        velocity(&mut guard, 10.0, 0),
        Err(Refusal::Unvouched { .. })
    ));
    assert_eq!(
        guard.check_move([f64::NAN; 3], [0.0, 0.0, 500.0], 900.0, Ok(())),
        Ok(BLIND_UM_PER_S)
    );
    for by_um in [[0.0, 0.0, -0.1], [0.0, 0.0, 500.1], [1.0, 0.0, 1.0]] {
        assert!(
            guard.check_move([0.0; 3], by_um, 10.0, Ok(())).is_err(),
            "{by_um:?}"
        );
    }
    assert_eq!(
        guard.violation(0.0, -2.0, 1.5).as_deref(),
        Some("the lens went down while it was sent up")
    );
    assert_eq!(guard.violation(0.0, 2.0, 1.5), None);
    guard.vouch([false, false, true]);
    assert!(
        guard
            .check_move([0.0; 3], [0.0, 0.0, -10.0], 10.0, Ok(()))
            .is_ok()
    );
    assert_eq!(
        guard.check_move([0.0; 3], [1.0, 0.0, 0.0], 10.0, Ok(())),
        Err(Refusal::UnvouchedXy)
    );
}

#[test]
fn reports_beyond_a_limit_end_a_motion_that_went_there() {
    for (from_um, z_um, word) in [
        (-95.0, -103.0, Some("below the limit of -100")),
        (295.0, 302.0, Some("above the limit of 300")),
        // Back from beyond a limit.
        (-140.0, -130.0, None),
        (320.0, 310.0, None),
        (0.0, -90.0, None),
    ] {
        let found = guard().violation(from_um, z_um, 1.5);
        match word {
            Some(word) => assert!(
                found.as_ref().is_some_and(|found| found.contains(word)),
                "{found:?}"
            ),
            None => assert_eq!(found, None),
        }
    }
}

#[test]
fn a_position_comes_back_only_if_everything_agrees() {
    let record = Remembered {
        clean: true,
        mark: Some(471_100),
        machine_um: [0.0, 0.0, 40.0],
        offset_um: [0.0, 0.0, 200.0],
        valid: [true; 3],
    };
    let evidence = Evidence {
        machine_um: Some([0.0, 0.0, 40.4]),
        mark: Some(471_100),
        is_locked: false,
        tolerance_um: 1.2,
    };
    let moved = Evidence {
        machine_um: Some([0.0, 0.0, 42.0]),
        ..evidence
    };
    let reset = Evidence {
        mark: Some(0),
        ..evidence
    };
    let unclean = Remembered {
        clean: false,
        ..record
    };
    // Which record meets which controller: does the position count, is its height offered, is the offset taken?
    for (memory, evidence, is_valid, is_offered, has_offset) in [
        (Some(record), evidence, true, true, true),
        (None, evidence, false, true, false),
        (Some(record), moved, false, true, true),
        (Some(record), reset, false, false, false),
        (Some(unclean), evidence, false, true, true),
        (Some(unclean), reset, false, false, false),
        (
            Some(record),
            Evidence {
                machine_um: None,
                ..evidence
            },
            false,
            true,
            false,
        ),
        (
            Some(record),
            Evidence {
                is_locked: true,
                ..evidence
            },
            false,
            false,
            false,
        ),
        (
            Some(Remembered {
                machine_um: [f64::NAN; 3],
                ..record
            }),
            evidence,
            false,
            true,
            false,
        ),
        (
            Some(Remembered::powered_up_at([0.0, 0.0, 30.0])),
            Evidence {
                machine_um: Some([0.0; 3]),
                ..evidence
            },
            true,
            true,
            true,
        ),
    ] {
        let mut guard = Guard::default();
        let recalled = guard.recall(memory, evidence);
        let found = (
            guard.knows_height(),
            guard.is_offered(),
            recalled.offset_um.is_some(),
        );
        assert_eq!(
            found,
            (is_valid, is_offered, has_offset),
            "{memory:?} {evidence:?}: {}",
            guard.doubt()
        );
        assert_eq!(guard.doubt().is_empty(), is_valid);
    }
}

proptest! {
    /// Whatever is asked, in whatever order: nothing is permitted that leads below the limit or is faster than it may be, and nothing at
    /// all of a stage whose position does not count, but up.
    #[test]
    fn nothing_is_permitted_that_the_limits_forbid(
        asked in prop::collection::vec((0_u8..6, -500.0..500.0_f64, 0.1..2000.0_f64), 1..60),
        from_um in -99.0..299.0_f64,
    ) {
        let mut guard = guard();
        for (number, (what, um, um_per_s)) in asked.into_iter().enumerate() {
            let ms = 20 * number as u64;
            match what {
                0 => guard.stop(at(ms)),
                1 => guard.distrust("for once"),
                2 => guard.vouch([true; 3]),
                3 => {
                    if let Ok(speed) = velocity(&mut guard, um, ms) {
                        prop_assert!((-500.0..=800.0).contains(&speed));
                        prop_assert!(speed == 0.0 || guard.knows_height());
                    }
                }
                _ => {
                    if let Ok(speed) = guard.check_move([0.0, 0.0, from_um], [0.0, 0.0, um], um_per_s, Ok(())) {
                        prop_assert!(speed <= um_per_s);
                        if guard.knows_height() {
                            prop_assert!((-99.0..=299.0).contains(&(from_um + um)));
                            prop_assert!(um >= 0.0 || speed <= guard.speed_at(from_um + um) + ROUNDING);
                        } else {
                            // A move of nothing has no speed.
                            prop_assert!(um == 0.0 || (um > 0.0 && speed <= BLIND_UM_PER_S + ROUNDING));
                        }
                    }
                }
            }
        }
    }
}
