//! The states and transitions of a managed node, without ROS (<https://design.ros2.org/articles/node_lifecycle.html>; numbers
//! and labels are those of `lifecycle_msgs`, so that tools that know them by heart are right).

/// Where a managed node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Holds nothing: no port, no camera, no model.
    Unconfigured,
    /// Holds everything and does nothing.
    Inactive,
    /// Works.
    Active,
    /// Ended for good.
    Finalized,
    /// On its way from unconfigured to inactive.
    Configuring,
    /// On its way from inactive to unconfigured.
    CleaningUp,
    /// On its way to its end.
    ShuttingDown,
    /// On its way from inactive to active.
    Activating,
    /// On its way from active to inactive.
    Deactivating,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unconfigured,
        Self::Inactive,
        Self::Active,
        Self::Finalized,
        Self::Configuring,
        Self::CleaningUp,
        Self::ShuttingDown,
        Self::Activating,
        Self::Deactivating,
    ];

    /// Number in `lifecycle_msgs/State`.
    pub fn id(self) -> u8 {
        match self {
            Self::Unconfigured => 1,
            Self::Inactive => 2,
            Self::Active => 3,
            Self::Finalized => 4,
            Self::Configuring => 10,
            Self::CleaningUp => 11,
            Self::ShuttingDown => 12,
            Self::Activating => 13,
            Self::Deactivating => 14,
        }
    }

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unconfigured => "unconfigured",
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::Finalized => "finalized",
            Self::Configuring => "configuring",
            Self::CleaningUp => "cleaningup",
            Self::ShuttingDown => "shuttingdown",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
        }
    }
}

/// What a node is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take hold of port, camera or model.
    Configure,
    /// Let go of them.
    CleanUp,
    /// Begin to work.
    Activate,
    /// Stop working; a motion ends first.
    Deactivate,
    /// Let go of everything for good.
    ShutDown,
}

/// One way from a state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Number in `lifecycle_msgs/Transition`.
    pub id: u8,
    /// Its name.
    pub label: &'static str,
    /// From here.
    pub start: State,
    /// To there.
    pub goal: State,
    /// What the node does for it; None for the end of a change.
    pub change: Option<Change>,
}

const fn asked(id: u8, label: &'static str, start: State, goal: State, change: Change) -> Edge {
    Edge {
        id,
        label,
        start,
        goal,
        change: Some(change),
    }
}

const fn ended(id: u8, label: &'static str, start: State, goal: State) -> Edge {
    Edge {
        id,
        label,
        start,
        goal,
        change: None,
    }
}

const SUCCESS: &str = "transition_success";
const FAILURE: &str = "transition_failure";

/// Every edge. A change that fails leads back to where it began; ending cannot fail.
pub const EDGES: [Edge; 17] = [
    asked(
        1,
        "configure",
        State::Unconfigured,
        State::Configuring,
        Change::Configure,
    ),
    asked(2, "cleanup", State::Inactive, State::CleaningUp, Change::CleanUp),
    asked(
        3,
        "activate",
        State::Inactive,
        State::Activating,
        Change::Activate,
    ),
    asked(
        4,
        "deactivate",
        State::Active,
        State::Deactivating,
        Change::Deactivate,
    ),
    asked(
        5,
        "shutdown",
        State::Unconfigured,
        State::ShuttingDown,
        Change::ShutDown,
    ),
    asked(
        6,
        "shutdown",
        State::Inactive,
        State::ShuttingDown,
        Change::ShutDown,
    ),
    asked(
        7,
        "shutdown",
        State::Active,
        State::ShuttingDown,
        Change::ShutDown,
    ),
    ended(10, SUCCESS, State::Configuring, State::Inactive),
    ended(11, FAILURE, State::Configuring, State::Unconfigured),
    ended(20, SUCCESS, State::CleaningUp, State::Unconfigured),
    ended(21, FAILURE, State::CleaningUp, State::Inactive),
    ended(30, SUCCESS, State::Activating, State::Active),
    ended(31, FAILURE, State::Activating, State::Inactive),
    ended(40, SUCCESS, State::Deactivating, State::Inactive),
    ended(41, FAILURE, State::Deactivating, State::Active),
    ended(50, SUCCESS, State::ShuttingDown, State::Finalized),
    ended(51, FAILURE, State::ShuttingDown, State::Finalized),
];

/// The life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: State::Unconfigured,
        }
    }
}

impl Machine {
    /// Where it is.
    pub fn state(self) -> State {
        self.state
    }

    /// Ways that a client can ask for now; none while a change is under way.
    pub fn available(self) -> impl Iterator<Item = Edge> {
        EDGES
            .into_iter()
            .filter(move |edge| edge.start == self.state && edge.change.is_some())
    }

    /// Begins the change with this label or, if it is empty, this number.
    ///
    /// # Errors
    /// A sentence that says what can be asked for instead.
    pub fn begin(&mut self, label: &str, id: u8) -> Result<Edge, String> {
        let wanted = |edge: &Edge| {
            if label.is_empty() {
                edge.id == id
            } else {
                edge.label == label
            }
        };
        if let Some(edge) = self.available().find(wanted) {
            self.state = edge.goal;
            return Ok(edge);
        }
        let asked = if label.is_empty() {
            format!("transition {id}")
        } else {
            format!("'{label}'")
        };
        let possible: Vec<_> = self.available().map(|edge| edge.label).collect();
        let possible = if possible.is_empty() {
            "nothing".to_owned()
        } else {
            possible.join(", ")
        };
        Err(format!(
            "{asked} is not possible while {}: possible is {possible}",
            self.state.label()
        ))
    }

    /// Ends the change under way; None if there is none.
    pub fn end(&mut self, succeeded: bool) -> Option<Edge> {
        let label = if succeeded { SUCCESS } else { FAILURE };
        let edge = EDGES
            .into_iter()
            .find(|edge| edge.change.is_none() && edge.start == self.state && edge.label == label)?;
        self.state = edge.goal;
        Some(edge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(changes: &[(&str, bool)]) -> State {
        let mut machine = Machine::default();
        for (label, succeeds) in changes {
            machine.begin(label, 0).unwrap();
            machine.end(*succeeds).unwrap();
        }
        machine.state()
    }

    #[test]
    fn a_life() {
        let check = |changes: &[(&str, bool)], expected| assert_eq!(walk(changes), expected);
        check(&[("configure", true)], State::Inactive);
        check(&[("configure", false)], State::Unconfigured);
        check(&[("configure", true), ("activate", true)], State::Active);
        check(&[("configure", true), ("activate", false)], State::Inactive);
        check(
            &[("configure", true), ("activate", true), ("deactivate", true)],
            State::Inactive,
        );
        check(
            &[("configure", true), ("activate", true), ("deactivate", false)],
            State::Active,
        );
        check(&[("configure", true), ("cleanup", true)], State::Unconfigured);
        check(
            &[("configure", true), ("activate", true), ("shutdown", true)],
            State::Finalized,
        );
        check(&[("shutdown", false)], State::Finalized);
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_is() {
        let refusal = Machine::default().begin("activate", 0).unwrap_err();
        assert_eq!(
            refusal,
            "'activate' is not possible while unconfigured: possible is configure, shutdown"
        );
        let mut busy = Machine::default();
        busy.begin("", 1).unwrap();
        assert!(busy.begin("", 1).unwrap_err().ends_with("possible is nothing"));
    }

    #[test]
    fn only_the_end_has_no_way_out() {
        for state in State::ALL {
            let leaves = EDGES.iter().any(|edge| edge.start == state);
            assert_eq!(leaves, state != State::Finalized, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn every_change_that_begins_can_end(asked in proptest::collection::vec((0u8..8, any::<bool>()), 0..40)) {
            let mut machine = Machine::default();
            for (id, succeeds) in asked {
                let before = machine;
                match machine.begin("", id) {
                    Ok(_) => prop_assert!(machine.end(succeeds).is_some()),
                    Err(_) => prop_assert_eq!(machine, before),
                }
            }
        }
    }
}
