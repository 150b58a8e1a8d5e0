//! Physics of the virtual microscope: what must hold whatever the slide looks like.

use crate::common::sharpness::{brenner, channel};
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, Noise, PhaseDelay, Pose};
use hhnet::sim::slide::Appearance;

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
        phase: PhaseDelay::Off,
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
            phase: PhaseDelay::Off,
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
fn the_balance_of_red_and_green_rises_through_focus_on_stained_slides() {
    // Eosin hardly absorbs red, so the balance has another level on every slide; what tells the side is that it rises.
    for seed in 1..9 {
        let mut microscope = Microscope::new(MicroscopeConfig {
            objective: Objective::default(),
            ..ideal(seed)
        })
        .unwrap();
        let mut balance = |z_um: f64| {
            let rgb = microscope.expose_defocused(0.0, 0.0, z_um, 0).unwrap();
            let [red, green] = [0, 1].map(|index| brenner(&channel(&rgb, index), WIDTH));
            (red - green) / (red + green)
        };
        let (close, far) = (balance(-2.5), balance(2.5));
        println!("slide {seed}: {close:.2} at -2.5 µm, {far:.2} at +2.5 µm");
        assert!(far > close + 0.05, "slide {seed}: {close} to {far}");
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

/// Largest difference, grey values, between frames of 512x384 and the same part of a frame of twice the size, `apart`
/// pixels from its middle.
fn seam(objective: &str, z_um: f64, apart: [i32; 2]) -> u8 {
    let mut config = MicroscopeConfig {
        objective: Objective::by_name(objective).unwrap(),
        slide_seed: 6,
        noise: Noise::Off,
        ..ideal(6)
    };
    config.sensor.vignetting = 0.0;
    let pixel_um = config.objective.object_pixel_um();
    let [x_um, y_um] = apart.map(|pixels| f64::from(pixels) * pixel_um);
    let direct = Microscope::new(config.clone())
        .unwrap()
        .expose_defocused(50.0 + x_um, 80.0 + y_um, z_um, 0)
        .unwrap();
    (config.width, config.height) = (2 * WIDTH, 2 * HEIGHT);
    let large = Microscope::new(config)
        .unwrap()
        .expose_defocused(50.0, 80.0, z_um, 0)
        .unwrap();
    let [left, top] = [
        (WIDTH / 2).strict_add_signed(apart[0] as isize),
        (HEIGHT / 2).strict_add_signed(apart[1] as isize),
    ];
    let rows = direct.chunks(3 * WIDTH).enumerate();
    rows.flat_map(|(row, direct)| {
        let start = 3 * ((top + row) * 2 * WIDTH + left);
        direct.iter().zip(&large[start..start + 3 * WIDTH])
    })
    .map(|(a, b)| a.abs_diff(*b))
    .max()
    .unwrap()
}

#[test]
fn a_crop_of_a_large_frame_is_the_frame_of_that_place() {
    // An odd number of pixels apart, pixels on samples meet pixels between them; far from focus, what lies outside the
    // frame reaches into it.
    let rows: [(&str, &[f64]); 4] = [
        ("40x0.65", &[0.0, 4.0, -4.0, 30.0, -30.0, 65.0, -65.0, 140.0]),
        ("60x0.85", &[0.0, 2.0, 30.0, 65.0, -65.0, 87.0]),
        ("20x0.40", &[0.0, 10.0, -65.0, 200.0]),
        ("10x0.25", &[0.0, 20.0, -65.0, 500.0]),
    ];
    let mut worst = Vec::new();
    for (objective, heights) in rows {
        for z_um in heights {
            for apart in [[0, 0], [101, -57], [-64, 33]] {
                worst.push((seam(objective, *z_um, apart), objective, *z_um, apart));
            }
        }
    }
    println!("{worst:?}");
    assert!(worst.iter().all(|row| row.0 <= 1), "{worst:?}");
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
    assert!(row(|c| c.sensor.exposure_ms = -1.0).contains("exposure_ms"));
    let look = |change: fn(&mut Appearance)| {
        let mut look = Appearance::new(1);
        change(&mut look);
        let config = MicroscopeConfig {
            appearance: Some(look),
            ..ideal(1)
        };
        Microscope::new(config).unwrap_err().to_string()
    };
    assert!(look(|a| a.red_pitch_um = 0.0).contains("red_pitch_um"));
    assert!(look(|a| a.phase_rad = f64::NAN).contains("phase_rad"));
    assert!(look(|a| a.white_fraction = 1.5).contains("white_fraction"));
    assert!(look(|a| a.absorbance[2][1] = -0.1).contains("absorbance"));
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
