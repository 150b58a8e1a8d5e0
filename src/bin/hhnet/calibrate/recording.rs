//! A recorded folder: its passes through focus, and how far the picture moved between its places.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hhnet::calibration::focus_height::focus_height_um;
use hhnet::calibration::pass::{Approach, Look, Pass};
use hhnet::calibration::pixel_size::Moved;
use hhnet::calibration::report::Known;
use hhnet::calibration::shift::shift;
use hhnet::dataset::depth::Depth;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::Classifier;
use hhnet::estimate::network::ModelCard;
use hhnet::estimate::resample::{ALIKE, MENDABLE, to_model_pixels};
use hhnet::frame::Frame;
use indicatif::ProgressBar;

use super::Arguments;
use crate::dataset::survey;
use crate::dataset::table::{Row, Table};

/// Heights without which there is no pass.
const LEAST_HEIGHTS: usize = 8;
/// Part of a frame's side that places may lie apart and still tell a shift.
const OVERLAP: f64 = 0.6;
/// Least way between two places that tells a pixel, parts of a frame's side.
const LEAST_WAY: f64 = 0.02;

pub(super) struct Recording {
    folder: PathBuf,
    rows: Vec<Row>,
    depth: Depth,
    /// As the table or the command line says.
    stated_pixel_um: Option<f64>,
    pub(super) passes: Vec<Pass>,
}

impl Recording {
    /// Reads the table, and looks how many bits the images use.
    pub(super) fn open(arguments: &Arguments) -> Result<Self> {
        let inside = arguments.folder.join(&arguments.manifest);
        let path = if inside.exists() {
            inside
        } else {
            arguments.manifest.clone()
        };
        let lines = Table::lines(&path)?;
        let stated_pixel_um = arguments
            .pixel_size_um
            .or_else(|| lines.iter().find_map(|line| line.pixel_size_um));
        // What the table of a training set cannot do without, a card can.
        let size_um = stated_pixel_um.unwrap_or(1.0);
        let mut table = Table::of(&lines, &path, &arguments.folder, Some(size_um))?;
        if arguments.flip_sign {
            for row in &mut table.rows {
                row.stage_z_um = -row.stage_z_um;
                // What came from above in downward counts came from below.
                row.approach = row.approach.map(|approach| match approach {
                    Approach::FromBelow => Approach::FromAbove,
                    Approach::FromAbove => Approach::FromBelow,
                });
            }
        }
        let depth = survey::depth(&table, &arguments.folder, None)?;
        Ok(Self {
            folder: arguments.folder.clone(),
            rows: table.rows,
            depth: depth.unwrap_or(Depth::of(0)),
            stated_pixel_um,
            passes: Vec::new(),
        })
    }

    /// Side of a pixel as it is taken for granted, µm.
    pub(super) fn pixel_um(&self, model: &ModelCard) -> f64 {
        self.stated_pixel_um.unwrap_or(model.pixel_size_um)
    }

    /// Shows every frame to the network.
    pub(super) fn judge(
        &mut self,
        classifier: &mut Classifier<OnnxNetwork>,
        model: &ModelCard,
    ) -> Result<()> {
        let ratio = self.pixel_um(model) / model.pixel_size_um;
        if !MENDABLE.contains(&ratio) {
            bail!(
                "pixels of {} µm are {ratio:.2} times those of {}, and {} to {} times are mended: use a model for them",
                self.pixel_um(model),
                model.model_id,
                MENDABLE.start(),
                MENDABLE.end()
            );
        }
        let bar = ProgressBar::new(self.rows.len() as u64);
        let mut looks = Vec::new();
        for row in &self.rows {
            let frame = frame(&self.folder, row, self.depth)?;
            let frame = if ALIKE.contains(&ratio) {
                frame
            } else {
                to_model_pixels(&frame, [ratio; 2])?
            };
            let look = Look::of(row.stage_z_um, &frame, classifier);
            looks.push(look.with_context(|| format!("{} cannot be judged", row.name()))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.passes = passes(&self.rows, &looks);
        Ok(())
    }

    /// How far the picture moved from place to place, where views overlap.
    pub(super) fn moves(&self, known: &Known) -> Result<Vec<Moved>> {
        let views = self.views();
        let (first, others) = match views.split_first() {
            Some((first, others)) if !others.is_empty() => (first, others),
            _ => bail!("the table names no two places (x_um and y_um) whose views could overlap"),
        };
        let from = frame(&self.folder, first.1, self.depth)?;
        let side_um = known.pixel_um.unwrap_or(f64::NAN) * from.width().min(from.height()) as f64;
        let mut moves = Vec::new();
        let mut reason = None;
        for (place_um, row) in others {
            let stage_um = [0, 1].map(|axis| place_um[axis] - first.0[axis]);
            let way_um = stage_um[0].hypot(stage_um[1]);
            if !(LEAST_WAY * side_um..=OVERLAP * side_um).contains(&way_um) {
                continue;
            }
            match shift(&from, &frame(&self.folder, row, self.depth)?) {
                Ok(found) => moves.push(Moved {
                    stage_um,
                    shift_px: found.px,
                }),
                Err(error) => reason = Some(error),
            }
        }
        match (moves.is_empty(), reason) {
            (true, Some(reason)) => Err(reason.into()),
            (true, None) => bail!(
                "no two places of the table (x_um and y_um) lie so near to each other that their views overlap"
            ),
            (false, _) => Ok(moves),
        }
    }

    /// For each place the image nearest to focus.
    fn views(&self) -> Vec<([f64; 2], &Row)> {
        let focus_um = self
            .passes
            .iter()
            .find_map(|pass| Some(focus_height_um(pass).ok()?.value));
        let off_um = |row: &Row| {
            focus_um
                .map_or(row.z_um, |focus_um| row.stage_z_um - focus_um)
                .abs()
        };
        let mut views: Vec<([f64; 2], &Row)> = Vec::new();
        for row in &self.rows {
            let Some(place_um) = row.place_um else { continue };
            match views.iter_mut().find(|(place, _)| *place == place_um) {
                Some((_, best)) if off_um(row) < off_um(best) => *best = row,
                Some(_) => {}
                None => views.push((place_um, row)),
            }
        }
        views
    }
}

fn frame(folder: &Path, row: &Row, depth: Depth) -> Result<Frame> {
    survey::frame(folder, &row.file, row.page, depth)
}

/// Lines that follow each other with one field and one approach are a pass; where these are too short, all of one field and approach.
fn passes(rows: &[Row], looks: &[Look]) -> Vec<Pass> {
    let key = |at: usize| (rows[at].field.as_str(), rows[at].approach);
    let pass = |places: &[usize]| {
        let (field, approach) = key(places[0]);
        Pass {
            field: field.to_owned(),
            approach,
            looks: places.iter().map(|&at| looks[at]).collect(),
        }
    };
    let is_pass = |places: &[usize]| {
        let mut heights: Vec<f64> = places.iter().map(|&at| looks[at].z_um).collect();
        heights.sort_by(f64::total_cmp);
        heights.dedup();
        heights.len() >= LEAST_HEIGHTS
    };
    let mut together: Vec<usize> = (0..rows.len()).collect();
    together.sort_by_key(|&at| key(at));
    let mut passes = Vec::new();
    for group in together.chunk_by(|&one, &other| key(one) == key(other)) {
        // Apart by what stands between them in the table.
        let runs: Vec<&[usize]> = group.chunk_by(|&one, &other| other == one + 1).collect();
        if runs.iter().all(|run| is_pass(run)) {
            passes.extend(runs.into_iter().map(pass));
        } else if is_pass(group) {
            passes.push(pass(group));
        }
    }
    passes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn rows(of: &[(&str, Option<Approach>, usize)]) -> (Vec<Row>, Vec<Look>) {
        let row = |field: &str, approach: Option<Approach>, at: usize| Row {
            file: format!("{at}.png"),
            page: None,
            z_um: at as f64,
            field: field.to_owned(),
            place_um: None,
            stage_z_um: at as f64,
            approach,
        };
        let rows: Vec<Row> = of
            .iter()
            .flat_map(|&(field, approach, count)| (0..count).map(move |at| row(field, approach, at)))
            .collect();
        let look = |row: &Row| Look {
            z_um: row.stage_z_um,
            sharpness: None,
            estimate_um: None,
        };
        let looks = rows.iter().map(look).collect();
        (rows, looks)
    }

    #[test]
    fn passes_are_told_apart() {
        let (up, down) = (Some(Approach::FromBelow), Some(Approach::FromAbove));
        let found = |of: &[(&str, Option<Approach>, usize)]| -> Vec<(String, Option<Approach>, usize)> {
            let (rows, looks) = rows(of);
            let passes = passes(&rows, &looks).into_iter();
            passes
                .map(|pass| (pass.field, pass.approach, pass.looks.len()))
                .collect()
        };
        let a = |approach, count| ("a".to_owned(), approach, count);
        // In turn, then each height from both sides, then a field of one image.
        assert_eq!(
            found(&[("a", up, 9), ("a", down, 9), ("a", up, 8)]),
            [a(up, 9), a(up, 8), a(down, 9)]
        );
        let in_turn = [("a", up, 1), ("a", down, 1)].repeat(9);
        assert_eq!(found(&in_turn), [a(up, 9), a(down, 9)]);
        assert_eq!(found(&[("a", None, 10), ("b", None, 1)]), [a(None, 10)]);
    }
}
