//! One ROS node: create its handles first, then give it a thread.
//!
//! Nothing but ROS traffic wakes `spin_once`, so handles made after the thread has started would wait for the next
//! timeout; [`Builder`] therefore owns the node until [`Builder::spin`] consumes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{FutureExt, Stream, StreamExt};
use r2r::{Publisher, QosProfile, ServiceRequest, WrappedServiceTypeSupport, WrappedTypesupport};
use tokio::sync::watch;

use super::app::Clock;
use super::params::{self, Parameters};

/// Longest wait of one `spin_once`: bounds how late shutdown and answers to clients are noticed.
const SPIN_TIMEOUT: Duration = Duration::from_millis(20);

/// Returns of `spin_once` faster than [`BUSY_SPIN`] in a row before the thread pauses: a wait set that is always ready
/// must not burn a core.
const BUSY_SPINS: u32 = 64;
const BUSY_SPIN: Duration = Duration::from_micros(50);

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

/// A node whose handles are being made.
pub struct Builder {
    node: r2r::Node,
    name: String,
}

impl Builder {
    /// A node of this name (remappable) in the process's namespace. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the name or its arguments.
    pub fn new(name: &str) -> Result<Self> {
        let context = r2r::Context::create().context("ROS did not start")?;
        let node = r2r::Node::create(context, name, "")
            .with_context(|| format!("node {name} could not be created"))?;
        let name = node.fully_qualified_name()?.trim_start_matches('/').to_owned();
        #[allow(unused_mut, reason = "not where ROS has no logger services")]
        let mut builder = Self { node, name };
        #[cfg(logger_services)]
        super::log::serve(&mut builder)?;
        Ok(builder)
    }

    /// Namespace and name without the leading slash, for log lines and diagnostics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's namespace, `/` for none.
    pub fn namespace(&self) -> Result<String> {
        Ok(self.node.namespace()?)
    }

    /// Declares the node's parameters and serves them; the receiver holds the values in force, and hears of changes to those
    /// that may change while the node runs. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Unknown or mistyped overrides, values out of range, each with a remedy.
    pub fn parameters<P: Parameters>(&mut self, clock: Clock) -> Result<watch::Receiver<P>> {
        let store = params::declare::<P>(&self.node)?;
        let values = store.subscribe();
        params::serve(self, store, clock)?;
        Ok(values)
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
        self.node
            .create_publisher(topic, qos)
            .with_context(|| format!("topic {topic} cannot be published"))
    }

    /// A subscription that yields the newest message and drops the ones it overtook.
    ///
    /// # Errors
    /// If ROS refuses the topic name.
    pub fn subscribe<T: WrappedTypesupport + Send + 'static>(
        &mut self,
        topic: &str,
        qos: QosProfile,
    ) -> Result<Newest<T>> {
        let stream = self
            .node
            .subscribe(topic, qos)
            .with_context(|| format!("topic {topic} cannot be subscribed"))?;
        Ok(Newest {
            stream: Box::new(stream),
            overtaken: 0,
        })
    }

    /// A service, as a stream of requests.
    ///
    /// # Errors
    /// If ROS refuses the service name.
    pub fn service<T: WrappedServiceTypeSupport + 'static>(&mut self, name: &str) -> Result<Requests<T>> {
        self.service_with(name, QosProfile::services_default())
    }

    /// A service with a quality of service of its own.
    ///
    /// # Errors
    /// If ROS refuses the service name.
    pub fn service_with<T: WrappedServiceTypeSupport + 'static>(
        &mut self,
        name: &str,
        qos: QosProfile,
    ) -> Result<Requests<T>> {
        let requests = self.node.create_service::<T>(name, qos);
        Ok(Box::new(
            requests.with_context(|| format!("service {name} cannot be served"))?,
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
            let mut busy = 0;
            while !stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                self.node.spin_once(SPIN_TIMEOUT);
                busy = if before.elapsed() < BUSY_SPIN { busy + 1 } else { 0 };
                if busy > BUSY_SPINS {
                    std::thread::sleep(Duration::from_millis(1));
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

/// A subscription reduced to its newest message: r2r queues the oldest eleven and drops what is new.
pub struct Newest<T> {
    stream: Box<dyn Stream<Item = T> + Unpin + Send>,
    overtaken: u64,
}

impl<T> Newest<T> {
    /// Waits for a message and returns the newest that has arrived; `None` once the node is gone.
    pub async fn next(&mut self) -> Option<T> {
        let mut newest = self.stream.next().await?;
        while let Some(Some(newer)) = self.stream.next().now_or_never() {
            newest = newer;
            self.overtaken += 1;
        }
        Some(newest)
    }

    /// Messages dropped so far because a newer one had arrived.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// Forgets what has arrived.
    pub fn clear(&mut self) {
        while let Some(Some(_)) = self.stream.next().now_or_never() {}
    }
}
