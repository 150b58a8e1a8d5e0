//! A flat field from frames of several places.
//!
//! Each frame is first made as bright as the others, by the middle half of its values. Then each pixel, by itself, is given the mean of the
//! middle third of what it showed: a median with less rounding. What stays in place is in all frames; a specimen that is far out of
//! focus and elsewhere in each of them is not, and the median leaves it out.
//!
//! Frames of one place, or with too much of the specimen in them, make no flat field. Two things tell: how much the frames differ from each
//! other, and whether the two halves of them, each for itself, make the same flat field.

use std::borrow::Borrow;

use rayon::prelude::*;

use super::{BadLight, FlatField, STEPS};
use crate::frame::Frame;
use crate::statistics::{median, quantile, sorted};

/// Fewest frames.
pub const LEAST_FRAMES: usize = 5;
/// Most frames: ten times as many places gain nothing that can be seen, and 64 of 2048x1536 pixels take 600 MB.
pub const MOST_FRAMES: usize = 64;

/// Level of a channel below which a frame holds too little light to divide by, grey levels.
const LEAST_LEVEL: f64 = 40.0;
/// Level of a channel above which clear glass is clipped somewhere, grey levels.
const MOST_LEVEL: f64 = 245.0;
/// Value from which a pixel may be clipped.
const CLIPPED: u8 = 254;
/// Brightness of a frame relative to the middle one of all: lamp or exposure changed, or the specimen is as dense as that.
const SAME_LEVEL: std::ops::RangeInclusive<f64> = 0.75..=1.33;
/// Side of the blocks whose means are compared, pixels.
const BLOCK: usize = 16;
/// Side of the blocks around a pixel that never changes, pixels; and how far from their median it has to be to be blind, of that.
const AROUND: usize = 64;
const STANDS_OUT: f64 = 0.05;
/// Frames that differ by less are alike, relative, root mean square; the noise of a camera makes a tenth of that, a specimen far out of
/// focus ten times.
const ALIKE: f64 = 0.003;
/// Colour that changes by more in half of a frame, relative, is that of a specimen: lamp and lens change it slowly, and dust is in few blocks.
const COLOURED: f64 = 0.002;
/// Distance over which colour is compared, blocks: less than that over which a lamp's colour changes.
const COLOUR_REACH: usize = 8;
/// Largest part by which the flat fields of the two halves may differ, root mean square.
pub const MOST_LEFT_OVER: f64 = 0.02;

/// What frames had to say beside the flat field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// How many there were.
    pub frames: usize,
    /// Light lost where it is darkest, of what it is where it is brightest, over all blocks of 16x16 pixels but a hundredth at either end, 0 to 1.
    pub falloff: f64,
    /// How much the frames differ from one another, relative, root mean square over blocks: what was seen of the specimen, and its noise.
    pub difference: f64,
    /// How much the flat fields of every second frame and of the rest differ from their mean, relative, root mean square over blocks: more than the
    /// specimen leaves in the flat field of all.
    pub left_over: f64,
}

/// The flat field of these frames, and how good it is.
///
/// # Errors
/// If they are too few, of different sizes or exposures, without light or clipped, or if the specimen is still in them.
pub fn flat_field(frames: &[impl Borrow<Frame>]) -> Result<(FlatField, Quality), FlatFieldError> {
    let frames: Vec<&Frame> = frames.iter().map(Borrow::borrow).collect();
    check_set(&frames)?;
    let levels: Vec<_> = frames.iter().copied().map(levels).collect();
    check_levels(&levels)?;
    let level = std::array::from_fn(|channel| middle_of(levels.iter().map(|level| level[channel])));
    let quality = quality(&frames, &levels)?;
    let mut light = middle_light(&frames, &levels, level);
    blind_the_stuck(&frames, &mut light);
    let (width, height) = (frames[0].width(), frames[0].height());
    Ok((FlatField::new(width, height, light)?, quality))
}

fn check_set(frames: &[&Frame]) -> Result<(), FlatFieldError> {
    let count = frames.len();
    if !(LEAST_FRAMES..=MOST_FRAMES).contains(&count) {
        return Err(FlatFieldError::Count { count });
    }
    let (width, height) = (frames[0].width(), frames[0].height());
    for (at, frame) in frames.iter().enumerate() {
        if (frame.width(), frame.height()) != (width, height) {
            return Err(FlatFieldError::Size {
                frame: at + 1,
                size: (frame.width(), frame.height()),
                first: (width, height),
            });
        }
        if let Some(same) = frames[..at]
            .iter()
            .position(|other| other.shows_the_same_as(frame))
        {
            return Err(FlatFieldError::Identical {
                frames: (same + 1, at + 1),
            });
        }
    }
    Ok(())
}

/// Mean of the middle half of the values of R, G and B.
fn levels(frame: &Frame) -> [f64; 3] {
    let mut counts = [[0_u64; 256]; 3];
    for pixel in frame.rgb().chunks_exact(3) {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    counts.map(|counts| {
        let all: u64 = counts.iter().sum();
        let (low, high) = (all / 4, all - all / 4);
        let (mut below, mut sum) = (0, 0);
        for (value, count) in (0..).zip(counts) {
            let inside = (below + count).min(high).saturating_sub(below.max(low));
            sum += value * inside;
            below += count;
        }
        sum as f64 / (high - low).max(1) as f64
    })
}

fn check_levels(levels: &[[f64; 3]]) -> Result<(), FlatFieldError> {
    let brightness = |level: &[f64; 3]| level.iter().sum::<f64>();
    let usual = middle_of(levels.iter().map(brightness));
    for (frame, level) in (1..).zip(levels) {
        let (least, most) = (
            level.iter().copied().fold(f64::MAX, f64::min),
            level.iter().copied().fold(0.0, f64::max),
        );
        let ratio = brightness(level) / usual.max(1.0);
        if least < LEAST_LEVEL {
            return Err(FlatFieldError::Dark { frame, level: least });
        } else if most > MOST_LEVEL {
            return Err(FlatFieldError::Clipped { frame, level: most });
        } else if !SAME_LEVEL.contains(&ratio) {
            return Err(FlatFieldError::Exposure { frame, ratio });
        }
    }
    Ok(())
}

/// Mean of the middle third of the values: of three the median, of many nearly the median, with less rounding.
fn middle_third<T: Copy + PartialOrd>(values: &mut [T], mean: impl Fn(&[T]) -> T) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let outer = values.len() / 3;
    mean(&values[outer..values.len() - outer])
}

fn middle_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    middle_third(&mut values, |middle| {
        middle.iter().sum::<f64>() / middle.len() as f64
    })
}

/// For each value its middle over the frames, each made as bright as `level`, in [`STEPS`] of a grey level.
fn middle_light(frames: &[&Frame], levels: &[[f64; 3]], level: [f64; 3]) -> Vec<u16> {
    let factors: Vec<[f64; 3]> = levels
        .iter()
        .map(|of| std::array::from_fn(|channel| level[channel] / of[channel] * f64::from(STEPS)))
        .collect();
    let row = 3 * frames[0].width();
    let mut light = vec![0; frames[0].rgb().len()];
    light.par_chunks_mut(row).enumerate().for_each(|(y, line)| {
        let rows: Vec<&[u8]> = frames
            .iter()
            .map(|frame| &frame.rgb()[y * row..][..row])
            .collect();
        let mut seen = vec![0_u32; frames.len()];
        for (at, to) in line.iter_mut().enumerate() {
            for ((seen, row), factors) in seen.iter_mut().zip(&rows).zip(&factors) {
                *seen = (f64::from(row[at]) * factors[at % 3] + 0.5) as u32;
            }
            let middle = middle_third(&mut seen, |middle| {
                let count = middle.len() as u32;
                (middle.iter().sum::<u32>() + count / 2) / count
            });
            *to = middle.min(u32::from(u16::MAX)) as u16;
        }
    });
    light
}

/// Makes those pixels blind that show the same in every frame although their surroundings are brighter or darker, and those that are clipped
/// in most: text in the image, opaque specks, broken pixels. The noise of a camera lets no pixel that sees show the same every time; where it
/// has none, whole areas do, and do not stand out.
fn blind_the_stuck(frames: &[&Frame], light: &mut [u16]) {
    let (width, height) = (frames[0].width(), frames[0].height());
    let is_stuck = |pixel: usize| {
        let of =
            |frame: &Frame| -> [u8; 3] { std::array::from_fn(|channel| frame.rgb()[3 * pixel + channel]) };
        let first = of(frames[0]);
        frames.iter().all(|frame| of(frame) == first)
    };
    let is_clipped = |pixel: usize| {
        let clipped = frames.iter().filter(|frame| {
            frame.rgb()[3 * pixel..][..3]
                .iter()
                .any(|&value| value >= CLIPPED)
        });
        2 * clipped.count() > frames.len()
    };
    let band = 3 * width * AROUND;
    light.par_chunks_mut(band).enumerate().for_each(|(band, rows)| {
        let top = band * AROUND;
        for left in (0..width).step_by(AROUND) {
            let columns = left..(left + AROUND).min(width);
            let places =
                || (0..AROUND.min(height - top)).flat_map(|y| columns.clone().map(move |x| y * width + x));
            let mut greens: Vec<u16> = places().map(|at| rows[3 * at + 1]).collect();
            let half = greens.len() / 2;
            let around = f64::from(*greens.select_nth_unstable(half).1);
            for at in places() {
                let pixel = top * width + at;
                let stands_out = (f64::from(rows[3 * at + 1]) / around.max(1.0) - 1.0).abs() > STANDS_OUT;
                if (stands_out && is_stuck(pixel)) || is_clipped(pixel) {
                    rows[3 * at..][..3].fill(0);
                }
            }
        }
    });
}

/// What the means of blocks say.
fn quality(frames: &[&Frame], levels: &[[f64; 3]]) -> Result<Quality, FlatFieldError> {
    let blocks: Vec<Vec<f64>> = frames
        .par_iter()
        .zip(levels)
        .map(|(frame, level)| block_means(frame, *level))
        .collect();
    let every: Vec<&[f64]> = blocks.iter().map(Vec::as_slice).collect();
    let middle = middle_blocks(&every);
    let [even, odd] =
        [0, 1].map(|first| middle_blocks(&every.iter().skip(first).step_by(2).copied().collect::<Vec<_>>()));
    // Where a pixel sees next to nothing, so does its block.
    let seen = |at: &usize| middle[*at] > 0.2;
    let spread = |one: &[f64], other: &[f64]| {
        rms((0..middle.len())
            .filter(seen)
            .map(|at| one[at] / other[at].max(f64::MIN_POSITIVE) - 1.0))
    };
    let difference = rms(every.iter().map(|blocks| spread(blocks, &middle)));
    // Without the hundredth that specks take.
    let light = sorted(middle.iter().copied());
    let [darkest, brightest] = [0.01, 0.99].map(|part| quantile(&light, part).unwrap_or(1.0));
    let columns = frames[0].width() / BLOCK;
    if difference < ALIKE && colour_changes(&middle, columns) > COLOURED {
        return Err(FlatFieldError::Unmoved { difference });
    }
    let quality = Quality {
        frames: frames.len(),
        falloff: 1.0 - darkest / brightest.max(f64::MIN_POSITIVE),
        difference,
        left_over: 0.5 * spread(&even, &odd),
    };
    if quality.left_over > MOST_LEFT_OVER {
        return Err(FlatFieldError::Specimen {
            left_over: quality.left_over,
        });
    }
    Ok(quality)
}

/// How much the balance of colours departs from a straight line, relative, median over blocks.
fn colour_changes(blocks: &[f64], columns: usize) -> f64 {
    let (pixels, _) = blocks.as_chunks::<3>();
    let colours: Vec<f64> = pixels
        .iter()
        .map(|pixel| {
            let [red, green, blue] = pixel.map(|value| value.max(0.01).ln());
            green - 0.5 * (red + blue)
        })
        .collect();
    let rows = colours.len() / columns;
    let bend = |at: usize, step: usize| colours[at] - 0.5 * (colours[at - step] + colours[at + step]);
    let reach = COLOUR_REACH.min(columns.min(rows) / 4);
    let inner = (reach..rows - reach)
        .flat_map(|row| (reach..columns - reach).map(move |column| row * columns + column));
    let bends = inner.flat_map(|at| [bend(at, reach).abs(), bend(at, reach * columns).abs()]);
    median(bends).unwrap_or_default()
}

/// Means of blocks of R, G and B, relative to the frame's levels; what is left over at the right and at the bottom is left out.
fn block_means(frame: &Frame, level: [f64; 3]) -> Vec<f64> {
    let (columns, rows) = (frame.width() / BLOCK, frame.height() / BLOCK);
    let mut sums = vec![0_u32; 3 * columns * rows];
    for (y, line) in frame
        .rgb()
        .chunks_exact(3 * frame.width())
        .take(rows * BLOCK)
        .enumerate()
    {
        let sums = &mut sums[3 * columns * (y / BLOCK)..][..3 * columns];
        for (sums, pixels) in sums.chunks_exact_mut(3).zip(line.chunks_exact(3 * BLOCK)) {
            for pixel in pixels.chunks_exact(3) {
                sums.iter_mut()
                    .zip(pixel)
                    .for_each(|(sum, &value)| *sum += u32::from(value));
            }
        }
    }
    let mean = |(at, sum): (usize, &u32)| f64::from(*sum) / (BLOCK * BLOCK) as f64 / level[at % 3];
    sums.iter().enumerate().map(mean).collect()
}

fn middle_blocks(frames: &[&[f64]]) -> Vec<f64> {
    let at = |at: usize| middle_of(frames.iter().map(|blocks| blocks[at]));
    (0..frames.first().map_or(0, |blocks| blocks.len()))
        .map(at)
        .collect()
}

/// Root of the mean square; 0 of nothing.
fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| {
        (sum + value * value, count + 1)
    });
    (sum / f64::from(count.max(1))).sqrt()
}

/// Frames that make no flat field. Frames are counted from 1.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FlatFieldError {
    /// Too few or too many.
    #[error("{count} frames make no flat field: take {LEAST_FRAMES} to {MOST_FRAMES}, each of another place")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// Another size than the first.
    #[error("frame {frame} has {}x{} pixels and the first {}x{}: leave the camera as it is while the frames are taken", size.0, size.1, first.0, first.1)]
    Size {
        /// Which one.
        frame: usize,
        /// Its pixels per row and rows.
        size: (usize, usize),
        /// Those of the first.
        first: (usize, usize),
    },
    /// Equal in every byte.
    #[error("frames {} and {} are equal in every byte: the camera stands still, or one was given twice", frames.0, frames.1)]
    Identical {
        /// Which ones.
        frames: (usize, usize),
    },
    /// Next to no light.
    #[error(
        "frame {frame} holds too little light, its darkest channel has a level of {level:.0} of 255: turn up the lamp or the exposure"
    )]
    Dark {
        /// Which one.
        frame: usize,
        /// Level of its darkest channel.
        level: f64,
    },
    /// Clipped.
    #[error(
        "frame {frame} is overexposed, its brightest channel has a level of {level:.0} of 255: turn down the lamp or the exposure"
    )]
    Clipped {
        /// Which one.
        frame: usize,
        /// Level of its brightest channel.
        level: f64,
    },
    /// Another brightness than the rest.
    #[error(
        "frame {frame} is {ratio:.2} times as bright as most: leave lamp and exposure as they are, and stay where the specimen is thin"
    )]
    Exposure {
        /// Which one.
        frame: usize,
        /// Its brightness, that of the middle one being 1.
        ratio: f64,
    },
    /// All of one place.
    #[error(
        "the frames differ by {:.2} % only, and a specimen is in them: the stage did not move; take each frame of another place", 100.0 * difference
    )]
    Unmoved {
        /// How much they differ, relative, root mean square.
        difference: f64,
    },
    /// Two halves of the frames disagree.
    #[error(
        "the specimen is still in the flat field: two halves of the frames differ by {:.1} % from their mean, more than {:.0} %; take more places, farther out of focus or emptier", 100.0 * left_over, 100.0 * MOST_LEFT_OVER
    )]
    Specimen {
        /// Relative difference, root mean square.
        left_over: f64,
    },
    /// No light in half of the pixels.
    #[error(transparent)]
    Light(#[from] BadLight),
}
