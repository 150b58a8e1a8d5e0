//! The camera's inner loops, compiled once more for processors with wider registers and chosen when the program runs.
//!
//! Every version adds in the same order, so all give the same bits.

use multiversion::multiversion;

/// Pairs added in one pass over the sum.
const PAIRS: usize = 4;

/// Adds to `sum` both lines of each pair times the pair's weight; the lines are at least as long as the sum.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn add_pairs(sum: &mut [f32], pairs: &[(&[f32], &[f32], f32)]) {
    let length = sum.len();
    let (groups, rest) = pairs.as_chunks::<PAIRS>();
    for group in groups {
        let [a, b, c, d] = group.map(|(one, other, weight)| (&one[..length], &other[..length], weight));
        for (at, sum) in sum.iter_mut().enumerate() {
            *sum += (a.2 * (a.0[at] + a.1[at]) + b.2 * (b.0[at] + b.1[at]))
                + (c.2 * (c.0[at] + c.1[at]) + d.2 * (d.0[at] + d.1[at]));
        }
    }
    for (one, other, weight) in rest {
        for ((sum, one), other) in sum.iter_mut().zip(*one).zip(*other) {
            *sum += weight * (one + other);
        }
    }
}

/// A row of pixels: the samples, and what lies between them.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn alternate(samples: &[f32], between: &[f32], pixels: &mut [f32]) {
    for ((pair, even), odd) in pixels.chunks_exact_mut(2).zip(samples).zip(between) {
        pair[0] = *even;
        pair[1] = *odd;
    }
}

/// From relative light to grey values: `level` in the middle, less by `fall` times the square of the distance in pixels;
/// `down` is the row's distance, `middle` the column in the middle.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn illuminate(pixels: &mut [f32], level: f32, fall: f32, down: f32, middle: f32) {
    for (column, pixel) in pixels.iter_mut().enumerate() {
        let across = column as u32 as f32 - middle;
        *pixel = level * (1.0 - fall * (down * down + across * across)) * pixel.max(0.0);
    }
}

/// Adds noise of variance `shot` times the grey value plus `read`.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn add_noise(pixels: &mut [f32], deviates: &[f32], shot: f32, read: f32) {
    for (pixel, deviate) in pixels.iter_mut().zip(deviates) {
        *pixel += (*pixel * shot + read).sqrt() * deviate;
    }
}

/// Nearest bytes, none above `most`.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn round_to_bytes(values: &[f32], most: f32, bytes: &mut [u8]) {
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = round_to_byte(*value, most);
    }
}

/// Nearest byte to a value cut at `most`, itself no more than 255. Adding 2^23 leaves the rounded number in the low bits, which the compiler can do for many at once.
#[inline(always)]
pub(super) fn round_to_byte(value: f32, most: f32) -> u8 {
    (value.max(0.0).min(most) + 8_388_608.0).to_bits() as u8
}

/// Red, green and blue side by side.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn interleave(channels: &[Vec<u8>; 3], rgb: &mut [u8]) {
    let [red, green, blue] = channels;
    for (((pixel, r), g), b) in rgb.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        pixel[0] = *r;
        pixel[1] = *g;
        pixel[2] = *b;
    }
}
