//! The images of recorded z-stacks: the lines of their table, and the pages of the files these name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hhnet::calibration::pass::Approach;
use hhnet::dataset::pages::{self, Pages};
use hhnet::dataset::stack::{self, StackLine};
use hhnet::drivers::image_files::{holds_image, is_hidden};
use hhnet::drivers::whole_file::read_at_most;
use hhnet::table::MAX_BYTES;

/// Relative difference of pixel sizes that is rounding.
const SAME_PIXEL: f64 = 1e-3;

/// An image and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Name within the folder.
    pub(crate) file: String,
    /// Page of the file, counted from 1; none if it has but one.
    pub(crate) page: Option<u32>,
    /// Defocus, µm; positive: the lens is too far.
    pub(crate) z_um: f64,
    /// Name of the field of view.
    pub(crate) field: String,
    /// Middle of the image on the slide, µm, if the table says it.
    pub(crate) place_um: Option<[f64; 2]>,
    /// Height as the stage counts it, µm: the defocus where the table does not say it.
    pub(crate) stage_z_um: f64,
    /// From where the lens came, if the table says it.
    pub(crate) approach: Option<Approach>,
}

impl Row {
    /// The image for a message.
    pub(crate) fn name(&self) -> String {
        match self.page {
            Some(page) => format!("{} page {page}", self.file),
            None => self.file.clone(),
        }
    }
}

/// All images.
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    /// Names of the fields, in order; a field's number is its place.
    pub(crate) fields: Vec<String>,
    /// Side of a pixel in the object plane, µm.
    pub(crate) pixel_size_um: f64,
    /// Whether a file may need more than 8 bits.
    pub(crate) is_deep: bool,
    /// What is to be said of it.
    pub(crate) warnings: Vec<String>,
}

impl Table {
    /// Reads the lines of the table.
    pub(crate) fn lines(path: &Path) -> Result<Vec<StackLine>> {
        let shown = path.display();
        let bytes = read_at_most(path, MAX_BYTES as u64).with_context(|| {
            format!("cannot read {shown}: give a CSV file with the columns file and z_um")
        })?;
        let lines = stack::parse(&bytes).map_err(|error| anyhow!("{shown} {error}"))?;
        ensure!(
            !lines.is_empty(),
            "{shown} names no image: give each a line with file and z_um"
        );
        Ok(lines)
    }

    /// Checks the lines of the table at `path`, and the heads of the files they name; `pixel_size_um` may be left to a column of that
    /// name.
    pub(crate) fn of(
        lines: &[StackLine],
        path: &Path,
        folder: &Path,
        pixel_size_um: Option<f64>,
    ) -> Result<Self> {
        let shown = path.display();
        let mut size_um = pixel_size_um;
        for line in lines {
            let at = || format!("{shown} line {}", line.line);
            size_um = same_size(size_um, line.pixel_size_um).with_context(at)?;
        }
        let pixel_size_um = size_um.with_context(|| {
            format!(
                "{shown} has no column pixel_size_um: give --pixel-size-um (PIXEL_SIZE_UM for make), the side of a pixel in the \
                 object plane, µm"
            )
        })?;
        ensure!(
            pixel_size_um.is_finite() && pixel_size_um > 0.0,
            "the pixel size must be a positive number of µm, not {pixel_size_um}"
        );
        let mut table = Self {
            rows: Vec::new(),
            fields: Vec::new(),
            pixel_size_um,
            is_deep: false,
            warnings: Vec::new(),
        };
        table.take(lines, path, folder)?;
        table.number_fields();
        Ok(table)
    }

    /// Refuses a table of a single field, which cannot both teach and be scored on.
    pub(crate) fn check_fields(&self, path: &Path) -> Result<()> {
        ensure!(
            self.fields.len() >= 2,
            "{} names {} field of view: at least two are needed, one to learn from and one to score on; add a column field, \
             or name the files FIELD_zHEIGHT",
            path.display(),
            self.fields.len()
        );
        Ok(())
    }

    fn take(&mut self, lines: &[StackLine], path: &Path, folder: &Path) -> Result<()> {
        let mut files = BTreeMap::<&str, Pages>::new();
        let mut seen = BTreeSet::new();
        for line in lines {
            let at = format!("{} line {}", path.display(), line.line);
            let known = match files.get(line.file.as_str()) {
                Some(known) => known,
                None => files
                    .entry(&line.file)
                    .or_insert(describe(folder, &line.file, &at)?),
            };
            self.is_deep |= known.is_deep;
            for row in rows(line, known).with_context(|| at.clone())? {
                let name = row.name();
                // A file of one page may be named with that page or without.
                ensure!(
                    seen.insert((row.file.clone(), row.page.unwrap_or(1))),
                    "{at}: the image {name} is named twice; keep one of the lines"
                );
                self.rows.push(row);
            }
        }
        for (file, pages) in files {
            let named = seen.iter().filter(|(name, _)| name == file).count();
            if named < pages.count {
                self.warnings.push(format!(
                    "{} of the {} pages of {file} have no line and are left out",
                    pages.count - named,
                    pages.count
                ));
            }
        }
        Ok(())
    }

    fn number_fields(&mut self) {
        let fields: BTreeSet<String> = self.rows.iter().map(|row| row.field.clone()).collect();
        self.fields = fields.into_iter().collect();
    }

    /// Leaves out the images of some fields.
    pub(crate) fn without(&mut self, fields: &[String]) -> Result<()> {
        self.rows.retain(|row| !fields.contains(&row.field));
        self.number_fields();
        ensure!(
            self.fields.len() >= 2,
            "{} field of view is left, and at least two are needed: all patches of {} are blank; is there a specimen in the light?",
            self.fields.len(),
            fields.join(", ")
        );
        Ok(())
    }

    /// The number of a field.
    pub(crate) fn number(&self, field: &str) -> usize {
        self.fields.partition_point(|name| name.as_str() < field)
    }

    /// Images of the folder that no line names. Hidden files, which some systems put beside each other file, are no images.
    pub(crate) fn unnamed(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let named: BTreeSet<PathBuf> = self.rows.iter().map(|row| folder.join(&row.file)).collect();
        let mut unnamed = Vec::new();
        for entry in folder
            .read_dir()
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            if !is_hidden(&path) && path.is_file() && !named.contains(&path) && holds_image(&path) {
                unnamed.push(path);
            }
        }
        unnamed.sort();
        Ok(unnamed)
    }
}

fn describe(folder: &Path, file: &str, at: &str) -> Result<Pages> {
    let path = folder.join(file);
    ensure!(
        path.is_file(),
        "{at}: there is no image {file} in {}: correct its name, or take out the line",
        folder.display()
    );
    let opened = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    pages::describe(BufReader::new(opened)).map_err(|error| broken(&path, &error))
}

/// A file that is no image, by name.
pub(crate) fn broken(path: &Path, error: &pages::PageError) -> anyhow::Error {
    anyhow!(
        "image {} cannot be read ({error}): repair it or take out its line",
        path.display()
    )
}

/// The images a line names: one, or all pages of a file that states their heights. The line's height is then that of the first page.
fn rows(line: &StackLine, pages: &Pages) -> Result<Vec<Row>> {
    let row = |page: Option<u32>, z_um: f64| Row {
        file: line.file.clone(),
        page,
        z_um,
        field: line.field_name(),
        place_um: line.place_um,
        stage_z_um: line.stage_z_um.unwrap_or(line.z_um) + (z_um - line.z_um),
        approach: line.approach,
    };
    match line.page {
        Some(page) if page as usize > pages.count => {
            bail!("{} has no page {page}: it holds {}", line.file, pages.count)
        }
        Some(_) if pages.count == 1 => Ok(vec![row(None, line.z_um)]),
        Some(page) => Ok(vec![row(Some(page), line.z_um)]),
        None if pages.count == 1 => Ok(vec![row(None, line.z_um)]),
        None => match &pages.heights_um {
            Ok(heights_um) => Ok((1..)
                .zip(heights_um)
                .map(|(page, above_um)| row(Some(page), line.z_um + above_um))
                .collect()),
            Err(reason) => bail!(
                "{} holds {} pages, and {reason}: give each page a line of its own, with a column page, counted from 1",
                line.file,
                pages.count
            ),
        },
    }
}

/// One pixel size for all lines.
fn same_size(known: Option<f64>, stated: Option<f64>) -> Result<Option<f64>> {
    match (known, stated) {
        (Some(known_um), Some(um)) if (um / known_um - 1.0).abs() > SAME_PIXEL => {
            bail!("the pixel size {um} µm is not {known_um} µm; ingest images of one pixel size at a time")
        }
        _ => Ok(known.or(stated)),
    }
}
