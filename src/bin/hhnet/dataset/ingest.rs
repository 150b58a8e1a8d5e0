//! `hhnet dataset ingest`: labelled patches from z-stacks that somebody recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument, Samples};
use hhnet::drivers::image_files::{Pixels, read_image};
use hhnet::features::Handcrafted;
use hhnet::frame::Frame;
use hhnet::network::ClassifierConfig;
use hhnet::objective::Objective;
use hhnet::patches::{self, Grid};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::{Manifest, SHARD_PATCHES, Shard, write_shard};

/// Relative difference of pixel sizes that is rounding.
const SAME_PIXEL: f64 = 1e-3;

#[derive(Args)]
pub(crate) struct Ingest {
    /// Folder with the images.
    folder: PathBuf,
    /// CSV file with the columns file and z_um (positive: the lens is too far), and if there are several fields of view also
    /// field, or x_um and y_um; manifest.csv in the folder if left out.
    #[arg(long)]
    manifest: Option<PathBuf>,
    /// Side of a pixel in the object plane, µm.
    #[arg(long)]
    pixel_size_um: f64,
    /// Objective whose depth of field sets the class edges.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// The stack counts heights downwards: turn the sign of z_um.
    #[arg(long)]
    flip_sign: bool,
    /// Field kept out of the training set, to be scored on; may be given several times. The last one if left out.
    #[arg(long)]
    hold_out: Vec<String>,
    /// Grids laid over each image of the training set: the centred one, then others moved as far to the corners as the
    /// image allows. With the eight flips and turns of the training, four make 32 views of each patch.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=5))]
    shifts: u8,
    /// Directory to write to; gets the sets train and val.
    #[arg(long)]
    out: PathBuf,
}

/// Where the grids lie within what an image has left over: half way, then the corners.
const CORNERS: [[f64; 2]; 5] = [[0.5, 0.5], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];

/// A line of the manifest.
#[derive(Deserialize)]
struct Row {
    file: String,
    z_um: f64,
    field: Option<String>,
    x_um: Option<f64>,
    y_um: Option<f64>,
    pixel_size_um: Option<f64>,
}

impl Row {
    fn field(&self) -> String {
        match (&self.field, self.x_um, self.y_um) {
            (Some(field), ..) => field.clone(),
            (None, Some(x_um), Some(y_um)) => format!("{x_um},{y_um}"),
            _ => "all".to_owned(),
        }
    }
}

pub(crate) fn run(ingest: &Ingest) -> Result<()> {
    ensure!(
        ingest.pixel_size_um.is_finite() && ingest.pixel_size_um > 0.0,
        "--pixel-size-um must be a positive number, not {}",
        ingest.pixel_size_um
    );
    let objective = Objective::by_name(&ingest.objective)?;
    let fields = fields(ingest)?;
    let held_out = held_out(ingest, &fields)?;
    let z_max_um = fields
        .values()
        .flatten()
        .map(|row| row.z_um.abs())
        .fold(0.0, f64::max);
    for (set, wanted) in [("train", false), ("val", true)] {
        let chosen = fields
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| held_out.contains(name) == wanted);
        let config = DatasetConfig {
            objective: objective.clone(),
            instrument: Instrument::Randomised,
            slides: fields.len(),
            first_seed: 0,
            frames_per_slide: 1,
            frames_per_field: 1,
            patches_per_frame: 1,
            heights: Heights::Continuous,
            z_max_um,
            blank: Blank::Skip,
            jpeg_share: 0.0,
            empty: false,
        };
        let rows: Vec<(usize, &Row)> = chosen
            .flat_map(|(number, (_, rows))| rows.iter().map(move |row| (number, row)))
            .collect();
        // A held-out image is judged as the classifier will see it.
        let shifts = if wanted { 1 } else { ingest.shifts.into() };
        write(ingest, &config, &ingest.out.join(set), &rows, shifts)?;
    }
    Ok(())
}

/// The rows of the manifest by field.
fn fields(ingest: &Ingest) -> Result<BTreeMap<String, Vec<Row>>> {
    let path = ingest
        .manifest
        .clone()
        .unwrap_or_else(|| ingest.folder.join("manifest.csv"));
    let mut reader = csv::Reader::from_path(&path).with_context(|| {
        format!(
            "cannot read {}: give a CSV file with the columns file and z_um",
            path.display()
        )
    })?;
    let mut fields = BTreeMap::<String, Vec<Row>>::new();
    for (number, row) in reader.deserialize::<Row>().enumerate() {
        // One for the header, one for counting from 1.
        let line = number + 2;
        let mut row = row.with_context(|| {
            format!(
                "{} line {line}: each line needs a file and a number z_um",
                path.display()
            )
        })?;
        ensure!(
            row.z_um.is_finite(),
            "{} line {line}: z_um is {}, which is no height",
            path.display(),
            row.z_um
        );
        if let Some(size_um) = row.pixel_size_um
            && (size_um / ingest.pixel_size_um - 1.0).abs() > SAME_PIXEL
        {
            bail!(
                "{} line {line}: the pixel size {size_um} µm is not {} µm; ingest images of one pixel size at a time",
                path.display(),
                ingest.pixel_size_um
            );
        }
        if ingest.flip_sign {
            row.z_um = -row.z_um;
        }
        fields.entry(row.field()).or_default().push(row);
    }
    ensure!(
        fields.len() >= 2,
        "{} names {} field of view: at least two are needed, one to learn from and one to score on; add a column field",
        path.display(),
        fields.len()
    );
    Ok(fields)
}

fn held_out(ingest: &Ingest, fields: &BTreeMap<String, Vec<Row>>) -> Result<Vec<String>> {
    let known = || fields.keys().cloned().collect::<Vec<_>>().join(", ");
    for name in &ingest.hold_out {
        ensure!(
            fields.contains_key(name),
            "there is no field '{name}' to hold out; there are {}",
            known()
        );
    }
    ensure!(
        ingest.hold_out.len() < fields.len(),
        "no field is left to learn from: hold out fewer of {}",
        known()
    );
    let last = || fields.keys().next_back().cloned().into_iter().collect();
    Ok(if ingest.hold_out.is_empty() {
        last()
    } else {
        ingest.hold_out.clone()
    })
}

fn write(
    ingest: &Ingest,
    config: &DatasetConfig,
    out: &Path,
    rows: &[(usize, &Row)],
    shifts: usize,
) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut manifest = Manifest {
        object_pixel_um: ingest.pixel_size_um,
        ..Manifest::new(config)
    };
    let bar = ProgressBar::new(rows.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} images, {eta} to go",
    )?);
    let mut samples = Samples::default();
    for (frame_number, (field, row)) in rows.iter().enumerate() {
        let label = [row.z_um as f32, *field as f32, frame_number as f32];
        append(&mut samples, &ingest.folder.join(&row.file), label, shifts)?;
        bar.inc(1);
        if samples.labels.len() >= SHARD_PATCHES || frame_number + 1 == rows.len() {
            let number = manifest.shards.len();
            write_shard(out, number, &samples)?;
            manifest.shards.push(Shard {
                number,
                first_seed: 0,
                slides: 0,
                patches: samples.labels.len(),
                skipped_blank: samples.skipped,
                class_counts: samples.class_counts(&manifest.class_edges),
            });
            samples = Samples::default();
        }
    }
    bar.finish_and_clear();
    manifest.total();
    ensure!(
        manifest.patches > 0,
        "the images of {} hold nothing but blank patches: is there a specimen in the light?",
        out.display()
    );
    manifest.complete = true;
    manifest.write(out)
}

/// All patches of an image that hold something, on `shifts` grids.
fn append(samples: &mut Samples, path: &Path, label: [f32; 3], shifts: usize) -> Result<()> {
    let Pixels { width, height, rgb } = read_image(path)?;
    let frame = Frame::new(width, height, rgb, hhnet::units::Instant::default(), 0)?;
    let handcrafted = Handcrafted::of(&frame, label[2] as u64);
    let least = ClassifierConfig::default().min_contrast;
    let mut buffer = Vec::new();
    for corner in CORNERS.iter().take(shifts) {
        let grid = Grid::towards(width, height, *corner)?;
        let (chosen, blank): (Vec<usize>, Vec<usize>) =
            (0..grid.origins().len()).partition(|at| patches::contrast(&frame, grid.origins()[*at]) >= least);
        samples.skipped += blank.len();
        samples
            .patches
            .extend(grid.extract_into(&frame, &chosen, &mut buffer)?.iter());
        samples
            .handcrafted
            .extend(chosen.iter().map(|_| handcrafted.values));
        samples.labels.extend(chosen.iter().map(|_| label));
    }
    Ok(())
}
