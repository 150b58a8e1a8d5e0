//! Once through focus at one place, in one direction: what each frame showed.

use std::fmt;
use std::str::FromStr;

use crate::estimate::classifier::{Classifier, ClassifyError};
use crate::estimate::network::Network;
use crate::frame::Frame;

/// From where the lens came to each of the heights of a pass. It matters because a drive with play stands elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Approach {
    /// The last move went up.
    FromBelow,
    /// The last move went down.
    FromAbove,
}

impl Approach {
    /// As in the column `approach` of a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromBelow => "from_below",
            Self::FromAbove => "from_above",
        }
    }
}

impl fmt::Display for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Approach {
    type Err = UnknownApproach;

    fn from_str(name: &str) -> Result<Self, UnknownApproach> {
        [Self::FromBelow, Self::FromAbove]
            .into_iter()
            .find(|approach| approach.name() == name)
            .ok_or_else(|| UnknownApproach(name.to_owned()))
    }
}

/// A word that names no approach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "approach is '{0}': write from_below where the last move went up, from_above where it went down, or leave the cell empty"
)]
pub struct UnknownApproach(String);

/// What one frame showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Height that the stage says, µm; up is away from the slide.
    pub z_um: f64,
    /// Sharpness of the frame ([`crate::estimate::sharpness::tenengrad`]); none of one that shows nothing.
    pub sharpness: Option<f64>,
    /// Defocus as the network states it of a condenser that is not known, µm, where it is trusted.
    pub estimate_um: Option<f64>,
}

impl Look {
    /// What a frame shows that was taken at this height, by a classifier that is not told of the condenser.
    ///
    /// # Errors
    /// If the frame is smaller than a patch, or the network fails.
    pub fn of<N: Network>(
        z_um: f64,
        frame: &Frame,
        classifier: &mut Classifier<N>,
    ) -> Result<Self, ClassifyError> {
        let estimate = classifier.classify(frame)?;
        Ok(Self {
            z_um,
            sharpness: estimate.sharpness,
            estimate_um: estimate
                .defocus
                .filter(|_| estimate.trusted)
                .map(|defocus| defocus.0),
        })
    }
}

/// Once through focus.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Name of the place.
    pub field: String,
    /// From where its heights were reached, if that is known.
    pub approach: Option<Approach>,
    /// The frames, in any order.
    pub looks: Vec<Look>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn approaches_have_names() {
        for approach in [Approach::FromBelow, Approach::FromAbove] {
            assert_eq!(approach.to_string().parse::<Approach>().unwrap(), approach);
        }
        let message = "up".parse::<Approach>().unwrap_err().to_string();
        assert!(
            message.contains("'up'") && message.contains("from_below"),
            "{message}"
        );
    }
}
