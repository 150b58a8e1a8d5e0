//! Which model is meant where none is named: the one that ships for the objective.

use std::path::{Path, PathBuf};

use super::{OnnxError, OnnxNetwork};

impl OnnxNetwork {
    /// Opens a model for an objective (its name): the file `model`, or without it the one that ships. `setting` is what chooses a model where this
    /// is done, for the sentences: a parameter or an option.
    ///
    /// # Errors
    /// As for [`Self::open`] and [`Self::open_shipped`], and if no model ships for the objective, or the model is for another one.
    pub fn for_objective(
        model: Option<&Path>,
        objective: &str,
        threads: usize,
        setting: &'static str,
    ) -> Result<Self, OnnxError> {
        let (path, network) = match model {
            Some(path) => (path.to_owned(), Self::open(path, threads)?),
            None => {
                let path = shipped(objective, setting)?;
                let network = Self::open_shipped(&path, threads)?;
                (path, network)
            }
        };
        let trained_for = &network.card.objective;
        if trained_for == objective {
            return Ok(network);
        }
        Err(OnnxError::OtherObjective {
            path,
            trained_for: trained_for.clone(),
            objective: objective.to_owned(),
            setting,
        })
    }
}

/// The model that ships for an objective: of the installed package, or of the working directory.
fn shipped(objective: &str, setting: &'static str) -> Result<PathBuf, OnnxError> {
    let name = match objective {
        "40x0.65" => "models/hhnet_fast.onnx".to_owned(),
        other => format!("models/hhnet_fast_{other}.onnx"),
    };
    let prefixes = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    let installed = std::env::split_paths(&prefixes).map(|prefix| prefix.join("share/hhnet").join(&name));
    let found = installed.chain([PathBuf::from(&name)]).find(|path| path.exists());
    found.ok_or_else(|| OnnxError::NoneShips {
        objective: objective.to_owned(),
        name,
        setting,
    })
}
