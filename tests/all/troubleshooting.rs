//! The page of messages is made from tables, and every message in them stands in the sources.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use hhnet::table::Table;

/// Folders whose files say something to people.
const SOURCES: [&str; 5] = ["src", "scripts", "launch", "training", "msg"];

struct Entry {
    table: String,
    symptom: String,
    message: String,
    meaning: String,
    remedy: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of all tables, by the names of the tables.
fn entries() -> Vec<Entry> {
    let mut tables: Vec<PathBuf> = fs::read_dir(root().join("docs/troubleshooting"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    tables.sort();
    let mut entries = Vec::new();
    for path in tables {
        let table = Table::parse(&fs::read(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let columns = ["symptom", "message", "meaning", "remedy"].map(|name| table.column(&[name]));
        for row in table.rows {
            let [symptom, message, meaning, remedy] =
                columns.map(|column| row.cells[column.unwrap()].clone());
            assert!(
                [&symptom, &message, &meaning, &remedy]
                    .iter()
                    .all(|cell| !cell.is_empty()),
                "{} line {} has an empty cell",
                path.display(),
                row.line
            );
            let table = path.file_name().unwrap().to_string_lossy().into_owned();
            entries.push(Entry {
                table,
                symptom,
                message,
                meaning,
                remedy,
            });
        }
    }
    entries
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A source in which each text stands in one piece: pieces that the language joins are joined, what is filled in is `{}`, escaped quotes
/// are quotes.
fn joined(source: &str) -> String {
    let mut text = String::new();
    for line in source.lines() {
        let line = if text.is_empty() { line } else { line.trim_start() };
        match line.strip_suffix('\\') {
            Some(kept) => text.push_str(kept),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    // Texts of Python that follow each other are one.
    for next in ["\"", "f\""] {
        text = text.replace(&format!("\"\n{next}"), "");
    }
    fill(&text.replace("\\\"", "\"").replace("\\'", "'"))
}

/// `{value:.1}` becomes `{}`.
fn fill(text: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        filled.push_str(before);
        filled.push('{');
        let end = behind
            .find('}')
            .filter(|&end| end < 80 && !behind[..end].contains(['\n', '{']));
        rest = end.map_or(behind, |end| &behind[end..]);
    }
    filled + rest
}

/// Whether the fixed parts of a message stand in a source, in order and near each other.
fn says(source: &str, message: &str) -> bool {
    let parts: Vec<&str> = message
        .split("{}")
        .filter(|part| !part.trim().is_empty())
        .collect();
    let Some((first, others)) = parts.split_first() else {
        return false;
    };
    source.match_indices(first).any(|(at, _)| {
        let mut rest = &source[at + first.len()..];
        others.iter().all(|part| match rest.find(part) {
            Some(at) if at <= 160 => {
                rest = &rest[at + part.len()..];
                true
            }
            _ => false,
        })
    })
}

#[test]
fn every_message_stands_in_the_sources() {
    let mut paths = Vec::new();
    for folder in SOURCES {
        files(&root().join(folder), &mut paths);
    }
    let sources: Vec<String> = paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| joined(&text))
        .collect();
    let missing: Vec<String> = entries()
        .iter()
        .filter(|entry| !sources.iter().any(|source| says(source, &entry.message)))
        .map(|entry| format!("{}: {}", entry.table, entry.message))
        .collect();
    assert!(
        missing.is_empty(),
        "no source says this any more; correct the table in docs/troubleshooting:\n{}",
        missing.join("\n")
    );
}

#[test]
fn a_changed_sentence_is_noticed() {
    let source = joined("#[error(\n    \"port {} is \\\n     in use: end {name:?} first\",\n    path)]");
    assert!(says(&source, "port {} is in use: end {} first"), "{source}");
    assert!(!says(&source, "port {} is in use: stop {} first"));
    let python =
        joined("raise ValueError(\n    f\"{name} holds one \"\n    f\"field: {count} are needed\"\n)");
    assert!(says(&python, "{} holds one field: {} are needed"), "{python}");
    assert!(!says(&python, "{}"));
}

/// `HHNET_WRITE_DOCS=1 cargo test --test all troubleshooting::` writes the page anew.
#[test]
fn the_page_is_true() {
    let mut by_symptom = BTreeMap::<String, Vec<Entry>>::new();
    for entry in entries() {
        by_symptom.entry(entry.symptom.clone()).or_default().push(entry);
    }
    let mut text = String::from(
        "# Troubleshooting\n\n\
         What hhnet says when something is wrong, by what is noticed first. Values that differ are `…`. Made from the tables in \
         `docs/troubleshooting` by a test, which also checks that the sources still say so.\n",
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    for (symptom, entries) in by_symptom {
        let mut letters = symptom.chars();
        let first = letters.next().map(|letter| letter.to_uppercase().to_string());
        write!(
            text,
            "\n## {}{}\n\n| message | meaning | remedy |\n|---|---|---|\n",
            first.unwrap_or_default(),
            letters.as_str()
        )
        .unwrap();
        for entry in entries {
            let message = cell(&entry.message.replace("{}", "…"));
            writeln!(
                text,
                "| `` {message} `` | {} | {} |",
                cell(&entry.meaning),
                cell(&entry.remedy)
            )
            .unwrap();
        }
    }
    let path = root().join("docs/troubleshooting.md");
    if std::env::var_os("HHNET_WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "docs/troubleshooting.md is out of date: run this test with HHNET_WRITE_DOCS=1"
    );
}
