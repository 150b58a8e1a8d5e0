//! The classifier: one frame in, one [`Estimate`] out, by a network that keeps the contract of [`crate::estimate::network`].

mod doubt;

use ndarray::Array2;

pub use self::doubt::Doubt;
use crate::classes::{CLASSES, ClassEdges, DistanceIndex};
use crate::estimate::features::{FEATURES, Handcrafted};
use crate::estimate::network::{ModelCard, Network, NetworkError, PatchPrediction};
use crate::estimate::patches::{self, Grid, ImageTooSmall};
use crate::estimate::sharpness::tenengrad;
use crate::estimate::temperature::{CONDENSER_NA, CondenserLaw, VOTE_EXPONENT, raised};
use crate::estimate::vote::{self, Fusion, Measurement, Probabilities, Voting};
use crate::frame::Frame;
use crate::range::{OutOfRange, within};
use crate::units::Micrometres;

/// Mean luminance of a frame that was exposed, grey levels: below it the lamp is off, above it all but the darkest is clipped.
const EXPOSED: std::ops::RangeInclusive<f64> = 12.0..=250.0;

/// How a [`Classifier`] decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// How the patches vote.
    pub voting: Voting,
    /// Certainty of the image below which an estimate is not trusted, 0 to 1.
    pub min_certainty: f32,
    /// [Contrast](patches::contrast) below which a patch is blank and has no vote, grey levels, 0 to 128.
    pub min_contrast: f32,
    /// Valid patches an estimate needs to be trusted, at least 1.
    pub min_patches: usize,
    /// Valid patches an estimate beyond index 1 and -1 needs, at least 1; a frame with fewer patches altogether needs all of them. Far
    /// from focus the specimen blurs into every patch; where only a few still hold anything, the lens is beyond the range.
    pub min_far_patches: usize,
    /// Standard deviation of the defocus, relative to it, above which an estimate farther away than index 1 reaches is not
    /// trusted, above 0: images of a specimen stay below 0.2, empty glass is above 1.
    pub max_relative_stddev: f64,
    /// Heights of the classes: where vote and defocus name classes that are not neighbours, the estimate is not trusted. Patches of
    /// empty glass guess a class and say themselves that they do not know the height.
    pub edges: ClassEdges,
    /// Least and largest defocus the model answers for, µm; an estimate beyond them is not trusted. None: not known, not checked.
    pub range_um: Option<[f64; 2]>,
    /// Share of the patches that may name the other side of focus, from farther away than indices 1 and -1 reach, before the estimate
    /// is not trusted, 0 to 0.5: within the trained range patches agree about the side, beyond it they fall apart.
    pub max_opposed: f64,
    /// Exponent of the voted distribution before it is stated, [`VOTE_EXPONENT`]: patches that agree know more together than their
    /// mean says. `hhnet evaluate --fit` fits it on held-out slides ([`crate::estimate::temperature`]); 1 states the vote as it is.
    pub vote_exponent: f64,
    /// How the model's heights depend on the condenser; None: not known.
    pub condenser: Option<CondenserLaw>,
    /// Numerical aperture to which the condenser is set, 0.05 to 1.5; None: not known, and heights are as the model states them.
    pub condenser_na: Option<f64>,
    /// Part of the patches' errors that they have in common (see [`vote::fuse`]), 0 to 1.
    pub patch_correlation: f64,
    /// Seed of the places of the four crops whose correlations are features 13 to 18.
    pub crop_seed: u64,
    /// Whether the model tells the side of focus by colour: then a grey frame is not judged.
    pub needs_colour: bool,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self::for_edges(&ClassEdges::default())
    }
}

impl ClassifierConfig {
    /// The usual settings for this model.
    pub fn for_model(card: &ModelCard) -> Self {
        Self {
            range_um: card.range_um,
            vote_exponent: card.vote_exponent.unwrap_or(1.0),
            condenser: card.condenser,
            needs_colour: card.needs_colour,
            ..Self::for_edges(&card.class_edges)
        }
    }

    /// The usual settings for a model of these classes of which no more is known.
    pub fn for_edges(edges: &ClassEdges) -> Self {
        Self {
            voting: Voting::default(),
            min_certainty: 0.5,
            min_contrast: 0.6,
            min_patches: 1,
            min_far_patches: 5,
            max_relative_stddev: 0.4,
            edges: *edges,
            range_um: None,
            max_opposed: 0.05,
            vote_exponent: 1.0,
            condenser: None,
            condenser_na: None,
            patch_correlation: 0.5,
            crop_seed: 0,
            needs_colour: false,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let rows = [
            ("min_certainty", f64::from(self.min_certainty), 0.0, 1.0),
            ("min_contrast", f64::from(self.min_contrast), 0.0, 128.0),
            ("min_patches", self.min_patches as f64, 1.0, f64::MAX),
            ("min_far_patches", self.min_far_patches as f64, 1.0, f64::MAX),
            (
                "max_relative_stddev",
                self.max_relative_stddev,
                f64::MIN_POSITIVE,
                f64::MAX,
            ),
            ("max_opposed", self.max_opposed, 0.0, 0.5),
            (
                "vote_exponent",
                self.vote_exponent,
                *VOTE_EXPONENT.start(),
                *VOTE_EXPONENT.end(),
            ),
            (
                "condenser_na",
                self.condenser_na.unwrap_or(*CONDENSER_NA.end()),
                *CONDENSER_NA.start(),
                *CONDENSER_NA.end(),
            ),
            ("patch_correlation", self.patch_correlation, 0.0, 1.0),
        ];
        for (name, value, least, most) in rows {
            within(name, value, least, most)?;
        }
        Ok(())
    }
}

/// A setting outside its range.
#[derive(Debug, thiserror::Error)]
#[error("classifier setting {0}")]
pub struct ConfigError(#[from] OutOfRange);

/// What one frame says about the distance to focus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Voted class; 0 (which moves nothing) if no patch could be judged.
    pub index: DistanceIndex,
    /// Certainty of the voted distribution, 0 to 1.
    pub certainty: f32,
    /// Voted probability of each class, in the order 4, 3, 2, 1, 0, -1, -2; adds up to 1.
    pub probabilities: Probabilities,
    /// Signed distance from focus; positive: the lens is too far. None if the model does not estimate it.
    pub defocus: Option<Micrometres>,
    /// Standard deviation of `defocus`.
    pub defocus_stddev: Option<Micrometres>,
    /// Sharpness of the whole frame ([`tenengrad`]); none of one that shows nothing, or not what is under the lens.
    pub sharpness: Option<f64>,
    /// Patches that voted.
    pub patches_used: usize,
    /// False: the frame holds too little to judge, or the answer is too uncertain to act on.
    pub trusted: bool,
    /// Why it is not trusted; None if it is.
    pub doubt: Option<Doubt>,
}

impl Estimate {
    /// "I do not know": every class equally likely, not trusted.
    pub const UNKNOWN: Self = Self::unknown(Doubt::NoAnswer);

    /// "I do not know", for this reason.
    pub const fn unknown(doubt: Doubt) -> Self {
        Self {
            index: DistanceIndex::IN_FOCUS,
            certainty: 0.0,
            probabilities: [1.0 / CLASSES as f32; CLASSES],
            defocus: None,
            defocus_stddev: None,
            sharpness: None,
            patches_used: 0,
            trusted: false,
            doubt: Some(doubt),
        }
    }

    /// The same, not trusted for this reason, whatever it was before: not even its sharpness tells anything of what is under the lens.
    pub fn doubted(self, doubt: Doubt) -> Self {
        Self {
            trusted: false,
            doubt: Some(doubt),
            sharpness: None,
            ..self
        }
    }

    /// The estimate that these patches of one frame make.
    pub fn from_patches(predictions: &[PatchPrediction], config: &ClassifierConfig) -> Self {
        let valid = || {
            predictions
                .iter()
                .filter(|patch| vote::decide(&patch.probabilities).is_some())
        };
        let Some(vote) = config
            .voting
            .count_votes(valid().map(|patch| &patch.probabilities))
        else {
            return Self::UNKNOWN;
        };
        let probabilities = raised(&vote.probabilities, config.vote_exponent);
        let certainty = vote::certainty(&probabilities);
        let measurements: Vec<_> = valid().filter_map(PatchPrediction::measurement).collect();
        let fusion = vote::fuse(&measurements, config.patch_correlation).map(|fusion| {
            let gain = |(law, na): (CondenserLaw, f64)| law.gain(na, fusion.defocus_um);
            let gain = config.condenser.zip(config.condenser_na).map_or(1.0, gain);
            Fusion {
                defocus_um: gain * fusion.defocus_um,
                stddev_um: gain * fusion.stddev_um,
                ..fusion
            }
        });
        let needed = if vote.index.value().abs() > 1 {
            config.min_patches.max(config.min_far_patches)
        } else {
            config.min_patches
        };
        let doubt = if vote.voters < needed {
            Some(Doubt::TooFewPatches {
                used: vote.voters,
                needed,
            })
        } else if certainty < config.min_certainty {
            Some(Doubt::Uncertain {
                certainty,
                least: config.min_certainty,
            })
        } else {
            fusion.and_then(|fusion| doubt_of_height(&fusion, vote.index, &measurements, config))
        };
        Self {
            index: vote.index,
            certainty,
            probabilities,
            defocus: fusion.map(|fusion| Micrometres(fusion.defocus_um)),
            defocus_stddev: fusion.map(|fusion| Micrometres(fusion.stddev_um)),
            sharpness: None,
            patches_used: vote.voters,
            trusted: doubt.is_none(),
            doubt,
        }
    }
}

/// Why a height does not count: its patches fall apart, it is uncertain, it is beyond the model's range, or it contradicts the vote.
fn doubt_of_height(
    fusion: &Fusion,
    voted: DistanceIndex,
    measurements: &[Measurement],
    config: &ClassifierConfig,
) -> Option<Doubt> {
    let &Fusion {
        defocus_um,
        stddev_um,
        ..
    } = fusion;
    let opposed = opposed(measurements, config.edges.near_um);
    let of = measurements.len();
    if opposed as f64 / of.max(1) as f64 > config.max_opposed {
        return Some(Doubt::Opposed { opposed, of });
    }
    let relative_um = config.max_relative_stddev * defocus_um.abs();
    if stddev_um > relative_um.max(config.edges.near_um) {
        return Some(Doubt::Vague {
            defocus_um,
            stddev_um,
        });
    }
    if let Some([least_um, most_um]) = config.range_um
        && !(least_um..=most_um).contains(&defocus_um)
    {
        return Some(Doubt::OutOfRange {
            defocus_um,
            least_um,
            most_um,
        });
    }
    let class = config.edges.classify(Micrometres(defocus_um));
    ((class.value() - voted.value()).abs() > 1).then_some(Doubt::Contradiction {
        voted: voted.value(),
        defocus_um,
    })
}

/// The smaller of the numbers of measurements beyond `far_um` on one side of focus and on the other.
fn opposed(measurements: &[Measurement], far_um: f64) -> usize {
    let beyond = |side: f64| {
        measurements
            .iter()
            .filter(|measurement| side * measurement.defocus_um > far_um)
            .count()
    };
    beyond(1.0).min(beyond(-1.0))
}

/// What the network says of one frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// Its answers for the patches that are not blank, in the order of the grid; none for a frame that was not shown to it.
    pub patches: Vec<PatchPrediction>,
    /// Top left corners (x, y) of these patches, in the same order.
    pub origins: Vec<(usize, usize)>,
    /// Sharpness of the whole frame; none of one that is too dark or too bright to show anything.
    pub sharpness: Option<f64>,
    /// How many patches the grid has.
    of: usize,
    /// Why the frame was not shown to the network.
    doubt: Option<Doubt>,
}

impl Judged {
    /// A frame of this sharpness that was not shown to the network.
    fn unseen(doubt: Doubt, sharpness: Option<f64>) -> Self {
        Self {
            sharpness,
            doubt: Some(doubt),
            ..Self::default()
        }
    }
}

/// Frames in, estimates out. Keeps its buffers from frame to frame.
pub struct Classifier<N> {
    network: N,
    config: ClassifierConfig,
    grid: Option<Grid>,
    pixels: Vec<u8>,
}

impl<N: Network> Classifier<N> {
    /// A classifier that asks `network`.
    ///
    /// # Errors
    /// If a setting is outside its range.
    pub fn new(network: N, config: ClassifierConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            network,
            config,
            grid: None,
            pixels: Vec::new(),
        })
    }

    /// Decides by other settings from the next frame on.
    ///
    /// # Errors
    /// If one of them is outside its range; the old ones stay.
    pub fn set_config(&mut self, config: ClassifierConfig) -> Result<(), ConfigError> {
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// The network it asks.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// Judges one frame: grid, features, network, blank patches dropped, vote and fusion.
    ///
    /// A frame without a usable patch (empty glass, black, saturated, grey) is not an error but [unknown](Estimate::unknown).
    ///
    /// # Errors
    /// If the frame is smaller than a patch, or the network fails.
    pub fn classify(&mut self, frame: &Frame) -> Result<Estimate, ClassifyError> {
        let judged = self.judge(frame)?;
        Ok(self.estimate(&judged))
    }

    /// The estimate that a judged frame makes by the settings in force.
    pub fn estimate(&self, judged: &Judged) -> Estimate {
        let sharpness = judged.sharpness;
        if let Some(doubt) = judged.doubt {
            return Estimate {
                sharpness,
                ..Estimate::unknown(doubt)
            };
        }
        let config = ClassifierConfig {
            min_far_patches: self.config.min_far_patches.min(judged.of),
            ..self.config
        };
        Estimate {
            sharpness,
            ..Estimate::from_patches(&judged.patches, &config)
        }
    }

    /// Shows the patches of a frame that are not blank to the network.
    ///
    /// # Errors
    /// As for [`Self::classify`].
    pub fn judge(&mut self, frame: &Frame) -> Result<Judged, ClassifyError> {
        if !self.network.looks() {
            return Ok(Judged::unseen(Doubt::NoModel, None));
        }
        // First, because a frame without a single patch is an error however dark it is.
        let grid = match self.grid.take() {
            Some(grid) if grid.fits(frame) => grid,
            _ => Grid::centred(frame.width(), frame.height())?,
        };
        let grid = self.grid.insert(grid);
        if let Some(doubt) = Self::doubt_of_frame(frame, &self.config) {
            let sharpness = (doubt == Doubt::Grey).then(|| tenengrad(frame));
            return Ok(Judged::unseen(doubt, sharpness));
        }
        let of = grid.origins().len();
        let contrast = |at: &usize| patches::contrast(frame, grid.origins()[*at]);
        let chosen: Vec<usize> = (0..of)
            .filter(|at| contrast(at) >= self.config.min_contrast)
            .collect();
        if chosen.is_empty() {
            return Ok(Judged::unseen(Doubt::Blank { of }, Some(tenengrad(frame))));
        }
        let whole_frame = self.network.card().whole_frames;
        let every: Vec<usize> = (0..of).collect();
        let shown = if whole_frame { &every } else { &chosen };
        let (features, (patches, sharpness)) = rayon::join(
            || Handcrafted::of(frame, self.config.crop_seed),
            || {
                let patches = grid.extract_into(frame, shown, &mut self.pixels);
                (patches, tenengrad(frame))
            },
        );
        let patches = patches?;
        let handcrafted =
            Array2::from_shape_fn((shown.len(), FEATURES), |(_, feature)| features.values[feature]);
        let mut predictions = self.network.infer(patches, handcrafted.view())?;
        if predictions.len() != shown.len() {
            let model = self.network.card().model_id.clone();
            Err(NetworkError::WrongCount {
                model,
                patches: shown.len(),
                answers: predictions.len(),
            })?;
        }
        if whole_frame {
            predictions = chosen.iter().map(|&at| predictions[at]).collect();
        }
        Ok(Judged {
            patches: predictions,
            origins: chosen.iter().map(|&at| grid.origins()[at]).collect(),
            sharpness: Some(sharpness),
            of,
            doubt: None,
        })
    }

    /// What keeps a frame from the network before its patches are looked at.
    fn doubt_of_frame(frame: &Frame, config: &ClassifierConfig) -> Option<Doubt> {
        let mean = patches::mean_luminance(frame);
        if mean < *EXPOSED.start() {
            Some(Doubt::Dark { mean })
        } else if mean > *EXPOSED.end() {
            Some(Doubt::Clipped { mean })
        } else if config.needs_colour && frame.is_grey() {
            Some(Doubt::Grey)
        } else {
            None
        }
    }
}

/// A frame could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The frame holds no patch.
    #[error(transparent)]
    TooSmall(#[from] ImageTooSmall),
    /// The grid belongs to another size of frame.
    #[error(transparent)]
    Grid(#[from] patches::WrongSize),
    /// The network did not answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

#[cfg(test)]
mod tests;
