//! Managed nodes: the five lifecycle services and `~/transition_event`, which r2r lacks.
//!
//! A node asks for its [`Wish`]es like for any other event and says when each is fulfilled; states, services and events
//! follow. With `autostart` it configures and activates itself, and what keeps it from that ends the process with a sentence;
//! later, at a client's request, the same trouble is a refusal and a line in the log.
//!
//! ```text
//! while let Some(wish) = lifecycle.configure(&app).await {
//!     let Some(device) = wish.settle(open())? else { continue };
//!     // Work; on `Change::CleanUp` and `Change::ShutDown` let go of the device, then `wish.done()`.
//! }
//! ```

mod machine;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use futures::{Stream, StreamExt as _};
use r2r::lifecycle_msgs::msg::{State as StateMsg, Transition, TransitionDescription, TransitionEvent};
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::{Publisher, QosProfile, ServiceRequest};
use tokio::sync::{mpsc, oneshot};

pub use self::machine::{Change, State};
use self::machine::{EDGES, Edge, Machine};
use super::app::{App, Clock};
use super::node::Builder;

/// The life of one node, seen from the node.
pub struct Lifecycle {
    wishes: mpsc::UnboundedReceiver<Wish>,
}

/// Something the node is asked to do. Dropped without an answer it has failed.
pub struct Wish {
    /// What.
    pub change: Change,
    node: String,
    at_start: bool,
    answer: oneshot::Sender<Answer>,
}

enum Answer {
    Done,
    Failed,
}

impl Wish {
    /// It is done.
    pub fn done(self) {
        // Nobody waits for it only while the node ends.
        drop(self.answer.send(Answer::Done));
    }

    /// Activates and deactivates a node to which that is a switch; any other wish comes back.
    pub fn switch(self, is_active: &mut bool) -> Option<Self> {
        match self.change {
            Change::Activate => *is_active = true,
            Change::Deactivate => *is_active = false,
            Change::Configure | Change::CleanUp | Change::ShutDown => return Some(self),
        }
        self.done();
        None
    }

    /// Done, with what was taken hold of; or refused, and None.
    ///
    /// # Errors
    /// The refusal itself, if the node starts by itself: then nobody else would hear of it.
    pub fn settle<T>(self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(held) => {
                self.done();
                Ok(Some(held))
            }
            Err(error) if self.at_start => Err(error),
            Err(error) => {
                tracing::error!(node = self.node, "{:?} failed: {error:#}", self.change);
                drop(self.answer.send(Answer::Failed));
                Ok(None)
            }
        }
    }
}

impl Lifecycle {
    /// Serves the lifecycle of a node that does not spin yet; with `autostart` the first two wishes come from here. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses a service.
    pub fn new(node: &mut Builder, clock: Clock, autostart: bool) -> Result<Self> {
        let (sender, wishes) = mpsc::unbounded_channel();
        let server = Arc::new(Server {
            machine: Mutex::default(),
            events: Mutex::new(node.publisher("~/transition_event", QosProfile::default())?),
            node: node.name().to_owned(),
            clock,
            wishes: sender,
        });
        serve(node, &server)?;
        if autostart {
            tokio::spawn(async move {
                for label in ["configure", "activate"] {
                    // What went wrong ends the process or is told by whoever took over.
                    if server.change(label, 0, true).await.is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { wishes })
    }

    /// The next wish. Never, once the node is gone.
    pub async fn next(&mut self) -> Wish {
        match self.wishes.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    /// The wish to configure, for a node that holds nothing; None when the process ends.
    pub async fn configure(&mut self, app: &App) -> Option<Wish> {
        loop {
            let wish = tokio::select! {
                () = app.stopped() => return None,
                wish = self.next() => wish,
            };
            if wish.change == Change::Configure {
                return Some(wish);
            }
            // Shutting down: there is nothing to let go of.
            wish.done();
        }
    }
}

struct Server {
    machine: Mutex<Machine>,
    events: Mutex<Publisher<TransitionEvent>>,
    node: String,
    clock: Clock,
    wishes: mpsc::UnboundedSender<Wish>,
}

impl Server {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes through one change, from the wish to its end.
    async fn change(&self, label: &str, id: u8, at_start: bool) -> Result<()> {
        let edge = self
            .machine()
            .begin(label, id)
            .map_err(|refusal| anyhow!(refusal))?;
        self.tell(edge);
        let (answer, answered) = oneshot::channel();
        let wish = edge.change.map(|change| Wish {
            change,
            node: self.node.clone(),
            at_start,
            answer,
        });
        let sent = wish.is_some_and(|wish| self.wishes.send(wish).is_ok());
        let succeeded = sent && matches!(answered.await, Ok(Answer::Done));
        let ended = self.machine().end(succeeded);
        if let Some(ended) = ended {
            self.tell(ended);
            tracing::debug!(node = self.node, "{}", ended.goal.label());
        }
        if succeeded {
            Ok(())
        } else {
            Err(anyhow!("{} failed", edge.label))
        }
    }

    async fn answer(&self, request: ServiceRequest<ChangeState::Service>) {
        let Transition { id, label } = &request.message.transition;
        let outcome = self.change(label, *id, false).await;
        if let Err(refusal) = &outcome {
            tracing::warn!(node = self.node, "{refusal}");
        }
        // Replies fail only while the node ends.
        drop(request.respond(ChangeState::Response {
            success: outcome.is_ok(),
        }));
    }

    fn tell(&self, edge: Edge) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Publishing fails only while the node ends.
        drop(events.publish(&TransitionEvent {
            timestamp: self.clock.now().as_nanos(),
            transition: to_transition(&edge),
            start_state: to_state(edge.start),
            goal_state: to_state(edge.goal),
        }));
    }
}

/// The five services, each in a task of its own: a change takes as long as the motion it ends, and the others go on answering.
fn serve(node: &mut Builder, server: &Arc<Server>) -> Result<()> {
    let changes = node.service::<ChangeState::Service>("~/change_state")?;
    let states = node.service::<GetState::Service>("~/get_state")?;
    let all_states = node.service::<GetAvailableStates::Service>("~/get_available_states")?;
    let transitions = node.service::<GetAvailableTransitions::Service>("~/get_available_transitions")?;
    let graph = node.service::<GetAvailableTransitions::Service>("~/get_transition_graph")?;
    let one = server.clone();
    tokio::spawn(async move {
        let mut changes = changes;
        while let Some(request) = changes.next().await {
            let server = one.clone();
            tokio::spawn(async move { server.answer(request).await });
        }
    });
    let one = server.clone();
    each(states, move |request| {
        let current_state = to_state(one.machine().state());
        drop(request.respond(GetState::Response { current_state }));
    });
    each(all_states, |request| {
        let available_states = State::ALL.map(to_state).to_vec();
        drop(request.respond(GetAvailableStates::Response { available_states }));
    });
    let one = server.clone();
    each(
        transitions,
        move |request: ServiceRequest<GetAvailableTransitions::Service>| {
            let available_transitions = one.machine().available().map(describe).collect();
            drop(request.respond(GetAvailableTransitions::Response {
                available_transitions,
            }));
        },
    );
    each(
        graph,
        |request: ServiceRequest<GetAvailableTransitions::Service>| {
            let available_transitions = EDGES.map(describe).to_vec();
            drop(request.respond(GetAvailableTransitions::Response {
                available_transitions,
            }));
        },
    );
    Ok(())
}

fn each<R: Send + 'static>(
    mut requests: Box<dyn Stream<Item = R> + Unpin + Send>,
    answer: impl Fn(R) + Send + 'static,
) {
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            answer(request);
        }
    });
}

fn to_state(state: State) -> StateMsg {
    StateMsg {
        id: state.id(),
        label: state.label().to_owned(),
    }
}

fn to_transition(edge: &Edge) -> Transition {
    Transition {
        id: edge.id,
        label: edge.label.to_owned(),
    }
}

fn describe(edge: Edge) -> TransitionDescription {
    TransitionDescription {
        transition: to_transition(&edge),
        start_state: to_state(edge.start),
        goal_state: to_state(edge.goal),
    }
}
