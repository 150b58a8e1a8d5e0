//! One process: its clock, its end, and the nodes that run in it.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::units::Instant;

/// How long nodes may take to stop the motor and leave their loops after a signal.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// A clock that starts at the wall clock's time and never jumps: a step of the system time must not stretch a motion.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: std::time::Instant,
    started_unix: Duration,
}

impl Clock {
    /// A clock set by the system time.
    pub fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Nanoseconds since 1970, monotonic.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.started_unix + self.started.elapsed()
    }
}

/// What every node of a process shares.
#[derive(Clone, Debug)]
pub struct App {
    /// The process's clock.
    pub clock: Clock,
    stopping: watch::Receiver<bool>,
}

impl App {
    /// Completes when the process has been asked to end.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the sender is gone, which is an end as well.
        drop(stopping.wait_for(|stopping| *stopping).await);
    }

    /// True once the process has been asked to end, for loops that cannot await.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

/// The nodes of one process, running side by side until one fails or a signal comes.
pub struct Process {
    app: App,
    stop: watch::Sender<bool>,
    nodes: JoinSet<Result<()>>,
}

impl Process {
    /// A process without nodes. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the command line.
    pub fn new() -> Result<Self> {
        refuse_sim_time()?;
        let context = r2r::Context::create()
            .context("ROS did not start: check the arguments after --ros-args and the parameter file")?;
        super::log::start(context)?;
        let (stop, stopping) = watch::channel(false);
        Ok(Self {
            app: App {
                clock: Clock::start(),
                stopping,
            },
            stop,
            nodes: JoinSet::new(),
        })
    }

    /// What nodes need from the process.
    pub fn app(&self) -> App {
        self.app.clone()
    }

    /// Adds a node.
    pub fn add(&mut self, node: impl Future<Output = Result<()>> + Send + 'static) {
        self.nodes.spawn(node);
    }

    /// Runs until SIGINT, SIGTERM or the end of any node, then stops all of them.
    ///
    /// # Errors
    /// The first node's error, or nodes that did not stop in time.
    pub async fn run(mut self) -> Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let first = tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            ended = self.nodes.join_next() => flatten(ended),
        };
        self.stop.send_replace(true);
        let rest = tokio::time::timeout(SHUTDOWN_LIMIT, async {
            let mut outcome = Ok(());
            while let Some(ended) = self.nodes.join_next().await {
                outcome = outcome.and(flatten(Some(ended)));
            }
            outcome
        });
        let rest = rest
            .await
            .unwrap_or_else(|_| bail!("nodes did not stop within {SHUTDOWN_LIMIT:?}"));
        first.and(rest)
    }
}

fn flatten(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    ended.map_or(Ok(()), |joined| joined.context("a node panicked").flatten())
}

/// The body of every executable: a runtime, the nodes that `add` puts in, one sentence and status 1 on failure.
pub fn main(add: impl FnOnce(&mut Process)) -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime
        .context("the async runtime did not start")
        .and_then(|runtime| {
            let outcome = runtime.block_on(async {
                let mut process = Process::new()?;
                add(&mut process);
                process.run().await
            });
            runtime.shutdown_timeout(Duration::from_millis(200));
            outcome
        });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Camera, stage and their emulations run in real time; pretending otherwise would break every time limit.
fn refuse_sim_time() -> Result<()> {
    if std::env::args().any(|argument| argument == "use_sim_time:=true") {
        bail!("use_sim_time is not supported: camera and stage run in real time; leave it false");
    }
    Ok(())
}
