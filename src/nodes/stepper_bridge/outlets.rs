//! What the bridge says of the stage: position, state, `~/state`, diagnostics.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use r2r::QosProfile;
use r2r::hhnet::msg::{About, StageState as StageStateMsg};
use r2r::sensor_msgs::msg::JointState;

use super::{CLOSED, StepperBridgeParameters};
use crate::ros::convert::header;
use crate::ros::diagnostics::Severity;
use crate::ros::managed::Base;
use crate::ros::node::{Builder, Publisher};
use crate::ros::presence::{Work, capabilities, limits};
use crate::stage::status::{StageState, StageStatus};
use crate::units::{Instant, Micrometres};

/// Silence of the driver after which nothing is known.
const STATUS_LIMIT: Duration = Duration::from_millis(500);

/// Time between two reports of a stage about which nothing changes; its driver asks no more often either.
const REST_PERIOD: Duration = Duration::from_millis(100);

/// What keeps the stage from moving, as a sentence; empty if nothing does.
fn trouble(status: &StageStatus) -> String {
    match status.state {
        StageState::Idle | StageState::Moving => String::new(),
        StageState::Fault => format!("stage fault: {}", status.reason),
        StageState::Disconnected => format!("stage disconnected: {}", status.reason),
    }
}

/// What is said of the stage: what its driver says, unless it has been silent too long, or no command is obeyed, for the reason `dispute`.
pub(super) fn said_of(status: &StageStatus, dispute: Option<&str>, silence: Duration) -> StageStatus {
    let is_known = !matches!(status.state, StageState::Disconnected | StageState::Fault);
    match dispute {
        _ if silence > STATUS_LIMIT && status.state != StageState::Disconnected => StageStatus {
            state: StageState::Disconnected,
            reason: "the driver of the stage has stopped: restart the stepper bridge".to_owned(),
            position_um: [f64::NAN; 3],
            position_valid: false,
            xy_valid: false,
            ..status.clone()
        },
        Some(dispute) if is_known => StageStatus {
            state: StageState::Fault,
            reason: dispute.to_owned(),
            ..status.clone()
        },
        _ => status.clone(),
    }
}

pub(super) struct Outlets {
    joints: Publisher<JointState>,
    states: Publisher<StageStateMsg>,
    port: String,
    /// Limits in force, by parameter; m and m/s.
    limits: [(&'static str, f64); 7],
    /// Height of the driver's zero.
    zero: Micrometres,
    /// How often `~/stop` was called.
    stops: u32,
    /// That the commander went in a motion, until it is back, another node commands, or the fault is cleared.
    orphaned: Option<String>,
    /// What was published last, and when.
    published: Option<(StageStateMsg, Instant)>,
    /// The trouble that the log told last.
    reported: String,
    /// Until when a controller that has not answered yet is no trouble: it boots when the port is opened.
    patient_until: Instant,
}

impl Outlets {
    /// # Errors
    /// If ROS refuses a topic.
    pub(super) fn new(
        node: &mut Builder,
        port: &Path,
        parameters: &StepperBridgeParameters,
        zero: Micrometres,
    ) -> Result<Self> {
        let microscope = &parameters.microscope;
        Ok(Self {
            joints: node.publisher("joint_states", QosProfile::default())?,
            states: node.publisher("stage_state", QosProfile::default())?,
            port: port.display().to_string(),
            limits: [
                ("x_min", microscope.x_min),
                ("x_max", microscope.x_max),
                ("y_min", microscope.y_min),
                ("y_max", microscope.y_max),
                ("z_min", microscope.z_min),
                ("z_max", microscope.z_max),
                ("max_speed", parameters.max_speed),
            ],
            zero,
            stops: 0,
            orphaned: None,
            published: None,
            reported: String::new(),
            patient_until: Instant::default(),
        })
    }

    /// Height of the driver's zero.
    pub(super) fn zero(&self) -> Micrometres {
        self.zero
    }

    /// The controller may boot until then.
    pub(super) fn expect_answer_by(&mut self, deadline: Instant) {
        self.patient_until = deadline;
    }

    /// `~/stop` was called once more.
    pub(super) fn count_stop(&mut self) {
        self.stops = self.stops.wrapping_add(1);
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.is_some()
    }

    /// That the commander went in a motion, as a sentence.
    pub(super) fn set_orphaned(&mut self, gone: Option<String>) {
        self.orphaned = gone;
    }

    /// Position and state.
    pub(super) fn report(&mut self, status: &StageStatus, base: &mut Base) {
        let now = base.now();
        // What has never been in touch knows no time.
        let at = if status.state == StageState::Disconnected {
            now
        } else {
            status.stamp
        };
        self.present(status, base);
        let trouble = self.orphaned.clone().unwrap_or_else(|| trouble(status));
        let booting = status.state == StageState::Disconnected && now < self.patient_until;
        if trouble != self.reported && !booting {
            if !trouble.is_empty() {
                tracing::warn!(node = base.name, "{trouble}");
            }
            self.reported = trouble;
        }
        let [x, y, z] = status.position_um.map(|um| um * 1e-6);
        let z = z + self.zero.as_metres();
        let state = match status.state {
            StageState::Disconnected => StageStateMsg::DISCONNECTED as u8,
            StageState::Idle => StageStateMsg::IDLE as u8,
            StageState::Moving => StageStateMsg::MOVING as u8,
            StageState::Fault => StageStateMsg::FAULT as u8,
        };
        let message = StageStateMsg {
            header: header(at, ""),
            state,
            reason: status.reason.clone(),
            z,
            position_valid: status.position_valid,
            xy_valid: status.xy_valid,
            firmware: status.firmware.clone(),
            stops: self.stops,
        };
        if status.state != StageState::Moving && self.is_old_news(&message, now) {
            return;
        }
        self.joints.publish(&JointState {
            header: message.header.clone(),
            name: ["x", "y", "z"].map(str::to_owned).to_vec(),
            position: vec![x, y, z],
            velocity: vec![0.0, 0.0, status.z_um_per_s * 1e-6],
            effort: Vec::new(),
        });
        self.states.publish(&message);
        self.published = Some((message, now));
    }

    /// Whether the same was published a short while ago; the times in it do not count.
    fn is_old_news(&self, message: &StageStateMsg, now: Instant) -> bool {
        self.published.as_ref().is_some_and(|(published, at)| {
            let same_but_for_its_time = StageStateMsg {
                header: published.header.clone(),
                ..message.clone()
            };
            now.since(*at) < REST_PERIOD && *published == same_but_for_its_time
        })
    }

    fn present(&self, status: &StageStatus, base: &mut Base) {
        let is_active = base.is_active();
        base.presence.set(match (status.state, &self.orphaned) {
            (StageState::Fault | StageState::Disconnected, _) => Work::Fault(status.reason.as_str().into()),
            _ if !is_active => Work::inactive(),
            (_, Some(orphaned)) => Work::Fault(orphaned.as_str().into()),
            (StageState::Moving, None) => Work::Busy("moving".into()),
            (StageState::Idle, None) => Work::Idle("".into()),
        });
        base.presence.introduce(About {
            capabilities: capabilities(&[
                "move_stage",
                "cmd_vel",
                "cmd_target",
                "joint_states",
                "stage_state",
                "~/stop",
                "~/clear_fault",
                "~/home",
                "~/accept_position",
            ]),
            limits: limits(self.limits),
            device: format!("{} {}", self.port, status.firmware).trim_end().to_owned(),
            ..About::default()
        });
    }

    /// Without a stage nothing is known of it, and it must not be taken for standing still.
    pub(super) fn let_go(&self, now: Instant) {
        self.states.publish(&StageStateMsg {
            header: header(now, ""),
            state: StageStateMsg::DISCONNECTED as u8,
            reason: CLOSED.to_owned(),
            z: f64::NAN,
            position_valid: false,
            xy_valid: false,
            firmware: String::new(),
            stops: self.stops,
        });
    }

    fn diagnose(&self, status: &StageStatus, warning: Option<String>) -> (Severity, String) {
        if let Some(orphaned) = &self.orphaned {
            return (Severity::Error, orphaned.clone());
        }
        match (status.state, warning.or_else(|| status.warnings.first().cloned())) {
            (StageState::Fault | StageState::Disconnected, _) => (Severity::Error, status.reason.clone()),
            (StageState::Idle | StageState::Moving, Some(warning)) => (Severity::Warn, warning),
            (StageState::Idle | StageState::Moving, None) => (Severity::Ok, status.state.name().to_owned()),
        }
    }

    /// What is said of the stage once a second; `clearance` is what allows to drive it, and what should be changed all the same.
    pub(super) fn publish_diagnostics(
        &self,
        status: &StageStatus,
        clearance: (String, Option<String>),
        base: &Base,
    ) {
        let (first_motion, warning) = clearance;
        let (severity, message) = self.diagnose(status, warning);
        let now = base.now();
        base.diagnostics.publish(
            now,
            severity,
            &message,
            &[
                ("port", self.port.clone()),
                ("port_state", status.state.name().to_owned()),
                ("position_valid", status.position_valid.to_string()),
                ("xy_valid", status.xy_valid.to_string()),
                (
                    "status_age_ms",
                    format!("{:.1}", 1e3 * now.since(status.stamp).as_secs_f64()),
                ),
                ("firmware", status.firmware.clone()),
                ("first_motion", first_motion),
                ("garbled_lines", status.garbled_lines.to_string()),
                ("refused_commands", status.refused_commands.to_string()),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_or_disputed_never_looks_ready() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let status = |state, ms| StageStatus {
            stamp: at(ms),
            state,
            reason: "of the driver".to_owned(),
            position_um: [1.0, 2.0, 3.0],
            z_um_per_s: 0.0,
            position_valid: true,
            xy_valid: true,
            may_move: false,
            firmware: String::new(),
            warnings: Vec::new(),
            garbled_lines: 0,
            refused_commands: 0,
        };
        use StageState::{Disconnected, Fault, Idle, Moving};
        for (state, told_ms, dispute, expected, reason) in [
            (Idle, 1900, None, Idle, "of the driver"),
            (Moving, 1900, Some("two command"), Fault, "two command"),
            (Fault, 1900, Some("two command"), Fault, "of the driver"),
            (Idle, 1400, None, Disconnected, "has stopped"),
            (Moving, 1400, Some("two command"), Disconnected, "has stopped"),
            // A lost link has no newer status to tell.
            (
                Disconnected,
                0,
                Some("two command"),
                Disconnected,
                "of the driver",
            ),
        ] {
            let silence = Duration::from_millis(2000 - told_ms);
            let said = said_of(&status(state, told_ms), dispute, silence);
            assert_eq!(
                said.state, expected,
                "{state:?} told at {told_ms} ms, {dispute:?}"
            );
            assert!(said.reason.contains(reason), "{}", said.reason);
            let is_old = reason == "has stopped";
            assert_eq!(said.position_valid, !is_old);
            assert_eq!(said.position_um[2].is_nan(), is_old);
        }
    }
}
