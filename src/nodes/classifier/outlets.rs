//! What the classifier says: estimates, refusals, by which files frames are judged.

use std::sync::Arc;
use std::time::Duration;

use r2r::hhnet::msg::FocusEstimate;
use r2r::std_msgs::msg::{Header, String as Text};

use super::super::calibration::CalibrationInForce;
use super::super::demand::Taker;
use super::super::flat_field::FlatFieldInForce;
use super::super::frames::{BadShot, FrameInput, Preview, Shot};
use super::super::stamps::{self, StampError, StampSource};
use super::tally::Tally;
use crate::estimate::classifier::{Doubt, Estimate};
use crate::estimate::network::ModelCard;
use crate::ros::convert::header;
use crate::ros::node::Publisher;
use crate::units::Instant;

/// How a frame came.
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// Whether from another process, where clocks may differ.
    pub(super) is_foreign: bool,
}

impl Arrival {
    /// Of the frame that the input gave last.
    pub(super) fn of(input: &FrameInput, now: Instant) -> Self {
        let since = input.since_arrival();
        Self {
            at: now.before(since.unwrap_or_default()),
            is_foreign: since.is_some(),
        }
    }

    /// The stamp that counts, if it makes sense.
    pub(super) fn stamp(&self, frame: Instant, source: StampSource) -> Result<Instant, StampError> {
        match (self.is_foreign, source) {
            // Frames of this process have its clock, however late they are.
            (false, _) => Ok(frame),
            (true, StampSource::Arrival) => Ok(self.at),
            (true, StampSource::Message) => stamps::check(frame, self.at).map(|()| frame),
        }
    }

    /// The header of what is said of a frame that cannot be judged: its stamp, or its arrival where that makes no sense.
    pub(super) fn stamped(&self, frame: Instant, frame_id: &str) -> Header {
        header(
            self.stamp(frame, StampSource::Message).unwrap_or(self.at),
            frame_id,
        )
    }
}

pub(super) struct Outlets {
    /// The node's, for log lines.
    pub(super) name: String,
    pub(super) estimates: Publisher<FocusEstimate>,
    /// When the flat field in force was made.
    pub(super) flat_fields: Publisher<Text>,
    /// The focus controller.
    pub(super) taker: Taker,
    pub(super) overlay: Preview,
}

impl Outlets {
    /// Says by what frames are divided from now on.
    pub(super) fn tell_calibration(&self, calibration: &CalibrationInForce) {
        match calibration.error() {
            Some(reason) => tracing::error!(node = self.name, "{reason}"),
            None => tracing::info!(node = self.name, "calibration: {}", calibration.describe()),
        }
    }

    pub(super) fn tell_flat_field(&self, flat: &FlatFieldInForce) {
        tracing::info!(node = self.name, "flat field: {}", flat.describe());
        self.flat_fields.publish(&Text {
            data: flat.made().to_owned(),
        });
    }

    /// Whether anything takes estimates or pictures of them.
    pub(super) fn is_wanted(&self) -> bool {
        let subscriptions = self.estimates.subscriptions();
        self.taker.is_wanted(subscriptions) || self.overlay.is_wanted()
    }

    /// The shot with the stamp that counts; one that cannot be judged is refused.
    pub(super) fn admit(
        &self,
        shot: Result<Shot, BadShot>,
        arrival: &Arrival,
        source: StampSource,
        tally: &mut Tally,
        card: &ModelCard,
    ) -> Option<Shot> {
        let mut shot = match shot {
            Ok(shot) => shot,
            Err(bad) => {
                let of = arrival.stamped(bad.stamp, &bad.frame_id);
                self.refuse(bad.to_string(), of, tally, card);
                return None;
            }
        };
        match arrival.stamp(shot.frame.stamp, source) {
            Ok(stamp) if stamp == shot.frame.stamp => (),
            Ok(stamp) => {
                tally.restamped += 1;
                Arc::make_mut(&mut shot.frame).stamp = stamp;
            }
            Err(error) => {
                tally.bad_stamps += 1;
                let of = arrival.stamped(shot.frame.stamp, &shot.frame_id);
                self.refuse(error.to_string(), of, tally, card);
                return None;
            }
        }
        Some(shot)
    }

    /// Counts and tells a frame that cannot be judged, in the log and to the subscribers of estimates.
    pub(super) fn refuse(&self, reason: String, header: Header, tally: &mut Tally, card: &ModelCard) {
        tracing::warn!(node = self.name, "frame refused: {reason}");
        let estimate = FocusEstimate {
            header,
            reason: reason.clone(),
            ..to_message(&Estimate::UNKNOWN, Duration::ZERO, &card.model_id)
        };
        tally.refused += 1;
        tally.last_refusal = reason;
        self.estimates.publish(&estimate);
    }

    /// Counts and publishes an estimate; what is wrong with the camera is told once.
    pub(super) fn publish(
        &self,
        shot: &Shot,
        estimate: &Estimate,
        left_out: usize,
        decision: Duration,
        tally: &mut Tally,
        card: &ModelCard,
    ) {
        tally.decision_ms.push(1e3 * decision.as_secs_f64());
        if tally.handle_estimate(estimate)
            && let Some(doubt) = estimate.doubt.filter(Doubt::is_about_camera)
        {
            tracing::warn!(node = self.name, "frames are not trusted: {doubt}");
        }
        let message = FocusEstimate {
            header: header(shot.frame.stamp, &shot.frame_id),
            patches_left_out: left_out as u16,
            ..to_message(estimate, decision, &card.model_id)
        };
        self.estimates.publish(&message);
    }
}

fn to_message(estimate: &Estimate, decision: Duration, model_id: &Arc<str>) -> FocusEstimate {
    FocusEstimate {
        distance_index: estimate.index.value(),
        certainty: estimate.certainty,
        probabilities: estimate.probabilities.to_vec(),
        defocus: estimate.defocus.map_or(f64::NAN, |defocus| defocus.as_metres()),
        defocus_stddev: estimate
            .defocus_stddev
            .map_or(f64::NAN, |stddev| stddev.as_metres()),
        sharpness: estimate.sharpness.unwrap_or(f64::NAN),
        patches_used: estimate.patches_used as u16,
        trusted: estimate.trusted,
        reason: estimate.doubt.map_or_else(String::new, |doubt| doubt.to_string()),
        decision_time: decision.as_secs_f64(),
        model_id: model_id.to_string(),
        ..FocusEstimate::default()
    }
}
