//! The whole loop without pictures, in virtual time: controller, host, cable, emulated firmware, and the mechanics
//! between motor and lens. The classifier is one that always knows, so what is left is motion and timing.

mod kept;
mod world;

use std::time::Duration;

use hhnet::focus::{Law, RunState};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::statistics::sorted;

use self::world::{Loop, World, Z_RANGE_UM, chance, far_start_um, offset_um, usual};

#[test]
fn two_hundred_runs_end_in_focus_with_real_mechanics() {
    for law in [Law::Predictive, Law::Stepwise] {
        let began = std::time::Instant::now();
        let world = World {
            law,
            ..World::default()
        };
        let mut took_s = Vec::new();
        let mut virtual_s = 0.0;
        let mut worst_um = 0.0_f64;
        let mut lowest_um = 0.0_f64;
        for index in 0..200 {
            let offset_um = offset_um(index);
            let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
            took_s.push(run.check_run(&format!("{law:?} from {offset_um} µm")));
            worst_um = worst_um.max(run.defocus_um().abs());
            lowest_um = lowest_um.min(run.around.lowest_lens_um);
            virtual_s += run.now.as_nanos() as f64 * 1e-9 - 5.0;
        }
        let took_s = sorted(took_s);
        let real_s = began.elapsed().as_secs_f64();
        println!(
            "{law:?}, 200 first runs: {:.2} s median, {:.2} s at most; |defocus| at most {worst_um:.2} µm, lens never below {lowest_um:.1} µm; \
             {:.0} runs per minute, {:.0} times real time",
            took_s[100],
            took_s[199],
            200.0 * 60.0 / real_s,
            virtual_s / real_s
        );
        assert!(virtual_s > 5.0 * real_s, "{virtual_s} s took {real_s} s");
    }
}

/// The bridge goes up by some micrometres and compares before it does what it is told first.
#[test]
fn the_check_of_the_first_motion_is_a_look_from_higher_up() {
    for law in [Law::Predictive, Law::Stepwise] {
        let world = World {
            law,
            is_checked: false,
            ..World::default()
        };
        let took_s = sorted((0..100).map(|index| {
            let offset_um = offset_um(index);
            Loop::in_world(world, offset_um, MechanicsConfig::fine_focus())
                .check_run(&format!("{law:?} from {offset_um} µm"))
        }));
        println!(
            "{law:?}, 100 very first runs: {:.2} s median, {:.2} s at most",
            took_s[50], took_s[99]
        );
    }
}

/// What a run costs once an earlier one has shown that the picture follows the stage.
#[test]
fn the_next_field_is_in_focus_in_no_time() {
    for law in [Law::Predictive, Law::Stepwise] {
        let world = World {
            law,
            noise_um: 0.1,
            wobble: 0.04,
            stretch: 0.05,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 20.0, MechanicsConfig::fine_focus());
        run.check_run("the first run");
        let mut took_s = Vec::new();
        let mut errors_um = Vec::new();
        for index in 0..400 {
            run.go_on_at(0.5 * offset_um(index));
            took_s.push(run.check_run(&format!("{law:?}, field {index}")));
            errors_um.push(run.defocus_um().abs());
        }
        let (took_s, errors_um) = (sorted(took_s), sorted(errors_um));
        println!(
            "{law:?}, 400 further runs from ±30 µm: {:.2} s median, {:.2} s at 99 %, {:.2} s at most; |defocus| {:.2} µm median, {:.2} µm at most",
            took_s[200], took_s[396], took_s[399], errors_um[200], errors_um[399]
        );
    }
}

/// Play only moves the count: the loop closes over the picture. A carriage that rings for so long needs more than the usual rest after a fast
/// move.
#[test]
fn a_worn_drive_still_focuses() {
    for (law, settle_ms) in [(Law::Predictive, 100), (Law::Stepwise, 30)] {
        for (index, backlash_um) in [0.0, 1.0, 4.0, 8.0].into_iter().enumerate() {
            for sign in [-1.0, 1.0] {
                let worn = MechanicsConfig::fine_focus()
                    .with_backlash(backlash_um)
                    .and_then(|worn| worn.with_settling(25.0, 0.1))
                    .unwrap();
                let world = World {
                    law,
                    settle: Duration::from_millis(settle_ms),
                    ..World::default()
                };
                let mut run = Loop::in_world(world, sign * (20.0 + 7.0 * index as f64), worn);
                run.check_run(&format!("{law:?}, {backlash_um} µm of play"));
                assert_eq!(*run.around.controller.state(), RunState::InFocus);
            }
        }
    }
}

/// A focus below the lowest permitted count is not reached, and the lens stops at the limit.
#[test]
fn z_min_holds_with_play_and_ringing() {
    let config = MechanicsConfig::fine_focus();
    let mut run = Loop::focusing(140.0, config);
    let (state, _) = run.run();
    assert!(matches!(state, RunState::Failed(_)), "{state:?}");
    assert!(
        run.around.lowest_count_um >= Z_RANGE_UM.0,
        "count at {}",
        run.around.lowest_count_um
    );
    assert!(
        // The law begins no step that would lead past the limit.
        run.around.lowest_count_um <= Z_RANGE_UM.0 + 20.0,
        "stopped at {}: {state:?}",
        run.around.lowest_count_um
    );
    assert!(
        run.around.lowest_lens_um >= Z_RANGE_UM.0,
        "lens at {}",
        run.around.lowest_lens_um
    );
}

/// Runs a hundred times; how deep below its start the lens went at most, µm, and how many runs ended in focus.
fn check_ends(
    name: &str,
    law: Law,
    change: impl Fn(World) -> World,
    cause: &str,
    depth_um: f64,
) -> (f64, usize) {
    let (mut deepest_um, mut focused) = (0.0_f64, 0);
    for index in 0..100 {
        let offset_um = far_start_um(index);
        let world = change(usual(law, index));
        // The play is the lens's own, whatever the motor makes of a count.
        let play_um = 2.0 / world.scale.abs();
        let mechanics = MechanicsConfig::fine_focus().with_backlash(play_um).unwrap();
        let mut run = Loop::in_world(world, offset_um, mechanics);
        let start_um = run.lens_um();
        let (state, _) = run.run();
        let depth = start_um - run.around.lowest_physical_um;
        match state {
            RunState::Failed(reason) => assert!(
                reason.contains(cause),
                "{name}, {law:?} from {offset_um:.1} µm: {reason}, not {cause}"
            ),
            _ => focused += 1,
        }
        // A lens that follows is meant to go down to focus.
        let follows = !world.is_frozen && (0.5..2.0).contains(&world.scale);
        // Where estimates saturate, the lens goes as far as its class promises before it has to be seen to follow.
        let saturated_um = 2.0 * run.around.controller.config().edges.far_um;
        let meant_um = if follows {
            offset_um.max(0.0)
        } else if world.is_frozen && run.around.first_look_um.is_some_and(|um| um > saturated_um - 1.0) {
            0.5 * saturated_um
        } else {
            0.0
        };
        assert!(
            depth - meant_um <= depth_um,
            "{name}, {law:?} from {offset_um:.1} µm: {depth:.1} µm below the start"
        );
        deepest_um = deepest_um.max(depth - meant_um);
    }
    (deepest_um, focused)
}

#[test]
fn a_picture_that_does_not_follow_ends_the_run_with_its_cause() {
    let reversed = |world| World { scale: -1.0, ..world };
    let frozen = |world| World {
        is_frozen: true,
        ..world
    };
    let still = |world| World {
        is_frozen: true,
        noise_um: 0.0,
        ..world
    };
    let inches = |world| World { scale: 25.4, ..world };
    for law in [Law::Predictive, Law::Stepwise, Law::Paper] {
        for (name, change, cause, depth_um) in [
            (
                "reversed",
                &reversed as &dyn Fn(World) -> World,
                "wrong way",
                18.0,
            ),
            ("frozen", &frozen, "does not change", 10.0),
            ("still", &still, "does not change", 10.0),
            ("inches", &inches, "steps per millimetre", 25.0),
        ] {
            let (deepest_um, focused) = check_ends(name, law, change, cause, depth_um);
            println!("{name}, {law:?}: at most {deepest_um:.1} µm below the start, {focused} in focus");
            assert_eq!(focused, 0, "{name}");
        }
    }
}

/// What an earlier run has shown does not excuse a later one.
#[test]
fn a_picture_that_stands_still_later_ends_the_run() {
    let mut deepest_um = 0.0_f64;
    for index in 0..100 {
        let world = World {
            noise_um: 0.05,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 20.0, MechanicsConfig::fine_focus());
        run.check_run("the first run");
        // Not where focus was confirmed just now.
        let side = if index % 2 == 0 { 1.0 } else { -1.0 };
        run.go_on_at(side * (7.0 + 0.25 * index as f64));
        (run.around.world.is_frozen, run.around.first_look_um) = (true, None);
        let start_um = run.lens_um();
        run.around.lowest_physical_um = start_um;
        let (state, _) = run.run();
        let RunState::Failed(reason) = state else {
            panic!("field {index}: {state:?}")
        };
        let is_named = reason.contains("does not change") || reason.contains("does not follow");
        assert!(is_named, "field {index}: {reason}");
        let seen_um = run.around.first_look_um.unwrap_or_default();
        let meant_um = seen_um.max(0.0);
        deepest_um = deepest_um.max(start_um - run.around.lowest_physical_um - meant_um);
    }
    println!("at most {deepest_um:.1} µm deeper than the first look ordered");
    assert!(deepest_um < 8.0, "{deepest_um}");
}

#[test]
fn a_scale_that_is_half_wrong_is_named_or_does_no_harm() {
    let wrong = |world| World { scale: 1.5, ..world };
    for law in [Law::Predictive, Law::Stepwise] {
        let (deepest_um, focused) = check_ends("half", law, wrong, "steps per millimetre", 20.0);
        println!("{law:?}: {deepest_um:.1} µm deeper than meant, {focused} in focus");
    }
}

#[test]
fn thousands_of_usual_runs_raise_no_alarm() {
    for law in [Law::Predictive, Law::Stepwise] {
        let mut took_s = Vec::new();
        for index in 0..2000 {
            let offset_um = 120.0 * chance(index, 7) - 60.0;
            let play_um = [0.0, 1.0, 2.0, 2.0][(index % 4) as usize];
            let mechanics = MechanicsConfig::fine_focus().with_backlash(play_um).unwrap();
            let mut run = Loop::in_world(usual(law, index), offset_um, mechanics);
            took_s.push(run.check_run(&format!("{law:?} {index}, from {offset_um} µm")));
        }
        let took_s = sorted(took_s);
        println!(
            "{law:?}: {:.2} s median, {:.2} s at most",
            took_s[1000], took_s[1999]
        );
    }
}

/// The paper's law may hunt until its time is over; what it declares is true, and it raises no alarm either.
#[test]
fn the_papers_law_declares_nothing_in_motion() {
    let mut focused = 0;
    for index in 0..200 {
        let offset_um = far_start_um(index);
        let world = usual(Law::Paper, index);
        let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
        let (state, _) = run.run();
        let defocus_um = run.defocus_um();
        match state {
            RunState::InFocus => {
                focused += 1;
                assert!(
                    defocus_um.abs() <= 1.2,
                    "{index}: from {offset_um} µm, ends at {defocus_um} µm"
                );
            }
            RunState::Failed(reason) => assert!(reason.contains("no focus within"), "{index}: {reason}"),
            _ => {}
        }
    }
    println!("{focused} of 200 in focus");
}
