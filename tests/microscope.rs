//! Physics of the virtual microscope: what must hold whatever the slide looks like.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{brenner, channel, tenengrad};
use hhnet::microscope::{Microscope, MicroscopeConfig, Noise, Phase, Pose};
use hhnet::objective::Objective;
use hhnet::slide::Appearance;

const WIDTH: usize = 512;
const HEIGHT: usize = 384;

/// A noiseless microscope without aberrations or colour error.
fn ideal(slide_seed: u64) -> MicroscopeConfig {
    let objective = Objective {
        chromatic_shift_um: [0.0; 3],
        spherical_waves: 0.0,
        ..Objective::default()
    };
    MicroscopeConfig {
        objective,
        slide_seed,
        width: WIDTH,
        height: HEIGHT,
        noise: Noise::Off,
        ..MicroscopeConfig::default()
    }
}

fn frame(config: &MicroscopeConfig, z_um: f64) -> Vec<u8> {
    Microscope::new(config.clone())
        .unwrap()
        .expose_defocused(120.0, -40.0, z_um, 0)
        .unwrap()
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64).sqrt()
}

/// Standard deviation of the difference of the green channels at ±z, relative to that of the image.
fn asymmetry(config: &MicroscopeConfig, z_um: f64) -> f64 {
    let (far, close) = (
        channel(&frame(config, z_um), 1),
        channel(&frame(config, -z_um), 1),
    );
    let difference: Vec<f64> = far.iter().zip(&close).map(|(a, b)| a - b).collect();
    deviation(&difference) / deviation(&far)
}

#[test]
fn pure_absorption_has_no_sign() {
    let config = MicroscopeConfig {
        phase: Phase::Off,
        ..ideal(3)
    };
    for z_um in [0.3, 1.3, 5.2, 40.0] {
        assert!(frame(&config, z_um) == frame(&config, -z_um), "±{z_um} µm differ");
    }
}

#[test]
fn thickness_gives_the_sign() {
    for seed in 1..5 {
        let appearance = Appearance {
            phase_rad: 0.3,
            ..Appearance::new(seed)
        };
        let config = MicroscopeConfig {
            appearance: Some(appearance),
            ..ideal(seed)
        };
        for z_um in [0.65, 1.3, 2.6, 5.2] {
            let relative = asymmetry(&config, z_um);
            println!("seed {seed}, ±{z_um} µm: {relative:.3}");
            assert!(
                (0.08..0.35).contains(&relative),
                "seed {seed}, ±{z_um} µm: {relative}"
            );
        }
    }
}

#[test]
fn a_red_focus_above_the_green_flips_the_sign_of_the_colour_balance() {
    for seed in 1..5 {
        // A neutral stain, so that focus alone tells the channels apart.
        let appearance = Appearance {
            absorbance: [[0.4; 3]; 4],
            ..Appearance::new(seed)
        };
        let mut config = MicroscopeConfig {
            phase: Phase::Off,
            appearance: Some(appearance),
            ..ideal(seed)
        };
        config.objective.chromatic_shift_um = [0.9, 0.0, 0.0];
        config.sensor.background = [200.0; 3];
        let balance = |z_um: f64| {
            let rgb = frame(&config, z_um);
            let (red, green) = (
                brenner(&channel(&rgb, 0), WIDTH),
                brenner(&channel(&rgb, 1), WIDTH),
            );
            (red - green) / (red + green)
        };
        for z_um in [1.3, 2.6] {
            let (close, far) = (balance(-z_um), balance(z_um));
            println!("seed {seed}, ±{z_um} µm: {close:.2} {far:.2}");
            assert!(
                close < -0.05 && far > 0.05,
                "seed {seed}, ±{z_um} µm: {close} {far}"
            );
        }
    }
}

#[test]
fn sharpest_where_the_defocus_is_zero() {
    // Thickness that goes with stain moves the sharpest picture a little below focus, as under a real microscope: by
    // up to 0.2 µm at 0.3 rad with catalogue spherical aberration.
    let depth_um = Objective::default().depth_of_field_um();
    for seed in 1..7 {
        let mut config = ideal(seed);
        config.objective.spherical_waves = Objective::default().spherical_waves;
        config.appearance = Some(Appearance {
            phase_rad: 0.3,
            ..Appearance::new(seed)
        });
        let mut microscope = Microscope::new(config).unwrap();
        let heights_um: Vec<f64> = (-12..=12).map(|step| 0.1 * f64::from(step)).collect();
        let greens: Vec<_> = heights_um
            .iter()
            .map(|z_um| channel(&microscope.expose_defocused(0.0, 0.0, *z_um, 0).unwrap(), 1))
            .collect();
        for measure in [brenner, tenengrad] {
            let curve = greens.iter().map(|green| measure(green, WIDTH)).zip(&heights_um);
            let best = curve
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map(|(_, z_um)| *z_um)
                .unwrap();
            assert!(best.abs() <= 0.2 * depth_um, "seed {seed}: sharpest at {best} µm");
        }
    }
}

#[test]
fn defocus_moves_light_without_losing_any() {
    let config = ideal(2);
    let mean = |z_um: f64| {
        let values = channel(&frame(&config, z_um), 1);
        values.iter().sum::<f64>() / values.len() as f64
    };
    let focus = mean(0.0);
    for z_um in [-20.0, -3.0, 3.0, 20.0] {
        assert!(
            (mean(z_um) / focus - 1.0).abs() < 0.03,
            "{z_um} µm: {} against {focus}",
            mean(z_um)
        );
    }
}

#[test]
fn a_pose_gives_the_same_bytes_whatever_came_before() {
    let config = MicroscopeConfig {
        noise: Noise::On,
        ..ideal(9)
    };
    let pose = Pose {
        x_um: 31.3,
        y_um: 7.9,
        z_um: 2.0,
    };
    let mut fresh = Microscope::new(config.clone()).unwrap();
    let mut used = Microscope::new(config).unwrap();
    used.expose(Pose { x_um: 30.9, ..pose }, 4).unwrap();
    let expected = fresh.expose(pose, 5).unwrap();
    assert!(used.expose(pose, 5).unwrap() == expected);
    assert!(
        used.expose(pose, 6).unwrap() != expected,
        "another frame, another noise"
    );
}

#[test]
fn the_pose_is_a_height_above_the_slide() {
    let mut microscope = Microscope::new(ideal(4)).unwrap();
    let z_um = microscope.focus_height_um(900.0, 500.0) + 1.5;
    let posed = microscope
        .expose(
            Pose {
                x_um: 900.0,
                y_um: 500.0,
                z_um,
            },
            0,
        )
        .unwrap();
    assert!(posed == microscope.expose_defocused(900.0, 500.0, 1.5, 0).unwrap());
}

#[test]
fn neighbouring_frames_join() {
    // Moved by a whole number of pixels, the shared part is the same picture, out of focus too.
    let mut config = ideal(6);
    config.sensor.vignetting = 0.0;
    let mut microscope = Microscope::new(config).unwrap();
    let pixel_um = Objective::default().object_pixel_um();
    for z_um in [0.0, 4.0] {
        let left = microscope.expose_defocused(50.0, 80.0, z_um, 0).unwrap();
        let right = microscope
            .expose_defocused(50.0 + 101.0 * pixel_um, 80.0, z_um, 0)
            .unwrap();
        let worst = (0..HEIGHT * (WIDTH - 101))
            .map(|index| (index / (WIDTH - 101), index % (WIDTH - 101)))
            .flat_map(|(y, x)| (0..3).map(move |c| (3 * (y * WIDTH + x + 101) + c, 3 * (y * WIDTH + x) + c)))
            .map(|(a, b)| left[a].abs_diff(right[b]))
            .max();
        assert!(worst <= Some(4), "{z_um} µm: {worst:?} grey values apart");
    }
}

#[test]
fn a_stage_that_moves_blurs_along_its_travel() {
    let mut microscope = Microscope::new(ideal(2)).unwrap();
    let mut green = |z_um: f64, travel_um: [f64; 3]| {
        let z_um = z_um + microscope.focus_height_um(0.0, 0.0);
        let pose = Pose {
            z_um,
            ..Pose::default()
        };
        channel(&microscope.expose_moving(pose, travel_um, 0).unwrap(), 1)
    };
    let still = green(1.0, [0.0; 3]);
    // Along x only differences along x are lost.
    let rightwards = green(1.0, [3.0, 0.0, 0.0]);
    assert!(brenner(&rightwards, WIDTH) < 0.5 * brenner(&still, WIDTH));
    let downwards = green(1.0, [0.0, 3.0, 0.0]);
    assert!(brenner(&downwards, WIDTH) > 1.2 * brenner(&rightwards, WIDTH));
    // Along z the picture is the mean of those passed through.
    let through = green(1.0, [0.0, 0.0, 4.0]);
    let passed: Vec<Vec<f64>> = (0..32)
        .map(|step| green(1.0 + 4.0 * ((f64::from(step) + 0.5) / 32.0 - 0.5), [0.0; 3]))
        .collect();
    let mean = |index: usize| passed.iter().map(|frame| frame[index]).sum::<f64>() / 32.0;
    let worst = (0..through.len())
        .map(|index| (through[index] - mean(index)).abs())
        .fold(0.0, f64::max);
    assert!(
        worst < 3.0,
        "{worst} grey values from the mean of the passed heights"
    );
}

#[test]
fn impossible_requests_are_named() {
    let row = |change: fn(&mut MicroscopeConfig)| {
        let mut config = ideal(1);
        change(&mut config);
        Microscope::new(config).unwrap_err().to_string()
    };
    assert!(row(|c| c.width = 301).contains("301x384"));
    assert!(row(|c| c.objective.condenser_na = 0.7).contains("condenser_na"));
    assert!(row(|c| c.sensor.vignetting = f64::NAN).contains("vignetting"));
    let mut microscope = Microscope::new(ideal(1)).unwrap();
    for (x_um, z_um, named) in [
        (0.0, 152.0, "151"),
        (0.0, f64::NAN, "NaN"),
        (f64::INFINITY, 0.0, "inf"),
    ] {
        let message = microscope
            .expose_defocused(x_um, 0.0, z_um, 0)
            .unwrap_err()
            .to_string();
        assert!(message.contains(named), "{message}");
    }
}
