//! `hhnet metadata`: what a model file says about itself.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hhnet::drivers::onnx::OnnxNetwork;
use serde_json::Value;

#[derive(Args)]
pub(crate) struct Arguments {
    /// ONNX model.
    #[arg(long)]
    model: PathBuf,
    /// Entries to write, KEY=VALUE, in place of any of the same keys: hhnet_class_edges_um, hhnet_objective, hhnet_pixel_size_um,
    /// hhnet_training_set, hhnet_scores, hhnet_z_range_um, hhnet_sharpness, hhnet_condenser, hhnet_colour. VALUE may be @FILE, whose
    /// content is taken.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Writes the entries given, then prints all of them as JSON.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let entries = arguments.set.iter().map(|text| entry(text));
    let entries: Vec<(&str, String)> = entries.collect::<Result<_>>()?;
    if !entries.is_empty() {
        OnnxNetwork::set_metadata(&arguments.model, &entries)?;
    }
    let all: serde_json::Map<_, _> = OnnxNetwork::metadata(&arguments.model)?
        .into_iter()
        .map(|(key, value)| (key, Value::String(value)))
        .collect();
    Ok(writeln!(std::io::stdout().lock(), "{:#}", Value::Object(all))?)
}

fn entry(text: &str) -> Result<(&str, String)> {
    let (key, value) = text
        .split_once('=')
        .with_context(|| format!("'{text}' is no entry: write KEY=VALUE"))?;
    ensure!(
        key.starts_with("hhnet_"),
        "the key '{key}' is not one of this package's: they begin with hhnet_"
    );
    let value = match value.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {file}: name a text file after the @"))?
            .trim()
            .to_owned(),
        None => value.to_owned(),
    };
    Ok((key, value))
}
