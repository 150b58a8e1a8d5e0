//! `hhnet bench autofocus`: whole runs of the control laws beside those of other systems' methods, on the same virtual microscope.

mod output;
mod record;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::network::{ModelCard, Network as _};
use hhnet::evaluation::autofocus::content::Content;
use hhnet::evaluation::autofocus::method::Method;
use hhnet::evaluation::autofocus::strategy::Durations;
use hhnet::evaluation::autofocus::{Comparison, Trial, summary};
use hhnet::objective::Objective;
use indicatif::{ProgressBar, ProgressStyle};
use record::Recording;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Arguments {
    /// ONNX model; without it the one that ships for the objective.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Objective of the virtual microscope.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// Runs of each strategy, half of them from within 21 depths of field of focus (30 µm for the 40x).
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Strategies to run, by name, with commas; without it all of them.
    #[arg(long, value_delimiter = ',', value_parser = method)]
    strategies: Vec<Method>,
    /// Slides of each kind: dense, sparse, extremely sparse.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slides: u32,
    /// Seed of slides, starts and noise.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    seed: u64,
    /// Time of a decision, ms, instead of what it takes here: the same on every machine.
    #[arg(long, value_parser = milliseconds)]
    decision_ms: Option<f64>,
    /// The same for a classical measure of sharpness.
    #[arg(long, value_parser = milliseconds)]
    sharpness_ms: Option<f64>,
    /// Play between motor and lens, µm, 0 to 20.
    #[arg(long, default_value_t = 2.0, value_parser = play)]
    play_um: f64,
    /// Threads of one inference.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Folder for report.json, the runs, the responses and pictures of them; made if missing.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn method(text: &str) -> Result<Method, String> {
    let known = || Method::ALL.map(Method::name).join(", ");
    Method::by_name(text).ok_or_else(|| format!("choose of {}", known()))
}

fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, 0.1, 10_000.0)
}

fn play(text: &str) -> Result<f64, String> {
    number(text, 0.0, 20.0)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| format!("a number from {least} to {most} is needed"))
}

/// Records the fields, runs every strategy on them, prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let objective = Objective::by_name(&arguments.objective)?;
    let (model, threads) = (arguments.model.as_deref(), arguments.threads.into());
    let network = OnnxNetwork::for_objective(model, &objective.name, threads, "--model")?;
    let card = network.card().clone();
    let recording = record::record(network, &objective, arguments)?;
    let durations = Durations {
        decision: seconds(arguments.decision_ms.unwrap_or(recording.decision_ms)),
        sharpness: seconds(arguments.sharpness_ms.unwrap_or(recording.sharpness_ms)),
    };
    let comparison = Comparison {
        objective,
        runs: arguments.runs as usize,
        seed: arguments.seed,
        durations,
        play_um: arguments.play_um,
    };
    let methods = match &arguments.strategies[..] {
        [] => &Method::ALL[..],
        some => some,
    };
    let bar = progress(comparison.total(methods, &recording.responses), "runs")?;
    let trials = comparison.run(methods, &recording.responses, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let report = report(&comparison, &card, &recording, &trials);
    if let Some(folder) = &arguments.out {
        output::write(folder, &report, &recording.responses, &trials)?;
    }
    output::print(&report, arguments.json)
}

fn seconds(ms: f64) -> Duration {
    Duration::from_secs_f64(1e-3 * ms)
}

fn report(comparison: &Comparison, card: &ModelCard, recording: &Recording, trials: &[Trial]) -> Value {
    let depth_um = comparison.objective.depth_of_field_um();
    let covered = |content: Content| {
        let own = recording
            .responses
            .iter()
            .filter(|response| response.content() == content);
        let rows = own.map(|response| json!({"slide": response.slide(), "coverage": response.coverage()}));
        (content.name().to_owned(), rows.collect::<Vec<_>>().into())
    };
    json!({
        "machine": machine(),
        "model": *card.model_id,
        "objective": comparison.objective.name,
        "depth_of_field_um": depth_um,
        "seed": comparison.seed,
        "play_um": comparison.play_um,
        "decision_ms": 1e3 * comparison.durations.decision.as_secs_f64(),
        "decision_ms_measured": recording.decision_ms,
        "sharpness_ms": 1e3 * comparison.durations.sharpness.as_secs_f64(),
        "sharpness_ms_measured": recording.sharpness_ms,
        "fields": Content::ALL.into_iter().map(covered).collect::<serde_json::Map<_, _>>(),
        "strategies": summary::report(trials, depth_um),
    })
}

/// Processor and number of threads, as far as the system tells.
fn machine() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    format!(
        "{}, {threads} threads",
        name.map_or("unknown processor", str::trim)
    )
}

fn progress(of: usize, what: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template(&format!(
        "{{elapsed_precise}} {{bar:40}} {{pos}}/{{len}} {what}, {{eta}} to go"
    ))?;
    let bar = ProgressBar::new(of as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}
