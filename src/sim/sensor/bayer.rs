//! A colour camera with one filter per pixel: red and green, green and blue (RGGB), and the picture its driver makes of it.

use rayon::prelude::*;

/// Which channel a pixel sees.
const fn channel(column: usize, row: usize) -> usize {
    (column & 1) + (row & 1)
}

/// What a mosaic sensor's driver would deliver for a picture: of each pixel only its own channel is used, the other two are the mean
/// of the nearest pixels that have them (bilinear). `rgb` is interleaved, rows of `width` pixels.
pub(super) fn through_mosaic(rgb: &[u8], width: usize) -> Vec<u8> {
    let height = rgb.len() / (3 * width);
    let mosaic =
        |column: usize, row: usize| u16::from(rgb[3 * (row * width + column) + channel(column, row)]);
    // Mirrored at the border, which keeps the parity and with it the channel.
    let mirrored = |at: isize, length: usize| {
        let last = length as isize - 1;
        (last - (last - at.abs()).abs()) as usize
    };
    let mut out = vec![0; rgb.len()];
    out.par_chunks_mut(3 * width).enumerate().for_each(|(row, line)| {
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let at = |dx: isize, dy: isize| {
                mosaic(
                    mirrored(column as isize + dx, width),
                    mirrored(row as isize + dy, height),
                )
            };
            let mean = |places: &[(isize, isize)]| {
                let sum: u16 = places.iter().map(|(dx, dy)| at(*dx, *dy)).sum();
                ((sum + places.len() as u16 / 2) / places.len() as u16) as u8
            };
            let beside = [(-1, 0), (1, 0)];
            let above = [(0, -1), (0, 1)];
            let around = [(-1, 0), (1, 0), (0, -1), (0, 1)];
            let corners = [(-1, -1), (1, -1), (-1, 1), (1, 1)];
            let own = at(0, 0) as u8;
            let values = match (column & 1, row & 1) {
                (0, 0) => [own, mean(&around), mean(&corners)],
                (1, 1) => [mean(&corners), mean(&around), own],
                (1, 0) => [mean(&beside), own, mean(&above)],
                _ => [mean(&above), own, mean(&beside)],
            };
            pixel.copy_from_slice(&values);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_colour_comes_back() {
        let rgb: Vec<u8> = [10, 200, 90].repeat(8 * 6);
        assert_eq!(through_mosaic(&rgb, 8), rgb);
    }

    #[test]
    fn each_pixel_keeps_its_own_channel_and_borrows_the_others() {
        let rgb: Vec<u8> = (0..8 * 6_u32)
            .flat_map(|at| [at * 5 % 251, at * 7 % 251, at * 3 % 251])
            .map(|v| v as u8)
            .collect();
        let seen = through_mosaic(&rgb, 8);
        let (before, after) = (
            |x: usize, y: usize, c: usize| rgb[3 * (y * 8 + x) + c],
            |x: usize, y: usize, c: usize| seen[3 * (y * 8 + x) + c],
        );
        for (x, y) in [(2, 2), (3, 2), (2, 3), (3, 3)] {
            assert_eq!(after(x, y, channel(x, y)), before(x, y, channel(x, y)));
        }
        let mean = |a: u8, b: u8| ((u16::from(a) + u16::from(b)).div_ceil(2)) as u8;
        assert_eq!(after(3, 2, 0), mean(before(2, 2, 0), before(4, 2, 0)));
        assert_eq!(after(3, 2, 2), mean(before(3, 1, 2), before(3, 3, 2)));
    }
}
