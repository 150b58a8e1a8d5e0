//! `hhnet calibrate FOLDER`: the report card of an instrument by a recorded z-stack.

mod output;
mod recording;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use hhnet::calibration::report::{self, Known};
use hhnet::drivers::calibration_file;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
use hhnet::estimate::network::Network as _;
use hhnet::objective::Objective;

use recording::Recording;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder with the images of one or more places through focus, as for `hhnet dataset ingest`.
    folder: PathBuf,
    /// CSV file with the columns file and z_um (up is positive); with stage_z_um, that is the stage's height instead. A column approach
    /// (from_below, from_above) tells the play of the drive, and x_um and y_um of places whose views overlap the pixel size. Looked for in the
    /// folder too.
    #[arg(long, default_value = "manifest.csv")]
    manifest: PathBuf,
    /// Objective the frames were taken with.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// ONNX model; the one that ships for the objective if left out.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Side of a pixel in the object plane, µm; from the column pixel_size_um if left out, else that of the model.
    #[arg(long)]
    pixel_size_um: Option<f64>,
    /// The stage counts heights downwards: turn the sign.
    #[arg(long)]
    flip_sign: bool,
    /// File of the instrument's calibration, which the nodes read (`microscope.calibration`): what was measured is put into it.
    #[arg(long)]
    into: Option<PathBuf>,
    /// Folder for card.json, card.md, looks.csv and the pictures; made if missing.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Threads of one inference.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Judges every frame, fits, prints the card.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let objective = Objective::by_name(&arguments.objective)?;
    let (model, threads) = (arguments.model.as_deref(), arguments.threads.into());
    let network = OnnxNetwork::for_objective(model, &objective.name, threads, "--model")?;
    let model = network.card().clone();
    let settings = ClassifierConfig::for_model(&model);
    let mut recording = Recording::open(arguments)?;
    let known = Known {
        depth_um: objective.depth_of_field_um(),
        model: model.model_id.to_string(),
        condenser: model.condenser,
        range_um: model.range_um,
        pixel_um: Some(recording.pixel_um(&model)),
        made: calibration_file::now(),
    };
    recording.judge(&mut Classifier::new(network, settings)?, &model)?;
    let moves = recording.moves(&known);
    let moves = moves.as_deref().map_err(|reason| format!("{reason:#}"));
    let card = report::card(
        &objective.name,
        &recording.passes,
        moves.as_ref().map(|moves| *moves).map_err(String::as_str),
        &known,
    );
    if let Some(folder) = &arguments.report {
        output::write(folder, &card, &recording.passes, &known)?;
    }
    if let Some(path) = &arguments.into {
        let rows = card.rows.clone().into_iter().collect();
        calibration_file::update(path, &objective.name, rows).context("the card is not in force")?;
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        write!(out, "{}", card.to_json())?;
    } else {
        write!(out, "{}", card.table())?;
    }
    Ok(())
}
