//! Nodes idle when nothing needs their output: frames that are rendered, judged and copied in vain would keep the cores of an idle
//! graph busy.
//!
//! A subscription says that a topic is wanted, but a node has its subscriptions all its life, because r2r makes them only
//! before it spins. So the one node of the graph that takes a topic says on the hidden topic `TOPIC/_wanted` when it rests, once
//! a second; any other subscription counts as it is.

use std::time::Duration;

use anyhow::Result;
use r2r::QosProfile;
use r2r::std_msgs::msg::Bool;
use tokio::sync::watch;

use crate::ros::node::{Builder, Newest, Publisher};

/// After this time without a word the taker is thought to be gone.
const SILENCE: Duration = Duration::from_secs(3);

/// How often the counts of subscriptions are polled: ROS does not report their changes.
pub(super) const POLL: Duration = Duration::from_millis(100);

fn hidden(topic: &str) -> String {
    format!("{topic}/_wanted")
}

/// The taker's side.
pub struct Demand {
    publisher: Publisher<Bool>,
    told: Option<bool>,
}

impl Demand {
    /// For the node that takes `topic`.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(Self {
            publisher: node.publisher(&hidden(topic), QosProfile::default())?,
            told: None,
        })
    }

    /// Says whether it takes the topic, if that is news; whether it was.
    pub fn set(&mut self, is_wanted: bool) -> bool {
        let is_news = self.told.replace(is_wanted) != Some(is_wanted);
        if is_news {
            self.repeat();
        }
        is_news
    }

    /// Says it again; call once a second.
    pub fn repeat(&self) {
        if let Some(data) = self.told {
            self.publisher.publish(&Bool { data });
        }
    }
}

/// The maker's side: whether the taker rests.
pub struct Taker {
    is_resting: watch::Receiver<bool>,
}

impl Taker {
    /// For the node that makes `topic`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, topic: &str) -> Result<Self> {
        let words = node.subscribe::<Bool>(&hidden(topic), QosProfile::default())?;
        let (resting, is_resting) = watch::channel(false);
        tokio::spawn(listen(words, resting));
        Ok(Self { is_resting })
    }

    /// Whether anything takes what a publisher with this many subscriptions publishes.
    pub fn is_wanted(&self, subscriptions: usize) -> bool {
        subscriptions > usize::from(*self.is_resting.borrow())
    }

    /// Waits for the taker to begin or to rest.
    pub async fn changed(&mut self) {
        if self.is_resting.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn listen(mut words: Newest<Bool>, resting: watch::Sender<bool>) {
    loop {
        let is_resting = match tokio::time::timeout(SILENCE, words.next()).await {
            Ok(Some(word)) => !word.data,
            Ok(None) => return,
            Err(_) => false,
        };
        resting.send_if_modified(|told| std::mem::replace(told, is_resting) != is_resting);
    }
}
