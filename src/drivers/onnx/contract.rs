//! The model contract: names, types, shapes and metadata.

use std::path::Path;
use std::sync::Arc;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::OnnxError;
use crate::classes::{CLASSES, ClassEdges};
use crate::estimate::features::FEATURES;
use crate::estimate::network::ModelCard;
use crate::estimate::patches::PATCH;
use crate::estimate::temperature::{CONDENSER_EXPONENTS, CONDENSER_NA, CondenserLaw, VOTE_EXPONENT};

/// A tensor of the contract; the first axis, n, is in every one of them and free.
struct Tensor {
    name: &'static str,
    element: TensorElementType,
    /// The axes after the first.
    rest: &'static [usize],
}

const INPUTS: [Tensor; 2] = [
    Tensor {
        name: "patches",
        element: TensorElementType::Uint8,
        rest: &[PATCH, PATCH, 3],
    },
    Tensor {
        name: "handcrafted",
        element: TensorElementType::Float32,
        rest: &[FEATURES],
    },
];

const OUTPUTS: [Tensor; 3] = [
    Tensor {
        name: "probabilities",
        element: TensorElementType::Float32,
        rest: &[CLASSES],
    },
    Tensor {
        name: "defocus_um",
        element: TensorElementType::Float32,
        rest: &[],
    },
    Tensor {
        name: "log_variance",
        element: TensorElementType::Float32,
        rest: &[],
    },
];

impl Tensor {
    /// Whether the outlet is this tensor. A graph need not know the shapes of its outputs; they are tried out.
    fn is(&self, outlet: &Outlet) -> bool {
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return false;
        };
        let [first, rest @ ..] = &shape[..] else {
            return false;
        };
        let fits = rest.len() == self.rest.len()
            && rest
                .iter()
                .zip(self.rest)
                .all(|(&got, &wanted)| got == -1 || got == wanted as i64);
        outlet.name() == self.name && *ty == self.element && *first == -1 && fits
    }

    fn describe(&self) -> String {
        let rest: String = self.rest.iter().map(|side| format!(", {side}")).collect();
        format!("{} {} [n{rest}]", self.name, element_name(self.element))
    }
}

/// Refuses other inputs than the two, and outputs that lack one of the three.
pub(super) fn check(session: &Session, path: &Path) -> Result<(), OnnxError> {
    let (inputs, outputs) = (session.inputs(), session.outputs());
    let all_there = |needed: &[Tensor], found: &[Outlet]| {
        needed
            .iter()
            .all(|tensor| found.iter().any(|outlet| tensor.is(outlet)))
    };
    let wrong = |kind, needed: &[Tensor], found: &[Outlet]| OnnxError::Contract {
        path: path.into(),
        kind,
        found: list(found.iter().map(describe)),
        needed: list(needed.iter().map(Tensor::describe)),
    };
    if inputs.len() != INPUTS.len() || !all_there(&INPUTS, inputs) {
        return Err(wrong("inputs", &INPUTS, inputs));
    }
    if !all_there(&OUTPUTS, outputs) {
        return Err(wrong("outputs", &OUTPUTS, outputs));
    }
    Ok(())
}

fn list(entries: impl Iterator<Item = String>) -> String {
    entries.collect::<Vec<_>>().join(" and ")
}

fn describe(outlet: &Outlet) -> String {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return format!("{} (not a tensor)", outlet.name());
    };
    let sides: Vec<_> = shape
        .iter()
        .map(|&side| {
            if side < 0 {
                "?".to_owned()
            } else {
                side.to_string()
            }
        })
        .collect();
    format!("{} {} [{}]", outlet.name(), element_name(*ty), sides.join(", "))
}

/// Element types as numpy and ONNX call them.
fn element_name(element: TensorElementType) -> String {
    match element {
        TensorElementType::Float32 => "float32".to_owned(),
        TensorElementType::Float16 => "float16".to_owned(),
        TensorElementType::Float64 => "float64".to_owned(),
        TensorElementType::Uint8 => "uint8".to_owned(),
        TensorElementType::Int8 => "int8".to_owned(),
        TensorElementType::Int64 => "int64".to_owned(),
        other => other.to_string(),
    }
}

/// The model's card from its metadata.
pub(super) fn card(session: &Session, path: &Path, model_id: Arc<str>) -> Result<ModelCard, OnnxError> {
    let metadata = session.metadata().map_err(|error| OnnxError::Refused {
        path: path.into(),
        reason: super::one_line(&error.to_string()),
    })?;
    let text = |key| metadata.custom(key).unwrap_or_default();
    let required = |key, needed: &'static str| {
        let found = text(key);
        if found.is_empty() {
            Err(bad_entry(path, key, &found, needed))
        } else {
            Ok(found)
        }
    };
    let edges_text = text("hhnet_class_edges_um");
    let edges_needed = "the class edges in µm, a JSON array of four positive numbers that increase";
    let class_edges = edges(&edges_text)
        .ok_or_else(|| bad_entry(path, "hhnet_class_edges_um", &edges_text, edges_needed))?;
    let pixel_text = text("hhnet_pixel_size_um");
    let pixel_size_um = pixel_text
        .trim()
        .parse()
        .ok()
        .filter(|&side: &f64| side.is_finite() && side > 0.0);
    let pixel_size_um = pixel_size_um.ok_or_else(|| {
        bad_entry(
            path,
            "hhnet_pixel_size_um",
            &pixel_text,
            "the side of a pixel on the slide in µm",
        )
    })?;
    Ok(ModelCard {
        model_id,
        class_edges,
        objective: required("hhnet_objective", "the name of an objective, for example 40x0.65")?,
        pixel_size_um,
        training_set: text("hhnet_training_set"),
        scores: text("hhnet_scores"),
        range_um: optional(path, &text(RANGE.0), RANGE)?,
        vote_exponent: optional(path, &text(VOTE_EXPONENT_ENTRY.0), VOTE_EXPONENT_ENTRY)?,
        condenser: optional(path, &text(CONDENSER.0), CONDENSER)?,
        needs_colour: optional(path, &text(COLOUR.0), COLOUR)?.unwrap_or(true),
        whole_frames: optional(path, &text(WHOLE_FRAMES.0), WHOLE_FRAMES)?.unwrap_or(false),
    })
}

/// An entry that may be missing: its key, what it must be, and how it is read.
type Optional<T> = (&'static str, &'static str, fn(&str) -> Option<T>);

const RANGE: Optional<[f64; 2]> = (
    "hhnet_z_range_um",
    "the least and the largest defocus the model answers for in µm, a JSON array of a negative and a positive number",
    range,
);

const VOTE_EXPONENT_ENTRY: Optional<f64> = (
    // What the exponent is called in the files that ship; another key would make them models that do not say it.
    "hhnet_sharpness",
    "the exponent of the voted distribution, 0.1 to 10, as `hhnet evaluate --fit` fits it",
    vote_exponent,
);

const CONDENSER: Optional<CondenserLaw> = (
    "hhnet_condenser",
    "the condenser's aperture, and the exponents of its law above and below focus (-2 to 2), a JSON array of three numbers, as \
     `hhnet evaluate --fit` fits them",
    condenser,
);

const COLOUR: Optional<bool> = (
    "hhnet_colour",
    "`true` if the model tells the side of focus by colour, `false` if it was trained on grey images",
    |text| text.trim().parse().ok(),
);

const WHOLE_FRAMES: Optional<bool> = (
    "hhnet_whole_frames",
    "`true` if it must be given all patches of a frame at once, `false` if each is judged by itself",
    |text| text.trim().parse().ok(),
);

fn condenser(text: &str) -> Option<CondenserLaw> {
    let [na, above, below]: [f64; 3] = serde_json::from_str(text).ok()?;
    let exponents = [above, below];
    let sound = CONDENSER_NA.contains(&na)
        && exponents
            .iter()
            .all(|exponent| CONDENSER_EXPONENTS.contains(exponent));
    sound.then_some(CondenserLaw { na, exponents })
}

fn range(text: &str) -> Option<[f64; 2]> {
    let [least_um, most_um]: [f64; 2] = serde_json::from_str(text).ok()?;
    let sound = least_um.is_finite() && least_um < 0.0 && most_um > 0.0 && most_um.is_finite();
    sound.then_some([least_um, most_um])
}

fn vote_exponent(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value| VOTE_EXPONENT.contains(value))
}

/// The entry's value, None if there is none; one that makes no sense is refused.
fn optional<T>(path: &Path, text: &str, (key, needed, read): Optional<T>) -> Result<Option<T>, OnnxError> {
    if text.is_empty() {
        return Ok(None);
    }
    read(text)
        .map(Some)
        .ok_or_else(|| bad_entry(path, key, text, needed))
}

fn bad_entry(path: &Path, key: &'static str, found: &str, needed: &'static str) -> OnnxError {
    let found = if found.is_empty() {
        "nothing".to_owned()
    } else {
        format!("'{found}'")
    };
    OnnxError::Metadata {
        path: path.into(),
        key,
        found,
        needed,
    }
}

fn edges(text: &str) -> Option<ClassEdges> {
    let [in_focus_um, near_um, middle_um, far_um]: [f64; 4] = serde_json::from_str(text).ok()?;
    let sound = 0.0 < in_focus_um
        && in_focus_um < near_um
        && near_um < middle_um
        && middle_um < far_um
        && far_um.is_finite();
    sound.then_some(ClassEdges {
        in_focus_um,
        near_um,
        middle_um,
        far_um,
    })
}

/// Whether an entry says what is needed of its key; None for a key of which nothing is needed.
pub(super) fn makes_sense(key: &str, text: &str) -> Option<bool> {
    match key {
        "hhnet_class_edges_um" => Some(edges(text).is_some()),
        "hhnet_z_range_um" => Some(RANGE.2(text).is_some()),
        "hhnet_sharpness" => Some(VOTE_EXPONENT_ENTRY.2(text).is_some()),
        "hhnet_condenser" => Some(CONDENSER.2(text).is_some()),
        "hhnet_whole_frames" => Some(WHOLE_FRAMES.2(text).is_some()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_must_increase() {
        assert_eq!(edges("[0.7, 5, 11.4, 30]").unwrap().middle_um, 11.4);
        for text in [
            "",
            "[1, 2, 3]",
            "[1, 2, 3, 4, 5]",
            "[0, 1, 2, 3]",
            "[1, 3, 2, 4]",
            "[1, 2, 3, null]",
            "{}",
        ] {
            assert!(edges(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_range_lies_around_focus() {
        assert_eq!(range("[-65, 65.0]"), Some([-65.0, 65.0]));
        for text in ["", "65", "[65, -65]", "[0, 65]", "[-65, null]", "[-65, 65, 1]"] {
            assert_eq!(range(text), None, "{text}");
        }
    }

    #[test]
    fn a_vote_exponent_is_a_moderate_number() {
        assert_eq!(vote_exponent(" 1.5\n"), Some(1.5));
        for text in ["", "0", "11", "-1", "NaN", "inf", "sharp"] {
            assert_eq!(vote_exponent(text), None, "{text}");
        }
    }

    #[test]
    fn a_law_of_the_condenser_has_three_numbers() {
        let law = condenser("[0.4, -0.2, -0.65]").unwrap();
        assert_eq!((law.na, law.exponents), (0.4, [-0.2, -0.65]));
        for text in [
            "",
            "[0.4, -0.2]",
            "[0, -0.2, -0.6]",
            "[0.4, -3, 0]",
            "[0.4, null, 0]",
        ] {
            assert_eq!(condenser(text), None, "{text}");
        }
    }

    #[test]
    fn the_contract_reads_as_documented() {
        assert_eq!(
            list(INPUTS.iter().map(Tensor::describe)),
            "patches uint8 [n, 300, 300, 3] and handcrafted float32 [n, 18]"
        );
    }
}
