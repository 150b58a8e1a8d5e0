//! How much of each spatial frequency of absorption and of phase reaches the camera, at one defocus and one colour.
//!
//! Partially coherent bright field of a weak object (Hopkins; Streibl 1985; Hamilton, Sheppard and Wilson 1984). A
//! source point ρ inside the condenser's aperture lights the object; what the object scatters by f passes the pupil at
//! ρ + f and beats with the unscattered light that passed at ρ:
//!
//! C(f) = Σ P*(ρ) P(ρ + f) / Σ |P(ρ)|²,
//!
//! summed over the source disc. Absorption is transferred by Re C, phase by -2 Im C. The pupil is a disc of radius NA/λ
//! with the phase of free propagation over the defocus, (2π/λ) z √(1 - λ²ρ²), and of primary spherical aberration.
//!
//! Everything is radially symmetric, so C is tabulated over |f|. The two integrals over the source are Gauss-Legendre
//! sums whose order follows the number of turns the phase makes. Far from focus C falls like (NAc z f)^-3/2; below
//! about 0.001 it is tapered to zero.

use std::f64::consts::{PI, TAU};

/// Argument of the envelope 2 J1(x)/x, x = 2π·NAc·z·f, at which the tail is cut.
const TAIL: f64 = 140.0;
/// Part of the band below the cut over which the tail is tapered.
const TAPER: f64 = 0.2;
/// Fewest table entries, enough for the curved fall of an in-focus transfer function.
const FEWEST_ENTRIES: usize = 512;
/// Largest step of the table in turns of C's phase.
const STEP_TURNS: f64 = 0.03;
/// Wavelength in which spherical aberration is stated, µm.
const REFERENCE_WAVELENGTH_UM: f64 = 0.55;

/// The pupil and the source of one colour channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pupil {
    /// Numerical aperture of the objective.
    pub na: f64,
    /// Numerical aperture of the condenser, less than `na`.
    pub condenser_na: f64,
    /// Wavelength, µm.
    pub wavelength_um: f64,
    /// Primary spherical aberration at the pupil's edge, waves at 0.55 µm, balanced by defocus so that z = 0 stays best.
    pub spherical_waves: f64,
}

/// The transfer of absorption and phase over spatial frequency.
#[derive(Clone, Debug)]
pub struct Transfer {
    entries_per_frequency: f64,
    /// (absorption, phase) at equal steps of frequency from 0, ending in zeros.
    entries: Vec<[f32; 2]>,
}

impl Transfer {
    /// Transfer of absorption (1 at f = 0) and of phase (0 there) at a frequency in cycles per µm.
    pub fn at(&self, frequency_per_um: f32) -> [f32; 2] {
        let place = frequency_per_um * self.entries_per_frequency as f32;
        let index = (place as usize).min(self.entries.len() - 2);
        let part = (place - index as f32).min(1.0);
        let ([a0, p0], [a1, p1]) = (self.entries[index], self.entries[index + 1]);
        [a0 + part * (a1 - a0), p0 + part * (p1 - p0)]
    }

    /// The mean of several transfer functions; `None` of none.
    pub fn mean(several: &[Self]) -> Option<Self> {
        let widest = several.iter().map(Self::cutoff_per_um).fold(0.0, f64::max);
        let finest = several
            .iter()
            .map(|each| each.entries_per_frequency)
            .fold(0.0, f64::max);
        let steps = (widest * finest).ceil() as usize;
        if steps == 0 {
            return None;
        }
        let entries_per_frequency = steps as f64 / widest;
        let entry = |step: usize| {
            let frequency = (step as f64 / entries_per_frequency) as f32;
            several
                .iter()
                .map(|each| each.at(frequency))
                .fold([0.0; 2], |sum, [absorption, phase]| {
                    let share = 1.0 / several.len() as f32;
                    [sum[0] + share * absorption, sum[1] + share * phase]
                })
        };
        Some(Self {
            entries_per_frequency,
            entries: (0..=steps).map(entry).collect(),
        })
    }

    /// Frequency from which nothing is transferred, cycles per µm.
    pub fn cutoff_per_um(&self) -> f64 {
        (self.entries.len() - 1) as f64 / self.entries_per_frequency
    }
}

impl Pupil {
    /// Frequency beyond which nothing passes at any defocus, cycles per µm.
    pub fn cutoff_per_um(&self) -> f64 {
        (self.na + self.condenser_na) / self.wavelength_um
    }

    /// Phase in turns at the squared frequency ρ², cycles² per µm², with the object `defocus_um` below the plane in focus:
    /// free propagation, and spherical aberration with the defocus that balances it.
    pub fn turns(&self, defocus_um: f64, square: f64) -> f64 {
        let Self {
            na,
            wavelength_um,
            spherical_waves,
            ..
        } = *self;
        let sine_square = wavelength_um * wavelength_um * square;
        let propagation = defocus_um / wavelength_um * (1.0 - sine_square).max(0.0).sqrt();
        let edge = sine_square / (na * na);
        propagation + spherical_waves * (REFERENCE_WAVELENGTH_UM / wavelength_um) * edge * (edge - 1.0)
    }

    /// The transfer functions with the object `defocus_um` below the plane in focus.
    pub fn transfer(&self, defocus_um: f64, rules: &GaussRules) -> Transfer {
        let tail = TAIL / (TAU * self.condenser_na * defocus_um.abs()).max(1e-9);
        let cutoff = self.cutoff_per_um().min(tail);
        let turns_per_frequency =
            self.wavelength_um * defocus_um.abs() * cutoff + self.condenser_na * defocus_um.abs();
        let steps = (cutoff * turns_per_frequency / STEP_TURNS).ceil() as usize;
        let steps = steps.max(FEWEST_ENTRIES);
        let source = Source {
            pupil: self,
            defocus_um,
            rules,
        };
        let mut entries: Vec<[f32; 2]> = (0..=steps)
            .map(|step| {
                let frequency = cutoff * step as f64 / steps as f64;
                let fade = if tail > self.cutoff_per_um() {
                    1.0
                } else {
                    taper(frequency / cutoff)
                };
                let (real, imaginary) = source.correlation(frequency);
                [(fade * real) as f32, (-2.0 * fade * imaginary) as f32]
            })
            .collect();
        entries[steps] = [0.0; 2];
        Transfer {
            entries_per_frequency: steps as f64 / cutoff,
            entries,
        }
    }
}

/// 1 until the last part of the band, then a cosine down to 0.
fn taper(part: f64) -> f64 {
    let into = ((part - (1.0 - TAPER)) / TAPER).max(0.0);
    0.5 + 0.5 * (PI * into.min(1.0)).cos()
}

struct Source<'a> {
    pupil: &'a Pupil,
    defocus_um: f64,
    rules: &'a GaussRules,
}

impl Source<'_> {
    /// C(f), real and imaginary, for `frequency` along the x axis.
    fn correlation(&self, frequency: f64) -> (f64, f64) {
        let source = self.pupil.condenser_na / self.pupil.wavelength_um;
        let pupil = self.pupil.na / self.pupil.wavelength_um;
        if frequency >= pupil + source {
            return (0.0, 0.0);
        }
        let source_chord = |x: f64| (source * source - x * x).max(0.0).sqrt();
        let pupil_chord = |x: f64| (pupil * pupil - (x + frequency).powi(2)).max(0.0).sqrt();
        let (left, right) = if frequency + source <= pupil {
            (
                self.piece(frequency, -source, 0.0, source_chord),
                self.piece(frequency, source, 0.0, source_chord),
            )
        } else {
            let crossing = (pupil * pupil - source * source - frequency * frequency) / (2.0 * frequency);
            (
                self.piece(frequency, -source, crossing, source_chord),
                self.piece(frequency, pupil - frequency, crossing, pupil_chord),
            )
        };
        let area = PI * source * source;
        ((left.0 + right.0) / area, (left.1 + right.1) / area)
    }

    /// The integral between the rim of the overlap at `rim` and the chord at `inner`. Substituting x = rim + (inner -
    /// rim) t² removes the square root with which chords open at the rim.
    fn piece(&self, frequency: f64, rim: f64, inner: f64, chord: impl Fn(f64) -> f64) -> (f64, f64) {
        let turns = (self.turns(frequency, rim, 0.0) - self.turns(frequency, inner, 0.0)).abs();
        let mut sum = (0.0, 0.0);
        for &(node, weight) in self.rules.at_least(12.0 + 1.1 * PI * turns) {
            let t = 0.5 + 0.5 * node;
            let x = rim + (inner - rim) * t * t;
            let half_chord = chord(x);
            let (real, imaginary) = self.chord(frequency, x, half_chord);
            let dx = weight * t * (inner - rim).abs() * 2.0 * half_chord;
            sum.0 += dx * real;
            sum.1 += dx * imaginary;
        }
        sum
    }

    /// Mean of the phasor over the chord -half..half at `x`. Along a chord the phase depends on y² alone and is almost
    /// linear in it, so three points give the parabola it follows.
    fn chord(&self, frequency: f64, x: f64, half: f64) -> (f64, f64) {
        let square = half * half;
        let start = self.turns(frequency, x, 0.0);
        let middle = self.turns(frequency, x, 0.5 * square) - start;
        let end = self.turns(frequency, x, square) - start;
        let (linear, quadratic) = (4.0 * middle - end, 2.0 * end - 4.0 * middle);
        let mut sum = (0.0, 0.0);
        for &(node, weight) in self.rules.at_least(4.0 + 1.1 * PI * end.abs()) {
            let y = 0.5 + 0.5 * node;
            let part = y * y;
            let (sin, cos) = sin_cos_turns(start + part * (linear + part * quadratic));
            sum.0 += 0.5 * weight * cos;
            sum.1 += 0.5 * weight * sin;
        }
        sum
    }

    /// Phase of P*(ρ) P(ρ + f) in turns, at ρ = (x, y).
    fn turns(&self, frequency: f64, x: f64, y_square: f64) -> f64 {
        let direct = x * x + y_square;
        let scattered = (x + frequency) * (x + frequency) + y_square;
        self.pupil.turns(self.defocus_um, scattered) - self.pupil.turns(self.defocus_um, direct)
    }
}

/// Sine and cosine of an angle in turns, to 1e-6, exactly odd and even.
fn sin_cos_turns(turns: f64) -> (f64, f64) {
    // Adding and subtracting 1.5 * 2^52 rounds to the nearest integer.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let half = PI * (turns - ((turns + ROUND) - ROUND));
    let square = half * half;
    let sin = half
        * (1.0
            + square
                * (-1.0 / 6.0
                    + square
                        * (1.0 / 120.0
                            + square
                                * (-1.0 / 5040.0 + square * (1.0 / 362_880.0 - square / 39_916_800.0)))));
    let cos = 1.0
        + square
            * (-0.5
                + square
                    * (1.0 / 24.0
                        + square
                            * (-1.0 / 720.0
                                + square
                                    * (1.0 / 40_320.0
                                        + square * (-1.0 / 3_628_800.0 + square / 479_001_600.0)))));
    (2.0 * sin * cos, 1.0 - 2.0 * sin * sin)
}

/// Gauss-Legendre rules of rising order.
#[derive(Clone, Debug)]
pub struct GaussRules {
    rules: Vec<Vec<(f64, f64)>>,
}

impl GaussRules {
    /// Orders 4 to 512.
    pub fn new() -> Self {
        const ORDERS: [usize; 18] = [
            4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512,
        ];
        Self {
            rules: ORDERS.into_iter().map(gauss_legendre).collect(),
        }
    }

    /// Nodes in -1..1 and weights of the smallest rule with at least `order` nodes, or of the largest.
    fn at_least(&self, order: f64) -> &[(f64, f64)] {
        let found = self.rules.iter().find(|rule| rule.len() as f64 >= order);
        found.or(self.rules.last()).map_or(&[], Vec::as_slice)
    }
}

impl Default for GaussRules {
    fn default() -> Self {
        Self::new()
    }
}

/// Nodes and weights by Newton's method on the Legendre polynomial.
fn gauss_legendre(order: usize) -> Vec<(f64, f64)> {
    let n = order as f64;
    let root = |index: usize| {
        let mut x = (PI * (index as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..8 {
            let (mut before, mut value) = (1.0, x);
            for degree in 2..=order {
                let d = degree as f64;
                (before, value) = (value, ((2.0 * d - 1.0) * x * value - (d - 1.0) * before) / d);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            x -= value / slope;
        }
        (x, 2.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..order).map(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUPIL: Pupil = Pupil {
        na: 0.65,
        condenser_na: 0.4,
        wavelength_um: 0.54,
        spherical_waves: 0.0,
    };

    /// The same sum over a dense square grid of source points.
    fn brute_force(pupil: &Pupil, defocus_um: f64, frequency: f64, points: i32) -> (f64, f64) {
        let rules = GaussRules::new();
        let source = Source {
            pupil,
            defocus_um,
            rules: &rules,
        };
        let (a, r) = (
            pupil.condenser_na / pupil.wavelength_um,
            pupil.na / pupil.wavelength_um,
        );
        let (mut real, mut imaginary, mut count) = (0.0, 0.0, 0.0);
        for row in 0..points {
            for column in 0..points {
                let place = |index: i32| a * (2.0 * (f64::from(index) + 0.5) / f64::from(points) - 1.0);
                let (x, y) = (place(column), place(row));
                if x * x + y * y > a * a {
                    continue;
                }
                count += 1.0;
                if (x + frequency).powi(2) + y * y <= r * r {
                    let (sin, cos) = (TAU * source.turns(frequency, x, y * y)).sin_cos();
                    real += cos;
                    imaginary += sin;
                }
            }
        }
        (real / count, imaginary / count)
    }

    #[test]
    fn agrees_with_a_dense_sum_over_source_points() {
        let aberrated = Pupil {
            spherical_waves: 0.3,
            ..PUPIL
        };
        for (pupil, z_um) in [
            (PUPIL, 0.0),
            (PUPIL, 1.3),
            (PUPIL, -7.0),
            (PUPIL, 60.0),
            (aberrated, 2.0),
        ] {
            let table = pupil.transfer(z_um, &GaussRules::new());
            for frequency in [
                0.0_f64, 0.01, 0.05, 0.13, 0.3, 0.46, 0.47, 0.7, 0.9, 1.2, 1.5, 1.9, 2.0,
            ] {
                let (real, imaginary) = brute_force(&pupil, z_um, frequency, 1200);
                let [absorption, phase] = table.at(frequency as f32);
                let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 3e-3;
                assert!(
                    near(absorption, real) && near(phase, -2.0 * imaginary),
                    "z {z_um}, f {frequency}: ({absorption}, {phase}) against ({real}, {})",
                    -2.0 * imaginary
                );
            }
        }
    }

    #[test]
    fn small_defocus_follows_the_weak_phase_formula() {
        // A nearly coherent source: absorption goes as cos, phase as 2 sin of πλzf².
        let pupil = Pupil {
            condenser_na: 0.01,
            ..PUPIL
        };
        let transfer = pupil.transfer(3.0, &GaussRules::new());
        let [absorption, phase] = transfer.at(0.4);
        let angle = PI * 0.54 * 3.0 * 0.16;
        assert!((f64::from(absorption) - angle.cos()).abs() < 0.02);
        assert!((f64::from(phase) - 2.0 * angle.sin()).abs() < 0.04);
    }

    #[test]
    fn absorption_is_even_and_phase_odd_in_defocus() {
        let rules = GaussRules::new();
        for z_um in [0.7, 5.2, 33.0] {
            let (far, close) = (PUPIL.transfer(z_um, &rules), PUPIL.transfer(-z_um, &rules));
            for step in 0..200 {
                let ([a, p], [b, q]) = (far.at(0.01 * step as f32), close.at(0.01 * step as f32));
                assert!(a == b && p == -q, "{z_um}: {a} {b} {p} {q}");
            }
        }
    }
}
