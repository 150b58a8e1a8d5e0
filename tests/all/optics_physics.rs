//! Physics of the optics: the diffraction limit, where classical measures peak, and that threads change nothing.

use std::f64::consts::{PI, TAU};

use crate::common::sharpness::{brenner, tenengrad};
use hhnet::objective::{Objective, WAVELENGTHS_UM};
use hhnet::sim::microscope::{
    LiveMicroscope, Microscope, MicroscopeConfig, Noise, OpticsModel, PhaseDelay, Pose,
};
use hhnet::sim::optics::transfer::{GaussRules, Pupil};
use hhnet::sim::optics::{Imager, Light, View};
use hhnet::sim::slide::Maps;
use rayon::prelude::*;

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

/// Variance of the Laplacian.
fn laplacian_variance(grey: &[f64], width: usize) -> f64 {
    let at = |x: usize, y: usize| grey[y * width + x];
    let mut values = Vec::new();
    for y in 1..grey.len() / width - 1 {
        for x in 1..width - 1 {
            values.push(at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) - 4.0 * at(x, y));
        }
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// Heights at which sharpness is measured, depths of field: every tenth where the peak should be, coarser out to three.
fn heights_depths() -> Vec<f64> {
    let near = (-6..=6).map(|step| 0.1 * f64::from(step));
    let far = [0.8, 1.0, 1.5, 2.0, 2.5, 3.0];
    near.chain(far).chain(far.map(|depths| -depths)).collect()
}

/// Height of the sharpest picture by Brenner, Tenengrad and Laplacian, depths of field; none for empty glass, which has no
/// sharpest height. Measured on the light of the green channel, before it is rounded to bytes.
fn peaks(seed: u64, phase: PhaseDelay) -> Option<[f64; 3]> {
    let depth_um = Objective::default().depth_of_field_um();
    let mut microscope = Microscope::new(MicroscopeConfig {
        phase,
        width: 400,
        height: 320,
        ..small(seed)
    })
    .unwrap();
    let ideal = microscope.transmittance(0.0, 0.0).unwrap();
    if ideal.iter().filter(|t| **t > 0.85).count() > 9 * ideal.len() / 10 {
        return None;
    }
    let heights = heights_depths();
    let greens: Vec<Vec<f64>> = heights
        .iter()
        .map(|depths| {
            let [_, green, _] = microscope
                .light(0.0, 0.0, depths * depth_um, OpticsModel::Fast)
                .unwrap();
            green.into_iter().map(f64::from).collect()
        })
        .collect();
    Some([brenner, tenengrad, laplacian_variance].map(|measure| {
        let values: Vec<f64> = greens.iter().map(|grey| measure(grey, 200)).collect();
        heights[(0..heights.len())
            .max_by(|a, b| values[*a].total_cmp(&values[*b]))
            .unwrap()]
    }))
}

/// Peaks of the first 200 slides with something on them.
fn two_hundred(phase: PhaseDelay) -> Vec<[f64; 3]> {
    let found: Vec<_> = (1..240_u64)
        .into_par_iter()
        .map(|seed| peaks(seed, phase))
        .collect();
    let found: Vec<_> = found.into_iter().flatten().take(200).collect();
    assert_eq!(found.len(), 200);
    for (measure, name) in ["Brenner", "Tenengrad", "Laplacian"].into_iter().enumerate() {
        let mut peaks: Vec<f64> = found.iter().map(|peaks| peaks[measure]).collect();
        peaks.sort_by(f64::total_cmp);
        let near = peaks.iter().filter(|peak| peak.abs() < 0.2001).count();
        println!(
            "{phase:?}, {name}: {near} of 200 within 0.2 depths; {:.1} to {:.1}, median {:.1}",
            peaks[0], peaks[199], peaks[100]
        );
    }
    found
}

#[test]
fn classical_measures_peak_in_focus_on_200_slides_that_only_absorb() {
    let found = two_hundred(PhaseDelay::Off);
    let farthest = found
        .iter()
        .flatten()
        .fold(0.0, |far: f64, peak| far.max(peak.abs()));
    assert!(farthest < 0.2001, "{farthest}");
}

#[test]
fn thickness_draws_the_peak_a_little_below_focus() {
    // Thick parts are dark, and a lens that is a little too close shows thick parts darker still, so that by contrast the
    // sharpest picture is not the one in focus: z = 0 is where the object is, not where it looks sharpest. How far the two are
    // apart depends on stain and thickness, so no other zero would suit every slide.
    // The Laplacian, which weighs the finest detail most, finds z = 0 on every slide; the gradients do on three of four.
    let found = two_hundred(PhaseDelay::On);
    let near = |measure: usize| {
        let near = found.iter().filter(|peaks| peaks[measure].abs() < 0.2001);
        near.count() as f64 / found.len() as f64
    };
    assert!(near(0) > 0.75, "Brenner: {}", near(0));
    assert!(near(1) > 0.75, "Tenengrad: {}", near(1));
    assert!(near(2) > 0.995, "Laplacian: {}", near(2));
    // No false peak within three depths on either side.
    let all: Vec<f64> = found.into_iter().flatten().collect();
    assert!(all.iter().all(|peak| (-0.8001..0.1001).contains(peak)), "{all:?}");
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!((-0.2..0.0).contains(&mean), "{mean}");
}

#[test]
fn every_height_and_colour_keeps_all_the_light() {
    for spherical_waves in [0.0, 0.3] {
        for wavelength_um in WAVELENGTHS_UM {
            let pupil = Pupil {
                na: 0.65,
                condenser_na: 0.4,
                wavelength_um,
                spherical_waves,
            };
            for z_um in [0.0, 0.3, -1.3, 5.0, -20.0, 65.0, -150.0] {
                let [absorption, phase] = pupil.transfer(z_um, &GaussRules::new()).at(0.0);
                assert!(
                    (absorption - 1.0).abs() < 1e-5 && phase.abs() < 1e-5,
                    "{wavelength_um} µm, {z_um} µm: ({absorption}, {phase})"
                );
            }
        }
    }
}

#[test]
fn a_stain_with_clear_glass_around_it_takes_the_same_light_at_every_height() {
    let imager = Imager::new(&Objective::default(), WIDTH, HEIGHT, 20.0);
    let raster = imager.raster(0.0, 0.0);
    let middle_um = imager
        .size()
        .map(|samples| 0.5 * samples as f64 * imager.step_um());
    // A smooth blob of 8 µm, dark and thick.
    let blob: Vec<f32> = (0..raster.width * raster.height)
        .map(|at| {
            let x_um = raster.left_um + (at % raster.width) as f64 * raster.step_um - middle_um[0];
            let y_um = raster.top_um + (at / raster.width) as f64 * raster.step_um - middle_um[1];
            (-(x_um * x_um + y_um * y_um) / 16.0).exp() as f32
        })
        .collect();
    let absorbed = blob.iter().map(|b| 1.0 - f64::from(-b).exp()).sum::<f64>();
    let maps = Maps {
        absorbance: std::array::from_fn(|_| blob.clone()),
        phase_rad: blob.iter().map(|b| 0.5 * b).collect(),
    };
    let field = imager.field(&maps);
    let [columns, rows] = imager.size();
    for z_um in [0.0, 3.0, -3.0, 12.0, -12.0] {
        let mut light = Light::default();
        let view = View {
            defocus_um: z_um,
            ..View::default()
        };
        imager.render(&field, &view, &mut light);
        for channel in 0..3 {
            let border = light.border();
            let missing: f64 = (0..rows)
                .flat_map(|row| &light.row(channel, row + border)[border..border + columns])
                .map(|light| 1.0 - f64::from(*light))
                .sum();
            let apart = (missing - absorbed) / (rows * columns) as f64;
            assert!(
                apart.abs() < 1e-4 && (missing / absorbed - 1.0).abs() < 0.01,
                "channel {channel} at {z_um} µm: {missing} for {absorbed}"
            );
        }
    }
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
                    exact.expose_by_reference(5.0, 6.0, 1.3, 3, &mut |_| ()).unwrap(),
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
        phase: PhaseDelay::Off,
        ..small(2)
    };
    let mut microscope = Microscope::new(config).unwrap();
    let truth = microscope.transmittance(0.0, 0.0).unwrap();
    let expected = truth.iter().map(|t| f64::from(*t)).sum::<f64>() / truth.len() as f64;
    let [_, light, _] = microscope.light(0.0, 0.0, 0.0, OpticsModel::Fast).unwrap();
    let mean = light.iter().map(|l| f64::from(*l)).sum::<f64>() / light.len() as f64;
    assert!((mean / expected - 1.0).abs() < 2e-3, "{mean} for {expected}");
}
