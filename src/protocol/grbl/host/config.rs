//! How a GRBL stage is driven: its parameters and their permitted ranges.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stage::host::StageConfig;

use super::{LIMIT_MARGIN_UM, PLAUSIBLE_UM, PLAUSIBLE_UM_PER_S, ms};

/// How the stage is driven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrblConfig {
    /// Duration of one jog, ms; 10 to 60.
    pub chunk_ms: u64,
    /// Most motion queued ahead, ms; at least one chunk, at most 250.
    pub lookahead_ms: u64,
    /// The same at and below `slow_um_per_s`, where a short stop matters more than smoothness.
    pub slow_lookahead_ms: u64,
    /// Speed up to which `slow_lookahead_ms` holds, µm/s.
    pub slow_um_per_s: f64,
    /// Age at which a velocity command no longer holds, ms.
    pub command_timeout_ms: u64,
    /// Permitted x, lowest and highest, µm in stage coordinates.
    pub x_range_um: (f64, f64),
    /// Permitted y.
    pub y_range_um: (f64, f64),
    /// Lowest permitted height, µm in stage coordinates.
    pub z_min_um: f64,
    /// Highest permitted height, µm.
    pub z_max_um: f64,
    /// Highest speed, µm/s.
    pub max_um_per_s: f64,
    /// Highest speed towards the slide (negative z), µm/s.
    pub max_down_um_per_s: f64,
    /// Queued motion up to this long is left to run out on a stop; longer is cancelled, ms.
    pub run_out_ms: u64,
    /// Period of status requests in motion, ms.
    pub poll_moving_ms: u64,
    /// Period of status requests at rest, ms.
    pub poll_idle_ms: u64,
    /// Time a status request may take, ms; three misses mean the controller is gone.
    pub reply_timeout_ms: u64,
    /// From writing a jog to the start of its motion, ms: transmission and parsing.
    pub link_delay_ms: u64,
}

impl Default for GrblConfig {
    fn default() -> Self {
        Self {
            chunk_ms: 25,
            lookahead_ms: 100,
            slow_lookahead_ms: 75,
            slow_um_per_s: 300.0,
            command_timeout_ms: 200,
            x_range_um: (-50_000.0, 50_000.0),
            y_range_um: (-50_000.0, 50_000.0),
            z_min_um: -2000.0,
            z_max_um: 2000.0,
            max_um_per_s: 1000.0,
            max_down_um_per_s: 500.0,
            run_out_ms: 80,
            poll_moving_ms: 50,
            poll_idle_ms: 100,
            reply_timeout_ms: 100,
            link_delay_ms: 5,
        }
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("GRBL stage: {0}")]
pub struct GrblConfigError(String);

impl GrblConfig {
    /// The defaults for a stage of these limits.
    pub fn for_stage(stage: &StageConfig) -> Self {
        Self {
            command_timeout_ms: stage.command_timeout_ms,
            x_range_um: stage.x_range_um,
            y_range_um: stage.y_range_um,
            z_min_um: stage.z_range_um.0,
            z_max_um: stage.z_range_um.1,
            max_um_per_s: stage.max_um_per_s,
            max_down_um_per_s: stage.max_down_um_per_s,
            ..Self::default()
        }
    }

    /// Refuses values that are out of range or contradict each other.
    ///
    /// # Errors
    /// A sentence naming the value and its range.
    pub fn check(&self) -> Result<(), GrblConfigError> {
        let whole = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(GrblConfigError(format!(
                    "{name} is {value}, but must be {low} to {high}"
                )))
            }
        };
        whole("chunk_ms", self.chunk_ms, 10, 60)?;
        whole("lookahead_ms", self.lookahead_ms, self.chunk_ms.max(60), 250)?;
        whole(
            "slow_lookahead_ms",
            self.slow_lookahead_ms,
            self.chunk_ms.max(50),
            250,
        )?;
        whole("command_timeout_ms", self.command_timeout_ms, 20, 1000)?;
        whole("run_out_ms", self.run_out_ms, 0, 250)?;
        whole("poll_moving_ms", self.poll_moving_ms, 10, 500)?;
        whole("poll_idle_ms", self.poll_idle_ms, 10, 1000)?;
        whole("reply_timeout_ms", self.reply_timeout_ms, 20, 1000)?;
        whole("link_delay_ms", self.link_delay_ms, 0, 50)?;
        for (name, value) in [
            ("slow_um_per_s", self.slow_um_per_s),
            ("max_um_per_s", self.max_um_per_s),
            ("max_down_um_per_s", self.max_down_um_per_s),
        ] {
            if !(value > 0.0 && value <= PLAUSIBLE_UM_PER_S) {
                return Err(GrblConfigError(format!(
                    "{name} is {value}, but must be above 0, at most 1e6 µm/s"
                )));
            }
        }
        for (name, axis) in [("x", 0), ("y", 1), ("z", 2)] {
            let (low, high) = self.range_um(axis);
            let is_plausible = low.abs() <= PLAUSIBLE_UM && high.abs() <= PLAUSIBLE_UM;
            if !is_plausible || high - low <= 2.0 * LIMIT_MARGIN_UM {
                return Err(GrblConfigError(format!(
                    "{name}_min {low} µm and {name}_max {high} µm must be within ±1e6 µm of the controller's zero, the first at least 2 µm lower"
                )));
            }
        }
        Ok(())
    }

    /// Permitted positions of x (0), y (1) or z, µm.
    pub fn range_um(&self, axis: usize) -> (f64, f64) {
        match axis {
            0 => self.x_range_um,
            1 => self.y_range_um,
            _ => (self.z_min_um, self.z_max_um),
        }
    }

    /// Most motion queued ahead at a speed.
    pub(super) fn lookahead(&self, um_per_s: f64) -> Duration {
        let slow = um_per_s.abs() <= self.slow_um_per_s;
        ms(if slow {
            self.slow_lookahead_ms
        } else {
            self.lookahead_ms
        })
    }
}
