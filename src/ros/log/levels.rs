//! Which lines are told: levels by logger, from the command line and from the logger services.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use tracing::Level;

/// Level of a logger that has none of its own.
const INITIAL: LogLevel = LogLevel::Info;

/// LogLevel in `rcl_interfaces/Log`; 0, unset, is the default's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LogLevel {
    Debug = 10,
    Info = 20,
    Warn = 30,
    Error = 40,
    Fatal = 50,
}

impl LogLevel {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Debug, "DEBUG"),
        (Self::Info, "INFO"),
        (Self::Warn, "WARN"),
        (Self::Error, "ERROR"),
        (Self::Fatal, "FATAL"),
    ];

    pub(super) fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }

    pub(super) fn word(self) -> &'static str {
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
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .map(|(severity, _)| severity)
            .find(|&severity| severity as u32 == number)
    }
}

/// Which lines are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    default: LogLevel,
    /// By the name of the node, without its namespace or with it, or by a namespace.
    nodes: HashMap<String, LogLevel>,
}

impl Levels {
    pub(super) fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut levels = Self {
            default: INITIAL,
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
                    levels.nodes.insert(plain(node), LogLevel::parse(level)?);
                }
                None => levels.default = LogLevel::parse(&rule)?,
            }
        }
        Ok(levels)
    }

    /// The level in force for a node, or for all of them by the empty name: its own, that of a namespace it is in, that of
    /// its bare name, the default.
    pub(super) fn of(&self, node: &str) -> LogLevel {
        let name = plain(node);
        let scopes = std::iter::successors(Some(name.as_str()), |scope| Some(scope.rsplit_once('/')?.0));
        let bare = name.rsplit('/').next().unwrap_or_default();
        let mut found = scopes
            .chain([bare])
            .filter_map(|scope| self.nodes.get(scope).copied());
        found.next().unwrap_or(self.default)
    }

    /// Sets the level of a logger, of all for the empty name; None takes it back.
    #[cfg(logger_services)]
    pub(super) fn set(&mut self, logger: &str, severity: Option<LogLevel>) {
        match (plain(logger), severity) {
            (name, severity) if name.is_empty() => self.default = severity.unwrap_or(INITIAL),
            (name, Some(severity)) => drop(self.nodes.insert(name, severity)),
            (name, None) => drop(self.nodes.remove(&name)),
        }
    }
}

/// A logger's name as it is kept: ROS writes dots where a node's name has slashes.
fn plain(logger: &str) -> String {
    logger.replace('.', "/").trim_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_from_ros_arguments() {
        let check = |line: &str, node: &str, expected: LogLevel| {
            let levels = Levels::from_arguments(line.split(' ').map(str::to_owned)).unwrap();
            assert_eq!(levels.of(node), expected, "{line}");
        };
        check("x", "camera", LogLevel::Info);
        check("x --ros-args --log-level debug", "camera", LogLevel::Debug);
        check("x --log-level camera:=WARN", "camera", LogLevel::Warn);
        check("x --log-level camera:=WARN", "lab1/camera", LogLevel::Warn);
        check("x --log-level lab2.camera:=WARN", "lab1/camera", LogLevel::Info);
        check(
            "x --log-level camera:=WARN --log-level error",
            "classifier",
            LogLevel::Error,
        );
        check("x --log-level lab1:=WARN", "lab1/camera", LogLevel::Warn);
        check(
            "x --log-level lab1:=WARN --log-level lab1.camera:=DEBUG",
            "lab1/camera",
            LogLevel::Debug,
        );
        check("x --log-level lab:=WARN", "lab1/camera", LogLevel::Info);
        let refusal = Levels::from_arguments(["--log-level", "loud"].map(str::to_owned).into_iter());
        assert!(refusal.unwrap_err().to_string().contains("loud"));
    }

    #[cfg(logger_services)]
    #[test]
    fn the_root_logger_is_the_default_and_unset_takes_back() {
        let mut levels = Levels::from_arguments(std::iter::empty()).unwrap();
        levels.set("", Some(LogLevel::Error));
        assert_eq!(
            (levels.of(""), levels.of("lab1/camera")),
            (LogLevel::Error, LogLevel::Error)
        );
        levels.set("lab1.camera", Some(LogLevel::Debug));
        assert_eq!(levels.of("lab1/camera"), LogLevel::Debug);
        levels.set("lab1.camera", None);
        assert_eq!(levels.of("lab1/camera"), LogLevel::Error);
        levels.set("", None);
        assert_eq!(levels.of("lab1/camera"), LogLevel::Info);
    }
}
