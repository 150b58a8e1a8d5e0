//! Who publishes what, as the graph of ROS tells it.
//!
//! r2r does not say whose a message is, and asks the graph only from the node's own thread: so [`Graph`] lives there, looks
//! every [`LOOK_PERIOD`], and hands over what it sees.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use r2r::QosProfile;
use r2r::qos::{DurabilityPolicy, ReliabilityPolicy};
use tokio::sync::watch;

/// Time between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// How long the graph may take to show what was there before this process.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(2);
/// What ROS calls a node that it does not know yet.
const UNKNOWN: &str = "_NODE_NAME_UNKNOWN_";

/// A publisher of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Full name of its node, for example `/lab1/teleop`; None while ROS does not know it.
    pub node: Option<String>,
    /// Whether it appeared while this process was looking. One that did not may belong to a process that died: the middleware lists
    /// those for up to 20 s.
    pub is_new: bool,
}

/// What one node wants to know of the graph.
#[derive(Default)]
pub(super) struct Graph {
    watches: Vec<Watch>,
    intakes: Vec<Intake>,
    looked: Option<Instant>,
}

/// The publishers of one topic.
struct Watch {
    topic: String,
    seen: BTreeMap<Vec<u8>, Instant>,
    began: Option<Instant>,
    publishers: watch::Sender<Vec<Endpoint>>,
}

/// A subscription, and what subscribes its topic a second time without asking for anything that a publisher may not offer.
struct Intake {
    topic: String,
    qos: QosProfile,
    join: Option<Join>,
}

/// Makes a further subscription.
type Join = Box<dyn FnOnce(&mut r2r::Node) -> Result<()> + Send>;

impl Graph {
    /// Watches the publishers of a topic, given by its full name.
    pub(super) fn watch(&mut self, topic: String) -> watch::Receiver<Vec<Endpoint>> {
        let (publishers, receiver) = watch::channel(Vec::new());
        self.watches.push(Watch {
            topic,
            seen: BTreeMap::new(),
            began: None,
            publishers,
        });
        receiver
    }

    /// Calls `join` once there is a publisher that offers less than a subscription with `qos` asks for.
    pub(super) fn join_when_needed(
        &mut self,
        topic: String,
        qos: QosProfile,
        join: impl FnOnce(&mut r2r::Node) -> Result<()> + Send + 'static,
    ) {
        self.intakes.push(Intake {
            topic,
            qos,
            join: Some(Box::new(join)),
        });
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, node: &mut r2r::Node, name: &str) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked < LOOK_PERIOD) {
            return;
        }
        self.looked = Some(now);
        for watch in &mut self.watches {
            // What cannot be asked now is asked again.
            if let Ok(infos) = node.get_publishers_info_by_topic(&watch.topic, false) {
                let found = infos.iter().map(|info| {
                    let node = full_name(&info.node_namespace, &info.node_name);
                    (info.endpoint_gid.to_vec(), node)
                });
                watch.update(found, now);
            }
        }
        for intake in &mut self.intakes {
            intake.look(node, name);
        }
        self.intakes.retain(|intake| intake.join.is_some());
    }
}

impl Intake {
    fn look(&mut self, node: &mut r2r::Node, name: &str) {
        let topic = &self.topic;
        let infos = node
            .get_publishers_info_by_topic(topic, false)
            .into_iter()
            .flatten();
        let whose = infos
            .filter(|info| !satisfies(&info.qos_profile, &self.qos))
            .map(|info| full_name(&info.node_namespace, &info.node_name))
            .next();
        let Some((whose, join)) = whose.and_then(|whose| Some((whose, self.join.take()?))) else {
            return;
        };
        let whose = whose.unwrap_or_else(|| "a node".to_owned());
        match join(node) {
            Ok(()) => tracing::info!(
                node = name,
                "{whose} publishes {topic} without the quality of service asked for (best effort, or not kept for late \
                 subscribers): taken as it comes"
            ),
            Err(error) => tracing::warn!(
                node = name,
                "{whose} publishes {topic} with a quality of service that cannot be taken: make it reliable: {error:#}"
            ),
        }
    }
}

impl Watch {
    fn update(&mut self, found: impl Iterator<Item = (Vec<u8>, Option<String>)>, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let before = std::mem::take(&mut self.seen);
        let mut endpoints = Vec::new();
        for (id, node) in found {
            let since = before.get(&id).copied().unwrap_or(now);
            self.seen.insert(id, since);
            endpoints.push(Endpoint {
                node,
                is_new: since - began > DISCOVERY_LIMIT,
            });
        }
        self.publishers.send_replace(endpoints);
    }
}

/// None for what ROS does not know yet.
fn full_name(namespace: &str, name: &str) -> Option<String> {
    let is_known = |part: &str| part != UNKNOWN && !part.is_empty();
    (is_known(namespace) && is_known(name)).then(|| format!("{}/{name}", namespace.trim_end_matches('/')))
}

/// Whether a subscription that asks for `asked` hears a publisher that offers `offered`, as DDS pairs them.
fn satisfies(offered: &QosProfile, asked: &QosProfile) -> bool {
    let is_reliable = |qos: &QosProfile| qos.reliability != ReliabilityPolicy::BestEffort;
    let is_kept = |qos: &QosProfile| qos.durability == DurabilityPolicy::TransientLocal;
    (is_reliable(offered) || !is_reliable(asked)) && (is_kept(offered) || !is_kept(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_told_from_what_came() {
        let mut graph = Graph::default();
        let publishers = graph.watch("/stage_state".to_owned());
        let began = Instant::now();
        let look = |graph: &mut Graph, after_ms: u64, ids: &[u8]| {
            let found = ids
                .iter()
                .map(|&id| (vec![id], full_name("/", &format!("node{id}"))));
            graph.watches[0].update(found, began + Duration::from_millis(after_ms));
            let seen = publishers.borrow();
            let seen = seen
                .iter()
                .map(|endpoint| (endpoint.node.clone().unwrap(), endpoint.is_new));
            seen.collect::<Vec<_>>()
        };
        let row = |id: u8, is_new: bool| (format!("/node{id}"), is_new);
        assert_eq!(look(&mut graph, 0, &[1]), [row(1, false)]);
        assert_eq!(look(&mut graph, 1900, &[1, 2]), [row(1, false), row(2, false)]);
        assert_eq!(look(&mut graph, 2100, &[2, 3]), [row(2, false), row(3, true)]);
        assert_eq!(look(&mut graph, 9000, &[1, 3]), [row(1, true), row(3, true)]);
    }

    #[test]
    fn nodes_have_full_names_once_they_are_known() {
        assert_eq!(full_name("/", "teleop").as_deref(), Some("/teleop"));
        assert_eq!(full_name("/lab1", "teleop").as_deref(), Some("/lab1/teleop"));
        assert_eq!(full_name(UNKNOWN, UNKNOWN), None);
        assert_eq!(full_name("", ""), None);
    }

    #[test]
    fn subscriptions_hear_what_dds_pairs_them_with() {
        let reliable = QosProfile::default().reliable().volatile();
        let best_effort = QosProfile::default().best_effort().volatile();
        let kept = QosProfile::default().reliable().transient_local();
        for (offered, asked, is_heard) in [
            (&reliable, &reliable, true),
            (&best_effort, &reliable, false),
            (&reliable, &best_effort, true),
            (&best_effort, &best_effort, true),
            (&reliable, &kept, false),
            (&kept, &kept, true),
            (&kept, &reliable, true),
        ] {
            assert_eq!(satisfies(offered, asked), is_heard, "{offered:?} {asked:?}");
        }
    }
}
