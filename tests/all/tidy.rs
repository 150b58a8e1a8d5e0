//! Rules of this code base that a compiler does not know.

use std::collections::{BTreeMap, BTreeSet};
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

/// The files that the text of one uses, by their module paths: `crate::a::b::Item`, `super::b`, `self::c`; what stands behind `{` is
/// not followed further than its own first word.
fn used(text: &str, module: &[String], modules: &BTreeSet<Vec<String>>) -> BTreeSet<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, word) in ["crate::", "super::", "self::"]
        .into_iter()
        .flat_map(|word| code.match_indices(word))
    {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
            continue;
        }
        let mut base = match word {
            "crate::" => Vec::new(),
            "super::" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => module.to_vec(),
        };
        let mut rest = &code[at + word.len()..];
        while let Some(behind) = rest.strip_prefix("super::") {
            base.pop();
            rest = behind;
        }
        let mut heads = Vec::new();
        loop {
            let end = rest
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            if !name.is_empty() {
                base.push(name.to_owned());
            }
            match behind.strip_prefix("::") {
                Some(behind) if !name.is_empty() => rest = behind,
                _ => break,
            }
        }
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or_default();
            heads.extend(
                list.split([',', '{', '\n'])
                    .map(|item| item.trim().split("::").next().unwrap_or_default().to_owned()),
            );
        }
        heads.push(String::new());
        for head in heads {
            let mut path = base.clone();
            path.extend((!head.is_empty()).then_some(head));
            // The longest beginning that is a file.
            while !path.is_empty() && !modules.contains(&path) {
                path.pop();
            }
            if path != module && !path.is_empty() {
                found.insert(path);
            }
        }
    }
    found
}

/// Files of one crate that use each other in a circle are one file that was cut in the wrong place. A file may use what its own parent
/// defines, as long as the parent only declares it.
#[test]
fn no_file_uses_itself_by_way_of_others() {
    let source = root().join("src");
    let files: BTreeMap<Vec<String>, String> = rust_files(&source)
        .into_iter()
        .filter(|file| {
            !file.starts_with(source.join("bin")) && !file.ends_with("lib.rs") && !file.ends_with("tests.rs")
        })
        .map(|file| {
            let path = file.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Vec<String> = path
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            module.pop_if(|last| last == "mod");
            (module, fs::read_to_string(&file).unwrap())
        })
        .collect();
    let modules: BTreeSet<Vec<String>> = files.keys().cloned().collect();
    let uses: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = files
        .iter()
        .map(|(module, text)| {
            let mut used = used(text, module, &modules);
            // Parts of one thing: a parent and what it is made of.
            used.retain(|other| !other.starts_with(module) && !module.starts_with(other));
            (module, used)
        })
        .collect();
    assert!(
        uses.values().map(BTreeSet::len).sum::<usize>() > 200,
        "the imports were read"
    );
    let mut circles = Vec::new();
    for start in files.keys() {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&Vec<String>> = uses[start].iter().collect();
        while let Some(module) = open.pop() {
            if module == start {
                circles.push(start.join("::"));
                break;
            }
            if seen.insert(module) {
                open.extend(&uses[module]);
            }
        }
    }
    assert!(circles.is_empty(), "these use each other in circles: {circles:?}");
}
