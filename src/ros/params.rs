//! Declared parameters.
//!
//! A node states its parameters once, as a struct ([`parameters!`](crate::parameters)): documentation with the unit, type,
//! default, unit, permitted range, and whether it may change while the node runs. Everything else follows from that table: the
//! services and `/parameter_events` that rqt, `ros2 param` and Foxglove use ([`server`]), the refusal of overrides that nobody
//! declared or that are out of range, and `docs/parameters.md`.
//!
//! In a parameter file they stand under `/**` in a section named after the node, so that one file serves all nodes of a
//! process; on a node's own command line (`-p rate:=10.0`) the section is left out, and so it is below a node's name or a pattern
//! of names (`/lab1/camera`, `/**/camera`), which mean what they mean to rclcpp and rclpy ([`Overrides`]). A key that nobody
//! declared is an error: a typing mistake must not quietly leave a default in force.

mod declaration;
mod file;
mod sections;
mod server;

use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;

pub use self::declaration::{Declaration, Kind, Typed};
pub use self::sections::Overrides;

/// Sections of a parameter file: one for each node.
pub const SECTIONS: [&str; 5] = [
    "camera",
    "classifier",
    "focus_controller",
    "stepper_bridge",
    "sim_microscope",
];

/// Parameters of one node, made by [`parameters!`](crate::parameters).
pub trait Parameters:
    Serialize + DeserializeOwned + Default + Clone + Send + Sync + Checked + 'static
{
    /// Section in parameter files, the default name of the node.
    const SECTION: &'static str;
    /// Every parameter, in order.
    fn table() -> Vec<Declaration>;
}

/// What ranges alone cannot say about a set of parameters.
pub trait Checked {
    /// Whether these values go together.
    ///
    /// # Errors
    /// A sentence that names the parameter and the remedy.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Declares a struct of parameters: each with documentation, type, default, and in brackets before the default, in any order and
/// where they apply, the permitted range, the unit, and `live` if it may change while the node runs:
/// `rate: f64 [1.0..=200.0, "Hz", live] = 10.0`. A type is bool, i64, f64, String or a Vec of one of them; the range of a Vec holds
/// for each element. An enum made by [`choices!`](crate::choices) is a text with its names as the permitted ones.
#[macro_export]
macro_rules! parameters {
    (
        $(#[$attribute:meta])*
        $name:ident in $section:literal {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty $([$($rule:tt)*])? = $default:expr, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default.into(), )* }
            }
        }

        impl $crate::ros::params::Parameters for $name {
            const SECTION: &'static str = $section;

            fn table() -> Vec<$crate::ros::params::Declaration> {
                vec![ $( $crate::parameters!(@rule
                    $crate::ros::params::Declaration::new(
                        stringify!($field),
                        <$type as $crate::ros::params::Typed>::KIND,
                        concat!($($doc),*).trim_start(),
                    )
                    .one_of(<$type as $crate::ros::params::Typed>::CHOICES)
                    $(, $($rule)*)?
                ) ),* ]
            }
        }
    };
    (@rule $declared:expr) => { $declared };
    (@rule $declared:expr, live $(, $($rest:tt)*)?) => {
        $crate::parameters!(@rule $declared.live() $(, $($rest)*)?)
    };
    (@rule $declared:expr, $low:literal ..= $high:literal $(, $($rest:tt)*)?) => {
        $crate::parameters!(@rule $declared.within($low..=$high) $(, $($rest)*)?)
    };
    (@rule $declared:expr, $unit:literal $(, $($rest:tt)*)?) => {
        $crate::parameters!(@rule $declared.unit($unit) $(, $($rest)*)?)
    };
}

/// Declares an enum that is the type of a parameter: each variant with its text there.
#[macro_export]
macro_rules! choices {
    (
        $(#[$attribute:meta])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $variant:ident = $text:literal, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( $(#[doc = $doc])* #[serde(rename = $text)] $variant, )*
        }

        impl $crate::ros::params::Typed for $name {
            const KIND: $crate::ros::params::Kind = $crate::ros::params::Kind::String;
            const CHOICES: &'static [&'static str] = &[$($text),*];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(match self { $( Self::$variant => $text, )* })
            }
        }
    };
}

/// Every node has it, because tools ask for it; it is always false.
const SIM_TIME: &str = "use_sim_time";

/// The values of one node's parameters, and the rules they keep.
pub(super) struct Store<P> {
    table: Vec<Declaration>,
    values: Map<String, Value>,
    typed: watch::Sender<P>,
}

impl<P: Parameters> Store<P> {
    /// The defaults with these overrides.
    fn new(overrides: impl IntoIterator<Item = (String, Value)>) -> Result<Self> {
        let mut table = P::table();
        table.push(Declaration::new(
            SIM_TIME,
            Kind::Bool,
            "Always false: camera and stage run in real time.",
        ));
        let mut values = defaults::<P>()?;
        values.insert(SIM_TIME.to_owned(), false.into());
        let mut store = Self {
            table,
            values,
            typed: watch::Sender::new(P::default()),
        };
        let mut values = store.values.clone();
        for (name, given) in overrides {
            let value = store.fitting(&name, &given)?;
            values.insert(name, value);
        }
        store.commit(values)?;
        Ok(store)
    }

    /// The values in force, now and after each change.
    pub(super) fn subscribe(&self) -> watch::Receiver<P> {
        self.typed.subscribe()
    }

    /// Sets several parameters or, if one of them cannot be, none. The names of those that changed.
    pub(super) fn set(&mut self, changes: &[(String, Value)]) -> Result<Vec<String>> {
        let mut values = self.values.clone();
        for (name, given) in changes {
            let value = self.fitting(name, given)?;
            let declared = self.declaration(name)?;
            if !declared.live && self.values.get(name) != Some(&value) {
                bail!(
                    "node {} reads '{name}' at start: set it in the parameter file and restart",
                    P::SECTION
                );
            }
            values.insert(name.clone(), value);
        }
        let changed = changes
            .iter()
            .map(|(name, _)| name)
            .filter(|name| self.values.get(*name) != values.get(*name))
            .cloned()
            .collect();
        self.commit(values)?;
        Ok(changed)
    }

    fn commit(&mut self, values: Map<String, Value>) -> Result<()> {
        let mut own = values.clone();
        own.remove(SIM_TIME);
        let typed: P = serde_json::from_value(Value::Object(own))
            .map_err(|error| anyhow!("parameters of {}: {error}", P::SECTION))?;
        typed.check()?;
        self.values = values;
        self.typed.send_replace(typed);
        Ok(())
    }

    fn declaration(&self, name: &str) -> Result<&Declaration> {
        let declared = self.table.iter().find(|declared| declared.name == name);
        declared.ok_or_else(|| match name.split_once('.') {
            Some((section, _)) => anyhow!(
                "no node has a section '{section}', in which '{name}' was given{} Sections are: {}",
                hint(section, &SECTIONS),
                SECTIONS.join(", ")
            ),
            None => {
                let known: Vec<_> = self.table.iter().map(|declared| declared.name).collect();
                anyhow!(
                    "node {} has no parameter '{name}'{} It knows: {}",
                    P::SECTION,
                    hint(name, &known),
                    known.join(", ")
                )
            }
        })
    }

    /// The value as the declared type, if it is in range.
    fn fitting(&self, name: &str, given: &Value) -> Result<Value> {
        let declared = self.declaration(name)?;
        let Some(value) = declared.kind.fit(given) else {
            bail!(
                "parameter '{name}' of node {} is a {} like {}, but was given {given}: correct its type",
                P::SECTION,
                declared.kind.name(),
                self.values[name]
            );
        };
        if name == SIM_TIME && value == Value::Bool(true) {
            bail!("use_sim_time is not supported: camera and stage run in real time; leave it false");
        }
        if let Some(text) = value.as_str()
            && !declared.choices.is_empty()
            && !declared.choices.contains(&text)
        {
            bail!(
                "parameter '{name}' of node {} was given '{text}': choose {}{}",
                P::SECTION,
                declared.choices_text(),
                hint(text, declared.choices).trim_end_matches('.')
            );
        }
        if let (Some(number), Some(range)) = (declared.stray(&value), &declared.range) {
            bail!(
                "parameter '{name}' of node {} was given {number}: it must lie between {} and {}",
                P::SECTION,
                range.start(),
                range.end()
            );
        }
        Ok(value)
    }
}

/// The defaults of a node's parameters.
fn defaults<P: Parameters>() -> Result<Map<String, Value>> {
    match serde_json::to_value(P::default())? {
        Value::Object(values) => Ok(values),
        _ => bail!("the parameters of {} are not a table", P::SECTION),
    }
}

/// The rows of `docs/parameters.md` for one node.
pub fn to_markdown<P: Parameters>() -> Result<String> {
    let defaults = defaults::<P>()?;
    let mut text = format!(
        "## {}\n\n| parameter | type | default | unit | range | read-only | meaning |\n|---|---|---|---|---|---|---|\n",
        P::SECTION
    );
    for declared in P::table() {
        let range = declared.range.as_ref().map_or_else(
            || declared.choices_text(),
            |range| format!("{} to {}", range.start(), range.end()),
        );
        text += &format!(
            "| `{}` | {} | `{}` | {} | {range} | {} | {} |\n",
            declared.name,
            declared.kind.name(),
            defaults[declared.name],
            declared.unit,
            if declared.live { "" } else { "yes" },
            declared.description
        );
    }
    Ok(text)
}

/// The parameter's own name if an override is meant for this node: `camera.rate` in a shared file, or plain `rate`.
fn own_key<'a>(section: &str, key: &'a str) -> Option<&'a str> {
    match key.split_once('.') {
        Some((head, name)) if head == section => Some(name),
        Some((head, _)) if SECTIONS.contains(&head) => None,
        _ => Some(key),
    }
}

/// A question with the nearest known name, as the end of a clause; a full stop without one.
fn hint(name: &str, known: &[&str]) -> String {
    nearest(name, known).map_or_else(
        || ".".to_owned(),
        |nearest| format!("; did you mean '{nearest}'?"),
    )
}

/// The declared name closest to a mistyped one, if any is close.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| strsim::levenshtein(name, other);
    known
        .iter()
        .copied()
        .min_by_key(|other| distance(other))
        .filter(|other| distance(other) <= 1 + name.len() / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_decide_whose_key_it_is() {
        for (key, expected) in [
            ("camera.rate", Some("rate")),
            ("rate", Some("rate")),
            ("classifier.model", None),
            ("camear.rate", Some("camear.rate")),
            ("use_sim_time", Some("use_sim_time")),
        ] {
            assert_eq!(own_key("camera", key), expected, "{key}");
        }
    }

    crate::choices! {
        /// What a pump moves.
        Medium {
            /// Air.
            Air = "air",
            /// Oil.
            Oil = "oil",
            /// Water.
            Water = "water",
        }
    }

    crate::parameters! {
        /// For these tests.
        Pump in "camera" {
            /// Strokes per second.
            rate: f64 [1.0..=200.0, "1/s", live] = 20.0,
            /// Where it leads.
            path: String = "",
            /// How often.
            count: i64 [0.0..=9.0] = 3,
            /// Over and over.
            endless: bool [live] = true,
            /// What it moves.
            medium: Medium = Medium::Oil,
            /// Stops on its way.
            stops: Vec<f64> [live, 0.0..=1.0, "m"] = vec![],
        }
    }

    impl Checked for Pump {
        fn check(&self) -> Result<()> {
            anyhow::ensure!(
                !(self.endless && self.rate > 100.0),
                "an endless pump must not exceed 100 strokes"
            );
            Ok(())
        }
    }

    fn store(overrides: &[(&str, Value)]) -> Result<Store<Pump>> {
        let owned = overrides
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        Store::new(owned)
    }

    #[test]
    fn mistakes_are_named_with_a_remedy() {
        let refused = |name: &str, value: Value, word: &str| {
            let error = store(&[(name, value)])
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default();
            assert!(error.contains(word), "{error}");
        };
        refused("rat", 5.0.into(), "did you mean 'rate'");
        refused("rate", "5".into(), "'rate'");
        refused("rate", 0.5.into(), "between 1 and 200");
        refused("count", 0.5.into(), "correct its type");
        refused("count", 10.into(), "between 0 and 9");
        refused("endless", 1.into(), "correct its type");
        refused("rate", 150.into(), "endless pump");
        refused("stops", vec![0.5, 1.5].into(), "1.5: it must lie between 0 and 1");
        refused("stops", vec!["far"].into(), "double array");
        refused("stops", 0.5.into(), "correct its type");
        refused(
            "medium",
            "watr".into(),
            "choose air, oil or water; did you mean 'water'?",
        );
        refused(
            "medium",
            "lead shot".into(),
            "was given 'lead shot': choose air, oil or water",
        );
        refused("medium", 5.into(), "correct its type");
        let medium = store(&[("medium", "air".into())]).unwrap().typed.borrow().medium;
        assert_eq!(medium, Medium::Air);
        refused("camrea.rate", 5.0.into(), "did you mean 'camera'?");
        refused("use_sim_time", true.into(), "real time");
        let rate = store(&[("rate", 5.into())]).unwrap().values["rate"].clone();
        assert_eq!(rate, Value::from(5.0), "an integer serves as a number");
        let stops = store(&[("stops", vec![0, 1].into())]).unwrap();
        assert_eq!(
            stops.typed.borrow().stops,
            [0.0, 1.0],
            "integers serve as numbers"
        );
        store(&[("use_sim_time", false.into())]).unwrap();
    }

    #[test]
    fn changes_are_all_or_nothing_and_only_of_what_is_live() {
        let mut store = store(&[]).unwrap();
        let heard = store.typed.subscribe();
        let change = |name: &str, value: Value| (name.to_owned(), value);
        assert_eq!(store.set(&[change("rate", 50.into())]).unwrap(), ["rate"]);
        assert_eq!(heard.borrow().rate, 50.0);
        assert!(
            store
                .set(&[change("rate", 60.into()), change("path", "x".into())])
                .is_err()
        );
        assert!(
            store.set(&[change("rate", 150.into())]).is_err(),
            "the check has its say"
        );
        assert_eq!(heard.borrow().rate, 50.0);
        let both = [change("rate", 150.into()), change("endless", false.into())];
        assert_eq!(store.set(&both).unwrap(), ["rate", "endless"]);
        // What is not live may be set to what it is.
        assert!(store.set(&[change("count", 3.into())]).unwrap().is_empty());
    }

    #[test]
    fn the_document_shows_every_rule() {
        let text = to_markdown::<Pump>().unwrap();
        assert!(
            text.contains("| `rate` | double | `20.0` | 1/s | 1 to 200 |  | Strokes per second. |"),
            "{text}"
        );
        assert!(
            text.contains("| `path` | string | `\"\"` |  |  | yes | Where it leads. |"),
            "{text}"
        );
    }
}
