//! The flat field against the virtual microscope, whose lamp, specimen and dust are known.

use crate::common::dirt::Dirt;
use hhnet::estimate::flat_field::{FlatField, STEPS, making};
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::units::Instant;

const WIDTH: usize = 640;
const HEIGHT: usize = 480;
/// Distance of places, µm: twice as far as a frame is wide.
const PITCH_UM: f64 = 110.0;
/// Light that the lamp of these instruments loses in the corners.
const VIGNETTING: f64 = 0.12;

fn microscope(seed: u64) -> Microscope {
    let mut config = MicroscopeConfig {
        width: WIDTH,
        height: HEIGHT,
        ..MicroscopeConfig::randomised(Objective::default(), seed)
    };
    config.sensor.vignetting = VIGNETTING;
    Microscope::new(config).unwrap()
}

/// Frames of places side by side in a square, this far from focus.
fn frames(microscope: &mut Microscope, count: usize, defocus_um: f64, pitch_um: f64) -> Vec<Frame> {
    let side = (count as f64).sqrt().ceil() as usize;
    (0..count)
        .map(|at| {
            let place = |at: usize| pitch_um * (at as f64 - side as f64 / 2.0);
            let exposed =
                microscope.expose_defocused(place(at % side), place(at / side), defocus_um, at as u64);
            Frame::new(WIDTH, HEIGHT, exposed.unwrap(), Instant::default(), at as u64).unwrap()
        })
        .collect()
}

/// How far a flat field is from the lamp's true light, relative, root mean square over blocks of 16x16 pixels.
fn error(flat: &FlatField) -> f64 {
    let truth = |x: f64, y: f64| {
        let (across, down) = (x - WIDTH as f64 / 2.0, y - HEIGHT as f64 / 2.0);
        1.0 - VIGNETTING * (across * across + down * down) / (WIDTH * WIDTH + HEIGHT * HEIGHT) as f64 * 4.0
    };
    let mut ratios = Vec::new();
    for (top, left) in (0..HEIGHT)
        .step_by(16)
        .flat_map(|y| (0..WIDTH).step_by(16).map(move |x| (y, x)))
    {
        let pixels = (top..top + 16).flat_map(|y| (left..left + 16).map(move |x| (x, y)));
        let sum =
            pixels.map(|(x, y)| f64::from(flat.light()[3 * (y * WIDTH + x) + 1]) / truth(x as f64, y as f64));
        ratios.push(sum.sum::<f64>() / 256.0 / f64::from(STEPS));
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    (ratios
        .iter()
        .map(|ratio| (ratio / mean - 1.0).powi(2))
        .sum::<f64>()
        / ratios.len() as f64)
        .sqrt()
}

/// How good a flat field is that leaves out the specimen: as good as the noise of a frame's blocks.
#[test]
fn the_specimen_is_left_out() {
    for seed in [3, 11] {
        let frames = frames(&mut microscope(seed), 25, 60.0, PITCH_UM);
        let (flat, quality) = making::flat_field(&frames).unwrap();
        println!("seed {seed}: error {:.4}, {quality:?}", error(&flat));
        assert!(
            error(&flat) < 0.008 && quality.left_over < 0.01,
            "{seed}: {quality:?}"
        );
        assert!((quality.falloff - VIGNETTING).abs() < 0.03, "{seed}: {quality:?}");
        assert!(quality.difference > quality.left_over, "{seed}: {quality:?}");
        assert!(flat.blind_share() < 1e-3, "{seed}: {}", flat.blind_share());
    }
}

#[test]
fn what_makes_no_flat_field_is_refused_with_the_reason() {
    let mut microscope = microscope(3);
    let good = frames(&mut microscope, 6, 60.0, PITCH_UM);
    let spoilt = |change: &dyn Fn(u8) -> u8| {
        let rgb = good[2].rgb().iter().map(|&byte| change(byte)).collect();
        let mut frames = good.clone();
        frames[2] = Frame::new(WIDTH, HEIGHT, rgb, Instant::default(), 2).unwrap();
        frames
    };
    let small = Frame::new(320, 320, vec![200; 320 * 320 * 3], Instant::default(), 0).unwrap();
    let rows: [(&str, Vec<Frame>); 8] = [
        ("4 frames make no flat field", good[..4].to_vec()),
        ("frame 6 has 320x320 pixels", [&good[..5], &[small]].concat()),
        ("frames 2 and 6 are equal", [&good[..5], &good[1..2]].concat()),
        ("frame 3 holds too little light", spoilt(&|byte| byte / 8)),
        ("frame 3 is overexposed", spoilt(&|byte| byte.saturating_mul(3))),
        ("frame 3 is 0.50 times as bright", spoilt(&|byte| byte / 2)),
        ("the stage did not move", frames(&mut microscope, 6, 60.0, 0.0)),
        (
            "the specimen is still in the flat field",
            frames(&mut microscope, 6, 2.0, PITCH_UM),
        ),
    ];
    for (words, frames) in rows {
        let message = making::flat_field(&frames)
            .map(|(_, quality)| quality)
            .unwrap_err()
            .to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
}

/// What passes some light is divided; what passes none, and what the camera's software writes, is blind.
#[test]
fn specks_and_text_are_blind_and_a_hair_is_not() {
    let blind_share = |dirt: &Dirt| {
        let mut frames = frames(&mut microscope(20), 9, 60.0, PITCH_UM);
        for frame in &mut frames {
            let mut rgb = frame.clone().into_rgb();
            dirt.cover(&mut rgb);
            *frame = Frame::new(WIDTH, HEIGHT, rgb, frame.stamp, frame.sequence).unwrap();
        }
        making::flat_field(&frames).unwrap().0.blind_share()
    };
    let none = || Dirt::none(WIDTH, HEIGHT);
    for (name, dirt, least, most) in [
        ("none", none(), 0.0, 1e-4),
        ("hair", none().with_hair(), 0.0, 1e-4),
        ("text", none().with_text(), 0.006, 0.015),
        ("specks", none().with_specks(20, 1), 0.002, 0.02),
    ] {
        let share = blind_share(&dirt);
        assert!((least..=most).contains(&share), "{name}: {share}");
    }
}
