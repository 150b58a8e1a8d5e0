//! Limits bind what is observed as well as what is commanded.
//!
//! Commands that lead outside are cut or refused. But the controller may do something else than it was told: its steps per
//! millimetre may be wrong, its direction reversed. So each report is compared with the plan. Far from the limits three
//! contradictions in a row end the motion; near the lower one the first does, and there the stage is slow enough that little
//! happens until then.

use std::time::Duration;

use super::trust::REPORT_TOLERANCE_UM;
use super::{GrblHost, Manoeuvre, ms};
use crate::units::Instant;

/// Period of reports near the lower limit.
pub(super) const NEAR_POLL: Duration = Duration::from_millis(20);
/// What the plan does not know of the time of a turn, s.
const TURN_S: f64 = 0.05;
/// How far a controller may run ahead of the plan on a steady way, s.
const LEAD_S: f64 = 0.015;
/// The same after a change from so slow that not every piece of the plan is a jog of its own, s: the longest queue of such pieces.
const HURRY_S: f64 = 0.08;
/// Speed below which that happens, µm/s.
pub(super) const SPARSE_UM_PER_S: f64 = 40.0;
/// Factors that have a usual cause: no motion, a reversed axis, other steps/mm, microsteps or gears.
const FACTORS: [f64; 7] = [0.0, -1.0, 0.1, 0.5, 1.5, 2.0, 10.0];
/// Reports in a row that must contradict the expected position before it counts as lost.
pub(super) const CONTRADICTIONS: u32 = 3;

impl GrblHost {
    /// Why a reported height ends the motion at once, if it does.
    pub(super) fn violation(&self, z_um: f64) -> Option<String> {
        let slack_um = REPORT_TOLERANCE_UM + self.firmware.z_step_um();
        let what = self.guard.violation(self.motion_from_um, z_um, slack_um)?;
        Some(format!("{what}{}; the position is lost", self.cause(z_um)))
    }

    /// Whether a reported height cannot be: beyond the way that is queued, with a margin for timing, which near the limit is small.
    pub(super) fn contradicts(&self, z_um: f64, at: Instant) -> bool {
        let ago = |ms: u64| Instant::from_nanos(at.as_nanos().saturating_sub(ms * 1_000_000));
        let places =
            [ago(150), ago(100), ago(50), at, at + ms(30)].map(|at| self.position.expected.position_um(at));
        let lowest = places.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let is_near = self.guard.is_near_limit(z_um.min(lowest));
        let slack_um = if is_near {
            4.0 + TURN_S * self.guard.speed_at(highest).min(self.top_speed())
        } else {
            let top = self.top_speed();
            5.0 + top * top / (2.0 * self.firmware.um_per_s2[2].unwrap_or(10_000.0))
        };
        // A controller may fall behind the plan. On a steady way down it runs ahead of it by the pauses of ramps at most.
        let is_descending = places.is_sorted_by(|earlier, later| earlier >= later);
        let slack_below_um = if is_near && is_descending {
            2.0 + LEAD_S * self.guard.speed_at(highest)
        } else {
            slack_um
        };
        let hurry_um = if at < self.hurried_until {
            HURRY_S * self.guard.speed_at(highest)
        } else {
            0.0
        };
        let step_um = self.firmware.z_step_um() + hurry_um;
        !(lowest - slack_below_um - step_um..=highest + slack_um + step_um).contains(&z_um)
    }

    /// A report contradicts the motion.
    pub(super) fn handle_contradiction(&mut self, z_um: f64, now: Instant) {
        self.position.contradictions += 1;
        let is_low = self.guard.is_near_limit(z_um) && z_um < self.position.expected.position_um(now);
        if self.position.contradictions >= CONTRADICTIONS || is_low {
            let cause = self.cause(z_um);
            self.reset_in_fault(
                &format!("the reported position contradicts the motion{cause}; the position is lost"),
                now,
            );
        }
    }

    /// What a wrong height makes of the motion so far: a sentence's part, or nothing where it shows nothing.
    pub(super) fn cause(&self, z_um: f64) -> String {
        let sent_um = self.position.expected.position_um(self.clock) - self.motion_from_um;
        likely_cause(sent_um, z_um - self.motion_from_um)
    }

    /// Whether the motion under way is one that reports are compared with limits.
    pub(super) fn is_watched(&self) -> bool {
        !matches!(self.manoeuvre, Manoeuvre::Rest | Manoeuvre::Homing { .. })
    }

    /// Whether a reported height is compared with the plan: not while a queue is cancelled, which ends anywhere; and a first motion
    /// that goes too far upwards is to show how far.
    pub(super) fn is_compared(&self, z_um: f64) -> bool {
        !(self.resync || self.is_checking() && z_um > self.motion_from_um)
    }
}

/// What explains that a stage told to go `sent_um` went `went_um`: `": …"`, or nothing if too little was sent to say.
pub(super) fn likely_cause(sent_um: f64, went_um: f64) -> String {
    if sent_um.abs() < 1.5 {
        return String::new();
    }
    // Heights are reported in whole micrometres: a factor that fits is as good as the quotient.
    let fits = |factor: &&f64| (went_um - *factor * sent_um).abs() <= REPORT_TOLERANCE_UM;
    let off = |factor: &f64| (went_um - factor * sent_um).abs();
    let factor = FACTORS
        .iter()
        .filter(fits)
        .min_by(|a, b| off(a).total_cmp(&off(b)));
    let ratio = factor.copied().unwrap_or(went_um / sent_um);
    let explanation = match ratio {
        r if r.abs() < 0.02 => "it hardly moves: check the steps/mm ($102; a tenth of what is right?) and the power of the motors".to_owned(),
        r if r < 0.0 => "z runs the wrong way (times -1): reverse it with $3 or at the motor".to_owned(),
        r if (0.035..0.045).contains(&r) || (20.0..32.0).contains(&r) => {
            "millimetres and inches are mixed up (times 25.4): set $13=0 and check $102".to_owned()
        }
        r => format!("z goes {r:.1} times as far as told: check the steps/mm ($102)"),
    };
    format!(": {explanation}")
}

#[cfg(test)]
mod tests {
    use super::likely_cause;

    #[test]
    fn causes_are_named() {
        for (sent_um, went_um, expected) in [
            (5.0, -5.0, "wrong way"),
            (5.0, 7.5, "1.5 times"),
            (5.0, 8.0, "1.5 times"),
            (5.0, 127.0, "25.4"),
            (50.0, 2.0, "25.4"),
            (50.0, 5.0, "0.1 times"),
            (5.0, 0.0, "hardly moves"),
        ] {
            let cause = likely_cause(sent_um, went_um);
            assert!(cause.contains(expected), "{sent_um} {went_um}: {cause}");
        }
        assert_eq!(likely_cause(0.5, 20.0), "");
    }
}
