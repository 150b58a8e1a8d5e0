//! What is fixed about one parameter: name, type, unit, permitted values, whether it may change while the node runs.

use std::ops::RangeInclusive;

use r2r::rcl_interfaces::msg::ParameterType;
use serde_json::Value;

/// Types that ROS knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Integer,
    /// A number; a whole number serves as one.
    Double,
    /// Text.
    String,
    /// Any number of [`Kind::Bool`].
    BoolArray,
    /// Any number of [`Kind::Integer`].
    IntegerArray,
    /// Any number of [`Kind::Double`]; whole numbers serve.
    DoubleArray,
    /// Any number of [`Kind::String`].
    StringArray,
}

impl Kind {
    /// As `ros2 param describe` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::String => "string",
            Self::BoolArray => "boolean array",
            Self::IntegerArray => "integer array",
            Self::DoubleArray => "double array",
            Self::StringArray => "string array",
        }
    }

    /// Its number in `rcl_interfaces/ParameterType`.
    pub(super) fn id(self) -> u8 {
        match self {
            Self::Bool => ParameterType::PARAMETER_BOOL as u8,
            Self::Integer => ParameterType::PARAMETER_INTEGER as u8,
            Self::Double => ParameterType::PARAMETER_DOUBLE as u8,
            Self::String => ParameterType::PARAMETER_STRING as u8,
            Self::BoolArray => ParameterType::PARAMETER_BOOL_ARRAY as u8,
            Self::IntegerArray => ParameterType::PARAMETER_INTEGER_ARRAY as u8,
            Self::DoubleArray => ParameterType::PARAMETER_DOUBLE_ARRAY as u8,
            Self::StringArray => ParameterType::PARAMETER_STRING_ARRAY as u8,
        }
    }

    /// The type of an array's elements; a single value's own.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Bool | Self::BoolArray => Self::Bool,
            Self::Integer | Self::IntegerArray => Self::Integer,
            Self::Double | Self::DoubleArray => Self::Double,
            Self::String | Self::StringArray => Self::String,
        }
    }

    /// The value as this type; None if it is of another.
    pub(super) fn fit(self, given: &Value) -> Option<Value> {
        match self {
            Self::Bool => given.is_boolean().then(|| given.clone()),
            Self::Integer => given.is_i64().then(|| given.clone()),
            Self::Double => given.as_f64().map(Value::from),
            Self::String => given.is_string().then(|| given.clone()),
            Self::BoolArray | Self::IntegerArray | Self::DoubleArray | Self::StringArray => {
                let elements = given.as_array()?.iter().map(|value| self.element().fit(value));
                elements.collect::<Option<Vec<_>>>().map(Value::Array)
            }
        }
    }
}

/// A Rust type that can be a parameter.
pub trait Typed {
    /// Its type in ROS.
    const KIND: Kind;
    /// The texts it can be; empty for any.
    const CHOICES: &'static [&'static str] = &[];
}

macro_rules! typed {
    ($($rust:ty => $kind:ident, $array:ident;)*) => {
        $(
            impl Typed for $rust {
                const KIND: Kind = Kind::$kind;
            }
            impl Typed for Vec<$rust> {
                const KIND: Kind = Kind::$array;
            }
        )*
    };
}

typed! {
    bool => Bool, BoolArray;
    i64 => Integer, IntegerArray;
    f64 => Double, DoubleArray;
    String => String, StringArray;
}

/// What is fixed about one parameter; the default comes from the struct.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it means.
    pub description: &'static str,
    /// Unit of its value; empty for none.
    pub unit: &'static str,
    /// Permitted values of a number, or of each number in an array.
    pub range: Option<RangeInclusive<f64>>,
    /// Permitted texts; empty for any.
    pub choices: &'static [&'static str],
    /// Whether it may change while the node runs.
    pub live: bool,
}

impl Declaration {
    /// One that is read at start, without unit and range.
    pub fn new(name: &'static str, kind: Kind, description: &'static str) -> Self {
        Self {
            name,
            kind,
            description,
            unit: "",
            range: None,
            choices: &[],
            live: false,
        }
    }

    /// The same with the texts that are permitted.
    #[must_use]
    pub fn one_of(self, choices: &'static [&'static str]) -> Self {
        Self { choices, ..self }
    }

    /// The same with a permitted range.
    #[must_use]
    pub fn within(self, range: RangeInclusive<f64>) -> Self {
        Self {
            range: Some(range),
            ..self
        }
    }

    /// The same in a unit.
    #[must_use]
    pub fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// The same, changeable while the node runs.
    #[must_use]
    pub fn live(self) -> Self {
        Self { live: true, ..self }
    }

    /// The permitted texts as a list: `sim, folder or zstack`.
    pub(super) fn choices_text(&self) -> String {
        match self.choices {
            [] => String::new(),
            [only] => (*only).to_owned(),
            [all @ .., last] => format!("{} or {last}", all.join(", ")),
        }
    }

    /// The first number that lies outside the range, in an array or alone.
    pub(super) fn stray(&self, value: &Value) -> Option<f64> {
        let range = self.range.as_ref()?;
        let numbers = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut numbers = numbers.iter().filter_map(Value::as_f64);
        numbers.find(|number| !range.contains(number))
    }
}
