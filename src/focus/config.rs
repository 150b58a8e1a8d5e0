//! The settings of a run, checked in one place.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classes::ClassEdges;
use crate::units::StageHeight;

/// Which control law turns estimates into motion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// Algorithm 1: index 4 at the default speed, else 0.2 x default speed x index, until index 0.
    Paper,
    /// The same speeds, in bounded steps with a look after each.
    Stepwise,
    /// The same looks, and heights to drive to between them, at the speed of the stage.
    #[default]
    Predictive,
}

impl Law {
    /// As the parameter `mode` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Stepwise => "stepwise",
            Self::Predictive => "predictive",
        }
    }
}

/// Where a run may sweep the permitted range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sweeping {
    /// Nowhere.
    Never,
    /// On a stage that the picture was seen to follow, in this run or since the position was lost last: up is known to be up.
    #[default]
    Known,
    /// On any stage: what leads up by its own word may lead to the slide.
    Always,
}

/// What a run is asked for, beyond the settings in force.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The control law; none for that of the settings.
    pub law: Option<Law>,
    /// Time that the run may take; none for that of the settings.
    pub limit: Option<Duration>,
    /// Farthest the lens may go from where the run begins, µm; none for the whole permitted range.
    pub reach_um: Option<f64>,
    /// Remaining defocus that is not worth another move, depths of field; none for that of the settings.
    pub tolerance_depths: Option<f64>,
    /// Whether the confirmation of an earlier run does not count.
    pub confirms_anew: bool,
    /// Whether focus is refined by sharpness, once it is found.
    pub refines: bool,
    /// Whether focus is to be kept, once it is found, until the run is ended from outside.
    pub holds: bool,
}

/// Most play that a drive may have, µm.
const MOST_PLAY_UM: f64 = 1000.0;

/// Checked settings of the controller.
#[derive(Clone, Debug, PartialEq)]
pub struct FocusConfig {
    /// The control law.
    pub law: Law,
    /// The paper's default speed, µm/s.
    pub default_speed_um_per_s: f64,
    /// Predictive: greatest speed, µm/s; the stage has its own limits.
    pub speed_um_per_s: f64,
    /// Heights between the classes, which bound the steps.
    pub edges: ClassEdges,
    /// Lowest permitted height of the lens, stage coordinates.
    pub z_min: StageHeight,
    /// Highest permitted height of the lens, stage coordinates.
    pub z_max: StageHeight,
    /// An estimate exposed longer ago than this is not acted on.
    pub estimate_timeout: Duration,
    /// Paper: motion ends when the newest estimate was exposed longer ago than this. The law moves until it hears otherwise,
    /// so this is how long it moves blind.
    pub motion_timeout: Duration,
    /// Predictive, stepwise: remaining defocus that is not worth another move, depths of field.
    pub tolerance_depths: f64,
    /// Predictive: whether the permitted range is swept where no estimate can be trusted.
    pub sweeping: Sweeping,
    /// How far the motor turns before the lens follows, µm, 0 to 1000, as it was measured; 0 if it was not. It is learnt further on the way.
    pub play_um: f64,
    /// Whether the confirmation of an earlier run does not count.
    pub confirms_anew: bool,
    /// Whether focus is refined by sharpness, once it is found.
    pub refines: bool,
    /// Rest between standstill and the first exposure that counts.
    pub settle: Duration,
    /// Time after which a run that has not reached focus, or not again, is given up.
    pub run_timeout: Duration,
}

impl Default for FocusConfig {
    fn default() -> Self {
        Self {
            law: Law::default(),
            default_speed_um_per_s: 223.7,
            speed_um_per_s: 500.0,
            edges: ClassEdges::default(),
            z_min: StageHeight::from_um(-100.0),
            z_max: StageHeight::from_um(300.0),
            estimate_timeout: Duration::from_millis(1000),
            motion_timeout: Duration::from_millis(250),
            tolerance_depths: 0.35,
            sweeping: Sweeping::default(),
            play_um: 0.0,
            confirms_anew: false,
            refines: false,
            settle: Duration::from_millis(30),
            run_timeout: Duration::from_secs(30),
        }
    }
}

impl FocusConfig {
    /// The settings of a run that is asked for from this height: never wider limits than these.
    pub fn narrowed(&self, wanted: &Wanted, z: Option<StageHeight>) -> Self {
        let mut this = self.clone();
        this.law = wanted.law.unwrap_or(self.law);
        this.tolerance_depths = wanted.tolerance_depths.unwrap_or(self.tolerance_depths);
        this.confirms_anew |= wanted.confirms_anew;
        this.refines |= wanted.refines;
        if let Some((reach_um, z)) = wanted.reach_um.zip(z) {
            this.z_min = StageHeight::from_um(self.z_min.um().max(z.um() - reach_um));
            this.z_max = StageHeight::from_um(self.z_max.um().min(z.um() + reach_um));
        }
        this
    }

    /// The same settings if they make sense.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn checked(self) -> Result<Self, FocusConfigError> {
        let positive = |name: &'static str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(FocusConfigError::NotPositive { name, value })
            }
        };
        positive("default_speed", self.default_speed_um_per_s)?;
        positive("speed", self.speed_um_per_s)?;
        positive("estimate_timeout", self.estimate_timeout.as_secs_f64())?;
        positive("motion_timeout", self.motion_timeout.as_secs_f64())?;
        positive("run_timeout", self.run_timeout.as_secs_f64())?;
        positive("tolerance", self.tolerance_depths)?;
        if !(0.0..=MOST_PLAY_UM).contains(&self.play_um) {
            return Err(FocusConfigError::Play { um: self.play_um });
        }
        // Written so that NaN is refused too.
        if !(self.z_min.um().is_finite() && self.z_max.um().is_finite() && self.z_min.um() < self.z_max.um())
        {
            return Err(FocusConfigError::Limits {
                z_min_um: self.z_min.um(),
                z_max_um: self.z_max.um(),
            });
        }
        Ok(self)
    }
}

/// A setting of the controller is out of range.
#[derive(Debug, thiserror::Error)]
pub enum FocusConfigError {
    /// A quantity that must be positive is not.
    #[error("{name} must be a positive number, not {value}")]
    NotPositive {
        /// The parameter.
        name: &'static str,
        /// Its value in SI units.
        value: f64,
    },
    /// No drive has that much play.
    #[error("the play of the drive is {um} µm: give 0 to {MOST_PLAY_UM} µm, or calibrate BACKLASH again")]
    Play {
        /// As given, µm.
        um: f64,
    },
    /// The permitted range is empty.
    #[error("z_min ({z_min_um} µm) must lie below z_max ({z_max_um} µm), both finite")]
    Limits {
        /// Lower limit, µm.
        z_min_um: f64,
        /// Upper limit, µm.
        z_max_um: f64,
    },
}
