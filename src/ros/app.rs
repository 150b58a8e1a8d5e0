//! One process: its clock, its end, and the nodes that run in it.

use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::arguments::{self, Invocation};
use super::clock::Clock;
use super::params::Sections;

/// How long nodes may take to stop the motor and leave their loops after a signal. What is left of the second in which a process
/// promises to end goes to the runtime ([`RUNTIME_LIMIT`]).
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(800);
/// How long the runtime waits for work that cannot be interrupted.
const RUNTIME_LIMIT: Duration = Duration::from_millis(100);
/// What a process that was told to end may take at most. It needs a second; what hangs then is not ours: the middleware, on its way out.
const LAST_RESORT: Duration = Duration::from_secs(3);
/// How long the last words of a process that fails may take to reach a listener.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// What every node of a process shares.
#[derive(Clone, Debug)]
pub struct App {
    /// The process's clock.
    pub clock: Clock,
    stopping: CancellationToken,
}

impl App {
    /// Completes when the process has been asked to end.
    pub async fn stopped(&self) {
        self.stopping.cancelled().await;
    }

    /// True once the process has been asked to end, for loops that cannot await.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

/// The nodes of one process, running side by side until one fails or a signal comes.
pub struct Process {
    clock: Clock,
    nodes: Group,
    /// Nodes that others need to the end.
    last: Group,
}

/// Nodes that are asked to end together.
struct Group {
    stop: CancellationToken,
    nodes: JoinSet<Result<()>>,
}

impl Group {
    fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            nodes: JoinSet::new(),
        }
    }

    /// Asks its nodes to end and waits for them; the first error.
    async fn end(&mut self) -> Result<()> {
        self.stop.cancel();
        let mut outcome = Ok(());
        while let Some(ended) = self.nodes.join_next().await {
            outcome = outcome.and(flatten(ended));
        }
        outcome
    }
}

impl Process {
    /// A process without nodes. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the command line.
    pub fn new() -> Result<Self> {
        refuse_sim_time()?;
        super::log::start(ros_context()?)?;
        Ok(Self {
            clock: Clock::start(),
            nodes: Group::new(),
            last: Group::new(),
        })
    }

    /// Adds the node that `run` makes of what it needs from the process.
    pub fn add<F>(&mut self, run: impl FnOnce(App) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.nodes.nodes.spawn(run(self.app(&self.nodes)));
    }

    /// Adds a node that ends after all those of [`Process::add`] have: a stage's port has to be there until the stage stands.
    pub fn add_last<F>(&mut self, run: impl FnOnce(App) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.last.nodes.spawn(run(self.app(&self.last)));
    }

    fn app(&self, group: &Group) -> App {
        App {
            clock: self.clock,
            stopping: group.stop.clone(),
        }
    }

    /// Runs until SIGINT, SIGTERM, SIGHUP (unless that is ignored) or the end of any node, then stops all of them.
    ///
    /// # Errors
    /// The first node's error, or nodes that did not stop in time.
    pub async fn run(mut self) -> Result<()> {
        arguments::given()
            .overrides
            .expect(self.nodes.nodes.len() + self.last.nodes.len());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // The terminal or the session it was started from is closed; started by nohup, it is to outlive them.
        let mut hang_up = match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        let first = tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            () = received(&mut hang_up) => Ok(()),
            Some(ended) = self.nodes.nodes.join_next() => flatten(ended),
            Some(ended) = self.last.nodes.join_next() => flatten(ended),
        };
        abort_in(LAST_RESORT);
        let rest = tokio::time::timeout(SHUTDOWN_LIMIT, async {
            let nodes = self.nodes.end().await;
            nodes.and(self.last.end().await)
        });
        let rest = rest
            .await
            .unwrap_or_else(|_| bail!("nodes did not stop within {SHUTDOWN_LIMIT:?}"));
        first.and(rest)
    }
}

/// Whether this process was started with a signal ignored; where that cannot be told, not.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}

/// Completes when the signal comes; never without one.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Ends the process the hard way if it still runs after `limit`; a trace of where it hung is left where core dumps are kept.
fn abort_in(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        super::log::to_console(format_args!(
            "error: the process still ran {limit:?} after it was told to end and is aborted: please report this"
        ));
        std::process::abort();
    });
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.context("a node panicked").flatten()
}

/// The body of every executable: arguments, a runtime, the nodes that `add` puts in, one sentence on the console and on `/rosout`
/// and status 1 on failure. `sections` are those of the product's parameter files, also for nodes of other processes.
pub fn main(sections: Sections, add: impl FnOnce(&mut Process)) -> std::process::ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let outcome = arguments::read(arguments).and_then(|wish| match wish {
        Invocation::Run(mut given) => {
            given.overrides.known = sections;
            arguments::keep(given);
            run(add)
        }
        Invocation::Help => {
            let usage = arguments::usage(&program.to_string_lossy());
            Ok(writeln!(std::io::stdout(), "{usage}")?)
        }
    });
    match outcome {
        Ok(()) => {
            super::log::end(None, Duration::ZERO);
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            super::log::end(Some(&format!("{error:#}")), LAST_WORDS_LIMIT);
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(add: impl FnOnce(&mut Process)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the async runtime did not start")?;
    let outcome = runtime.block_on(async {
        let mut process = Process::new()?;
        add(&mut process);
        process.run().await
    });
    runtime.shutdown_timeout(RUNTIME_LIMIT);
    outcome
}

/// The process's connection to ROS. r2r panics where rcl refuses something, here that is one sentence too.
fn ros_context() -> Result<r2r::Context> {
    let domain = std::env::var_os("ROS_DOMAIN_ID");
    arguments::check_domain(domain.as_ref().map(|text| text.to_string_lossy()).as_deref())?;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(r2r::Context::create);
    std::panic::set_hook(hook);
    const REMEDY: &str = "check the arguments after --ros-args and the variables ROS_* and RMW_*";
    match outcome {
        Ok(context) => context.with_context(|| format!("ROS did not start: {REMEDY}")),
        Err(panic) => {
            let reason = panic.downcast_ref::<String>().map_or("", String::as_str);
            bail!("ROS did not start: {REMEDY}: {}", reason.replace('\n', " "))
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
