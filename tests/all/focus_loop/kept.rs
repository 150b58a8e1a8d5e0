//! What is done where no estimate can be trusted, and when focus is found.

use hhnet::focus::{RunState, Sweeping};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::statistics::sorted;

use super::world::{Loop, World, Z_RANGE_UM};

/// Where no estimate is trusted: the lens finds estimates that are, or the peak of sharpness, or is back up where it began.
#[test]
fn a_lens_that_is_lost_sweeps() {
    for (name, trusted_um, has_specimen, least_um) in [
        ("trusted near focus", 25.0, true, 30.0),
        ("never trusted", -1.0, true, 0.0),
        ("empty glass", -1.0, false, 0.0),
    ] {
        let mut took_s = Vec::new();
        let mut worst_um = 0.0_f64;
        for index in 0..60 {
            let side = if index % 2 == 0 { 1.0 } else { -1.0 };
            let offset_um = side * (least_um + 1.5 * index as f64).min(95.0);
            let world = World {
                sweeping: Sweeping::Always,
                trusted_um,
                has_specimen,
                noise_um: 0.1,
                ..World::default()
            };
            let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
            let start_um = run.lens_um();
            let (state, seconds) = run.run();
            took_s.push(seconds);
            let around = &run.around;
            assert!(around.lowest_count_um >= Z_RANGE_UM.0 && around.lowest_lens_um >= Z_RANGE_UM.0);
            if has_specimen {
                assert_eq!(state, RunState::InFocus, "{name}, from {offset_um} µm");
                worst_um = worst_um.max(run.defocus_um().abs());
                assert!(around.controller.account().is_confirmed);
            } else {
                let RunState::Failed(reason) = state else {
                    panic!("{name}: {state:?}")
                };
                assert!(
                    reason.contains("of a sweep") && reason.contains("sharper"),
                    "{reason}"
                );
                assert!(
                    run.lens_um() >= start_um - 3.0,
                    "failed {} µm below the start",
                    start_um - run.lens_um()
                );
            }
        }
        let took_s = sorted(took_s);
        println!(
            "{name}: {:.1} s median, {:.1} s at most, |defocus| at most {worst_um:.2} µm",
            took_s[30], took_s[59]
        );
        assert!(worst_um <= 1.0, "{name}: {worst_um}");
    }
}

/// Up by the stage's word may lead to the slide: before the picture was seen to follow, a lens that is lost goes no farther than one step.
#[test]
fn a_stage_that_is_not_known_is_not_swept() {
    for offset_um in [-90.0, -30.0, 60.0, 95.0] {
        let world = World {
            scale: -1.0,
            trusted_um: -1.0,
            ..World::default()
        };
        let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
        let start_um = run.lens_um();
        let (state, _) = run.run();
        assert!(matches!(state, RunState::Failed(_)), "{state:?}");
        let way_um = start_um - run.around.lowest_physical_um;
        assert!(way_um < 30.0, "{offset_um} µm: {way_um} µm towards the slide");
    }
    // Once it was, it is.
    let mut run = Loop::focusing(15.0, MechanicsConfig::fine_focus());
    run.check_run("the first run");
    run.around.world.trusted_um = 25.0;
    run.go_on_at(50.0);
    run.check_run("a field far away");
}

/// A specimen that drifts stays in focus, and what is no specimen is not followed.
#[test]
fn focus_is_held_against_drift() {
    for (um_per_s, least) in [(1.0, 0.99), (-1.0, 0.99), (2.0, 0.9), (-2.0, 0.9), (0.0, 1.0)] {
        let world = World {
            noise_um: 0.1,
            drift_um_per_s: um_per_s,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 15.0, MechanicsConfig::fine_focus());
        let (state, _) = run.run();
        assert_eq!(state, RunState::InFocus);
        let half_depth_um = run.around.controller.config().edges.in_focus_um;
        let (mut within, mut errors_um) = (0, Vec::new());
        for _ in 0..6000 {
            run.run_ms(5);
            let off_um = run.defocus_um().abs();
            within += u32::from(off_um <= half_depth_um);
            errors_um.push(off_um);
        }
        assert_eq!(
            *run.around.controller.state(),
            RunState::InFocus,
            "{um_per_s} µm/s"
        );
        let errors_um = sorted(errors_um);
        let share = f64::from(within) / 6000.0;
        println!(
            "{um_per_s} µm/s: {:.2} % within half a depth of field, |defocus| {:.2} µm median, {:.2} µm at most",
            100.0 * share,
            errors_um[3000],
            errors_um[5999]
        );
        assert!(share >= least, "{um_per_s} µm/s: {share}");
    }
}

#[test]
fn a_picture_that_stands_still_while_focus_is_held_ends_the_run() {
    for shown_um in [0.45, -0.45] {
        let mut run = Loop::focusing(15.0, MechanicsConfig::fine_focus());
        assert_eq!(run.run().0, RunState::InFocus);
        (run.around.world.is_frozen, run.around.first_look_um) = (true, Some(shown_um));
        let z_um = run.lens_um();
        run.run_ms(60_000);
        let RunState::Failed(reason) = run.around.controller.state() else {
            panic!("{:?}", run.around.controller.state())
        };
        assert!(reason.contains("does not change"), "{reason}");
        assert!((run.lens_um() - z_um).abs() < 15.0, "{}", run.lens_um() - z_um);
    }
}
