//! Who commands the stage. r2r does not tell whose a message is, but the graph tells who publishes: where that leaves a doubt,
//! no command is obeyed.

use std::time::Duration;

use anyhow::Result;
use r2r::hhnet::msg::NodeState;
use tokio::sync::watch;

use crate::ros::bond::Bonds;
use crate::ros::clock::Clock;
use crate::ros::graph::Endpoint;
use crate::ros::lifecycle::Lifecycle;
use crate::ros::node::{Builder, latched};
use crate::units::Instant;

/// How long a dispute must last to count: a node that is known by half its endpoints yet is none.
const DISPUTE_LIMIT: Duration = Duration::from_millis(150);

/// Those who could move the stage.
pub(super) struct Commanders {
    own: String,
    /// Full name of the node that counts; empty for none.
    commander: String,
    bonds: Bonds,
    /// Whether that node says that it is at work; None before it says anything.
    is_busy: watch::Receiver<Option<bool>>,
    /// Publishers of velocities and of heights.
    commands: [watch::Receiver<Vec<Endpoint>>; 2],
    reports: watch::Receiver<Vec<Endpoint>>,
    disputed_since: Option<Instant>,
}

impl Commanders {
    /// Looks at the publishers of `cmd_vel` and `stage_state`, and listens to `commander`, a name relative to the namespace of `node`
    /// or empty; `silence` is how long it may say nothing. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the name.
    pub(super) fn new(node: &mut Builder, commander: &str, silence: Duration, clock: Clock) -> Result<Self> {
        let (busy, is_busy) = watch::channel(None);
        if !commander.is_empty() {
            let mut states = node.subscribe::<NodeState>(&format!("{commander}/state"), latched())?;
            tokio::spawn(async move {
                while let Some(state) = states.next().await {
                    busy.send_replace(Some(state.state == NodeState::BUSY as u8));
                }
            });
        }
        Ok(Self {
            own: format!("/{}", node.name()),
            commander: match commander {
                "" => String::new(),
                // Names of nodes are completed as those of topics are.
                name => node.topic(name),
            },
            bonds: Bonds::new(node, [commander], silence, clock)?,
            is_busy,
            commands: ["cmd_vel", "cmd_target"].map(|topic| node.publishers_of(topic)),
            reports: node.publishers_of("stage_state"),
            disputed_since: None,
        })
    }

    /// That the node that counts is gone without a word.
    pub(super) fn gone(&self, now: Instant) -> Option<String> {
        self.bonds.gone(now)
    }

    /// Why no command is obeyed, as a sentence.
    pub(super) fn dispute(&mut self, lifecycle: &Lifecycle, now: Instant) -> Option<String> {
        let double = lifecycle.double(now).or_else(|| self.bonds.double(now));
        let found = double.or_else(|| {
            dispute(&Look {
                own: &self.own,
                commander: &self.commander,
                is_idle: *self.is_busy.borrow() == Some(false) || self.bonds.gone(now).is_some(),
                gives_signs: self.bonds.is_heard(),
                commands: &together(self.commands.each_ref().map(|topic| topic.borrow().clone())),
                reports: &self.reports.borrow(),
            })
        });
        let since = found.as_ref().map(|_| self.disputed_since.unwrap_or(now));
        self.disputed_since = since;
        found.filter(|_| since.is_some_and(|since| now.since(since) >= DISPUTE_LIMIT))
    }
}

/// Publishers of either topic: a node that publishes both commands once.
fn together([velocities, mut targets]: [Vec<Endpoint>; 2]) -> Vec<Endpoint> {
    for velocity in &velocities {
        if let Some(same) = targets.iter().position(|target| target.node == velocity.node) {
            targets.swap_remove(same);
        }
    }
    [velocities, targets].concat()
}

/// What is seen of those who could move the stage.
struct Look<'a> {
    /// Full name of the bridge.
    own: &'a str,
    /// Full name of the node that counts; empty for none.
    commander: &'a str,
    /// Whether that node says that it does not command now.
    is_idle: bool,
    /// Whether it gives signs of life, which tell two of its name apart better than the graph.
    gives_signs: bool,
    /// Publishers of `cmd_vel`, and of `cmd_target` without those that publish both.
    commands: &'a [Endpoint],
    /// Publishers of `stage_state`.
    reports: &'a [Endpoint],
}

fn dispute(look: &Look) -> Option<String> {
    let of = |node: &'_ str, endpoint: &&Endpoint| endpoint.node.as_deref() == Some(node);
    // One of this bridge's name that was there before it is told by its signs of life: it may have died.
    let rivals = || {
        look.reports
            .iter()
            .filter(|endpoint| !of(look.own, endpoint) || endpoint.is_new)
    };
    if rivals().next().is_some() {
        return Some(format!(
            "stage_state is also published by {}, so two nodes may drive one stage: end it, or give each graph a namespace or a \
             ROS_DOMAIN_ID of its own",
            names(rivals())
        ));
    }
    let all = || look.commands.iter();
    let others = || all().filter(|endpoint| !of(look.commander, endpoint));
    let disputed = match (others().count(), all().count() - others().count()) {
        (0, 2..) if !look.gives_signs => names(all()),
        (1, 1..) if !look.is_idle => names(all()),
        (2.., _) => names(others()),
        _ => return None,
    };
    Some(format!(
        "commands come on cmd_vel or cmd_target from {disputed}: end all but one, or put a multiplexer such as twist_mux between; one that was \
         killed is listed for up to 20 s"
    ))
}

/// Names of the nodes of these publishers, each once.
fn names<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> String {
    let mut counts: Vec<(&str, u32)> = Vec::new();
    for endpoint in endpoints {
        let name = endpoint
            .node
            .as_deref()
            .unwrap_or("a node whose name is not known yet");
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_unstable();
    let texts = counts.iter().map(|(name, count)| match count {
        1 => (*name).to_owned(),
        _ => format!("{name} ({count} publishers)"),
    });
    texts.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(nodes: &str) -> Vec<Endpoint> {
        let endpoint = |word: &str| Endpoint {
            node: (word.trim_end_matches('!') != "?").then(|| format!("/{}", word.trim_end_matches('!'))),
            is_new: word.ends_with('!'),
        };
        nodes.split_whitespace().map(endpoint).collect()
    }

    /// `said` is a part of the sentence; empty: there is no dispute. A node with ! is new, ? is unknown.
    fn check(commands: &str, reports: &str, is_idle: bool, gives_signs: bool, said: &str) {
        let sentence = dispute(&Look {
            own: "/bridge",
            commander: "/focus",
            is_idle,
            gives_signs,
            commands: &endpoints(commands),
            reports: &endpoints(reports),
        })
        .unwrap_or_default();
        assert_eq!(
            sentence.is_empty(),
            said.is_empty(),
            "{commands}, {reports}: {sentence}"
        );
        assert!(sentence.contains(said), "{commands}, {reports}: {sentence}");
    }

    #[test]
    fn two_who_command_are_named() {
        check("", "bridge", false, false, "");
        check("focus", "bridge", false, true, "");
        check("joystick", "bridge", false, false, "");
        check("focus joystick", "bridge", true, true, "");
        check(
            "focus joystick",
            "bridge",
            false,
            true,
            "from /focus and /joystick:",
        );
        check(
            "focus joystick panel",
            "bridge",
            true,
            true,
            "from /joystick and /panel:",
        );
        check(
            "joystick joystick",
            "bridge",
            true,
            true,
            "from /joystick (2 publishers):",
        );
        check(
            "focus ?",
            "bridge",
            false,
            true,
            "from /focus and a node whose name",
        );
        check("focus focus!", "bridge", true, true, "");
        check(
            "focus focus!",
            "bridge",
            true,
            false,
            "from /focus (2 publishers):",
        );
    }

    #[test]
    fn a_node_that_publishes_both_commands_once() {
        for (velocities, targets, expected) in [
            ("focus", "focus", "focus"),
            ("focus joystick", "focus", "focus joystick"),
            ("focus", "focus focus", "focus focus"),
            ("joystick", "focus", "joystick focus"),
            ("", "focus", "focus"),
            ("? focus", "focus", "? focus"),
        ] {
            let found = together([endpoints(velocities), endpoints(targets)]);
            assert_eq!(found, endpoints(expected), "{velocities}; {targets}");
        }
    }

    #[test]
    fn two_who_drive_one_stage_are_named() {
        check("focus", "bridge other", true, true, "published by /other,");
        check("focus", "bridge other!", true, true, "published by /other,");
        check("focus", "bridge ?", true, true, "published by a node whose name");
        // One that died is listed, too, when this one begins.
        check("focus", "bridge bridge", true, true, "");
        check("focus", "bridge bridge!", true, true, "published by /bridge,");
    }
}
