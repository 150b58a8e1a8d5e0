//! Frames are divided exactly, holes filled without an edge, and foreign frames refused.

use super::*;
use crate::units::Instant;

const SIZE: (usize, usize) = (320, 304);

fn frame(pixel: impl Fn(usize, usize) -> [u8; 3]) -> Frame {
    let (width, height) = SIZE;
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = places.flat_map(|(x, y)| pixel(x, y)).collect();
    Frame::new(width, height, rgb, Instant::from_nanos(7), 3).unwrap()
}

fn light(pixel: impl Fn(usize, usize) -> [u16; 3]) -> Vec<u16> {
    let (width, height) = SIZE;
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places.flat_map(|(x, y)| pixel(x, y)).collect()
}

fn flat(pixel: impl Fn(usize, usize) -> [u16; 3]) -> FlatField {
    FlatField::new(SIZE.0, SIZE.1, light(pixel)).unwrap()
}

fn pixel(frame: &Frame, x: usize, y: usize) -> [u8; 3] {
    std::array::from_fn(|channel| frame.rgb()[3 * (y * frame.width() + x) + channel])
}

/// A quarter of the frame has half the light.
fn shaded(x: usize, y: usize) -> u16 {
    if x < SIZE.0 / 2 && y < SIZE.1 / 2 {
        100
    } else {
        200
    }
}

#[test]
fn shading_is_divided_away_and_the_rest_stays() {
    let flat = flat(|x, y| [STEPS * shaded(x, y), STEPS * 180, STEPS * 150]);
    assert_eq!(flat.level(), [200.0, 180.0, 150.0]);
    let corrected = flat
        .correct(&frame(|x, y| [shaded(x, y) as u8, 171, 99]))
        .unwrap();
    assert!(
        corrected
            .rgb()
            .chunks_exact(3)
            .all(|pixel| pixel == [200, 171, 99])
    );
    assert_eq!((corrected.stamp.as_nanos(), corrected.sequence), (7, 3));
    // Saturates instead of wrapping.
    let bright = flat
        .correct(&frame(
            |x, _| if (1..5).contains(&x) { [255; 3] } else { [100; 3] },
        ))
        .unwrap();
    assert_eq!(
        (pixel(&bright, 1, 0), pixel(&bright, 5, 0)),
        ([255; 3], [200, 100, 100])
    );
}

#[test]
fn gains_are_exact_to_half_a_grey_level() {
    let field = |x: usize| 30.0 + 225.0 * x as f64 / SIZE.0 as f64;
    let flat = flat(|x, _| [(field(x) * f64::from(STEPS)) as u16; 3]);
    let level = flat.level()[1];
    let corrected = flat.correct(&frame(|_, y| [(y % 160) as u8; 3])).unwrap();
    for (x, y) in (0..SIZE.0).flat_map(|x| (0..SIZE.1).map(move |y| (x, y))) {
        let expected = ((y % 160) as f64 * level / field(x)).min(255.0);
        let found = f64::from(pixel(&corrected, x, y)[1]);
        assert!(
            (found - expected).abs() < 0.8,
            "{x}, {y}: {found} instead of {expected}"
        );
    }
}

#[test]
fn holes_are_filled_with_what_surrounds_them() {
    let is_hole = |x: usize, y: usize| (140..165).contains(&x) && (100..130).contains(&y) || x < 60;
    let flat = flat(|x, y| if is_hole(x, y) { [0; 3] } else { [STEPS * 200; 3] });
    let holes = (25 * 30 + 60 * SIZE.1) as f64 / (SIZE.0 * SIZE.1) as f64;
    assert!((flat.blind_share() - holes).abs() < 1e-9);
    // A specimen that grows darker to the right, and something bright in the holes.
    let ramp = |x: usize| 210 - (x / 4) as u8;
    let corrected = flat
        .correct(&frame(|x, y| {
            if is_hole(x, y) {
                [255, 0, 9]
            } else {
                [ramp(x), 150, 80]
            }
        }))
        .unwrap();
    for (x, y) in (0..SIZE.0).flat_map(|x| (0..SIZE.1).map(move |y| (x, y))) {
        let expected = [ramp(x.max(60)), 150, 80];
        let off = (0..3).map(|channel| pixel(&corrected, x, y)[channel].abs_diff(expected[channel]));
        assert!(
            off.max() <= Some(3),
            "{x}, {y}: {:?} instead of {expected:?}",
            pixel(&corrected, x, y)
        );
    }
}

#[test]
fn frames_of_another_size_or_exposure_are_refused() {
    let flat = flat(|_, _| [STEPS * 160; 3]);
    let small = Frame::new(300, 300, vec![160; 300 * 300 * 3], Instant::default(), 0).unwrap();
    let message = flat.correct(&small).unwrap_err().to_string();
    assert!(
        message.contains("300x300 pixels and the flat field 320x304"),
        "{message}"
    );
    for (level, refused) in [
        (5, false),
        (30, true),
        (60, false),
        (160, false),
        (185, false),
        (200, true),
        (255, true),
    ] {
        let result = flat.correct(&frame(|_, _| [level; 3]));
        assert_eq!(
            matches!(result, Err(Mismatch::Exposure { .. })),
            refused,
            "{level}"
        );
    }
}

#[test]
fn half_a_flat_field_is_none() {
    assert!(matches!(
        FlatField::new(4, 4, vec![9; 47]),
        Err(BadLight::Size { .. })
    ));
    let dark = light(|x, _| if x % 2 == 0 { [0; 3] } else { [9999; 3] });
    assert_eq!(FlatField::new(SIZE.0, SIZE.1, dark).unwrap_err(), BadLight::Dark);
    assert_eq!(FlatField::new(2, 2, vec![0; 12]).unwrap_err(), BadLight::Dark);
}
