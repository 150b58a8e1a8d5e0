//! Light half way between samples, as exact as the light on them.
//!
//! Every second pixel lies on a sample and shows it unchanged. A pixel between two samples has to be interpolated, and
//! an interpolation that weakens fine detail would leave every second pixel a little dull: a pattern that is no picture.
//! So the weights are made for the band that the optics pass: the gain, H(f) = 2 Σ w_k cos(2πf(k - ½)) with f in cycles per
//! sample, is cos πf times a polynomial in cos 2πf, and the polynomial is the Chebyshev series of 1 / cos πf over the band,
//! with as many terms as the tolerance asks for.

use std::f64::consts::{PI, TAU};

/// Widest band that is interpolated, cycles per sample; at one half the weights would go on for ever.
pub(super) const WIDEST_BAND: f64 = 0.478;
/// How far the gain may be from 1 within the band.
const TOLERANCE: f64 = 0.003;
/// Most weights on one side; enough for [`WIDEST_BAND`].
const MOST_WEIGHTS: usize = 48;

/// Weights of the samples on both sides of a place half way between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Halfway {
    /// From the nearest sample outwards, the same on both sides.
    weights: Vec<f32>,
}

impl Halfway {
    /// The shortest weights whose gain is 1 to 0.3 % for every frequency up to `band` cycles per sample, less than one half.
    pub fn up_to(band: f64) -> Self {
        let band = band.clamp(0.05, WIDEST_BAND);
        let fits = |count: &usize| worst_gain_error(&weights(*count, band), band) < TOLERANCE;
        let count = (1..MOST_WEIGHTS).find(fits).unwrap_or(MOST_WEIGHTS);
        Self {
            weights: weights(count, band).into_iter().map(|w| w as f32).collect(),
        }
    }

    /// Weights of the samples on one side, nearest first; they and their mirror image add up to 1.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Samples needed on each side.
    pub fn reach(&self) -> usize {
        self.weights.len()
    }
}

/// `count` weights for a band.
fn weights(count: usize, band: f64) -> Vec<f64> {
    let series = series(count, band);
    let lowest = (TAU * band).cos();
    let gain = |f: f64| {
        let place = 2.0 * ((TAU * f).cos() - lowest) / (1.0 - lowest) - 1.0;
        (PI * f).cos() * chebyshev_sum(&series, place)
    };
    // The gain is a sum of `count` cosines, which a sum over twice as many frequencies takes apart exactly.
    let points = 2 * count;
    let weight = |k: usize| {
        let part = |point: usize| {
            let f = (point as f64 + 0.5) / (2 * points) as f64;
            gain(f) * (TAU * f * (k as f64 + 0.5)).cos()
        };
        (0..points).map(part).sum::<f64>() / points as f64
    };
    let weights: Vec<f64> = (0..count).map(weight).collect();
    // Clear glass stays clear to the last digit.
    let sum = 2.0 * weights.iter().sum::<f64>();
    weights.into_iter().map(|w| w / sum).collect()
}

/// First terms of the Chebyshev series of 1 / cos πf over the cosines of the band.
fn series(count: usize, band: f64) -> Vec<f64> {
    const NODES: usize = 256;
    let lowest = (TAU * band).cos();
    let angle = |node: usize| PI * (node as f64 + 0.5) / NODES as f64;
    let value = |node: usize| {
        let cosine = lowest + (1.0 - lowest) * 0.5 * (angle(node).cos() + 1.0);
        (2.0 / (1.0 + cosine)).sqrt()
    };
    let term = |order: usize| {
        let sum: f64 = (0..NODES)
            .map(|node| value(node) * (order as f64 * angle(node)).cos())
            .sum();
        sum * if order == 0 { 1.0 } else { 2.0 } / NODES as f64
    };
    (0..count).map(term).collect()
}

/// Sum of a Chebyshev series at `x`, which may lie outside -1 to 1 (Clenshaw's recurrence).
fn chebyshev_sum(series: &[f64], x: f64) -> f64 {
    let (mut later, mut last) = (0.0, 0.0);
    for term in series.iter().skip(1).rev() {
        (later, last) = (2.0 * x * later - last + term, later);
    }
    series.first().copied().unwrap_or(0.0) + x * later - last
}

fn worst_gain_error(weights: &[f64], band: f64) -> f64 {
    const STEPS: usize = 400;
    (0..=STEPS)
        .map(|step| (gain_at(weights, band * step as f64 / STEPS as f64) - 1.0).abs())
        .fold(0.0, f64::max)
}

fn gain_at(weights: &[f64], f: f64) -> f64 {
    let parts = weights.iter().enumerate();
    2.0 * parts
        .map(|(k, weight)| weight * (TAU * f * (k as f64 + 0.5)).cos())
        .sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::{Objective, WAVELENGTHS_UM};

    #[test]
    fn the_gain_is_one_up_to_the_band_and_none_at_the_end() {
        for band in [0.33, 0.385, 0.415, 0.46, WIDEST_BAND] {
            let halfway = Halfway::up_to(band);
            let weights: Vec<f64> = halfway.weights().iter().map(|w| f64::from(*w)).collect();
            let worst = worst_gain_error(&weights, band);
            assert!(worst < 0.004, "{band}: {worst}");
            assert!(gain_at(&weights, 0.5).abs() < 1e-5);
            assert!(
                halfway.reach() < MOST_WEIGHTS,
                "{band}: {} weights",
                halfway.reach()
            );
        }
    }

    #[test]
    fn every_objective_keeps_all_it_passes() {
        for objective in Objective::catalogue() {
            let step_um = 2.0 * objective.object_pixel_um();
            let cutoffs = WAVELENGTHS_UM.map(|um| (objective.na + objective.condenser_na) / um * step_um);
            let widest = cutoffs.into_iter().fold(0.0, f64::max);
            let halfway = Halfway::up_to(widest);
            let weights: Vec<f64> = halfway.weights().iter().map(|w| f64::from(*w)).collect();
            for cutoff in cutoffs {
                // Beyond the widest band, which the 10x alone exceeds in green and blue, the optics are cut.
                let gain = gain_at(&weights, cutoff.min(WIDEST_BAND));
                assert!(
                    (gain - 1.0).abs() < 0.005,
                    "{} at {cutoff}: {gain}",
                    objective.name
                );
            }
        }
    }

    #[test]
    fn narrow_bands_need_few_weights() {
        for (band, expected) in [(0.33, 6), (0.385, 8), (0.415, 11)] {
            assert_eq!(Halfway::up_to(band).reach(), expected, "{band}");
        }
    }
}
