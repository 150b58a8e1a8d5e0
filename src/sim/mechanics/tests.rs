//! Mechanics against closed forms, a numerical solution, and whatever a motor may be told.

use proptest::prelude::*;

use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000);
const STOPS_UM: (f64, f64) = (-40.0, 60.0);

fn ms(ms: f64) -> Instant {
    START + Duration::from_nanos((ms * 1e6) as u64)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An axis at 0 that has driven to each of `targets_um` in 100 ms each.
fn driven(config: MechanicsConfig, targets_um: &[f64]) -> Mechanics {
    let mut axis = Mechanics::new(config, 0.0);
    for target_um in targets_um {
        axis.push_steady(START, millis(100), *target_um);
    }
    axis
}

fn with_play(backlash_um: f64) -> MechanicsConfig {
    MechanicsConfig::rigid().with_backlash(backlash_um).unwrap()
}

#[test]
fn rigid_is_where_the_motor_is() {
    let mut axis = driven(MechanicsConfig::rigid(), &[37.0, -12.5]);
    axis.push_ramp(START, 0.5, 50.0, -300.0);
    for at in 0..900 {
        let at = ms(f64::from(at) * 0.9);
        assert_eq!(axis.lens_um(at, None), axis.motor().position_um(at));
        assert_eq!(axis.drift_um(at), 0.0);
    }
}

#[test]
fn backlash_from_above_and_below() {
    // Play is taken up upwards at the start. Where the motor goes, where the lens ends.
    for (targets_um, expected_um) in [
        (&[10.0][..], 10.0),
        (&[-1.5], 0.0),
        (&[-10.0], -8.0),
        (&[-10.0, -9.0], -8.0),
        (&[-10.0, -7.0], -7.0),
        (&[10.0, 5.0], 7.0),
        // The same count, from below and from above: apart by the play.
        (&[-20.0, 5.0], 5.0),
        (&[20.0, 5.0], 7.0),
        (&[20.0, 19.0, 20.0, 18.5], 20.0),
    ] {
        let axis = driven(with_play(2.0), targets_um);
        let um = axis.lens_um(ms(1000.0), None);
        assert!((um - expected_um).abs() < 1e-5, "{targets_um:?}: {um}");
    }
}

#[test]
fn the_play_is_crossed_in_time_even_where_the_motor_turns_within_a_piece() {
    // Up at 200 µm/s, braking and turning after 100 ms at 10 µm, back at 0 after 200 ms.
    let mut axis = Mechanics::new(with_play(2.0), 0.0);
    axis.push_ramp(START, 0.25, 200.0, -2000.0);
    for at_ms in [
        10.0, 80.0, 100.0, 120.0, 144.0, 145.0, 150.0, 199.0, 240.0, 250.0, 600.0,
    ] {
        let motor_um = axis.motor().position_um(ms(at_ms));
        let expected_um = if at_ms <= 100.0 {
            motor_um
        } else {
            (motor_um + 2.0).min(10.0)
        };
        let um = axis.lens_um(ms(at_ms), None);
        assert!(
            (um - expected_um).abs() < 1e-4,
            "{at_ms} ms: {um} for {expected_um}"
        );
    }
}

/// Amplitude, frequency and decay of the ringing after a stop from 200 µm/s agree with the parameters.
#[test]
fn settling_rings_as_configured() {
    for (hz, damping) in [(20.0, 0.05), (60.0, 0.15), (100.0, 0.6)] {
        let config = MechanicsConfig::rigid().with_settling(hz, damping).unwrap();
        let mut axis = Mechanics::new(config, 0.0);
        // Long enough for the start's ringing to end.
        axis.push_steady(START, Duration::from_secs(10), 2000.0);
        let stop = START + Duration::from_secs(10);
        let departure = |s: f64| axis.lens_um(stop + Duration::from_secs_f64(s), None) - 2000.0;
        let omega = std::f64::consts::TAU * hz;
        let ringing = omega * (1.0 - damping * damping).sqrt();
        assert!(departure(0.0).abs() < 1e-6);
        // Zeros every half period, with the sign turning in between; peaks at ω_d t = acos ζ, where the envelope is
        // v/ω e^(-ζω t); each half period shrinks by the logarithmic decrement.
        let half = std::f64::consts::PI / ringing;
        let first_peak = damping.acos() / ringing;
        let peak_um = 200.0 / omega * (-damping * omega * first_peak).exp();
        assert!((departure(first_peak) / peak_um - 1.0).abs() < 1e-4, "{hz} Hz");
        for crossing in 1..5 {
            let at = half * f64::from(crossing);
            assert!(departure(at).abs() < 1e-4 * peak_um, "{hz} Hz, zero {crossing}");
        }
        let ratio = departure(first_peak + half) / departure(first_peak);
        let decrement = -(-std::f64::consts::PI * damping / (1.0 - damping * damping).sqrt()).exp();
        assert!((ratio - decrement).abs() < 1e-4, "{ratio} for {decrement}");
    }
}

/// The closed form against small steps of the differential equation itself (Runge-Kutta of fourth order).
#[test]
fn settling_obeys_its_differential_equation() {
    let (hz, damping) = (35.0, 0.2);
    let config = with_play(1.5).with_settling(hz, damping).unwrap();
    let moved = |config: MechanicsConfig| {
        let mut axis = Mechanics::new(config, 0.0);
        axis.push_ramp(START, 0.02, 0.0, 12_000.0);
        axis.push_ramp(START, 0.04, 240.0, -9_000.0);
        axis.push_ramp(START, 0.03, -120.0, 4_000.0);
        axis
    };
    let (axis, drive) = (moved(config.clone()), moved(config.without_settling()));
    let omega = std::f64::consts::TAU * hz;
    // x' = u + 2ζω d, u' = ω² (d - x) has no derivative of the drive in it.
    let slope = |at: f64, x: f64, u: f64| {
        let d = drive.lens_um(START + Duration::from_secs_f64(at), None);
        let dx = u + 2.0 * damping * omega * (d - x);
        (dx, omega * omega * (d - x))
    };
    let (mut x, mut u) = (0.0, 0.0);
    let step = 2e-6;
    for index in 0..80_000 {
        let at = f64::from(index) * step;
        if index % 500 == 0 {
            let um = axis.lens_um(START + Duration::from_secs_f64(at), None);
            assert!((um - x).abs() < 2e-4, "{at} s: {um} for {x}");
        }
        let (a, b) = slope(at, x, u);
        let (c, d) = slope(at + step / 2.0, x + a * step / 2.0, u + b * step / 2.0);
        let (e, f) = slope(at + step / 2.0, x + c * step / 2.0, u + d * step / 2.0);
        let (g, h) = slope(at + step, x + e * step, u + f * step);
        x += step / 6.0 * (a + 2.0 * c + 2.0 * e + g);
        u += step / 6.0 * (b + 2.0 * d + 2.0 * f + h);
    }
}

#[test]
fn drift_warms_up_and_swings() {
    let drift = Drift {
        warm_up_um: 3.0,
        warm_up_s: 100.0,
        swing_um: 0.5,
        swing_s: 40.0,
    };
    let mut axis = Mechanics::new(MechanicsConfig::rigid().with_drift(drift).unwrap(), 0.0);
    assert_eq!(axis.lens_um(ms(5e4), None), 0.0, "not powered yet");
    axis.power_up(START);
    axis.power_up(ms(7e4));
    for (s, expected_um) in [
        (0.0, 0.0),
        (10.0, 3.0 * (1.0 - (-0.1_f64).exp()) + 0.5),
        (100.0, 3.0 * (1.0 - (-1.0_f64).exp())),
        (1e5, 3.0),
    ] {
        let um = axis.lens_um(ms(s * 1000.0), None);
        assert!((um - expected_um).abs() < 1e-6, "{s} s: {um}");
    }
    let rate = axis.lens_um_per_s(START);
    assert!((rate - (0.03 + 0.5 * std::f64::consts::TAU / 40.0)).abs() < 1e-9);
}

#[test]
fn hard_stops_cost_steps() {
    let config = with_play(2.0).with_stops(STOPS_UM.0, STOPS_UM.1, 5.0).unwrap();
    // Motor to 80: the carriage stands at 60, 20 µm are lost.
    let axis = driven(config.clone(), &[80.0]);
    assert_eq!(axis.lens_um(ms(500.0), None), 60.0);
    assert!((axis.lost_um(ms(500.0)) - 20.0).abs() < 1e-9);
    // Half of the way into the stop: 75 ms at 0.8 µm/ms.
    assert!((axis.lens_um(ms(70.0), None) - 56.0).abs() < 1e-6);
    assert_eq!(axis.lens_um(ms(80.0), None), 60.0);
    // Back to a count of 70: the play first, then 8 µm down, though the count still is above the stop.
    let axis = driven(config.clone(), &[80.0, 70.0]);
    assert!((axis.lens_um(ms(500.0), None) - 52.0).abs() < 1e-5);
    // Below: a motor at -100 left the carriage at -40; at a count of -90 it has crossed the play and risen by 8.
    let axis = driven(config, &[-100.0, -90.0]);
    assert!((axis.lens_um(ms(500.0), None) - -32.0).abs() < 1e-5);
    assert!(
        (axis.lost_um(ms(500.0)) - -58.0).abs() < 1e-5,
        "{}",
        axis.lost_um(ms(500.0))
    );
}

#[test]
fn switches_are_pressed_near_the_stops() {
    let config = MechanicsConfig::rigid()
        .with_stops(STOPS_UM.0, STOPS_UM.1, 5.0)
        .unwrap();
    let axis = driven(config, &[50.0, 58.0, -38.0]);
    assert!(!axis.is_switch_pressed(ms(100.0)));
    assert!(axis.is_switch_pressed(ms(200.0)) && axis.is_switch_pressed(ms(300.0)));
    let pressed = axis.switch_change(ms(100.0), ms(200.0)).unwrap();
    assert!((axis.drive_um(pressed) - 55.0).abs() < 1e-6);
    assert_eq!(axis.switch_change(ms(0.0), ms(100.0)), None);
}

#[test]
fn microsteps_are_kept_on_both_sides_of_the_play() {
    let steps = Microsteps {
        origin_um: 0.0,
        step_um: 0.4,
    };
    let axis = driven(with_play(1.1), &[8.0, -8.0]);
    for at in 0..200 {
        let um = axis.lens_um(ms(f64::from(at)), Some(steps));
        let offset_um = if um == 8.0 || at <= 100 { 0.0 } else { 1.1 };
        let count = (um - offset_um) / 0.4;
        assert!((count - count.round()).abs() < 1e-9, "{at} ms: {um}");
    }
    assert!((axis.lens_um(ms(300.0), Some(steps)) - -6.9).abs() < 1e-9);
}

#[test]
fn nonsense_is_refused() {
    let rigid = MechanicsConfig::rigid;
    for refused in [
        rigid().with_backlash(-0.1),
        rigid().with_backlash(f64::NAN),
        rigid().with_settling(0.0, 0.1),
        rigid().with_settling(50.0, 1.0),
        rigid().with_drift(Drift {
            warm_up_s: 0.0,
            ..Drift::NONE
        }),
        rigid().with_drift(Drift {
            warm_up_um: f64::INFINITY,
            ..Drift::NONE
        }),
        rigid().with_stops(1.0, 1.0, 0.0),
        rigid().with_stops(0.0, 10.0, 3.0),
        rigid().with_stops(f64::NEG_INFINITY, 10.0, 0.0),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("choose") || error.contains("must be"), "{error}");
    }
}

/// What a motor is told to do.
#[derive(Clone, Debug)]
enum Order {
    Go {
        to_um: f64,
        ms: u64,
    },
    Ramp {
        um_per_s: f64,
        um_per_s2: f64,
        ms: u64,
    },
    Wait {
        ms: u64,
    },
    /// Cut the motion off so long after it began.
    Cut {
        ms: u64,
    },
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        (-150.0..150.0f64, 1u64..200).prop_map(|(to_um, ms)| Order::Go { to_um, ms }),
        (-500.0..500.0f64, -5000.0..5000.0f64, 1u64..200).prop_map(|(um_per_s, um_per_s2, ms)| Order::Ramp {
            um_per_s,
            um_per_s2,
            ms
        }),
        (0u64..100).prop_map(|ms| Order::Wait { ms }),
        (0u64..100).prop_map(|ms| Order::Cut { ms }),
    ]
}

fn obey(axis: &mut Mechanics, orders: &[Order]) -> Instant {
    let mut now = START;
    for order in orders {
        let began = now;
        match *order {
            Order::Go { to_um, ms } => axis.push_steady(now, millis(ms), to_um),
            Order::Ramp {
                um_per_s,
                um_per_s2,
                ms,
            } => axis.push_ramp(now, ms as f64 / 1000.0, um_per_s, um_per_s2),
            Order::Wait { ms } => now = now + millis(ms),
            Order::Cut { ms } => axis.truncate(now + millis(ms)),
        }
        now = now.max(axis.motor().end());
        // As a controller does: long before anybody asks about that time again.
        axis.forget(began);
    }
    now
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lens_stays_between_the_stops_and_near_the_motor(
        orders in prop::collection::vec(order(), 1..15),
        backlash_um in 0.0..10.0f64,
        hz in 10.0..200.0f64,
        damping in 0.02..0.9f64,
    ) {
        let config = with_play(backlash_um).with_settling(hz, damping).unwrap();
        let free = config.clone();
        let config = config.with_stops(STOPS_UM.0, STOPS_UM.1, 5.0).unwrap();
        let mut axis = Mechanics::new(config, 0.0);
        let mut unbounded = Mechanics::new(free, 0.0);
        let end = obey(&mut axis, &orders);
        obey(&mut unbounded, &orders);
        // Every jump of the drive's velocity, at most 4 mm/s here, adds at most v/ω; every stretch of acceleration twice
        // its static lag.
        let omega = std::f64::consts::TAU * hz;
        let stretches = unbounded.stretches.len() as f64 + 1.0;
        let ringing_um = stretches * (2.0 * 151_000.0 / omega + 2.0 * 5000.0 / (omega * omega));
        let mut at = START;
        while at < end + millis(50) {
            let um = axis.lens_um(at, None);
            prop_assert!((STOPS_UM.0..=STOPS_UM.1).contains(&um), "{um}");
            prop_assert!((STOPS_UM.0 - 1e-3..=STOPS_UM.1 + 1e-3).contains(&axis.drive_um(at)));
            // Behind the motor by the play at most, and never below it, but for the ringing.
            let motor_um = unbounded.motor().position_um(at);
            let behind_um = unbounded.drive_um(at) - motor_um;
            prop_assert!((-1e-3..=backlash_um + 1e-3).contains(&behind_um), "{behind_um} of {backlash_um}");
            let away_um = (unbounded.lens_um(at, None) - unbounded.drive_um(at)).abs();
            prop_assert!(away_um <= ringing_um, "{away_um} of {ringing_um}");
            at = at + millis(1);
        }
    }

    #[test]
    fn answers_do_not_depend_on_the_order_of_questions_nor_on_the_future(
        past in prop::collection::vec(order(), 1..8),
        future in prop::collection::vec(order(), 1..4),
        seed in any::<u64>(),
    ) {
        let config = MechanicsConfig::fine_focus().with_stops(STOPS_UM.0, STOPS_UM.1, 5.0).unwrap();
        let mut axis = Mechanics::new(config, 0.0);
        axis.power_up(START);
        let now = obey(&mut axis, &past);
        let earliest = now.as_nanos().saturating_sub(2_000_000_000).max(START.as_nanos());
        let ask = |axis: &Mechanics, index: u64| {
            axis.lens_um(Instant::from_nanos(earliest + (now.as_nanos() - earliest) * index / 50), None)
        };
        let forwards: Vec<f64> = (0..50).map(|index| ask(&axis, index)).collect();
        for order in &future {
            match *order {
                Order::Go { to_um, ms } => axis.push_steady(now, millis(ms), to_um),
                Order::Ramp { um_per_s, um_per_s2, ms } => axis.push_ramp(now, ms as f64 / 1000.0, um_per_s, um_per_s2),
                Order::Wait { .. } => axis.forget(now),
                Order::Cut { ms } => axis.truncate(now + millis(ms)),
            }
        }
        for index in (0..50u64).map(|index| (index * 37 + seed % 50) % 50) {
            prop_assert_eq!(forwards[index as usize], ask(&axis, index));
        }
    }
}
