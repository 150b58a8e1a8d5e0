//! Frames with dust, hair, text and a field stop, judged by the model that ships, as they are and divided by a flat field.

use std::path::Path;

use crate::common::dirt::Dirt;
use crate::common::onnx_runtime;
use anyhow::Result;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig, Estimate};
use hhnet::estimate::flat_field::{FlatField, making};
use hhnet::estimate::network::Network as _;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::sim::slide::Appearance;
use hhnet::units::Instant;

const WIDTH: usize = 1024;
const HEIGHT: usize = 768;
/// Heights of the frames that are judged, µm.
const HEIGHTS_UM: [f64; 7] = [-20.0, -8.0, -2.5, 0.2, 3.0, 9.0, 22.0];

fn classifier() -> Result<Classifier<OnnxNetwork>> {
    onnx_runtime::require();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hhnet_fast.onnx");
    let network = OnnxNetwork::open(&model, 2)?;
    let settings = ClassifierConfig::for_model(network.card());
    Ok(Classifier::new(network, settings)?)
}

/// Clean frames of one instrument drawn from a seed: those for the flat field, and those to be judged with their heights.
struct Bench {
    places: Vec<Frame>,
    looks: Vec<(f64, Frame)>,
}

impl Bench {
    fn new(seed: u64, appearance: Option<Appearance>, heights_um: &[f64]) -> Result<Self> {
        let mut microscope = Microscope::new(MicroscopeConfig {
            width: WIDTH,
            height: HEIGHT,
            appearance,
            ..MicroscopeConfig::randomised(Objective::default(), seed)
        })?;
        let mut frame = |[x_um, y_um]: [f64; 2], defocus_um: f64, sequence: u64| -> Result<Frame> {
            let rgb = microscope.expose_defocused(x_um, y_um, defocus_um, sequence)?;
            Ok(Frame::new(WIDTH, HEIGHT, rgb, Instant::default(), sequence)?)
        };
        // 25 places, 60 µm above focus.
        let place = |at: u64| [(at % 5) as f64 * 180.0 + 100.0, (at / 5) as f64 * 180.0 + 100.0];
        let places = (0..25)
            .map(|at| frame(place(at), 60.0, 1000 + at))
            .collect::<Result<_>>()?;
        let looks = (0..).zip(heights_um);
        let looks = looks.map(|(sequence, &z_um)| Ok((z_um, frame([0.0, 0.0], z_um, sequence)?)));
        Ok(Self {
            looks: looks.collect::<Result<_>>()?,
            places,
        })
    }

    /// What arrives through this dirt: the flat field, and the frames to be judged.
    fn through(&self, dirt: &Dirt) -> Result<(FlatField, Vec<(f64, Frame)>)> {
        let cover = |frame: &Frame| -> Result<Frame> {
            let mut rgb = frame.rgb().to_vec();
            dirt.cover(&mut rgb);
            Ok(Frame::new(WIDTH, HEIGHT, rgb, frame.stamp, frame.sequence)?)
        };
        let places = self.places.iter().map(cover).collect::<Result<Vec<_>>>()?;
        let looks = self.looks.iter().map(|(z_um, frame)| Ok((*z_um, cover(frame)?)));
        Ok((making::flat_field(&places)?.0, looks.collect::<Result<_>>()?))
    }
}

/// Whether an estimate that is trusted is wrong by more than a model may be.
fn is_wrong(estimate: &Estimate, defocus_um: f64) -> bool {
    let error_um = estimate
        .defocus
        .map_or(f64::INFINITY, |z| (z.0 - defocus_um).abs());
    estimate.trusted && error_um > 1.5_f64.max(0.35 * defocus_um.abs())
}

/// How many of a number of frames were trusted, and how many of those were wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    frames: usize,
    trusted: usize,
    wrong: usize,
}

impl Count {
    fn add(&mut self, estimate: &Estimate, defocus_um: f64) {
        self.frames += 1;
        self.trusted += usize::from(estimate.trusted);
        self.wrong += usize::from(is_wrong(estimate, defocus_um));
    }
}

type Kind = (&'static str, fn(u64) -> Dirt);

fn kinds() -> [Kind; 7] {
    [
        ("clean", |_| Dirt::none(WIDTH, HEIGHT)),
        ("specks", |seed| Dirt::none(WIDTH, HEIGHT).with_specks(10, seed)),
        ("many specks", |seed| {
            Dirt::none(WIDTH, HEIGHT).with_specks(50, seed)
        }),
        ("hair", |_| Dirt::none(WIDTH, HEIGHT).with_hair()),
        ("text", |_| Dirt::none(WIDTH, HEIGHT).with_text()),
        ("field stop", |_| Dirt::none(WIDTH, HEIGHT).with_field_stop()),
        ("all", |seed| {
            Dirt::none(WIDTH, HEIGHT)
                .with_specks(50, seed)
                .with_hair()
                .with_text()
                .with_field_stop()
        }),
    ]
}

/// A flat field brings a dirty camera back to what a clean one is worth, and changes nothing of a clean one.
#[test]
fn divided_frames_are_judged_like_clean_ones() -> Result<()> {
    let mut classifier = classifier()?;
    let benches = (7_000_200..7_000_203).map(|seed| Bench::new(seed, None, &HEIGHTS_UM));
    let benches = benches.collect::<Result<Vec<_>>>()?;
    let mut clean = Count::default();
    for (name, dirt) in kinds() {
        let (mut raw, mut divided) = (Count::default(), Count::default());
        for (seed, bench) in (0..).zip(&benches) {
            let (flat, looks) = bench.through(&dirt(seed))?;
            for (defocus_um, frame) in looks {
                raw.add(&classifier.classify(&frame)?, defocus_um);
                divided.add(&classifier.classify(&flat.correct(&frame)?)?, defocus_um);
            }
        }
        println!("{name}: as they are {raw:?}, divided {divided:?}");
        if name == "clean" {
            clean = raw;
        }
        assert!(
            divided.trusted + 2 >= clean.trusted,
            "{name}: {divided:?}, clean {clean:?}"
        );
        assert!(
            divided.wrong <= clean.wrong,
            "{name}: {divided:?}, clean {clean:?}"
        );
    }
    Ok(())
}

/// Dirt over empty glass looks sharp whatever the lens does; divided by the flat field nothing is left to be trusted.
#[test]
fn divided_frames_of_empty_glass_are_not_trusted() -> Result<()> {
    let mut classifier = classifier()?;
    let empty = |seed| Bench::new(seed, Some(Appearance::empty(seed)), &[-20.0, 0.0, 20.0]);
    let benches = (7_000_300..7_000_303).map(empty).collect::<Result<Vec<_>>>()?;
    for (name, dirt) in kinds() {
        let (mut raw, mut divided) = (0, 0);
        for (seed, bench) in (0..).zip(&benches) {
            let (flat, looks) = bench.through(&dirt(seed))?;
            for (_, frame) in looks {
                raw += usize::from(classifier.classify(&frame)?.trusted);
                divided += usize::from(classifier.classify(&flat.correct(&frame)?)?.trusted);
            }
        }
        println!("{name}: {raw} of 9 are trusted as they are, {divided} divided");
        assert_eq!(divided, 0, "{name}");
    }
    Ok(())
}
