//! Features 9 to 12: the shape of the stained region (equations 9 to 12).
//!
//! 1. The lattice is reduced to means of 4x4 lattice pixels (8x8 camera pixels), rounded to whole grey levels; blocks cut
//!    by the right or bottom edge are left out.
//! 2. Otsu's threshold (1979) splits the blocks into dark and light; the dark ones are the *stained region*. If the means
//!    of the two sides are less than [`MIN_CONTRAST`] levels apart, nothing is stained: noise is not tissue.
//! 3. The region's 8-connected components of at least [`MIN_BLOCKS`] blocks are its *objects*. Objects at the border of
//!    the frame count as they are seen.
//!
//! With A the area of an object in blocks, H the area of the convex hull of its blocks (as squares), P its perimeter
//! (Benkrid and Crookes 2000, as in scikit-image), and λ₁ >= λ₂ the eigenvalues of the covariance of its area (blocks as
//! squares, hence + 1/12):
//!
//! * convexity = A / H, 0–1;
//! * compactness = 4πA / P², at most 1 (digital discs reach it);
//! * aspect ratio = √(λ₂ / λ₁), short axis over long, 0–1;
//! * area ratio = area of the stained region / area of all blocks, 0–1.
//!
//! The first three are means over the objects, weighted by area; 0 without objects.

use super::Lattice;

/// Side of a block, lattice pixels.
const BLOCK: usize = 4;

/// Difference between the mean grey of stained and unstained blocks below which nothing counts as stained.
const MIN_CONTRAST: f64 = 4.0;

/// Area of the smallest object, blocks: 32x32 camera pixels.
const MIN_BLOCKS: usize = 16;

/// Convexity, compactness, aspect ratio, area ratio.
pub(super) fn of(lattice: &Lattice) -> [f64; 4] {
    let blocks = Blocks::of(lattice);
    let Some(threshold) = otsu(&blocks.grey) else {
        return [0.0; 4];
    };
    let stained: Vec<bool> = blocks.grey.iter().map(|&grey| grey <= threshold).collect();
    let stained_area = stained.iter().filter(|&&stained| stained).count();
    let objects = objects(&stained, blocks.width);
    let mut sums = [0.0; 3];
    let mut area = 0.0;
    for object in objects.iter().filter(|object| object.len() >= MIN_BLOCKS) {
        let weight = object.len() as f64;
        area += weight;
        for (sum, feature) in
            sums.iter_mut()
                .zip([convexity(object), compactness(object), aspect_ratio(object)])
        {
            *sum += weight * feature;
        }
    }
    let mean = |sum: f64| {
        if area > 0.0 {
            (sum / area).clamp(0.0, 1.0)
        } else {
            0.0
        }
    };
    let [convexity, compactness, aspect_ratio] = sums.map(mean);
    [
        convexity,
        compactness,
        aspect_ratio,
        stained_area as f64 / blocks.grey.len() as f64,
    ]
}

/// Rounded means of 4x4 lattice pixels.
struct Blocks {
    width: usize,
    grey: Vec<u8>,
}

impl Blocks {
    fn of(lattice: &Lattice) -> Self {
        let (width, height) = (lattice.width / BLOCK, lattice.height / BLOCK);
        let mut grey = Vec::with_capacity(width * height);
        for band in lattice.grey.chunks_exact(BLOCK * lattice.width) {
            let mut sums = vec![0u32; width];
            for row in band.chunks_exact(lattice.width) {
                for (sum, block) in sums.iter_mut().zip(row.chunks_exact(BLOCK)) {
                    *sum += block.iter().map(|&grey| u32::from(grey)).sum::<u32>();
                }
            }
            let area = (BLOCK * BLOCK) as u32;
            grey.extend(sums.into_iter().map(|sum| ((sum + area / 2) / area) as u8));
        }
        Self { width, grey }
    }
}

/// The largest grey level of the dark side: the first that maximises w₀ w₁ (µ₀ - µ₁)². None if the sides are closer than
/// [`MIN_CONTRAST`] or there is only one level.
fn otsu(grey: &[u8]) -> Option<u8> {
    let mut counts = [0u64; 256];
    for &grey in grey {
        counts[usize::from(grey)] += 1;
    }
    let total = grey.len() as u64;
    let total_sum: u64 = counts.iter().zip(0u64..).map(|(count, grey)| count * grey).sum();
    let (mut dark, mut dark_sum) = (0, 0);
    let (mut best, mut best_variance) = (None, 0.0);
    for (level, count) in (0u8..=255).zip(counts) {
        dark += count;
        dark_sum += count * u64::from(level);
        let light = total - dark;
        if dark == 0 || light == 0 {
            continue;
        }
        let apart = (total_sum - dark_sum) as f64 / light as f64 - dark_sum as f64 / dark as f64;
        let variance = dark as f64 * light as f64 * apart * apart;
        if variance > best_variance {
            (best, best_variance) = (Some((level, apart)), variance);
        }
    }
    best.filter(|&(_, apart)| apart >= MIN_CONTRAST)
        .map(|(level, _)| level)
}

/// One object: its blocks (x, y), row by row, from left to right.
type Object = Vec<(i32, i32)>;

/// The 8-connected components of `stained`.
fn objects(stained: &[bool], width: usize) -> Vec<Object> {
    let height = stained.len().checked_div(width).unwrap_or(0);
    let mut seen = vec![false; stained.len()];
    let mut objects = Vec::new();
    let mut open = Vec::new();
    for start in 0..stained.len() {
        if !stained[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        open.push(start);
        let mut object = Object::new();
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            object.push((x as i32, y as i32));
            for near_y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
                for near_x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                    let near = near_y * width + near_x;
                    if stained[near] && !seen[near] {
                        seen[near] = true;
                        open.push(near);
                    }
                }
            }
        }
        object.sort_unstable_by_key(|&(x, y)| (y, x));
        objects.push(object);
    }
    objects
}

/// Area over the area of the convex hull of the blocks' corners.
fn convexity(object: &[(i32, i32)]) -> f64 {
    object.len() as f64 / hull_area(object)
}

/// Area of the convex hull of the blocks as unit squares (Andrew's monotone chain, on the outermost corners of each row).
fn hull_area(object: &[(i32, i32)]) -> f64 {
    // Rows come in order, so the left and the right chain can be built in one pass from top to bottom each.
    let mut left = Vec::new();
    let mut right = Vec::new();
    for row in object.chunk_by(|a, b| a.1 == b.1) {
        let (Some(&(first, y)), Some(&(last, _))) = (row.first(), row.last()) else {
            continue;
        };
        for y in [y, y + 1] {
            extend_chain(&mut left, (first, y), 1);
            extend_chain(&mut right, (last + 1, y), -1);
        }
    }
    let outline: Vec<(i32, i32)> = left.into_iter().chain(right.into_iter().rev()).collect();
    let next = outline.iter().cycle().skip(1);
    let twice: i64 = outline
        .iter()
        .zip(next)
        .map(|(a, b)| i64::from(a.0) * i64::from(b.1) - i64::from(b.0) * i64::from(a.1))
        .sum();
    0.5 * twice.abs() as f64
}

/// Adds a corner to a chain that runs downwards and bulges to the left (`turn` 1) or to the right (-1).
fn extend_chain(chain: &mut Vec<(i32, i32)>, corner: (i32, i32), turn: i64) {
    while let [.., a, b] = chain[..] {
        let cross = i64::from(b.0 - a.0) * i64::from(corner.1 - a.1)
            - i64::from(b.1 - a.1) * i64::from(corner.0 - a.0);
        if turn * cross < 0 {
            break;
        }
        chain.pop();
    }
    chain.push(corner);
}

/// 4πA / P², at most 1.
fn compactness(object: &[(i32, i32)]) -> f64 {
    let perimeter = perimeter(object);
    if perimeter > 0.0 {
        (4.0 * std::f64::consts::PI * object.len() as f64 / (perimeter * perimeter)).min(1.0)
    } else {
        1.0
    }
}

/// Length of the border blocks' chain: each counts 1, √2 or (1 + √2)/2 by the border blocks around it.
fn perimeter(object: &[(i32, i32)]) -> f64 {
    let mask = Mask::of(object);
    let border = Mask::of_where(object, |x, y| {
        [(1, 0), (-1, 0), (0, 1), (0, -1)]
            .iter()
            .any(|&(dx, dy)| !mask.holds(x + dx, y + dy))
    });
    let mut length = 0.0;
    for &(x, y) in object {
        if !border.holds(x, y) {
            continue;
        }
        let straight = [(1, 0), (-1, 0), (0, 1), (0, -1)]
            .iter()
            .filter(|&&(dx, dy)| border.holds(x + dx, y + dy))
            .count();
        let diagonal = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
            .iter()
            .filter(|&&(dx, dy)| border.holds(x + dx, y + dy))
            .count();
        length += match (straight, diagonal) {
            (2 | 3, 0..=2) => 1.0,
            (0, 2) | (1, 3) => std::f64::consts::SQRT_2,
            (1, 1..=2) => 0.5 * (1.0 + std::f64::consts::SQRT_2),
            _ => 0.0,
        };
    }
    length
}

/// The blocks of one object in its bounding box, with a margin of one.
struct Mask {
    left: i32,
    top: i32,
    width: i32,
    cells: Vec<bool>,
}

impl Mask {
    fn of(object: &[(i32, i32)]) -> Self {
        Self::of_where(object, |_, _| true)
    }

    /// The mask of those blocks for which `is_in` holds.
    fn of_where(object: &[(i32, i32)], is_in: impl Fn(i32, i32) -> bool) -> Self {
        let bounds = |of: fn(&(i32, i32)) -> i32| {
            let all = || object.iter().map(of);
            (all().min().unwrap_or(0) - 1, all().max().unwrap_or(0) + 1)
        };
        let ((left, right), (top, bottom)) = (bounds(|block| block.0), bounds(|block| block.1));
        let width = right - left + 1;
        let mut mask = Self {
            left,
            top,
            width,
            cells: vec![false; (width * (bottom - top + 1)) as usize],
        };
        for &(x, y) in object {
            let at = mask.at(x, y);
            mask.cells[at] = is_in(x, y);
        }
        mask
    }

    fn at(&self, x: i32, y: i32) -> usize {
        ((y - self.top) * self.width + x - self.left) as usize
    }

    /// Whether the block is in; `(x, y)` lies in the object or next to it.
    fn holds(&self, x: i32, y: i32) -> bool {
        self.cells[self.at(x, y)]
    }
}

/// √(λ₂ / λ₁) of the covariance of the object's area.
fn aspect_ratio(object: &[(i32, i32)]) -> f64 {
    let count = object.len() as f64;
    let mean = |of: &dyn Fn(f64, f64) -> f64| {
        object
            .iter()
            .map(|&(x, y)| of(f64::from(x), f64::from(y)))
            .sum::<f64>()
            / count
    };
    let (mean_x, mean_y) = (mean(&|x, _| x), mean(&|_, y| y));
    let xx = mean(&|x, _| (x - mean_x).powi(2)) + 1.0 / 12.0;
    let yy = mean(&|_, y| (y - mean_y).powi(2)) + 1.0 / 12.0;
    let xy = mean(&|x, y| (x - mean_x) * (y - mean_y));
    let middle = 0.5 * (xx + yy);
    let apart = (0.25 * (xx - yy).powi(2) + xy * xy).sqrt();
    ((middle - apart).max(0.0) / (middle + apart)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rectangle(width: i32, height: i32) -> Object {
        (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .collect()
    }

    #[test]
    fn rectangles_are_convex_and_as_long_as_they_look() {
        for (width, height) in [(1, 1), (16, 1), (1, 16), (5, 5), (12, 3)] {
            let object = rectangle(width, height);
            assert_eq!(convexity(&object), 1.0, "{width}x{height}");
            let expected = f64::from(width.min(height)) / f64::from(width.max(height));
            assert!(
                (aspect_ratio(&object) - expected).abs() < 1e-12,
                "{width}x{height}"
            );
        }
    }

    #[test]
    fn a_corner_piece_is_hollow() {
        let mut object = rectangle(6, 6);
        object.retain(|&(x, y)| x < 2 || y < 2);
        // The square less the triangle between the ends of the two arms.
        assert_eq!(hull_area(&object), 36.0 - 8.0);
    }

    #[test]
    fn perimeters_as_scikit_image_counts_them() {
        assert_eq!(perimeter(&rectangle(1, 1)), 0.0);
        assert_eq!(perimeter(&rectangle(5, 5)), 16.0);
        let diamond: Object = [
            (2, 0),
            (1, 1),
            (2, 1),
            (3, 1),
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 2),
            (4, 2),
            (1, 3),
            (2, 3),
            (3, 3),
            (2, 4),
        ]
        .into();
        assert!((perimeter(&diamond) - 8.0 * std::f64::consts::SQRT_2).abs() < 1e-12);
    }

    #[test]
    fn otsu_splits_two_levels_and_refuses_noise() {
        assert_eq!(otsu(&[100, 100, 30, 100]), Some(30));
        assert_eq!(otsu(&[100, 101, 100, 102]), None);
        assert_eq!(otsu(&[100; 9]), None);
        assert_eq!(otsu(&[]), None);
    }

    #[test]
    fn components_touch_by_corners() {
        let picture = [
            true, false, false, true, false, true, false, false, false, false, false, true,
        ];
        assert_eq!(
            objects(&picture, 4),
            [vec![(0, 0), (1, 1)], vec![(3, 0)], vec![(3, 2)]]
        );
    }
}
