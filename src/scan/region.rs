//! The part of a slide that is to be scanned.

use serde::{Deserialize, Serialize};

/// The part of a slide that is to be scanned, in stage coordinates, µm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Everything that the stage may bring under the lens.
    Whole,
    /// Between two corners.
    Rectangle {
        /// Least x and y.
        low_um: [f64; 2],
        /// Greatest x and y.
        high_um: [f64; 2],
    },
    /// Inside a closed line through these points, in their order; where it crosses itself, inside is what an odd number of its sides
    /// separates from the outside.
    Polygon {
        /// The corners, at least three.
        corners_um: Vec<[f64; 2]>,
    },
}

impl Region {
    /// A rectangle by its centre and its size, x and y, µm.
    pub fn around(centre_um: [f64; 2], size_um: [f64; 2]) -> Self {
        Self::Rectangle {
            low_um: [0, 1].map(|axis| centre_um[axis] - 0.5 * size_um[axis]),
            high_um: [0, 1].map(|axis| centre_um[axis] + 0.5 * size_um[axis]),
        }
    }

    /// Least and greatest x and y; `whole` is everything.
    ///
    /// # Errors
    /// If there is nothing in it, or a corner is not a place.
    pub fn bounds_um(&self, whole: [(f64, f64); 2]) -> Result<[(f64, f64); 2], RegionError> {
        let bounds = match self {
            Self::Whole => whole,
            Self::Rectangle { low_um, high_um } => [0, 1].map(|axis| (low_um[axis], high_um[axis])),
            Self::Polygon { corners_um } => {
                if corners_um.len() < 3 {
                    return Err(RegionError::Corners(corners_um.len()));
                }
                [0, 1].map(|axis| {
                    let along = corners_um.iter().map(|corner| corner[axis]);
                    let low = along.clone().fold(f64::INFINITY, f64::min);
                    (low, along.fold(f64::NEG_INFINITY, f64::max))
                })
            }
        };
        let corners: &[[f64; 2]] = match self {
            Self::Polygon { corners_um } => corners_um,
            _ => &[],
        };
        if bounds
            .iter()
            .any(|(low, high)| !(low.is_finite() && high.is_finite()))
            || corners.iter().flatten().any(|at| !at.is_finite())
        {
            return Err(RegionError::NotFinite);
        }
        for (axis, (low_um, high_um)) in ['x', 'y'].into_iter().zip(bounds) {
            if high_um <= low_um {
                return Err(RegionError::Empty {
                    axis,
                    low_um,
                    high_um,
                });
            }
        }
        Ok(bounds)
    }

    /// Whether the region and a rectangle, least and greatest x and y, have anything in common.
    pub fn touches(&self, [(left, right), (bottom, top)]: [(f64, f64); 2]) -> bool {
        let Self::Polygon { corners_um } = self else {
            // Nothing is looked at outside the bounds, which are a rectangle's all.
            return true;
        };
        let is_inside = |[x, y]: [f64; 2]| (left..=right).contains(&x) && (bottom..=top).contains(&y);
        corners_um.iter().any(|corner| is_inside(*corner))
            || encloses(corners_um, [left, bottom])
            || sides(corners_um).any(|side| crosses(side, [(left, right), (bottom, top)]))
    }
}

/// The sides of a polygon.
fn sides(corners: &[[f64; 2]]) -> impl Iterator<Item = [[f64; 2]; 2]> {
    let next = corners.iter().cycle().skip(1);
    corners.iter().zip(next).map(|(from, to)| [*from, *to])
}

/// Whether a point lies inside a polygon: whether a ray to the right crosses an odd number of its sides.
fn encloses(corners: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let is_crossed = |[from, to]: &[[f64; 2]; 2]| {
        (from[1] > y) != (to[1] > y) && x < from[0] + (y - from[1]) / (to[1] - from[1]) * (to[0] - from[0])
    };
    sides(corners).filter(is_crossed).count() % 2 == 1
}

/// Whether a side passes through a rectangle (Liang and Barsky, 1984): what is left of it between each pair of parallel edges.
fn crosses([from, to]: [[f64; 2]; 2], bounds: [(f64, f64); 2]) -> bool {
    let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
    for (axis, (low, high)) in bounds.into_iter().enumerate() {
        let way = to[axis] - from[axis];
        if way == 0.0 {
            if !(low..=high).contains(&from[axis]) {
                return false;
            }
            continue;
        }
        let (one, other) = ((low - from[axis]) / way, (high - from[axis]) / way);
        enters = enters.max(one.min(other));
        leaves = leaves.min(one.max(other));
    }
    enters <= leaves
}

/// There is nothing to scan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RegionError {
    /// A corner is NaN or infinite.
    #[error("a corner of the region is not a finite place: give metres")]
    NotFinite,
    /// It has no width or no height.
    #[error("the region is empty: its {axis} goes from {low_um} to {high_um} µm; the first has to be less")]
    Empty {
        /// The axis.
        axis: char,
        /// Its least place, µm.
        low_um: f64,
        /// Its greatest place, µm.
        high_um: f64,
    },
    /// It is no area.
    #[error("a polygon needs at least 3 corners, not {0}")]
    Corners(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [(f64, f64); 2] = [(-1e4, 1e4), (-5e3, 5e3)];

    fn polygon(corners: &[[f64; 2]]) -> Region {
        Region::Polygon {
            corners_um: corners.to_vec(),
        }
    }

    #[test]
    fn the_bounds_of_each_kind() {
        assert_eq!(Region::Whole.bounds_um(WHOLE), Ok(WHOLE));
        assert_eq!(
            Region::around([100.0, -50.0], [40.0, 20.0]).bounds_um(WHOLE),
            Ok([(80.0, 120.0), (-60.0, -40.0)])
        );
        assert_eq!(
            polygon(&[[0.0, 0.0], [30.0, 10.0], [-5.0, 40.0]]).bounds_um(WHOLE),
            Ok([(-5.0, 30.0), (0.0, 40.0)])
        );
    }

    #[test]
    fn what_holds_nothing_is_refused() {
        let flat = polygon(&[[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]);
        let nowhere = polygon(&[[0.0, 0.0], [10.0, f64::NAN], [20.0, 5.0]]);
        for (region, words) in [
            (Region::around([0.0, 0.0], [0.0, 5.0]), "its x goes from 0 to 0"),
            (Region::around([0.0, 0.0], [5.0, -5.0]), "its y goes"),
            (Region::around([f64::NAN, 0.0], [5.0, 5.0]), "not a finite place"),
            (flat, "its y goes from 0 to 0"),
            (nowhere, "not a finite place"),
            (polygon(&[[0.0, 0.0], [1.0, 1.0]]), "at least 3 corners, not 2"),
        ] {
            let error = region.bounds_um(WHOLE).unwrap_err().to_string();
            assert!(error.contains(words), "{region:?}: {error}");
        }
    }

    #[test]
    fn a_rectangle_touches_a_polygon_where_they_have_something_in_common() {
        // An L: the upper right quarter is missing.
        let corner = polygon(&[
            [0.0, 0.0],
            [100.0, 0.0],
            [100.0, 50.0],
            [50.0, 50.0],
            [50.0, 100.0],
            [0.0, 100.0],
        ]);
        for (bounds, expected) in [
            ([(10.0, 20.0), (10.0, 20.0)], true),
            ([(60.0, 70.0), (60.0, 70.0)], false),
            ([(40.0, 60.0), (60.0, 70.0)], true),
            ([(-10.0, 110.0), (-10.0, 110.0)], true),
            ([(-20.0, -10.0), (0.0, 10.0)], false),
            // A side passes through it, and no corner of either lies in the other.
            ([(-10.0, 10.0), (70.0, 80.0)], true),
        ] {
            assert_eq!(corner.touches(bounds), expected, "{bounds:?}");
        }
    }
}
