//! How far the picture moved from one frame to another, to a part of a pixel.
//!
//! Phase correlation (Kuglin and Hines, 1975) of reduced, windowed frames says where; what overlaps there is cut out of both and compared
//! pixel by pixel, so that no chance maximum counts; the slope of the phases of the overlaps says where between the pixels (Stone et al., IEEE
//! TGRS 39 (2001) 2235). Phases of frequencies that hold nothing but noise count little. What stays in place whatever the stage does (shading, and
//! dust that is brighter or darker than the specimen) says "not moved": divide by a flat field first.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex32;

use crate::frame::Frame;

/// Longest side of a reduced frame, pixels.
const LONGEST: usize = 512;
/// Least side of what overlaps, and its least part of a frame's side.
const LEAST_SIDE: usize = 48;
const LEAST_PART: f64 = 0.25;
/// Maxima of the correlation that are looked at, and how far they lie apart, pixels of the reduced frame.
const MAXIMA: usize = 4;
const APART: isize = 4;
/// Correlation of what overlaps from which on two frames show the same, and the part of it that another place may have.
const ALIKE: f64 = 0.4;
const UNIQUE: f64 = 0.85;
/// Lowest frequencies, cycles a frame: shading and the window.
const SLOW: f64 = 2.5;
/// Steps to the neighbour that fits better.
const CLIMBS: usize = 16;
/// Grey levels below which a frame shows nothing, standard deviation.
const LEAST_CONTRAST: f64 = 0.5;

/// A movement of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// How far what the first frame shows has gone in the second, camera pixels to the right and down.
    pub px: [f64; 2],
    /// Correlation of what overlaps, 0 to 1.
    pub likeness: f64,
}

/// Frames that do not tell a shift.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NoShift {
    /// Other sizes.
    #[error("the frames have different sizes, {0:?} and {1:?} pixels: take all with the same camera mode")]
    Sizes([usize; 2], [usize; 2]),
    /// Too small.
    #[error("a frame of {0}x{1} pixels is too small to tell how far the picture moved: use 192x192 or more")]
    Small(usize, usize),
    /// Nothing in it.
    #[error("a frame shows nothing that could move: focus on a place with specimen")]
    Empty,
    /// They show different things.
    #[error(
        "nothing in one frame is found in the other (what fits best is alike by {likeness:.2}, and {ALIKE} is needed): move the stage by less than \
         half a frame, and focus first"
    )]
    Unlike {
        /// Correlation where it is best.
        likeness: f64,
    },
    /// Several places fit.
    #[error(
        "the picture repeats itself and fits in several places, as a grid does: use a specimen without a pattern"
    )]
    Repeats,
}

/// How far the picture moved from `first` to `second`.
///
/// # Errors
/// If the frames cannot be compared, or show nothing in common.
pub fn shift(first: &Frame, second: &Frame) -> Result<Shift, NoShift> {
    let size = |frame: &Frame| [frame.width(), frame.height()];
    if size(first) != size(second) {
        return Err(NoShift::Sizes(size(first), size(second)));
    }
    let by = first.width().max(first.height()).div_ceil(LONGEST);
    let (first, second) = (Grey::of(first, by), Grey::of(second, by));
    let [width, height] = [first.width, first.height()];
    if width.min(height) < 4 * LEAST_SIDE {
        return Err(NoShift::Small(by * width, by * height));
    }
    if first.contrast().min(second.contrast()) < LEAST_CONTRAST {
        return Err(NoShift::Empty);
    }
    let mut planner = FftPlanner::new();
    let cross = cross_spectrum(&first, &second, &mut planner);
    let (whole, likeness) = whole_pixels(&first, &second, cross, &mut planner)?;
    let Some((first, second)) = overlap(&first, &second, whole) else {
        return Err(NoShift::Unlike { likeness });
    };
    let rest = rest(&first, &second, &mut planner);
    Ok(Shift {
        px: [0, 1].map(|axis| by as f64 * (whole[axis] as f64 + rest[axis])),
        likeness,
    })
}

/// Green, reduced by averaging.
struct Grey {
    width: usize,
    values: Vec<f32>,
}

impl Grey {
    fn of(frame: &Frame, by: usize) -> Self {
        let (width, height) = (frame.width() / by, frame.height() / by);
        let mut values = vec![0.0; width * height];
        let rows = frame.rgb().chunks_exact(3 * frame.width() * by);
        for (line, rows) in values.chunks_exact_mut(width).zip(rows) {
            for row in rows.chunks_exact(3 * frame.width()) {
                for (value, pixels) in line.iter_mut().zip(row.chunks_exact(3 * by)) {
                    *value += pixels
                        .iter()
                        .skip(1)
                        .step_by(3)
                        .map(|&green| f32::from(green))
                        .sum::<f32>();
                }
            }
        }
        let part = 1.0 / (by * by) as f32;
        values.iter_mut().for_each(|value| *value *= part);
        Self { width, values }
    }

    fn height(&self) -> usize {
        self.values.len() / self.width
    }

    fn mean(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value)).sum::<f64>() / self.values.len() as f64
    }

    /// Standard deviation.
    fn contrast(&self) -> f64 {
        let mean = self.mean();
        let squares = self.values.iter().map(|&value| (f64::from(value) - mean).powi(2));
        (squares.sum::<f64>() / self.values.len() as f64).sqrt()
    }

    /// A part of it.
    fn cut(&self, [left, top]: [usize; 2], [width, height]: [usize; 2]) -> Self {
        let rows = self.values.chunks_exact(self.width).skip(top).take(height);
        Self {
            width,
            values: rows.flat_map(|row| &row[left..left + width]).copied().collect(),
        }
    }

    /// Its spectrum under a Hann window.
    fn spectrum(&self, planner: &mut FftPlanner<f32>) -> Vec<Complex32> {
        let mean = self.mean() as f32;
        let window = |count: usize| -> Vec<f32> {
            let angle = |at: usize| std::f32::consts::TAU * (at as f32 + 0.5) / count as f32;
            (0..count).map(|at| 0.5 - 0.5 * angle(at).cos()).collect()
        };
        let (across, down) = (window(self.width), window(self.height()));
        let values = self.values.iter().enumerate().map(|(at, value)| {
            let weight = across[at % self.width] * down[at / self.width];
            Complex32::new(weight * (value - mean), 0.0)
        });
        transformed(values.collect(), self.width, planner)
    }
}

/// The transform in both directions; columns become rows.
fn transformed(mut values: Vec<Complex32>, width: usize, planner: &mut FftPlanner<f32>) -> Vec<Complex32> {
    let height = values.len() / width;
    planner.plan_fft_forward(width).process(&mut values);
    let mut turned = turned(&values, width);
    planner.plan_fft_forward(height).process(&mut turned);
    turned
}

fn turned(values: &[Complex32], width: usize) -> Vec<Complex32> {
    let height = values.len() / width;
    let columns = (0..width).flat_map(|x| (0..height).map(move |y| y * width + x));
    columns.map(|at| values[at]).collect()
}

/// Frequency of a place of a spectrum, cycles a frame.
fn cycles(at: usize, count: usize) -> f64 {
    if 2 * at < count {
        at as f64
    } else {
        at as f64 - count as f64
    }
}

/// Spectrum of the second times the conjugate of that of the first, without what is slow, and its magnitude nearly taken off: it grows with what
/// is there less than it, so that the noise of a blurred picture is not as good as the picture.
fn cross_spectrum(first: &Grey, second: &Grey, planner: &mut FftPlanner<f32>) -> Vec<Complex32> {
    let (width, height) = (first.width, first.height());
    let (a, b) = (first.spectrum(planner), second.spectrum(planner));
    let mut cross: Vec<Complex32> = a.iter().zip(&b).map(|(a, b)| a.conj() * b).collect();
    for (at, value) in cross.iter_mut().enumerate() {
        let (x, y) = (cycles(at / height, width), cycles(at % height, height));
        if x.hypot(y) < SLOW {
            *value = Complex32::default();
        }
    }
    let mean = cross.iter().map(|value| value.norm()).sum::<f32>() / cross.len() as f32;
    cross
        .iter_mut()
        .for_each(|value| *value /= value.norm() + mean + f32::MIN_POSITIVE);
    cross
}

/// The shift to the pixel of the reduced frames, and how alike what overlaps is.
fn whole_pixels(
    first: &Grey,
    second: &Grey,
    cross: Vec<Complex32>,
    planner: &mut FftPlanner<f32>,
) -> Result<([isize; 2], f64), NoShift> {
    let (width, height) = (first.width as isize, first.height() as isize);
    // The inverse is the forward transform of the conjugate; conjugated again it is real.
    let conjugated = turned(
        &cross.iter().map(Complex32::conj).collect::<Vec<_>>(),
        first.height(),
    );
    let correlation = turned(&transformed(conjugated, first.width, planner), first.height());
    let mut order: Vec<usize> = (0..correlation.len()).collect();
    let ahead = order.len().min(4096);
    order.select_nth_unstable_by(ahead - 1, |&one, &other| {
        correlation[other].re.total_cmp(&correlation[one].re)
    });
    order.truncate(ahead);
    order.sort_by(|&one, &other| correlation[other].re.total_cmp(&correlation[one].re));
    let mut maxima: Vec<[isize; 2]> = Vec::new();
    for at in order {
        let place = [at as isize % width, at as isize / width];
        let is_near = |other: &[isize; 2]| {
            let apart = |axis: usize, count: isize| {
                let way = (place[axis] - other[axis]).rem_euclid(count);
                way.min(count - way)
            };
            apart(0, width).max(apart(1, height)) < APART
        };
        if !maxima.iter().any(is_near) {
            maxima.push(place);
        }
        if maxima.len() == MAXIMA {
            break;
        }
    }
    // A place of the correlation is a shift to the one side or to the other.
    let both = |[x, y]: [isize; 2]| [[x, y], [x - width, y], [x, y - height], [x - width, y - height]];
    let mut rated: Vec<(f64, [isize; 2])> = maxima
        .into_iter()
        .flat_map(both)
        .filter_map(|whole| {
            let (one, other) = overlap(first, second, whole)?;
            Some((likeness(&one, &other), whole))
        })
        .collect();
    rated.sort_by(|one, other| other.0.total_cmp(&one.0));
    let (best, whole) = rated.first().copied().unwrap_or((0.0, [0; 2]));
    if best < ALIKE {
        return Err(NoShift::Unlike { likeness: best });
    }
    // Beside a broad maximum everything is alike; a pattern is not between two of its places.
    let is_another = |&(other, place): &(f64, [isize; 2])| {
        let between = [0, 1].map(|axis| (whole[axis] + place[axis]) / 2);
        let between = overlap(first, second, between).map(|(one, other)| likeness(&one, &other));
        other > UNIQUE * best && between.is_some_and(|between| between < UNIQUE * other)
    };
    if rated[1..].iter().any(is_another) {
        return Err(NoShift::Repeats);
    }
    Ok(climbed(first, second, whole, best))
}

/// The shift beside which none fits better, and how alike what overlaps is: the maximum of a damped correlation may lie beside it.
fn climbed(first: &Grey, second: &Grey, whole: [isize; 2], best: f64) -> ([isize; 2], f64) {
    let mut at = (whole, best);
    for _ in 0..CLIMBS {
        let neighbours =
            [[1, 0], [-1, 0], [0, 1], [0, -1]].map(|step: [isize; 2]| [at.0[0] + step[0], at.0[1] + step[1]]);
        let rated = neighbours.into_iter().filter_map(|place| {
            let (one, other) = overlap(first, second, place)?;
            Some((place, likeness(&one, &other)))
        });
        match rated.max_by(|one, other| one.1.total_cmp(&other.1)) {
            Some(next) if next.1 > at.1 => at = next,
            _ => break,
        }
    }
    at
}

/// What both frames show if the picture moved by `whole`: none if that is too little.
fn overlap(first: &Grey, second: &Grey, whole: [isize; 2]) -> Option<(Grey, Grey)> {
    let sides = [first.width, first.height()];
    let size = [0, 1].map(|axis| sides[axis].saturating_sub(whole[axis].unsigned_abs()));
    let is_enough =
        |axis: usize| size[axis] >= LEAST_SIDE && size[axis] as f64 >= LEAST_PART * sides[axis] as f64;
    if !(is_enough(0) && is_enough(1)) {
        return None;
    }
    let from = |sign: isize| whole.map(|way| (sign * way).max(0).unsigned_abs());
    Some((first.cut(from(-1), size), second.cut(from(1), size)))
}

/// Correlation of two parts of one size.
fn likeness(one: &Grey, other: &Grey) -> f64 {
    let (mean_one, mean_other) = (one.mean(), other.mean());
    let mut sums = [0.0; 3];
    for (&a, &b) in one.values.iter().zip(&other.values) {
        let (a, b) = (f64::from(a) - mean_one, f64::from(b) - mean_other);
        for (sum, product) in sums.iter_mut().zip([a * b, a * a, b * b]) {
            *sum += product;
        }
    }
    let [both, first, second] = sums;
    let scale = (first * second).sqrt();
    if scale > 0.0 { both / scale } else { 0.0 }
}

/// What is left of the shift between parts that overlap to the pixel: the slope of the phases over the frequencies below a quarter of the
/// sampling rate, where a pixel more or less is less than half a turn.
fn rest(first: &Grey, second: &Grey, planner: &mut FftPlanner<f32>) -> [f64; 2] {
    let (width, height) = (first.width, first.height());
    let cross = cross_spectrum(first, second, planner);
    let [mut xx, mut xy, mut yy, mut xp, mut yp] = [0.0; 5];
    for (at, value) in cross.iter().enumerate() {
        let (x, y) = (
            cycles(at / height, width) / width as f64,
            cycles(at % height, height) / height as f64,
        );
        if x.hypot(y) > 0.25 {
            continue;
        }
        // Squared: what is mostly noise has a long lever at high frequencies.
        let weight = f64::from(value.norm_sqr());
        // A picture that moves by d turns the phase of frequency f by -f d.
        let turns = -f64::from(value.arg()) / std::f64::consts::TAU;
        xx += weight * x * x;
        xy += weight * x * y;
        yy += weight * y * y;
        xp += weight * x * turns;
        yp += weight * y * turns;
    }
    let determinant = xx * yy - xy * xy;
    if determinant <= 0.0 {
        return [0.0; 2];
    }
    let rest = [
        (yy * xp - xy * yp) / determinant,
        (xx * yp - xy * xp) / determinant,
    ];
    rest.map(|way: f64| way.clamp(-1.0, 1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sim::microscope::{Microscope, MicroscopeConfig};
    use crate::units::Instant;

    const SIZE: [usize; 2] = [768, 512];

    struct Bench(Microscope, u64);

    impl Bench {
        fn new(seed: u64) -> Self {
            let config = MicroscopeConfig {
                slide_seed: seed,
                width: SIZE[0],
                height: SIZE[1],
                ..MicroscopeConfig::default()
            };
            Self(Microscope::new(config).unwrap(), 0)
        }

        /// The frame whose middle lies there on the slide, in its pixels.
        fn frame(&mut self, [x_px, y_px]: [f64; 2], defocus_um: f64) -> Frame {
            let pixel_um = self.0.config().objective.object_pixel_um();
            self.1 += 1;
            let rgb = self
                .0
                .expose_defocused(x_px * pixel_um, y_px * pixel_um, defocus_um, self.1);
            Frame::new(SIZE[0], SIZE[1], rgb.unwrap(), Instant::default(), self.1).unwrap()
        }
    }

    #[test]
    fn the_way_of_the_picture_is_found_to_a_part_of_a_pixel() {
        let mut bench = Bench::new(3);
        for (way_px, defocus_um) in [
            ([0.0, 0.0], 0.0),
            ([3.3, -1.6], 0.0),
            ([250.4, -120.7], 0.5),
            ([-310.0, 95.2], -3.0),
            ([80.25, 200.5], 8.0),
        ] {
            let (first, second) = (bench.frame([0.0; 2], defocus_um), bench.frame(way_px, defocus_um));
            let found = shift(&first, &second).unwrap();
            // The view goes one way, what it shows the other.
            for axis in [0, 1] {
                assert!(
                    (found.px[axis] + way_px[axis]).abs() < 0.15,
                    "{way_px:?} at {defocus_um}: {found:?}"
                );
            }
            assert!(found.likeness > 0.8, "{found:?}");
        }
    }

    #[test]
    fn frames_with_nothing_in_common_are_refused() {
        let mut bench = Bench::new(3);
        let here = bench.frame([0.0; 2], 0.0);
        for way_px in [[2000.0, 500.0], [-3000.0, 0.0], [0.0, 5000.0]] {
            let far = bench.frame(way_px, 0.0);
            let found = shift(&here, &far);
            assert!(
                matches!(found, Err(NoShift::Unlike { .. })),
                "{way_px:?}: {found:?}"
            );
        }
        let plain = |width: usize, value: u8| {
            Frame::new(width, 512, vec![value; 3 * width * 512], Instant::default(), 0).unwrap()
        };
        assert_eq!(shift(&here, &plain(768, 90)), Err(NoShift::Empty));
        assert!(matches!(shift(&here, &plain(512, 90)), Err(NoShift::Sizes(..))));
        let small = Frame::new(64, 64, vec![9; 3 * 64 * 64], Instant::default(), 0).unwrap();
        assert_eq!(shift(&small, &small), Err(NoShift::Small(64, 64)));
    }

    #[test]
    fn a_grid_fits_in_several_places() {
        let grid = |by: usize| {
            let pixel = |at: usize| {
                if ((at % 768 + by) / 8).is_multiple_of(4) || (at / 768 / 8).is_multiple_of(4) {
                    60
                } else {
                    200
                }
            };
            let rgb = (0..768 * 512).flat_map(|at| [pixel(at); 3]).collect();
            Frame::new(768, 512, rgb, Instant::default(), 0).unwrap()
        };
        assert_eq!(shift(&grid(0), &grid(5)), Err(NoShift::Repeats));
    }
}
