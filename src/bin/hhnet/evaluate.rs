//! `hhnet evaluate`: how well a model judges frames, rendered now or labelled patches on disk.

mod report;
mod shards;
mod slides;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::ClassifierConfig;
use hhnet::estimate::network::{ModelCard, Network as _};
use hhnet::estimate::temperature::fit_vote_exponent;
use hhnet::evaluation::scores::Scores;
use hhnet::evaluation::{JudgedFrame, condenser};
use hhnet::objective::Objective;
use hhnet::units::Micrometres;

#[derive(Args)]
pub(crate) struct Arguments {
    /// ONNX model.
    #[arg(long)]
    model: PathBuf,
    /// Folder of a data set (see `hhnet dataset`) to judge; without it, slides are rendered.
    #[arg(long, conflicts_with_all = ["slides", "seed", "shifted"])]
    data: Option<PathBuf>,
    /// Slides to render, seven frames each.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    slides: u32,
    /// Seed of the first slide; the others follow it. Training uses 1 and up, 100000, 200000 and 300000 and up.
    #[arg(long, default_value_t = 5_000_000)]
    seed: u64,
    /// Heights of the frames: continuous if left out, or what the data set's manifest says.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Optics, stain and density outside the ranges that training draws from.
    #[arg(long)]
    shifted: bool,
    /// Tell the classifier the aperture to which each instrument's condenser is set, as a lab that knows it does by the parameter
    /// `condenser_na`.
    #[arg(long, conflicts_with_all = ["data", "fit"])]
    tell_condenser: bool,
    /// Measure the aperture of each slide's condenser, or of each recorded field's, on its other frames and tell the classifier that:
    /// what a lab gains that records z-stacks. The report says what to set `condenser_na` to. An error that all frames of a recorded
    /// field share is taken for the condenser's as well.
    #[arg(long, conflicts_with_all = ["tell_condenser", "fit"])]
    measure_condenser: bool,
    /// Instead of scoring the model, fit to these frames how sure its votes may say they are and, unless they come from --data, how its
    /// heights depend on the condenser, and store that in its file. Score it on others.
    #[arg(long, conflicts_with_all = ["json", "report", "shifted"])]
    fit: bool,
    /// Threads of one inference.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Folder for report.json, report.md and its pictures; made if missing.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Seven separated heights, one in the middle of each class, as in the paper's data set.
    Paper,
    /// Any height of the range, all alike.
    Continuous,
    /// What must not be trusted: empty glass, lamp off, lamp nearly off, saturated camera, heights beyond the model's range.
    Blank,
}

impl Protocol {
    /// As on the command line and in the report.
    fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Continuous => "continuous",
            Self::Blank => "blank",
        }
    }
}

/// Opens the model, judges every frame, prints the scores.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut network = OnnxNetwork::open(&arguments.model, arguments.threads.into())?;
    let card = network.card().clone();
    if arguments.protocol == Some(Protocol::Blank) {
        ensure!(
            arguments.data.is_none(),
            "blank frames are rendered: leave out --data, or --protocol blank"
        );
        ensure!(
            !(arguments.tell_condenser || arguments.measure_condenser),
            "no height of a blank frame is scored: leave out --tell-condenser and --measure-condenser"
        );
        let report = slides::judge_blank(network, arguments)?;
        if let Some(folder) = &arguments.report {
            report::write_blank(folder, &report)?;
        }
        return print(&report, arguments.json);
    }
    ensure!(
        card.condenser.is_some() || !(arguments.tell_condenser || arguments.measure_condenser),
        "{} does not say how its heights depend on the condenser: leave out --tell-condenser and --measure-condenser, or fit it by \
         --fit on other slides",
        arguments.model.display()
    );
    let (protocol, source, mut frames) = match &arguments.data {
        Some(folder) => {
            let (heights, frames) = shards::judge(&mut network, folder)?;
            (
                arguments.protocol.unwrap_or(heights),
                folder.display().to_string(),
                frames,
            )
        }
        None => {
            let protocol = arguments.protocol.unwrap_or(Protocol::Continuous);
            let Arguments { slides, seed, .. } = arguments;
            let source = format!("{slides} slides rendered from seed {seed}");
            (protocol, source, slides::judge(network, arguments, protocol)?)
        }
    };
    let depth_um = Objective::by_name(&card.objective)
        .map_or(2.0 * card.class_edges.in_focus_um, |o| o.depth_of_field_um());
    let settings = ClassifierConfig::for_model(&card);
    if arguments.fit {
        return fit(&arguments.model, &card, &frames, depth_um);
    }
    let measured = match card.condenser {
        Some(law) if arguments.measure_condenser => {
            condenser::measure(&mut frames, law, &settings, depth_um)?
        }
        _ => serde_json::Value::Null,
    };
    let started = std::time::Instant::now();
    let scores = Scores::of(&frames, &settings, depth_um, move || started.elapsed())?;
    let mut report = scores.report();
    report["model"] = (*card.model_id).into();
    report["protocol"] = protocol.name().into();
    report["shifted"] = arguments.shifted.into();
    report["condenser_told"] = arguments.tell_condenser.into();
    report["condenser_na_measured"] = measured;
    report["source"] = source.into();
    if let Some(folder) = &arguments.report {
        report::write(folder, &report, &frames, &settings)?;
    }
    print(&report, arguments.json)
}

/// The patches may not be of another scale than the model's.
fn check_pixel(card: &ModelCard, pixel_um: f64, of: &str) -> Result<()> {
    ensure!(
        (pixel_um / card.pixel_size_um - 1.0).abs() < 0.01,
        "{} is for pixels of {} µm, those of {of} are {pixel_um} µm: judge a data set of the model's scale with --data",
        card.model_id,
        card.pixel_size_um
    );
    Ok(())
}

fn print(report: &serde_json::Value, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{report:#}")?);
    }
    for (name, value) in report.as_object().into_iter().flatten() {
        if name != "confusion" && name != "reliability" {
            writeln!(out, "{name:>28}  {value}")?;
        }
    }
    Ok(())
}

/// Fits the exponent of the votes and, where the condensers are known, their law, and writes both into the model.
fn fit(model: &Path, card: &ModelCard, frames: &[JudgedFrame], depth_um: f64) -> Result<()> {
    let settings = ClassifierConfig::for_model(card);
    let votes: Vec<_> = frames
        .iter()
        .filter_map(|frame| {
            let vote = settings
                .voting
                .count_votes(frame.patches.iter().map(|patch| &patch.probabilities))?;
            Some((
                vote.probabilities,
                settings.edges.classify(Micrometres(frame.z_um)),
            ))
        })
        .collect();
    let vote_exponent = fit_vote_exponent(&votes)
        .context("no frame holds a patch that could be judged: fit on slides with a specimen")?;
    let mut entries = vec![("hhnet_sharpness", format!("{vote_exponent:.3}"))];
    let law = condenser::fit(frames, &card.objective, &settings, depth_um);
    let missing = "not fitted (it needs rendered slides, 50 or more)";
    let condenser = law.map_or(missing.to_owned(), |law| {
        let [above, below] = law.exponents;
        format!("[{}, {above:.3}, {below:.3}]", law.na)
    });
    if law.is_some() {
        entries.push(("hhnet_condenser", condenser.clone()));
    }
    OnnxNetwork::set_metadata(model, &entries)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: exponent of the votes {vote_exponent:.3} (was {}), law of the condenser {condenser}, fitted to {} images and stored",
        model.display(),
        settings.vote_exponent,
        votes.len()
    )?;
    Ok(())
}
