//! The slow way, which the fast one is tested against: a sum over the points of the light source (Abbe).
//!
//! Each point ρ of the condenser's disc lights the specimen with a tilted plane wave. The specimen's transmission t changes
//! it, the pupil passes a part, and the camera sees the intensity:
//!
//! I(x) = Σ_ρ |Σ_f t̂(f) P(ρ + f) e^{2πi f x}|² / Σ_ρ |P(ρ)|².
//!
//! Nothing is left out to any order in the strength of the specimen, as long as it is thin. The intensity of light scattered twice
//! holds frequencies up to 2 NA/λ; with the 10x and the 20x these exceed what the raster can hold and fold back, which concerns
//! the second order alone. Of all this the camera is shown the band that a weak object fills, as by the fast way.
//!
//! The source is a square grid of points. Two neighbours show the same picture displaced by z·δ, so points are laid closely enough that the
//! displacement stays below a quarter of the finest detail, λ/(NA + NAc).

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::{Complex32, Complex64};
use rustfft::{Fft, FftPlanner};

use super::transfer::Pupil;
use super::{Imager, Light, PHASE_WAVELENGTH_UM, seam};
use crate::objective::WAVELENGTHS_UM;
use crate::sim::slide::Maps;

/// Fewest points across the source.
const FEWEST_POINTS: usize = 11;
/// Displacement of neighbouring points' pictures, in finest details.
const DISPLACEMENT: f64 = 0.25;
/// Points summed as one piece of parallel work; fixed, so that the sum does not depend on the number of threads.
const PIECE: usize = 8;

impl Imager {
    /// Source points that the sum needs at a defocus (green, µm), in the channel that needs most.
    pub fn reference_points(&self, defocus_um: f64) -> usize {
        let points = |channel| self.points(channel, defocus_um).len();
        (0..3).map(points).max().unwrap_or(0)
    }

    fn points(&self, channel: usize, defocus_um: f64) -> Vec<[f64; 2]> {
        source_points(
            &self.pupils[channel],
            defocus_um - self.chromatic_shift_um[channel],
        )
    }

    /// The light from a painted raster at a defocus (green, µm), by the sum over source points. `progress` hears how much is
    /// done, from 0 to 1.
    pub fn render_by_reference(
        &self,
        maps: &Maps,
        defocus_um: f64,
        light: &mut Light,
        progress: &mut dyn FnMut(f64),
    ) {
        self.prepare(light);
        let border = light.border;
        let points = [0, 1, 2].map(|channel| self.points(channel, defocus_um));
        let all: usize = points.iter().map(Vec::len).sum();
        let mut done = 0;
        let transforms = Turned::new(self.transforms.width(), self.transforms.height());
        for (channel, points) in points.iter().enumerate() {
            let mut advance = |count: usize| {
                done += count;
                progress(done as f64 / all as f64);
            };
            let beam = Beam {
                pupil: &self.pupils[channel],
                defocus_um: defocus_um - self.chromatic_shift_um[channel],
                transforms: &transforms,
                spectrum: self.transmission(maps, channel, &transforms),
            };
            let intensity = self.intensity(&beam, points, &mut advance);
            // The pixels collect: the same filter as the fast way's, without its transfer function.
            let mut above_background: Vec<f32> = intensity.iter().map(|light| light - 1.0).collect();
            let columns = self.transforms.width() / 2 + 1;
            let mut spectrum = self.transforms.forward(&mut above_background, columns);
            self.collect_over_pixels(&mut spectrum);
            let height = self.transforms.height();
            let plane = &mut light.planes[channel];
            self.transforms.inverse(
                columns,
                self.margin[1] - border,
                self.size[1] + 2 * border,
                &mut plane.work,
                |column, values| {
                    values.copy_from_slice(&spectrum[column * height..(column + 1) * height]);
                    self.cut_beyond_band(column, values);
                },
                &mut plane.samples,
            );
            plane.samples.iter_mut().for_each(|sample| *sample += 1.0);
        }
    }

    /// Clears what lies beyond the band of a weak object; the camera's interpolation is made for that band.
    fn cut_beyond_band(&self, column: usize, values: &mut [Complex32]) {
        let cutoffs = self.pupils.iter().map(Pupil::cutoff_per_um);
        let widest = cutoffs.fold(0.0, f64::max).min(self.widest_per_um());
        let horizontal = self.horizontal_frequency(column);
        for (value, vertical) in values.iter_mut().zip(self.vertical_frequencies()) {
            if horizontal.hypot(vertical) >= widest {
                *value = Complex32::default();
            }
        }
    }

    /// Mean intensity over the source, relative to clear glass. Pieces are added in their order, a few at a time, so that
    /// neither the sum nor the memory depends on how many there are or how many threads work on them.
    fn intensity(&self, beam: &Beam<'_>, points: &[[f64; 2]], advance: &mut dyn FnMut(usize)) -> Vec<f32> {
        let mut sum = vec![0.0; beam.spectrum.len()];
        for round in points.chunks(PIECE * rayon::current_num_threads()) {
            let pieces: Vec<Vec<f32>> = round
                .par_chunks(PIECE)
                .map(|piece| self.add_points(beam, piece))
                .collect();
            for piece in pieces {
                sum.iter_mut()
                    .zip(piece)
                    .for_each(|(sum, light)| *sum += light / points.len() as f32);
            }
            advance(round.len());
        }
        sum
    }

    /// Spectrum of the transmission, row by row, divided by the number of samples. The margin fades to clear glass.
    fn transmission(&self, maps: &Maps, channel: usize, transforms: &Turned) -> Vec<Complex32> {
        let per_reference = (PHASE_WAVELENGTH_UM / WAVELENGTHS_UM[channel]) as f32;
        let (width, height) = (self.transforms.width(), self.transforms.height());
        let (across, down) = (seam(width), seam(height));
        let samples = maps.absorbance[channel].iter().zip(&maps.phase_rad).enumerate();
        let mut field: Vec<Complex32> = samples
            .map(|(index, (&absorbance, &phase))| {
                let fade = across[index % width] * down[index / width];
                let t = Complex32::from_polar((-0.5 * absorbance).exp(), phase * per_reference);
                (t - 1.0) * fade + 1.0
            })
            .collect();
        transforms.forward(&mut field);
        let scale = 1.0 / field.len() as f32;
        field.iter_mut().for_each(|value| *value *= scale);
        field
    }

    /// Summed intensity of a few source points.
    fn add_points(&self, beam: &Beam<'_>, points: &[[f64; 2]]) -> Vec<f32> {
        let Beam {
            pupil,
            defocus_um,
            transforms,
            ref spectrum,
        } = *beam;
        let width = self.transforms.width();
        let mut sum = vec![0.0_f32; spectrum.len()];
        let mut field = vec![Complex32::default(); spectrum.len()];
        let rows: Vec<f64> = self.vertical_frequencies().collect();
        let columns: Vec<f64> = (0..width)
            .map(|column| {
                let signed = if column > width / 2 {
                    column as f64 - width as f64
                } else {
                    column as f64
                };
                signed / (width as f64 * self.step_um)
            })
            .collect();
        let radius = pupil.na / pupil.wavelength_um;
        for [x, y] in points {
            for (row, vertical) in rows.iter().enumerate() {
                let line = row * width..(row + 1) * width;
                let values = field[line.clone()].iter_mut().zip(&spectrum[line]).zip(&columns);
                for ((value, part), horizontal) in values {
                    let square = (x + horizontal) * (x + horizontal) + (y + vertical) * (y + vertical);
                    *value = if square <= radius * radius {
                        let turns = pupil.turns(defocus_um, square);
                        let passed = Complex64::from_polar(1.0, std::f64::consts::TAU * turns);
                        part * Complex32::new(passed.re as f32, passed.im as f32)
                    } else {
                        Complex32::default()
                    };
                }
            }
            transforms.inverse(&mut field);
            sum.iter_mut()
                .zip(&field)
                .for_each(|(sum, value)| *sum += value.norm_sqr());
        }
        sum
    }
}

/// What one colour's light meets on its way.
struct Beam<'a> {
    pupil: &'a Pupil,
    defocus_um: f64,
    transforms: &'a Turned,
    /// Of the specimen's transmission, row by row.
    spectrum: Vec<Complex32>,
}

/// Two-dimensional transforms of complex pictures, in place, without scaling: rows, and then columns turned into rows.
struct Turned {
    width: usize,
    height: usize,
    /// Along rows and along columns.
    forward: [Arc<dyn Fft<f32>>; 2],
    inverse: [Arc<dyn Fft<f32>>; 2],
}

impl Turned {
    fn new(width: usize, height: usize) -> Self {
        let mut planner = FftPlanner::new();
        Self {
            width,
            height,
            forward: [width, height].map(|length| planner.plan_fft_forward(length)),
            inverse: [width, height].map(|length| planner.plan_fft_inverse(length)),
        }
    }

    fn forward(&self, field: &mut [Complex32]) {
        self.both(&self.forward, field);
    }

    fn inverse(&self, field: &mut [Complex32]) {
        self.both(&self.inverse, field);
    }

    fn both(&self, [rows, columns]: &[Arc<dyn Fft<f32>>; 2], field: &mut [Complex32]) {
        rows.process(field);
        let mut turned = vec![Complex32::default(); field.len()];
        for (row, line) in field.chunks(self.width).enumerate() {
            for (column, value) in line.iter().enumerate() {
                turned[column * self.height + row] = *value;
            }
        }
        columns.process(&mut turned);
        for (column, line) in turned.chunks(self.height).enumerate() {
            for (row, value) in line.iter().enumerate() {
                field[row * self.width + column] = *value;
            }
        }
    }
}

/// Points on a square grid over the condenser's disc, in cycles per µm.
fn source_points(pupil: &Pupil, defocus_um: f64) -> Vec<[f64; 2]> {
    let finest_um = pupil.wavelength_um / (pupil.na + pupil.condenser_na);
    let spread_um = 2.0 * pupil.condenser_na * defocus_um.abs();
    let across = (spread_um / (DISPLACEMENT * finest_um))
        .ceil()
        .max(FEWEST_POINTS as f64) as usize;
    let radius = pupil.condenser_na / pupil.wavelength_um;
    let place = |index: usize| radius * (2.0 * (index as f64 + 0.5) / across as f64 - 1.0);
    let grid = (0..across * across).map(|index| [place(index % across), place(index / across)]);
    grid.filter(|[x, y]| x * x + y * y <= radius * radius).collect()
}
