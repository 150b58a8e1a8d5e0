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

/// An instrument drawn from `seed` and the dirt on its camera.
struct Bench {
    microscope: Microscope,
    dirt: Dirt,
}

impl Bench {
    fn new(seed: u64, appearance: Option<Appearance>, dirt: Dirt) -> Result<Self> {
        let config = MicroscopeConfig {
            width: WIDTH,
            height: HEIGHT,
            appearance,
            ..MicroscopeConfig::randomised(Objective::default(), seed)
        };
        Ok(Self {
            microscope: Microscope::new(config)?,
            dirt,
        })
    }

    fn frame(&mut self, place_um: [f64; 2], defocus_um: f64, sequence: u64) -> Result<Frame> {
        let [x_um, y_um] = place_um;
        let mut rgb = self
            .microscope
            .expose_defocused(x_um, y_um, defocus_um, sequence)?;
        self.dirt.cover(&mut rgb);
        Ok(Frame::new(WIDTH, HEIGHT, rgb, Instant::default(), sequence)?)
    }

    /// The flat field of 25 places, 60 µm above focus.
    fn flat_field(&mut self) -> Result<FlatField> {
        let place = |at: u64| [(at % 5) as f64 * 180.0 + 100.0, (at / 5) as f64 * 180.0 + 100.0];
        let frames = (0..25).map(|at| self.frame(place(at), 60.0, 1000 + at));
        Ok(making::flat_field(&frames.collect::<Result<Vec<_>>>()?)?.0)
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

    fn join(&mut self, other: &Self) {
        self.frames += other.frames;
        self.trusted += other.trusted;
        self.wrong += other.wrong;
    }
}

/// Frames of a specimen, as they are and divided.
fn judged(classifier: &mut Classifier<OnnxNetwork>, seed: u64, dirt: Dirt) -> Result<[Count; 2]> {
    let mut bench = Bench::new(seed, None, dirt)?;
    let flat = bench.flat_field()?;
    let mut counts = [Count::default(), Count::default()];
    for (sequence, defocus_um) in (0..).zip(HEIGHTS_UM) {
        let frame = bench.frame([0.0, 0.0], defocus_um, sequence)?;
        counts[0].add(&classifier.classify(&frame)?, defocus_um);
        counts[1].add(&classifier.classify(&flat.correct(&frame)?)?, defocus_um);
    }
    Ok(counts)
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
    let mut clean = Count::default();
    for (name, dirt) in kinds() {
        let mut total = [Count::default(), Count::default()];
        for seed in 7_000_200..7_000_203 {
            let counts = judged(&mut classifier, seed, dirt(seed))?;
            total
                .iter_mut()
                .zip(&counts)
                .for_each(|(total, count)| total.join(count));
        }
        let [raw, divided] = total;
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
    for (name, dirt) in kinds() {
        let (mut raw, mut divided) = (0, 0);
        for seed in 7_000_300..7_000_303 {
            let mut bench = Bench::new(seed, Some(Appearance::empty(seed)), dirt(seed))?;
            let flat = bench.flat_field()?;
            for (sequence, defocus_um) in (0..).zip([-20.0, 0.0, 20.0]) {
                let frame = bench.frame([0.0, 0.0], defocus_um, sequence)?;
                raw += usize::from(classifier.classify(&frame)?.trusted);
                divided += usize::from(classifier.classify(&flat.correct(&frame)?)?.trusted);
            }
        }
        println!("{name}: {raw} of 9 are trusted as they are, {divided} divided");
        assert_eq!(divided, 0, "{name}");
    }
    Ok(())
}
