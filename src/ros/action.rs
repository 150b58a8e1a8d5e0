//! An action server on plain services and topics, because r2r's own never reaches CANCELED and spins after its first goal.
//!
//! An action `name` is the services `name/_action/send_goal`, `cancel_goal` and `get_result` and the topics
//! `name/_action/feedback` and `status` (<https://design.ros2.org/articles/actions.html>), so clients of any language find it.
//!
//! * A goal arrives as a [`GoalRequest`]: the node accepts it or rejects it with a reason, which the log tells. A goal whose id is
//!   known, one that waits for an answer included, is rejected before the node hears of it: a client that repeats itself must
//!   not disturb the goal it sent first.
//! * What a newer goal does to an older one is the node's business: it rejects the newer, or ends the older and then accepts.
//! * While it works it holds a [`GoalHandle`]: feedback, a wish to cancel, and exactly one end. A handle that is dropped
//!   aborts its goal with a default result, so no client waits for ever. Code 0 of every result therefore means "no outcome".
//! * Cancelling is answered at once (CANCELING); the goal is CANCELED when the node says that it stands.
//! * Results are kept for [`KEEP_RESULTS`], at most [`MOST_RESULTS`] of them, and forgotten by a timer that sleeps while there
//!   are none. Goals and requests that wait are bounded too ([`MOST_PENDING`], [`MOST_WAITING`]).

pub mod client;
mod goals;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use r2r::action_msgs::msg::{GoalInfo, GoalStatus, GoalStatusArray};
use r2r::action_msgs::srv::CancelGoal;
use r2r::unique_identifier_msgs::msg::UUID;
use r2r::{QosProfile, ServiceRequest, WrappedActionTypeSupport, WrappedServiceTypeSupport};
use tokio::sync::{Notify, mpsc, watch};

use self::goals::{CancelCode, GoalId, Goals, ResultAnswer, Status};
pub use self::goals::{MOST_PENDING, MOST_WAITING};
use super::clock::Clock;
use super::convert::{from_time, to_time};
use super::node::{Builder, Publisher, latched, reply, services_deep};
use crate::units::Instant;

/// How long a result can be asked for after its goal has ended.
pub const KEEP_RESULTS: Duration = Duration::from_secs(60);
/// Results kept at most.
pub const MOST_RESULTS: usize = 100;

/// What r2r generates for an action, with the bounds that futures and replies need.
pub trait Action:
    WrappedActionTypeSupport<
        Goal: Send,
        Result: Send,
        FeedbackMessage: 'static,
        SendGoal: WrappedServiceTypeSupport<Request: Send, Response: Send> + 'static,
        GetResult: WrappedServiceTypeSupport<Request: Send, Response: Send> + 'static,
    > + 'static
{
}

impl<A> Action for A where
    A: WrappedActionTypeSupport<
            Goal: Send,
            Result: Send,
            FeedbackMessage: 'static,
            SendGoal: WrappedServiceTypeSupport<Request: Send, Response: Send> + 'static,
            GetResult: WrappedServiceTypeSupport<Request: Send, Response: Send> + 'static,
        > + 'static
{
}

/// A served action: a stream of goals.
pub struct ActionServer<A: Action> {
    arriving: mpsc::Receiver<GoalRequest<A>>,
}

impl<A: Action> ActionServer<A> {
    /// Serves the action `name` on a node that does not spin yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the name.
    pub fn new(node: &mut Builder, name: &str, clock: Clock) -> Result<Self> {
        let service = |part| format!("{name}/_action/{part}");
        let mut sends =
            node.service_with::<A::SendGoal>(&service("send_goal"), services_deep(), move |_| {
                A::make_goal_response_msg(false, to_time(clock.now()))
            })?;
        let mut cancels =
            node.service_with::<CancelGoal::Service>(&service("cancel_goal"), services_deep(), |_| {
                CancelGoal::Response {
                    return_code: CancelCode::Rejected as i8,
                    ..CancelGoal::Response::default()
                }
            })?;
        let mut results =
            node.service_with::<A::GetResult>(&service("get_result"), services_deep(), |_| {
                A::make_result_response_msg(Status::Unknown as i8, A::Result::default())
            })?;
        let shared = Arc::new(Shared::<A> {
            title: format!("{name} of {}", node.name()),
            node: node.name().to_owned(),
            clock,
            feedback: Mutex::new(node.publisher(&format!("{name}/_action/feedback"), QosProfile::default())?),
            status: Mutex::new(node.publisher(&format!("{name}/_action/status"), latched())?),
            state: Mutex::new(State {
                goals: Goals::new(KEEP_RESULTS, MOST_RESULTS),
                cancelling: HashMap::new(),
            }),
            changed: Notify::new(),
        });
        let (sender, arriving) = mpsc::channel(MOST_PENDING);
        tokio::spawn(async move {
            loop {
                let expiry = shared.until_expiry();
                tokio::select! {
                    request = sends.next() => match request {
                        Some(request) => if let Some(request) = shared.clone().arrive(request) {
                            // A node that no longer listens has dropped the receiver; the request rejects itself.
                            drop(sender.try_send(request));
                        },
                        None => break,
                    },
                    Some(request) = cancels.next() => shared.cancel(request),
                    Some(request) = results.next() => shared.answer(request),
                    () = tokio::time::sleep(expiry.unwrap_or_default()), if expiry.is_some() => shared.expire(),
                    () = shared.changed.notified() => {}
                }
            }
        });
        Ok(Self { arriving })
    }

    /// A goal that has arrived already.
    pub fn try_next(&mut self) -> Option<GoalRequest<A>> {
        self.arriving.try_recv().ok()
    }

    /// The next goal; None once the node is gone.
    pub async fn next(&mut self) -> Option<GoalRequest<A>> {
        self.arriving.recv().await
    }
}

/// A goal that waits to be accepted. Dropped without an answer, it is rejected.
pub struct GoalRequest<A: Action> {
    /// What the client asks for.
    pub goal: A::Goal,
    id: GoalId,
    request: Option<ServiceRequest<A::SendGoal>>,
    shared: Arc<Shared<A>>,
}

impl<A: Action> GoalRequest<A> {
    /// Accepts the goal, which is executing from now on.
    pub fn accept(mut self) -> GoalHandle<A> {
        let now = self.shared.clock.now();
        let (sender, cancelling) = watch::channel(false);
        {
            let mut state = self.shared.lock();
            state.goals.accept(self.id, now);
            state.cancelling.insert(self.id, sender);
        }
        if let Some(request) = self.request.take() {
            respond::<A>(request, true, now);
        }
        self.shared.publish_status();
        GoalHandle {
            id: self.id,
            cancelling,
            accepted: now,
            is_over: false,
            shared: self.shared.clone(),
        }
    }

    /// Rejects the goal; the log tells why, since the reply has no room for a reason.
    pub fn reject(self, reason: &str) {
        self.shared.tell_rejection(reason);
    }
}

impl<A: Action> Drop for GoalRequest<A> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.shared.lock().goals.withdraw(self.id);
            respond::<A>(request, false, self.shared.clock.now());
        }
    }
}

/// Tells the client whether its goal is accepted.
fn respond<A: Action>(request: ServiceRequest<A::SendGoal>, accepted: bool, now: Instant) {
    reply(request, A::make_goal_response_msg(accepted, to_time(now)));
}

/// An accepted goal. Dropped before its end, it is aborted with an empty result.
pub struct GoalHandle<A: Action> {
    id: GoalId,
    cancelling: watch::Receiver<bool>,
    accepted: Instant,
    is_over: bool,
    shared: Arc<Shared<A>>,
}

impl<A: Action> GoalHandle<A> {
    /// When the goal was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Tells clients how it goes.
    pub fn feedback(&self, feedback: A::Feedback) {
        let message = A::make_feedback_msg(to_uuid(self.id), feedback);
        lock(&self.shared.feedback).publish(&message);
    }

    /// Whether a client has asked to cancel.
    pub fn is_cancelling(&self) -> bool {
        *self.cancelling.borrow()
    }

    /// The goal is reached.
    pub fn succeed(mut self, result: A::Result) {
        self.end(Status::Succeeded, result);
    }

    /// The goal is given up.
    pub fn abort(mut self, result: A::Result) {
        self.end(Status::Aborted, result);
    }

    /// The goal has been stopped as a client asked; if none has, it counts as given up.
    pub fn cancelled(mut self, result: A::Result) {
        let status = if self.is_cancelling() {
            Status::Canceled
        } else {
            Status::Aborted
        };
        self.end(status, result);
    }

    fn end(&mut self, status: Status, result: A::Result) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        let now = self.shared.clock.now();
        let waiting = {
            let mut state = self.shared.lock();
            state.cancelling.remove(&self.id);
            let waiting = state.goals.end(self.id, status, result.clone(), now);
            state.goals.expire(now);
            waiting
        };
        for request in waiting {
            reply(request, A::make_result_response_msg(status as i8, result.clone()));
        }
        self.shared.publish_status();
        // The timer has one more result to forget.
        self.shared.changed.notify_one();
    }
}

impl<A: Action> Drop for GoalHandle<A> {
    fn drop(&mut self) {
        self.end(Status::Aborted, A::Result::default());
    }
}

struct State<A: Action> {
    goals: Goals<A::Result, ServiceRequest<A::GetResult>>,
    cancelling: HashMap<GoalId, watch::Sender<bool>>,
}

struct Shared<A: Action> {
    title: String,
    node: String,
    clock: Clock,
    // Publishers may move between threads, not be shared.
    feedback: Mutex<Publisher<A::FeedbackMessage>>,
    status: Mutex<Publisher<GoalStatusArray>>,
    state: Mutex<State<A>>,
    changed: Notify,
}

impl<A: Action> Shared<A> {
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        lock(&self.state)
    }

    /// The goal for the node, unless it is refused at the door.
    fn arrive(self: Arc<Self>, request: ServiceRequest<A::SendGoal>) -> Option<GoalRequest<A>> {
        let (uuid, goal) = A::destructure_goal_request_msg(request.message.clone());
        let id = to_id(&uuid);
        let arrived = self.lock().goals.arrive(id);
        if let Err(refusal) = arrived {
            self.tell_rejection(refusal);
            respond::<A>(request, false, self.clock.now());
            return None;
        }
        Some(GoalRequest {
            goal,
            id,
            request: Some(request),
            shared: self,
        })
    }

    fn tell_rejection(&self, reason: &str) {
        tracing::warn!(node = self.node, "{} rejects a goal: {reason}", self.title);
    }

    fn cancel(&self, request: ServiceRequest<CancelGoal::Service>) {
        let asked = &request.message.goal_info;
        let (code, stopping) = {
            let mut state = self.lock();
            let found = state.goals.cancel(to_id(&asked.goal_id), from_time(&asked.stamp));
            for (id, _) in &found.1 {
                if let Some(sender) = state.cancelling.get(id) {
                    sender.send_replace(true);
                }
            }
            found
        };
        let goals_canceling = stopping.into_iter().map(|(id, at)| info(id, at)).collect();
        reply(
            request,
            CancelGoal::Response {
                return_code: code as i8,
                goals_canceling,
            },
        );
        self.publish_status();
    }

    fn answer(&self, request: ServiceRequest<A::GetResult>) {
        let id = to_id(&A::destructure_result_request_msg(request.message.clone()));
        let answer = self.lock().goals.ask(id, request);
        if let ResultAnswer::Now(request, status, result) = answer {
            let response = A::make_result_response_msg(status as i8, result.unwrap_or_default());
            reply(request, response);
        }
    }

    fn until_expiry(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.lock().goals.next_expiry().map(|at| at.since(now))
    }

    fn expire(&self) {
        if self.lock().goals.expire(self.clock.now()) {
            self.publish_status();
        }
    }

    fn publish_status(&self) {
        // Held from the look to the publication, so that an older list never comes last and stays latched.
        let status = lock(&self.status);
        let status_list = self
            .lock()
            .goals
            .statuses()
            .map(|(id, accepted, status)| GoalStatus {
                goal_info: info(id, accepted),
                status: status as i8,
            })
            .collect();
        status.publish(&GoalStatusArray { status_list });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn info(id: GoalId, accepted: Instant) -> GoalInfo {
    GoalInfo {
        goal_id: to_uuid(id),
        stamp: to_time(accepted),
    }
}

fn to_uuid(id: GoalId) -> UUID {
    UUID { uuid: id.to_vec() }
}

/// Missing bytes count as zero.
fn to_id(uuid: &UUID) -> GoalId {
    let mut id = GoalId::default();
    for (to, from) in id.iter_mut().zip(&uuid.uuid) {
        *to = *from;
    }
    id
}

#[cfg(test)]
mod tests {
    use r2r::hhnet::action::MoveStage::{self, GetResult, SendGoal};

    use super::*;

    /// A node that only asks.
    fn client_node() -> r2r::Node {
        r2r::Node::create(r2r::Context::create().unwrap(), "asks", "").unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_goal_is_aborted_and_an_unknown_one_has_no_outcome() {
        let limit = Duration::from_secs(20);
        let mut node = Builder::new("serves").unwrap();
        let name = format!("drops_{}", std::process::id());
        let mut server = ActionServer::<MoveStage::Action>::new(&mut node, &name, Clock::start()).unwrap();
        let _spinning = node.spin().unwrap();

        let mut asks = client_node();
        let services = QosProfile::services_default;
        let sends = asks
            .create_client::<SendGoal::Service>(&format!("{name}/_action/send_goal"), services())
            .unwrap();
        let results = asks
            .create_client::<GetResult::Service>(&format!("{name}/_action/get_result"), services())
            .unwrap();
        let available = [
            r2r::Node::is_available(&sends).unwrap(),
            r2r::Node::is_available(&results).unwrap(),
        ];
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = over.clone();
        let spinning = std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                asks.spin_once(Duration::from_millis(10));
            }
        });
        for service in available {
            tokio::time::timeout(limit, service).await.unwrap().unwrap();
        }

        let ask = |number: u8| {
            let request = GetResult::Request {
                goal_id: to_uuid([number; 16]),
            };
            tokio::time::timeout(limit, results.request(&request).unwrap())
        };
        let unknown = ask(1).await.unwrap().unwrap();
        assert_eq!((unknown.status, unknown.result.code), (Status::Unknown as i8, 0));

        let goal = SendGoal::Request {
            goal_id: to_uuid([2; 16]),
            goal: MoveStage::Goal::default(),
        };
        let sent = sends.request(&goal).unwrap();
        drop(server.next().await.unwrap().accept());
        assert!(tokio::time::timeout(limit, sent).await.unwrap().unwrap().accepted);
        let dropped = ask(2).await.unwrap().unwrap();
        assert_eq!(
            (dropped.status, dropped.result.code),
            (Status::Aborted as i8, MoveStage::Result::UNKNOWN as u8)
        );

        // Refused at the door: the node hears nothing of it.
        let again = sends.request(&goal).unwrap();
        assert!(
            !tokio::time::timeout(limit, again)
                .await
                .unwrap()
                .unwrap()
                .accepted
        );
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        spinning.join().unwrap();
    }
}
