//! Physics of the optics: the diffraction limit, where classical measures peak, and that threads change nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::f64::consts::{PI, TAU};

mod common;

use common::{brenner, channel, tenengrad};
use hhnet::microscope::{LiveMicroscope, Microscope, MicroscopeConfig, Noise, Phase, Pose};
use hhnet::objective::{Objective, WAVELENGTHS_UM};
use hhnet::optics::{Imager, Light, View};
use hhnet::slide::{Appearance, Maps};

/// What two discs of these radii have in common, their middles `distance` apart.
fn lens_area(a: f64, r: f64, distance: f64) -> f64 {
    if distance >= a + r {
        return 0.0;
    }
    if distance <= (r - a).abs() {
        return PI * a.min(r).powi(2);
    }
    let d = distance;
    let angle = |own: f64, other: f64| ((d * d + own * own - other * other) / (2.0 * d * own)).acos();
    let corners = (-d + a + r) * (d + a - r) * (d - a + r) * (d + a + r);
    a * a * angle(a, r) + r * r * angle(r, a) - 0.5 * corners.sqrt()
}

/// Half width of the edge, samples.
const SMOOTH: f64 = 1.2;

#[test]
fn an_edge_in_focus_is_as_sharp_as_diffraction_allows() {
    // Transfer of a weak absorber in focus: the part of the source whose light still passes the pupil after being
    // scattered by f. An edge is 1/2 + (1/π) ∫ A(f) sin(2πfx)/f df, seen by pixels with a width.
    for objective in Objective::catalogue() {
        let ideal = Objective {
            chromatic_shift_um: [0.0; 3],
            spherical_waves: 0.0,
            ..objective
        };
        let imager = Imager::new(&ideal, 512, 64, 20.0);
        let raster = imager.raster(0.0, 0.0);
        let step_um = imager.step_um();
        let edge_um = 128.3 * step_um;
        // An edge as smooth as the raster can hold, so that its samples say all of it.
        let step = |column: usize| {
            let x_um = raster.left_um + column as f64 * step_um - edge_um;
            0.01 * (0.5 + (x_um / (SMOOTH * step_um)).tanh() * 0.5)
        };
        let row: Vec<f32> = (0..raster.width).map(|column| step(column) as f32).collect();
        let absorbance = row.repeat(raster.height);
        let maps = Maps {
            absorbance: std::array::from_fn(|_| absorbance.clone()),
            phase_rad: vec![0.0; absorbance.len()],
        };
        let mut light = Light::default();
        imager.render(&imager.field(&maps), &View::default(), &mut light);
        for (channel, wavelength_um) in WAVELENGTHS_UM.into_iter().enumerate() {
            let (a, r) = (ideal.condenser_na / wavelength_um, ideal.na / wavelength_um);
            let transfer = |f: f64| lens_area(a, r, f) / (PI * a * a);
            let pixel_um = ideal.object_pixel_um();
            let expected = |x_um: f64| {
                const STEPS: usize = 4000;
                let width = (a + r) / STEPS as f64;
                let part = |step: usize| {
                    let f = (step as f64 + 0.5) * width;
                    // The tanh edge is an ideal one smoothed by sech²; its spectrum is u / sinh u.
                    let u = PI * PI * f * SMOOTH * step_um;
                    let pixel = (PI * f * pixel_um).sin() / (PI * f * pixel_um);
                    transfer(f) * pixel * u / u.sinh() * (TAU * f * x_um).sin() / f * width
                };
                0.5 + (0..STEPS).map(part).sum::<f64>() / PI
            };
            let line = light.row(channel, light.border() + 16);
            for column in 110..148 {
                let x_um = column as f64 * step_um - edge_um;
                let absorbed = (1.0 - f64::from(line[column + light.border()])) / (1.0 - (-0.01_f64).exp());
                let theory = expected(x_um);
                assert!(
                    (absorbed - theory).abs() < 0.01,
                    "{} channel {channel}, {x_um:.2} µm from the edge: {absorbed:.4} for {theory:.4}",
                    ideal.name
                );
            }
        }
    }
}

const WIDTH: usize = 512;
const HEIGHT: usize = 384;

fn small(slide_seed: u64) -> MicroscopeConfig {
    MicroscopeConfig {
        slide_seed,
        width: WIDTH,
        height: HEIGHT,
        noise: Noise::Off,
        ..MicroscopeConfig::default()
    }
}

/// Variance of the Laplacian of 4x4 squares: finer, rounding to bytes is louder than the picture.
fn laplacian_variance(grey: &[f64], width: usize) -> f64 {
    let (columns, rows) = (width / 4, grey.len() / width / 4);
    let square = |x: usize, y: usize| -> f64 {
        (0..16)
            .map(|at| grey[(4 * y + at / 4) * width + 4 * x + at % 4])
            .sum::<f64>()
            / 16.0
    };
    let squares: Vec<f64> = (0..columns * rows)
        .map(|at| square(at % columns, at / columns))
        .collect();
    let at = |x: usize, y: usize| squares[y * columns + x];
    let mut values = Vec::new();
    for y in 1..rows - 1 {
        for x in 1..columns - 1 {
            values.push(at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) - 4.0 * at(x, y));
        }
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// Height of the sharpest of frames 0.1 depths apart by Brenner, Tenengrad and Laplacian, depths of field; none for
/// empty glass, which has no sharpest height.
fn peaks(seed: u64, phase_rad: f64) -> Option<[f64; 3]> {
    let depth_um = Objective::default().depth_of_field_um();
    let look = Appearance {
        phase_rad,
        ..Appearance::new(seed)
    };
    let mut microscope = Microscope::new(MicroscopeConfig {
        appearance: Some(look),
        ..small(seed)
    })
    .unwrap();
    let ideal = microscope.transmittance(0.0, 0.0).unwrap();
    if ideal.iter().filter(|t| **t > 0.85).count() > 9 * ideal.len() / 10 {
        return None;
    }
    let depths: Vec<f64> = (-5..=5).map(|step| 0.1 * f64::from(step)).collect();
    let expose = |depths: &f64| {
        channel(
            &microscope
                .expose_defocused(0.0, 0.0, depths * depth_um, 0)
                .unwrap(),
            1,
        )
    };
    let greens: Vec<Vec<f64>> = depths.iter().map(expose).collect();
    Some([brenner, tenengrad, laplacian_variance].map(|measure| {
        let values: Vec<f64> = greens.iter().map(|grey| measure(grey, WIDTH)).collect();
        depths[(0..depths.len())
            .max_by(|a, b| values[*a].total_cmp(&values[*b]))
            .unwrap()]
    }))
}

#[test]
fn classical_measures_peak_in_focus_on_200_slides() {
    let found: Vec<[f64; 3]> = (1..).filter_map(|seed| peaks(seed, 0.0)).take(200).collect();
    let farthest = found
        .iter()
        .flatten()
        .fold(0.0, |far: f64, peak| far.max(peak.abs()));
    println!("absorption alone: farthest peak {farthest:.1} depths of field");
    assert!(farthest < 0.2001, "{farthest}");
}

#[test]
fn thickness_draws_the_peak_a_little_below_focus() {
    // Thick parts are dark, and a lens that is a little too close shows thick parts darker still, so that by contrast the
    // sharpest picture is not the one in focus. 0.3 rad displaces the peak by 0.1 depths of field on most slides.
    let found: Vec<[f64; 3]> = (1..).filter_map(|seed| peaks(seed, 0.3)).take(60).collect();
    let all: Vec<f64> = found.into_iter().flatten().collect();
    let near = all.iter().filter(|peak| peak.abs() < 0.2001).count() as f64 / all.len() as f64;
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    println!(
        "0.3 rad: {:.0} % within 0.2 depths of field, mean {mean:.2}",
        100.0 * near
    );
    assert!(near > 0.9 && all.iter().all(|peak| peak.abs() < 0.3501), "{near}");
    assert!((-0.2..0.0).contains(&mean), "{mean}");
}

#[test]
fn threads_change_nothing() {
    let frames = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| {
                let config = MicroscopeConfig {
                    noise: Noise::On,
                    ..small(8)
                };
                let mut exact = Microscope::new(config.clone()).unwrap();
                let mut live = LiveMicroscope::new(config).unwrap();
                let pose = Pose {
                    x_um: 5.0,
                    y_um: 6.0,
                    z_um: 1.3,
                };
                [
                    exact.expose_moving(pose, [1.0, 0.5, 0.4], 3).unwrap(),
                    exact.expose_by_reference(5.0, 6.0, 1.3, 3).unwrap(),
                    live.expose_moving(pose, [0.0, 0.0, 0.4], 3).unwrap(),
                ]
            })
    };
    let one = frames(1);
    for threads in [2, 4] {
        assert!(frames(threads) == one, "{threads} threads");
    }
}

#[test]
fn phase_off_in_focus_is_the_transmittance() {
    // What the optics can pass of it: the mean is kept exactly.
    let config = MicroscopeConfig {
        phase: Phase::Off,
        ..small(2)
    };
    let mut microscope = Microscope::new(config).unwrap();
    let truth = microscope.transmittance(0.0, 0.0).unwrap();
    let expected = truth.iter().map(|t| f64::from(*t)).sum::<f64>() / truth.len() as f64;
    let light = microscope
        .green_light(0.0, 0.0, 0.0, hhnet::microscope::Way::Fast)
        .unwrap();
    let mean = light.iter().map(|l| f64::from(*l)).sum::<f64>() / light.len() as f64;
    assert!((mean / expected - 1.0).abs() < 2e-3, "{mean} for {expected}");
}
