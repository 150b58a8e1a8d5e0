//! Frames with dust, hair, text and a field stop, judged by the model that ships, as they are and divided by a flat field.

use std::path::Path;

use crate::common::dirt::Dirt;
use crate::common::onnx_runtime;
use anyhow::Result;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig, Estimate};
use hhnet::estimate::flat_field::{FlatField, making};
use hhnet::estimate::following::Following;
use hhnet::estimate::network::Network as _;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::sim::slide::Appearance;
use hhnet::units::{Instant, StageHeight};

const WIDTH: usize = 1024;
const HEIGHT: usize = 768;
/// A whole frame, of 30 patches.
const WHOLE: [usize; 2] = [2048, 1536];
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
        Self::of([WIDTH, HEIGHT], seed, appearance, heights_um)
    }

    fn of(
        [width, height]: [usize; 2],
        seed: u64,
        appearance: Option<Appearance>,
        heights_um: &[f64],
    ) -> Result<Self> {
        let mut microscope = Microscope::new(MicroscopeConfig {
            width,
            height,
            appearance,
            ..MicroscopeConfig::randomised(Objective::default(), seed)
        })?;
        let mut frame = |[x_um, y_um]: [f64; 2], defocus_um: f64, sequence: u64| -> Result<Frame> {
            let rgb = microscope.expose_defocused(x_um, y_um, defocus_um, sequence)?;
            Ok(Frame::new(width, height, rgb, Instant::default(), sequence)?)
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
        let places = self.places.iter().map(|frame| covered(frame, dirt));
        let flat = making::flat_field(&places.collect::<Result<Vec<_>>>()?)?.0;
        Ok((flat, self.cover(dirt)?))
    }

    /// The frames to be judged, through this dirt.
    fn cover(&self, dirt: &Dirt) -> Result<Vec<(f64, Frame)>> {
        let looks = self.looks.iter();
        looks
            .map(|(z_um, frame)| Ok((*z_um, covered(frame, dirt)?)))
            .collect()
    }
}

fn covered(frame: &Frame, dirt: &Dirt) -> Result<Frame> {
    let mut rgb = frame.rgb().to_vec();
    dirt.cover(&mut rgb);
    Ok(Frame::new(
        frame.width(),
        frame.height(),
        rgb,
        frame.stamp,
        frame.sequence,
    )?)
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

/// Without a flat field the lens itself tells dust from the specimen: on the way down patches that stay lose their vote.
#[test]
fn patches_that_do_not_follow_the_lens_have_no_vote() -> Result<()> {
    let mut classifier = classifier()?;
    let edges = classifier.config().edges;
    let heights_um: Vec<f64> = (-2..=4).rev().map(|at| 5.0 * f64::from(at)).collect();
    let bench = Bench::of(WHOLE, 7_000_200, None, &heights_um)?;
    let [width, height] = WHOLE;
    let clean = || Dirt::none(width, height);
    let kinds = [
        ("clean", clean()),
        ("20 specks", clean().with_specks(20, 1)),
        ("50 specks", clean().with_specks(50, 1)),
        ("150 specks", clean().with_specks(150, 1)),
        ("hair", clean().with_hair()),
    ];
    for (name, dirt) in kinds {
        let (mut raw, mut followed) = (Count::default(), Count::default());
        let mut following = Following::default();
        // Of those that were told after the first way of 6 µm.
        let mut worst_um = 0.0_f64;
        for (at, (defocus_um, frame)) in bench.cover(&dirt)?.into_iter().enumerate() {
            let mut judged = classifier.judge(&frame)?;
            let all = classifier.estimate(&judged);
            raw.add(&all, defocus_um);
            following.handle_frame(Some(StageHeight::from_um(defocus_um)), &judged, &edges);
            following.leave_out(&mut judged);
            let rest = classifier.estimate(&judged);
            followed.add(&rest, defocus_um);
            if let Some(told) = rest.defocus.filter(|_| at >= 2) {
                worst_um = worst_um.max((told.0 - defocus_um).abs());
            }
        }
        let left_out = following.left_out();
        println!(
            "{name}: all patches {raw:?}, those that follow {followed:?}, {left_out} left out, then off by {worst_um:.2} µm at most"
        );
        assert!(followed.wrong <= raw.wrong, "{name}");
        assert!(name != "clean" || following.left_out() == 0);
        if name == "50 specks" {
            // From the first way of 6 µm on.
            assert!(raw.wrong >= 3, "{raw:?}");
            assert_eq!((followed.trusted, followed.wrong), (heights_um.len(), 2));
        }
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
