//! Sharpness over height beside what has been published of recorded smears.

use crate::common::sharpness::{channel, tenengrad};
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, Noise};
use hhnet::sim::slide::Appearance;

const WIDTH: usize = 512;
const HEIGHT: usize = 384;

/// Tenengrad of recorded z-stacks, planes -3 to 3 around the sharpest, mean of thousands of stacks each: tuberculosis
/// sputum, thick film, bone marrow, white cells (DinethHewa/autofocusBenchmark).
const RECORDED: [[f64; 7]; 4] = [
    [0.08, 0.14, 0.34, 1.0, 0.33, 0.13, 0.07],
    [0.13, 0.32, 0.70, 1.0, 0.66, 0.23, 0.10],
    [0.19, 0.47, 0.77, 1.0, 0.71, 0.38, 0.22],
    [0.18, 0.42, 0.82, 1.0, 0.88, 0.64, 0.40],
];

#[test]
fn crowded_fields_lose_sharpness_as_recorded_ones_do() {
    // Neither the distance of the recorded planes nor which end is up is published: one plane is taken as one depth of
    // field, and a curve and its mirror image count alike.
    let depth_um = Objective::default().depth_of_field_um();
    for seed in 1..9 {
        let config = MicroscopeConfig {
            slide_seed: seed,
            width: WIDTH,
            height: HEIGHT,
            noise: Noise::Off,
            appearance: Some(Appearance {
                density: 1.35,
                ..Appearance::new(seed)
            }),
            ..MicroscopeConfig::default()
        };
        let mut microscope = Microscope::new(config).unwrap();
        let curve: Vec<f64> = (-3..=3)
            .map(|plane| {
                let z_um = f64::from(plane) * depth_um;
                tenengrad(
                    &channel(&microscope.expose_defocused(0.0, 0.0, z_um, 0).unwrap(), 1),
                    WIDTH,
                )
            })
            .collect();
        let peak = curve.iter().copied().fold(0.0, f64::max);
        println!(
            "slide {seed}: {:.2?}",
            curve.iter().map(|value| value / peak).collect::<Vec<_>>()
        );
        for plane in 0..7 {
            let recorded = RECORDED.iter().flat_map(|curve| [curve[plane], curve[6 - plane]]);
            let low = recorded.clone().fold(f64::MAX, f64::min);
            let high = recorded.fold(0.0, f64::max);
            let value = curve[plane] / peak;
            assert!(
                (low..=high).contains(&value),
                "slide {seed}, plane {plane}: {value:.2} is not within {low} to {high}"
            );
        }
    }
}
