//! Which motion controller it is, as far as it says so itself, and the settings that decide where a motion of it goes.
//!
//! What was found out about a stand holds for that controller with those settings. A controller that says the same as another one cannot be
//! told from it; their ports can.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the emulated controller says of itself. GRBL 1.1 stores what is written to `$I=` in capitals, so that no real one can be
/// made to say it.
pub const VIRTUAL_BUILD: &str = "hhnet-virtual";

/// One controller, with the settings that decide where its motions go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Protocol and version, for example `GRBL 1.1h.20190830`.
    pub firmware: String,
    /// What its owner or maker wrote into it; often empty.
    pub build: String,
    /// Options it was built with, as it says them.
    pub options: String,
    /// Settings by name, for example `$102`, with their values as text.
    pub settings: BTreeMap<String, String>,
}

impl Identity {
    /// Whether it says that nothing of it is real.
    pub fn is_virtual(&self) -> bool {
        self.build == VIRTUAL_BUILD
    }

    /// What is different now from what was written down: the part of a sentence that follows "because". None: it is the same one.
    pub fn difference(&self, then: &Self) -> Option<String> {
        for (name, now, then) in [
            ("firmware", &self.firmware, &then.firmware),
            ("build text", &self.build, &then.build),
            ("build options", &self.options, &then.options),
        ] {
            if now != then {
                return Some(format!("its {name} was '{then}' and is '{now}'"));
            }
        }
        let names = then.settings.keys().chain(self.settings.keys());
        let of = |identity: &Self, name: &String| match identity.settings.get(name) {
            Some(value) => value.clone(),
            None => "not told".to_owned(),
        };
        names
            .map(|name| (name, of(then, name), of(self, name)))
            .find(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("its setting {name} was {then} and is {now}"))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.firmware)?;
        if !self.build.is_empty() {
            write!(f, " '{}'", self.build)?;
        }
        for (name, value) in &self.settings {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(build: &str, steps: &[(&str, &str)]) -> Identity {
        Identity {
            firmware: "GRBL 1.1h.20190830".to_owned(),
            build: build.to_owned(),
            options: "V,15,128".to_owned(),
            settings: steps
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_is_different_is_named() {
        let then = identity("", &[("$102", "20000"), ("$3", "0")]);
        for (now, named) in [
            (identity("", &[("$102", "20000"), ("$3", "0")]), None),
            (
                identity("", &[("$102", "10000"), ("$3", "0")]),
                Some("$102 was 20000 and is 10000"),
            ),
            (
                identity("", &[("$102", "20000"), ("$3", "4")]),
                Some("$3 was 0 and is 4"),
            ),
            (
                identity("", &[("$3", "0")]),
                Some("$102 was 20000 and is not told"),
            ),
            (
                identity("LAB 2", &[("$102", "20000"), ("$3", "0")]),
                Some("build text was '' and is 'LAB 2'"),
            ),
        ] {
            let found = now.difference(&then);
            assert_eq!(found.is_some(), named.is_some(), "{found:?}");
            assert!(
                found.clone().unwrap_or_default().contains(named.unwrap_or("")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn only_the_emulated_one_is_virtual() {
        assert!(identity(VIRTUAL_BUILD, &[]).is_virtual());
        for build in ["", "HHNET-VIRTUAL", "hhnet-virtual ", "virtual"] {
            assert!(!identity(build, &[]).is_virtual(), "{build}");
        }
    }
}
