//! Nodes idle when nothing needs their output: frames that are rendered, judged and copied in vain would keep the cores of an idle
//! graph busy.
//!
//! A subscription says that a topic is wanted, but a node has its subscriptions all its life, because r2r makes them only
//! before it spins. So the nodes of the graph that take a topic say on hidden topics when they rest, once a second: the one of the loop on
//! `TOPIC/_wanted`, the calibrator on `TOPIC/_wanted_by_calibrator`. Any other subscription counts as it is.

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

/// Which node of the graph takes a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The next of the loop from image to motion.
    Loop,
    /// The calibrator.
    Calibrator,
}

impl By {
    const ALL: [Self; 2] = [Self::Loop, Self::Calibrator];

    fn hidden(self, topic: &str) -> String {
        match self {
            Self::Loop => format!("{topic}/_wanted"),
            Self::Calibrator => format!("{topic}/_wanted_by_calibrator"),
        }
    }
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
        Self::by(By::Loop, node, topic)
    }

    /// The same, for a node that has a word of its own.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn by(taker: By, node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(Self {
            publisher: node.publisher(&taker.hidden(topic), QosProfile::default())?,
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

/// The maker's side: which takers rest.
pub struct Taker {
    are_resting: Vec<watch::Receiver<bool>>,
}

impl Taker {
    /// For the node that makes `topic`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, topic: &str) -> Result<Self> {
        let mut are_resting = Vec::new();
        for taker in By::ALL {
            let words = node.subscribe::<Bool>(&taker.hidden(topic), QosProfile::default())?;
            let (resting, is_resting) = watch::channel(false);
            tokio::spawn(listen(words, resting));
            are_resting.push(is_resting);
        }
        Ok(Self { are_resting })
    }

    /// Whether anything takes what a publisher with this many subscriptions publishes.
    pub fn is_wanted(&self, subscriptions: usize) -> bool {
        let resting = self.are_resting.iter().filter(|is_resting| *is_resting.borrow());
        subscriptions > resting.count()
    }

    /// Waits for a taker to begin or to rest.
    pub async fn changed(&mut self) {
        let changes = self
            .are_resting
            .iter_mut()
            .map(|is_resting| Box::pin(is_resting.changed()));
        if futures::future::select_all(changes).await.0.is_err() {
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
