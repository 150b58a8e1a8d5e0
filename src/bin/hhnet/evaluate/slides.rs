//! Frames rendered now, judged by the classifier as the node uses it.

use std::time::{Duration, Instant};

use anyhow::Result;
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument};
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::frame::Frame;
use hhnet::microscope::{Microscope, MicroscopeConfig};
use hhnet::network::{Classifier, ClassifierConfig, Network as _};
use hhnet::objective::Objective;
use hhnet::slide::Appearance;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Arguments, JudgedFrame, Protocol};

/// Frames of each slide; with the paper's heights every class once.
const FRAMES: usize = 7;
/// Fields rendered before they are judged; 10 MB a frame.
const AHEAD: usize = 16;
/// Largest defocus in depths of field: 65 µm at 40x/0.65.
const Z_MAX_DEPTHS: f64 = 45.4;

pub(super) fn judge(
    network: OnnxNetwork,
    arguments: &Arguments,
    protocol: Protocol,
) -> Result<Vec<JudgedFrame>> {
    let objective = Objective::by_name(&network.card().objective)?;
    let config = DatasetConfig {
        z_max_um: Z_MAX_DEPTHS * objective.depth_of_field_um(),
        objective,
        instrument: if arguments.shifted {
            Instrument::Shifted
        } else {
            Instrument::Randomised
        },
        slides: arguments.slides as usize,
        first_seed: arguments.seed,
        frames_per_slide: FRAMES,
        frames_per_field: 2,
        patches_per_frame: 1,
        heights: match protocol {
            Protocol::Paper => Heights::Paper,
            Protocol::Continuous | Protocol::Blank => Heights::Uniform,
        },
        blank: Blank::Keep,
        jpeg_share: 0.0,
        empty: false,
    };
    config.check()?;
    let settings = ClassifierConfig::for_edges(&network.card().class_edges);
    let mut classifier = Classifier::new(network, settings)?;
    let bar = ProgressBar::new((config.slides * FRAMES) as u64).with_style(ProgressStyle::with_template(
        "{elapsed_precise} {bar:40} {pos}/{len} frames, {eta} to go",
    )?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let mut judged = Vec::new();
    let fields: Vec<_> = (0..config.slides)
        .flat_map(|slide| config.fields(slide))
        .collect();
    for fields in fields.chunks(AHEAD) {
        let exposed: Vec<(u64, Vec<(f64, Frame)>)> = fields
            .par_iter()
            .map(|field| Ok((field.slide_seed, config.expose(field)?)))
            .collect::<Result<_>>()?;
        let frames = exposed
            .into_iter()
            .flat_map(|(slide, frames)| frames.into_iter().map(move |frame| (slide, frame)));
        for (slide, (z_um, frame)) in frames {
            let started = Instant::now();
            let patches = classifier.judge_patches(&frame)?;
            judged.push(JudgedFrame {
                z_um,
                slide,
                patches,
                seconds: Some(started.elapsed().as_secs_f64()),
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(judged)
}

/// A frame that holds nothing to judge: its name, what is done to the instrument, what is done to each byte.
type Blanked = (&'static str, fn(&mut MicroscopeConfig), fn(u8) -> u8);

const BLANKS: [Blanked; 4] = [
    (
        "empty_glass",
        |config| config.appearance = Some(Appearance::empty(config.slide_seed)),
        |byte| byte,
    ),
    ("lamp_off", |_| (), |byte| byte / 128),
    (
        "lamp_nearly_off",
        |config| config.sensor.background = [3.0; 3],
        |byte| byte,
    ),
    ("saturated", |_| (), |byte| byte.saturating_mul(20)),
];

/// Four frames of each instrument that hold nothing, at any height; how many of each kind were trusted.
pub(super) fn judge_blank(network: OnnxNetwork, arguments: &Arguments) -> Result<Value> {
    let card = network.card().clone();
    let objective = Objective::by_name(&card.objective)?;
    let z_max_um = Z_MAX_DEPTHS * objective.depth_of_field_um();
    let settings = ClassifierConfig::for_edges(&network.card().class_edges);
    let mut classifier = Classifier::new(network, settings)?;
    let seeds = arguments.seed..arguments.seed + u64::from(arguments.slides);
    let bar = ProgressBar::new(u64::from(arguments.slides)).with_style(ProgressStyle::with_template(
        "{elapsed_precise} {bar:40} {pos}/{len} instruments, {eta} to go",
    )?);
    let mut trusted = [0_u32; BLANKS.len()];
    for seed in seeds {
        // Steps of the golden ratio fill the range evenly, however many there are.
        let share = (seed as f64 * 0.618_033_988_749_895).fract();
        let defocus_um = z_max_um * (2.0 * share - 1.0);
        let frames = BLANKS.par_iter().map(|(_, change, spoil)| {
            let mut config = MicroscopeConfig::randomised(objective.clone(), seed);
            change(&mut config);
            let (width, height) = (config.width, config.height);
            let mut rgb = Microscope::new(config)?.expose_defocused(0.0, 0.0, defocus_um, seed)?;
            rgb.iter_mut().for_each(|byte| *byte = spoil(*byte));
            Ok(Frame::new(
                width,
                height,
                rgb,
                hhnet::units::Instant::default(),
                seed,
            )?)
        });
        let frames: Vec<Frame> = frames.collect::<Result<_>>()?;
        for (count, frame) in trusted.iter_mut().zip(&frames) {
            *count += u32::from(classifier.classify(frame)?.trusted);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let images = arguments.slides * BLANKS.len() as u32;
    let by_kind: serde_json::Map<_, _> = BLANKS
        .iter()
        .zip(trusted)
        .map(|((name, ..), count)| ((*name).to_owned(), json!(count)))
        .collect();
    Ok(json!({
        "model": &*card.model_id,
        "protocol": "blank",
        "images": images,
        "trusted": by_kind,
        "untrusted_share": 1.0 - f64::from(trusted.iter().sum::<u32>()) / f64::from(images),
    }))
}
