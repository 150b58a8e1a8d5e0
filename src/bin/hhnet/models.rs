//! Where the models that ship lie.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// The model that ships, of the installed package or of the working directory.
pub(crate) fn shipped(objective: &str) -> Result<PathBuf> {
    let name = match objective {
        "40x0.65" => "models/hhnet_fast.onnx".to_owned(),
        other => format!("models/hhnet_fast_{other}.onnx"),
    };
    let prefixes = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    let installed = std::env::split_paths(&prefixes).map(|prefix| prefix.join("share/hhnet").join(&name));
    installed
        .chain([PathBuf::from(&name)])
        .find(|path| path.exists())
        .with_context(|| {
            format!("there is no {name} here: run from the package's folder, or name a model with --model")
        })
}
