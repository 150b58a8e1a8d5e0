//! The side of a pixel in the object plane, and how the camera is turned against the stage, by how far the picture moves when the stage does.
//!
//! shift = M · way, with the way of the stage in µm, the shift of the picture in pixels and a matrix M of 2×2, fitted by least squares. A
//! stage that goes right carries the slide under the lens so that the view goes right, and what it shows goes left: -M is the view's.
//! The size of a pixel is 1/√|det M|. The rest of M says how the camera is mounted (turned, mirrored), and whether x and y of the stage agree.

use super::card::Value;
use crate::statistics::jackknife;

/// Ways that a fit needs.
const LEAST: usize = 4;
/// Ways of the stage below which it did not move, µm, and shifts below which the picture did not, pixels.
const STILL_UM: f64 = 0.5;
const STILL_PX: f64 = 2.0;
/// Least part of the ways' spread that is across their main direction: on a line they tell nothing of what is across it.
const LEAST_ACROSS: f64 = 0.05;
/// Misses of the fit, part of the longest shift, beyond which the pairs contradict each other.
const MOST_MISS: f64 = 0.02;

/// One move: how far the stage says it went, and how far the picture did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// x and y, µm.
    pub stage_um: [f64; 2],
    /// To the right and down, pixels.
    pub shift_px: [f64; 2],
}

/// A pixel and a camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelSize {
    /// Side of a pixel in the object plane, µm.
    pub pixel_um: Value,
    /// How far the camera's rows are turned against the stage's x, degrees, -180 to 180; positive as in going from right to down in the picture.
    pub rotation_deg: Value,
    /// Whether the picture shows the slide as a mirror would: with x of the stage along the rows, y runs up in it.
    pub is_mirrored: bool,
    /// µm of the stage's x that show as long as one µm of its y; 1 if both count alike.
    pub aspect: Value,
    /// Usual distance of the shifts from the fit, pixels.
    pub residual_px: f64,
    /// Moves.
    pub moves: usize,
}

/// Moves that tell no pixel.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NoPixelSize {
    /// Too few.
    #[error("{0} moves tell no pixel size, {LEAST} are needed: let the stage visit more places")]
    Few(usize),
    /// The stage did not move.
    #[error("the stage did not move: the places are all the same")]
    StageStill,
    /// The picture did not move.
    #[error(
        "the stage moved by up to {um:.0} µm and the picture by {px:.1} pixels: the camera does not look at this stage, its images are frozen, or dust \
         on it is stronger than the specimen (calibrate the flat field first)"
    )]
    PictureStill {
        /// Longest way, µm.
        um: f64,
        /// Longest shift, pixels.
        px: f64,
    },
    /// All along one line.
    #[error("all moves lie along one line: move the stage in x and in y")]
    OneDirection,
    /// They do not fit together.
    #[error(
        "the moves contradict each other: shifts are off by {px:.1} pixels of up to {longest:.0}: the stage slips or has play (approach each place \
         from the same side), or it had not come to rest"
    )]
    Contradiction {
        /// Usual distance, pixels.
        px: f64,
        /// Longest shift, pixels.
        longest: f64,
    },
}

/// The pixel that these moves show.
///
/// # Errors
/// If they are too few, along one line, without effect, or contradict each other.
pub fn pixel_size(moves: &[Moved]) -> Result<PixelSize, NoPixelSize> {
    if moves.len() < LEAST {
        return Err(NoPixelSize::Few(moves.len()));
    }
    let longest = |of: fn(&Moved) -> [f64; 2]| {
        let lengths = moves.iter().map(|moved| of(moved)[0].hypot(of(moved)[1]));
        lengths.fold(0.0, f64::max)
    };
    let (way_um, way_px) = (longest(|moved| moved.stage_um), longest(|moved| moved.shift_px));
    if way_um < STILL_UM {
        return Err(NoPixelSize::StageStill);
    }
    if way_px < STILL_PX {
        return Err(NoPixelSize::PictureStill {
            um: way_um,
            px: way_px,
        });
    }
    let [xx, xy, yy] = moments(moves);
    let (half, apart) = (0.5 * (xx + yy), (0.5 * (xx - yy)).hypot(xy));
    if half - apart < LEAST_ACROSS * (half + apart) {
        return Err(NoPixelSize::OneDirection);
    }
    let matrix = fit(moves);
    let miss = |moved: &Moved| {
        let [x, y] = times(matrix, moved.stage_um);
        (moved.shift_px[0] - x).hypot(moved.shift_px[1] - y)
    };
    // Four numbers are fitted to twice as many as there are moves.
    let squares: f64 = moves.iter().map(|moved| miss(moved).powi(2)).sum();
    let residual_px = (squares / (2.0 * moves.len() as f64 - 4.0)).sqrt();
    if residual_px > MOST_MISS * way_px {
        return Err(NoPixelSize::Contradiction {
            px: residual_px,
            longest: way_px,
        });
    }
    let camera = Camera::of(matrix);
    let without = |left_out: usize| {
        let others = moves.iter().enumerate().filter(|(at, _)| *at != left_out);
        Camera::of(fit(&others.map(|(_, moved)| *moved).collect::<Vec<_>>()))
    };
    let others: Vec<Camera> = (0..moves.len()).map(without).collect();
    let deviation = |part: fn(&Camera) -> f64, whole_turn: f64| {
        // Turns are compared near each other.
        let near = |other: &Camera| {
            let off = part(other) - part(&camera);
            if whole_turn > 0.0 {
                off - whole_turn * (off / whole_turn).round()
            } else {
                off
            }
        };
        jackknife(&others.iter().map(near).collect::<Vec<_>>())
    };
    let value = |part: fn(&Camera) -> f64, whole_turn: f64| Value {
        value: part(&camera),
        stddev: deviation(part, whole_turn),
    };
    Ok(PixelSize {
        pixel_um: value(|camera| camera.pixel_um, 0.0),
        rotation_deg: value(|camera| camera.rotation_deg, 360.0),
        is_mirrored: camera.is_mirrored,
        aspect: value(|camera| camera.aspect, 0.0),
        residual_px,
        moves: moves.len(),
    })
}

/// What a matrix says of the camera.
struct Camera {
    pixel_um: f64,
    rotation_deg: f64,
    is_mirrored: bool,
    aspect: f64,
}

impl Camera {
    fn of([[a, b], [c, d]]: [[f64; 2]; 2]) -> Self {
        let determinant = a * d - b * c;
        // Where the view goes, right and down, when the stage goes along x.
        let (right, down) = (-a, -c);
        Self {
            pixel_um: 1.0 / determinant.abs().sqrt(),
            rotation_deg: down.atan2(right).to_degrees(),
            is_mirrored: determinant < 0.0,
            aspect: b.hypot(d) / a.hypot(c),
        }
    }
}

/// Sums of x², xy and y² of the ways.
fn moments(moves: &[Moved]) -> [f64; 3] {
    let sum = |one: usize, other: usize| -> f64 {
        moves
            .iter()
            .map(|moved| moved.stage_um[one] * moved.stage_um[other])
            .sum()
    };
    [sum(0, 0), sum(0, 1), sum(1, 1)]
}

/// The matrix of least squares.
fn fit(moves: &[Moved]) -> [[f64; 2]; 2] {
    let [xx, xy, yy] = moments(moves);
    let determinant = xx * yy - xy * xy;
    [0, 1].map(|row| {
        let sum = |axis: usize| -> f64 {
            moves
                .iter()
                .map(|moved| moved.stage_um[axis] * moved.shift_px[row])
                .sum()
        };
        let (x, y) = (sum(0), sum(1));
        [(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant]
    })
}

fn times(matrix: [[f64; 2]; 2], way: [f64; 2]) -> [f64; 2] {
    matrix.map(|row| row[0] * way[0] + row[1] * way[1])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sim::slide::SiteRandom;

    /// Moves under a camera with pixels of 0.08625 µm that is turned and perhaps mirrored; shifts are off by up to `noise_px`.
    fn moves(rotation_deg: f64, is_mirrored: bool, stretch: f64, noise_px: f64) -> Vec<Moved> {
        let mut random = SiteRandom::new(4, 4);
        let (sin, cos) = rotation_deg.to_radians().sin_cos();
        (0..9)
            .map(|at| {
                let stage_um = [20.0 * f64::from(at % 3) - 18.0, 15.0 * f64::from(at / 3) - 16.0];
                let mirror = if is_mirrored { -1.0 } else { 1.0 };
                let view = [
                    cos * stage_um[0] - mirror * sin * stretch * stage_um[1],
                    sin * stage_um[0] + mirror * cos * stretch * stage_um[1],
                ];
                Moved {
                    stage_um,
                    shift_px: view.map(|um| -um / 0.08625 + random.range(-1.0, 1.0) * noise_px),
                }
            })
            .collect()
    }

    #[test]
    fn size_turn_and_mirror_are_found() {
        for (rotation_deg, is_mirrored) in [
            (0.0, false),
            (0.0, true),
            (90.0, false),
            (-2.5, true),
            (179.9, false),
        ] {
            let found = pixel_size(&moves(rotation_deg, is_mirrored, 1.0, 0.3)).unwrap();
            let pixel = found.pixel_um;
            assert!((pixel.value / 0.08625 - 1.0).abs() < 2e-3, "{found:?}");
            assert!((pixel.value - 0.08625).abs() < 4.0 * pixel.stddev, "{found:?}");
            let off = (found.rotation_deg.value - rotation_deg + 180.0).rem_euclid(360.0) - 180.0;
            assert!(off.abs() < 0.2 && found.rotation_deg.stddev < 0.3, "{found:?}");
            assert_eq!(found.is_mirrored, is_mirrored);
            assert!((found.aspect.value - 1.0).abs() < 4e-3, "{found:?}");
        }
        let stretched = pixel_size(&moves(0.0, false, 1.1, 0.0)).unwrap();
        assert!((stretched.aspect.value - 1.1).abs() < 1e-9, "{stretched:?}");
    }

    #[test]
    fn contradictions_are_sentences() {
        let still = |stage: f64, picture: f64| -> Vec<Moved> {
            let scaled = moves(0.0, false, 1.0, 0.0).into_iter().map(|moved| Moved {
                stage_um: moved.stage_um.map(|um| stage * um),
                shift_px: moved.shift_px.map(|px| picture * px),
            });
            scaled.collect()
        };
        let line: Vec<Moved> = moves(0.0, false, 1.0, 0.0)
            .into_iter()
            .map(|moved| Moved {
                stage_um: [moved.stage_um[0], 0.0],
                ..moved
            })
            .collect();
        for (moves, words) in [
            (still(0.0, 1.0), "the stage did not move"),
            (still(1.0, 0.001), "and the picture by 0.3 pixels"),
            (line, "along one line"),
            (moves(0.0, false, 1.0, 60.0), "contradict each other"),
            (still(1.0, 1.0)[..3].to_vec(), "3 moves tell no pixel size"),
        ] {
            let message = pixel_size(&moves).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
