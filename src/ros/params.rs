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
//!
//! What several nodes read stands in a section of its own, which they share (`with microscope: … [objective, z_min]` in the macro): it is
//! declared once, each node has those parameters of it that it reads, by the name `microscope.z_min`, and a file says them once.

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

/// Names of the sections that a parameter file of the product may have: one for each node, and those that they share.
pub type Sections = &'static [&'static str];

/// Parameters of one node, made by [`parameters!`](crate::parameters).
pub trait Parameters:
    Serialize + DeserializeOwned + Default + Clone + Send + Sync + Checked + 'static
{
    /// Section in parameter files, the default name of the node.
    const SECTION: &'static str;
    /// Every parameter, in order.
    fn table() -> Vec<Declaration>;
    /// The section that it shares with other nodes, and all that stands there, whether read or not.
    fn shared() -> Option<(&'static str, Vec<Declaration>)> {
        None
    }
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
/// for each element. An enum made by [`choices!`](crate::choices) is a text with its names as the permitted ones. `with section: Type [a, b]`
/// after the node's own section adds the field `section`, of which `a` and `b` are read.
#[macro_export]
macro_rules! parameters {
    (
        $(#[$attribute:meta])*
        $name:ident in $section:literal $(with $shared:ident: $kind:ty [$($read:ident),* $(,)?])? {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty $([$($rule:tt)*])? = $default:expr, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                /// What it reads of the section that it shares with other nodes.
                pub $shared: $kind,
            )?
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $shared: Default::default(), )? $( $field: $default.into(), )* }
            }
        }

        impl $crate::ros::params::Parameters for $name {
            const SECTION: &'static str = $section;

            fn table() -> Vec<$crate::ros::params::Declaration> {
                let own = vec![ $( $crate::parameters!(@rule
                    $crate::ros::params::Declaration::new(
                        stringify!($field),
                        <$type as $crate::ros::params::Typed>::KIND,
                        concat!($($doc),*).trim_start(),
                    )
                    .one_of(<$type as $crate::ros::params::Typed>::CHOICES)
                    $(, $($rule)*)?
                ) ),* ];
                $(
                    // A name that the section does not have is refused by the compiler.
                    let _ = |section: &$kind| { $( let _ = &section.$read; )* };
                    let shared = $crate::ros::params::read::<$kind>(&[
                        $( (stringify!($read), concat!(stringify!($shared), ".", stringify!($read))) ),*
                    ]);
                    let own = [shared, own].concat();
                )?
                own
            }

            $(
                fn shared() -> Option<(&'static str, Vec<$crate::ros::params::Declaration>)> {
                    Some((stringify!($shared), <$kind as $crate::ros::params::Parameters>::table()))
                }
            )?
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

/// Of a shared section's parameters those that a node reads, given as `z_min` and `microscope.z_min`, by the second name.
pub fn read<S: Parameters>(names: &[(&str, &'static str)]) -> Vec<Declaration> {
    let read = |declaration: Declaration| {
        let (_, name) = names.iter().find(|(own, _)| *own == declaration.name)?;
        Some(Declaration { name, ..declaration })
    };
    S::table().into_iter().filter_map(read).collect()
}

/// Every node has it, because tools ask for it; it is always false.
const SIM_TIME: &str = "use_sim_time";

/// The values of one node's parameters, and the rules they keep.
pub(super) struct Store<P> {
    table: Vec<Declaration>,
    values: Map<String, Value>,
    typed: watch::Sender<P>,
    sections: Sections,
}

impl<P: Parameters> Store<P> {
    /// The defaults with these overrides.
    fn new(sections: Sections, overrides: impl IntoIterator<Item = (String, Value)>) -> Result<Self> {
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
            sections,
        };
        let mut values = store.values.clone();
        for (name, given) in overrides {
            if store.is_for_others(&name) {
                continue;
            }
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
        let typed: P = serde_json::from_value(nested(&values))
            .map_err(|error| anyhow!("parameters of {}: {error}", P::SECTION))?;
        typed.check()?;
        self.values = values;
        self.typed.send_replace(typed);
        Ok(())
    }

    /// Whether a key belongs to the shared section and is read by other nodes only.
    fn is_for_others(&self, name: &str) -> bool {
        let own = self.table.iter().any(|declared| declared.name == name);
        let is_shared = |(section, all): (&str, Vec<Declaration>)| {
            let key = name.strip_prefix(section).and_then(|key| key.strip_prefix('.'));
            key.is_some_and(|key| all.iter().any(|declared| declared.name == key))
        };
        !own && P::shared().is_some_and(is_shared)
    }

    fn declaration(&self, name: &str) -> Result<&Declaration> {
        let declared = self.table.iter().find(|declared| declared.name == name);
        let (shared, all) = P::shared().unwrap_or_default();
        declared.ok_or_else(|| match name.split_once('.') {
            None if all.iter().any(|declared| declared.name == name) => anyhow!(
                "'{name}' is no parameter of node {}: it belongs to the instrument and is said once, as '{shared}.{name}'",
                P::SECTION
            ),
            Some((section, key)) if section == shared => {
                let known: Vec<_> = all.iter().map(|declared| declared.name).collect();
                anyhow!(
                    "the section {shared} has no parameter '{key}'{} It has: {}",
                    hint(key, &known),
                    known.join(", ")
                )
            }
            Some((section, _)) => anyhow!(
                "no node has a section '{section}', in which '{name}' was given{} Sections are: {}",
                hint(section, self.sections),
                self.sections.join(", ")
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

/// The defaults of a node's parameters, by their names.
fn defaults<P: Parameters>() -> Result<Map<String, Value>> {
    let all = serde_json::to_value(P::default())?;
    let value = |declared: Declaration| {
        let found = declared
            .name
            .split('.')
            .try_fold(&all, |value, part| value.get(part));
        let value = found.ok_or_else(|| anyhow!("{} has no default of '{}'", P::SECTION, declared.name))?;
        Ok((declared.name.to_owned(), value.clone()))
    };
    P::table().into_iter().map(value).collect()
}

/// What serde makes a struct of: `microscope.z_min` stands in an object `microscope`.
fn nested(values: &Map<String, Value>) -> Value {
    let mut all = Map::new();
    for (name, value) in values.iter().filter(|(name, _)| *name != SIM_TIME) {
        match name.split_once('.') {
            None => drop(all.insert(name.clone(), value.clone())),
            Some((section, key)) => {
                let section = all.entry(section).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(section) = section {
                    section.insert(key.to_owned(), value.clone());
                }
            }
        }
    }
    Value::Object(all)
}

/// The rows of `docs/parameters.md` for one node.
pub fn to_markdown<P: Parameters>() -> Result<String> {
    let defaults = defaults::<P>()?;
    let shared = P::shared().map_or_else(String::new, |(section, _)| {
        let read: Vec<_> = P::table()
            .iter()
            .filter_map(|declared| declared.name.strip_prefix(&format!("{section}.")))
            .map(|name| format!("`{name}`"))
            .collect();
        format!(
            "Reads of the section [{section}](#{section}): {}.\n\n",
            read.join(", ")
        )
    });
    let mut text = format!(
        "## {}\n\n{shared}| parameter | type | default | unit | range | read-only | meaning |\n|---|---|---|---|---|---|---|\n",
        P::SECTION
    );
    for declared in P::table()
        .into_iter()
        .filter(|declared| !declared.name.contains('.'))
    {
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

/// The parameter's own name if an override is meant for this node: `camera.rate` in a shared file, or plain `rate`; what stands in the
/// section that it shares keeps its name.
fn own_key<'a>(sections: Sections, section: &str, shared: Option<&str>, key: &'a str) -> Option<&'a str> {
    match key.split_once('.') {
        Some((head, name)) if head == section => Some(name),
        Some((head, _)) if Some(head) == shared => Some(key),
        Some((head, _)) if sections.contains(&head) => None,
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

    const SECTIONS: Sections = &["camera", "classifier", "microscope"];

    #[test]
    fn sections_decide_whose_key_it_is() {
        for (key, expected) in [
            ("camera.rate", Some("rate")),
            ("rate", Some("rate")),
            ("classifier.model", None),
            ("camear.rate", Some("camear.rate")),
            ("use_sim_time", Some("use_sim_time")),
            ("microscope.z_min", None),
        ] {
            assert_eq!(own_key(SECTIONS, "camera", None, key), expected, "{key}");
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
        Store::new(SECTIONS, owned)
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

    crate::parameters! {
        /// What two pumps share.
        Plant in "plant" {
            /// Pressure of the house.
            pressure: f64 [0.0..=10.0, "bar", live] = 3.0,
            /// Highest level.
            level: f64 [0.0..=2.0, "m"] = 1.0,
            /// Name of the house.
            house: String = "north",
        }
    }

    impl Checked for Plant {}

    crate::parameters! {
        /// One that reads two of the three.
        Sump in "sump" with plant: Plant [pressure, level] {
            /// Strokes per second.
            rate: f64 [1.0..=200.0, "1/s", live] = 20.0,
        }
    }

    impl Checked for Sump {}

    #[test]
    fn what_nodes_share_is_said_once() {
        let store = |given: &[(&str, Value)]| {
            let owned = given
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()));
            Store::<Sump>::new(SECTIONS, owned)
        };
        let given = [
            ("plant.level", 0.5.into()),
            ("rate", 5.0.into()),
            ("plant.house", "of others".into()),
        ];
        let mut sump = store(&given).unwrap();
        let names: Vec<_> = sump.table.iter().map(|declared| declared.name).collect();
        assert_eq!(names, ["plant.pressure", "plant.level", "rate", SIM_TIME]);
        let read = sump.typed.borrow().clone();
        assert_eq!(
            (read.plant.level, read.plant.pressure, read.rate),
            (0.5, 3.0, 5.0)
        );
        assert_eq!(read.plant.house, "north", "it is not read, and so it is not set");
        let changed = sump.set(&[("plant.pressure".to_owned(), 4.0.into())]).unwrap();
        assert_eq!(
            (changed, sump.typed.borrow().plant.pressure),
            (vec!["plant.pressure".to_owned()], 4.0)
        );
        for (name, value, word) in [
            ("level", 0.5.into(), "said once, as 'plant.level'"),
            ("house", "south".into(), "said once, as 'plant.house'"),
            ("plant.levle", 0.5.into(), "did you mean 'level'?"),
            ("plant.level", 5.0.into(), "between 0 and 2"),
        ] {
            let refused = store(&[(name, value)]).err().map(|error| error.to_string());
            assert!(
                refused.as_ref().is_some_and(|text| text.contains(word)),
                "{name}: {refused:?}"
            );
        }
        assert_eq!(
            own_key(SECTIONS, "sump", Some("plant"), "plant.level"),
            Some("plant.level")
        );
        let page = to_markdown::<Sump>().unwrap();
        assert!(
            page.contains("Reads of the section [plant](#plant): `pressure`, `level`."),
            "{page}"
        );
        assert!(!page.contains("| `plant."), "{page}");
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
