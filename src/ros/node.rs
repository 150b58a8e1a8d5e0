//! One ROS node: create its handles first, then give it a thread.
//!
//! Nothing but ROS traffic wakes `spin_once`, so handles made after the thread has started would wait for the next
//! timeout; [`Builder`] therefore owns the node until [`Builder::spin`] consumes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use r2r::{QosProfile, ServiceRequest, WrappedServiceTypeSupport, WrappedTypesupport};
use tokio::sync::{Notify, watch};

use super::arguments;
use super::graph::{Endpoint, Graph};

/// Longest wait of one `spin_once`: bounds how late shutdown and answers to clients are noticed.
const SPIN_TIMEOUT: Duration = Duration::from_millis(20);

/// Returns of `spin_once` faster than [`BUSY_SPIN`] in a row before the thread pauses: a wait set that is always ready
/// must not burn a core. The one known case, r2r's own action server, returns every 62 µs (16 000 times a second).
const BUSY_SPINS: u32 = 64;
const BUSY_SPIN: Duration = Duration::from_micros(200);
/// Requests of one service that may wait for the node.
pub const MOST_REQUESTS: usize = 64;
/// Requests and answers of one service that the middleware keeps.
const DEPTH: usize = 1000;
/// How long it pauses then.
const PAUSE: Duration = Duration::from_millis(1);

/// Newest-only, reliable: images and velocity commands.
pub fn newest_reliable() -> QosProfile {
    QosProfile::default().keep_last(1).reliable()
}

/// Newest value for late subscribers: states and plans.
pub fn latched() -> QosProfile {
    QosProfile::default().keep_last(1).reliable().transient_local()
}

/// Calls of a service.
pub type Requests<T> = Box<dyn Stream<Item = ServiceRequest<T>> + Unpin + Send>;

/// A topic that a node publishes.
pub struct Publisher<T: WrappedTypesupport>(r2r::Publisher<T>);

impl<T: WrappedTypesupport + 'static> Publisher<T> {
    /// Publishes a message; that fails only while the process ends.
    pub fn publish(&self, message: &T) {
        self.0.publish(message).ok();
    }

    /// How many subscriptions it has; none where ROS cannot tell.
    pub fn subscriptions(&self) -> usize {
        self.0.get_inter_process_subscription_count().unwrap_or(0)
    }
}

/// Answers a call; that fails only while the process ends, or for a client that has gone.
pub fn reply<T: WrappedServiceTypeSupport + 'static>(request: ServiceRequest<T>, response: T::Response) {
    request.respond(response).ok();
}

/// What calls a service of another node.
pub struct Client<T: WrappedServiceTypeSupport + 'static>(r2r::Client<T>);

impl<T: WrappedServiceTypeSupport<Response: Send> + 'static> Client<T> {
    /// Waits until a node serves it; false if that cannot be known any more.
    pub async fn is_served(&self) -> bool {
        match r2r::Node::is_available(&self.0) {
            Ok(served) => served.await.is_ok(),
            Err(_) => false,
        }
    }

    /// Calls it and waits for the answer, for ever if none comes; None if it cannot be called.
    pub async fn call(&self, request: &T::Request) -> Option<T::Response> {
        let answer = self.0.request(request).ok()?;
        answer.await.ok()
    }
}

/// A service whose clients can be told that too many requests wait.
pub trait Busy: WrappedServiceTypeSupport {
    /// What a request gets that finds the queue full.
    fn busy(request: &Self::Request) -> Self::Response;
}

/// What a request gets that finds the queue full, where the answer has room for a sentence.
pub(super) fn busy_sentence() -> String {
    format!("busy: {MOST_REQUESTS} requests wait already; ask again when they are answered")
}

/// `success` and `message`, as most services answer.
macro_rules! busy_with_message {
    ($($service:ident in $($path:ident)::+;)*) => { $(
        impl Busy for r2r::$($path)::+::$service::Service {
            fn busy(_: &Self::Request) -> Self::Response {
                r2r::$($path)::+::$service::Response {
                    success: false,
                    message: busy_sentence(),
                }
            }
        }
    )* };
}

busy_with_message! {
    Trigger in std_srvs::srv;
    SetBool in std_srvs::srv;
    AcceptPosition in hhnet::srv;
}

/// As services have it by default, with room for a burst of clients: r2r takes one request a turn.
pub(super) fn services_deep() -> QosProfile {
    QosProfile::services_default().keep_last(DEPTH)
}

/// Empties `requests` into the node's queue; `refuse` answers what it does not take.
fn forward<R>(
    requests: &mut (impl Stream<Item = R> + Unpin),
    queue: &mut mpsc::Sender<R>,
    refuse: impl Fn(R),
) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while let Poll::Ready(Some(request)) = requests.poll_next_unpin(&mut context) {
        if let Err(full) = queue.try_send(request) {
            refuse(full.into_inner());
        }
    }
}

/// Held while ROS makes a node or a handle. The nodes of a process are built at once, each by a thread of its own; the code that looks up the
/// description of a message type, which all of them use, is not made for that: now and then one of them was refused a service at start
/// ("typesupport identifier is not supported").
pub(super) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static MAKING: Mutex<()> = Mutex::new(());
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node whose handles are being made.
pub struct Builder {
    node: r2r::Node,
    name: String,
    services: Vec<Forward>,
    graph: Graph,
}

/// Moves the requests of one service from r2r's queue to the node's.
type Forward = Box<dyn FnMut() + Send>;

impl Builder {
    /// A node of this name (remappable) in the process's namespace. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the name or its arguments.
    pub fn new(name: &str) -> Result<Self> {
        let _alone = one_at_a_time();
        let context = r2r::Context::create().context("ROS did not start")?;
        let node = r2r::Node::create(context, name, "")
            .with_context(|| format!("node {name} could not be created"))?;
        let name = node.fully_qualified_name()?.trim_start_matches('/').to_owned();
        Ok(Self {
            node,
            name,
            services: Vec::new(),
            graph: Graph::default(),
        })
    }

    /// Namespace and name without the leading slash, for log lines and diagnostics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's namespace, `/` for none.
    pub fn namespace(&self) -> Result<String> {
        Ok(self.node.namespace()?)
    }

    /// A publisher.
    ///
    /// # Errors
    /// If ROS refuses the topic name.
    pub fn publisher<T: WrappedTypesupport + 'static>(
        &mut self,
        topic: &str,
        qos: QosProfile,
    ) -> Result<Publisher<T>> {
        let _alone = one_at_a_time();
        let publisher = self.node.create_publisher(topic, qos);
        let publisher = publisher.with_context(|| format!("topic {topic} cannot be published"))?;
        Ok(Publisher(publisher))
    }

    /// The full name under which this node has a topic.
    pub fn topic(&self, topic: &str) -> String {
        arguments::given().topic(&format!("/{}", self.name), topic)
    }

    /// Who publishes a topic, looked up several times a second while the node spins.
    pub fn publishers_of(&mut self, topic: &str) -> watch::Receiver<Vec<Endpoint>> {
        let topic = self.topic(topic);
        self.graph.watch(topic)
    }

    /// A subscription that yields the newest message and drops the ones it overtook. A publisher that offers less than `qos` asks for
    /// (best effort for reliable, nothing kept for late subscribers) is heard all the same, as it comes. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the topic name.
    pub fn subscribe<T: WrappedTypesupport + Send + 'static>(
        &mut self,
        topic: &str,
        qos: QosProfile,
    ) -> Result<Newest<T>> {
        let _alone = one_at_a_time();
        let stream = self
            .node
            .subscribe(topic, qos.clone())
            .with_context(|| format!("topic {topic} cannot be subscribed"))?;
        let newest = Newest::pumped(stream);
        let (runtime, slot, name) = (
            tokio::runtime::Handle::current(),
            newest.slot.clone(),
            topic.to_owned(),
        );
        let undemanding = qos.clone().best_effort().volatile();
        self.graph.join_when_needed(self.topic(topic), qos, move |node| {
            let _alone = one_at_a_time();
            let stream = node.subscribe(&name, undemanding)?;
            runtime.spawn(pump(stream, slot));
            Ok(())
        });
        Ok(newest)
    }

    /// A service, as a stream of requests. More than [`MOST_REQUESTS`] that wait are answered as [`Busy`] says.
    ///
    /// # Errors
    /// If ROS refuses the service name.
    pub fn service<T: Busy + 'static>(&mut self, name: &str) -> Result<Requests<T>>
    where
        T::Request: Send,
    {
        self.service_with(name, services_deep(), T::busy)
    }

    /// A service with a quality of service of its own, and what those get that find its queue full.
    ///
    /// # Errors
    /// If ROS refuses the service name.
    pub fn service_with<T: WrappedServiceTypeSupport + 'static>(
        &mut self,
        name: &str,
        qos: QosProfile,
        busy: impl Fn(&T::Request) -> T::Response + Send + 'static,
    ) -> Result<Requests<T>>
    where
        T::Request: Send,
    {
        let _alone = one_at_a_time();
        let requests = self.node.create_service::<T>(name, qos);
        let mut requests = requests.with_context(|| format!("service {name} cannot be served"))?;
        let (mut sender, arrived) = mpsc::channel(MOST_REQUESTS);
        self.services.push(Box::new(move || {
            forward(&mut requests, &mut sender, |request: ServiceRequest<T>| {
                let answer = busy(&request.message);
                reply(request, answer);
            });
        }));
        Ok(Box::new(arrived))
    }

    /// What calls the service `name` of another node.
    ///
    /// # Errors
    /// If ROS refuses the service name.
    pub fn client<T: WrappedServiceTypeSupport + 'static>(&mut self, name: &str) -> Result<Client<T>> {
        let _alone = one_at_a_time();
        let client = self.node.create_client::<T>(name, services_deep());
        Ok(Client(
            client.with_context(|| format!("service {name} cannot be called"))?,
        ))
    }

    /// Starts the node's thread. Dropping the returned guard ends it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn spin(mut self) -> Result<SpinThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let name = format!("spin-{}", self.name.rsplit('/').next().unwrap_or_default());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let mut guard = SpinGuard::default();
            while !stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                self.node.spin_once(SPIN_TIMEOUT);
                // r2r takes one request of each service a turn, and drops it when ten wait: so none waits there.
                self.services.iter_mut().for_each(|forward| forward());
                self.graph.look(&mut self.node, &self.name);
                if let Some(pause) = guard.after(before.elapsed()) {
                    std::thread::sleep(pause);
                }
            }
        });
        Ok(SpinThread {
            stop,
            thread: Some(thread.context("no thread for the node")?),
        })
    }
}

/// The thread a node spins in; ends with this value.
pub struct SpinThread {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for SpinThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread holds nothing that needs rescuing if it panicked.
            drop(thread.join());
        }
    }
}

/// Notices a wait set that is always ready.
#[derive(Debug, Default)]
struct SpinGuard {
    busy: u32,
}

impl SpinGuard {
    /// How long to pause after a `spin_once` that took this long.
    fn after(&mut self, took: Duration) -> Option<Duration> {
        self.busy = if took < BUSY_SPIN { self.busy + 1 } else { 0 };
        (self.busy > BUSY_SPINS).then_some(PAUSE)
    }
}

/// A subscription reduced to its newest message.
///
/// r2r queues the oldest eleven and drops what is new, so a task of its own empties that queue all the time: however long
/// [`Newest::next`] is not called, it returns what came last.
pub struct Newest<T> {
    slot: Arc<Slot<T>>,
    arrived: Option<Instant>,
}

struct Slot<T> {
    held: Mutex<Held<T>>,
    changed: Notify,
}

struct Held<T> {
    newest: Option<T>,
    /// When it came.
    arrived: Option<Instant>,
    is_over: bool,
    /// Dropped because a newer one had arrived.
    overtaken: u64,
}

impl<T: Send + 'static> Newest<T> {
    fn pumped(stream: impl Stream<Item = T> + Unpin + Send + 'static) -> Self {
        let slot = Arc::new(Slot {
            held: Mutex::new(Held {
                newest: None,
                arrived: None,
                is_over: false,
                overtaken: 0,
            }),
            changed: Notify::new(),
        });
        tokio::spawn(pump(stream, slot.clone()));
        Self { slot, arrived: None }
    }

    /// Waits for a message and returns the newest that has arrived; `None` once the node is gone.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            {
                let mut held = self.slot.lock();
                if held.newest.is_some() || held.is_over {
                    self.arrived = held.arrived;
                    return held.newest.take();
                }
            }
            // A change between the look and the wait is remembered.
            self.slot.changed.notified().await;
        }
    }

    /// When the message that [`Self::next`] returned last had arrived.
    pub fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Messages dropped so far because a newer one had arrived.
    pub fn overtaken(&self) -> u64 {
        self.slot.lock().overtaken
    }

    /// Drops what has arrived and was not asked for.
    pub fn forget(&mut self) {
        self.slot.lock().newest = None;
    }
}

/// Empties a stream into a slot.
async fn pump<T>(mut stream: impl Stream<Item = T> + Unpin, slot: Arc<Slot<T>>) {
    while let Some(message) = stream.next().await {
        slot.change(|held| {
            held.overtaken += u64::from(held.newest.replace(message).is_some());
            held.arrived = Some(Instant::now());
        });
    }
    slot.change(|held| held.is_over = true);
}

impl<T> Slot<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Held<T>)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the guard pauses the thread within `spins` returns that each take this long.
    fn pauses(took: Duration, spins: u32) -> bool {
        let mut guard = SpinGuard::default();
        (0..spins).any(|_| guard.after(took).is_some())
    }

    #[test]
    fn a_wait_set_that_is_always_ready_is_paused_and_traffic_is_not() {
        assert!(pauses(Duration::from_micros(62), 65), "r2r's action server");
        assert!(!pauses(Duration::from_micros(62), 64), "a burst of messages");
        assert!(!pauses(Duration::from_micros(250), 10_000), "a busy node");
        assert!(!pauses(SPIN_TIMEOUT, 10_000), "an idle node");
    }

    #[test]
    fn one_wait_is_enough_to_go_on_at_full_speed() {
        let mut guard = SpinGuard::default();
        for _ in 0..100 {
            guard.after(Duration::from_micros(10));
        }
        assert_eq!(guard.after(Duration::from_micros(10)), Some(PAUSE));
        assert_eq!(guard.after(SPIN_TIMEOUT), None);
        assert_eq!(guard.after(Duration::from_micros(10)), None);
    }

    #[test]
    fn a_full_queue_answers_busy_and_a_closed_one_as_well() {
        let (mut queue, mut arrived) = mpsc::channel(MOST_REQUESTS);
        let refused = std::cell::RefCell::new(Vec::new());
        let mut all = futures::stream::iter(0..200);
        forward(&mut all, &mut queue, |request| refused.borrow_mut().push(request));
        let mut waiting = Vec::new();
        while let Ok(request) = arrived.try_recv() {
            waiting.push(request);
        }
        // The queue holds one more for each sender.
        assert_eq!(waiting, Vec::from_iter(0..=64));
        assert_eq!(refused.take(), Vec::from_iter(65..200));
        drop(arrived);
        let mut late = futures::stream::iter([7]);
        forward(&mut late, &mut queue, |request| {
            refused.borrow_mut().push(request)
        });
        assert_eq!(refused.take(), [7]);
    }

    #[tokio::test]
    async fn whoever_asks_late_gets_what_came_last() {
        let (sender, stream) = mpsc::unbounded();
        let mut newest = Newest::pumped(stream);
        for number in 0..1000 {
            sender.unbounded_send(number).unwrap();
        }
        while newest.slot.lock().newest != Some(999) {
            tokio::task::yield_now().await;
        }
        assert_eq!(newest.next().await, Some(999));
        assert_eq!(newest.overtaken(), 999);
        sender.unbounded_send(1000).unwrap();
        while newest.slot.lock().newest.is_none() {
            tokio::task::yield_now().await;
        }
        newest.forget();
        sender.unbounded_send(1001).unwrap();
        assert_eq!(newest.next().await, Some(1001));
        drop(sender);
        assert_eq!(newest.next().await, None);
        assert_eq!(newest.next().await, None);
    }
}
