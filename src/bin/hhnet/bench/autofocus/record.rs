//! Frames of every field at every height, and what network and classical measures say of them.

use std::time::Instant;

use anyhow::Result;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
use hhnet::estimate::network::Network as _;
use hhnet::estimate::sharpness::{brenner, tenengrad};
use hhnet::evaluation::autofocus::content::Content;
use hhnet::evaluation::autofocus::response::{Plane, Response, Seen, Sharpness, judgement};
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::pictures::jpeg::{Chroma, encode};
use hhnet::pictures::preview::Picture;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::statistics::median;

use super::Arguments;

/// Seed of the first slide; training and evaluation use none from here on.
const FIRST_SEED: u64 = 7_000_000;
/// Heights of the planes, depths of field: up to each limit in steps of the second number, and how many frames each has.
const PLANES: [(f64, f64, u64); 4] = [(2.0, 0.175, 2), (8.0, 0.35, 1), (42.0, 1.4, 1), (91.0, 2.8, 1)];
/// Quality of the small pictures by whose size sharpness is measured.
const JPEG_QUALITY: u8 = 75;

/// The fields, and how long it took to say what they show.
pub(super) struct Recording {
    pub responses: Vec<Response>,
    /// Median time of a decision, ms.
    pub decision_ms: f64,
    /// Median time of Tenengrad, the slower of the two measures, ms.
    pub sharpness_ms: f64,
}

/// What frames are shown to, and how long it took.
struct Viewer {
    classifier: Classifier<OnnxNetwork>,
    decisions_ms: Vec<f64>,
    sharpness_ms: Vec<f64>,
}

/// Renders and judges the fields of slides of each kind.
pub(super) fn record(
    network: OnnxNetwork,
    objective: &Objective,
    arguments: &Arguments,
) -> Result<Recording> {
    let settings = ClassifierConfig::for_model(network.card());
    let mut viewer = Viewer {
        classifier: Classifier::new(network, settings)?,
        decisions_ms: Vec::new(),
        sharpness_ms: Vec::new(),
    };
    let heights = heights_depths();
    let frames: u64 = heights.iter().map(|(_, frames)| frames).sum();
    let slides = u64::from(arguments.slides) * Content::ALL.len() as u64;
    let bar = super::progress((slides * frames) as usize, "frames")?;
    let first = FIRST_SEED + 1000 * arguments.seed;
    let kinds = Content::ALL.into_iter().cycle();
    let responses = (first..first + slides)
        .zip(kinds)
        .map(|(seed, content)| field(content, seed, objective, &heights, &mut viewer, &|| bar.inc(1)))
        .collect::<Result<_>>()?;
    bar.finish_and_clear();
    Ok(Recording {
        responses,
        decision_ms: median(viewer.decisions_ms).unwrap_or_default(),
        sharpness_ms: median(viewer.sharpness_ms).unwrap_or_default(),
    })
}

/// Heights, depths of field, and how many frames are taken there.
fn heights_depths() -> Vec<(f64, u64)> {
    let mut heights = vec![(0.0, PLANES[0].2)];
    let mut from = 0.0;
    for (to, step, frames) in PLANES {
        let steps = ((to - from) / step).round() as u32;
        for at in 1..=steps {
            let height = from + (to - from) * f64::from(at) / f64::from(steps);
            heights.extend([(height, frames), (-height, frames)]);
        }
        from = to;
    }
    heights
}

fn field(
    content: Content,
    seed: u64,
    objective: &Objective,
    heights: &[(f64, u64)],
    viewer: &mut Viewer,
    progress: &dyn Fn(),
) -> Result<Response> {
    let look = content.appearance(seed);
    let usual = MicroscopeConfig::randomised(objective.clone(), seed);
    let [width_um, height_um] =
        [usual.width, usual.height].map(|side| side as f64 * objective.object_pixel_um());
    let (place_um, coverage) = content.find_place(seed, &look, [width_um, height_um])?;
    let mut microscope = Microscope::new(MicroscopeConfig {
        appearance: Some(look),
        ..usual
    })?;
    let depth_um = objective.depth_of_field_um();
    let mut sequence = 0;
    let mut planes = Vec::new();
    for &(height, frames) in heights {
        let defocus_um = height * depth_um;
        let mut plane = Plane {
            defocus_um,
            frames: Vec::new(),
        };
        for _ in 0..frames {
            sequence += 1;
            let rgb = microscope.expose_defocused(place_um[0], place_um[1], defocus_um, sequence)?;
            let size = microscope.config();
            let frame = Frame::new(
                size.width,
                size.height,
                rgb,
                hhnet::units::Instant::default(),
                sequence,
            )?;
            plane.frames.push(viewer.see(&frame)?);
            progress();
        }
        planes.push(plane);
    }
    Ok(Response::new(content, seed, coverage, planes)?)
}

impl Viewer {
    fn see(&mut self, frame: &Frame) -> Result<Seen> {
        let began = Instant::now();
        let estimate = self.classifier.classify(frame)?;
        self.decisions_ms.push(1e3 * began.elapsed().as_secs_f64());
        let began = Instant::now();
        let tenengrad = tenengrad(frame);
        self.sharpness_ms.push(1e3 * began.elapsed().as_secs_f64());
        let Picture(small) = Picture::of(frame);
        let size = (small.width() as usize, small.height() as usize);
        let jpeg = encode(small.as_raw(), size, JPEG_QUALITY, Chroma::Halved)?;
        Ok(Seen {
            judgement: judgement(&estimate),
            sharpness: Sharpness {
                tenengrad,
                brenner: brenner(frame),
                jpeg_bytes: jpeg.len() as f64,
            },
        })
    }
}
