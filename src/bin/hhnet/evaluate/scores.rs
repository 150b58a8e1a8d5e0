//! What the judgements are worth.

use std::time::Instant;

use anyhow::{Result, ensure};
use hhnet::classes::{CLASSES, DistanceIndex};
use hhnet::network::{ClassifierConfig, Estimate};
use hhnet::units::Micrometres;
use hhnet::vote::{self, Voting};
use serde_json::{Value, json};

use super::JudgedFrame;

/// Defocus up to which errors are counted in µm, depths of field; farther away a coarse answer serves as well.
const NEAR_DEPTHS: f64 = 8.0;
/// Bins of the reliability curve.
const BINS: usize = 15;
const VOTINGS: [(&str, Voting); 3] = [
    ("hard", Voting::Hard),
    ("linear", Voting::Linear),
    ("certainty", Voting::CertaintyWeighted),
];

/// How well the model did.
pub(super) struct Scores {
    images: usize,
    /// Images without a patch that could be judged.
    without_content: usize,
    patches: usize,
    patch_accuracy: Share,
    /// Of the images with content, by each way of voting, and the time one vote takes, µs.
    votings: [(&'static str, Share, f64); 3],
    off_by_more_than_one: Share,
    /// Of the images out of focus, those that would be driven away from focus.
    wrong_direction: Share,
    untrusted: Share,
    /// |estimate - truth| within the near range, µm.
    errors_um: Vec<f64>,
    /// The same beyond it, relative to the height.
    relative_errors: Vec<f64>,
    /// Root mean square of (estimate - truth) / stated standard deviation; 1 if the model knows how wrong it is.
    error_in_stddevs: Option<f64>,
    reliability: [Bin; BINS],
    confusion: [[u64; CLASSES]; CLASSES],
    seconds: Vec<f64>,
    depth_um: f64,
}

/// A part of a whole.
#[derive(Clone, Copy, Default)]
struct Share {
    part: usize,
    whole: usize,
}

/// Images of about one certainty.
#[derive(Clone, Copy, Default)]
struct Bin {
    images: usize,
    right: usize,
    confidence: f64,
}

impl Share {
    fn of<T>(all: impl IntoIterator<Item = T>, mut counts: impl FnMut(T) -> bool) -> Self {
        let mut share = Self::default();
        for one in all {
            share.whole += 1;
            share.part += usize::from(counts(one));
        }
        share
    }

    fn value(self) -> Option<f64> {
        (self.whole > 0).then(|| self.part as f64 / self.whole as f64)
    }

    /// Wilson's 95 % interval: no error in n images only shows about 1 - 3.7/n.
    fn interval(self) -> Option<[f64; 2]> {
        const Z: f64 = 1.96;
        let n = self.whole as f64;
        let p = self.value()?;
        let centre = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some([
            ((centre - half) / scale).max(0.0),
            ((centre + half) / scale).min(1.0),
        ])
    }
}

impl Scores {
    pub(super) fn of(frames: &[JudgedFrame], settings: &ClassifierConfig, depth_um: f64) -> Result<Self> {
        let edges = &settings.edges;
        let truth = |frame: &JudgedFrame| edges.classify(Micrometres(frame.z_um));
        let patches = || {
            frames
                .iter()
                .flat_map(|frame| frame.patches.iter().map(move |patch| (frame, patch)))
        };
        let patch_accuracy = Share::of(patches(), |(frame, patch)| {
            vote::decide(&patch.probabilities) == Some(truth(frame))
        });
        ensure!(
            patch_accuracy.whole > 0,
            "there is no patch to judge: the frames hold empty glass alone"
        );
        let votings = VOTINGS.map(|(name, voting)| {
            let config = ClassifierConfig { voting, ..*settings };
            let started = Instant::now();
            let right = Share::of(frames.iter().filter(|frame| !frame.patches.is_empty()), |frame| {
                Estimate::from_patches(&frame.patches, &config).index == truth(frame)
            });
            (
                name,
                right,
                1e6 * started.elapsed().as_secs_f64() / right.whole.max(1) as f64,
            )
        });
        let judged: Vec<(DistanceIndex, f64, Estimate)> = frames
            .iter()
            .map(|frame| {
                (
                    truth(frame),
                    frame.z_um,
                    Estimate::from_patches(&frame.patches, settings),
                )
            })
            .collect();
        let with_content = || judged.iter().filter(|(.., estimate)| estimate.patches_used > 0);
        let error = |(_, z_um, estimate): &&(DistanceIndex, f64, Estimate)| {
            Some((estimate.defocus?.0 - z_um, z_um.abs() <= NEAR_DEPTHS * depth_um))
        };
        let errors: Vec<(f64, bool, f64)> = with_content()
            .filter_map(|row| error(&row).map(|(um, near)| (um.abs(), near, row.1.abs())))
            .collect();
        let mut confusion = [[0; CLASSES]; CLASSES];
        let mut reliability = [Bin::default(); BINS];
        for (truth, _, estimate) in with_content() {
            confusion[truth.class()][estimate.index.class()] += 1;
            let confidence = f64::from(estimate.probabilities[estimate.index.class()]);
            let bin = &mut reliability[((confidence * BINS as f64) as usize).min(BINS - 1)];
            bin.images += 1;
            bin.right += usize::from(estimate.index == *truth);
            bin.confidence += confidence;
        }
        Ok(Self {
            images: frames.len(),
            without_content: frames.len() - with_content().count(),
            patches: patch_accuracy.whole,
            patch_accuracy,
            votings,
            off_by_more_than_one: Share::of(with_content(), |(truth, _, estimate)| {
                truth.value().abs_diff(estimate.index.value()) > 1
            }),
            wrong_direction: Share::of(
                with_content().filter(|(_, z_um, _)| z_um.abs() > 0.5 * depth_um),
                |(_, z_um, estimate)| f64::from(estimate.index.value()) * z_um < 0.0,
            ),
            untrusted: Share::of(&judged, |(.., estimate)| !estimate.trusted),
            errors_um: sorted(errors.iter().filter(|row| row.1).map(|row| row.0)),
            relative_errors: sorted(errors.iter().filter(|row| !row.1).map(|row| row.0 / row.2)),
            error_in_stddevs: error_in_stddevs(&judged),
            reliability,
            confusion,
            seconds: sorted(frames.iter().filter_map(|frame| frame.seconds)),
            depth_um,
        })
    }

    /// Mean distance between stated probability and accuracy over the bins, weighted by their images.
    fn expected_calibration_error(&self) -> f64 {
        let images: usize = self.reliability.iter().map(|bin| bin.images).sum();
        let gap = |bin: &Bin| (bin.confidence - bin.right as f64).abs();
        self.reliability.iter().map(gap).sum::<f64>() / images.max(1) as f64
    }

    pub(super) fn report(&self, model: &str, protocol: &str, source: &str) -> Value {
        let named = |value: fn(&(&'static str, Share, f64)) -> Value| {
            self.votings
                .iter()
                .map(|row| (row.0.to_owned(), value(row)))
                .collect::<serde_json::Map<_, _>>()
        };
        let of = |values: &[f64], unit: f64| {
            (!values.is_empty()).then(
                || json!({ "median": quantile(values, 0.5) / unit, "p95": quantile(values, 0.95) / unit }),
            )
        };
        let bins = self.reliability.iter().filter(|bin| bin.images > 0).map(|bin| {
            let images = bin.images as f64;
            json!({ "images": bin.images, "confidence": bin.confidence / images, "accuracy": bin.right as f64 / images })
        });
        json!({
            "model": model,
            "protocol": protocol,
            "source": source,
            "images": self.images,
            "images_without_content": self.without_content,
            "patches": self.patches,
            "patch_accuracy": self.patch_accuracy.value(),
            "patch_accuracy_ci95": self.patch_accuracy.interval(),
            "image_accuracy": named(|row| json!(row.1.value())),
            "image_accuracy_ci95": named(|row| json!(row.1.interval())),
            "voting_us": named(|row| json!(row.2)),
            "off_by_more_than_one": self.off_by_more_than_one.value(),
            "wrong_direction_rate": self.wrong_direction.value(),
            "wrong_direction_ci95": self.wrong_direction.interval(),
            "abs_error_um": of(&self.errors_um, 1.0),
            "abs_error_dof": of(&self.errors_um, self.depth_um),
            "relative_error_farther": of(&self.relative_errors, 1.0),
            "error_in_stddevs": self.error_in_stddevs,
            "ece": self.expected_calibration_error(),
            "untrusted_share": self.untrusted.value(),
            "seconds_per_image": (!self.seconds.is_empty()).then(|| quantile(&self.seconds, 0.5)),
            "depth_of_field_um": self.depth_um,
            "confusion": self.confusion,
            "reliability": bins.collect::<Vec<_>>(),
        })
    }
}

fn error_in_stddevs(judged: &[(DistanceIndex, f64, Estimate)]) -> Option<f64> {
    let ratio = |(_, z_um, estimate): &(DistanceIndex, f64, Estimate)| {
        Some((estimate.defocus?.0 - z_um) / estimate.defocus_stddev?.0)
    };
    let squares: Vec<f64> = judged
        .iter()
        .filter_map(ratio)
        .map(|ratio| ratio * ratio)
        .collect();
    (!squares.is_empty()).then(|| (squares.iter().sum::<f64>() / squares.len() as f64).sqrt())
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The next larger value that occurs; `sorted` must not be empty.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[(part * (sorted.len() - 1) as f64).ceil() as usize]
}
