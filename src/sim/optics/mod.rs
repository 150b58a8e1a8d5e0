//! From a thin specimen to the light on the camera.
//!
//! The specimen's transmission is t = √T e^{iφ}, T = e^{-absorbance}. To first order in what it scatters, the picture is
//!
//! I = 1 - A ∗ (1 - T) + P ∗ √T sin φ,
//!
//! with the transfer functions A of absorption and P of phase of [`transfer`]. The absorbed part is 1 - T and not
//! 2(1 - √T): the second order of absorption is folded in, so that the picture in focus is the transmittance itself
//! however strong the stain, and defocus moves light about without making or losing any.
//!
//! Against the sum over source points of [`reference`], which leaves nothing out (`tests/all/optics_reference.rs`, 40x/0.65, within
//! ±5.2 µm, every colour; root-mean-square difference over root-mean-square contrast): weak objects differ by at most 1.1 % (20x:
//! 1.6 %), red cells of full stain by at most 4.2 %, a frame full of tumour cells by at most 13.2 %; ±10 and ±20 µm from focus these
//! differ by at most 4.8 %. In focus and in green it is 1.1 % at most.
//!
//! The picture holds no period below λ/(NA + NAc), 5.2 to 6.7 camera pixels at 40x, so it is computed at every second
//! pixel; the sensor interpolates ([`Halfway`]). The specimen is painted with a margin around the frame into which the
//! transform's wrap-around falls. The margin is as wide as the cone of light from the farthest defocus it is made for.

mod halfway;
pub mod reference;
mod spectrum;
pub mod transfer;

use std::f64::consts::{PI, TAU};

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use crate::objective::{Objective, WAVELENGTHS_UM};
use crate::sim::slide::{Maps, Raster};
pub use halfway::Halfway;
use halfway::WIDEST_BAND;
use spectrum::{Transforms, Workspace, fast_length};
use transfer::{GaussRules, Pupil, Transfer};

/// Camera pixels per computed sample, in each direction.
pub const PIXELS_PER_SAMPLE: usize = 2;
/// Samples over which the specimen fades to clear glass at the outer edge of the margin.
const SEAM: usize = 12;
/// Steps of an exposure that moves in z, in depths of field.
const STEP_DEPTHS: f64 = 0.25;
/// Most such steps.
const MOST_HEIGHTS: f64 = 32.0;
/// Steps of kept light to the background; the brightest focus of a phase object stays below three times that.
const KEPT_PER_UNIT: f32 = 20_000.0;
/// Wavelength at which the phase map is given, µm.
const PHASE_WAVELENGTH_UM: f64 = 0.55;

/// The imaging of one objective onto one frame size.
#[derive(Debug)]
pub struct Imager {
    pupils: [Pupil; 3],
    chromatic_shift_um: [f64; 3],
    rules: GaussRules,
    transforms: Transforms,
    step_um: f64,
    /// Place of the frame's first sample in the painted raster.
    margin: [usize; 2],
    /// Samples of the frame.
    size: [usize; 2],
    columns: usize,
    halfway: Halfway,
    reach_um: f64,
}

/// How a field is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// How much too far the lens is, for the green channel, µm; halfway through the exposure.
    pub defocus_um: f64,
    /// How far right and below of the painted field's middle the frame's middle is, µm; halfway through the exposure.
    pub shift_um: [f64; 2],
    /// How far the stage moves while light is collected, in x, y and z, µm. The blur along z and that along x and y are
    /// applied one after the other.
    pub travel_um: [f64; 3],
}

/// A painted part of the specimen, as spectra per channel.
pub struct Field {
    absorbed: [Vec<Complex32>; 3],
    delayed: [Vec<Complex32>; 3],
    transmittance: Vec<f32>,
}

/// The light on the sensor at every second pixel, background 1, with a border of more samples on every side, as many as
/// the interpolation between samples needs.
#[derive(Clone, Debug, Default)]
pub struct Light {
    /// R, G and B.
    planes: [Plane; 3],
    border: usize,
    /// Samples of a row that are light, borders included.
    width: usize,
    offset: usize,
    stride: usize,
}

/// Light put away in 16 bits: half the memory, and steps far below what the camera tells apart.
#[derive(Clone)]
pub struct KeptLight {
    planes: [Vec<u16>; 3],
    border: usize,
    width: usize,
}

impl std::fmt::Debug for KeptLight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptLight({} samples)", self.planes[0].len())
    }
}

#[derive(Clone, Debug, Default)]
struct Plane {
    samples: Vec<f32>,
    work: Workspace,
}

impl Imager {
    /// An imager for frames of `width` by `height` camera pixels, both even, whose margin holds whatever is blurred into the
    /// frame from up to `reach_um` away: the defocus times the condenser's aperture, and half the travel.
    pub fn new(objective: &Objective, width: usize, height: usize, reach_um: f64) -> Self {
        let step_um = PIXELS_PER_SAMPLE as f64 * objective.object_pixel_um();
        let size = [width / PIXELS_PER_SAMPLE, height / PIXELS_PER_SAMPLE];
        let pupils = WAVELENGTHS_UM.map(|wavelength_um| Pupil {
            na: objective.na,
            condenser_na: objective.condenser_na,
            wavelength_um,
            spherical_waves: objective.spherical_waves,
        });
        let widest = pupils.iter().map(Pupil::cutoff_per_um).fold(0.0, f64::max);
        let halfway = Halfway::up_to(widest * step_um);
        let least_margin = (reach_um / step_um).ceil() as usize + halfway.reach() + SEAM;
        let painted = size.map(|samples| fast_length(samples + 2 * least_margin));
        let columns = (widest * painted[0] as f64 * step_um).ceil() as usize + 1;
        Self {
            pupils,
            chromatic_shift_um: objective.chromatic_shift_um,
            rules: GaussRules::new(),
            transforms: Transforms::new(painted[0], painted[1]),
            step_um,
            margin: [(painted[0] - size[0]) / 2, (painted[1] - size[1]) / 2],
            size,
            columns: columns.min(painted[0] / 2 + 1),
            halfway,
            reach_um,
        }
    }

    /// How to find the light between the samples.
    pub fn halfway(&self) -> &Halfway {
        &self.halfway
    }

    /// Whether everything that such a view blurs into the frame lies within the margin.
    pub fn reaches(&self, view: &View) -> bool {
        let [x_um, y_um, z_um] = view.travel_um.map(|um| 0.5 * um.abs());
        let blur_um = self.pupils[1].condenser_na * (view.defocus_um.abs() + z_um);
        blur_um + x_um.max(y_um) <= self.reach_um
    }

    /// Distance between samples in the object plane, µm.
    pub fn step_um(&self) -> f64 {
        self.step_um
    }

    /// Samples per row and rows of the frame, without border.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The raster to paint so that the frame's first sample lies at (`left_um`, `top_um`).
    pub fn raster(&self, left_um: f64, top_um: f64) -> Raster {
        Raster {
            left_um: left_um - self.margin[0] as f64 * self.step_um,
            top_um: top_um - self.margin[1] as f64 * self.step_um,
            step_um: self.step_um,
            width: self.transforms.width(),
            height: self.transforms.height(),
        }
    }

    /// The spectra of a painted raster; the costly step, done once per place.
    pub fn field(&self, maps: &Maps) -> Field {
        let pairs: Vec<_> = (0..3_usize)
            .into_par_iter()
            .map(|channel| {
                let (mut absorbed, mut delayed) = self.scattering(maps, channel);
                let transmittance = if channel == 1 {
                    self.cropped(&absorbed).map(|a| 1.0 - a).collect()
                } else {
                    Vec::new()
                };
                let mut spectra =
                    [&mut absorbed, &mut delayed].map(|map| self.transforms.forward(map, self.columns));
                spectra
                    .iter_mut()
                    .for_each(|spectrum| self.collect_over_pixels(spectrum));
                (spectra, transmittance)
            })
            .collect();
        let mut field = Field {
            absorbed: Default::default(),
            delayed: Default::default(),
            transmittance: Vec::new(),
        };
        for (channel, ([absorbed, delayed], transmittance)) in pairs.into_iter().enumerate() {
            field.absorbed[channel] = absorbed;
            field.delayed[channel] = delayed;
            if channel == 1 {
                field.transmittance = transmittance;
            }
        }
        field
    }

    /// 1 - T and √T sin φ of one channel, faded to nothing at the raster's edge so that its ends meet.
    fn scattering(&self, maps: &Maps, channel: usize) -> (Vec<f32>, Vec<f32>) {
        let per_reference = (PHASE_WAVELENGTH_UM / WAVELENGTHS_UM[channel]) as f32;
        let width = self.transforms.width();
        let (across, down) = (seam(width), seam(self.transforms.height()));
        let samples = maps.absorbance[channel].iter().zip(&maps.phase_rad).enumerate();
        samples
            .map(|(index, (&absorbance, &phase))| {
                let amplitude = (-0.5 * absorbance).exp();
                let fade = across[index % width] * down[index / width];
                (
                    fade * (1.0 - amplitude * amplitude),
                    fade * amplitude * (phase * per_reference).sin(),
                )
            })
            .unzip()
    }

    fn cropped<'a>(&self, map: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let ([left, top], [width, height]) = (self.margin, self.size);
        map.chunks(self.transforms.width())
            .skip(top)
            .take(height)
            .flat_map(move |row| row[left..left + width].iter().copied())
    }

    /// A camera pixel collects the light over its square.
    fn collect_over_pixels(&self, spectrum: &mut [Complex32]) {
        let pixel_um = self.step_um / PIXELS_PER_SAMPLE as f64;
        let down: Vec<f32> = self
            .vertical_frequencies()
            .map(|f| sinc(PI * f * pixel_um) as f32)
            .collect();
        for (column, values) in spectrum.chunks_mut(down.len()).enumerate() {
            let across = sinc(PI * self.horizontal_frequency(column) * pixel_um) as f32;
            for (value, factor) in values.iter_mut().zip(&down) {
                *value *= across * factor;
            }
        }
    }

    fn horizontal_frequency(&self, column: usize) -> f64 {
        column as f64 / (self.transforms.width() as f64 * self.step_um)
    }

    /// Signed, in cycles per µm, in the order of the transform.
    fn vertical_frequencies(&self) -> impl Iterator<Item = f64> {
        let (height, step_um) = (self.transforms.height(), self.step_um);
        (0..height).map(move |row| {
            let signed = if row > height / 2 {
                row as f64 - height as f64
            } else {
                row as f64
            };
            signed / (height as f64 * step_um)
        })
    }

    /// The light from a field.
    pub fn render(&self, field: &Field, view: &View, light: &mut Light) {
        self.render_through(field, &self.transfers(view), view, light);
    }

    /// The transfer functions of the three channels for a view; they depend on its heights alone.
    pub fn transfers(&self, view: &View) -> [Transfer; 3] {
        let [mut red, mut green, mut blue] = [const { None }; 3];
        rayon::scope(|scope| {
            scope.spawn(|_| red = Some(self.transfer(0, view)));
            scope.spawn(|_| green = Some(self.transfer(1, view)));
            scope.spawn(|_| blue = Some(self.transfer(2, view)));
        });
        let known = [red, green, blue];
        let mut channel = 0;
        known.map(|transfer| {
            channel += 1;
            transfer.unwrap_or_else(|| self.transfer(channel - 1, view))
        })
    }

    /// The light from a field through transfer functions that are known already.
    pub fn render_through(&self, field: &Field, transfers: &[Transfer; 3], view: &View, light: &mut Light) {
        self.prepare(light);
        light
            .planes
            .par_iter_mut()
            .enumerate()
            .for_each(|(channel, plane)| {
                self.render_channel(
                    &field.absorbed[channel],
                    &field.delayed[channel],
                    &transfers[channel],
                    view,
                    plane,
                );
            });
    }

    fn prepare(&self, light: &mut Light) {
        light.border = self.halfway.reach();
        light.width = self.size[0] + 2 * light.border;
        light.stride = self.transforms.width();
        light.offset = self.margin[0] - light.border;
    }

    /// Frequency from which nothing is shown, cycles per µm: what lies above cannot be told from its fold.
    fn widest_per_um(&self) -> f64 {
        WIDEST_BAND / self.step_um
    }

    /// The transfer of a channel, averaged over the heights passed during the exposure.
    fn transfer(&self, channel: usize, view: &View) -> Transfer {
        let pupil = &self.pupils[channel];
        let middle_um = view.defocus_um - self.chromatic_shift_um[channel];
        let depth_um = pupil.wavelength_um / (pupil.na * pupil.na);
        let heights = (view.travel_um[2].abs() / (STEP_DEPTHS * depth_um))
            .ceil()
            .min(MOST_HEIGHTS);
        let passed: Vec<Transfer> = (0..heights as usize)
            .map(|step| {
                let part = (step as f64 + 0.5) / heights - 0.5;
                pupil.transfer(middle_um + part * view.travel_um[2], &self.rules)
            })
            .collect();
        Transfer::mean(&passed).unwrap_or_else(|| pupil.transfer(middle_um, &self.rules))
    }

    fn render_channel(
        &self,
        absorbed: &[Complex32],
        delayed: &[Complex32],
        transfer: &Transfer,
        view: &View,
        plane: &mut Plane,
    ) {
        let height = self.transforms.height();
        let cutoff = transfer.cutoff_per_um().min(self.widest_per_um()) as f32;
        let columns = (f64::from(cutoff) * self.transforms.width() as f64 * self.step_um) as usize + 1;
        let squares: Vec<f32> = self
            .vertical_frequencies()
            .take(height / 2 + 1)
            .map(|f| (f * f) as f32)
            .collect();
        let down: Vec<f64> = self.vertical_frequencies().collect();
        let ramp: Vec<Complex32> = down.iter().map(|f| turn(f * view.shift_um[1])).collect();
        let [travel_x_um, travel_y_um, _] = view.travel_um;
        let still = travel_x_um == 0.0 && travel_y_um == 0.0;
        let fill = |column: usize, values: &mut [Complex32]| {
            let horizontal = self.horizontal_frequency(column);
            let horizontal_square = (horizontal * horizontal) as f32;
            let across = turn(horizontal * view.shift_um[0]);
            let range = column * height..(column + 1) * height;
            let (absorbed, delayed) = (&absorbed[range.clone()], &delayed[range]);
            values.fill(Complex32::default());
            for (row, square) in squares.iter().enumerate() {
                let frequency = (horizontal_square + square).sqrt();
                if frequency >= cutoff {
                    break;
                }
                let [absorption, phase] = transfer.at(frequency);
                for place in [row, (height - row) % height] {
                    let value = delayed[place] * phase - absorbed[place] * absorption;
                    values[place] = value * across * ramp[place];
                }
            }
            if !still {
                let passed = |vertical: f64| horizontal * travel_x_um + vertical * travel_y_um;
                let smear = down.iter().map(|vertical| sinc(PI * passed(*vertical)) as f32);
                values
                    .iter_mut()
                    .zip(smear)
                    .for_each(|(value, factor)| *value *= factor);
            }
        };
        let border = self.halfway.reach();
        self.transforms.inverse(
            columns.min(self.columns),
            self.margin[1] - border,
            self.size[1] + 2 * border,
            &mut plane.work,
            fill,
            &mut plane.samples,
        );
        plane.samples.iter_mut().for_each(|sample| *sample += 1.0);
    }
}

impl Field {
    /// Transmittance of the specimen in green at the samples of the frame, row by row: the ideal picture.
    pub fn transmittance(&self) -> &[f32] {
        &self.transmittance
    }
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Field({} samples)", self.transmittance.len())
    }
}

impl Light {
    /// Samples on every side of the frame.
    pub fn border(&self) -> usize {
        self.border
    }

    /// Row `row` of a channel, counted from [`Self::border`] rows above the frame and beginning as many samples left of it.
    pub fn row(&self, channel: usize, row: usize) -> &[f32] {
        let start = row * self.stride + self.offset;
        &self.planes[channel].samples[start..(row + 1) * self.stride]
    }

    /// The light put away.
    pub fn keep(&self) -> KeptLight {
        let rows = |plane: &Plane| {
            let rows = plane.samples.chunks(self.stride);
            let light = rows.flat_map(|row| &row[self.offset..self.offset + self.width]);
            light
                .map(|light| (light * KEPT_PER_UNIT).clamp(0.0, f32::from(u16::MAX)).round() as u16)
                .collect()
        };
        let [red, green, blue] = &self.planes;
        KeptLight {
            planes: [rows(red), rows(green), rows(blue)],
            border: self.border,
            width: self.width,
        }
    }

    /// Becomes the weighted sum of kept light of one field.
    pub fn mix(&mut self, parts: &[(&KeptLight, f32)]) {
        let Some((first, _)) = parts.first() else { return };
        (self.border, self.width) = (first.border, first.width);
        (self.stride, self.offset) = (first.width, 0);
        self.planes
            .par_iter_mut()
            .enumerate()
            .for_each(|(channel, plane)| {
                plane.samples.clear();
                plane.samples.resize(first.planes[channel].len(), 0.0);
                for (kept, weight) in parts {
                    add_kept(&mut plane.samples, &kept.planes[channel], weight / KEPT_PER_UNIT);
                }
            });
    }
}

/// Adds `weight` times what was kept.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn add_kept(sum: &mut [f32], kept: &[u16], weight: f32) {
    for (sum, kept) in sum.iter_mut().zip(kept) {
        *sum += weight * f32::from(*kept);
    }
}

/// e^{2πi turns}.
fn turn(turns: f64) -> Complex32 {
    let (sin, cos) = (TAU * turns).sin_cos();
    Complex32::new(cos as f32, sin as f32)
}

fn sinc(x: f64) -> f64 {
    if x.abs() < 1e-9 { 1.0 } else { x.sin() / x }
}

/// 1, with a cosine fall to 0 over the first and the last samples.
fn seam(length: usize) -> Vec<f32> {
    let weight = |index: usize| {
        let from_end = index.min(length - 1 - index) as f64 / SEAM as f64;
        (0.5 - 0.5 * (PI * from_end.min(1.0)).cos()) as f32
    };
    (0..length).map(weight).collect()
}
