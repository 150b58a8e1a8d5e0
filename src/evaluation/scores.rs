//! Scores: of patches and images, by each way of voting, with intervals that know which frames err together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::classes::{CLASSES, DistanceIndex};
use crate::estimate::classifier::{ClassifierConfig, Estimate};
use crate::estimate::network::PatchPrediction;
use crate::estimate::vote::{self, Probabilities, Vote, Voting};
use crate::statistics::{quantile, sorted};
use crate::units::Micrometres;
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

/// There is nothing to score.
#[derive(Debug, thiserror::Error)]
#[error("there is no patch to judge: the frames hold empty glass alone")]
pub struct NothingToJudge;

/// How well the model did.
pub struct Scores {
    images: usize,
    /// Images without a patch that could be judged; they are not trusted, and shares of images leave them out.
    without_content: usize,
    patches: usize,
    patch_accuracy: Share,
    /// Of the images with content, by each way of voting.
    votings: [(&'static str, Share); 3],
    /// Time of one vote, µs.
    voting_us: [(&'static str, f64); 3],
    off_by_more_than_one: Share,
    /// Of the images out of focus, those whose voted index would drive away from focus.
    wrong_direction: Share,
    /// Of the images out of focus, those whose estimate in µm lies on the wrong side.
    wrong_sign: Share,
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
#[derive(Clone, Copy)]
struct Share {
    part: usize,
    whole: usize,
    /// Independent trials that say as much as these.
    effective: f64,
}

/// Images of about one certainty.
#[derive(Clone, Copy, Default)]
struct Bin {
    images: usize,
    right: usize,
    confidence: f64,
}

impl Share {
    /// Counts over rows of (slide, image, whether it counts).
    fn of(rows: impl IntoIterator<Item = (u64, usize, bool)>) -> Self {
        let mut slides = BTreeMap::<u64, [usize; 2]>::new();
        let mut images = BTreeSet::new();
        for (slide, image, counts) in rows {
            let [part, whole] = slides.entry(slide).or_default();
            *part += usize::from(counts);
            *whole += 1;
            images.insert(image);
        }
        let sum = |place: usize| slides.values().map(|counts| counts[place]).sum::<usize>();
        let (part, whole) = (sum(0), sum(1));
        let mut share = Self {
            part,
            whole,
            effective: images.len() as f64,
        };
        if part > 0 && part < whole && slides.len() > 1 {
            share.effective = share.independent(slides.values());
        }
        share
    }

    /// Trials after the design effect: the variance of the share between slides over what independent trials would have, at
    /// least 1. Patches of a frame, and frames of a slide, err together.
    fn independent<'a>(&self, slides: impl ExactSizeIterator<Item = &'a [usize; 2]>) -> f64 {
        let (n, p, count) = (
            self.whole as f64,
            self.part as f64 / self.whole as f64,
            slides.len() as f64,
        );
        let squares: f64 = slides
            .map(|[part, whole]| (*part as f64 - p * *whole as f64).powi(2))
            .sum();
        let variance = count / (count - 1.0) * squares / (n * n);
        n / (variance * n / (p * (1.0 - p))).max(1.0)
    }

    fn value(self) -> Option<f64> {
        (self.whole > 0).then(|| self.part as f64 / self.whole as f64)
    }

    /// Wilson's 95 % interval of as many independent trials; no error in n images only shows about 1 - 3.7/n.
    fn interval(self) -> Option<[f64; 2]> {
        const Z: f64 = 1.96;
        let n = self.effective;
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

/// A frame, its place in the list, its class, and the estimate with the settings a node has.
struct Judged<'a> {
    frame: &'a JudgedFrame,
    number: usize,
    truth: DistanceIndex,
    estimate: Estimate,
}

impl Judged<'_> {
    /// A row of a share.
    fn row(&self, counts: bool) -> (u64, usize, bool) {
        (self.frame.slide, self.number, counts)
    }
}

impl Scores {
    /// Of frames judged with these settings, for an objective of that depth of field, µm. `clock` tells the time since any moment: the votes
    /// are timed.
    ///
    /// # Errors
    /// If no frame holds a patch that could be judged.
    pub fn of(
        frames: &[JudgedFrame],
        settings: &ClassifierConfig,
        depth_um: f64,
        clock: impl Fn() -> Duration,
    ) -> Result<Self, NothingToJudge> {
        let edges = &settings.edges;
        let numbered = frames.iter().enumerate();
        let judged: Vec<Judged<'_>> = numbered
            .map(|(number, frame)| Judged {
                frame,
                number,
                truth: edges.classify(Micrometres(frame.z_um)),
                estimate: frame.estimate(settings),
            })
            .collect();
        let patch_accuracy = Share::of(judged.iter().flat_map(|one| {
            let right = |patch: &PatchPrediction| vote::decide(&patch.probabilities) == Some(one.truth);
            one.frame.patches.iter().map(move |patch| one.row(right(patch)))
        }));
        if patch_accuracy.whole == 0 {
            return Err(NothingToJudge);
        }
        let with_content = || judged.iter().filter(|one| one.estimate.patches_used > 0);
        let out_of_focus = || with_content().filter(|one| one.frame.z_um.abs() > 0.5 * depth_um);
        let side = |one: &Judged<'_>| f64::from(one.estimate.index.value()) * one.frame.z_um;
        let (votings, voting_us) = compare(&judged, clock);
        let errors: Vec<(f64, f64)> = with_content()
            .filter_map(|one| {
                Some((
                    (one.estimate.defocus?.0 - one.frame.z_um).abs(),
                    one.frame.z_um.abs(),
                ))
            })
            .collect();
        let (near, far): (Vec<_>, Vec<_>) = errors
            .iter()
            .partition(|(_, z_um)| *z_um <= NEAR_DEPTHS * depth_um);
        let (confusion, reliability) = tabulate(with_content());
        Ok(Self {
            images: frames.len(),
            without_content: frames.len() - with_content().count(),
            patches: patch_accuracy.whole,
            patch_accuracy,
            votings,
            voting_us,
            off_by_more_than_one: Share::of(
                with_content().map(|one| one.row(one.truth.value().abs_diff(one.estimate.index.value()) > 1)),
            ),
            wrong_direction: Share::of(out_of_focus().map(|one| one.row(side(one) < 0.0))),
            wrong_sign: Share::of(out_of_focus().filter_map(|one| {
                let defocus_um = one.estimate.defocus?.0;
                Some(one.row(defocus_um * one.frame.z_um < 0.0))
            })),
            untrusted: Share::of(judged.iter().map(|one| one.row(!one.estimate.trusted))),
            errors_um: sorted(near.iter().map(|(error, _)| *error)),
            relative_errors: sorted(far.iter().map(|(error, z_um)| error / z_um)),
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

    /// The scores by name, as `hhnet evaluate --json` prints them.
    pub fn report(&self) -> Value {
        let named = |value: fn(Share) -> Value| {
            let rows = self
                .votings
                .iter()
                .map(|(name, share)| ((*name).to_owned(), value(*share)));
            rows.collect::<serde_json::Map<_, _>>()
        };
        let times = self
            .voting_us
            .iter()
            .map(|(name, us)| ((*name).to_owned(), json!(us)));
        let of = |values: &[f64], unit: f64| {
            let [median, p95] = [0.5, 0.95].map(|part| quantile(values, part));
            Some(json!({ "median": median? / unit, "p95": p95? / unit }))
        };
        let bins = self.reliability.iter().filter(|bin| bin.images > 0).map(|bin| {
            let images = bin.images as f64;
            json!({ "images": bin.images, "confidence": bin.confidence / images, "accuracy": bin.right as f64 / images })
        });
        json!({
            "images": self.images,
            "images_without_content": self.without_content,
            "patches": self.patches,
            "patch_accuracy": self.patch_accuracy.value(),
            "patch_accuracy_ci95": self.patch_accuracy.interval(),
            "image_accuracy": named(|share| json!(share.value())),
            "image_accuracy_ci95": named(|share| json!(share.interval())),
            "voting_us": times.collect::<serde_json::Map<_, _>>(),
            "off_by_more_than_one": self.off_by_more_than_one.value(),
            "wrong_direction_rate": self.wrong_direction.value(),
            "wrong_direction_ci95": self.wrong_direction.interval(),
            "wrong_sign_rate": self.wrong_sign.value(),
            "wrong_sign_ci95": self.wrong_sign.interval(),
            "abs_error_um": of(&self.errors_um, 1.0),
            "abs_error_dof": of(&self.errors_um, self.depth_um),
            "relative_error_farther": of(&self.relative_errors, 1.0),
            "error_in_stddevs": self.error_in_stddevs,
            "ece": self.expected_calibration_error(),
            "untrusted_share": self.untrusted.value(),
            "seconds_per_image": quantile(&self.seconds, 0.5),
            "depth_of_field_um": self.depth_um,
            "confusion": self.confusion,
            "reliability": bins.collect::<Vec<_>>(),
        })
    }
}

/// The paper's Table 3: the three votings on the same images, and what one vote costs, nothing but the vote timed.
#[expect(clippy::type_complexity, reason = "two columns of one table")]
fn compare(
    judged: &[Judged<'_>],
    clock: impl Fn() -> Duration,
) -> ([(&'static str, Share); 3], [(&'static str, f64); 3]) {
    let rows: Vec<(&Judged<'_>, Vec<Probabilities>)> = judged
        .iter()
        .map(|one| {
            (
                one,
                one.frame
                    .patches
                    .iter()
                    .map(|patch| patch.probabilities)
                    .collect(),
            )
        })
        .collect();
    let timed = VOTINGS.map(|(name, voting)| {
        let started = clock();
        let votes: Vec<Option<Vote>> = rows
            .iter()
            .map(|(_, patches)| voting.count_votes(patches))
            .collect();
        let seconds = clock().saturating_sub(started).as_secs_f64();
        let right = rows.iter().zip(&votes);
        let share =
            Share::of(right.filter_map(|((one, _), vote)| Some(one.row(vote.as_ref()?.index == one.truth))));
        ((name, share), (name, 1e6 * seconds / rows.len().max(1) as f64))
    });
    (timed.map(|both| both.0), timed.map(|both| both.1))
}

/// The confusion matrix and the reliability curve.
fn tabulate<'a>(judged: impl Iterator<Item = &'a Judged<'a>>) -> ([[u64; CLASSES]; CLASSES], [Bin; BINS]) {
    let mut confusion = [[0; CLASSES]; CLASSES];
    let mut reliability = [Bin::default(); BINS];
    for one in judged {
        let class = one.estimate.index.class();
        confusion[one.truth.class()][class] += 1;
        let confidence = f64::from(one.estimate.probabilities[class]);
        let bin = &mut reliability[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.images += 1;
        bin.right += usize::from(one.estimate.index == one.truth);
        bin.confidence += confidence;
    }
    (confusion, reliability)
}

fn error_in_stddevs(judged: &[Judged<'_>]) -> Option<f64> {
    let ratio =
        |one: &Judged<'_>| Some((one.estimate.defocus?.0 - one.frame.z_um) / one.estimate.defocus_stddev?.0);
    let squares: Vec<f64> = judged
        .iter()
        .filter_map(ratio)
        .map(|ratio| ratio * ratio)
        .collect();
    (!squares.is_empty()).then(|| (squares.iter().sum::<f64>() / squares.len() as f64).sqrt())
}
