//! Frames that hold nothing to judge are never trusted, whatever the instrument, by the model that ships.

use std::path::Path;

use crate::common::onnx_runtime;
use anyhow::Result;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig, Doubt, Estimate};
use hhnet::estimate::network::Network as _;
use hhnet::estimate::resample::to_model_pixels;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::sim::slide::Appearance;
use hhnet::units::Instant;

fn classifier() -> Result<Classifier<OnnxNetwork>> {
    onnx_runtime::require();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hhnet_fast.onnx");
    let network = OnnxNetwork::open(&model, 2)?;
    let settings = ClassifierConfig::for_model(network.card());
    Ok(Classifier::new(network, settings)?)
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
    let mut classifier = classifier()?;
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
    let mut classifier = classifier()?;
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

/// Every two by two pixels as one, as a camera bins them.
fn binned(frame: &Frame) -> Result<Frame> {
    let (width, height) = (frame.width() / 2, frame.height() / 2);
    let at = |x: usize, y: usize, c: usize| u16::from(frame.rgb()[3 * (y * frame.width() + x) + c]);
    let mean = |x: usize, y: usize, c: usize| {
        ((at(2 * x, 2 * y, c)
            + at(2 * x + 1, 2 * y, c)
            + at(2 * x, 2 * y + 1, c)
            + at(2 * x + 1, 2 * y + 1, c)
            + 2)
            / 4) as u8
    };
    let pixel = |at: usize| [0, 1, 2].map(|c| mean(at % width, at / width, c));
    let rgb = (0..width * height).flat_map(pixel).collect();
    Ok(Frame::new(width, height, rgb, frame.stamp, frame.sequence)?)
}

/// A camera binned 2x2 is judged as if it were not, once its frames have the model's pixels; a grey one is not judged.
#[test]
fn binned_frames_are_mended_and_grey_ones_refused() -> Result<()> {
    let mut classifier = classifier()?;
    let (mut trusted, mut wrong) = (0, 0);
    for seed in 7_000_000..7_000_004 {
        let mut microscope = Microscope::new(MicroscopeConfig::randomised(Objective::default(), seed))?;
        for defocus_um in [-20.0, -8.0, -3.0, 0.0, 3.0, 8.0, 20.0] {
            let rgb = microscope.expose_defocused(0.0, 0.0, defocus_um, seed)?;
            let frame = Frame::new(2048, 1536, rgb, Instant::default(), seed)?;
            let mended = classifier.classify(&to_model_pixels(&binned(&frame)?, [2.0; 2])?)?;
            let error_um = mended.defocus.map_or(f64::INFINITY, |z| (z.0 - defocus_um).abs());
            trusted += usize::from(mended.trusted);
            wrong += usize::from(mended.trusted && error_um > 1.5_f64.max(0.35 * defocus_um.abs()));
            let grey = frame
                .rgb()
                .chunks_exact(3)
                .flat_map(|pixel| [pixel[1]; 3])
                .collect();
            let grey = classifier.classify(&Frame::new(2048, 1536, grey, Instant::default(), seed)?)?;
            assert_eq!(
                (grey.trusted, grey.doubt),
                (false, Some(Doubt::Grey)),
                "{seed}, {defocus_um} µm"
            );
        }
    }
    assert!(
        trusted >= 20 && wrong == 0,
        "{trusted} of 28 trusted, {wrong} of them wrong"
    );
    Ok(())
}
