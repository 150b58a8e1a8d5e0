//! `/diagnostics` at 1 Hz (REP-107): one status per node, newest values, never a safety path.
//!
//! A node says once a second how it is ([`Diagnostics::publish`]). While it waits to be configured it has no loop that could,
//! so until then, and after [`Diagnostics::rest`], the status repeats itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use r2r::Publisher;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};

use super::app::Clock;
use super::convert::header;
use super::node::Builder;
use crate::units::Instant;

/// Severity of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Works as intended.
    Ok,
    /// Works, but somebody should look.
    Warn,
    /// Does not work.
    Error,
}

/// Publisher of one node's status.
pub struct Diagnostics {
    outlet: Arc<Mutex<Outlet>>,
    repeating: tokio::task::JoinHandle<()>,
}

struct Outlet {
    publisher: Publisher<DiagnosticArray>,
    name: String,
    hardware_id: String,
    /// What is said of a node that rests; None while it speaks for itself.
    resting: Option<String>,
}

impl Diagnostics {
    /// Status `node: component` of a node that is not configured yet; `hardware_id` identifies the device, `none` for software.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, component: &str, hardware_id: &str) -> anyhow::Result<Self> {
        let outlet = Arc::new(Mutex::new(Outlet {
            publisher: node.publisher("/diagnostics", r2r::QosProfile::default())?,
            name: format!("{}: {component}", node.name()),
            hardware_id: hardware_id.to_owned(),
            resting: None,
        }));
        let repeated = outlet.clone();
        let clock = Clock::start();
        let repeating = tokio::spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                let outlet = lock(&repeated);
                if let Some(message) = &outlet.resting {
                    outlet.publish(clock.now(), Severity::Warn, message, &[]);
                }
            }
        });
        let diagnostics = Self { outlet, repeating };
        diagnostics.rest("not configured: call ~/change_state");
        Ok(diagnostics)
    }

    /// Another device or model from now on.
    pub fn set_hardware_id(&mut self, hardware_id: &str) {
        hardware_id.clone_into(&mut lock(&self.outlet).hardware_id);
    }

    /// The node does nothing until it publishes again; the status says why, once a second.
    pub fn rest(&self, why: &str) {
        lock(&self.outlet).resting = Some(why.to_owned());
    }

    /// Publishes the status; call once a second.
    pub fn publish(&self, now: Instant, severity: Severity, message: &str, values: &[(&str, String)]) {
        let mut outlet = lock(&self.outlet);
        outlet.resting = None;
        outlet.publish(now, severity, message, values);
    }
}

impl Drop for Diagnostics {
    fn drop(&mut self) {
        self.repeating.abort();
    }
}

fn lock(outlet: &Mutex<Outlet>) -> MutexGuard<'_, Outlet> {
    outlet.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outlet {
    fn publish(&self, now: Instant, severity: Severity, message: &str, values: &[(&str, String)]) {
        let to_key_value = |(key, value): &(&str, String)| KeyValue {
            key: (*key).to_owned(),
            value: value.clone(),
        };
        let status = DiagnosticStatus {
            level: match severity {
                Severity::Ok => 0,
                Severity::Warn => 1,
                Severity::Error => 2,
            },
            name: self.name.clone(),
            message: message.to_owned(),
            hardware_id: self.hardware_id.clone(),
            values: values.iter().map(to_key_value).collect(),
        };
        // Publishing fails only while the process ends.
        drop(self.publisher.publish(&DiagnosticArray {
            header: header(now, ""),
            status: vec![status],
        }));
    }
}
