//! What the classifier counts for its diagnostics.

use super::super::frames::{FrameTally, to_text};
use crate::estimate::classifier::{Doubt, Estimate};
use crate::ros::diagnostics::Severity;
use crate::ros::managed::Base;
use crate::ros::presence::Work;
use crate::statistics::median;

/// Numbers for the diagnostics of one second.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) frames: FrameTally,
    pub(super) refused: u64,
    /// Of them, for their stamps.
    pub(super) bad_stamps: u64,
    /// Stamps replaced by the time of arrival.
    pub(super) restamped: u64,
    /// Exposed before the node was activated.
    pub(super) outdated: u64,
    /// Judged, but not trusted, and why last.
    pub(super) untrusted: u64,
    pub(super) last_refusal: String,
    pub(super) last_doubt: Option<Doubt>,
    /// What frames are divided by.
    pub(super) flat_field: String,
    /// Patches that have no vote, because they were seen not to follow the lens.
    pub(super) left_out: usize,
    /// What was measured of the instrument.
    pub(super) calibration: String,
    pub(super) decision_ms: Vec<f64>,
}

impl Tally {
    /// Counts an estimate; whether its doubt is of another kind than the one before.
    pub(super) fn handle_estimate(&mut self, estimate: &Estimate) -> bool {
        let kind = |doubt: &Option<Doubt>| doubt.as_ref().map(std::mem::discriminant);
        self.untrusted += u64::from(!estimate.trusted);
        let is_news = kind(&self.last_doubt) != kind(&estimate.doubt);
        self.last_doubt = estimate.doubt;
        is_news
    }

    /// Bad stamps, replaced ones, outdated frames and untrusted estimates of this second.
    pub(super) fn take_counts(&mut self) -> [u64; 4] {
        [
            &mut self.bad_stamps,
            &mut self.restamped,
            &mut self.outdated,
            &mut self.untrusted,
        ]
        .map(std::mem::take)
    }
}

impl Tally {
    /// Publishes the second that is over, and begins the next.
    pub(super) fn report(&mut self, base: &mut Base, looks: bool) {
        let refusal = std::mem::take(&mut self.last_refusal);
        let refused = std::mem::take(&mut self.refused);
        let decision_ms = std::mem::take(&mut self.decision_ms);
        let [bad_stamps, restamped, outdated, untrusted] = self.take_counts().map(|count| count.to_string());
        let doubt = self
            .last_doubt
            .map_or_else(String::new, |doubt| doubt.to_string());
        let is_about_camera = self.last_doubt.is_some_and(|doubt| doubt.is_about_camera());
        let (severity, message) = match (self.frames.frames(), refused) {
            _ if !base.is_active() => (Severity::Warn, "not active"),
            _ if !looks => (Severity::Ok, "nothing takes estimates"),
            (0, 0) => (Severity::Warn, "no frame in the last second"),
            (_, 0) if is_about_camera => (Severity::Error, doubt.as_str()),
            (_, 0) => (Severity::Ok, "judging frames"),
            (_, _) => (Severity::Error, refusal.as_str()),
        };
        if !looks {
            self.frames.pause();
        }
        let slowest = decision_ms.iter().copied().max_by(f64::total_cmp);
        let [rate, drops, age, oldest] = self.frames.values();
        let values = [
            rate,
            drops,
            age,
            oldest,
            ("refused_per_second", refused.to_string()),
            ("bad_stamps_per_second", bad_stamps),
            ("stamps_replaced_per_second", restamped),
            ("outdated_per_second", outdated),
            ("untrusted_per_second", untrusted),
            ("last_doubt", doubt.clone()),
            ("flat_field", self.flat_field.clone()),
            ("patches_that_do_not_follow", self.left_out.to_string()),
            ("calibration", self.calibration.clone()),
            ("decision_ms_median", to_text(median(decision_ms))),
            ("decision_ms_most", to_text(slowest)),
        ];
        let work = match severity {
            Severity::Ok if looks => Work::Busy(message.into()),
            Severity::Ok | Severity::Warn => Work::Idle(message.into()),
            Severity::Error => Work::Fault(message.into()),
        };
        base.report(severity, message, &values, work);
    }
}
