//! `hhnet bench --model M`: how long one decision takes.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
use hhnet::estimate::features::Handcrafted;
use hhnet::estimate::network::Network as _;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::statistics::{quantile, sorted};
use serde_json::json;

/// Frames decided before the clock counts: the runtime plans its memory on the first ones.
const WARM_UP: usize = 5;
/// Heights of the frames, depths of field: every distance index once.
const HEIGHTS_DEPTHS: [f64; 7] = [-6.0, -2.0, 0.1, 2.0, 5.0, 14.0, 30.0];

#[derive(Args)]
pub(crate) struct Arguments {
    /// ONNX model.
    #[arg(long)]
    model: PathBuf,
    /// Decisions to time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    frames: u32,
    /// Threads of one inference, and of the features.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Renders frames of the virtual microscope, decides each several times, prints the times.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let threads = usize::from(arguments.threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let network = OnnxNetwork::open(&arguments.model, threads)?;
    let (model_id, objective) = (network.card().model_id.clone(), network.card().objective.clone());
    let frames = frames(&objective)?;
    let settings = ClassifierConfig::for_model(network.card());
    let mut classifier = Classifier::new(network, settings)?;
    let decisions = pool.install(|| {
        times_ms(arguments.frames, |at| {
            let estimate = classifier.classify(&frames[at % frames.len()])?;
            ensure!(
                estimate.patches_used > 0,
                "a rendered frame holds no patch to judge: change the slide's seed"
            );
            Ok(())
        })
    })?;
    let features = pool.install(|| {
        times_ms(arguments.frames, |at| {
            std::hint::black_box(Handcrafted::of(&frames[at % frames.len()], 0));
            Ok(())
        })
    })?;
    let report = json!({
        "model": *model_id,
        "objective": objective,
        "threads": threads,
        "frames": arguments.frames,
        "decision_ms": quantiles(&decisions),
        "features_ms": quantiles(&features),
    });
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{report:#}")?;
    } else {
        let of = |times, part| quantile(times, part).unwrap_or_default();
        let (median, slow, features) = (of(&decisions, 0.5), of(&decisions, 0.99), of(&features, 0.5));
        writeln!(
            out,
            "{model_id}, {threads} threads: a decision takes {median:.1} ms (99 %: {slow:.1} ms), its features {features:.1} ms"
        )?;
    }
    Ok(())
}

fn frames(objective: &str) -> Result<Vec<Frame>> {
    let objective = Objective::by_name(objective)?;
    let depth_um = objective.depth_of_field_um();
    let mut microscope = Microscope::new(MicroscopeConfig {
        objective,
        ..MicroscopeConfig::default()
    })?;
    let MicroscopeConfig { width, height, .. } = *microscope.config();
    (0_u64..)
        .zip(HEIGHTS_DEPTHS)
        .map(|(sequence, depths)| {
            let rgb = microscope.expose_defocused(0.0, 0.0, depths * depth_um, sequence)?;
            Ok(Frame::new(
                width,
                height,
                rgb,
                hhnet::units::Instant::default(),
                sequence,
            )?)
        })
        .collect()
}

/// Sorted durations of `count` calls.
fn times_ms(count: u32, mut work: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for at in 0..count as usize + WARM_UP {
        let started = Instant::now();
        work(at)?;
        if at >= WARM_UP {
            times.push(1e3 * started.elapsed().as_secs_f64());
        }
    }
    Ok(sorted(times))
}

fn quantiles(sorted: &[f64]) -> serde_json::Value {
    let rounded = |part| quantile(sorted, part).map(|ms| (1000.0 * ms).round() / 1000.0);
    json!({ "p50": rounded(0.5), "p95": rounded(0.95), "p99": rounded(0.99) })
}
