//! Rules of this code base that a compiler does not know.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files of `src` that may do I/O, read clocks, log, or know ROS.
const SHELL: [&str; 4] = ["drivers", "ros", "nodes", "bin"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

fn is_shell(path: &Path) -> bool {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    SHELL.contains(&first)
}

/// Fails for every code line (comments do not count) of the chosen files that contains one of `words`.
fn check_absent(words: &[&str], chosen: impl Fn(&Path) -> bool) {
    let mut found = Vec::new();
    for file in rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| chosen(file))
    {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    let words = [
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::net",
        "thread::",
        "tokio::",
        "println!",
        "tracing::",
        "nix::",
    ];
    check_absent(&words, |file| !is_shell(file));
}

#[test]
fn only_the_ros_layer_knows_r2r() {
    check_absent(&["r2r::", "r2r;"], |file| {
        let text = file.to_str().unwrap();
        !(text.contains("/src/ros/") || text.contains("/src/nodes/") || text.contains("/src/bin/"))
    });
}

#[test]
fn one_version_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let package = fs::read_to_string(root().join("package.xml")).unwrap();
    assert!(
        package.contains(&format!("<version>{version}</version>")),
        "package.xml must say {version}"
    );
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(
        changelog.contains(&format!("## {version}")),
        "CHANGELOG.md must have a section {version}"
    );
}

#[test]
fn every_file_begins_with_what_it_is() {
    let silent: Vec<PathBuf> = rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "no module documentation: {silent:?}");
}

/// Keys of each section of a parameter file are declared in the node of that name.
#[test]
fn every_parameter_in_config_is_declared() {
    for entry in fs::read_dir(root().join("config")).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let mut section = String::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let indent = line.len() - line.trim_start().len();
            let Some((key, _)) = line.trim().split_once(':') else {
                continue;
            };
            match indent {
                4 => section = key.to_owned(),
                6 => {
                    let node = root().join(format!("src/nodes/{section}.rs"));
                    let source = fs::read_to_string(&node).unwrap_or_else(|_| panic!("no node {section}"));
                    let declared = source
                        .lines()
                        .any(|line| line.trim_start().starts_with(&format!("{key}: ")));
                    assert!(
                        declared,
                        "{}: {section}.{key} is declared nowhere",
                        path.display()
                    );
                }
                _ => {}
            }
        }
    }
}
