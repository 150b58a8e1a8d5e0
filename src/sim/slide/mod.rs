//! A stained smear that does not exist: cells, their stain and thickness, anywhere on a slide, from one seed.
//!
//! A thin specimen is two maps: what it absorbs in each colour and by how much it delays light. Both are painted from
//! the same shapes, so thick parts are also the dark ones, as under a real microscope. Overlapping cells add. Nothing
//! is stored; [`Slide::paint`] draws the cells of the requested rectangle, and overlapping rectangles agree. The smear
//! ends at the slide's edges; beyond them is clear glass.

mod appearance;
mod cells;
mod random;
mod shape;
mod topography;

use rayon::prelude::*;

pub use appearance::{Appearance, Stain};
use cells::{Population, Region};
pub(crate) use random::SiteRandom;
use random::TiledNoise;
use shape::{AMOUNTS, EOSIN, Shape, THICKNESS};
pub use topography::Topography;

/// Length and width of the common slide of 3 by 1 inches, mm.
pub const SLIDE_MM: [f64; 2] = [75.0, 25.0];

/// Rows painted as one piece of parallel work.
const BAND_ROWS: usize = 32;

/// A lattice of sample points on the slide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raster {
    /// Place of the first sample, µm.
    pub left_um: f64,
    /// Place of the first sample, µm.
    pub top_um: f64,
    /// Distance between samples, µm.
    pub step_um: f64,
    /// Samples per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// What the specimen does to light at the samples of a raster, row by row.
#[derive(Clone, Debug)]
pub struct Maps {
    /// Natural-log absorbance of R, G and B (0 clear; the transmittance is e to the minus this).
    pub absorbance: [Vec<f32>; 3],
    /// Phase delay, rad at 0.55 µm; at another wavelength it is inversely proportional to it.
    pub phase_rad: Vec<f32>,
}

/// One slide.
#[derive(Clone, Debug)]
pub struct Slide {
    seed: u64,
    appearance: Appearance,
    topography: Topography,
    /// Where the smear ends to both sides of the origin, in x and y, µm.
    half_um: [f64; 2],
    density: TiledNoise,
    grain: TiledNoise,
}

impl Slide {
    /// The slide of a seed, with the look that seed gives it.
    pub fn new(seed: u64) -> Self {
        Self::with_appearance(seed, Appearance::new(seed))
    }

    /// The slide of a seed with a look of one's own: the same places, other stain or crowding.
    pub fn with_appearance(seed: u64, appearance: Appearance) -> Self {
        Self {
            seed,
            appearance,
            topography: Topography::new(seed),
            half_um: SLIDE_MM.map(|mm| 500.0 * mm),
            density: TiledNoise::new(seed ^ 0xde45),
            grain: TiledNoise::new(seed ^ 0x64a1),
        }
    }

    /// The same slide cut to `size_mm`, x and y, with the origin in its middle; what is left looks as before.
    #[must_use]
    pub fn cut_to(self, size_mm: [f64; 2]) -> Self {
        Self {
            half_um: size_mm.map(|mm| 500.0 * mm),
            ..self
        }
    }

    /// Whether a place is on the slide and not on the glass around it.
    pub fn is_inside(&self, x_um: f64, y_um: f64) -> bool {
        x_um.abs() <= self.half_um[0] && y_um.abs() <= self.half_um[1]
    }

    /// The look of the slide.
    pub fn appearance(&self) -> &Appearance {
        &self.appearance
    }

    /// Height of best focus above the slide's nominal plane, µm.
    pub fn focus_height_um(&self, x_um: f64, y_um: f64) -> f64 {
        self.topography.height_um(x_um, y_um)
    }

    /// Absorbance and phase at the samples of a raster.
    pub fn paint(&self, raster: &Raster) -> Maps {
        let region = Region {
            left_um: raster.left_um,
            top_um: raster.top_um,
            right_um: raster.left_um + raster.step_um * raster.width as f64,
            bottom_um: raster.top_um + raster.step_um * raster.height as f64,
        };
        let population = Population {
            seed: self.seed,
            appearance: &self.appearance,
            density: &self.density,
        };
        let shapes = population.shapes(region);
        let mut amounts = vec![[0.0_f32; AMOUNTS]; raster.width * raster.height];
        amounts
            .par_chunks_mut(BAND_ROWS * raster.width)
            .enumerate()
            .for_each(|(band, samples)| {
                self.paint_band(raster, band * BAND_ROWS, samples, &shapes);
            });
        self.maps(&amounts)
    }

    fn paint_band(
        &self,
        raster: &Raster,
        first_row: usize,
        samples: &mut [[f32; AMOUNTS]],
        shapes: &[Shape],
    ) {
        let y_of = |row: usize| raster.top_um + (first_row + row) as f64 * raster.step_um;
        for (row, line) in samples.chunks_mut(raster.width).enumerate() {
            self.paint_film(raster, y_of(row), line);
        }
        let rows = samples.len() / raster.width;
        for shape in shapes {
            let reach_um = shape.reach_um();
            let first = ((shape.y_um - reach_um - y_of(0)) / raster.step_um)
                .ceil()
                .max(0.0) as usize;
            let end = ((shape.y_um + reach_um - y_of(0)) / raster.step_um).floor() + 1.0;
            let end = (end.max(0.0) as usize).min(rows);
            for row in first..end {
                let line = &mut samples[row * raster.width..(row + 1) * raster.width];
                shape.paint_row(line, raster.left_um, y_of(row), raster.step_um, &self.grain);
            }
        }
        self.wipe_outside(raster, y_of, samples);
    }

    /// Leaves clear glass beyond the slide's edges, cutting through the cells that lie across them.
    fn wipe_outside(&self, raster: &Raster, y_of: impl Fn(usize) -> f64, samples: &mut [[f32; AMOUNTS]]) {
        let right_um = raster.left_um + raster.step_um * raster.width as f64;
        for (row, line) in samples.chunks_mut(raster.width).enumerate() {
            let y_um = y_of(row);
            if self.is_inside(raster.left_um, y_um) && self.is_inside(right_um, y_um) {
                continue;
            }
            for (column, sample) in line.iter_mut().enumerate() {
                if !self.is_inside(raster.left_um + column as f64 * raster.step_um, y_um) {
                    *sample = [0.0; AMOUNTS];
                }
            }
        }
    }

    /// The dried plasma between the cells: faint, uneven, slightly refracting.
    fn paint_film(&self, raster: &Raster, y_um: f64, line: &mut [[f32; AMOUNTS]]) {
        for (column, sample) in line.iter_mut().enumerate() {
            let x_um = raster.left_um + column as f64 * raster.step_um;
            let wide = self.grain.at(x_um / 23.0, y_um / 23.0);
            let fine = self.grain.at(x_um / 1.9 + 3.7, y_um / 1.9 + 9.2);
            sample[EOSIN] = 0.06 + 0.03 * wide + 0.02 * fine;
            sample[THICKNESS] = 0.08 * wide + 0.05 * fine;
        }
    }

    fn maps(&self, amounts: &[[f32; AMOUNTS]]) -> Maps {
        let stains = self
            .appearance
            .absorbance
            .map(|stain| stain.map(|channel| channel as f32));
        let absorbance = std::array::from_fn(|channel| {
            let absorbed =
                |sample: &[f32; AMOUNTS]| (0..stains.len()).map(|s| sample[s] * stains[s][channel]).sum();
            amounts.par_iter().map(absorbed).collect()
        });
        let phase = self.appearance.phase_rad as f32;
        Maps {
            absorbance,
            phase_rad: amounts
                .par_iter()
                .map(|sample| sample[THICKNESS] * phase)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RASTER: Raster = Raster {
        left_um: -20.0,
        top_um: 35.0,
        step_um: 0.25,
        width: 320,
        height: 200,
    };

    #[test]
    fn overlapping_rectangles_agree() {
        let slide = Slide::new(11);
        let whole = slide.paint(&RASTER);
        let part = slide.paint(&Raster {
            left_um: -10.0,
            top_um: 45.0,
            width: 200,
            height: 100,
            ..RASTER
        });
        for row in 0..100 {
            for column in 0..200 {
                let (inner, outer) = (row * 200 + column, (row + 40) * 320 + column + 40);
                assert!((part.phase_rad[inner] - whole.phase_rad[outer]).abs() < 1e-4);
                assert!((part.absorbance[1][inner] - whole.absorbance[1][outer]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn beyond_the_edge_is_glass_and_inside_nothing_changes() {
        let whole = Slide::new(11).paint(&RASTER);
        // The right and the lower edge run through the raster: x <= 30, y <= 60.
        let slide = Slide::new(11).cut_to([0.06, 0.12]);
        let cut = slide.paint(&RASTER);
        let (mut inside, mut outside) = (0, 0);
        for index in 0..whole.phase_rad.len() {
            let x_um = RASTER.left_um + (index % RASTER.width) as f64 * RASTER.step_um;
            let y_um = RASTER.top_um + (index / RASTER.width) as f64 * RASTER.step_um;
            let seen = [
                cut.phase_rad[index],
                cut.absorbance[0][index],
                cut.absorbance[2][index],
            ];
            if x_um <= 30.0 && y_um <= 60.0 {
                let before = [
                    whole.phase_rad[index],
                    whole.absorbance[0][index],
                    whole.absorbance[2][index],
                ];
                assert_eq!(seen, before);
                inside += 1;
            } else {
                assert_eq!(seen, [0.0; 3]);
                assert!(!slide.is_inside(x_um, y_um));
                outside += 1;
            }
        }
        assert!(inside > 10_000 && outside > 10_000, "{inside} {outside}");
        // The usual size: the short side ends at 12.5 mm, the long one goes on.
        let edge = Raster {
            left_um: 12_400.0,
            top_um: 12_480.0,
            ..RASTER
        };
        let maps = Slide::new(11).paint(&edge);
        let dirty = |rows: std::ops::Range<usize>| {
            maps.absorbance[1][rows.start * 320..rows.end * 320]
                .iter()
                .any(|absorbance| *absorbance > 0.0)
        };
        assert!(dirty(0..80) && !dirty(81..200));
    }

    #[test]
    fn red_cells_absorb_green_and_nuclei_absorb_red() {
        let look = Appearance::new(1);
        assert!(look.absorbance[EOSIN][1] > 2.0 * look.absorbance[EOSIN][0]);
        assert!(look.absorbance[shape::NUCLEAR][0] > 3.0 * look.absorbance[EOSIN][0]);
    }

    #[test]
    fn every_slide_has_cells_and_gaps() {
        for seed in 0..10 {
            let raster = Raster {
                left_um: 0.0,
                top_um: 0.0,
                step_um: 1.0,
                width: 600,
                height: 600,
            };
            let maps = Slide::new(seed).paint(&raster);
            let covered = maps.absorbance[1].iter().filter(|a| **a > 0.12).count() as f64 / 360_000.0;
            assert!(
                (0.2..0.85).contains(&covered),
                "seed {seed}: {covered} of the area is covered"
            );
        }
    }
}
