//! `/diagnostics` at 1 Hz (REP-107): one status per node, newest values, never a safety path.

use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};

use super::convert::to_time;
use super::node::{Builder, Publisher};
use crate::units::Instant;

/// Severity of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Works as intended.
    Ok,
    /// Works, but needs attention.
    Warn,
    /// Does not work.
    Error,
}

/// Publisher of one node's status.
pub struct Diagnostics {
    publisher: Publisher<DiagnosticArray>,
    name: String,
    hardware_id: String,
}

impl Diagnostics {
    /// Status `node: component` of a node; `hardware_id` identifies the device, `none` for software.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, component: &str, hardware_id: &str) -> anyhow::Result<Self> {
        let name = format!("{}: {component}", node.name());
        let publisher = node.publisher("/diagnostics", r2r::QosProfile::default())?;
        Ok(Self {
            publisher,
            name,
            hardware_id: hardware_id.to_owned(),
        })
    }

    /// Another device or model from now on.
    pub fn set_hardware_id(&mut self, hardware_id: &str) {
        hardware_id.clone_into(&mut self.hardware_id);
    }

    /// Publishes the status; call once a second.
    pub fn publish(&self, now: Instant, severity: Severity, message: &str, values: &[(&str, String)]) {
        let status = DiagnosticStatus {
            level: match severity {
                Severity::Ok => 0,
                Severity::Warn => 1,
                Severity::Error => 2,
            },
            name: self.name.clone(),
            message: message.to_owned(),
            hardware_id: self.hardware_id.clone(),
            values: values
                .iter()
                .map(|(key, value)| KeyValue {
                    key: (*key).to_owned(),
                    value: value.clone(),
                })
                .collect(),
        };
        let header = r2r::std_msgs::msg::Header {
            stamp: to_time(now),
            frame_id: String::new(),
        };
        self.publisher.publish(&DiagnosticArray {
            header,
            status: vec![status],
        });
    }
}
