//! The camera of the virtual microscope: noise, exposure, gain and saturation, measured on its pictures.

use crate::common::sharpness::channel;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, Noise, SensorConfig};

const WIDTH: usize = 512;
const HEIGHT: usize = 384;
/// Beyond the slide's edge, where there is nothing but glass.
const GLASS_UM: f64 = 60_000.0;

fn sensor() -> SensorConfig {
    SensorConfig {
        vignetting: 0.0,
        ..SensorConfig::default()
    }
}

fn microscope(sensor: SensorConfig, noise: Noise) -> Microscope {
    Microscope::new(MicroscopeConfig {
        slide_seed: 5,
        width: WIDTH,
        height: HEIGHT,
        noise,
        sensor,
        ..MicroscopeConfig::default()
    })
    .unwrap()
}

fn glass(sensor: SensorConfig, noise: Noise, sequence: u64) -> Vec<u8> {
    microscope(sensor, noise)
        .expose_defocused(GLASS_UM, 0.0, 0.0, sequence)
        .unwrap()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64
}

/// Correlation coefficient.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let together = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b));
    together.sum::<f64>() / a.len() as f64 / (variance(a) * variance(b)).sqrt()
}

/// Variance of a grey value by shot noise and read noise, and by rounding.
fn expected_variance(config: &SensorConfig, channel: usize, grey: f64) -> f64 {
    let grey_per_electron = 255.0 / config.full_well_electrons * config.gain[channel] * config.analogue_gain;
    grey_per_electron * grey + (grey_per_electron * config.read_noise_electrons).powi(2) + 1.0 / 12.0
}

#[test]
fn noise_grows_with_the_light_as_electrons_count() {
    for level in [20.0, 70.0, 130.0, 200.0] {
        let config = SensorConfig {
            background: [level; 3],
            ..sensor()
        };
        let rgb = glass(config, Noise::On, 3);
        for index in 0..3 {
            let values = channel(&rgb, index);
            let (got, expected) = (variance(&values), expected_variance(&config, index, level));
            assert!(
                (mean(&values) - level).abs() < 0.1,
                "grey {level}: {}",
                mean(&values)
            );
            assert!(
                (got / expected - 1.0).abs() < 0.03,
                "channel {index} at grey {level}: variance {got} for {expected}"
            );
        }
    }
}

#[test]
fn defocus_blurs_the_picture_and_not_the_noise() {
    for z_um in [0.0, 12.0, -60.0] {
        let [noisy, clean] = [Noise::On, Noise::Off].map(|noise| {
            microscope(sensor(), noise)
                .expose_defocused(0.0, 0.0, z_um, 9)
                .unwrap()
        });
        for index in 0..3 {
            let (noisy, clean) = (channel(&noisy, index), channel(&clean, index));
            // In units of the noise expected where it is so bright, away from the end of the scale.
            let noise: Vec<f64> = noisy
                .iter()
                .zip(&clean)
                .filter(|(_, clean)| **clean < 225.0)
                .map(|(noisy, clean)| {
                    // Both pictures are rounded.
                    (noisy - clean) / (expected_variance(&sensor(), index, *clean) + 1.0 / 12.0).sqrt()
                })
                .collect();
            let got = variance(&noise);
            assert!(
                (got - 1.0).abs() < 0.03,
                "channel {index} at {z_um} µm: {got} of the expected variance"
            );
            // The rounding of the clean picture is the same for a few neighbours.
            let neighbours = correlation(&noise[..noise.len() - 1], &noise[1..]);
            assert!(
                neighbours.abs() < 0.02,
                "channel {index} at {z_um} µm: {neighbours}"
            );
        }
    }
}

#[test]
fn noise_of_rows_colours_and_frames_is_unrelated() {
    let frames: Vec<Vec<u8>> = (0..2)
        .map(|sequence| glass(sensor(), Noise::On, sequence))
        .collect();
    let green = channel(&frames[0], 1);
    let rest = green.len() - WIDTH;
    let pairs = [
        ("rows", green[..rest].to_vec(), green[WIDTH..].to_vec()),
        ("colours", green.clone(), channel(&frames[0], 0)),
        ("frames", green.clone(), channel(&frames[1], 1)),
        ("columns", green[..green.len() - 1].to_vec(), green[1..].to_vec()),
    ];
    for (name, a, b) in pairs {
        let related = correlation(&a, &b);
        assert!(related.abs() < 0.01, "{name}: {related}");
    }
}

#[test]
fn the_corners_are_darker_by_the_vignetting() {
    let config = SensorConfig {
        vignetting: 0.3,
        background: [240.0; 3],
        ..sensor()
    };
    let green = channel(&glass(config, Noise::Off, 0), 1);
    let centre = green[HEIGHT / 2 * WIDTH + WIDTH / 2];
    for corner in [0, WIDTH - 1, (HEIGHT - 1) * WIDTH, HEIGHT * WIDTH - 1] {
        let ratio = green[corner] / centre;
        assert!((ratio - 0.7).abs() < 0.006, "{ratio}");
    }
    // Half way out it is a quarter of that.
    let between = green[HEIGHT / 4 * WIDTH + WIDTH / 4] / centre;
    assert!((between - (1.0 - 0.3 / 4.0)).abs() < 0.006, "{between}");
}

#[test]
fn light_and_gain_brighten_until_the_picture_is_white() {
    let green = |exposure_ms: f64, analogue_gain: f64, noise: Noise| {
        let config = SensorConfig {
            background: [60.0; 3],
            exposure_ms,
            analogue_gain,
            ..sensor()
        };
        channel(&glass(config, noise, 1), 1)
    };
    for (exposure_ms, gain, expected) in [
        (2.0, 1.0, 60.0),
        (1.0, 1.0, 30.0),
        (4.0, 1.0, 120.0),
        (2.0, 2.0, 120.0),
        (1.0, 4.0, 120.0),
        (20.0, 1.0, 255.0),
        (2.0, 8.0, 255.0),
        // A full pixel holds no more, and half the gain shows it half as bright.
        (20.0, 0.5, 127.5),
    ] {
        let got = mean(&green(exposure_ms, gain, Noise::Off));
        assert!(
            (got - expected).abs() <= 0.5,
            "{exposure_ms} ms, gain {gain}: {got}"
        );
    }
    // As bright by gain as by light is noisier: half the electrons, twice the shot variance, four times the read variance.
    let (light, gain) = (green(4.0, 1.0, Noise::On), green(2.0, 2.0, Noise::On));
    for (values, analogue_gain) in [(light, 1.0), (gain, 2.0)] {
        let config = SensorConfig {
            analogue_gain,
            ..sensor()
        };
        let expected = expected_variance(&config, 1, 120.0);
        assert!((variance(&values) / expected - 1.0).abs() < 0.03);
    }
}

#[test]
fn ten_times_the_exposure_whitens_a_field() {
    let brightest = |exposure_ms: f64| {
        let config = SensorConfig {
            exposure_ms,
            ..sensor()
        };
        let rgb = microscope(config, Noise::On)
            .expose_defocused(0.0, 0.0, 0.0, 0)
            .unwrap();
        let values = channel(&rgb, 1);
        values.iter().filter(|grey| **grey == 255.0).count() as f64 / values.len() as f64
    };
    assert!(brightest(2.0) < 0.05, "{}", brightest(2.0));
    assert!(brightest(20.0) > 0.95, "{}", brightest(20.0));
}
