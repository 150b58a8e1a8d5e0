//! Ranges and degenerate frames; parity with independent implementations is in `tests/test_features.py`.

use proptest::prelude::*;

use super::*;
use crate::units::Instant;

fn frame(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Frame {
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = places.flat_map(|(x, y)| pixel(x, y)).collect();
    Frame::new(width, height, rgb, Instant::default(), 0).unwrap()
}

fn value(features: &Handcrafted, name: &str) -> f32 {
    let at = Handcrafted::NAMES
        .iter()
        .position(|&known| known == name)
        .unwrap();
    features.values[at]
}

fn check_ranges(features: &Handcrafted) {
    let ranges = [
        (0.0, 255.0),
        (0.0, 16256.25),
        (f32::MIN, f32::MAX),
        (1.0, f32::MAX),
        (0.0, 9.0),
        (0.0, 510.0),
    ];
    let ranges = ranges
        .into_iter()
        .chain([(0.0, 16256.25), (0.0, 8.0)])
        .chain([(0.0, 1.0); 4])
        .chain([(-1.0, 1.0); 6]);
    for ((name, value), (least, most)) in Handcrafted::NAMES.iter().zip(features.values).zip(ranges) {
        assert!(
            value.is_finite() && least <= value && value <= most,
            "{name} = {value}"
        );
    }
}

#[test]
fn frames_of_one_colour_have_defined_values() {
    for (grey, width, height) in [
        (0, 640, 480),
        (255, 640, 480),
        (128, 301, 303),
        (9, 1, 1),
        (9, 3, 2),
        (9, 7, 120),
    ] {
        let features = Handcrafted::of(&frame(width, height, |_, _| [grey; 3]), 5);
        let mut expected = [0.0; FEATURES];
        expected[0] = f32::from(grey);
        expected[3] = 3.0;
        expected[5] = features.values[5];
        assert_eq!(features.values, expected, "{grey} in {width}x{height}");
        check_ranges(&features);
    }
}

#[test]
fn one_cell_at_the_border_is_an_object() {
    let disc = |x: usize, y: usize| x.pow(2) + y.pow(2) < 80usize.pow(2);
    let features = Handcrafted::of(
        &frame(
            640,
            480,
            |x, y| if disc(x, y) { [120, 60, 140] } else { [230; 3] },
        ),
        0,
    );
    check_ranges(&features);
    assert!(value(&features, "convexity") > 0.9 && value(&features, "compactness") > 0.7);
    assert!((value(&features, "area_ratio") - 0.0164).abs() < 0.002);
}

#[test]
fn the_seed_moves_the_crops_and_nothing_else() {
    let picture = frame(400, 400, |x, y| [(x * y) as u8, (x + 3 * y) as u8, (x ^ y) as u8]);
    let (one, two) = (Handcrafted::of(&picture, 1), Handcrafted::of(&picture, 2));
    assert_eq!(one, Handcrafted::of(&picture, 1));
    assert_eq!(one.values[..12], two.values[..12]);
    assert_ne!(one.values[12..], two.values[12..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn features_of_anything_are_finite_and_in_range(
        width in 1usize..90,
        height in 1usize..90,
        levels in 1u8..=255,
        noise in proptest::collection::vec(any::<u8>(), 90 * 90 * 3),
        seed: u64,
    ) {
        let pixel = |x: usize, y: usize| std::array::from_fn(|c| noise[3 * (90 * y + x) + c] % levels);
        check_ranges(&Handcrafted::of(&frame(width, height, pixel), seed));
    }

    #[test]
    fn dark_blobs_are_measured_in_range(blobs in proptest::collection::vec((0f64..300.0, 0f64..200.0, 5f64..60.0, 5f64..60.0), 0..9)) {
        let pixel = |x: usize, y: usize| {
            let inside = |&(cx, cy, rx, ry): &(f64, f64, f64, f64)| ((x as f64 - cx) / rx).powi(2) + ((y as f64 - cy) / ry).powi(2) < 1.0;
            if blobs.iter().any(inside) { [90, 40, 110] } else { [230, 228, 232] }
        };
        check_ranges(&Handcrafted::of(&frame(300, 200, pixel), 3));
    }
}
