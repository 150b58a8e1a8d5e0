//! The camera's inner loops, compiled once more for processors with wider registers and chosen when the program runs.
//!
//! Every version adds in the same order, so all give the same bits.

use multiversion::multiversion;

use super::TAPS;

/// Adds `weight` times a line.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn add_scaled(sum: &mut [f32], line: &[f32], weight: f32) {
    for (sum, sample) in sum.iter_mut().zip(line) {
        *sum += weight * sample;
    }
}

/// Doubles a row: samples at even pixels, interpolated ones at odd pixels. `samples` begins `TAPS` samples before the
/// first pixel; `between` is memory for half as many values as there are `pixels`.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn double(samples: &[f32], taps: &[f32; 2 * TAPS], between: &mut [f32], pixels: &mut [f32]) {
    between.fill(0.0);
    for (tap, weight) in taps.iter().enumerate() {
        for (sum, sample) in between.iter_mut().zip(&samples[1 + tap..]) {
            *sum += sample * weight;
        }
    }
    let pairs = pixels.chunks_exact_mut(2).zip(&samples[TAPS..]).zip(&*between);
    for ((pair, even), odd) in pairs {
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

/// Nearest bytes.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn round_to_bytes(values: &[f32], bytes: &mut [u8]) {
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = round_to_byte(*value);
    }
}

/// Nearest byte. Adding 2^23 leaves the rounded number in the low bits, which the compiler can do for many at once.
#[inline(always)]
pub(super) fn round_to_byte(value: f32) -> u8 {
    (value.clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8
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
