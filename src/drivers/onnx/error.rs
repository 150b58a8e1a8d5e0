//! Why a model cannot be used.

use std::path::PathBuf;

/// A model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// No such file.
    #[error("there is no model {path}: give the path of an ONNX file, for example models/hhnet_fast.onnx")]
    Missing {
        /// Path of the model.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the model {path}: {source}; give the path of a readable file")]
    Unreadable {
        /// Path of the model.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, a device or a pipe.
    #[error("the model {path} is not a regular file: give the path of an ONNX file")]
    NotAFile {
        /// Path of the model.
        path: PathBuf,
    },
    /// More bytes than a model has.
    #[error("the model {path} is larger than {} MiB: give the path of an ONNX file for this package", super::MAX_BYTES >> 20)]
    TooLarge {
        /// Path of the model.
        path: PathBuf,
    },
    /// No model ships for the objective, or the package is not installed.
    #[error(
        "no model for objective {objective} is installed ({name}): build the package, or set {setting} to one that `make train` made"
    )]
    NoneShips {
        /// The objective.
        objective: String,
        /// The file that was looked for.
        name: String,
        /// What chooses a model.
        setting: &'static str,
    },
    /// A model for another objective.
    #[error(
        "model {path} is for objective {trained_for}, not {objective}: set {setting} to one trained for it (make train)"
    )]
    OtherObjective {
        /// Path of the model.
        path: PathBuf,
        /// The model's objective.
        trained_for: String,
        /// The objective in use.
        objective: String,
        /// What chooses a model.
        setting: &'static str,
    },
    /// Not the file that was released.
    #[error(
        "the model {path} is not the one that ships, a byte of it has changed: install the package again, or name the file in classifier.model if it is meant to be another"
    )]
    Changed {
        /// Path of the model.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error(
        "cannot write the model {path}: {source}; copy it to a folder you may write to, with room for it"
    )]
    Unwritable {
        /// Path of the model.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not an ONNX file.
    #[error("{path} is not an ONNX file or is cut short: copy or export the model again")]
    NotOnnx {
        /// Path of the model.
        path: PathBuf,
    },
    /// The weights are elsewhere.
    #[error(
        "model {path} keeps weights in another file: save it as one file (onnx.save without external data)"
    )]
    ExternalData {
        /// Path of the model.
        path: PathBuf,
    },
    /// ONNX Runtime's library cannot be loaded.
    #[error(
        "cannot load ONNX Runtime from {library} ({reason}): set ORT_DYLIB_PATH to libonnxruntime.so of version 1.{} or \
         newer",
        ort::MINOR_VERSION
    )]
    Runtime {
        /// The library that was tried.
        library: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// ONNX Runtime refuses the model.
    #[error(
        "ONNX Runtime cannot run the model {path}: {reason}; export it again, for an opset the runtime knows"
    )]
    Refused {
        /// Path of the model.
        path: PathBuf,
        /// What the runtime said.
        reason: String,
    },
    /// Other inputs or outputs than the contract's.
    #[error(
        "model {path} has the {kind} {found} but needs {needed}: export it with those names, types and shapes"
    )]
    Contract {
        /// Path of the model.
        path: PathBuf,
        /// `inputs` or `outputs`.
        kind: &'static str,
        /// What it has.
        found: String,
        /// What it needs.
        needed: String,
    },
    /// Metadata missing or senseless.
    #[error(
        "model {path} has {found} as metadata {key} but needs {needed}: add it when exporting (metadata_props)"
    )]
    Metadata {
        /// Path of the model.
        path: PathBuf,
        /// Name of the entry.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        needed: &'static str,
    },
}
