//! Declared parameters.
//!
//! A node states its parameters once, as a struct ([`parameters!`](crate::parameters)): documentation with the unit, type,
//! default, permitted range, and whether it may change while the node runs. Everything else follows from that table: the
//! services and `/parameter_events` that rqt, `ros2 param` and Foxglove use ([`server`]), the refusal of overrides that nobody
//! declared or that are out of range, and `docs/parameters.md`.
//!
//! In a parameter file they stand under `/**` in a section named after the node, so that one file serves all nodes of a
//! process; on a node's own command line (`-p rate:=10.0`) the section is left out. A key that nobody declared is an error:
//! a typing mistake must not quietly leave a default in force.

mod server;

use std::ops::RangeInclusive;
use std::sync::PoisonError;

use anyhow::{Result, anyhow, bail};
use r2r::ParameterValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;

pub(super) use self::server::serve;

/// Sections of a parameter file: one for each node.
pub const SECTIONS: [&str; 5] = [
    "camera",
    "classifier",
    "focus_controller",
    "stepper_bridge",
    "sim_microscope",
];

/// What is fixed about one parameter; type and default come from the struct.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// What it means, with its unit.
    pub description: &'static str,
    /// Permitted values of a number.
    pub range: Option<RangeInclusive<f64>>,
    /// Whether it may change while the node runs.
    pub live: bool,
}

impl Declaration {
    /// One that is read at start, without a range.
    pub fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            description,
            range: None,
            live: false,
        }
    }

    /// The same with a permitted range.
    #[must_use]
    pub fn within(self, range: RangeInclusive<f64>) -> Self {
        Self {
            range: Some(range),
            ..self
        }
    }

    /// The same, changeable while the node runs.
    #[must_use]
    pub fn live(self) -> Self {
        Self { live: true, ..self }
    }
}

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

/// Declares a struct of parameters: each with documentation (unit, meaning), type, default, and in brackets before the default,
/// where they apply, the permitted range and `live` if it may change while the node runs: `rate: f64 [1.0..=200.0, live] = 10.0`.
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
                vec![ $({
                    let declared =
                        $crate::ros::params::Declaration::new(stringify!($field), concat!($($doc),*).trim_start());
                    $( let declared = $crate::parameters!(@rule declared $($rule)*); )?
                    declared
                }),* ]
            }
        }
    };
    (@rule $declared:ident live) => { $declared.live() };
    (@rule $declared:ident $low:literal ..= $high:literal) => {
        $declared.within($low..=$high)
    };
    (@rule $declared:ident $low:literal ..= $high:literal, live) => {
        $declared.within($low..=$high).live()
    };
}

/// The values of one node's parameters, and the rules they keep.
pub(super) struct Store<P> {
    table: Vec<Declaration>,
    values: Map<String, Value>,
    typed: watch::Sender<P>,
}

impl<P: Parameters> Store<P> {
    /// The defaults with these overrides.
    fn new(overrides: impl IntoIterator<Item = (String, Value)>) -> Result<Self> {
        let Value::Object(values) = serde_json::to_value(P::default())? else {
            bail!("the parameters of {} are not a table", P::SECTION);
        };
        let mut store = Self {
            table: P::table(),
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
        let typed: P = serde_json::from_value(Value::Object(values.clone()))
            .map_err(|error| anyhow!("parameters of {}: {error}", P::SECTION))?;
        typed.check()?;
        self.values = values;
        self.typed.send_replace(typed);
        Ok(())
    }

    fn declaration(&self, name: &str) -> Result<&Declaration> {
        let known = || self.table.iter().map(|declared| declared.name);
        self.table
            .iter()
            .find(|declared| declared.name == name)
            .ok_or_else(|| {
                let nearest = nearest(name, &known().collect::<Vec<_>>())
                    .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
                anyhow!(
                    "node {} has no parameter '{name}'{nearest} It knows: {}",
                    P::SECTION,
                    known().collect::<Vec<_>>().join(", ")
                )
            })
    }

    /// The value as the declared type, an integer serving as a number where one is asked for, if it is in range.
    fn fitting(&self, name: &str, given: &Value) -> Result<Value> {
        let declared = self.declaration(name)?;
        let default = &self.values[name];
        let value = match (default, given) {
            (Value::Number(wanted), Value::Number(got)) if wanted.is_f64() && !got.is_f64() => {
                got.as_f64().map_or(Value::Null, Value::from)
            }
            (Value::Number(wanted), Value::Number(got)) if wanted.is_f64() == got.is_f64() => given.clone(),
            (Value::Number(_), Value::Number(_)) => Value::Null,
            (wanted, got) if std::mem::discriminant(wanted) == std::mem::discriminant(got) => given.clone(),
            _ => Value::Null,
        };
        if value.is_null() {
            bail!(
                "parameter '{name}' of node {} is like {default}, but was given {given}: correct its type",
                P::SECTION
            );
        }
        if let (Some(range), Some(number)) = (&declared.range, value.as_f64())
            && !range.contains(&number)
        {
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

/// The node's parameters with its overrides applied.
pub(super) fn declare<P: Parameters>(node: &r2r::Node) -> Result<Store<P>> {
    let mut params = node.params.lock().unwrap_or_else(PoisonError::into_inner);
    let overrides: Vec<(String, Value)> = params
        .drain(..)
        .filter_map(|(key, parameter)| {
            let name = own_key(P::SECTION, &key)?.to_owned();
            Some((name, from_ros(&parameter.value)))
        })
        .collect();
    Store::new(overrides)
}

/// The rows of `docs/parameters.md` for one node.
pub fn to_markdown<P: Parameters>() -> Result<String> {
    let Value::Object(defaults) = serde_json::to_value(P::default())? else {
        bail!("the parameters of {} are not a table", P::SECTION);
    };
    let mut text = format!(
        "## {}\n\n| parameter | default | range | live | meaning |\n|---|---|---|---|---|\n",
        P::SECTION
    );
    for declared in P::table() {
        let range = declared.range.map_or_else(String::new, |range| {
            format!("{} to {}", range.start(), range.end())
        });
        text += &format!(
            "| `{}` | `{}` | {range} | {} | {} |\n",
            declared.name,
            defaults[declared.name],
            if declared.live { "yes" } else { "" },
            declared.description
        );
    }
    Ok(text)
}

/// The parameter's own name if an override is meant for this node: `camera.rate` in a shared file, or plain `rate`.
fn own_key<'a>(section: &str, key: &'a str) -> Option<&'a str> {
    if key == "use_sim_time" {
        return None;
    }
    match key.split_once('.') {
        Some((head, name)) if head == section => Some(name),
        Some((head, _)) if SECTIONS.contains(&head) => None,
        _ => Some(key),
    }
}

/// The declared name closest to a mistyped one, if any is close.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| edit_distance(name, other);
    known
        .iter()
        .copied()
        .min_by_key(|other| distance(other))
        .filter(|other| distance(other) <= 1 + name.len() / 3)
}

/// Levenshtein's distance.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

fn from_ros(value: &ParameterValue) -> Value {
    match value {
        ParameterValue::NotSet => Value::Null,
        ParameterValue::Bool(value) => (*value).into(),
        ParameterValue::Integer(value) => (*value).into(),
        ParameterValue::Double(value) => (*value).into(),
        ParameterValue::String(value) => value.as_str().into(),
        ParameterValue::BoolArray(values) => values.as_slice().into(),
        ParameterValue::ByteArray(values) => values.as_slice().into(),
        ParameterValue::IntegerArray(values) => values.as_slice().into(),
        ParameterValue::DoubleArray(values) => values.as_slice().into(),
        ParameterValue::StringArray(values) => values.as_slice().into(),
    }
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
            ("use_sim_time", None),
        ] {
            assert_eq!(own_key("camera", key), expected, "{key}");
        }
    }

    crate::parameters! {
        /// For these tests.
        Pump in "camera" {
            /// Strokes per second.
            rate: f64 [1.0..=200.0, live] = 20.0,
            /// Where it leads.
            path: String = "",
            /// How often.
            count: i64 [0.0..=9.0] = 3,
            /// Over and over.
            endless: bool [live] = true,
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
        let rate = store(&[("rate", 5.into())]).unwrap().values["rate"].clone();
        assert_eq!(rate, Value::from(5.0), "an integer serves as a number");
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
            text.contains("| `rate` | `20.0` | 1 to 200 | yes | Strokes per second. |"),
            "{text}"
        );
        assert!(
            text.contains("| `path` | `\"\"` |  |  | Where it leads. |"),
            "{text}"
        );
    }
}
