//! A bounded move under way: a velocity for a time, or a height to drive to.

use std::time::Duration;

use super::{StageMotion, StageReport};
use crate::units::Instant;

/// Longest time that a stage is expected to move on after it was told to stop, and the shortest time for which it is told to move.
const MOST_OVERRUN_S: f64 = 0.2;
pub(super) const LEAST_COMMAND_S: f64 = 0.03;

/// A stage that stands so near to the height it was sent to is there, µm; and the time after which one that stands has heard of it.
const THERE_UM: f64 = 0.2;
const HEARD: Duration = Duration::from_millis(100);
/// Way in the wrong direction that is another motion than the one commanded, µm. Before the first motion after its start the bridge goes up
/// and compares; what was decided before that is decided anew, by a look from there.
const ASTRAY_UM: f64 = 1.0;
/// What a move to a height may take beyond its length at its speed: the check of a first motion, ramps, the link.
pub(super) const TARGET_PATIENCE: Duration = Duration::from_millis(1500);

/// A bounded move under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub velocity_um_per_s: f64,
    pub began: Instant,
    /// When the command ends; of a move to a height, when patience with it ends.
    pub until: Instant,
    pub from_um: f64,
    /// The height that it ends at, µm, for a law that commands heights.
    pub goal_um: Option<f64>,
}

impl Step {
    /// For how long the stage moved on, s, by where it stands now; none where that is too small to tell.
    pub(super) fn overrun_s(&self, z_um: f64) -> Option<f64> {
        if self.goal_um.is_some() {
            return None;
        }
        let travel_um = (z_um - self.from_um) * self.velocity_um_per_s.signum();
        let commanded_s = self.until.since(self.began).as_secs_f64();
        let overrun_s = travel_um / self.velocity_um_per_s.abs() - commanded_s;
        (travel_um > 2.0).then_some(overrun_s.clamp(0.0, MOST_OVERRUN_S))
    }

    /// Goes on no faster than that, µm/s, and has the time it takes.
    pub(super) fn slow_down(&mut self, um_per_s: f64, now: Instant) {
        if um_per_s < self.velocity_um_per_s.abs() {
            let left = self.until.since(now).as_secs_f64() * self.velocity_um_per_s.abs() / um_per_s;
            self.velocity_um_per_s = um_per_s.copysign(self.velocity_um_per_s);
            self.until = now + Duration::from_secs_f64(left);
        }
    }

    /// Whether a report shows the end of a move to a height: the stage stands, there or long enough after the command to have heard it.
    pub(super) fn is_ended_by(&self, report: &StageReport) -> bool {
        let (Some(goal_um), Some(z)) = (self.goal_um, report.z) else {
            return false;
        };
        let is_there = (z.um() - goal_um).abs() <= THERE_UM && report.at > self.began;
        report.motion == StageMotion::Still && (is_there || report.at >= self.began + HEARD)
    }

    /// Whether the stage goes the other way than to the height it was sent to: it was not this command that moves it.
    pub(super) fn is_astray(&self, report: &StageReport) -> bool {
        let way_um = report.z.map_or(0.0, |z| z.um() - self.from_um);
        self.goal_um.is_some() && way_um * self.velocity_um_per_s.signum() < -ASTRAY_UM
    }
}
