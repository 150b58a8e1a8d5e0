//! The six parameter services of a node and `/parameter_events`, which r2r leaves without ranges, vetoes and events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use futures::StreamExt as _;
use r2r::QosProfile;
use r2r::rcl_interfaces::msg::{
    FloatingPointRange, IntegerRange, Parameter, ParameterDescriptor, ParameterEvent, ParameterType,
    ParameterValue, SetParametersResult,
};
use r2r::rcl_interfaces::srv::{
    DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters,
    SetParametersAtomically,
};
use serde_json::Value;
use tokio::sync::watch;

use super::{Declaration, Kind, Parameters, Store};
use crate::ros::arguments;
use crate::ros::clock::Clock;
use crate::ros::convert::to_time;
use crate::ros::node::{Builder, Publisher, busy_sentence, reply};

impl Builder {
    /// Declares the node's parameters and serves them; the receiver holds the values in force, and hears of changes to those
    /// that may change while the node runs. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Unknown or mistyped overrides, values out of range, each with a remedy.
    pub fn parameters<P: Parameters>(&mut self, clock: Clock) -> Result<watch::Receiver<P>> {
        let (name, overrides) = (format!("/{}", self.name()), &arguments::given().overrides);
        let shared = P::shared().map(|(section, _)| section);
        let store = Store::new(overrides.known, overrides.of(&name, P::SECTION, shared)?)?;
        overrides.came(&name);
        let values = store.subscribe();
        serve(self, store, clock)?;
        Ok(values)
    }
}

/// Serves a node's parameters.
fn serve<P: Parameters>(node: &mut Builder, store: Store<P>, clock: Clock) -> Result<()> {
    let qos = QosProfile::parameters;
    // A read that finds the queue full gets nothing, a change a reason.
    let mut describe =
        node.service_with::<DescribeParameters::Service>("~/describe_parameters", qos(), |_| {
            DescribeParameters::Response::default()
        })?;
    let mut get = node.service_with::<GetParameters::Service>("~/get_parameters", qos(), |_| {
        GetParameters::Response::default()
    })?;
    let mut types =
        node.service_with::<GetParameterTypes::Service>("~/get_parameter_types", qos(), |_| {
            GetParameterTypes::Response::default()
        })?;
    let mut list = node.service_with::<ListParameters::Service>("~/list_parameters", qos(), |_| {
        ListParameters::Response::default()
    })?;
    let mut set = node.service_with::<SetParameters::Service>("~/set_parameters", qos(), |request| {
        SetParameters::Response {
            results: vec![busy(); request.parameters.len()],
        }
    })?;
    let mut set_all =
        node.service_with::<SetParametersAtomically::Service>("~/set_parameters_atomically", qos(), |_| {
            SetParametersAtomically::Response { result: busy() }
        })?;
    let server = Server {
        store: Mutex::new(store),
        events: Mutex::new(node.publisher("/parameter_events", QosProfile::parameter_events())?),
        node: format!("/{}", node.name()),
        clock,
    };
    server.announce();
    let server = Arc::new(server);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                request = describe.next() => match request {
                    Some(request) => {
                        let descriptors = server.lock().describe(&request.message.names);
                        reply(request, DescribeParameters::Response { descriptors });
                    }
                    None => break,
                },
                Some(request) = get.next() => {
                    let values = server.lock().get(&request.message.names);
                    reply(request, GetParameters::Response { values });
                }
                Some(request) = types.next() => {
                    let values = server.lock().get(&request.message.names);
                    let types = values.iter().map(|value| value.type_).collect();
                    reply(request, GetParameterTypes::Response { types });
                }
                Some(request) = list.next() => {
                    let mut response = ListParameters::Response::default();
                    let ListParameters::Request { prefixes, depth } = &request.message;
                    (response.result.names, response.result.prefixes) = server.lock().list(prefixes, *depth);
                    reply(request, response);
                }
                Some(request) = set.next() => {
                    let one = |parameter| server.set(std::slice::from_ref(parameter));
                    let results = request.message.parameters.iter().map(one).collect();
                    reply(request, SetParameters::Response { results });
                }
                Some(request) = set_all.next() => {
                    let result = server.set(&request.message.parameters);
                    reply(request, SetParametersAtomically::Response { result });
                }
            }
        }
    });
    Ok(())
}

fn busy() -> SetParametersResult {
    SetParametersResult {
        successful: false,
        reason: busy_sentence(),
    }
}

struct Server<P> {
    store: Mutex<Store<P>>,
    events: Mutex<Publisher<ParameterEvent>>,
    /// Fully qualified name of the node.
    node: String,
    clock: Clock,
}

impl<P: Parameters> Server<P> {
    fn lock(&self) -> MutexGuard<'_, Store<P>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what there is, as nodes do when they start.
    fn announce(&self) {
        let new_parameters = self.lock().all();
        self.publish(ParameterEvent {
            new_parameters,
            ..ParameterEvent::default()
        });
    }

    fn set(&self, parameters: &[Parameter]) -> SetParametersResult {
        let changes: Vec<(String, Value)> = parameters
            .iter()
            .map(|parameter| (parameter.name.clone(), from_message(&parameter.value)))
            .collect();
        let mut store = self.lock();
        match store.set(&changes) {
            Ok(changed) => {
                let changed_parameters: Vec<Parameter> = store
                    .all()
                    .into_iter()
                    .filter(|p| changed.contains(&p.name))
                    .collect();
                drop(store);
                if !changed_parameters.is_empty() {
                    self.publish(ParameterEvent {
                        changed_parameters,
                        ..ParameterEvent::default()
                    });
                }
                SetParametersResult {
                    successful: true,
                    reason: String::new(),
                }
            }
            Err(error) => SetParametersResult {
                successful: false,
                reason: error.to_string(),
            },
        }
    }

    fn publish(&self, event: ParameterEvent) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.publish(&ParameterEvent {
            stamp: to_time(self.clock.now()),
            node: self.node.clone(),
            ..event
        });
    }
}

impl<P: Parameters> Store<P> {
    /// Descriptors in the order asked for; an empty one for a name nobody declared, as rclcpp answers.
    fn describe(&self, names: &[String]) -> Vec<ParameterDescriptor> {
        let one = |name: &String| {
            let declared = self.table.iter().find(|declared| declared.name == name);
            declared.map_or_else(
                || ParameterDescriptor {
                    name: name.clone(),
                    ..ParameterDescriptor::default()
                },
                descriptor,
            )
        };
        names.iter().map(one).collect()
    }

    fn get(&self, names: &[String]) -> Vec<ParameterValue> {
        let one = |name: &String| {
            let declared = self.table.iter().find(|declared| declared.name == name);
            declared
                .map(|declared| to_message(declared.kind, &self.values[name]))
                .unwrap_or_default()
        };
        names.iter().map(one).collect()
    }

    /// Names below the prefixes (all of them for none) with at most `depth` levels below them (0: any), and the prefixes the
    /// names have.
    fn list(&self, prefixes: &[String], depth: u64) -> (Vec<String>, Vec<String>) {
        let is_shallow = |rest: &str| depth == 0 || (rest.matches('.').count() as u64) < depth;
        let is_wanted = |name: &str| {
            let below = |prefix: &String| match name.strip_prefix(prefix.as_str()) {
                Some("") => true,
                Some(rest) => rest.strip_prefix('.').is_some_and(is_shallow),
                None => false,
            };
            prefixes.iter().any(below) || (prefixes.is_empty() && is_shallow(name))
        };
        let names: Vec<String> = self
            .table
            .iter()
            .map(|declared| declared.name.to_owned())
            .filter(|name| is_wanted(name))
            .collect();
        let mut found: Vec<String> = names
            .iter()
            .filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()))
            .collect();
        found.dedup();
        (names, found)
    }

    fn all(&self) -> Vec<Parameter> {
        let one = |declared: &Declaration| Parameter {
            name: declared.name.to_owned(),
            value: to_message(declared.kind, &self.values[declared.name]),
        };
        self.table.iter().map(one).collect()
    }
}

fn descriptor(declared: &Declaration) -> ParameterDescriptor {
    let mut descriptor = ParameterDescriptor {
        name: declared.name.to_owned(),
        type_: declared.kind.id(),
        description: declared.description.to_owned(),
        read_only: !declared.live,
        ..ParameterDescriptor::default()
    };
    if !declared.choices.is_empty() {
        descriptor.additional_constraints = format!("one of: {}", declared.choices.join(", "));
    }
    if !declared.unit.is_empty() {
        descriptor.additional_constraints = format!("unit: {}", declared.unit);
    }
    match (&declared.range, declared.kind.element()) {
        (Some(range), Kind::Integer) => descriptor.integer_range.push(IntegerRange {
            from_value: *range.start() as i64,
            to_value: *range.end() as i64,
            step: 1,
        }),
        (Some(range), _) => descriptor.floating_point_range.push(FloatingPointRange {
            from_value: *range.start(),
            to_value: *range.end(),
            step: 0.0,
        }),
        (None, _) => {}
    }
    descriptor
}

/// A value of this type as a message.
fn to_message(kind: Kind, value: &Value) -> ParameterValue {
    let mut message = ParameterValue {
        type_: kind.id(),
        ..ParameterValue::default()
    };
    let elements = value.as_array().map_or(&[][..], Vec::as_slice).iter();
    match kind {
        Kind::Bool => message.bool_value = value.as_bool().unwrap_or_default(),
        Kind::Integer => message.integer_value = value.as_i64().unwrap_or_default(),
        Kind::Double => message.double_value = value.as_f64().unwrap_or_default(),
        Kind::String => value
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut message.string_value),
        Kind::BoolArray => message.bool_array_value = elements.filter_map(Value::as_bool).collect(),
        Kind::IntegerArray => message.integer_array_value = elements.filter_map(Value::as_i64).collect(),
        Kind::DoubleArray => message.double_array_value = elements.filter_map(Value::as_f64).collect(),
        Kind::StringArray => {
            let strings = elements.filter_map(Value::as_str).map(str::to_owned);
            message.string_array_value = strings.collect();
        }
    }
    message
}

/// What a message holds; null if it is not set or not finite, which no parameter accepts.
fn from_message(message: &ParameterValue) -> Value {
    const BOOL: u8 = ParameterType::PARAMETER_BOOL as u8;
    const INTEGER: u8 = ParameterType::PARAMETER_INTEGER as u8;
    const DOUBLE: u8 = ParameterType::PARAMETER_DOUBLE as u8;
    const STRING: u8 = ParameterType::PARAMETER_STRING as u8;
    const BOOL_ARRAY: u8 = ParameterType::PARAMETER_BOOL_ARRAY as u8;
    const INTEGER_ARRAY: u8 = ParameterType::PARAMETER_INTEGER_ARRAY as u8;
    const DOUBLE_ARRAY: u8 = ParameterType::PARAMETER_DOUBLE_ARRAY as u8;
    const STRING_ARRAY: u8 = ParameterType::PARAMETER_STRING_ARRAY as u8;
    match message.type_ {
        BOOL => message.bool_value.into(),
        INTEGER => message.integer_value.into(),
        DOUBLE => message.double_value.into(),
        STRING => message.string_value.as_str().into(),
        BOOL_ARRAY => message.bool_array_value.as_slice().into(),
        INTEGER_ARRAY => message.integer_array_value.as_slice().into(),
        DOUBLE_ARRAY => message.double_array_value.as_slice().into(),
        STRING_ARRAY => message.string_array_value.as_slice().into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checked;
    use super::*;

    crate::parameters! {
        /// One of each type.
        Sampler in "camera" {
            /// A bool.
            on: bool = true,
            /// A whole number.
            count: i64 [0.0..=9.0] = 3,
            /// A number.
            height: f64 [0.0..=1.0, "m"] = 0.5,
            /// Text.
            text: String = "a",
            /// Bools.
            switches: Vec<bool> = vec![],
            /// Whole numbers.
            counts: Vec<i64> [0.0..=9.0] = vec![1, 2],
            /// Numbers.
            heights: Vec<f64> [0.0..=1.0, "m"] = vec![],
            /// Texts.
            texts: Vec<String> = vec![],
        }
    }

    impl Checked for Sampler {}

    #[test]
    fn every_type_comes_back_as_it_was_declared() {
        let store = Store::<Sampler>::new(&[], []).unwrap();
        for (declared, parameter) in store.table.iter().zip(store.all()) {
            let descriptor = descriptor(declared);
            assert_eq!(parameter.value.type_, declared.kind.id(), "{}", declared.name);
            assert_eq!(descriptor.type_, declared.kind.id(), "{}", declared.name);
            // An empty array keeps its type as well.
            let back = declared.kind.fit(&from_message(&parameter.value));
            assert_eq!(
                back.as_ref(),
                Some(&store.values[declared.name]),
                "{}",
                declared.name
            );
        }
        let ranges = store.describe(&["counts".to_owned(), "heights".to_owned()]);
        assert_eq!(ranges[0].integer_range[0].to_value, 9);
        assert_eq!(ranges[1].floating_point_range[0].to_value, 1.0);
        assert_eq!(ranges[1].additional_constraints, "unit: m");
    }

    #[test]
    fn lists_know_prefixes_and_depth() {
        let mut store = Store::<Sampler>::new(&[], []).unwrap();
        store.table = ["gain", "lamp.red", "lamp.red.low", "lamps"]
            .map(|name| Declaration::new(name, Kind::Bool, ""))
            .to_vec();
        let check = |prefixes: &[&str], depth: u64, names: &[&str], found: &[&str]| {
            let owned: Vec<String> = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
            let (listed, under) = store.list(&owned, depth);
            assert_eq!(
                (listed.as_slice(), under.as_slice()),
                (
                    names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>().as_slice(),
                    found.iter().map(|&n| n.to_owned()).collect::<Vec<_>>().as_slice()
                ),
                "{prefixes:?} {depth}"
            );
        };
        let all = ["gain", "lamp.red", "lamp.red.low", "lamps"];
        check(&[], 0, &all, &["lamp", "lamp.red"]);
        check(&[], 1, &["gain", "lamps"], &[]);
        check(&["lamp"], 1, &["lamp.red"], &["lamp"]);
        check(&["lamp"], 0, &["lamp.red", "lamp.red.low"], &["lamp", "lamp.red"]);
        check(&["lamps", "gain"], 1, &["gain", "lamps"], &[]);
    }
}
