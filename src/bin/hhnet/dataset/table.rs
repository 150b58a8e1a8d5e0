//! The CSV file that says at which height each image of a z-stack was taken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

/// Relative difference of pixel sizes that is rounding.
const SAME_PIXEL: f64 = 1e-3;
/// File endings that are taken for images.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];

/// A line of the file.
#[derive(Deserialize)]
struct Line {
    file: String,
    z_um: f64,
    field: Option<String>,
    x_um: Option<f64>,
    y_um: Option<f64>,
    pixel_size_um: Option<f64>,
}

/// An image and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Name within the folder.
    pub(super) file: String,
    /// Defocus, µm; positive: the lens is too far.
    pub(super) z_um: f64,
    /// Name of the field of view.
    pub(super) field: String,
}

/// The whole file.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// Names of the fields; a field's number is its place.
    pub(super) fields: Vec<String>,
    /// Side of a pixel in the object plane, µm.
    pub(super) pixel_size_um: f64,
}

impl Table {
    /// Reads and checks the file; `pixel_size_um` may be left to a column of that name.
    pub(super) fn read(path: &Path, folder: &Path, pixel_size_um: Option<f64>) -> Result<Self> {
        let shown = path.display();
        let mut reader = csv::Reader::from_path(path).with_context(|| {
            format!("cannot read {shown}: give a CSV file with the columns file and z_um")
        })?;
        let (mut rows, mut size_um, mut seen) = (Vec::<Row>::new(), pixel_size_um, BTreeSet::new());
        for (number, line) in reader.deserialize::<Line>().enumerate() {
            // One for the header, one for counting from 1.
            let at = format!("{shown} line {}", number + 2);
            let line = line.with_context(|| {
                format!(
                    "{at}: each line needs a file and a number z_um; x_um, y_um and pixel_size_um are numbers or empty"
                )
            })?;
            ensure!(
                line.z_um.is_finite(),
                "{at}: z_um is {}, which is no height: give the defocus in µm, or take out the line",
                line.z_um
            );
            ensure!(
                folder.join(&line.file).is_file(),
                "{at}: there is no image {} in {}: correct its name, or take out the line",
                line.file,
                folder.display()
            );
            ensure!(
                seen.insert(line.file.clone()),
                "{at}: the image {} is named twice; keep one of the lines",
                line.file
            );
            size_um = same_size(size_um, line.pixel_size_um).with_context(|| at.clone())?;
            rows.push(Row {
                field: line.field(),
                z_um: line.z_um,
                file: line.file,
            });
        }
        ensure!(
            !rows.is_empty(),
            "{shown} names no image: give each a line with file and z_um"
        );
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
        let fields: BTreeSet<String> = rows.iter().map(|row| row.field.clone()).collect();
        ensure!(
            fields.len() >= 2,
            "{shown} names {} field of view: at least two are needed, one to learn from and one to score on; add a column field, \
             or name the files FIELD_zHEIGHT",
            fields.len()
        );
        Ok(Self {
            rows,
            fields: fields.into_iter().collect(),
            pixel_size_um,
        })
    }

    /// The number of a field.
    pub(super) fn number(&self, field: &str) -> usize {
        self.fields.partition_point(|name| name.as_str() < field)
    }

    /// Images of the folder that no line names.
    pub(super) fn unnamed(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let named: BTreeSet<PathBuf> = self.rows.iter().map(|row| folder.join(&row.file)).collect();
        let mut unnamed = Vec::new();
        for entry in folder
            .read_dir()
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            let ending = path
                .extension()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            if ENDINGS.contains(&ending.as_str()) && !named.contains(&path) {
                unnamed.push(path);
            }
        }
        unnamed.sort();
        Ok(unnamed)
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

impl Line {
    /// The field as the line names it, else its place, else the part of the file's name before its height.
    fn field(&self) -> String {
        let place = || Some(format!("{},{}", self.x_um?, self.y_um?));
        let named = self.field.clone().filter(|field| !field.is_empty());
        named
            .or_else(place)
            .or_else(|| before_height(&self.file).map(str::to_owned))
            .unwrap_or_else(|| "all".to_owned())
    }
}

/// What a file's name says before `z` and a number: `level1_iy000` of `level1_iy000_z+000.793um.png`.
fn before_height(file: &str) -> Option<&str> {
    let is_height = |(at, letter): &(usize, char)| {
        let number = file[at + 1..].trim_start_matches(['+', '-', '_', '=']);
        let apart = file[..*at].ends_with(['_', '-', ' ', '.']);
        letter.eq_ignore_ascii_case(&'z') && apart && number.starts_with(|c: char| c.is_ascii_digit())
    };
    let (at, _) = file.char_indices().rfind(is_height)?;
    let name = file[..at].trim_end_matches(['_', '-', ' ', '.']);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::before_height;

    #[test]
    fn names_lose_their_heights() {
        for (file, expected) in [
            ("level1_iy000_z+000.793um.png", Some("level1_iy000")),
            ("a_z-3.png", Some("a")),
            ("slide 7 Z12.tif", Some("slide 7")),
            ("zebra_z=1_z2.jpg", Some("zebra_z=1")),
            ("zebra_zoo.jpg", None),
            ("z3.png", None),
            ("field.png", None),
        ] {
            assert_eq!(before_height(file), expected, "{file}");
        }
    }
}
