//! Labelled patches from the virtual microscope, for training and for scoring.
//!
//! Every slide is another instrument ([`MicroscopeConfig::randomised`]) and another smear. A slide is visited at random
//! places; at each place a few frames are exposed at heights drawn so that every block of seven frames holds each
//! distance class once. From each frame some patches of the inference grid are kept, with the features of the whole
//! frame and the defocus it was exposed at. Everything follows from the configuration; no order of work changes it.
//!
//! What recorded z-stacks need is in [`stack`] (the table of heights), [`pages`] (image files), [`depth`] (bits in use) and [`exposure`]
//! (whether the images can teach anything); [`manifest`] is what a set on disk says of itself.

pub mod depth;
pub mod exposure;
pub mod manifest;
pub mod pages;
mod samples;
pub mod stack;

pub use samples::{LARGEST_ID, Label, Samples};
use serde::{Deserialize, Serialize};

use crate::classes::{CLASSES, ClassEdges, DistanceIndex};
use crate::estimate::features::Handcrafted;
use crate::estimate::patches::{Grid, ImageTooSmall, PATCH, WrongSize};
use crate::frame::{Frame, FrameError};
use crate::objective::Objective;
use crate::pictures::jpeg::{self, Chroma, JpegError};
use crate::range::{OutOfRange, within};
use crate::sim::microscope::{Microscope, MicroscopeConfig, MicroscopeError, farthest_um};
use crate::sim::optics::PIXELS_PER_SAMPLE;
use crate::sim::slide::{Appearance, SiteRandom, Stain};
use crate::units::Instant;

/// Places are drawn from a square of this half side around the slide's middle, µm.
const HALF_SLIDE_UM: f64 = 4000.0;
/// Standard deviation of the ideal green transmittance below which a patch counts as empty glass. One red cell in a
/// 40x patch gives about 0.07.
const BLANK_DEVIATION: f64 = 0.04;

/// Where the frames' heights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heights {
    /// Seven well separated heights, one in the middle of each class, as in the paper.
    Paper,
    /// Uniform within each class, classes balanced: for training.
    Continuous,
    /// Uniform over the whole range, as a lens left anywhere would be: for scoring.
    Uniform,
}

/// What happens to patches of empty glass, whose defocus cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blank {
    /// Another patch of the frame takes their place, if there is one.
    Skip,
    /// They stay, as they do when a whole image is judged.
    Keep,
}

/// Which microscopes the slides are seen through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instrument {
    /// Drawn as for training.
    #[default]
    Randomised,
    /// Condenser, aberrations, colour error, stain and crowding outside the ranges that training draws from.
    Shifted,
}

impl Instrument {
    /// Numerical aperture to which the condenser is set for this slide.
    pub fn condenser_na(self, objective: &Objective, slide_seed: u64) -> f64 {
        self.of(objective, slide_seed).objective.condenser_na
    }

    fn of(self, objective: &Objective, slide_seed: u64) -> MicroscopeConfig {
        let mut config = MicroscopeConfig::randomised(objective.clone(), slide_seed);
        if self == Self::Randomised {
            return config;
        }
        let mut random = SiteRandom::new(slide_seed, 0x51f7);
        // Training: condenser 0.8 to 1.2 of the catalogue's, spherical aberration 0 to 2, red focus 0.67 to 1.33.
        let mut either = |low: [f64; 2], high: [f64; 2]| {
            let [from, to] = if random.chance(0.5) { low } else { high };
            random.range(from, to)
        };
        let lens = &mut config.objective;
        lens.condenser_na = objective.condenser_na * either([0.65, 0.8], [1.2, 1.35]);
        lens.spherical_waves = objective.spherical_waves * either([-1.0, 0.0], [2.0, 3.0]);
        let red = either([0.45, 0.65], [1.35, 1.6]);
        lens.chromatic_shift_um = objective.chromatic_shift_um.map(|um| um * red);
        let stain = if either([0.0, 0.0], [1.0, 1.0]) > 0.5 {
            Stain::HaematoxylinEosin
        } else {
            Stain::Giemsa
        };
        let mut look = Appearance::stained(slide_seed, stain);
        // Training: crowding 0.85 to 1.35, strength of the stain 0.8 to 1.25.
        look.density = either([0.5, 0.8], [1.4, 1.8]);
        let strength = either([0.6, 0.75], [1.3, 1.5]);
        look.absorbance
            .as_flattened_mut()
            .iter_mut()
            .for_each(|channel| *channel *= strength);
        config.appearance = Some(look);
        config
    }
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// The lens, before randomisation.
    pub objective: Objective,
    /// The microscopes.
    #[serde(default)]
    pub instrument: Instrument,
    /// Number of slides.
    pub slides: usize,
    /// Seed of the first slide; the others follow it.
    pub first_seed: u64,
    /// Frames of each slide.
    pub frames_per_slide: usize,
    /// Frames exposed at each place.
    pub frames_per_field: usize,
    /// Patches kept of each frame, at most.
    pub patches_per_frame: usize,
    /// Distribution of heights.
    pub heights: Heights,
    /// Largest defocus of either sign, µm.
    pub z_max_um: f64,
    /// Treatment of empty glass.
    pub blank: Blank,
    /// Share of the frames that come as a JPEG of quality 80 to 98, half of them with halved colour; 0 to 1.
    #[serde(default)]
    pub jpeg_share: f64,
    /// The slides are empty glass, so that the defocus of these patches cannot be told: they teach a network to say so.
    #[serde(default)]
    pub empty: bool,
}

/// A place on a slide and the frames to expose there.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldPlan {
    /// Seed of the slide.
    pub slide_seed: u64,
    /// Number of the field within the data set.
    pub number: u64,
    /// Middle of the frames, µm.
    pub x_um: f64,
    /// Middle of the frames, µm.
    pub y_um: f64,
    /// Number of the first frame within the data set.
    pub first_frame: usize,
    /// Defocus of each frame, µm.
    pub defocus_um: Vec<f64>,
}

impl DatasetConfig {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// If a count is zero, or the largest defocus is not beyond the last class edge or beyond what is modelled.
    pub fn check(&self) -> Result<(), DatasetError> {
        let counts = [
            ("slides", self.slides),
            ("frames per slide", self.frames_per_slide),
            ("frames per field", self.frames_per_field),
            ("patches per frame", self.patches_per_frame),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(DatasetError::None { name });
        }
        if self.first_seed.saturating_add(self.slides as u64) > LARGEST_ID {
            return Err(DatasetError::Seed(self.first_seed));
        }
        within("share of frames that come as a JPEG", self.jpeg_share, 0.0, 1.0)?;
        let far_um = self.edges().far_um;
        let farthest_um = farthest_um(&self.objective);
        if self.z_max_um > far_um && self.z_max_um <= farthest_um {
            Ok(())
        } else {
            Err(DatasetError::Range {
                z_max_um: self.z_max_um,
                far_um,
                farthest_um,
            })
        }
    }

    /// Heights between the classes.
    pub fn edges(&self) -> ClassEdges {
        ClassEdges::for_objective(&self.objective)
    }

    /// The fields of slide number `slide` (0 up to `slides`).
    pub fn fields(&self, slide: usize) -> Vec<FieldPlan> {
        let slide_seed = self.first_seed.wrapping_add(slide as u64);
        let mut random = SiteRandom::new(slide_seed, 0xf1e1d);
        let heights: Vec<f64> = self.heights(&mut random);
        let mut first_frame = slide * self.frames_per_slide;
        let mut number = (slide * self.frames_per_slide.div_ceil(self.frames_per_field)) as u64;
        let field = |defocus_um: &[f64]| {
            let plan = FieldPlan {
                slide_seed,
                number,
                x_um: random.range(-HALF_SLIDE_UM, HALF_SLIDE_UM),
                y_um: random.range(-HALF_SLIDE_UM, HALF_SLIDE_UM),
                first_frame,
                defocus_um: defocus_um.to_vec(),
            };
            first_frame += defocus_um.len();
            number += 1;
            plan
        };
        heights.chunks(self.frames_per_field).map(field).collect()
    }

    /// Heights of a slide's frames; each seven hold each class once, in random order, unless they are uniform.
    fn heights(&self, random: &mut SiteRandom) -> Vec<f64> {
        if self.heights == Heights::Uniform {
            let mut height = || random.range(-self.z_max_um, self.z_max_um);
            return (0..self.frames_per_slide).map(|_| height()).collect();
        }
        let mut heights = Vec::with_capacity(self.frames_per_slide + CLASSES);
        while heights.len() < self.frames_per_slide {
            let mut classes = DistanceIndex::ALL;
            shuffle(&mut classes, random);
            heights.extend(classes.map(|class| self.height(class, random)));
        }
        heights.truncate(self.frames_per_slide);
        heights
    }

    fn height(&self, class: DistanceIndex, random: &mut SiteRandom) -> f64 {
        let edges = self.edges();
        let (low, high) = edges.bounds(class);
        let (low, high) = (low.max(-self.z_max_um), high.min(self.z_max_um));
        match (self.heights, class.value()) {
            (Heights::Continuous | Heights::Uniform, _) => random.range(low, high),
            // The outer classes have no middle of their own.
            (Heights::Paper, 4) => 1.5 * edges.far_um,
            (Heights::Paper, -2) => -4.0 * edges.near_um,
            (Heights::Paper, _) => 0.5 * (low + high),
        }
    }

    fn microscope(&self, field: &FieldPlan) -> Result<Microscope, DatasetError> {
        let mut config = self.instrument.of(&self.objective, field.slide_seed);
        if self.empty {
            config.appearance = Some(Appearance::empty(field.slide_seed));
        }
        Ok(Microscope::new(config)?)
    }

    /// Exposes the frames of a field: defocus in µm and frame, whose sequence number is its number in the data set.
    ///
    /// # Errors
    /// As for [`Self::render`].
    pub fn expose(&self, field: &FieldPlan) -> Result<Vec<(f64, Frame)>, DatasetError> {
        self.expose_with(&mut self.microscope(field)?, field)
    }

    fn expose_with(
        &self,
        microscope: &mut Microscope,
        field: &FieldPlan,
    ) -> Result<Vec<(f64, Frame)>, DatasetError> {
        let MicroscopeConfig { width, height, .. } = *microscope.config();
        let frames = (field.first_frame as u64..).zip(&field.defocus_um);
        frames
            .map(|(sequence, &defocus_um)| {
                let mut rgb = microscope.expose_defocused(field.x_um, field.y_um, defocus_um, sequence)?;
                let mut random = SiteRandom::at(field.slide_seed, 0x19e6, sequence as i64, 0);
                if random.chance(self.jpeg_share) {
                    let quality = random.range(80.0, 98.0) as u8;
                    let chroma = if random.chance(0.5) {
                        Chroma::Full
                    } else {
                        Chroma::Halved
                    };
                    rgb = jpeg::round_trip(&rgb, (width, height), quality, chroma)?;
                }
                Ok((
                    defocus_um,
                    Frame::new(width, height, rgb, Instant::default(), sequence)?,
                ))
            })
            .collect()
    }

    /// Exposes the frames of a field and cuts their patches.
    ///
    /// # Errors
    /// If the microscope refuses the configuration or a pose.
    pub fn render(&self, field: &FieldPlan) -> Result<Samples, DatasetError> {
        let mut microscope = self.microscope(field)?;
        let MicroscopeConfig { width, height, .. } = *microscope.config();
        let grid = Grid::centred(width, height)?;
        let stained = stained_patches(&grid, microscope.transmittance(field.x_um, field.y_um)?, width);
        let mut samples = Samples::default();
        let mut buffer = Vec::new();
        for (defocus_um, frame) in self.expose_with(&mut microscope, field)? {
            let sequence = frame.sequence;
            let chosen = self.choose(&stained, field.slide_seed, sequence, &mut samples.skipped);
            let patches = grid.extract_into(&frame, &chosen, &mut buffer)?;
            samples.patches.extend(patches.iter());
            let handcrafted = Handcrafted::of(&frame, sequence);
            samples
                .handcrafted
                .extend(chosen.iter().map(|_| handcrafted.values));
            samples.labels.extend(chosen.iter().map(|&patch| Label {
                defocus_um,
                slide: field.slide_seed,
                frame: sequence,
                field: field.number,
                blank: !stained[patch],
            }));
        }
        Ok(samples)
    }

    /// Which patches of a frame to keep, in the order of the grid.
    fn choose(&self, stained: &[bool], seed: u64, sequence: u64, skipped: &mut usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..stained.len()).collect();
        shuffle(&mut order, &mut SiteRandom::at(seed, 0xc40, sequence as i64, 0));
        let mut chosen = Vec::with_capacity(self.patches_per_frame);
        for patch in order {
            if chosen.len() == self.patches_per_frame {
                break;
            }
            if stained[patch] || self.blank == Blank::Keep {
                chosen.push(patch);
            } else {
                *skipped += 1;
            }
        }
        chosen.sort_unstable();
        chosen
    }
}

/// Whether each patch of a grid holds something, from the ideal transmittance at every second pixel.
fn stained_patches(grid: &Grid, transmittance: &[f32], frame_width: usize) -> Vec<bool> {
    let (stride, side) = (frame_width / PIXELS_PER_SAMPLE, PATCH / PIXELS_PER_SAMPLE);
    let is_stained = |&(x, y): &(usize, usize)| {
        let (left, top) = (x / PIXELS_PER_SAMPLE, y / PIXELS_PER_SAMPLE);
        let (mut sum, mut squares) = (0.0, 0.0);
        for row in transmittance.chunks(stride).skip(top).take(side) {
            for &value in &row[left..left + side] {
                let value = f64::from(value);
                sum += value;
                squares += value * value;
            }
        }
        let count = (side * side) as f64;
        let mean = sum / count;
        squares / count - mean * mean > BLANK_DEVIATION * BLANK_DEVIATION
    };
    grid.origins().iter().map(is_stained).collect()
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], random: &mut SiteRandom) {
    for last in (1..items.len()).rev() {
        let other = (random.unit() * (last + 1) as f64) as usize;
        items.swap(last, other);
    }
}

/// Why a data set cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A count is zero.
    #[error("a data set needs at least one of: {name}")]
    None {
        /// What there is none of.
        name: &'static str,
    },
    /// The largest defocus leaves a class empty or is not modelled.
    #[error(
        "largest defocus {z_max_um} µm: must be above {far_um:.1} µm, where index 4 begins, and at most {farthest_um:.0} µm"
    )]
    Range {
        /// Value asked for, µm.
        z_max_um: f64,
        /// Lower edge of index 4, µm.
        far_um: f64,
        /// Largest modelled defocus, µm.
        farthest_um: f64,
    },
    /// Two slides would have the same label.
    #[error("seed {0}: seeds of slides must stay below 2^53, or their labels could not be told apart")]
    Seed(u64),
    /// The share of JPEGs is none.
    #[error(transparent)]
    Share(#[from] OutOfRange),
    /// The microscope refused.
    #[error(transparent)]
    Microscope(#[from] MicroscopeError),
    /// A frame could not become a JPEG.
    #[error(transparent)]
    Jpeg(#[from] JpegError),
    /// A frame came out in the wrong size.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame holds no patch.
    #[error(transparent)]
    Grid(#[from] ImageTooSmall),
    /// The grid is for other frames.
    #[error(transparent)]
    Patches(#[from] WrongSize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Micrometres;

    pub(super) fn config(heights: Heights) -> DatasetConfig {
        DatasetConfig {
            objective: Objective::default(),
            instrument: Instrument::Randomised,
            slides: 3,
            first_seed: 5,
            frames_per_slide: 14,
            frames_per_field: 3,
            patches_per_frame: 4,
            heights,
            z_max_um: 65.0,
            blank: Blank::Skip,
            jpeg_share: 0.0,
            empty: false,
        }
    }

    #[test]
    fn every_seven_frames_hold_every_class() {
        for heights in [Heights::Paper, Heights::Continuous] {
            let config = config(heights);
            let planned: Vec<f64> = config
                .fields(1)
                .into_iter()
                .flat_map(|field| field.defocus_um)
                .collect();
            assert_eq!(planned.len(), 14);
            for block in planned.chunks(7) {
                let mut classes: Vec<usize> = block
                    .iter()
                    .map(|z| config.edges().classify(Micrometres(*z)).class())
                    .collect();
                classes.sort_unstable();
                assert_eq!(classes, [0, 1, 2, 3, 4, 5, 6], "{block:?}");
            }
        }
    }

    #[test]
    fn frames_are_numbered_through_the_set() {
        let config = config(Heights::Paper);
        let numbers: Vec<usize> = (0..3)
            .flat_map(|slide| config.fields(slide))
            .map(|field| field.first_frame)
            .collect();
        assert_eq!(numbers[..6], [0, 3, 6, 9, 12, 14]);
    }

    #[test]
    fn uniform_heights_fill_the_range_evenly() {
        let config = DatasetConfig {
            slides: 500,
            ..config(Heights::Uniform)
        };
        let heights: Vec<f64> = (0..500)
            .flat_map(|slide| config.fields(slide))
            .flat_map(|field| field.defocus_um)
            .collect();
        assert_eq!(heights.len(), 7000);
        // 700 of each tenth of the range, give or take five standard deviations.
        for tenth in 0..10 {
            let low = -65.0 + 13.0 * f64::from(tenth);
            let count = heights.iter().filter(|z| (low..low + 13.0).contains(*z)).count();
            assert!((574..827).contains(&count), "{count} from {low} µm");
        }
    }

    #[test]
    fn fields_are_numbered_and_large_seeds_stay_apart() {
        let config = DatasetConfig {
            first_seed: (1 << 24) + 1,
            ..config(Heights::Paper)
        };
        let fields: Vec<FieldPlan> = (0..3).flat_map(|slide| config.fields(slide)).collect();
        assert!(fields.iter().map(|field| field.number).eq(0..15));
        let label = |slide| Label {
            defocus_um: 0.0,
            slide,
            frame: 0,
            field: 0,
            blank: false,
        };
        let rows = [fields[0].slide_seed, fields[5].slide_seed].map(|seed| label(seed).row(&config.edges()));
        assert!(rows[0][1] != rows[1][1], "{rows:?}");
        let too_large = DatasetConfig {
            first_seed: LARGEST_ID,
            ..config
        };
        assert!(matches!(too_large.check(), Err(DatasetError::Seed(_))));
    }

    #[test]
    fn labels_match_patches_and_a_field_repeats() {
        let config = config(Heights::Continuous);
        let field = &config.fields(0)[0];
        let samples = config.render(field).unwrap();
        assert_eq!(samples.patches.len(), samples.labels.len() * PATCH * PATCH * 3);
        assert_eq!(samples.labels.len(), samples.handcrafted.len());
        assert_eq!(samples.patches, config.render(field).unwrap().patches);
    }

    #[test]
    fn a_share_of_the_frames_are_jpegs() {
        let frames = |jpeg_share| {
            let config = DatasetConfig {
                jpeg_share,
                ..config(Heights::Continuous)
            };
            let frames = config.expose(&config.fields(0)[0]).unwrap();
            frames
                .into_iter()
                .map(|(_, frame)| frame.rgb().to_vec())
                .collect::<Vec<_>>()
        };
        let (plain, all) = (frames(0.0), frames(1.0));
        for (plain, compressed) in plain.iter().zip(&all) {
            let difference = plain
                .iter()
                .zip(compressed)
                .map(|(a, b)| f64::from(a.abs_diff(*b)));
            let mean = difference.sum::<f64>() / plain.len() as f64;
            assert!((0.1..4.0).contains(&mean), "{mean}");
        }
    }

    #[test]
    fn ranges_that_leave_a_class_empty_are_refused() {
        for (z_max_um, allowed) in [(65.0, true), (29.0, false), (500.0, false), (f64::NAN, false)] {
            let config = DatasetConfig {
                z_max_um,
                ..config(Heights::Paper)
            };
            assert_eq!(config.check().is_ok(), allowed, "{z_max_um}");
        }
    }
}
