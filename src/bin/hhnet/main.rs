//! The command line.

#[cfg(feature = "onnx")]
mod bench;
#[cfg(feature = "onnx")]
mod calibrate;
mod dataset;
#[cfg(feature = "onnx")]
mod evaluate;
mod features;
#[cfg(feature = "serial")]
mod first_motion;
#[cfg(feature = "camera")]
mod flat_field;
#[cfg(feature = "onnx")]
mod metadata;
mod scan;
mod sim;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Signed single-image autofocus: the virtual microscope and its tools.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Frames of the virtual microscope.
    #[command(subcommand)]
    Sim(sim::Command),
    /// Scans of a slide: what one would be.
    #[command(subcommand)]
    Scan(scan::Command),
    /// Labelled patches for training and scoring.
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// The 18 handcrafted features of an image.
    Features(features::Arguments),
    /// Find out how a controller moves its stage, before it is driven for the first time.
    #[cfg(feature = "serial")]
    FirstMotion(first_motion::Arguments),
    /// Make a flat field from image files.
    #[cfg(feature = "camera")]
    FlatField(flat_field::Arguments),
    /// Measure an instrument by a recorded z-stack: focus, what the network makes of known heights, play, pixel size.
    #[cfg(feature = "onnx")]
    Calibrate(calibrate::Arguments),
    /// Score a model on labelled patches.
    #[cfg(feature = "onnx")]
    Evaluate(evaluate::Arguments),
    /// How long one decision takes.
    #[cfg(feature = "onnx")]
    Bench(bench::Arguments),
    /// Print or change what a model file says about itself.
    #[cfg(feature = "onnx")]
    Metadata(metadata::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error. The terminal may be gone, which is no reason to end in a panic.
fn say(line: std::fmt::Arguments) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Sim(command) => sim::run(command),
        Command::Scan(command) => scan::run(command),
        Command::Dataset(command) => dataset::run(command),
        Command::Features(arguments) => features::run(&arguments),
        #[cfg(feature = "serial")]
        Command::FirstMotion(arguments) => first_motion::run(&arguments),
        #[cfg(feature = "camera")]
        Command::FlatField(arguments) => flat_field::run(&arguments),
        #[cfg(feature = "onnx")]
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        #[cfg(feature = "onnx")]
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        #[cfg(feature = "onnx")]
        Command::Bench(arguments) => bench::run(&arguments),
        #[cfg(feature = "onnx")]
        Command::Metadata(arguments) => metadata::run(&arguments),
    }
}
