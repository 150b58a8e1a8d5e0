//! `hhnet features IMAGE`: the 18 handcrafted features of an image file.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hhnet::estimate::features::{Handcrafted, crop_places};
use hhnet::frame::Frame;
use serde_json::{Map, Value, json};

/// Arguments of `hhnet features`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Image file (PNG, JPEG or TIFF); taken as 8-bit RGB.
    image: PathBuf,
    /// Seed of the places of the four correlated crops.
    #[arg(long, default_value_t = 0)]
    crop_seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Reads the image, prints its features.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let frame = open(&arguments.image)?;
    let started = Instant::now();
    let features = Handcrafted::of(&frame, arguments.crop_seed);
    let elapsed_ms = 1e3 * started.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", report(arguments, &frame, &features, elapsed_ms))?;
    } else {
        for (name, value) in Handcrafted::NAMES.iter().zip(features.values) {
            writeln!(out, "{name:>20}  {value}")?;
        }
    }
    Ok(())
}

fn report(arguments: &Arguments, frame: &Frame, features: &Handcrafted, elapsed_ms: f64) -> Value {
    let named = Handcrafted::NAMES
        .iter()
        .zip(features.values)
        .map(|(name, value)| ((*name).to_owned(), json!(value)));
    json!({
        "image": arguments.image.display().to_string(),
        "width": frame.width(),
        "height": frame.height(),
        "crop_seed": arguments.crop_seed,
        "crop_places": crop_places(frame.width(), frame.height(), arguments.crop_seed),
        "elapsed_ms": elapsed_ms,
        "features": named.collect::<Map<_, _>>(),
    })
}

#[cfg(feature = "camera")]
fn open(path: &std::path::Path) -> Result<Frame> {
    use anyhow::Context as _;
    use hhnet::dataset::depth::Depth;
    use hhnet::dataset::pages;

    let name = path.display();
    let file = std::fs::File::open(path)
        .with_context(|| format!("cannot read the image {name}: give a readable PNG, JPEG or TIFF file"))?;
    let mut file = std::io::BufReader::new(file);
    let unusable = |error| anyhow::anyhow!("{name} is not an image that can be used: {error}");
    let found = pages::describe(&mut file).map_err(unusable)?;
    anyhow::ensure!(
        found.count == 1,
        "{name} holds {} pages: give one of them as a file of its own",
        found.count
    );
    std::io::Seek::rewind(&mut file)?;
    let page = pages::decode(file, 0, pages::MAX_PIXELS).map_err(unusable)?;
    let depth = page.largest().map_or(Depth::of(0), Depth::of);
    let (width, height) = (page.width, page.height);
    let rgb = page.into_rgb(depth);
    Ok(Frame::new(
        width,
        height,
        rgb,
        hhnet::units::Instant::default(),
        0,
    )?)
}

#[cfg(not(feature = "camera"))]
fn open(path: &std::path::Path) -> Result<Frame> {
    anyhow::bail!(
        "cannot read {}: this hhnet was built without image files; build it with the feature 'camera'",
        path.display()
    )
}
