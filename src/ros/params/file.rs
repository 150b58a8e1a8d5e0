//! Reads parameter files and values, as rcl does (`rcl_yaml_param_parser`), with the line of each key.
//!
//! A file is a tree of namespaces and node names, `ros__parameters` below a node, and below that its parameters, whose names are
//! joined by dots. What rcl takes without a word is refused here where it can only be a mistake: a key that is given twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::fcntl::OFlag;
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::Value;

/// Longest file that is read.
const MOST_BYTES: u64 = 1 << 20;
/// Deepest nesting that is read.
const MOST_LEVELS: usize = 32;

/// One parameter of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// The section as it stands in the file, namespaces joined by slashes: a node's name or a pattern of them.
    pub section: String,
    /// The parameter, its levels joined by dots.
    pub key: String,
    pub value: Value,
}

/// The parameters of a file, in order.
///
/// # Errors
/// A sentence that names the file, the line where there is one, and the remedy.
pub(super) fn read(path: &Path) -> Result<Vec<Given>> {
    let text = text(path).with_context(|| format!("cannot read the parameter file {}", path.display()))?;
    parse(&text).with_context(|| format!("parameter file {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    // A FIFO would be waited for, a device has no end.
    let file = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is not a plain file: name one");
    ensure!(
        metadata.len() <= MOST_BYTES,
        "it is longer than {MOST_BYTES} bytes: is it a parameter file?"
    );
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| anyhow!("it is not UTF-8 text: save it as such"))
}

pub(super) fn parse(text: &str) -> Result<Vec<Given>> {
    let mut reader = Reader::new(text);
    while let Some((event, line)) = reader.next()? {
        match event {
            Event::MappingStart(..) => reader.nodes("", 1)?,
            Event::Scalar(text, ..) if text.is_empty() => {}
            Event::Scalar(..) | Event::SequenceStart(..) => {
                bail!("line {line}: node names with 'ros__parameters:' below them are expected")
            }
            _ => {}
        }
    }
    Ok(reader.found)
}

/// A value as it follows `:=` on a command line.
pub(super) fn parse_value(text: &str) -> Result<Value> {
    let mut reader = Reader::new(text);
    let mut value = None;
    while let Some((event, line)) = reader.next()? {
        match event {
            Event::Scalar(..) | Event::SequenceStart(..) if value.is_none() => {
                value = Some(reader.value(&event, line)?);
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ => bail!("a value or a list of values is expected"),
        }
    }
    value.context("a value is missing")
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    found: Vec<Given>,
    /// The line of each section and key.
    lines: HashMap<(String, String), usize>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            events: Parser::new_from_str(text),
            found: Vec::new(),
            lines: HashMap::new(),
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, usize)>> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((Event::Alias(_), span))) => {
                bail!(
                    "line {}: aliases are not supported: write the value out",
                    span.start.line()
                )
            }
            Some(Ok((event, span))) => Ok(Some((event, span.start.line()))),
            Some(Err(error)) => bail!("line {}: {}: correct it", error.marker().line(), error.info()),
        }
    }

    /// The next event where the document cannot be over.
    fn inside(&mut self) -> Result<(Event<'a>, usize)> {
        self.next()?.context("it ends too early: complete it")
    }

    /// A mapping of namespaces and node names.
    fn nodes(&mut self, above: &str, level: usize) -> Result<()> {
        while let Some((key, line)) = self.key()? {
            let (event, _) = self.inside()?;
            let is_mapping = matches!(event, Event::MappingStart(..));
            if key == "ros__parameters" {
                ensure!(
                    !above.is_empty(),
                    "line {line}: a node name is missing above 'ros__parameters'"
                );
                ensure!(
                    is_mapping,
                    "line {line}: parameters are expected below 'ros__parameters'"
                );
                check_section(above).with_context(|| format!("line {line}"))?;
                self.parameters(above, "", level + 1)?;
                continue;
            }
            let section = joined(above, '/', &key);
            ensure!(
                is_mapping,
                "line {line}: '{section}' is outside of 'ros__parameters': write it below a node name and 'ros__parameters:'"
            );
            ensure!(
                level < MOST_LEVELS,
                "line {line}: it is nested more than {MOST_LEVELS} levels deep"
            );
            self.nodes(&section, level + 1)?;
        }
        Ok(())
    }

    /// A mapping of parameters.
    fn parameters(&mut self, section: &str, above: &str, level: usize) -> Result<()> {
        while let Some((key, line)) = self.key()? {
            let key = joined(above, '.', &key);
            let (event, at) = self.inside()?;
            if matches!(event, Event::MappingStart(..)) {
                ensure!(
                    level < MOST_LEVELS,
                    "line {line}: it is nested more than {MOST_LEVELS} levels deep"
                );
                self.parameters(section, &key, level + 1)?;
                continue;
            }
            let value = self.value(&event, at);
            let value = value.with_context(|| format!("line {line}: '{key}'"))?;
            let place = (section.to_owned(), key.clone());
            if let Some(first) = self.lines.insert(place, line) {
                bail!(
                    "'{key}' is given twice below '{section}', in line {first} and in line {line}: remove one of them"
                );
            }
            self.found.push(Given {
                section: section.to_owned(),
                key,
                value,
            });
        }
        Ok(())
    }

    /// The next key of a mapping; None at its end.
    fn key(&mut self) -> Result<Option<(String, usize)>> {
        match self.inside()? {
            (Event::MappingEnd, _) => Ok(None),
            (Event::Scalar(text, ..), line) => {
                ensure!(
                    !text.is_empty(),
                    "line {line}: a name is missing before the colon"
                );
                ensure!(!text.contains('\0'), "line {line}: a name has a null byte in it");
                Ok(Some((text.into_owned(), line)))
            }
            (_, line) => bail!("line {line}: a name is expected before the colon"),
        }
    }

    /// A single value, or values of one type.
    fn value(&mut self, event: &Event<'_>, line: usize) -> Result<Value> {
        match event {
            Event::Scalar(text, style, _, tag) => {
                // ROS ends a text there.
                ensure!(
                    !text.contains('\0'),
                    "a value has a null byte in it: leave it out"
                );
                let is_text = tag
                    .as_ref()
                    .is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                match *style == ScalarStyle::Plain && !is_text {
                    true => plain(text),
                    false => Ok(text.as_ref().into()),
                }
            }
            Event::SequenceStart(..) => self.values(),
            _ => bail!("line {line}: a value is expected"),
        }
    }

    fn values(&mut self) -> Result<Value> {
        let mut values: Vec<Value> = Vec::new();
        loop {
            match self.inside()? {
                (Event::SequenceEnd, _) => return Ok(values.into()),
                (event @ Event::Scalar(..), line) => {
                    let value = self.value(&event, line)?;
                    let is_alike = values.first().is_none_or(|first| kind(first) == kind(&value));
                    ensure!(
                        is_alike,
                        "the values of a list are of one type: write 1.0 instead of 1 among decimals"
                    );
                    values.push(value);
                }
                _ => bail!("a list has plain values in it, no lists or names"),
            }
        }
    }
}

/// A name below another, with one separator.
fn joined(above: &str, separator: char, name: &str) -> String {
    if above.is_empty() || above.ends_with(separator) {
        format!("{above}{name}")
    } else {
        format!("{above}{separator}{name}")
    }
}

/// Whether a section is a name or pattern that can match a node.
fn check_section(section: &str) -> Result<()> {
    let names = section.strip_prefix('/').unwrap_or(section).split('/');
    let is_word = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    for name in names {
        ensure!(
            name == "*" || name == "**" || is_word(name),
            "'{section}' is no node's name: between slashes are letters, digits and underscores, or * or ** alone"
        );
    }
    Ok(())
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Bool(_) => 0,
        Value::Number(number) if number.is_i64() => 1,
        // A number that is not finite is null.
        Value::Number(_) | Value::Null => 2,
        _ => 3,
    }
}

/// What an unquoted text means to rcl.
fn plain(text: &str) -> Result<Value> {
    ensure!(
        !text.is_empty(),
        "a value is missing: write one, '' for an empty text"
    );
    Ok(match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan"
        | ".NaN" | ".NAN" => Value::Null,
        _ => match (whole(text), text.parse::<f64>()) {
            (Some(number), _) => number.into(),
            (None, Ok(number)) => number.into(),
            (None, Err(_)) => text.into(),
        },
    })
}

/// A whole number as C's `strtol` reads it: decimal, 0x for hexadecimal, 0 for octal.
fn whole(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    let (digits, base) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => (hexadecimal, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn values_mean_what_rcl_takes_them_for() {
        for (text, expected) in [
            ("1", json!(1)),
            ("-0", json!(0)),
            ("+5", json!(5)),
            ("0x10", json!(16)),
            ("010", json!(8)),
            ("08", json!(8.0)),
            ("0x", json!("0x")),
            ("0o17", json!("0o17")),
            ("1e5", json!(1e5)),
            (".5", json!(0.5)),
            ("-5.0e-6", json!(-5.0e-6)),
            ("99999999999999999999", json!(1e20)),
            ("5e", json!("5e")),
            ("on", json!(true)),
            ("N", json!(false)),
            ("tRue", json!("tRue")),
            ("'5'", json!("5")),
            ("\"on\"", json!("on")),
            ("!!str 5", json!("5")),
            ("~", json!("~")),
            ("1:30", json!("1:30")),
            ("''", json!("")),
            (".nan", Value::Null),
            ("-inf", Value::Null),
            ("[]", json!([])),
            ("[1, 2]", json!([1, 2])),
            ("[a, 'b']", json!(["a", "b"])),
        ] {
            assert_eq!(parse_value(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "[1, 1.5]",
            "[1, a]",
            "[[1]]",
            "{a: 1}",
            ": :",
            "[1",
            "*a",
            "--- 1\n--- 2",
        ] {
            assert!(parse_value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_joined_and_every_document_counts() {
        let given = |section: &str, key: &str, value: Value| Given {
            section: section.to_owned(),
            key: key.to_owned(),
            value,
        };
        let text =
            "lab1:\n  camera:\n    ros__parameters: {a: {b: 1}}\n---\n/**:\n  ros__parameters: {c: x}\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                given("lab1/camera", "a.b", 1.into()),
                given("/**", "c", "x".into())
            ]
        );
        for text in ["", "# nothing\n", "/**: {}\n", "/**:\n  ros__parameters: {}\n"] {
            assert_eq!(parse(text).unwrap(), [], "{text}");
        }
    }

    #[test]
    fn a_key_given_twice_is_named_with_both_lines() {
        for text in [
            "/**:\n  ros__parameters:\n    z_min: 1\n    z_min: 2\n",
            "/**:\n  ros__parameters: {a: {z_min: 1},\n    b: 1, a.z_min: 2}\n/*:\n  ros__parameters: {}\n",
            "/**:\n  ros__parameters: {z_min: 1}\n/**:\n  ros__parameters: {z_min: 2}\n",
        ] {
            let refusal = refusal(text);
            assert!(
                refusal.contains("z_min' is given twice below '/**', in line ")
                    && refusal.contains(" and in line "),
                "{refusal}"
            );
        }
        let one = refusal("/**:\n  ros__parameters:\n    z_min: 1\n    z_min: 2\n");
        assert!(one.contains("in line 3 and in line 4"), "{one}");
    }

    #[test]
    fn what_is_no_parameter_file_is_refused_with_its_line() {
        for (text, word) in [
            ("x: 1\n", "line 1: 'x' is outside"),
            ("camera:\n  rate: 1\n", "line 2: 'camera/rate' is outside"),
            ("[]\n", "line 1: node names"),
            ("hello\n", "line 1: node names"),
            ("ros__parameters: {x: 1}\n", "a node name is missing"),
            ("/**:\n  ros__parameters: 5\n", "line 2: parameters are expected"),
            (
                "/**:\n  ros__parameters:\n    x:\n",
                "line 3: 'x': a value is missing",
            ),
            (
                "/**/cam*:\n  ros__parameters: {x: 1}\n",
                "'/**/cam*' is no node's name",
            ),
            (
                "/camera/:\n  ros__parameters: {x: 1}\n",
                "'/camera/' is no node's name",
            ),
            (
                "a:\n  ros__parameters: &a {x: 1}\nb:\n  ros__parameters: *a\n",
                "aliases",
            ),
            ("/**:\n\tros__parameters: {x: 1}\n", "line 2"),
            ("? [1]\n: 2\n", "a name is expected"),
            ("/**: {ros__parameters: {x: [{a: 1}]}}", "a list has plain values"),
            ("/**: {ros__parameters: {x: \"a\\0b\"}}", "a null byte"),
            ("/**: {ros__parameters: {\"a\\0b\": 1}}", "a null byte"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(word), "{text:?}: {refusal}");
        }
        let deep = format!("{}1{}", "{a: ".repeat(1000), "}".repeat(1000));
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.yaml");
        let refused = |word: &str| {
            let refusal = format!("{:#}", read(&path).unwrap_err());
            assert!(refusal.contains(word) && refusal.contains("f.yaml"), "{refusal}");
        };
        refused("No such file");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("not a plain file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        refused("UTF-8");
        fs::write(&path, "#".repeat(2 << 20)).unwrap();
        refused("longer than");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _outcome = parse(&String::from_utf8_lossy(&bytes)).is_ok();
        }

        #[test]
        fn nothing_like_yaml_makes_it_panic(text in "[a-z*/:{}\\[\\], \n\t&!|>'\"#~?%.0-9-]{0,120}") {
            let _outcome = (parse(&text).is_ok(), parse_value(&text).is_ok());
            let below = format!("/**:\n  ros__parameters:\n    x: {text}");
            let _outcome = parse(&below).is_ok();
        }
    }
}
