//! The fast optics against the sum over source points.

use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, Noise, OpticsModel};
use hhnet::sim::sensor::SensorConfig;
use hhnet::sim::slide::{Appearance, Raster, Slide, Stain};

const WIDTH: usize = 256;
const HEIGHT: usize = 192;
/// Most that fast and reference may differ in any colour, of the contrast of that colour, for weak objects.
const WEAK: f64 = 0.02;
/// The same for red cells of full stain; red, which they hardly absorb, is the worst.
const RED_CELLS: f64 = 0.05;
/// The same where nuclei fill the frame.
const NUCLEI: f64 = 0.15;

fn microscope(objective: &str, seed: u64, look: Appearance) -> Microscope {
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

/// A slide whose absorbance and phase are a small part of the usual.
fn weak(objective: &str, seed: u64) -> Microscope {
    let mut look = Appearance::new(seed);
    look.phase_rad *= 0.03;
    look.absorbance
        .as_flattened_mut()
        .iter_mut()
        .for_each(|channel| *channel *= 0.03);
    microscope(objective, seed, look)
}

/// Where nuclei absorb most within 0.6 mm of the origin, on a slide without dust, and that slide.
fn nucleated(objective: &str, seed: u64, stain: Stain, white: f64, tumour: f64) -> (Microscope, [f64; 2]) {
    let look = Appearance {
        white_fraction: white,
        tumour_fraction: tumour,
        speck_fraction: 0.0,
        dust_fraction: 0.0,
        ..Appearance::stained(seed, stain)
    };
    let raster = Raster {
        left_um: -300.0,
        top_um: -300.0,
        step_um: 1.5,
        width: 400,
        height: 400,
    };
    let red = &Slide::with_appearance(seed, look.clone())
        .paint(&raster)
        .absorbance[0];
    let around = |at: usize| -> f32 {
        let rows = (0..9).map(|row| at + row * raster.width);
        rows.map(|start| red[start..start + 9].iter().sum::<f32>()).sum()
    };
    let places = (0..391).flat_map(|row| (0..391).map(move |column| row * 400 + column));
    let best = places.max_by(|a, b| around(*a).total_cmp(&around(*b))).unwrap();
    let centre = [best % 400 + 4, best / 400 + 4].map(|at| 1.5 * at as f64 - 300.0);
    (microscope(objective, seed, look), centre)
}

/// Root-mean-square difference of fast and reference relative to the contrast of the reference; R, G and B.
fn disagreement(microscope: &mut Microscope, [x_um, y_um]: [f64; 2], z_um: f64) -> [f64; 3] {
    let [fast, reference] = [OpticsModel::Fast, OpticsModel::Reference]
        .map(|model| microscope.light(x_um, y_um, z_um, model).unwrap());
    std::array::from_fn(|channel| {
        let (fast, reference) = (&fast[channel], &reference[channel]);
        let mean = reference.iter().map(|light| f64::from(*light)).sum::<f64>() / reference.len() as f64;
        let contrast: f64 = reference
            .iter()
            .map(|light| (f64::from(*light) - mean).powi(2))
            .sum();
        let difference: f64 = fast
            .iter()
            .zip(reference)
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum();
        (difference / contrast).sqrt()
    })
}

/// The worst of several heights, printed each.
fn worst(name: &str, microscope: &mut Microscope, place: [f64; 2], heights_um: &[f64]) -> f64 {
    let each = heights_um.iter().map(|z_um| {
        let parts = disagreement(microscope, place, *z_um);
        println!(
            "{name}, {z_um:+} µm, R G B: {:.1?} %",
            parts.map(|part| 100.0 * part)
        );
        parts.into_iter().fold(0.0, f64::max)
    });
    each.fold(0.0, f64::max)
}

#[test]
fn weak_objects_agree() {
    let rows: [(&str, f64, &[f64]); 3] = [
        ("40x0.65", 1.43, &[0.0, 1.0, -1.0, 3.6, -3.6]),
        ("60x0.85", 0.83, &[0.0, 1.0, -1.0, 3.6, -3.6]),
        ("20x0.40", 3.9, &[0.0, -1.0]),
    ];
    for (objective, depth_um, heights) in rows {
        let mut microscope = weak(objective, 3);
        for depths in heights {
            let name = format!("weak, {objective}");
            let relative = worst(&name, &mut microscope, [30.0, 20.0], &[depths * depth_um]);
            assert!(relative < WEAK, "{objective}, {depths} depths: {relative}");
        }
    }
}

#[test]
fn a_smear_of_red_cells_departs_by_a_known_amount() {
    for seed in [3, 4] {
        let mut microscope = microscope("40x0.65", seed, Appearance::new(seed));
        let place = [30.0, 20.0];
        let heights = [0.0, 1.3, -1.3, 5.2, -5.2];
        assert!(worst("red cells", &mut microscope, place, &heights) < RED_CELLS);
    }
}

#[test]
fn nuclei_depart_by_a_known_amount() {
    for (name, stain, white, tumour) in [
        ("white cell, Giemsa", Stain::Giemsa, 1.0, 0.0),
        ("tumour cells, Giemsa", Stain::Giemsa, 0.0, 1.0),
        ("white cell, H&E", Stain::HaematoxylinEosin, 1.0, 0.0),
        ("tumour cells, H&E", Stain::HaematoxylinEosin, 0.0, 1.0),
    ] {
        let (mut microscope, place) = nucleated("40x0.65", 3, stain, white, tumour);
        let heights = [0.0, 1.3, -1.3, 5.2, -5.2];
        assert!(worst(name, &mut microscope, place, &heights) < NUCLEI);
    }
    let (mut microscope, place) = nucleated("10x0.25", 3, Stain::HaematoxylinEosin, 0.3, 0.5);
    assert!(
        worst(
            "10x, H&E",
            &mut microscope,
            place,
            &[0.0, 10.0, -10.0, 20.0, -20.0]
        ) < NUCLEI
    );
}

#[test]
fn nuclei_far_from_focus_depart_by_a_known_amount() {
    let (mut microscope, place) = nucleated("40x0.65", 3, Stain::HaematoxylinEosin, 0.0, 1.0);
    assert!(worst("tumour cells, H&E", &mut microscope, place, &[10.0, -10.0]) < NUCLEI);
}

#[test]
#[ignore = "16 000 source points for every colour: minutes"]
fn nuclei_farther_from_focus_depart_by_a_known_amount() {
    let (mut microscope, place) = nucleated("40x0.65", 3, Stain::HaematoxylinEosin, 0.0, 1.0);
    assert!(worst("tumour cells, H&E", &mut microscope, place, &[20.0, -20.0]) < NUCLEI);
}

#[test]
fn the_reference_says_when_it_would_never_end_and_how_far_it_is() {
    let mut microscope = weak("40x0.65", 3);
    let message = microscope
        .expose_by_reference(0.0, 0.0, 60.0, 0, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("source points") && message.contains("60"),
        "{message}"
    );
    let mut heard = Vec::new();
    microscope
        .expose_by_reference(0.0, 0.0, 0.0, 0, &mut |part| heard.push(part))
        .unwrap();
    assert!(
        heard.windows(2).all(|pair| pair[0] < pair[1]) && heard.last() == Some(&1.0),
        "{heard:?}"
    );
}
