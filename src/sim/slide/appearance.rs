//! How one slide differs from the next: stain, crowding, cell sizes.

use serde::{Deserialize, Serialize};

use super::random::SiteRandom;
use super::shape::{BLUE, EOSIN, NUCLEAR, OPAQUE};

/// Natural-log absorbance of opaque matter.
const OPAQUE_ABSORBANCE: [f64; 3] = [1.0, 1.05, 1.10];

/// What the cells were stained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stain {
    /// Pink red cells, purple nuclei, blue cytoplasm.
    #[default]
    Giemsa,
    /// Pink red cells and cytoplasm, blue-violet nuclei.
    HaematoxylinEosin,
}

impl Stain {
    /// Natural-log absorbance of unit amounts of eosin and haemoglobin, nuclear stain, stain of the cytoplasm and opaque
    /// matter in R, G and B under a white-balanced camera. Giemsa's are chosen by eye; those of haematoxylin and eosin have
    /// the directions that Ruifrok and Johnston (2001) measured.
    fn absorbance(self) -> [[f64; 3]; 4] {
        match self {
            Self::Giemsa => [
                [0.13, 0.50, 0.38],
                [0.55, 1.05, 0.36],
                [0.38, 0.26, 0.08],
                OPAQUE_ABSORBANCE,
            ],
            Self::HaematoxylinEosin => [
                [0.05, 0.62, 0.07],
                [1.00, 1.08, 0.45],
                [0.14, 0.42, 0.09],
                OPAQUE_ABSORBANCE,
            ],
        }
    }
}

/// The look of one slide. All fractions are probabilities per lattice site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Appearance {
    /// Factor on the red cells' occupancy: 1 ordinary, 0 an empty slide.
    pub density: f64,
    /// Phase of a red cell's thickest ring, rad at 0.55 µm; 0 for a slide that only absorbs.
    pub phase_rad: f64,
    /// Natural-log absorbance (R, G, B) of unit amounts of eosin, nuclear stain, blue and opaque matter.
    pub absorbance: [[f64; 3]; 4],
    /// Mean distance of red cell sites, µm.
    pub red_pitch_um: f64,
    /// Factor on the radius of red cells.
    pub red_size: f64,
    /// Thickness in the middle of a red cell relative to its ring, 0 to 1.
    pub pallor: f64,
    /// Share of red cells with a crenated rim.
    pub rough_fraction: f64,
    /// Share of white cell sites taken.
    pub white_fraction: f64,
    /// Share of tumour cell sites taken.
    pub tumour_fraction: f64,
    /// Share of platelet and speck sites taken.
    pub speck_fraction: f64,
    /// Share of dust sites taken; there is one in every 130 µm square.
    #[serde(default = "dusty")]
    pub dust_fraction: f64,
}

fn dusty() -> f64 {
    0.3
}

impl Appearance {
    /// The look of a slide seed, Giemsa-stained.
    pub fn new(seed: u64) -> Self {
        Self::stained(seed, Stain::Giemsa)
    }

    /// Glass without a cell or a grain of dust; the film of dried plasma is there.
    pub fn empty(seed: u64) -> Self {
        Self {
            density: 0.0,
            white_fraction: 0.0,
            tumour_fraction: 0.0,
            speck_fraction: 0.0,
            dust_fraction: 0.0,
            ..Self::new(seed)
        }
    }

    /// The look of a slide seed with a stain of one's choice: the same cells.
    pub fn stained(seed: u64, stain: Stain) -> Self {
        let mut random = SiteRandom::new(seed, 0xa99);
        let strength = random.range(0.8, 1.25);
        let mut absorbance = stain.absorbance();
        for stain in [EOSIN, NUCLEAR, BLUE] {
            let own = strength * random.range(0.85, 1.15);
            for channel in &mut absorbance[stain] {
                *channel *= own * random.range(0.82, 1.18);
            }
        }
        for channel in &mut absorbance[OPAQUE] {
            *channel *= random.range(0.95, 1.05);
        }
        Self {
            density: random.range(0.85, 1.35),
            phase_rad: random.range(0.25, 0.50),
            absorbance,
            red_pitch_um: random.range(7.2, 9.0),
            red_size: random.range(0.92, 1.08),
            pallor: random.range(0.30, 0.75),
            rough_fraction: random.range(0.0, 0.3),
            white_fraction: random.range(0.15, 0.55),
            tumour_fraction: random.range(0.10, 0.60),
            speck_fraction: random.range(0.04, 0.20),
            dust_fraction: dusty(),
        }
    }
}
