//! What an orchestrator asks first: `~/state` (can this node be given work?) and `~/about` (what is it?), both latched.

use std::sync::Arc;

use anyhow::Result;
use r2r::diagnostic_msgs::msg::KeyValue;
use r2r::hhnet::msg::{About, NodeState};

use super::clock::Clock;
use super::convert::header;
use super::node::{Builder, Publisher, latched};

/// Whether a node can be given work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Ready, or not active; the sentence says which.
    Idle(Arc<str>),
    /// At work.
    Busy(Arc<str>),
    /// Cannot work, and why.
    Fault(Arc<str>),
}

impl Work {
    /// A node that does nothing because it has not been activated.
    pub fn inactive() -> Self {
        Self::Idle("not active: call ~/change_state".into())
    }
}

/// Publisher of both.
pub struct Presence {
    states: Publisher<NodeState>,
    abouts: Publisher<About>,
    clock: Clock,
    work: Option<Work>,
    about: Option<About>,
}

impl Presence {
    /// The two topics of a node.
    ///
    /// # Errors
    /// If ROS refuses them.
    pub fn new(node: &mut Builder, clock: Clock) -> Result<Self> {
        Ok(Self {
            states: node.publisher("~/state", latched())?,
            abouts: node.publisher("~/about", latched())?,
            clock,
            work: None,
            about: None,
        })
    }

    /// Publishes the state if it is another one.
    pub fn set(&mut self, work: Work) {
        if self.work.as_ref() == Some(&work) {
            return;
        }
        let (state, reason) = match &work {
            Work::Idle(reason) => (NodeState::IDLE as u8, reason),
            Work::Busy(reason) => (NodeState::BUSY as u8, reason),
            Work::Fault(reason) => (NodeState::FAULT as u8, reason),
        };
        self.states.publish(&NodeState {
            header: header(self.clock.now(), ""),
            state,
            reason: reason.to_string(),
        });
        self.work = Some(work);
    }

    /// Publishes what the node is, if that is news; the version is filled in.
    pub fn introduce(&mut self, about: About) {
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..about
        };
        if self.about.as_ref() != Some(&about) {
            self.abouts.publish(&about);
            self.about = Some(about);
        }
    }
}

/// Names as the message has them.
pub fn capabilities(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Limits as the message has them.
pub fn limits<const N: usize>(limits: [(&str, f64); N]) -> Vec<KeyValue> {
    limits
        .map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: value.to_string(),
        })
        .to_vec()
}
