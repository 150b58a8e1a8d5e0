//! The fast optics against the sum over source points.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use hhnet::microscope::{Microscope, MicroscopeConfig, Noise, Way};
use hhnet::objective::Objective;
use hhnet::sensor::SensorConfig;
use hhnet::slide::Appearance;

const WIDTH: usize = 256;
const HEIGHT: usize = 192;

/// A slide whose absorbance and phase are `strength` times the usual, without noise, as bright as the camera can show.
fn microscope(objective: &str, seed: u64, strength: f64) -> Microscope {
    let mut look = Appearance::new(seed);
    look.phase_rad *= strength;
    look.absorbance
        .as_flattened_mut()
        .iter_mut()
        .for_each(|channel| *channel *= strength);
    Microscope::new(MicroscopeConfig {
        objective: Objective::by_name(objective).unwrap(),
        slide_seed: seed,
        appearance: Some(look),
        width: WIDTH,
        height: HEIGHT,
        noise: Noise::Off,
        sensor: SensorConfig {
            vignetting: 0.0,
            ..SensorConfig::default()
        },
        ..MicroscopeConfig::default()
    })
    .unwrap()
}

/// Root-mean-square difference of fast and reference relative to the contrast of the reference, green.
fn disagreement(microscope: &mut Microscope, z_um: f64) -> f64 {
    let [fast, reference] =
        [Way::Fast, Way::Reference].map(|way| microscope.green_light(30.0, 20.0, z_um, way).unwrap());
    let mean = reference.iter().map(|light| f64::from(*light)).sum::<f64>() / reference.len() as f64;
    let contrast: f64 = reference
        .iter()
        .map(|light| (f64::from(*light) - mean).powi(2))
        .sum();
    let difference: f64 = fast
        .iter()
        .zip(&reference)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    (difference / contrast).sqrt()
}

#[test]
fn weak_objects_agree() {
    let rows: [(&str, f64, &[f64]); 3] = [
        ("40x0.65", 1.43, &[0.0, 1.0, -1.0, 3.6, -3.6]),
        ("60x0.85", 0.83, &[0.0, 1.0, -1.0, 3.6, -3.6]),
        ("20x0.40", 3.9, &[0.0, -1.0]),
    ];
    for (objective, depth_um, heights) in rows {
        let mut microscope = microscope(objective, 3, 0.03);
        for depths in heights {
            let relative = disagreement(&mut microscope, depths * depth_um);
            println!("{objective}, {depths:+} depths: {:.2} %", 100.0 * relative);
            assert!(relative < 0.01, "{objective}, {depths} depths: {relative}");
        }
    }
}

#[test]
fn strong_stain_departs_by_a_known_amount() {
    for seed in [3, 4] {
        let mut microscope = microscope("40x0.65", seed, 1.0);
        for z_um in [0.0, 1.3, -1.3, 5.2, -5.2] {
            let relative = disagreement(&mut microscope, z_um);
            println!("slide {seed}, {z_um:+} µm: {:.1} %", 100.0 * relative);
            let tolerance = if z_um == 0.0 { 0.01 } else { 0.05 };
            assert!(relative < tolerance, "slide {seed}, {z_um} µm: {relative}");
        }
    }
}
