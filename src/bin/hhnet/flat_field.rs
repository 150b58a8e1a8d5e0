//! `hhnet flat-field FRAMES`: a flat field from image files of any camera.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use hhnet::drivers::flat_field_file::{FlatFieldFile, Record};
use hhnet::drivers::image_files::read_all;
use hhnet::drivers::whole_file::write_whole;
use hhnet::estimate::flat_field::making;
use hhnet::frame::Frame;
use hhnet::pictures::preview::Picture;
use hhnet::units::Instant;
use image::codecs::png::PngEncoder;

/// Arguments of `hhnet flat-field`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Image files (PNG, JPEG or TIFF), 5 to 64: each of another place of the slide, all at the same height, far out of focus, with the
    /// same lamp and exposure as in use.
    #[arg(required = true)]
    frames: Vec<PathBuf>,
    /// File of the flat field, a PNG.
    #[arg(long)]
    out: PathBuf,
    /// PNG picture that shows dust and shading to people.
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Objective the frames were taken with, for example 40x0.65.
    #[arg(long)]
    objective: Option<String>,
    /// Print JSON instead of sentences.
    #[arg(long)]
    json: bool,
}

/// Reads the frames, writes the flat field, says how good it is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let images = read_all(&arguments.frames)?;
    let frame = |(sequence, image): (u64, image::RgbImage)| {
        let (width, height) = (image.width() as usize, image.height() as usize);
        Frame::new(width, height, image.into_raw(), Instant::default(), sequence)
    };
    let frames = (0..).zip(images).map(frame).collect::<Result<Vec<_>, _>>()?;
    let (flat, quality) = making::flat_field(&frames)?;
    let record = Record::new(&flat, &quality, arguments.objective.clone(), None);
    let file = FlatFieldFile { flat, record };
    file.write(&arguments.out)?;
    if let Some(path) = &arguments.picture {
        draw(&file, path)?;
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", serde_json::to_value(&file.record)?)?;
    } else {
        writeln!(out, "{}\n{}", arguments.out.display(), file.report())?;
    }
    Ok(())
}

fn draw(file: &FlatFieldFile, path: &Path) -> Result<()> {
    let Picture(picture) = Picture::of_flat_field(&file.flat);
    write_whole(path, |to| picture.write_with_encoder(PngEncoder::new(to))).with_context(|| {
        format!(
            "the picture cannot be written to {}: name a place that can be written to",
            path.display()
        )
    })
}
