//! Frames rendered now, judged by the classifier as the node uses it.

use std::time::{Duration, Instant};

use anyhow::Result;
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument};
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
use hhnet::estimate::network::{ModelCard, Network as _};
use hhnet::evaluation::JudgedFrame;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, farthest_um};
use hhnet::sim::slide::Appearance;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Arguments, Protocol};

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
    super::check_pixel(
        network.card(),
        objective.object_pixel_um(),
        "the virtual microscope",
    )?;
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
    let knows_condenser = arguments.tell_condenser || arguments.fit;
    let settings = ClassifierConfig::for_model(network.card());
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
            let patches = classifier.judge(&frame)?.patches;
            judged.push(JudgedFrame {
                z_um,
                slide,
                patches,
                condenser_na: knows_condenser
                    .then(|| config.instrument.condenser_na(&config.objective, slide)),
                seconds: Some(started.elapsed().as_secs_f64()),
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(judged)
}

/// Frames of the blank protocol lie beyond the range a model answers for by more than the error of its estimate.
const BEYOND: f64 = 1.15;

/// Where a frame of the blank protocol is exposed.
#[derive(Clone, Copy, PartialEq)]
enum Height {
    /// Anywhere in the range of the continuous protocol.
    Any,
    /// From [`BEYOND`] the model's range, above (1) or below (-1) focus, to the end of what the virtual microscope models.
    Beyond(f64),
}

/// A frame that must not be trusted: its name, its height, what is done to the instrument, what is done to each byte.
type Blanked = (&'static str, Height, fn(&mut MicroscopeConfig), fn(u8) -> u8);

const BLANKS: [Blanked; 6] = [
    (
        "empty_glass",
        Height::Any,
        |config| config.appearance = Some(Appearance::empty(config.slide_seed)),
        |byte| byte,
    ),
    ("lamp_off", Height::Any, |_| (), |byte| byte / 128),
    (
        "lamp_nearly_off",
        Height::Any,
        |config| config.sensor.background = [3.0; 3],
        |byte| byte,
    ),
    ("saturated", Height::Any, |_| (), |byte| byte.saturating_mul(20)),
    ("too_far", Height::Beyond(1.0), |_| (), |byte| byte),
    ("too_near", Height::Beyond(-1.0), |_| (), |byte| byte),
];

impl Height {
    /// Defocus in µm, `share` (0 to 1) of the way through the heights there are; None if there are none.
    fn defocus_um(self, share: f64, card: &ModelCard, objective: &Objective) -> Option<f64> {
        let usual_um = Z_MAX_DEPTHS * objective.depth_of_field_um();
        let Self::Beyond(side) = self else {
            return Some(usual_um * (2.0 * share - 1.0));
        };
        let [least_um, most_um] = card.range_um.unwrap_or([-usual_um, usual_um]);
        let end_um = BEYOND * if side > 0.0 { most_um } else { -least_um };
        let farthest_um = farthest_um(objective);
        (end_um < farthest_um).then_some(side * (end_um + share * (farthest_um - end_um)))
    }
}

/// What became of the frames of one kind.
#[derive(Clone, Copy, Default)]
struct Kind {
    images: u32,
    trusted: u32,
    /// Trusted, and the lens would be driven away from focus.
    misled: u32,
}

/// One frame of each kind and instrument; how many of each kind were trusted.
pub(super) fn judge_blank(network: OnnxNetwork, arguments: &Arguments) -> Result<Value> {
    let card = network.card().clone();
    let objective = Objective::by_name(&card.objective)?;
    let mut classifier = Classifier::new(network, ClassifierConfig::for_model(&card))?;
    let seeds = arguments.seed..arguments.seed + u64::from(arguments.slides);
    let bar = ProgressBar::new(u64::from(arguments.slides)).with_style(ProgressStyle::with_template(
        "{elapsed_precise} {bar:40} {pos}/{len} instruments, {eta} to go",
    )?);
    let mut kinds = [Kind::default(); BLANKS.len()];
    for seed in seeds {
        // Steps of the golden ratio fill the range evenly, however many there are.
        let share = (seed as f64 * 0.618_033_988_749_895).fract();
        let frames = BLANKS.par_iter().map(|&(_, height, change, spoil)| {
            let Some(defocus_um) = height.defocus_um(share, &card, &objective) else {
                return Ok(None);
            };
            let mut config = MicroscopeConfig::randomised(objective.clone(), seed);
            change(&mut config);
            let (width, height) = (config.width, config.height);
            let mut rgb = Microscope::new(config)?.expose_defocused(0.0, 0.0, defocus_um, seed)?;
            rgb.iter_mut().for_each(|byte| *byte = spoil(*byte));
            let frame = Frame::new(width, height, rgb, hhnet::units::Instant::default(), seed)?;
            Ok(Some((defocus_um, frame)))
        });
        let frames: Vec<_> = frames.collect::<Result<_>>()?;
        for (kind, (defocus_um, frame)) in kinds
            .iter_mut()
            .zip(frames)
            .filter_map(|(kind, frame)| Some((kind, frame?)))
        {
            let estimate = classifier.classify(&frame)?;
            let misled = f64::from(estimate.index.value()) * defocus_um < 0.0;
            kind.images += 1;
            kind.trusted += u32::from(estimate.trusted);
            kind.misled += u32::from(estimate.trusted && misled);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let by_kind = |count: fn(&Kind) -> u32| {
        let rows = BLANKS.iter().zip(&kinds).filter(|(_, kind)| kind.images > 0);
        rows.map(|((name, ..), kind)| ((*name).to_owned(), json!(count(kind))))
            .collect::<serde_json::Map<_, _>>()
    };
    let all = |count: fn(&Kind) -> u32| kinds.iter().map(count).sum::<u32>();
    Ok(json!({
        "model": &*card.model_id,
        "protocol": "blank",
        "images": all(|kind| kind.images),
        "images_by_kind": by_kind(|kind| kind.images),
        "trusted": by_kind(|kind| kind.trusted),
        "trusted_and_wrong_side": by_kind(|kind| kind.misled),
        "untrusted_share": 1.0 - f64::from(all(|kind| kind.trusted)) / f64::from(all(|kind| kind.images)),
    }))
}
