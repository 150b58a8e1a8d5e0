//! The strategies that are compared, with their settings.

use super::ours::Ours;
use super::search::{Brent, HillClimb, Planes, Searcher, StepCnn, Sweep};
use super::strategy::Strategy;
use crate::classes::ClassEdges;
use crate::focus::{FocusConfig, FocusConfigError, FocusController, Law, Sweeping};
use crate::objective::Objective;
use crate::units::StageHeight;

/// Heights that all of them may use, µm from where the stage was powered up: as far as the usual stage goes.
const Z_RANGE_UM: (f64, f64) = (-2000.0, 2000.0);
/// The settings of the rivals are those for a 40x/0.65; for another objective lengths grow with its depth of field.
const SETTINGS_FOR: &str = "40x0.65";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// [`Law::Predictive`].
    Predictive,
    /// [`Law::Predictive`], then refined by sharpness.
    Refined,
    /// [`Law::Stepwise`].
    Stepwise,
    /// [`Law::Paper`].
    Paper,
    /// Micro-Manager's OughtaFocus: Brent's search over Tenengrad, tolerance 1 µm.
    Brent,
    /// OpenFlexure's fast autofocus: sweep at 62 µm/s and return to the largest JPEG.
    Sweep,
    /// ImSwitch's hill climb: steps of 20 µm halved to 1 µm, 0.1 s of rest after each.
    HillClimb,
    /// Remoscope's steps by a network: batches of 20 frames until one is within two steps.
    StepCnn,
    /// Stacks of 17 planes, the parabola through the peak of Tenengrad.
    Tenengrad17,
}

impl Method {
    /// All of them, ours first.
    pub const ALL: [Self; 9] = [
        Self::Predictive,
        Self::Refined,
        Self::Stepwise,
        Self::Paper,
        Self::Brent,
        Self::Sweep,
        Self::HillClimb,
        Self::StepCnn,
        Self::Tenengrad17,
    ];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Predictive => Law::Predictive.name(),
            Self::Refined => "refined",
            Self::Stepwise => Law::Stepwise.name(),
            Self::Paper => Law::Paper.name(),
            Self::Brent => "brent",
            Self::Sweep => "sweep",
            Self::HillClimb => "hill_climb",
            Self::StepCnn => "step_cnn",
            Self::Tenengrad17 => "tenengrad_17",
        }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// A fresh one for this objective. All drive at most at the speed of the default control law.
    pub(super) fn strategy(self, objective: &Objective) -> Result<Box<dyn Strategy>, FocusConfigError> {
        let depth_um = objective.depth_of_field_um();
        let usual_um = Objective::by_name(SETTINGS_FOR).map_or(depth_um, |usual| usual.depth_of_field_um());
        let um = |um: f64| um * depth_um / usual_um;
        let speed = FocusConfig::default().speed_um_per_s;
        Ok(match self {
            Self::Predictive => Box::new(ours(Law::Predictive, false, objective)?),
            Self::Refined => Box::new(ours(Law::Predictive, true, objective)?),
            Self::Stepwise => Box::new(ours(Law::Stepwise, false, objective)?),
            Self::Paper => Box::new(ours(Law::Paper, false, objective)?),
            Self::Brent => Box::new(Searcher::new(Brent::new(um(1.0)), speed)),
            Self::Sweep => Box::new(Searcher::new(Sweep::new(um(62.0)), speed)),
            Self::HillClimb => Box::new(Searcher::new(HillClimb::new(um(20.0), um(1.0)), speed)),
            Self::StepCnn => Box::new(Searcher::new(StepCnn::new(0.5 * depth_um), speed)),
            Self::Tenengrad17 => Box::new(Searcher::new(Planes::new(depth_um), speed)),
        })
    }
}

fn ours(law: Law, refines: bool, objective: &Objective) -> Result<Ours, FocusConfigError> {
    let config = FocusConfig {
        law,
        refines,
        edges: ClassEdges::for_objective(objective),
        z_min: StageHeight::from_um(Z_RANGE_UM.0),
        z_max: StageHeight::from_um(Z_RANGE_UM.1),
        // Up is up on the virtual stand.
        sweeping: Sweeping::Always,
        ..FocusConfig::default()
    };
    Ok(Ours::new(FocusController::new(config.checked()?)))
}
