//! The states and transitions of a managed node, without ROS (<https://design.ros2.org/articles/node_lifecycle.html>; numbers
//! and labels are those of `lifecycle_msgs`, so that tools that know them by heart are right).

/// Where a managed node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not known; no node is ever here, but `lifecycle_msgs` counts it.
    Unknown,
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
    /// Letting go of everything after an error.
    ErrorProcessing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Unconfigured,
        Self::Inactive,
        Self::Active,
        Self::Finalized,
        Self::Configuring,
        Self::CleaningUp,
        Self::ShuttingDown,
        Self::Activating,
        Self::Deactivating,
        Self::ErrorProcessing,
    ];

    /// Number in `lifecycle_msgs/State`.
    pub fn id(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Unconfigured => 1,
            Self::Inactive => 2,
            Self::Active => 3,
            Self::Finalized => 4,
            Self::Configuring => 10,
            Self::CleaningUp => 11,
            Self::ShuttingDown => 12,
            Self::Activating => 13,
            Self::Deactivating => 14,
            Self::ErrorProcessing => 15,
        }
    }

    /// Whether a change is under way.
    pub fn is_passing(self) -> bool {
        self.id() >= Self::Configuring.id()
    }

    /// The name of the state with this number; unknown for a number that is none.
    pub fn label_of(id: u8) -> &'static str {
        let known = Self::ALL.into_iter().find(|state| state.id() == id);
        known.unwrap_or(Self::Unknown).label()
    }

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unconfigured => "unconfigured",
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::Finalized => "finalized",
            Self::Configuring => "configuring",
            Self::CleaningUp => "cleaningup",
            Self::ShuttingDown => "shuttingdown",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
            Self::ErrorProcessing => "errorprocessing",
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

impl Change {
    /// As clients name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::CleanUp => "cleanup",
            Self::Activate => "activate",
            Self::Deactivate => "deactivate",
            Self::ShutDown => "shutdown",
        }
    }
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

/// How a change ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Success,
    /// Refused; all is as before.
    Failure,
    /// Something broke; the node has let go of everything, or is about to.
    Error,
}

impl End {
    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => SUCCESS,
            Self::Failure => FAILURE,
            Self::Error => ERROR,
        }
    }
}

const SUCCESS: &str = "transition_success";
const FAILURE: &str = "transition_failure";
const ERROR: &str = "transition_error";

/// Every edge of rcl's graph. A change that fails leads back to where it began, an error to the processing of errors, and from
/// there to a node that holds nothing and can be configured anew.
pub const EDGES: [Edge; 25] = [
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
    ended(12, ERROR, State::Configuring, State::ErrorProcessing),
    ended(20, SUCCESS, State::CleaningUp, State::Unconfigured),
    ended(21, FAILURE, State::CleaningUp, State::Inactive),
    ended(22, ERROR, State::CleaningUp, State::ErrorProcessing),
    ended(30, SUCCESS, State::Activating, State::Active),
    ended(31, FAILURE, State::Activating, State::Inactive),
    ended(32, ERROR, State::Activating, State::ErrorProcessing),
    ended(40, SUCCESS, State::Deactivating, State::Inactive),
    ended(41, FAILURE, State::Deactivating, State::Active),
    ended(42, ERROR, State::Deactivating, State::ErrorProcessing),
    ended(50, SUCCESS, State::ShuttingDown, State::Finalized),
    ended(51, FAILURE, State::ShuttingDown, State::Finalized),
    ended(52, ERROR, State::ShuttingDown, State::ErrorProcessing),
    ended(60, SUCCESS, State::ErrorProcessing, State::Unconfigured),
    ended(61, FAILURE, State::ErrorProcessing, State::Finalized),
    ended(62, ERROR, State::ErrorProcessing, State::Finalized),
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
    pub fn end(&mut self, end: End) -> Option<Edge> {
        let edge = EDGES
            .into_iter()
            .find(|edge| edge.change.is_none() && edge.start == self.state && edge.label == end.label())?;
        self.state = edge.goal;
        Some(edge)
    }

    /// The edges of an error while nothing is asked for, gone all at once: the graph knows errors only as ends of changes, so
    /// an active node breaks while deactivating and an inactive one while cleaning up. None while a change is under way, or
    /// where there is nothing to break.
    pub fn break_down(&mut self) -> Option<[Edge; 3]> {
        let way_out = match self.state {
            State::Active => "deactivate",
            State::Inactive => "cleanup",
            _ => return None,
        };
        let begun = self.begin(way_out, 0).ok()?;
        Some([begun, self.end(End::Error)?, self.end(End::Success)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(changes: &[(&str, End)]) -> State {
        let mut machine = Machine::default();
        for (label, end) in changes {
            machine.begin(label, 0).unwrap();
            machine.end(*end).unwrap();
            if *end == End::Error {
                machine.end(End::Success).unwrap();
            }
        }
        machine.state()
    }

    #[test]
    fn a_life() {
        use End::{Error, Failure, Success};
        let check = |changes: &[(&str, End)], expected| assert_eq!(walk(changes), expected);
        check(&[("configure", Success)], State::Inactive);
        check(&[("configure", Failure)], State::Unconfigured);
        check(&[("configure", Success), ("activate", Success)], State::Active);
        check(&[("configure", Success), ("activate", Failure)], State::Inactive);
        check(
            &[
                ("configure", Success),
                ("activate", Success),
                ("deactivate", Success),
            ],
            State::Inactive,
        );
        check(
            &[
                ("configure", Success),
                ("activate", Success),
                ("deactivate", Failure),
            ],
            State::Active,
        );
        check(
            &[("configure", Success), ("cleanup", Success)],
            State::Unconfigured,
        );
        check(
            &[
                ("configure", Success),
                ("activate", Success),
                ("shutdown", Success),
            ],
            State::Finalized,
        );
        check(&[("shutdown", Failure)], State::Finalized);
        check(&[("configure", Error)], State::Unconfigured);
        check(
            &[
                ("configure", Success),
                ("activate", Success),
                ("deactivate", Error),
            ],
            State::Unconfigured,
        );
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
            let is_end = matches!(state, State::Finalized | State::Unknown);
            assert_eq!(leaves, !is_end, "{state:?}");
        }
    }

    #[test]
    fn what_breaks_between_changes_can_be_configured_anew() {
        let broken = |changes: &[&str]| {
            let mut machine = Machine::default();
            for label in changes {
                machine.begin(label, 0).unwrap();
                machine.end(End::Success).unwrap();
            }
            let edges = machine.break_down();
            (edges.map(|edges| edges.map(|edge| edge.id)), machine.state())
        };
        let unconfigured = State::Unconfigured;
        assert_eq!(
            broken(&["configure", "activate"]),
            (Some([4, 42, 60]), unconfigured)
        );
        assert_eq!(broken(&["configure"]), (Some([2, 22, 60]), unconfigured));
        assert_eq!(broken(&[]), (None, unconfigured));
        let mut busy = Machine::default();
        busy.begin("configure", 0).unwrap();
        assert!(
            busy.break_down().is_none(),
            "the change under way ends in the error"
        );
    }

    proptest! {
        #[test]
        fn every_change_that_begins_can_end(asked in proptest::collection::vec((0u8..8, 0usize..3), 0..40)) {
            let mut machine = Machine::default();
            for (id, end) in asked {
                let end = [End::Success, End::Failure, End::Error][end];
                let before = machine;
                match machine.begin("", id) {
                    Ok(_) => {
                        prop_assert!(machine.end(end).is_some());
                        if end == End::Error {
                            prop_assert!(machine.end(End::Success).is_some());
                        }
                    }
                    Err(_) => prop_assert_eq!(machine, before),
                }
            }
        }
    }
}
