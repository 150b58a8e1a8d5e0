//! `tracing` and the `log` lines of r2r to the console in ROS format and to `/rosout`.
//!
//! r2r publishes nothing on `/rosout` with Jazzy, so this layer does: rqt_console, Foxglove and bags see what the console
//! shows. Levels come from `--ros-args --log-level LEVEL` and `--log-level NODE:=LEVEL`, and later from the services
//! `~/get_logger_levels` and `~/set_logger_levels` of each node (where `rcl_interfaces` has them, from Jazzy on);
//! `--disable-rosout-logs` and `--disable-stdout-logs` are honoured. A place in the code that repeats itself is told
//! [`throttle::LINES`] times a second, and then how often it was left out. What ends a process comes last, as FATAL, and the
//! process waits until it is out.

mod levels;
mod throttle;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use r2r::QosProfile;
use r2r::rcl_interfaces::msg::Log;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::levels::{Levels, LogLevel};
use self::throttle::Throttle;
use super::node::one_at_a_time;

/// Lines waiting for `/rosout`, and kept there for late listeners; more are dropped there, never on the console.
const QUEUE: usize = 1000;
/// How long `/rosout` keeps them.
const LIFESPAN: Duration = Duration::from_secs(10);
/// The level that means none of its own.
#[cfg(logger_services)]
const UNSET: u32 = 0;

/// Levels of this process's loggers. A logger is named after its node, with `/` for the namespace.
static LEVELS: Mutex<Option<Levels>> = Mutex::new(None);

/// The way to `/rosout`.
static ROSOUT: OnceLock<mpsc::SyncSender<Told>> = OnceLock::new();

/// How often it is looked whether a listener has been found, and how long the network has for the last line, at least and, where there is time, at
/// most.
const LOOK: Duration = Duration::from_millis(10);
const ON_ITS_WAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// How long letting go of ROS may take.
const END_LIMIT: Duration = Duration::from_millis(200);

/// What the thread of `/rosout` is told.
enum Told {
    Line(Log),
    /// The process ends: publish a last line, wait for a listener at most until then, let go of ROS and say so.
    End {
        line: Option<Log>,
        until: std::time::Instant,
        ended: mpsc::Sender<()>,
    },
}

/// Starts logging for the process, once.
pub(super) fn start(context: r2r::Context) -> Result<()> {
    *levels() = Some(Levels::from_arguments(std::env::args())?);
    let is_enabled = |stream: &str| {
        let (on, off) = (
            format!("--enable-{stream}-logs"),
            format!("--disable-{stream}-logs"),
        );
        let mut last = std::env::args().filter(|argument| *argument == on || *argument == off);
        last.next_back().is_none_or(|argument| argument == on)
    };
    // Hidden, and one for each process: two nodes of one name disturb each other's parameters and graph entries.
    let name = format!("_log_{}", std::process::id());
    let alone = one_at_a_time();
    let mut node = r2r::Node::create(context, &name, "").context("the log node could not be created")?;
    let qos = QosProfile::default()
        .keep_last(QUEUE)
        .reliable()
        .transient_local()
        .lifespan(LIFESPAN);
    let publisher = match is_enabled("rosout") {
        true => Some(node.create_publisher::<Log>("/rosout", qos)?),
        false => None,
    };
    drop(alone);
    let (lines, queue) = mpsc::sync_channel::<Told>(QUEUE);
    // A second start in one process (tests) keeps the first.
    drop(ROSOUT.set(lines.clone()));
    let sink = Arc::new(Sink {
        has_console: is_enabled("stdout"),
        lines,
        throttle: Mutex::default(),
    });
    let told = sink.clone();
    std::thread::Builder::new()
        .name("rosout".to_owned())
        .spawn(move || {
            loop {
                match queue.recv_timeout(throttle::PERIOD) {
                    Ok(Told::Line(line)) => {
                        if publisher.as_ref().is_some_and(|to| to.publish(&line).is_err()) {
                            return;
                        }
                    }
                    Ok(Told::End { line, until, ended }) => {
                        if let (Some(publisher), Some(line)) = (&publisher, &line) {
                            deliver(publisher, line, until);
                        }
                        // A thread that uses ROS while the process tears it down aborts the process.
                        drop(publisher);
                        drop(node);
                        ended.send(()).ok();
                        return;
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                told.tell_overdue();
            }
        })?;
    // A second start in one process (tests) keeps the first.
    drop(log::set_boxed_logger(Box::new(FromR2r(sink.clone()))));
    log::set_max_level(log::LevelFilter::Debug);
    drop(tracing_subscriber::registry().with(RosLayer(sink)).try_init());
    Ok(())
}

/// Publishes the last line. A process that fails at once is not known to its listeners yet, so it waits for one.
fn deliver(publisher: &r2r::Publisher<Log>, line: &Log, until: std::time::Instant) {
    if publisher.publish(line).is_err() {
        return;
    }
    while std::time::Instant::now() < until {
        match publisher.get_inter_process_subscription_count() {
            Ok(0) => std::thread::sleep(LOOK),
            Ok(_) => {
                let left = until.saturating_duration_since(std::time::Instant::now());
                return std::thread::sleep(left.clamp(ON_ITS_WAY.0, ON_ITS_WAY.1));
            }
            Err(_) => return,
        }
    }
}

/// Ends logging, and says on the console and on `/rosout` why the process ends if there is a reason; that waits at most `limit`
/// for a listener.
pub(super) fn end(reason: Option<&str>, limit: Duration) {
    if let Some(lines) = ROSOUT.get() {
        let (sender, ended) = mpsc::channel();
        let executable = std::env::current_exe().unwrap_or_default();
        let name = executable.file_stem().unwrap_or_default().to_string_lossy();
        let line = reason.map(|reason| Log {
            stamp: super::convert::to_time(crate::units::Instant::from_nanos(0) + since_epoch()),
            level: LogLevel::Fatal as u8,
            name: name.into_owned(),
            msg: printable(reason),
            ..Log::default()
        });
        let last = Told::End {
            line,
            until: std::time::Instant::now() + limit,
            ended: sender,
        };
        if lines.try_send(last).is_ok() {
            ended.recv_timeout(limit + END_LIMIT).ok();
        }
    }
    if let Some(reason) = reason {
        to_console(format_args!("error: {reason}"));
    }
}

/// A line on stderr. The terminal may be gone, which must not end what this process does (`eprintln!` would panic).
pub(super) fn to_console(line: std::fmt::Arguments<'_>) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

fn levels() -> MutexGuard<'static, Option<Levels>> {
    LEVELS.lock().unwrap_or_else(PoisonError::into_inner)
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

    use super::node::{busy_sentence, reply, services_deep};

    let mut gets =
        node.service_with::<GetLoggerLevels::Service>("~/get_logger_levels", services_deep(), |_| {
            GetLoggerLevels::Response::default()
        })?;
    let mut sets =
        node.service_with::<SetLoggerLevels::Service>("~/set_logger_levels", services_deep(), |request| {
            let busy = || SetLoggerLevelsResult {
                successful: false,
                reason: busy_sentence(),
            };
            SetLoggerLevels::Response {
                results: request.levels.iter().map(|_| busy()).collect(),
            }
        })?;
    let level = |name: &String| LoggerLevel {
        name: name.clone(),
        level: levels().as_ref().map_or(0, |levels| levels.of(name) as u32),
    };
    let set = |wanted: &LoggerLevel| {
        let severity = LogLevel::from_number(wanted.level);
        let is_level = severity.is_some() || wanted.level == UNSET;
        if let (true, Some(levels)) = (is_level, levels().as_mut()) {
            levels.set(&wanted.name, severity);
        }
        SetLoggerLevelsResult {
            successful: is_level,
            reason: match is_level {
                true => String::new(),
                false => format!(
                    "{} is no level: choose 10, 20, 30, 40, 50, or 0 to unset it",
                    wanted.level
                ),
            },
        }
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                request = gets.next() => match request {
                    Some(request) => {
                        let levels = request.message.names.iter().map(level).collect();
                        reply(request, GetLoggerLevels::Response { levels });
                    }
                    None => break,
                },
                Some(request) = sets.next() => {
                    let results = request.message.levels.iter().map(set).collect();
                    reply(request, SetLoggerLevels::Response { results });
                }
            }
        }
    });
    Ok(())
}

/// Where in the code a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    file: &'static str,
    line: u32,
    target: &'static str,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Namespace and name of the node, without the leading slash.
    node: String,
    severity: LogLevel,
    /// Printable.
    text: String,
    place: Place,
}

/// Where lines go.
struct Sink {
    has_console: bool,
    lines: mpsc::SyncSender<Told>,
    throttle: Mutex<Throttle>,
}

impl Sink {
    /// Tells a line, unless its logger's level or its repetition forbids it.
    fn tell(&self, line: Line) {
        if levels()
            .as_ref()
            .is_some_and(|levels| line.severity < levels.of(&line.node))
        {
            return;
        }
        let now = since_epoch();
        let passed = self.throttle().pass(line, now);
        if let Some(line) = passed {
            self.write(line, now);
        }
    }

    /// Tells what was left out in places that have fallen silent since.
    fn tell_overdue(&self) {
        let now = since_epoch();
        let overdue = self.throttle().overdue(now);
        for line in overdue {
            self.write(line, now);
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: Line, now: Duration) {
        // ROS names a logger with dots.
        let name = line.node.replace('/', ".");
        if self.has_console {
            let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
            to_console(format_args!(
                "[{}] [{seconds}.{nanos:09}] [{name}]: {}",
                line.severity.word(),
                line.text
            ));
        }
        // A full queue means that the listeners cannot keep up; the console has the line.
        let line = Log {
            stamp: super::convert::to_time(crate::units::Instant::from_nanos(0) + now),
            level: line.severity as u8,
            name,
            msg: line.text,
            file: line.place.file.to_owned(),
            function: line.place.target.to_owned(),
            line: line.place.line,
        };
        drop(self.lines.try_send(Told::Line(line)));
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What r2r says. It drops messages that arrive while eleven wait, and mentions it for debugging only: here it is a warning.
struct FromR2r(Arc<Sink>);

impl log::Log for FromR2r {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("r2r")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let is_drop = record.target() == "r2r::subscribers";
        let severity = match record.level() {
            log::Level::Error => LogLevel::Error,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Debug if is_drop => LogLevel::Warn,
            log::Level::Info => LogLevel::Info,
            log::Level::Debug | log::Level::Trace => LogLevel::Debug,
        };
        let mut text = printable(&record.args().to_string());
        if is_drop {
            text = format!("a message was dropped, because its node has not taken those before it: {text}");
        }
        self.0.tell(Line {
            node: "r2r".to_owned(),
            severity,
            text,
            place: Place {
                file: record.file_static().unwrap_or_default(),
                line: record.line().unwrap_or_default(),
                target: "r2r",
            },
        });
    }

    fn flush(&self) {}
}

/// What this package says.
struct RosLayer(Arc<Sink>);

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
        let mut said = Said::default();
        event.record(&mut said);
        let metadata = event.metadata();
        self.0.tell(Line {
            node: said.node,
            severity: LogLevel::of(*metadata.level()),
            text: said.text,
            place: Place {
                file: metadata.file().unwrap_or_default(),
                line: metadata.line().unwrap_or_default(),
                target: metadata.target(),
            },
        });
    }
}

/// Message and fields of one event, text from devices made printable.
#[derive(Default)]
struct Said {
    node: String,
    text: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "node" {
            value.clone_into(&mut self.node);
        } else {
            self.record_debug(field, &format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = printable(&format!("{value:?}"));
        // Writing to a String cannot fail.
        let written = match field.name() {
            "message" => write!(self.text, "{text}"),
            name => write!(self.text, " {name}={text}"),
        };
        debug_assert!(written.is_ok());
    }
}

/// Control characters written out: what a device sends must neither end a line nor command a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_sends_cannot_break_a_line() {
        for (sent, told) in [
            ("ok", "ok"),
            ("a\0b", "a\\u{0}b"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("one\r\ntwo", "one\\r\\ntwo"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("3 µm", "3 µm"),
        ] {
            assert_eq!(printable(sent), told);
        }
    }

    #[test]
    fn fields_are_made_printable_as_well() {
        let (lines, queue) = mpsc::sync_channel(10);
        let sink = Sink {
            has_console: false,
            lines,
            throttle: Mutex::default(),
        };
        let subscriber = tracing_subscriber::registry().with(RosLayer(Arc::new(sink)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                node = "lab1/bridge",
                reply = "err\n\0",
                "the device said {}",
                "\x1b[31mred"
            );
        });
        let Told::Line(line) = queue.try_recv().unwrap() else {
            panic!("not a line");
        };
        assert_eq!((line.level, line.name.as_str()), (30, "lab1.bridge"));
        assert_eq!(line.msg, "the device said \\u{1b}[31mred reply=err\\n\\u{0}");
    }
}
