//! `hhnet dataset`: shards of labelled patches on disk.

mod ingest;
pub(crate) mod survey;
pub(crate) mod table;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use hhnet::classes::ClassEdges;
use hhnet::dataset::manifest::{Manifest, Shard};
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument, Label, Samples};
use hhnet::drivers::whole_file::write_whole;
use hhnet::estimate::features::FEATURES;
use hhnet::estimate::patches::PATCH;
use hhnet::objective::Objective;
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{ArrayView2, ArrayView4};
use ndarray_npy::WriteNpyExt as _;
use rayon::prelude::*;

/// Patches a shard holds, about: 140 MB.
const SHARD_PATCHES: usize = 512;
const MANIFEST: &str = "manifest.json";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Render labelled patches of the virtual microscope.
    Synth(Synth),
    /// Cut labelled patches from recorded z-stacks.
    Ingest(ingest::Ingest),
}

#[derive(Args)]
pub(crate) struct Synth {
    /// Directory to write to; made if missing.
    #[arg(long)]
    out: PathBuf,
    /// Number of slides.
    #[arg(long)]
    slides: usize,
    /// Seed of the first slide; the others follow it.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Frames of each slide; a multiple of 7 balances the classes exactly.
    #[arg(long, default_value_t = 7)]
    frames_per_slide: usize,
    /// Frames exposed at each place, at different heights.
    #[arg(long, default_value_t = 2)]
    frames_per_field: usize,
    /// Patches kept of each frame, at most.
    #[arg(long, default_value_t = 9)]
    patches_per_frame: usize,
    /// Heights: the middles of the seven classes, uniform within each, or uniform over the range.
    #[arg(long, value_enum, default_value_t = HeightsChoice::Continuous)]
    z: HeightsChoice,
    /// Largest defocus of either sign, µm.
    #[arg(long, default_value_t = 65.0)]
    z_max_um: f64,
    /// Objective.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// Share of the frames that come as a JPEG.
    #[arg(long, default_value_t = 0.2)]
    jpeg_share: f64,
    /// Leave out the specimen: empty glass, for a network to learn what it cannot judge.
    #[arg(long)]
    empty: bool,
    /// Keep patches of empty glass.
    #[arg(long)]
    keep_blank: bool,
    /// Go on where an interrupted run of the same configuration stopped.
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum HeightsChoice {
    Paper,
    Continuous,
    Uniform,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Synth(synth) => synthesise(&synth),
        Command::Ingest(ingest) => ingest::run(&ingest),
    }
}

fn synthesise(synth: &Synth) -> anyhow::Result<()> {
    let config = DatasetConfig {
        objective: Objective::by_name(&synth.objective)?,
        instrument: Instrument::Randomised,
        slides: synth.slides,
        first_seed: synth.first_seed,
        frames_per_slide: synth.frames_per_slide,
        frames_per_field: synth.frames_per_field,
        patches_per_frame: synth.patches_per_frame,
        heights: match synth.z {
            HeightsChoice::Paper => Heights::Paper,
            HeightsChoice::Continuous => Heights::Continuous,
            HeightsChoice::Uniform => Heights::Uniform,
        },
        z_max_um: synth.z_max_um,
        blank: if synth.keep_blank || synth.empty {
            Blank::Keep
        } else {
            Blank::Skip
        },
        jpeg_share: synth.jpeg_share,
        empty: synth.empty,
    };
    config.check()?;
    build(&config, &synth.out, synth.resume)
}

fn build(config: &DatasetConfig, out: &Path, resume: bool) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut manifest = start(config, out, resume)?;
    let slides_per_shard = (SHARD_PATCHES / (config.frames_per_slide * config.patches_per_frame)).max(1);
    let bar = ProgressBar::new((config.slides * config.frames_per_slide) as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} frames, {elapsed} of {duration}, {msg}",
    )?);
    for number in 0..config.slides.div_ceil(slides_per_shard) {
        let first = number * slides_per_shard;
        let slides = first..(first + slides_per_shard).min(config.slides);
        if manifest.shards.iter().any(|shard| shard.number == number)
            && files(out, number).iter().all(|f| f.is_file())
        {
            bar.inc((slides.len() * config.frames_per_slide) as u64);
            continue;
        }
        let samples = render(config, slides.clone(), &bar)?;
        write_shard(out, number, &samples, &manifest.class_edges)?;
        manifest.shards.retain(|shard| shard.number != number);
        manifest.shards.push(Shard {
            number,
            frames: slides.len() * config.frames_per_slide,
            first_seed: config.first_seed + first as u64,
            slides: slides.len(),
            patches: samples.labels.len(),
            skipped_blank: samples.skipped,
            class_counts: samples.class_counts(&manifest.class_edges),
        });
        manifest.total();
        bar.set_message(format!(
            "{} patches, {} blank passed over",
            manifest.patches, manifest.skipped_blank
        ));
        write_manifest(&manifest, out)?;
    }
    manifest.complete = true;
    write_manifest(&manifest, out)?;
    bar.abandon();
    Ok(())
}

/// The manifest to go on with: a new one, or that of the interrupted run.
fn start(config: &DatasetConfig, out: &Path, resume: bool) -> anyhow::Result<Manifest> {
    let path = out.join(MANIFEST);
    if !path.is_file() {
        return Ok(Manifest::new(config));
    }
    if !resume {
        bail!(
            "{} holds a data set: choose another directory, or --resume",
            out.display()
        );
    }
    let manifest = read_manifest(out)?;
    if manifest.config != *config
        || manifest.version != env!("CARGO_PKG_VERSION")
        || manifest.label_columns != Label::COLUMNS
    {
        bail!(
            "{} was begun with another configuration or version: choose another directory",
            out.display()
        );
    }
    Ok(manifest)
}

fn read_manifest(out: &Path) -> anyhow::Result<Manifest> {
    let path = out.join(MANIFEST);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Manifest::parse(&text).with_context(|| format!("{} is not a manifest", path.display()))
}

fn render(
    config: &DatasetConfig,
    slides: std::ops::Range<usize>,
    bar: &ProgressBar,
) -> anyhow::Result<Samples> {
    let fields: Vec<_> = slides.flat_map(|slide| config.fields(slide)).collect();
    let rendered: Result<Vec<Samples>, _> = fields
        .par_iter()
        .map(|field| {
            let samples = config.render(field);
            bar.inc(field.defocus_um.len() as u64);
            samples
        })
        .collect();
    let mut all = Samples::default();
    rendered?.into_iter().for_each(|samples| all.append(samples));
    Ok(all)
}

fn files(out: &Path, number: usize) -> [PathBuf; 3] {
    ["patches", "handcrafted", "labels"].map(|kind| out.join(format!("{kind}-{number:04}.npy")))
}

fn write_shard(out: &Path, number: usize, samples: &Samples, edges: &ClassEdges) -> anyhow::Result<()> {
    let [patches, handcrafted, labels] = files(out, number);
    let count = samples.labels.len();
    let pixels = ArrayView4::from_shape((count, PATCH, PATCH, 3), &samples.patches)?;
    save(&patches, |file| Ok(pixels.write_npy(file)?))?;
    let features = ArrayView2::from_shape((count, FEATURES), samples.handcrafted.as_flattened())?;
    save(&handcrafted, |file| Ok(features.write_npy(file)?))?;
    let rows: Vec<_> = samples.labels.iter().map(|label| label.row(edges)).collect();
    let columns = ArrayView2::from_shape((count, Label::COLUMNS.len()), rows.as_flattened())?;
    save(&labels, |file| Ok(columns.write_npy(file)?))
}

/// Writes a file of a set, whole.
fn save(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    write_whole(path, write).map_err(|error| {
        let path = path.display();
        anyhow!("cannot write {path} ({error}): free some space, then run this again with --resume")
    })
}

fn write_manifest(manifest: &Manifest, out: &Path) -> anyhow::Result<()> {
    save(&out.join(MANIFEST), |file| {
        Ok(serde_json::to_writer_pretty(file, manifest)?)
    })
}
