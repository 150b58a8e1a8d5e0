//! A first look at all images of a set, before any of them becomes a patch.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use hhnet::dataset::depth::Depth;
use hhnet::dataset::exposure::{ImageSummary, Seen, Verdict, judge};
use hhnet::dataset::pages::{self, MAX_PIXELS, Page};
use hhnet::estimate::patches::PATCH;
use hhnet::frame::Frame;
use rayon::prelude::*;

use super::table::{Row, Table, broken};

/// Reads one image.
pub(crate) fn open(folder: &Path, file: &str, page: Option<u32>) -> Result<Page> {
    let path = folder.join(file);
    let opened = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let page = page.map_or(0, |page| page.saturating_sub(1)) as usize;
    let page =
        pages::decode(BufReader::new(opened), page, MAX_PIXELS).map_err(|error| broken(&path, &error))?;
    ensure!(
        page.width >= PATCH && page.height >= PATCH,
        "image {} is {}x{}: at least {PATCH}x{PATCH} pixels are needed",
        path.display(),
        page.width,
        page.height
    );
    Ok(page)
}

/// The same as a frame of 8 bits.
pub(crate) fn frame(folder: &Path, file: &str, page: Option<u32>, depth: Depth) -> Result<Frame> {
    let page = open(folder, file, page)?;
    let (width, height) = (page.width, page.height);
    Ok(Frame::new(
        width,
        height,
        page.into_rgb(depth),
        hhnet::units::Instant::default(),
        0,
    )?)
}

/// The depth of a set by the largest value of all its images, unless it is known; None if all have 8 bits.
pub(crate) fn depth(table: &Table, folder: &Path, known: Option<u8>) -> Result<Option<Depth>> {
    if !table.is_deep {
        return Ok(None);
    }
    let largest_of = |row: &Row| -> Result<Option<u16>> { Ok(open(folder, &row.file, row.page)?.largest()) };
    let largest = table
        .rows
        .par_iter()
        .map(largest_of)
        .try_reduce(|| None, |one, other| Ok(one.max(other)))?;
    let Some(largest) = largest else {
        return Ok(None);
    };
    let depth = match known.and_then(|bits| Depth::known(bits.into())) {
        Some(depth) => depth,
        None => Depth::of(largest),
    };
    ensure!(
        largest <= depth.white(),
        "the images hold values up to {largest}, which {} bits cannot: give a larger --bits",
        depth.bits()
    );
    crate::say(format_args!(
        "16-bit images: their largest value is {largest}, so {} bits are taken for used and {} for white; give --bits if that is wrong",
        depth.bits(),
        depth.white()
    ));
    Ok(Some(depth))
}

/// Judges a set; the error says why it cannot teach.
pub(crate) fn look(table: &Table, folder: &Path, depth: Depth, min_contrast: f32) -> Result<Verdict> {
    let see = |row: &Row| -> Result<Seen> {
        Ok(Seen {
            name: row.name(),
            field: row.field.clone(),
            z_um: row.z_um,
            summary: ImageSummary::of(&frame(folder, &row.file, row.page, depth)?)?,
        })
    };
    let seen: Result<Vec<Seen>> = table.rows.par_iter().map(see).collect();
    Ok(judge(&seen?, min_contrast)?)
}
