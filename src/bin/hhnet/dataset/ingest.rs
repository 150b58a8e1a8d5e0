//! `hhnet dataset ingest`: labelled patches from recorded z-stacks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hhnet::dataset::depth::Depth;
use hhnet::dataset::manifest::{Manifest, Recorded, RecordedImage, Shard};
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument, Label, Samples};
use hhnet::estimate::classifier::ClassifierConfig;
use hhnet::estimate::features::Handcrafted;
use hhnet::estimate::patches::{self, Grid};
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use indicatif::{ProgressBar, ProgressStyle};

use super::table::{Row, Table};
use super::{MANIFEST, SHARD_PATCHES, read_manifest, survey, write_manifest, write_shard};

#[derive(Args)]
pub(crate) struct Ingest {
    /// Folder with the images.
    folder: PathBuf,
    /// CSV file with the columns file and z_um (positive: the lens is too far), and if file names do not begin with their field
    /// of view (FIELD_z+3.5um.png) also field, or x_um and y_um. A TIFF of several pages needs a line for each, with a column page
    /// (counted from 1), or one line with the height of its first page if the file states the distances (ImageJ, OME). Looked for in
    /// the folder too; manifest.csv if left out.
    #[arg(long)]
    manifest: Option<PathBuf>,
    /// Side of a pixel in the object plane, µm; from the column pixel_size_um if left out.
    #[arg(long)]
    pixel_size_um: Option<f64>,
    /// Objective whose depth of field sets the class edges.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// Bits that 16-bit images use, 8 to 16; by the largest value of the whole set if left out.
    #[arg(long, value_parser = clap::value_parser!(u8).range(8..=16))]
    bits: Option<u8>,
    /// The stack counts heights downwards: turn the sign of z_um.
    #[arg(long)]
    flip_sign: bool,
    /// Field kept out of the training set, to be scored on; may be given several times. The last one if left out.
    #[arg(long)]
    hold_out: Vec<String>,
    /// Put every field into both sets, for a trainer that holds out one field after the other.
    #[arg(long, conflicts_with = "hold_out")]
    every_field: bool,
    /// Grids laid over each image of the training set: the centred one, then others moved as far to the corners as the
    /// image allows. With the eight flips and turns of the training, four make 32 views of each patch.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=5))]
    shifts: u8,
    /// Keep patches in which there is next to nothing, for a network that is shown whole frames.
    #[arg(long)]
    keep_blank: bool,
    /// Directory to write to; gets the sets train and val. FOLDER/dataset if left out.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on where an interrupted run on the same images stopped. Without it, sets that are there are replaced.
    #[arg(long)]
    resume: bool,
}

/// Where the grids lie within what an image has left over: half way, then the corners.
const CORNERS: [[f64; 2]; 5] = [[0.5, 0.5], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];

/// The sets, and whether each holds what is held out.
const SETS: [(&str, bool); 2] = [("train", false), ("val", true)];

pub(crate) fn run(ingest: &Ingest) -> Result<()> {
    let objective = Objective::by_name(&ingest.objective)?;
    let lines = Table::lines(&ingest.table())?;
    let out = ingest
        .out
        .clone()
        .unwrap_or_else(|| ingest.folder.join("dataset"));
    if !ingest.resume {
        SETS.iter().try_for_each(|(set, _)| remove(&out.join(set)))?;
    }
    let mut table = Table::of(&lines, &ingest.table(), &ingest.folder, ingest.pixel_size_um)?;
    table.check_fields(&ingest.table())?;
    if ingest.flip_sign {
        table.rows.iter_mut().for_each(|row| row.z_um = -row.z_um);
    }
    warn_of_unnamed(&table, &ingest.folder)?;
    held_out(ingest, &table.fields)?;
    let depth = look_first(ingest, &mut table)?;
    let held_out = held_out(ingest, &table.fields)?;
    let config = DatasetConfig {
        objective,
        instrument: Instrument::Randomised,
        slides: table.fields.len(),
        first_seed: 0,
        frames_per_slide: 1,
        frames_per_field: 1,
        patches_per_frame: 1,
        heights: Heights::Continuous,
        z_max_um: table.rows.iter().map(|row| row.z_um.abs()).fold(0.0, f64::max),
        blank: if ingest.keep_blank {
            Blank::Keep
        } else {
            Blank::Skip
        },
        jpeg_share: 0.0,
        empty: false,
    };
    let sets = SETS.map(|(set, wanted)| {
        let chosen = |row: &&Row| ingest.every_field || held_out.contains(&row.field) == wanted;
        let rows: Vec<&Row> = table.rows.iter().filter(chosen).collect();
        // A held-out image is judged as the classifier will see it.
        let shifts = if wanted { 1 } else { ingest.shifts.into() };
        (out.join(set), table.manifest(&config, &rows, shifts, depth))
    });
    for (set, manifest) in sets {
        write(ingest, &set, manifest)?;
    }
    crate::say(format_args!("the sets train and val are in {}", out.display()));
    Ok(())
}

/// Finds the depth of the images, says what is to be said of them, and leaves out fields with nothing in them.
fn look_first(ingest: &Ingest, table: &mut Table) -> Result<Option<Depth>> {
    let depth = survey::depth(table, &ingest.folder, ingest.bits)?;
    let least = ClassifierConfig::default().min_contrast;
    let verdict = survey::look(table, &ingest.folder, depth.unwrap_or(Depth::of(0)), least)?;
    for warning in table.warnings.iter().chain(&verdict.warnings) {
        crate::say(format_args!("warning: {warning}"));
    }
    for field in &verdict.blank_fields {
        crate::say(format_args!(
            "warning: field {field} is left out: all its patches are blank; is there a specimen in the light?"
        ));
        ensure!(
            !ingest.hold_out.contains(field),
            "field {field} cannot be held out: all its patches are blank"
        );
    }
    table.without(&verdict.blank_fields)?;
    Ok(depth)
}

impl Ingest {
    /// The CSV file: as named, else of that name in the folder.
    fn table(&self) -> PathBuf {
        let Some(named) = &self.manifest else {
            return self.folder.join("manifest.csv");
        };
        let inside = self.folder.join(named);
        if !named.exists() && inside.exists() {
            inside
        } else {
            named.clone()
        }
    }
}

impl Table {
    /// What the manifest of a set says before its first image is read.
    fn manifest(
        &self,
        config: &DatasetConfig,
        rows: &[&Row],
        shifts: usize,
        depth: Option<Depth>,
    ) -> Manifest {
        let image = |row: &&Row| RecordedImage {
            file: row.file.clone(),
            page: row.page,
            field: row.field.clone(),
            z_um: row.z_um,
        };
        // By field: a shard holds few of them.
        let mut images: Vec<RecordedImage> = rows.iter().map(image).collect();
        images.sort_by_key(|image| self.number(&image.field));
        Manifest {
            object_pixel_um: self.pixel_size_um,
            recorded: Some(Recorded {
                fields: self.fields.clone(),
                images,
                shifts,
                bits: depth.map(Depth::bits),
            }),
            ..Manifest::new(config)
        }
    }
}

fn warn_of_unnamed(table: &Table, folder: &Path) -> Result<()> {
    let unnamed = table.unnamed(folder)?;
    if let Some(first) = unnamed.first() {
        crate::say(format_args!(
            "warning: {} images have no line in the manifest and are left out, the first is {}",
            unnamed.len(),
            first.display()
        ));
    }
    Ok(())
}

fn held_out(ingest: &Ingest, fields: &[String]) -> Result<Vec<String>> {
    let known = || fields.join(", ");
    for name in &ingest.hold_out {
        ensure!(
            fields.contains(name),
            "there is no field '{name}' to hold out; there are {}",
            known()
        );
    }
    ensure!(
        ingest.hold_out.len() < fields.len(),
        "no field is left to learn from: hold out fewer of {}",
        known()
    );
    Ok(if ingest.hold_out.is_empty() {
        fields.last().cloned().into_iter().collect()
    } else {
        ingest.hold_out.clone()
    })
}

/// Removes a set: its manifest first, so that what is left is never read as whole, then the shards it was made of.
fn remove(set: &Path) -> Result<()> {
    let gone =
        |path: &Path| fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
    if set.join(MANIFEST).exists() {
        gone(&set.join(MANIFEST))?;
    }
    let Ok(entries) = set.read_dir() else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_shard = ["patches-", "handcrafted-", "labels-"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if is_shard && name.ends_with(".npy") {
            gone(&entry.path())?;
        }
    }
    Ok(())
}

/// The manifest to go on with: that of the interrupted run, if it was of the same images, or the new one.
fn begun(set: &Path, new: Manifest) -> Result<Manifest> {
    if !set.join(MANIFEST).exists() {
        return Ok(new);
    }
    let old = read_manifest(set)?;
    let same = old.config == new.config
        && old.recorded == new.recorded
        && old.object_pixel_um == new.object_pixel_um
        && old.label_columns == new.label_columns;
    ensure!(
        same,
        "{} was begun with other images, labels or options: leave out --resume to replace it",
        set.display()
    );
    Ok(old)
}

fn write(ingest: &Ingest, out: &Path, new: Manifest) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut manifest = begun(out, new)?;
    let recorded = manifest
        .recorded
        .clone()
        .context("the manifest names no images")?;
    let depth = recorded.bits.and_then(Depth::known).unwrap_or(Depth::of(0));
    let finished: usize = manifest.shards.iter().map(|shard| shard.frames).sum();
    let bar = ProgressBar::new(recorded.images.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} images, {eta} to go",
    )?);
    bar.set_position(finished as u64);
    let (mut samples, mut first) = (Samples::default(), finished);
    for (number, image) in recorded.images.iter().enumerate().skip(finished) {
        let field = recorded.fields.partition_point(|name| *name < image.field) as u64;
        let label = Label {
            defocus_um: image.z_um,
            slide: field,
            frame: number as u64,
            field,
            blank: false,
        };
        append(
            &mut samples,
            &survey::frame(&ingest.folder, &image.file, image.page, depth)?,
            label,
            recorded.shifts,
            manifest.config.blank,
        )?;
        bar.inc(1);
        if samples.labels.len() >= SHARD_PATCHES || number + 1 == recorded.images.len() {
            let shard = manifest.shards.len();
            write_shard(out, shard, &samples, &manifest.class_edges)?;
            manifest.shards.push(Shard {
                number: shard,
                frames: number + 1 - first,
                first_seed: 0,
                slides: 0,
                patches: samples.labels.len(),
                skipped_blank: samples.skipped,
                class_counts: samples.class_counts(&manifest.class_edges),
            });
            manifest.total();
            write_manifest(&manifest, out)?;
            (samples, first) = (Samples::default(), number + 1);
        }
    }
    bar.finish_and_clear();
    ensure!(
        manifest.patches > 0,
        "the images of {} hold nothing but blank patches: is there a specimen in the light?",
        out.display()
    );
    manifest.complete = true;
    write_manifest(&manifest, out)
}

/// All patches of an image that hold something, on `shifts` grids; with [`Blank::Keep`], the others as well.
fn append(samples: &mut Samples, frame: &Frame, label: Label, shifts: usize, blank: Blank) -> Result<()> {
    let (width, height) = (frame.width(), frame.height());
    let handcrafted = Handcrafted::of(frame, label.frame);
    let least = ClassifierConfig::default().min_contrast;
    let mut buffer = Vec::new();
    for corner in CORNERS.iter().take(shifts) {
        let grid = Grid::towards(width, height, *corner)?;
        let mut chosen = Vec::new();
        for (at, &origin) in grid.origins().iter().enumerate() {
            let label = Label {
                blank: patches::contrast(frame, origin) < least,
                ..label
            };
            if label.blank && blank == Blank::Skip {
                samples.skipped += 1;
            } else {
                chosen.push(at);
                samples.labels.push(label);
            }
        }
        samples
            .patches
            .extend(grid.extract_into(frame, &chosen, &mut buffer)?.iter());
        samples
            .handcrafted
            .extend(chosen.iter().map(|_| handcrafted.values));
    }
    Ok(())
}
