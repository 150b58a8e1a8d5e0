//! Features 13 to 18: Pearson correlations between four crops of the frame (equation 13, which divides by the standard
//! deviations, as the cited definition does).

use super::luminance;
use crate::frame::Frame;
use crate::random::SplitMix64;

/// Side of a crop, pixels; in a smaller frame, its shorter side.
pub const CROP: usize = 100;

/// How many crops are compared.
const CROPS: usize = 4;

/// Top left corners (x, y) of the four crops in a frame of this size, pixels.
///
/// Independent and uniform over all places where a whole crop fits; crops may overlap. The numbers are those of SplitMix64
/// (Steele 2014) begun at `seed`, taken as x of the first crop, y of the first, x of the second, and so on; each becomes a
/// place by the upper 64 bits of its product with the number of places. They stay the same in every version.
pub fn crop_places(width: usize, height: usize, seed: u64) -> [(usize, usize); CROPS] {
    let side = side(width, height);
    let mut random = SplitMix64(seed);
    let mut below = |places: usize| ((u128::from(random.bits()) * places as u128) >> 64) as usize;
    std::array::from_fn(|_| (below(width - side + 1), below(height - side + 1)))
}

fn side(width: usize, height: usize) -> usize {
    CROP.min(width).min(height)
}

/// Correlations of the crops 1-2, 1-3, 1-4, 2-3, 2-4 and 3-4, -1 to 1; 0 where a crop has one grey level only.
pub(super) fn of(frame: &Frame, seed: u64) -> [f64; 6] {
    let crops = crop_places(frame.width(), frame.height(), seed).map(|place| centred_crop(frame, place));
    let norms = crops
        .each_ref()
        .map(|crop| crop.iter().map(|grey| grey * grey).sum::<f64>().sqrt());
    [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)].map(|(a, b)| {
        let spread = norms[a] * norms[b];
        let product: f64 = crops[a].iter().zip(&crops[b]).map(|(x, y)| x * y).sum();
        if spread > 0.0 {
            (product / spread).clamp(-1.0, 1.0)
        } else {
            0.0
        }
    })
}

/// Grey values of the crop at `(x, y)`, less their mean; all exactly zero if they are equal.
fn centred_crop(frame: &Frame, (x, y): (usize, usize)) -> Vec<f64> {
    let side = side(frame.width(), frame.height());
    let mut grey = Vec::with_capacity(side * side);
    for row in frame.rgb().chunks_exact(3 * frame.width()).skip(y).take(side) {
        let pixels = row[3 * x..3 * (x + side)].chunks_exact(3);
        grey.extend(pixels.map(|pixel| f64::from(luminance(pixel[0], pixel[1], pixel[2]))));
    }
    // Sums of whole numbers are exact, so that equal values leave no rounding error behind.
    let (sum, count) = (grey.iter().sum::<f64>(), grey.len() as f64);
    for value in &mut grey {
        *value = (*value * count - sum) / count;
    }
    grey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_seed_and_stay_inside() {
        for seed in 0..500 {
            for (x, y) in crop_places(200, 117, seed) {
                assert!(x <= 100 && y <= 17);
            }
            assert_eq!(crop_places(40, 30, seed).map(|(_, y)| y), [0; 4]);
        }
        assert_ne!(crop_places(2048, 1536, 1), crop_places(2048, 1536, 2));
    }
}
