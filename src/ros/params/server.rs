//! The six parameter services of a node and `/parameter_events`, which r2r leaves without ranges, vetoes and events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use futures::StreamExt as _;
use r2r::rcl_interfaces::msg::{
    FloatingPointRange, IntegerRange, Parameter, ParameterDescriptor, ParameterEvent, ParameterType,
    ParameterValue, SetParametersResult,
};
use r2r::rcl_interfaces::srv::{
    DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters,
    SetParametersAtomically,
};
use r2r::{Publisher, QosProfile};
use serde_json::Value;

use super::{Declaration, Parameters, Store};
use crate::ros::app::Clock;
use crate::ros::convert::to_time;
use crate::ros::node::Builder;

/// Serves a node's parameters. Must be called inside a tokio runtime, before the node spins.
pub(in crate::ros) fn serve<P: Parameters>(node: &mut Builder, store: Store<P>, clock: Clock) -> Result<()> {
    let mut describe = node.service::<DescribeParameters::Service>("~/describe_parameters")?;
    let mut get = node.service::<GetParameters::Service>("~/get_parameters")?;
    let mut types = node.service::<GetParameterTypes::Service>("~/get_parameter_types")?;
    let mut list = node.service::<ListParameters::Service>("~/list_parameters")?;
    let mut set = node.service::<SetParameters::Service>("~/set_parameters")?;
    let mut set_all = node.service::<SetParametersAtomically::Service>("~/set_parameters_atomically")?;
    let server = Server {
        store: Mutex::new(store),
        events: Mutex::new(node.publisher("/parameter_events", QosProfile::parameter_events())?),
        node: format!("/{}", node.name()),
        clock,
    };
    server.announce();
    let server = Arc::new(server);
    // Replies fail only while the node ends.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                request = describe.next() => match request {
                    Some(request) => {
                        let descriptors = server.lock().describe(&request.message.names);
                        drop(request.respond(DescribeParameters::Response { descriptors }));
                    }
                    None => break,
                },
                Some(request) = get.next() => {
                    let values = server.lock().get(&request.message.names);
                    drop(request.respond(GetParameters::Response { values }));
                }
                Some(request) = types.next() => {
                    let values = server.lock().get(&request.message.names);
                    let types = values.iter().map(|value| value.type_).collect();
                    drop(request.respond(GetParameterTypes::Response { types }));
                }
                Some(request) = list.next() => {
                    let mut response = ListParameters::Response::default();
                    response.result.names = server.lock().list(&request.message.prefixes);
                    drop(request.respond(response));
                }
                Some(request) = set.next() => {
                    let one = |parameter| server.set(std::slice::from_ref(parameter));
                    let results = request.message.parameters.iter().map(one).collect();
                    drop(request.respond(SetParameters::Response { results }));
                }
                Some(request) = set_all.next() => {
                    let result = server.set(&request.message.parameters);
                    drop(request.respond(SetParametersAtomically::Response { result }));
                }
            }
        }
    });
    Ok(())
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
        // Publishing fails only while the node ends.
        drop(events.publish(&ParameterEvent {
            stamp: to_time(self.clock.now()),
            node: self.node.clone(),
            ..event
        }));
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
                |declared| descriptor(declared, &self.values[name]),
            )
        };
        names.iter().map(one).collect()
    }

    fn get(&self, names: &[String]) -> Vec<ParameterValue> {
        let one = |name: &String| self.values.get(name).map(to_message).unwrap_or_default();
        names.iter().map(one).collect()
    }

    fn list(&self, prefixes: &[String]) -> Vec<String> {
        let wanted = |name: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| prefix == name);
        let names = self.table.iter().map(|declared| declared.name.to_owned());
        names.filter(|name| wanted(name)).collect()
    }

    fn all(&self) -> Vec<Parameter> {
        let one = |declared: &Declaration| Parameter {
            name: declared.name.to_owned(),
            value: to_message(&self.values[declared.name]),
        };
        self.table.iter().map(one).collect()
    }
}

fn descriptor(declared: &Declaration, value: &Value) -> ParameterDescriptor {
    let mut descriptor = ParameterDescriptor {
        name: declared.name.to_owned(),
        type_: to_message(value).type_,
        description: declared.description.to_owned(),
        read_only: !declared.live,
        ..ParameterDescriptor::default()
    };
    if let Some(range) = &declared.range {
        if value.is_f64() {
            descriptor.floating_point_range.push(FloatingPointRange {
                from_value: *range.start(),
                to_value: *range.end(),
                step: 0.0,
            });
        } else {
            descriptor.integer_range.push(IntegerRange {
                from_value: *range.start() as i64,
                to_value: *range.end() as i64,
                step: 1,
            });
        }
    }
    descriptor
}

fn to_message(value: &Value) -> ParameterValue {
    let mut message = ParameterValue::default();
    let kind = match value {
        Value::Bool(value) => {
            message.bool_value = *value;
            ParameterType::PARAMETER_BOOL as u8
        }
        Value::Number(value) if value.is_f64() => {
            message.double_value = value.as_f64().unwrap_or(f64::NAN);
            ParameterType::PARAMETER_DOUBLE as u8
        }
        Value::Number(value) => {
            message.integer_value = value.as_i64().unwrap_or(i64::MAX);
            ParameterType::PARAMETER_INTEGER as u8
        }
        Value::String(value) => {
            message.string_value.clone_from(value);
            ParameterType::PARAMETER_STRING as u8
        }
        Value::Array(values) => return array(values),
        Value::Null | Value::Object(_) => ParameterType::PARAMETER_NOT_SET as u8,
    };
    message.type_ = kind;
    message
}

/// An array of the type of its first element; an empty one counts as strings.
fn array(values: &[Value]) -> ParameterValue {
    let mut message = ParameterValue::default();
    message.type_ = match values.first() {
        Some(Value::Bool(_)) => {
            message.bool_array_value = values.iter().filter_map(Value::as_bool).collect();
            ParameterType::PARAMETER_BOOL_ARRAY as u8
        }
        Some(Value::Number(first)) if first.is_f64() => {
            message.double_array_value = values.iter().filter_map(Value::as_f64).collect();
            ParameterType::PARAMETER_DOUBLE_ARRAY as u8
        }
        Some(Value::Number(_)) => {
            message.integer_array_value = values.iter().filter_map(Value::as_i64).collect();
            ParameterType::PARAMETER_INTEGER_ARRAY as u8
        }
        _ => {
            let strings = values.iter().filter_map(Value::as_str).map(str::to_owned);
            message.string_array_value = strings.collect();
            ParameterType::PARAMETER_STRING_ARRAY as u8
        }
    };
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
