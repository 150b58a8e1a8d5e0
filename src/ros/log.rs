//! `tracing` to the console in ROS format and to `/rosout`.
//!
//! r2r publishes nothing on `/rosout` with Jazzy, so this layer does: rqt_console, Foxglove and bags see what the console
//! shows. Levels come from `--ros-args --log-level LEVEL` and `--log-level NODE:=LEVEL`, and later from the services
//! `~/get_logger_levels` and `~/set_logger_levels` of each node (where `rcl_interfaces` has them, from Jazzy on). A line that
//! repeats itself is told [`SAME_LINES`] times a second, and then how often it was left out. What ends a process comes last, as
//! FATAL, and the process waits until it is out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use r2r::QosProfile;
use r2r::rcl_interfaces::msg::Log;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines waiting for `/rosout`; more are dropped there, never on the console.
const QUEUE: usize = 1000;
/// How often the same line of the same node is told within [`SAME_PERIOD`].
const SAME_LINES: u32 = 3;
const SAME_PERIOD: Duration = Duration::from_secs(1);
/// Lines remembered for that; the oldest is forgotten first.
const REMEMBERED: usize = 64;

/// Levels of this process's loggers. A logger is named after its node, with `/` for the namespace.
static LEVELS: Mutex<Option<Levels>> = Mutex::new(None);

/// The way to `/rosout`.
static ROSOUT: OnceLock<mpsc::SyncSender<Told>> = OnceLock::new();

/// How often it is looked whether a listener has been found, and how long the network may take for the last line.
const LOOK: Duration = Duration::from_millis(10);
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// A line for `/rosout`, and for the last one somebody who waits until it is out.
struct Told {
    line: Log,
    is_out: Option<mpsc::Sender<()>>,
}

/// Starts logging for the process, once.
pub(super) fn start(context: r2r::Context) -> Result<()> {
    *levels() = Some(Levels::from_arguments(std::env::args())?);
    // Hidden, and one for each process: two nodes of one name disturb each other's parameters and graph entries.
    let name = format!("_log_{}", std::process::id());
    let mut node = r2r::Node::create(context, &name, "").context("the log node could not be created")?;
    let qos = QosProfile::default()
        .keep_last(QUEUE)
        .reliable()
        .transient_local()
        .lifespan(Duration::from_secs(10));
    let publisher = node.create_publisher::<Log>("/rosout", qos)?;
    let (lines, queue) = mpsc::sync_channel::<Told>(QUEUE);
    // A second start in one process (tests) keeps the first.
    drop(ROSOUT.set(lines.clone()));
    std::thread::Builder::new()
        .name("rosout".to_owned())
        .spawn(move || {
            // The node only has to live; publishing needs no spinning.
            let _node = node;
            while let Ok(told) = queue.recv() {
                if publisher.publish(&told.line).is_err() {
                    return;
                }
                if let Some(is_out) = told.is_out {
                    // A process that fails at once is not known to its listeners yet.
                    while publisher
                        .get_inter_process_subscription_count()
                        .is_ok_and(|count| count == 0)
                    {
                        std::thread::sleep(LOOK);
                    }
                    std::thread::sleep(ON_ITS_WAY);
                    is_out.send(()).ok();
                }
            }
        })?;
    let throttle = Mutex::default();
    // A second start in one process (tests) keeps the first.
    drop(
        tracing_subscriber::registry()
            .with(RosLayer { lines, throttle })
            .try_init(),
    );
    Ok(())
}

/// Says on the console and on `/rosout` why the process ends, and waits at most `limit` until a listener has it.
pub(super) fn last_words(reason: &str, limit: Duration) {
    if let Some(lines) = ROSOUT.get() {
        let (sender, is_out) = mpsc::channel();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let executable = std::env::current_exe().unwrap_or_default();
        let name = executable.file_stem().unwrap_or_default().to_string_lossy();
        let told = Told {
            line: Log {
                stamp: super::convert::to_time(crate::units::Instant::from_nanos(0) + since_epoch),
                level: Severity::Fatal as u8,
                name: name.into_owned(),
                msg: printable(reason),
                ..Log::default()
            },
            is_out: Some(sender),
        };
        if lines.try_send(told).is_ok() {
            // Nobody may be listening.
            is_out.recv_timeout(limit).ok();
        }
    }
    eprintln!("error: {reason}");
}

fn levels() -> MutexGuard<'static, Option<Levels>> {
    LEVELS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Severity in `rcl_interfaces/Log`; 0, unset, is the default's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Debug = 10,
    Info = 20,
    Warn = 30,
    Error = 40,
    Fatal = 50,
}

impl Severity {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Debug, "DEBUG"),
        (Self::Info, "INFO"),
        (Self::Warn, "WARN"),
        (Self::Error, "ERROR"),
        (Self::Fatal, "FATAL"),
    ];

    fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }

    fn word(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(severity, _)| *severity == self)
            .map_or("", |(_, word)| word)
    }

    fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|(_, word)| word.eq_ignore_ascii_case(name));
        let (severity, _) = found.with_context(|| {
            format!("unknown log level '{name}': choose debug, info, warn, error or fatal")
        })?;
        Ok(severity)
    }

    #[cfg(logger_services)]
    fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .map(|(severity, _)| severity)
            .find(|&severity| severity as u32 == number)
    }
}

/// Which lines are told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Levels {
    default: Severity,
    /// By the name of the node, without its namespace or with it.
    nodes: HashMap<String, Severity>,
}

impl Levels {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut levels = Self {
            default: Severity::Info,
            nodes: HashMap::new(),
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            if argument != "--log-level" {
                continue;
            }
            let Some(rule) = arguments.next() else {
                bail!("--log-level needs a level")
            };
            match rule.rsplit_once(":=") {
                Some((node, level)) => {
                    levels.nodes.insert(plain(node), Severity::parse(level)?);
                }
                None => levels.default = Severity::parse(&rule)?,
            }
        }
        Ok(levels)
    }

    fn of(&self, node: &str) -> Severity {
        let name = node.rsplit('/').next().unwrap_or_default();
        let found = self.nodes.get(node).or_else(|| self.nodes.get(name));
        found.copied().unwrap_or(self.default)
    }
}

/// A logger's name as it is kept: ROS writes dots where a node's name has slashes.
fn plain(logger: &str) -> String {
    logger.replace('.', "/").trim_matches('/').to_owned()
}

/// Serves the levels of a node's logger. Must be called inside a tokio runtime, before the node spins.
///
/// # Errors
/// If ROS refuses the services.
#[cfg(logger_services)]
pub(super) fn serve(node: &mut super::node::Builder) -> Result<()> {
    use futures::StreamExt as _;
    use r2r::rcl_interfaces::msg::{LoggerLevel, SetLoggerLevelsResult};
    use r2r::rcl_interfaces::srv::{GetLoggerLevels, SetLoggerLevels};

    let mut gets = node.service::<GetLoggerLevels::Service>("~/get_logger_levels")?;
    let mut sets = node.service::<SetLoggerLevels::Service>("~/set_logger_levels")?;
    let level = |name: &String| LoggerLevel {
        name: name.clone(),
        level: levels()
            .as_ref()
            .map_or(0, |levels| levels.of(&plain(name)) as u32),
    };
    let set = |wanted: &LoggerLevel| {
        let severity = Severity::from_number(wanted.level);
        if let (Some(severity), Some(levels)) = (severity, levels().as_mut()) {
            levels.nodes.insert(plain(&wanted.name), severity);
        }
        SetLoggerLevelsResult {
            successful: severity.is_some(),
            reason: match severity {
                Some(_) => String::new(),
                None => format!("{} is no level: choose 10, 20, 30, 40 or 50", wanted.level),
            },
        }
    };
    // Replies fail only while the node ends.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                request = gets.next() => match request {
                    Some(request) => {
                        let levels = request.message.names.iter().map(level).collect();
                        drop(request.respond(GetLoggerLevels::Response { levels }));
                    }
                    None => break,
                },
                Some(request) = sets.next() => {
                    let results = request.message.levels.iter().map(set).collect();
                    drop(request.respond(SetLoggerLevels::Response { results }));
                }
            }
        }
    });
    Ok(())
}

struct RosLayer {
    lines: mpsc::SyncSender<Told>,
    throttle: Mutex<Throttle>,
}

impl<S: Subscriber> Layer<S> for RosLayer {
    /// Levels change while the process runs: nothing may be decided once and for all.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target().starts_with("hhnet") {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        let severity = Severity::of(*metadata.level());
        if levels()
            .as_ref()
            .is_some_and(|levels| severity < levels.of(&line.node))
        {
            return;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = (line.node.clone(), line.text.clone());
        let left_out = match self
            .throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pass(key, since_epoch)
        {
            Some(left_out) => left_out,
            None => return,
        };
        if left_out > 0 {
            line.text += &format!(" ({left_out} times more before this)");
        }
        eprintln!(
            "[{}] [{}.{:09}] [{}]: {}",
            severity.word(),
            since_epoch.as_secs(),
            since_epoch.subsec_nanos(),
            line.node,
            line.text
        );
        let stamp = super::convert::to_time(crate::units::Instant::from_nanos(0) + since_epoch);
        // A full queue means that nobody can keep up; the console has the line.
        let line = Log {
            stamp,
            level: severity as u8,
            name: line.node.replace('/', "."),
            msg: line.text,
            file: metadata.file().unwrap_or_default().to_owned(),
            function: metadata.target().to_owned(),
            line: metadata.line().unwrap_or_default(),
        };
        drop(self.lines.try_send(Told { line, is_out: None }));
    }
}

/// Keeps a line that repeats itself from drowning the others.
#[derive(Default)]
struct Throttle {
    /// Node and text, when they were told first within the period, how often since, and how often they were left out; the
    /// line told last stands last.
    lines: Vec<((String, String), Duration, u32, u32)>,
}

impl Throttle {
    /// How often the line was left out before it is told now; None if it is left out again. `now` counts from any beginning.
    fn pass(&mut self, key: (String, String), now: Duration) -> Option<u32> {
        let known = self
            .lines
            .iter()
            .position(|(line, ..)| *line == key)
            .map(|at| self.lines.remove(at));
        let (line, since, told, left_out) = match known {
            Some((line, since, told, left_out)) if now.saturating_sub(since) < SAME_PERIOD => {
                (line, since, told, left_out)
            }
            Some((line, _, _, left_out)) => (line, now, 0, left_out),
            None => (key, now, 0, 0),
        };
        if self.lines.len() >= REMEMBERED {
            self.lines.remove(0);
        }
        if told < SAME_LINES {
            self.lines.push((line, since, told + 1, 0));
            Some(left_out)
        } else {
            self.lines.push((line, since, told, left_out + 1));
            None
        }
    }
}

/// Message and fields of one event, text from devices made printable.
#[derive(Default)]
struct Line {
    node: String,
    text: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "node" {
            value.clone_into(&mut self.node);
        } else {
            self.record_debug(field, &format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let printable = printable(&format!("{value:?}"));
        // Writing to a String cannot fail.
        let written = match field.name() {
            "message" => write!(self.text, "{printable}"),
            name => write!(self.text, " {name}={printable}"),
        };
        debug_assert!(written.is_ok());
    }
}

/// Text with its control characters escaped: it may come from a device.
fn printable(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            vec![c]
        }
    };
    text.chars().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_from_ros_arguments() {
        let check = |line: &str, node: &str, expected: Severity| {
            let levels = Levels::from_arguments(line.split(' ').map(str::to_owned)).unwrap();
            assert_eq!(levels.of(node), expected, "{line}");
        };
        check("x", "camera", Severity::Info);
        check("x --ros-args --log-level debug", "camera", Severity::Debug);
        check("x --log-level camera:=WARN", "camera", Severity::Warn);
        check("x --log-level camera:=WARN", "lab1/camera", Severity::Warn);
        check("x --log-level lab2.camera:=WARN", "lab1/camera", Severity::Info);
        check(
            "x --log-level camera:=WARN --log-level error",
            "classifier",
            Severity::Error,
        );
        let refusal = Levels::from_arguments(["--log-level", "loud"].map(str::to_owned).into_iter());
        assert!(refusal.unwrap_err().to_string().contains("loud"));
    }

    #[test]
    fn repeated_lines_are_counted() {
        let mut throttle = Throttle::default();
        let mut pass =
            |text: &str, ms: u64| throttle.pass(("camera".into(), text.into()), Duration::from_millis(ms));
        for ms in 0..3 {
            assert_eq!(pass("no image", ms), Some(0));
        }
        for ms in 3..100 {
            assert_eq!(pass("no image", ms), None);
        }
        assert_eq!(pass("another", 100), Some(0));
        assert_eq!(pass("no image", 1000), Some(97));
        assert_eq!(pass("no image", 1001), Some(0));
    }

    #[test]
    fn the_memory_of_lines_is_bounded() {
        let mut throttle = Throttle::default();
        for at in 0..1000 {
            assert_eq!(
                throttle.pass(("camera".into(), at.to_string()), Duration::ZERO),
                Some(0)
            );
        }
        assert_eq!(throttle.lines.len(), REMEMBERED);
    }
}
