//! The axes of a stage.

/// One axis of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Across the slide's long side.
    X,
    /// Across its short side.
    Y,
    /// Focus; up is away from the slide.
    Z,
}

impl Axis {
    /// All axes in the order every protocol lists them.
    pub const ALL: [Self; 3] = [Self::X, Self::Y, Self::Z];

    /// Position in an x, y, z array.
    pub const fn index(self) -> usize {
        match self {
            Self::X => 0,
            Self::Y => 1,
            Self::Z => 2,
        }
    }

    /// The upper-case letter of the axis.
    pub const fn letter(self) -> char {
        match self {
            Self::X => 'X',
            Self::Y => 'Y',
            Self::Z => 'Z',
        }
    }
}
