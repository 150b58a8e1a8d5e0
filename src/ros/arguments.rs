//! The command line, checked before ROS sees it: what rcl cannot read ends in a panic inside r2r.
//!
//! `NODE [--help] [--ros-args ROS ARGUMENTS [--]]`; outside of `--ros-args` nothing is known but `--help`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::params::Overrides;

/// Longest name of a node and longest namespace; ROS takes 245 letters and wants room for topics below it.
const MOST_LETTERS: usize = 200;

/// What a rule begins with that is for topics only, and for services only.
const TOPIC: &str = "rostopic://";
const SERVICE: &str = "rosservice://";

/// The last domain whose ports exist, with the port numbers that DDS has by default.
const LAST_DOMAIN: u8 = 232;

/// What the command line and its files say.
static GIVEN: OnceLock<Given> = OnceLock::new();

/// What the command line says to the nodes of its process.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Parameters, those of its files too.
    pub(super) overrides: Overrides,
    /// Other names for topics, in the order in which they count.
    remaps: Vec<Remap>,
}

/// Another name for a topic.
#[derive(Debug)]
struct Remap {
    /// The node for which it counts; None for all.
    node: Option<String>,
    from: String,
    to: String,
}

impl Given {
    /// The full name under which a node finds a topic, as rcl resolves it: `node` is its full name, `/lab1/camera`.
    pub(super) fn topic(&self, node: &str, topic: &str) -> String {
        let name = node.rsplit('/').next().unwrap_or_default();
        let full = expanded(node, topic);
        let rule = self.remaps.iter().find(|remap| {
            remap.node.as_deref().is_none_or(|only| only == name) && expanded(node, &remap.from) == full
        });
        rule.map_or(full, |rule| expanded(node, &rule.to))
    }
}

/// A topic's full name without any remapping.
fn expanded(node: &str, topic: &str) -> String {
    let namespace = node.rsplit_once('/').map_or("", |(namespace, _)| namespace);
    match topic.strip_prefix("~/") {
        Some(below) => format!("{node}/{below}"),
        None if topic.starts_with('/') => topic.to_owned(),
        None => format!("{namespace}/{topic}"),
    }
}

/// What a process is asked to do.
#[derive(Debug)]
pub(super) enum Invocation {
    /// Run, with these parameters and names.
    Run(Given),
    /// Say how it is used.
    Help,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// A sentence that names the argument, or the file that it names, and the remedy.
pub(super) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let mut given = Given::default();
    let mut arguments = arguments.into_iter().map(text);
    let mut is_ros = false;
    while let Some(argument) = arguments.next().transpose()? {
        match (argument.as_str(), is_ros) {
            ("--ros-args", _) => is_ros = true,
            ("--", true) => is_ros = false,
            ("--help" | "-h", false) => return Ok(Invocation::Help),
            (option, true) => ros(option, &mut arguments, &mut given)?,
            (unknown, false) => {
                bail!(
                    "unknown argument '{unknown}': ROS arguments come after --ros-args, and --help shows them"
                )
            }
        }
    }
    Ok(Invocation::Run(given))
}

/// Checks what `ROS_DOMAIN_ID` says: the middleware ends the process without a word of ours where its ports run out, and reads
/// other texts as other numbers.
///
/// # Errors
/// A sentence that names the variable and the remedy.
pub(super) fn check_domain(given: Option<&str>) -> Result<()> {
    let is_domain = |text: &str| text.parse::<u8>().is_ok_and(|number| number <= LAST_DOMAIN);
    match given {
        Some(text) if !text.is_empty() && !is_domain(text) => {
            bail!(
                "ROS_DOMAIN_ID is '{text}': set it to a number from 0 to {LAST_DOMAIN}, or leave it out for 0"
            )
        }
        _ => Ok(()),
    }
}

/// Keeps what was read for the nodes of this process.
pub(super) fn keep(given: Given) {
    // Set once, at the start.
    GIVEN.get_or_init(|| given);
}

/// What was kept; nothing in a process that read no arguments.
pub(super) fn given() -> &'static Given {
    GIVEN.get_or_init(Given::default)
}

/// How an executable is used.
pub(super) fn usage(program: &str) -> String {
    let program = Path::new(program).file_name().unwrap_or_default().display();
    format!(
        "Usage: {program} [--ros-args ARGUMENTS]

Runs until SIGINT or SIGTERM. ARGUMENTS:
  --params-file FILE          parameters, as in config/autofocus.yaml
  -p [NODE:]NAME:=VALUE       one parameter
  -r __ns:=/NAMESPACE         the namespace of every node
  -r [NODE:]FROM:=TO          another name for a topic or service; __node:=NAME for a node
  --log-level [NODE:=]LEVEL   debug, info, warn, error or fatal

Parameters are listed in docs/parameters.md."
    )
}

fn text(argument: OsString) -> Result<String> {
    argument
        .into_string()
        .map_err(|argument| anyhow!("the argument {argument:?} is not UTF-8 text: write it as such"))
}

fn ros(option: &str, rest: &mut impl Iterator<Item = Result<String>>, given: &mut Given) -> Result<()> {
    let is_switch = ["rosout-logs", "stdout-logs", "external-lib-logs"]
        .iter()
        .any(|name| {
            let switch = option
                .strip_prefix("--enable-")
                .or_else(|| option.strip_prefix("--disable-"));
            switch == Some(name)
        });
    if is_switch {
        return Ok(());
    }
    let check: fn(&str, &mut Given) -> Result<()> = match option {
        "-p" | "--param" => parameter,
        "--params-file" => |file, given| given.overrides.add_file(Path::new(file)),
        "-r" | "--remap" => remap,
        "--log-level" => |level, _| log_level(level),
        "-e" | "--enclave" => |name, _| enclave(name),
        "--log-config-file" => |file, _| log_config(file),
        "--log-file-name" => |_, _| Ok(()),
        unknown => bail!(
            "unknown ROS argument '{unknown}': --help shows what there is, and -- ends the ROS arguments"
        ),
    };
    let value = rest.next().transpose()?;
    let value =
        value.with_context(|| format!("{option} is the last argument: write what it stands for after it"))?;
    check(&value, given)
}

fn parameter(rule: &str, given: &mut Given) -> Result<()> {
    let (left, value) = rule.split_once(":=").with_context(|| {
        format!("-p {rule} has no ':=': write -p NAME:=VALUE, or -p NODE:NAME:=VALUE for one node")
    })?;
    let (node, name) = match left.split_once(':') {
        Some((node, name)) => (Some(node), name),
        None => (None, left),
    };
    let is_name = name.split(['.', '/']).all(is_word) && node.is_none_or(is_word);
    ensure!(
        is_name,
        "-p {rule} names no parameter: letters, digits and underscores, levels separated by dots, NODE: before it for one node"
    );
    let added = given.overrides.add_rule(node, name, value, rule);
    added.with_context(|| format!("-p {rule}"))
}

fn remap(rule: &str, given: &mut Given) -> Result<()> {
    let bad = || format!("-r {rule}: write FROM:=TO, names of letters, digits, underscores and slashes");
    let (from, to) = rule.split_once(":=").with_context(bad)?;
    let (node, from) = match from.rsplit_once(':') {
        Some(("rostopic" | "rosservice", _)) | None => (None, from),
        Some((node, from)) => (Some(node), from),
    };

    ensure!(node.is_none_or(is_word), bad());
    match from {
        "__ns" => ensure!(
            is_namespace(to),
            "-r {rule}: '{to}' is no namespace: a slash, then at most {MOST_LETTERS} letters, digits and underscores, for example /lab1"
        ),
        "__node" | "__name" => ensure!(
            is_word(to),
            "-r {rule}: '{to}' is no node's name: at most {MOST_LETTERS} letters, digits and underscores"
        ),
        _ => {
            ensure!(is_topic(from) && is_topic(to), bad());
            if !from.starts_with(SERVICE) {
                let bare = |name: &str| name.strip_prefix(TOPIC).unwrap_or(name).to_owned();
                given.remaps.push(Remap {
                    node: node.map(str::to_owned),
                    from: bare(from),
                    to: bare(to),
                });
            }
        }
    }
    Ok(())
}

fn log_level(given: &str) -> Result<()> {
    let level = given.rsplit_once(":=").map_or(given, |(_, level)| level);
    let levels = ["unset", "debug", "info", "warn", "error", "fatal"];
    ensure!(
        levels.contains(&level.to_ascii_lowercase().as_str()),
        "--log-level {given}: choose debug, info, warn, error or fatal"
    );
    Ok(())
}

fn log_config(file: &str) -> Result<()> {
    ensure!(
        Path::new(file).is_file(),
        "--log-config-file {file}: there is no such file; leave the argument out"
    );
    Ok(())
}

fn enclave(name: &str) -> Result<()> {
    ensure!(
        is_namespace(name),
        "--enclave {name}: a slash, then letters, digits and underscores"
    );
    Ok(())
}

/// Letters, digits and underscores, no digit first.
fn is_word(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| !first.is_ascii_digit())
        && name.len() <= MOST_LETTERS
}

fn is_namespace(name: &str) -> bool {
    name.len() <= MOST_LETTERS && is_absolute(name)
}

fn is_absolute(name: &str) -> bool {
    name == "/"
        || name
            .strip_prefix('/')
            .is_some_and(|names| names.split('/').all(is_word))
}

/// A topic or service, absolute, relative or below a node's name.
fn is_topic(name: &str) -> bool {
    let bare = [TOPIC, SERVICE]
        .iter()
        .find_map(|scheme| name.strip_prefix(scheme));
    let name = bare.unwrap_or(name);
    let name = name
        .strip_prefix("~/")
        .or_else(|| name.strip_prefix('/'))
        .unwrap_or(name);
    name.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(line: &str) -> Result<Invocation> {
        read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_ros_takes_is_taken() {
        for line in [
            "",
            "--ros-args",
            "--ros-args --",
            "--ros-args --ros-args -r __ns:=/lab1 -r __node:=eye",
            "--ros-args -r camera:__ns:=/x -r a:=b -r ~/a:=/b/c -r rostopic://a:=b -r camera:image_raw:=raw",
            "--ros-args -p rate:=5 -p camera:rate:=6.5 -p camera.source:=folder -p x:=[1,2]",
            "--ros-args --log-level info --log-level lab1.camera:=DEBUG --log-level Warn",
            "--ros-args --disable-rosout-logs --enable-stdout-logs -e /a --log-file-name x",
            "--ros-args -- --ros-args -r __ns:=/x",
        ] {
            assert!(
                matches!(wish(line), Ok(Invocation::Run(_))),
                "{line}: {:?}",
                wish(line)
            );
        }
        for line in ["--help", "-h", "--ros-args -- --help"] {
            assert!(matches!(wish(line), Ok(Invocation::Help)), "{line}");
        }
    }

    #[test]
    fn what_ros_cannot_read_is_refused_with_a_sentence() {
        for (line, word) in [
            ("--hlep", "unknown argument '--hlep'"),
            ("rate:=5", "unknown argument 'rate:=5'"),
            ("--ros-args --foo", "unknown ROS argument '--foo'"),
            ("--ros-args --params-file=a.yaml", "unknown ROS argument"),
            ("--ros-args -r", "-r is the last argument"),
            ("--ros-args --params-file", "--params-file is the last argument"),
            (
                "--ros-args --params-file /nowhere/missing.yaml",
                "/nowhere/missing.yaml",
            ),
            ("--ros-args -r a", "-r a: write FROM:=TO"),
            ("--ros-args -r a:=", "-r a:=: write FROM:=TO"),
            ("--ros-args -r /**/a:=b", "write FROM:=TO"),
            ("--ros-args -r __ns:=lab1", "'lab1' is no namespace"),
            ("--ros-args -r __ns:=/1a", "'/1a' is no namespace"),
            ("--ros-args -r __ns:=/a/", "no namespace"),
            ("--ros-args -r __node:=a/b", "'a/b' is no node's name"),
            ("--ros-args -r __node:=", "'' is no node's name"),
            ("--ros-args -p x", "no ':='"),
            ("--ros-args -p x:=", "a value is missing"),
            ("--ros-args -p 1x:=5", "names no parameter"),
            ("--ros-args -p **:x:=5", "names no parameter"),
            ("--ros-args -p x:={a:1}", "-p x:={a:1}"),
            ("--ros-args --log-level loud", "--log-level loud: choose"),
            ("--ros-args --enclave a", "--enclave a"),
            ("--ros-args --log-config-file /nowhere", "/nowhere"),
        ] {
            let refusal = format!("{:#}", wish(line).unwrap_err());
            assert!(refusal.contains(word), "{line}: {refusal}");
        }
        assert!(read([OsString::new()]).is_err());
    }

    #[test]
    fn topics_are_found_under_their_other_names() {
        let line = "--ros-args -r cmd_vel:=velocity -r eye:focus:=/seen -r ~/alive:=life -r rosservice://stop:=halt \
                    -r rostopic:///lab/truth:=rostopic://told -r focus:=late";
        let Ok(Invocation::Run(given)) = wish(line) else {
            panic!("{line}");
        };
        for (node, topic, full) in [
            ("/stage", "cmd_vel", "/velocity"),
            ("/lab/stage", "cmd_vel", "/lab/velocity"),
            ("/lab/stage", "/cmd_vel", "/cmd_vel"),
            ("/stage", "/cmd_vel", "/velocity"),
            ("/eye", "focus", "/seen"),
            ("/lab/ear", "focus", "/lab/late"),
            ("/lab/ear", "~/alive", "/lab/life"),
            ("/lab/ear", "~/state", "/lab/ear/state"),
            ("/lab/ear", "stop", "/lab/stop"),
            ("/lab/ear", "truth", "/lab/told"),
        ] {
            assert_eq!(given.topic(node, topic), full, "{topic} of {node}");
        }
    }

    #[test]
    fn a_domain_is_a_number_that_has_ports() {
        for domain in [None, Some(""), Some("0"), Some("232")] {
            assert!(check_domain(domain).is_ok(), "{domain:?}");
        }
        for domain in ["-1", "233", "99999", "many", " 1", "1 "] {
            let refusal = check_domain(Some(domain)).unwrap_err().to_string();
            assert!(refusal.contains("ROS_DOMAIN_ID"), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_arguments_make_it_panic(arguments in proptest::collection::vec(any::<Vec<u8>>(), 0..6)) {
            use std::os::unix::ffi::OsStringExt as _;
            let _outcome = read(arguments.into_iter().map(OsString::from_vec)).is_ok();
        }

        #[test]
        fn nothing_like_ros_arguments_makes_it_panic(
            words in proptest::collection::vec("(-r|-p|--ros-args|--|--params-file|--log-level|[a-z_~:=/*.\\[{'é0-9-]{0,12})", 0..8)
        ) {
            let all = std::iter::once("--ros-args".to_owned()).chain(words);
            let _outcome = read(all.map(OsString::from)).is_ok();
        }
    }
}
