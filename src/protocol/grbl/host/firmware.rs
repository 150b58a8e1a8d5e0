//! What the controller said about itself: version and settings.

use std::collections::BTreeMap;

use crate::protocol::grbl::command::Distance;
use crate::stage::identity::Identity;

/// Settings that decide where a motion goes: directions of motors and of homing, steps per millimetre.
const DECISIVE: [u16; 5] = [3, 23, 100, 101, 102];

/// What the controller said about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Firmware {
    pub(super) welcome: String,
    pub(super) version: String,
    /// Version with its date, what its owner wrote behind it, options.
    release: String,
    build: String,
    options: String,
    decisive: BTreeMap<String, String>,
    pub(super) idle_lock: Option<f64>,
    /// Whether positions are reported in inches; None while the controller has not said.
    pub(super) inches: Option<bool>,
    pub(super) z_steps_per_mm: Option<f64>,
    pub(super) max_um_per_s: [Option<f64>; 3],
    pub(super) um_per_s2: [Option<f64>; 3],
}

impl Firmware {
    pub(super) fn name(&self) -> String {
        if !self.version.is_empty() {
            format!("GRBL {}", self.version)
        } else if !self.welcome.is_empty() {
            self.welcome.replacen("Grbl", "GRBL", 1)
        } else {
            String::new()
        }
    }

    /// Takes `[VER:1.1h.20190830:what its owner wrote]`.
    pub(super) fn take_version(&mut self, text: &str) {
        let (release, build) = text.split_once(':').unwrap_or((text, ""));
        self.version = release.split('.').take(2).collect::<Vec<_>>().join(".");
        (self.release, self.build) = (release.to_owned(), build.to_owned());
    }

    /// Takes `[OPT:V,15,128]`.
    pub(super) fn take_options(&mut self, text: &str) {
        self.options = text.to_owned();
    }

    /// Which controller it is; None while it has not said its version.
    pub(super) fn identity(&self) -> Option<Identity> {
        (!self.release.is_empty()).then(|| Identity {
            firmware: format!("GRBL {}", self.release),
            build: self.build.clone(),
            options: self.options.clone(),
            settings: self.decisive.clone(),
        })
    }

    pub(super) fn take_setting(&mut self, number: u16, value: Distance) {
        if DECISIVE.contains(&number) {
            self.decisive.insert(format!("${number}"), value.mm().to_string());
        }
        let value = value.mm();
        match number {
            1 => self.idle_lock = Some(value),
            13 => self.inches = Some(value != 0.0),
            102 => self.z_steps_per_mm = (value > 0.0).then_some(value),
            110..=112 => self.max_um_per_s[usize::from(number - 110)] = (value > 0.0).then_some(value / 0.06),
            120..=122 => self.um_per_s2[usize::from(number - 120)] = (value > 0.0).then_some(value * 1000.0),
            _ => {}
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.idle_lock.is_some_and(|ms| ms != 255.0) {
            warnings.push(
                "the motors are switched off between motions, which lets the lens sag and slows stops: set $1=255"
                    .to_owned(),
            );
        }
        warnings
    }

    pub(super) fn z_step_um(&self) -> f64 {
        self.z_steps_per_mm.map_or(0.0, |steps| 1000.0 / steps)
    }
}
