//! Which sections of parameter files and `-p` rules are meant for which node, and which of two wins.
//!
//! As with rclcpp and rclpy: a section is a node's full name, with or without its leading slash, in which `*` stands for one name
//! and `**` for any number of them. Sections of one name count as one, which stands where the first of them stood on the command
//! line; of several that match a node, the later one wins, and in one section the later value. `-p x:=1` is a section `/**`, `-p
//! camera:x:=1` a section `camera`. Tested against rclpy in `tests/ros/test_parameters.py`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::file::{self, Given};
use super::{Sections, own_key};

/// What files and arguments say about parameters, in the order in which rcl reads them.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Every section that the product has.
    pub(in crate::ros) known: Sections,
    sections: Vec<Section>,
    watch: Mutex<Watch>,
}

#[derive(Debug)]
struct Section {
    name: String,
    /// Files and arguments that have it.
    sources: Vec<String>,
    values: Map<String, Value>,
}

/// Who has come for its parameters so far.
#[derive(Debug, Default)]
struct Watch {
    nodes: Vec<String>,
    expected: Option<usize>,
}

impl Overrides {
    /// Adds what a file says.
    ///
    /// # Errors
    /// A sentence that names the file, the line and the remedy.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let source = path.display().to_string();
        for given in file::read(path)? {
            self.add(given, &source);
        }
        Ok(())
    }

    /// Adds `-p name:=value` or `-p node:name:=value`.
    ///
    /// # Errors
    /// A sentence about the value.
    pub fn add_rule(&mut self, node: Option<&str>, key: &str, value: &str, rule: &str) -> Result<()> {
        let given = Given {
            section: node.unwrap_or("/**").to_owned(),
            key: key.to_owned(),
            value: file::parse_value(value)?,
        };
        self.add(given, &format!("-p {rule}"));
        Ok(())
    }

    fn add(&mut self, given: Given, source: &str) {
        let known = self
            .sections
            .iter()
            .position(|section| section.name == given.section);
        let index = known.unwrap_or_else(|| {
            self.sections.push(Section {
                name: given.section,
                sources: Vec::new(),
                values: Map::new(),
            });
            self.sections.len() - 1
        });
        let section = &mut self.sections[index];
        if !section.sources.iter().any(|known| known == source) {
            section.sources.push(source.to_owned());
        }
        section.values.insert(given.key, given.value);
    }

    /// What is meant for the node with this full name and these parameters, by their names, and what stands in the section it shares.
    ///
    /// # Errors
    /// If a section has a parameter under both its names.
    pub(super) fn of(&self, node: &str, own: &str, shared: Option<&str>) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for section in self
            .sections
            .iter()
            .filter(|section| matches(&section.name, node))
        {
            all.extend(section.of(self.known, own, shared)?);
        }
        Ok(all)
    }

    /// Notes that a node has come for its parameters.
    pub(super) fn came(&self, node: &str) {
        self.look(|watch| watch.nodes.push(node.to_owned()));
    }

    /// Says how many nodes the process has; once they all have come, sections that match none are told.
    pub(in crate::ros) fn expect(&self, nodes: usize) {
        self.look(|watch| watch.expected = Some(nodes));
    }

    fn look(&self, change: impl FnOnce(&mut Watch)) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut watch);
        if watch.expected == Some(watch.nodes.len()) {
            let node = watch
                .nodes
                .first()
                .map_or("", |node| node.trim_start_matches('/'));
            for (section, sources) in self.strays(&watch.nodes) {
                tracing::warn!(node, "{}", stray_sentence(section, sources, &watch.nodes));
            }
        }
    }

    /// Sections, with their sources, that match none of these nodes nor those that usually run beside them in another process.
    fn strays<'a>(&'a self, nodes: &'a [String]) -> impl Iterator<Item = (&'a str, &'a [String])> {
        let beside = move |section: &Section| {
            let namespaces = nodes.iter().filter_map(|node| node.rsplit_once('/'));
            namespaces
                .flat_map(|(namespace, _)| self.known.iter().map(move |name| format!("{namespace}/{name}")))
                .any(|node| matches(&section.name, &node))
        };
        self.sections
            .iter()
            .filter(move |section| !nodes.iter().any(|node| matches(&section.name, node)) && !beside(section))
            .map(|section| (section.name.as_str(), section.sources.as_slice()))
    }
}

fn stray_sentence(section: &str, sources: &[String], nodes: &[String]) -> String {
    format!(
        "the section '{section}' in {} matches no node of this process and has no effect: its nodes are {}",
        sources.join(", "),
        nodes.join(", ")
    )
}

impl Section {
    fn of(&self, known: Sections, own: &str, shared: Option<&str>) -> Result<Map<String, Value>> {
        let mut values = Map::new();
        for (key, value) in &self.values {
            let Some(name) = own_key(known, own, shared, key) else {
                continue;
            };
            if values.insert(name.to_owned(), value.clone()).is_some() {
                bail!(
                    "parameter '{name}' of node {own} was given twice, as '{name}' and as '{own}.{name}': remove one of them"
                );
            }
        }
        Ok(values)
    }
}

/// Whether a section is meant for the node of this full name.
fn matches(section: &str, node: &str) -> bool {
    let names = |name: &'_ str| -> Vec<String> {
        let name = name.strip_prefix('/').unwrap_or(name);
        name.split('/').map(str::to_owned).collect()
    };
    matches_names(&names(section), &names(node))
}

fn matches_names(pattern: &[String], names: &[String]) -> bool {
    // Where the rest of the pattern, from its end on, matches the rest of the names: so no pattern takes long.
    let mut reached = vec![false; names.len() + 1];
    reached[names.len()] = true;
    for part in pattern.iter().rev() {
        let mut next = vec![false; names.len() + 1];
        for at in (0..=names.len()).rev() {
            let one = names.get(at).is_some_and(|name| part == "*" || part == name) && reached[at + 1];
            next[at] = match part.as_str() {
                "**" => reached[at] || (at < names.len() && next[at + 1]),
                _ => one,
            };
        }
        reached = next;
    }
    reached[0]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_section_matches_what_it_matches_in_rcl() {
        // The same table is held against rclpy.
        let table = include_str!("../../../tests/data/parameter_sections.csv");
        let mut rows = csv::Reader::from_reader(table.as_bytes());
        let nodes = rows.headers().unwrap().clone();
        for row in rows.records().map(Result::unwrap) {
            for (node, expected) in nodes.iter().zip(&row).skip(1) {
                assert_eq!(
                    matches(&row[0], node),
                    expected == "yes",
                    "{} for {node}",
                    &row[0]
                );
            }
        }
        let long = "/**/*".repeat(2000);
        assert!(!matches(&long, "/camera"));
    }

    /// Overrides from parts: a file's text, or a rule.
    fn overrides(parts: &[&str]) -> Overrides {
        let mut overrides = Overrides {
            known: &["camera", "classifier", "stepper_bridge"],
            ..Overrides::default()
        };
        for part in parts {
            match part.split_once(":=") {
                Some((left, value)) => {
                    let (node, key) = match left.split_once(':') {
                        Some((node, key)) => (Some(node), key),
                        None => (None, left),
                    };
                    overrides.add_rule(node, key, value, part).unwrap();
                }
                None => {
                    for given in file::parse(part).unwrap() {
                        overrides.add(given, "a.yaml");
                    }
                }
            }
        }
        overrides
    }

    #[test]
    fn of_two_that_match_the_one_that_rcl_has_later_wins() {
        // The same table is held against rclpy.
        let table = include_str!("../../../tests/data/parameter_order.csv");
        for row in csv::Reader::from_reader(table.as_bytes())
            .records()
            .map(Result::unwrap)
        {
            let parts: Vec<String> = row[0].split(" | ").map(part).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let values = overrides(&parts).of("/camera", "camera", None).unwrap();
            let expected: i64 = row[1].parse().unwrap();
            assert_eq!(Value::from(values), json!({ "rate": expected }), "{}", &row[0]);
        }
    }

    /// A rule, or the text of a file with one section, as the table has them.
    fn part(given: &str) -> String {
        match given.strip_prefix("-p ") {
            Some(rule) => rule.to_owned(),
            None => {
                let (section, rate) = given.split_once('=').unwrap();
                format!("{section}:\n  ros__parameters: {{rate: {rate}}}\n")
            }
        }
    }

    #[test]
    fn the_shared_files_way_and_the_nodes_own_meet_by_the_same_order() {
        let shared = "/**:\n  ros__parameters: {camera: {rate: 1}, classifier: {rate: 9}}\n";
        let named = "/**/camera:\n  ros__parameters: {rate: 2}\n";
        for (parts, expected) in [
            (&[shared][..], 1),
            (&[shared, named], 2),
            (&[named, shared], 1),
            (&[shared, "camera.rate:=3"], 3),
            (&[named, "camera.rate:=3"], 3),
        ] {
            let values = overrides(parts).of("/lab1/camera", "camera", None).unwrap();
            assert_eq!(Value::from(values), json!({ "rate": expected }), "{parts:?}");
        }
        let both = overrides(&["rate:=1", "camera.rate:=2"]).of("/camera", "camera", None);
        assert!(
            both.unwrap_err()
                .to_string()
                .contains("'rate' and as 'camera.rate'")
        );
    }

    #[test]
    fn a_limit_under_a_pattern_is_in_force() {
        let file = "/**/stepper_bridge:\n  ros__parameters: {z_min: -5.0e-6}\n";
        for node in ["/stepper_bridge", "/lab1/stepper_bridge"] {
            let values = overrides(&[file]).of(node, "stepper_bridge", None).unwrap();
            assert_eq!(values["z_min"], -5.0e-6);
        }
    }

    #[test]
    fn sections_that_match_none_are_told() {
        let file = "/lab2/camera:\n  ros__parameters: {rate: 1}\n/lab1/classifier:\n  ros__parameters: {threads: 1}\n\
                    /*:\n  ros__parameters: {rate: 1}\ncamera:\n  ros__parameters: {rate: 1}\n";
        let overrides = overrides(&[file, "camra:rate:=3"]);
        let nodes = ["/lab1/camera".to_owned()];
        let strays: Vec<_> = overrides.strays(&nodes).map(|(section, _)| section).collect();
        assert_eq!(strays, ["/lab2/camera", "/*", "camera", "camra"]);
        let sentence = stray_sentence("camra", &["-p camra:rate:=3".to_owned()], &nodes);
        assert!(
            sentence.contains("'camra' in -p camra:rate:=3 matches no node"),
            "{sentence}"
        );
    }
}
