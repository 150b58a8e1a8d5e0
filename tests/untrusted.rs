//! Frames that hold nothing to judge are never trusted, whatever the instrument, by the model that ships.
//!
//! Passed over, with a word, where `ORT_DYLIB_PATH` names no ONNX Runtime.

#![cfg(feature = "onnx")]

use std::path::Path;

use anyhow::Result;
use hhnet::classifier::{Classifier, ClassifierConfig, Estimate};
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::frame::Frame;
use hhnet::microscope::{Microscope, MicroscopeConfig};
use hhnet::network::Network as _;
use hhnet::objective::Objective;
use hhnet::slide::Appearance;
use hhnet::units::Instant;

fn classifier() -> Result<Option<Classifier<OnnxNetwork>>> {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        eprintln!("passed over: ORT_DYLIB_PATH names no ONNX Runtime");
        return Ok(None);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hhnet_fast.onnx");
    let network = OnnxNetwork::open(&model, 2)?;
    let settings = ClassifierConfig::for_model(network.card());
    Ok(Some(Classifier::new(network, settings)?))
}

/// The estimate of one frame of an instrument drawn from `seed` after `change`.
fn judge(
    classifier: &mut Classifier<OnnxNetwork>,
    seed: u64,
    defocus_um: f64,
    change: impl Fn(&mut MicroscopeConfig),
    spoil: impl Fn(u8) -> u8,
) -> Result<Estimate> {
    let mut config = MicroscopeConfig::randomised(Objective::default(), seed);
    change(&mut config);
    let mut microscope = Microscope::new(config)?;
    let mut rgb = microscope.expose_defocused(0.0, 0.0, defocus_um, seed)?;
    rgb.iter_mut().for_each(|byte| *byte = spoil(*byte));
    Ok(classifier.classify(&Frame::new(2048, 1536, rgb, Instant::default(), seed)?)?)
}

fn empty(config: &mut MicroscopeConfig) {
    config.appearance = Some(Appearance::empty(config.slide_seed));
}

#[test]
fn empty_glass_black_and_saturated_frames_are_not_trusted() -> Result<()> {
    let Some(mut classifier) = classifier()? else {
        return Ok(());
    };
    for seed in 7_000_000..7_000_040 {
        type Case<'a> = (&'a str, &'a dyn Fn(&mut MicroscopeConfig), &'a dyn Fn(u8) -> u8);
        let cases: [Case; 4] = [
            ("empty glass", &empty, &|byte| byte),
            ("lamp off", &|_| (), &|byte| byte / 128),
            (
                "lamp nearly off",
                &|config| config.sensor.background = [3.0; 3],
                &|byte| byte,
            ),
            ("saturated", &|_| (), &|byte| byte.saturating_mul(20)),
        ];
        for (name, change, spoil) in cases {
            let estimate = judge(&mut classifier, seed, 1.0, change, spoil)?;
            assert!(!estimate.trusted, "{name}, seed {seed}: {estimate:?}");
        }
        // The same instruments see a stained slide.
        if seed % 8 == 0 {
            let estimate = judge(&mut classifier, seed, 1.0, |_| (), |byte| byte)?;
            assert!(estimate.trusted, "seed {seed}: {estimate:?}");
        }
    }
    Ok(())
}

/// The model has learnt what lies beyond the range it answers for (72 µm): hardly a frame from beyond 105 µm is trusted, and one that
/// is names the side the lens is on.
#[test]
fn frames_from_beyond_the_range_never_mislead() -> Result<()> {
    let Some(mut classifier) = classifier()? else {
        return Ok(());
    };
    let mut trusted = 0;
    for seed in 7_000_100..7_000_124 {
        let depth = (seed % 8) as f64 / 8.0;
        for (name, defocus_um) in [
            ("too far", 105.0 + 45.0 * depth),
            ("too near", -105.0 - 45.0 * depth),
        ] {
            let estimate = judge(&mut classifier, seed, defocus_um, |_| (), |byte| byte)?;
            let is_right_side = f64::from(estimate.index.value()) * defocus_um > 0.0;
            assert!(
                !estimate.trusted || is_right_side,
                "{name}, seed {seed}: {estimate:?}"
            );
            trusted += usize::from(estimate.trusted);
        }
    }
    assert!(trusted <= 4, "{trusted} of 48 were trusted");
    Ok(())
}
