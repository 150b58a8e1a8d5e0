//! The paper's seven distance classes and the heights that separate them.
//!
//! Index 4 is far too far from the slide, 1 a little too far, 0 in focus, -1 a little too close, -2 closer than that.
//! The paper gives no heights; the edges here are multiples of the total depth of field d of the objective.

use serde::{Deserialize, Serialize};

use crate::objective::Objective;
use crate::units::Micrometres;

/// Number of classes.
pub const CLASSES: usize = 7;

/// The distance index of a class: 4, 3, 2, 1, 0, -1 or -2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistanceIndex(i8);

impl DistanceIndex {
    /// Probability, 0 to 1, that focus lies on the other side than this class says; `probabilities` in the order of [`Self::ALL`].
    pub fn other_side(self, probabilities: &[f32]) -> f32 {
        Self::ALL
            .into_iter()
            .zip(probabilities)
            .filter(|(class, _)| class.value() * self.value() < 0)
            .map(|(_, probability)| *probability)
            .sum()
    }

    /// In focus.
    pub const IN_FOCUS: Self = Self(0);
    /// Far too far from the slide.
    pub const FARTHEST: Self = Self(4);

    /// All indices in the order of the network's outputs: 4, 3, 2, 1, 0, -1, -2.
    pub const ALL: [Self; CLASSES] = [Self(4), Self(3), Self(2), Self(1), Self(0), Self(-1), Self(-2)];

    /// The index of network output `class` (0..7).
    ///
    /// # Panics
    /// If `class` is 7 or more.
    pub const fn from_class(class: usize) -> Self {
        Self::ALL[class]
    }

    /// The network output this index belongs to, 0..7.
    pub const fn class(self) -> usize {
        (4 - self.0) as usize
    }

    /// The index as the paper prints it, 4 to -2.
    pub const fn value(self) -> i8 {
        self.0
    }
}

/// Heights between neighbouring classes, µm of defocus (positive: the lens is too far from the slide).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEdges {
    /// |z| up to here is index 0.
    pub in_focus_um: f64,
    /// Beyond it on the far side index 1 becomes 2, on the near side -1 becomes -2.
    pub near_um: f64,
    /// Index 2 becomes 3.
    pub middle_um: f64,
    /// Index 3 becomes 4.
    pub far_um: f64,
}

impl ClassEdges {
    /// Edges at 0.5, 3.5, 8 and 21 total depths of field.
    pub fn for_objective(objective: &Objective) -> Self {
        let depth_um = objective.depth_of_field_um();
        Self {
            in_focus_um: 0.5 * depth_um,
            near_um: 3.5 * depth_um,
            middle_um: 8.0 * depth_um,
            far_um: 21.0 * depth_um,
        }
    }

    /// The class of a defocus; a height exactly on an edge belongs to the class nearer to focus.
    pub fn classify(&self, defocus: Micrometres) -> DistanceIndex {
        let z_um = defocus.0;
        let index = if z_um.abs() <= self.in_focus_um {
            0
        } else if z_um < 0.0 {
            if z_um >= -self.near_um { -1 } else { -2 }
        } else if z_um <= self.near_um {
            1
        } else if z_um <= self.middle_um {
            2
        } else if z_um <= self.far_um {
            3
        } else {
            4
        };
        DistanceIndex(index)
    }
}

impl ClassEdges {
    /// Least and greatest signed defocus of a class, µm; infinite where it has no end.
    pub fn bounds(&self, index: DistanceIndex) -> (f64, f64) {
        match index.value() {
            4 => (self.far_um, f64::INFINITY),
            3 => (self.middle_um, self.far_um),
            2 => (self.near_um, self.middle_um),
            1 => (self.in_focus_um, self.near_um),
            0 => (-self.in_focus_um, self.in_focus_um),
            -1 => (-self.near_um, -self.in_focus_um),
            _ => (f64::NEG_INFINITY, -self.near_um),
        }
    }
}

impl Default for ClassEdges {
    fn default() -> Self {
        Self::for_objective(&Objective::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_run_from_far_to_close() {
        for (class, index) in DistanceIndex::ALL.into_iter().enumerate() {
            assert_eq!(index.class(), class);
            assert_eq!(DistanceIndex::from_class(class), index);
        }
    }

    #[test]
    fn bounds_are_where_the_class_changes() {
        let edges = ClassEdges::default();
        for index in DistanceIndex::ALL {
            let (low, high) = edges.bounds(index);
            for (inside, outside) in [(low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)] {
                if inside.is_finite() {
                    assert_eq!(edges.classify(Micrometres(inside)), index);
                    assert_ne!(edges.classify(Micrometres(outside)), index);
                }
            }
        }
    }

    #[test]
    fn edges_of_the_default_objective() {
        let edges = ClassEdges::default();
        for (z_um, expected) in [
            (0.0, 0),
            (0.71, 0),
            (-0.71, 0),
            (0.73, 1),
            (4.9, 1),
            (5.1, 2),
            (11.3, 2),
            (11.6, 3),
            (29.9, 3),
            (30.3, 4),
            (500.0, 4),
            (-0.73, -1),
            (-4.9, -1),
            (-5.1, -2),
            (-60.0, -2),
        ] {
            assert_eq!(edges.classify(Micrometres(z_um)).value(), expected, "{z_um} µm");
        }
    }
}
