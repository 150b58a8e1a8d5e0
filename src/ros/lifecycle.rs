//! Managed nodes: the five lifecycle services and `~/transition_event`, which r2r lacks.
//!
//! A node asks for its [`Wish`]es like for any other event and says when each is fulfilled; states, services and events
//! follow. With `autostart` it configures and activates itself, and what keeps it from that ends the process with a sentence;
//! later, at a client's request, the same trouble is a refusal and a line in the log. A device that breaks while the node works
//! leaves it unconfigured, through the graph's error edges ([`Lifecycle::fail`]), and the process with its other nodes lives on.
//!
//! A node with a life gives signs of it on `~/alive`, for those who need it ([`super::bond`]).
//!
//! The loop that does all that is [`super::managed`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::{Stream, StreamExt as _};
use r2r::lifecycle_msgs::msg::{State as StateMsg, Transition, TransitionDescription, TransitionEvent};
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::{QosProfile, ServiceRequest, WrappedServiceTypeSupport};
use tokio::sync::{mpsc, oneshot, watch};

use super::app::App;
use super::bond::{self, Bonds};
use super::clock::Clock;
use super::diagnostics::{Diagnostics, Severity};
pub use super::life::{Change, State};
use super::life::{EDGES, Edge, End, Machine};
use super::node::{Builder, Publisher, Requests, reply, services_deep};
use super::presence::Work;
use crate::units::Instant;

/// How often a node that is not configured says so.
const SECOND: Duration = Duration::from_secs(1);

/// The life of one node, seen from the node.
pub struct Lifecycle {
    wishes: mpsc::Receiver<Wish>,
    server: Arc<Server>,
    /// What broke, until the node is to be configured again.
    fault: Option<Arc<str>>,
    /// Nodes of the same name.
    own: Bonds,
}

/// Something the node is asked to do. Dropped without an answer it has failed.
pub struct Wish {
    /// What.
    pub change: Change,
    node: String,
    at_start: bool,
    answer: oneshot::Sender<End>,
}

impl Wish {
    /// It is done.
    pub fn done(self) {
        // The receiver is gone only while the node ends.
        self.answer.send(End::Success).ok();
    }

    /// Done, with what was taken hold of; or refused, and None.
    ///
    /// # Errors
    /// The refusal itself, if the node starts by itself: then there is no client to hear of it.
    pub fn settle<T>(self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(held) => {
                self.done();
                Ok(Some(held))
            }
            Err(error) if self.at_start => Err(error),
            Err(error) => {
                tracing::error!(node = self.node, "{} failed: {error:#}", self.change.name());
                self.answer.send(End::Failure).ok();
                Ok(None)
            }
        }
    }
}

impl Wish {
    fn broken(self) {
        self.answer.send(End::Error).ok();
    }
}

impl Lifecycle {
    /// Serves the lifecycle of a node that does not spin yet; with `autostart` the first two wishes come from here. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses a service.
    pub fn new(node: &mut Builder, app: &App, autostart: bool) -> Result<Self> {
        let (sender, wishes) = mpsc::channel(1);
        let server = Arc::new(Server {
            machine: Mutex::default(),
            events: Mutex::new(node.publisher("~/transition_event", QosProfile::default())?),
            node: node.name().to_owned(),
            clock: app.clock,
            wishes: sender,
            state: watch::Sender::new(State::Unconfigured),
        });
        serve(node, &server)?;
        #[cfg(logger_services)]
        super::log::serve(node)?;
        bond::give_signs(node, app, server.state.subscribe())?;
        let own = Bonds::own(node, app.clock)?;
        let one = server.clone();
        if autostart {
            tokio::spawn(async move {
                for label in ["configure", "activate"] {
                    // What went wrong ends the process or is told to the client that took over.
                    if one.change(label, 0, true).await.is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            wishes,
            server,
            fault: None,
            own,
        })
    }

    /// That another node has the same name, as a sentence.
    pub fn double(&self, now: Instant) -> Option<String> {
        self.own.double(now)
    }

    /// The next wish. Never, once the node is gone.
    pub async fn next(&mut self) -> Wish {
        let Some(wish) = self.wishes.recv().await else {
            return std::future::pending().await;
        };
        if wish.change == Change::Configure {
            self.fault = None;
        }
        wish
    }

    /// The wish to configure, for a node that holds nothing; None when the process ends. Meanwhile the diagnostics say what the
    /// node waits for.
    pub async fn configure(&mut self, app: &App, diagnostics: &mut Diagnostics) -> Option<Wish> {
        let mut second = tokio::time::interval(SECOND);
        loop {
            let wish = tokio::select! {
                () = app.stopped() => return None,
                _ = second.tick() => {
                    let (severity, message) = match (&self.fault, self.server.machine().state()) {
                        (Some(fault), _) => (Severity::Error, fault.to_string()),
                        (None, State::Finalized) => (Severity::Warn, "finalized: restart the process".to_owned()),
                        (None, state) => (Severity::Warn, format!("{}: call ~/change_state", state.label())),
                    };
                    diagnostics.publish(app.clock.now(), severity, &message, &[]);
                    continue;
                }
                wish = self.next() => wish,
            };
            if wish.change == Change::Configure {
                return Some(wish);
            }
            // Shutting down: there is nothing to let go of.
            wish.done();
        }
    }

    /// What an orchestrator should know of a node that is not active: what broke it, or that it waits.
    pub fn work(&self) -> Work {
        self.fault.clone().map_or_else(Work::inactive, Work::Fault)
    }

    /// Something broke while the node worked, and it has let go of everything: it is unconfigured from now on. A change that is
    /// under way ends in the error.
    pub async fn fail(&mut self, reason: &str) {
        tracing::error!(node = self.server.node, "{reason}");
        self.fault = Some(reason.into());
        // The change answered last may still be on its way to its end.
        let mut state = self.server.state.subscribe();
        while !self.server.break_down() && self.server.machine().state().is_passing() {
            tokio::select! {
                wish = self.next() => {
                    wish.broken();
                    return;
                }
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// Reports a transition that failed, after the node has released everything: it is unconfigured from now on.
    pub fn fail_over(&mut self, wish: Wish, reason: &str) {
        tracing::error!(node = self.server.node, "{} failed: {reason}", wish.change.name());
        self.fault = Some(reason.into());
        wish.broken();
    }
}

struct Server {
    machine: Mutex<Machine>,
    events: Mutex<Publisher<TransitionEvent>>,
    node: String,
    clock: Clock,
    /// One at a time: the machine refuses another while a change is under way.
    wishes: mpsc::Sender<Wish>,
    /// Follows the machine, for the signs of life.
    state: watch::Sender<State>,
}

impl Server {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes through one change, from the wish to its end.
    async fn change(&self, label: &str, id: u8, at_start: bool) -> Result<()> {
        let edge = {
            let mut machine = self.machine();
            let edge = machine.begin(label, id).map_err(|refusal| anyhow!(refusal))?;
            self.tell(edge);
            edge
        };
        let (answer, answered) = oneshot::channel();
        let wish = edge.change.map(|change| Wish {
            change,
            node: self.node.clone(),
            at_start,
            answer,
        });
        let sent = wish.is_some_and(|wish| self.wishes.try_send(wish).is_ok());
        // Dropped without an answer, it has failed.
        let end = if sent {
            answered.await.unwrap_or(End::Failure)
        } else {
            End::Failure
        };
        self.finish(end);
        if end == End::Error {
            // The node has let go of everything.
            self.finish(End::Success);
        }
        if end == End::Success {
            Ok(())
        } else {
            Err(anyhow!("{} failed", edge.label))
        }
    }

    fn finish(&self, end: End) {
        let mut machine = self.machine();
        if let Some(edge) = machine.end(end) {
            self.tell(edge);
            tracing::debug!(node = self.node, "{}", edge.goal.label());
        }
    }

    /// False while a change is under way, or where nothing can break.
    fn break_down(&self) -> bool {
        let mut machine = self.machine();
        let edges = machine.break_down();
        for edge in edges.into_iter().flatten() {
            self.tell(edge);
        }
        edges.is_some()
    }

    async fn answer(&self, request: ServiceRequest<ChangeState::Service>) {
        let Transition { id, label } = &request.message.transition;
        let outcome = self.change(label, *id, false).await;
        if let Err(refusal) = &outcome {
            tracing::warn!(node = self.node, "{refusal}");
        }
        reply(
            request,
            ChangeState::Response {
                success: outcome.is_ok(),
            },
        );
    }

    /// To be called with the machine held: changes of two clients would else be told in the wrong order, and the signs of life stay
    /// with the older one.
    fn tell(&self, edge: Edge) {
        self.state.send_replace(edge.goal);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.publish(&TransitionEvent {
            timestamp: self.clock.now().as_nanos(),
            transition: to_transition(&edge),
            start_state: to_state(edge.start),
            goal_state: to_state(edge.goal),
        });
    }
}

/// The five services, each in a task of its own: a change takes as long as the motion it ends, and the others go on answering.
fn serve(node: &mut Builder, server: &Arc<Server>) -> Result<()> {
    let changes = quick::<ChangeState::Service>(node, "~/change_state")?;
    let states = quick::<GetState::Service>(node, "~/get_state")?;
    let all_states = quick::<GetAvailableStates::Service>(node, "~/get_available_states")?;
    let transitions = quick::<GetAvailableTransitions::Service>(node, "~/get_available_transitions")?;
    let graph = quick::<GetAvailableTransitions::Service>(node, "~/get_transition_graph")?;
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
        reply(request, GetState::Response { current_state });
    });
    each(all_states, |request| {
        let available_states = State::ALL.map(to_state).to_vec();
        reply(request, GetAvailableStates::Response { available_states });
    });
    let one = server.clone();
    each(
        transitions,
        move |request: ServiceRequest<GetAvailableTransitions::Service>| {
            let available_transitions = one.machine().available().map(describe).collect();
            reply(
                request,
                GetAvailableTransitions::Response {
                    available_transitions,
                },
            );
        },
    );
    each(
        graph,
        |request: ServiceRequest<GetAvailableTransitions::Service>| {
            let available_transitions = EDGES.map(describe).to_vec();
            reply(
                request,
                GetAvailableTransitions::Response {
                    available_transitions,
                },
            );
        },
    );
    Ok(())
}

/// A service that is answered at once; a client that finds its queue full all the same gets no state and no success.
fn quick<T>(node: &mut Builder, name: &str) -> Result<Requests<T>>
where
    T: WrappedServiceTypeSupport<Request: Send, Response: Default> + 'static,
{
    node.service_with::<T>(name, services_deep(), |_| T::Response::default())
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
