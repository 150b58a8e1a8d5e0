//! Heights that the stage is asked to drive to: it lands there, and all that holds for velocities holds for them.

use std::time::Duration;

use hhnet::sim::grbl::EmulatorConfig;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::{Refusal, StageState};
use hhnet::units::Instant;
use proptest::prelude::*;

use crate::common::pair::{Around, Pair};

/// Permitted heights, µm.
const RANGE_UM: (f64, f64) = (-100.0, 300.0);
const TICK: Duration = Duration::from_millis(20);

/// The lowest that the lens has been, µm, and the fastest that it has gone down, µm/s.
#[derive(Clone, Default)]
struct Seen {
    lowest_um: f64,
    before: Option<(Instant, f64)>,
    fastest_down_um_per_s: f64,
}

impl Around for Seen {
    fn look(
        &mut self,
        _: &hhnet::protocol::grbl::host::GrblHost,
        emulator: &hhnet::sim::grbl::Emulator,
        now: Instant,
    ) {
        let z_um = emulator.mechanics(hhnet::stage::Axis::Z).motor().position_um(now);
        self.lowest_um = self.lowest_um.min(z_um);
        if let Some((at, before_um)) = self.before
            && now.since(at) >= Duration::from_millis(5)
        {
            let down_um_per_s = (before_um - z_um) / now.since(at).as_secs_f64();
            self.fastest_down_um_per_s = self.fastest_down_um_per_s.max(down_um_per_s);
            self.before = Some((now, z_um));
        }
        self.before = self.before.or(Some((now, z_um)));
    }
}

fn connected() -> Pair<Seen> {
    let stage = StageConfig {
        z_range_um: RANGE_UM,
        ..StageConfig::default()
    };
    let now = Instant::from_nanos(1_000_000_000);
    let mut pair = Pair::new(stage, EmulatorConfig::default(), 0.0, now, Seen::default());
    pair.run_ms(1000);
    pair.check_first_motion();
    pair
}

impl Pair<Seen> {
    fn target(&mut self, z_um: f64, um_per_s: f64) -> Result<(), Refusal> {
        self.host.command_target(z_um, um_per_s, self.now, self.now)
    }

    /// Asks for a height every 20 ms for so long.
    fn ask(&mut self, z_um: f64, um_per_s: f64, ms: u64) -> Result<(), Refusal> {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.target(z_um, um_per_s)?;
            self.run_until((self.now + TICK).min(end));
        }
        Ok(())
    }

    /// The same until the stage stands; how long that took, ms.
    fn drive_to(&mut self, z_um: f64, um_per_s: f64) -> f64 {
        let began = self.now;
        loop {
            self.ask(z_um, um_per_s, 20).unwrap();
            if self.host.is_at_rest() {
                return self.now.since(began).as_secs_f64() * 1000.0;
            }
            assert!(
                self.now.since(began) < Duration::from_secs(20),
                "{:?}",
                self.host.state()
            );
        }
    }
}

#[test]
fn the_stage_lands_where_it_was_told_to() {
    let mut pair = connected();
    for (z_um, um_per_s, most_ms) in [
        (25.0, 500.0, 160.0),
        (24.6, 500.0, 60.0),
        (-20.0, 400.0, 220.0),
        (-20.4, 20.0, 100.0),
        (200.0, 1000.0, 400.0),
        (0.0, 300.0, 850.0),
    ] {
        let took_ms = pair.drive_to(z_um, um_per_s);
        assert!((pair.z_um() - z_um).abs() < 0.2, "{z_um}: {}", pair.z_um());
        assert!((pair.host.state().z_um() - z_um).abs() < 0.6);
        assert!(took_ms <= most_ms, "{z_um} took {took_ms} ms");
        // Said again, it is no motion.
        let stood_um = pair.z_um();
        pair.ask(z_um, um_per_s, 200).unwrap();
        assert_eq!(
            (pair.z_um(), pair.host.state().state),
            (stood_um, StageState::Idle)
        );
    }
}

#[test]
fn a_height_may_change_on_the_way() {
    for (first_um, after_ms, second_um) in [
        (60.0, 60, 90.0),
        (60.0, 60, 55.0),
        (60.0, 100, 10.0),
        (-60.0, 60, -61.0),
        (-60.0, 60, 40.0),
    ] {
        let mut pair = connected();
        pair.ask(first_um, 400.0, after_ms).unwrap();
        pair.drive_to(second_um, 400.0);
        assert!(
            (pair.z_um() - second_um).abs() < 0.2,
            "{second_um}: {}",
            pair.z_um()
        );
    }
}

#[test]
fn it_is_a_velocity_in_every_other_respect() {
    // Without a fresh command it ends early.
    let mut pair = connected();
    pair.target(200.0, 100.0).unwrap();
    pair.run_to_rest(1000);
    let went_um = pair.z_um();
    assert!((10.0..40.0).contains(&went_um), "{went_um}");
    // A velocity takes over, and a zero ends it.
    pair.ask(200.0, 100.0, 100).unwrap();
    pair.velocity(0.0).unwrap();
    pair.run_to_rest(500);
    assert!(pair.z_um() < went_um + 30.0);
    // A stop holds against it.
    pair.ask(200.0, 100.0, 100).unwrap();
    pair.host.command_stop(pair.now);
    assert_eq!(pair.ask(200.0, 100.0, 300), Err(Refusal::Stopped));
    pair.run_to_rest(500);
    let stood_um = pair.z_um();
    assert_eq!(pair.target(200.0, 100.0), Err(Refusal::Stopped));
    pair.run_ms(600);
    assert_eq!(pair.z_um(), stood_um);
    pair.drive_to(20.0, 100.0);
    // Old commands, heights outside the limits and numbers that are none move nothing.
    let long_ago = Instant::from_nanos(pair.now.as_nanos() - 1_000_000_000);
    assert!(matches!(
        pair.host.command_target(30.0, 100.0, long_ago, pair.now),
        Err(Refusal::Stale { .. })
    ));
    for (z_um, um_per_s) in [
        (-150.0, 100.0),
        (400.0, 100.0),
        (f64::NAN, 100.0),
        (30.0, f64::NAN),
        (30.0, 1e9),
        (f64::INFINITY, 100.0),
    ] {
        assert!(pair.target(z_um, um_per_s).is_err(), "{z_um} {um_per_s}");
    }
    pair.run_ms(300);
    assert!((pair.z_um() - 20.0).abs() < 0.2);
}

#[test]
fn the_first_motion_is_checked_before_it() {
    let stage = StageConfig {
        z_range_um: RANGE_UM,
        ..StageConfig::default()
    };
    let now = Instant::from_nanos(1_000_000_000);
    let mut pair = Pair::new(stage, EmulatorConfig::default(), 0.0, now, Seen::default());
    pair.run_ms(1000);
    pair.drive_to(-10.0, 200.0);
    assert!((pair.z_um() + 10.0).abs() < 0.2, "{}", pair.z_um());
}

/// The check of the first motion goes farther up than the height asked for lies, and the way there turns.
#[test]
fn a_way_that_turns_is_no_faster_down_than_is_permitted() {
    let stage = StageConfig {
        z_range_um: RANGE_UM,
        max_down_um_per_s: 20.0,
        ..StageConfig::default()
    };
    let now = Instant::from_nanos(1_000_000_000);
    let mut pair = Pair::new(stage, EmulatorConfig::default(), 0.0, now, Seen::default());
    pair.run_ms(1000);
    pair.drive_to(3.0, 500.0);
    assert!((pair.z_um() - 3.0).abs() < 0.2, "{}", pair.z_um());
    // Steps of the motor make a little more of it in 5 ms.
    let fastest_um_per_s = pair.around.fastest_down_um_per_s;
    assert!((15.0..=25.0).contains(&fastest_um_per_s), "{fastest_um_per_s}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_course_of_commands_passes_a_limit(
        commands in proptest::collection::vec((-160.0..400.0_f64, 10.0..2000.0_f64, 1..200_u64), 1..12),
    ) {
        let mut pair = connected();
        pair.around = Seen::default();
        for (z_um, um_per_s, ms) in commands {
            let is_inside = (RANGE_UM.0 + 1.0..=RANGE_UM.1 - 1.0).contains(&z_um);
            let outcome = pair.ask(z_um, um_per_s, ms);
            prop_assert!(is_inside || outcome.is_err() || pair.z_um() > RANGE_UM.1, "{z_um}");
        }
        pair.run_to_rest(2000);
        prop_assert!(pair.around.lowest_um >= RANGE_UM.0, "{}", pair.around.lowest_um);
        prop_assert!(pair.around.fastest_down_um_per_s <= 510.0, "{}", pair.around.fastest_down_um_per_s);
    }
}
