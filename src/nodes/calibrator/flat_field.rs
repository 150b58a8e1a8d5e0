//! The flat field: frames of many places, taken out of focus.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use image::codecs::png::PngEncoder;
use r2r::hhnet::action::Calibrate;

use super::tour::{End, Start, Tour};
use super::{CalibratorParameters, Handle, Outcome, limits_um};
use crate::calibration::places::places;
use crate::drivers::flat_field_file::{FlatFieldFile, Record};
use crate::drivers::whole_file::write_whole;
use crate::estimate::flat_field::making;
use crate::frame::Frame;
use crate::objective::Objective;
use crate::pictures::preview::Picture;

/// How far the lens is raised for a flat field unless a parameter says otherwise, depths of field: 60 µm at 40x/0.65.
const HEIGHT_DEPTHS: f64 = 42.0;
/// Least of that, where the upper limit is near, depths of field.
const LEAST_HEIGHT_DEPTHS: f64 = 21.0;
/// How far the stage goes in x and y unless the goal says otherwise, µm under a lens that magnifies once: places lie apart by as much as a
/// frame of 2048 pixels is wide.
const REACH_UM: f64 = 20_000.0;
/// Least of that: nearer to each other, places show the same specimen, which no median leaves out.
const LEAST_REACH_UM: f64 = 8_000.0;
/// A flat field to be measured.
pub(super) struct Plan {
    path: PathBuf,
    objective: String,
    /// Farthest the stage goes, µm.
    reach_um: f64,
    /// Least and wanted height above where the lens stands, µm.
    heights_um: [f64; 2],
    settle: Duration,
    limits_um: [(f64, f64); 3],
}

pub(super) fn plan(goal: &Calibrate::Goal, parameters: &CalibratorParameters) -> Result<Plan> {
    let microscope = &parameters.microscope;
    ensure!(
        !microscope.flat_field.is_empty(),
        "there is no place for the flat field: name its file in microscope.flat_field, for the calibrator and for the classifier"
    );
    let objective = Objective::by_name(&microscope.objective)?;
    let least = 1e-6 * LEAST_REACH_UM / objective.magnification;
    ensure!(
        goal.reach == 0.0 || (least..=0.1).contains(&goal.reach),
        "reach is {} m: give {least:.6} to 0.1, or 0 for as far as the objective needs",
        goal.reach
    );
    let depth_um = objective.depth_of_field_um();
    let height_um = match parameters.height * 1e6 {
        0.0 => HEIGHT_DEPTHS * depth_um,
        height_um => height_um,
    };
    Ok(Plan {
        path: PathBuf::from(&microscope.flat_field),
        objective: microscope.objective.clone(),
        reach_um: match goal.reach * 1e6 {
            0.0 => REACH_UM / objective.magnification,
            reach_um => reach_um,
        },
        heights_um: [height_um.min(LEAST_HEIGHT_DEPTHS * depth_um), height_um],
        settle: Duration::from_secs_f64(parameters.settle),
        limits_um: limits_um(microscope),
    })
}

/// Takes frames, makes the flat field, and puts it in force; what there is to say of it.
pub(super) async fn calibrate(plan: &Plan, tour: &mut Tour, handle: &Handle) -> Result<Outcome, End> {
    let start = tour.start()?;
    let [x_um, y_um, z_um] = start.position_um;
    let places = places(
        [x_um, y_um],
        plan.reach_um,
        [plan.limits_um[0], plan.limits_um[1]],
    );
    let places = places.map_err(|error| End::Failed(error.to_string()))?;
    let [least_um, wanted_um] = plan.heights_um;
    let height_um = wanted_um.min(plan.limits_um[2].1 - z_um);
    if height_um < least_um {
        return Err(End::Failed(format!(
            "the lens can rise {:.0} µm to z_max, and a flat field needs {least_um:.0} µm: focus first, or set microscope.z_max",
            height_um.max(0.0)
        )));
    }
    let taken = visit(plan, tour, handle, &start, height_um, &places).await;
    let frames = match taken {
        Err(End::Failed(reason)) => {
            tour.come_back(&start, handle).await?;
            return Err(End::Failed(reason));
        }
        taken => taken?,
    };
    tour.come_back(&start, handle).await?;
    let (path, objective) = (plan.path.clone(), plan.objective.clone());
    let made = tokio::task::spawn_blocking(move || make(&frames, path, objective, height_um)).await;
    let file = made.map_err(|_| End::Failed("making the flat field panicked".to_owned()))?;
    let file = file.map_err(|error| End::Failed(format!("{error:#}")))?;
    let taken_up = tour.hears_of(&file.record.made, handle).await;
    let force = if taken_up {
        "in force"
    } else {
        "no classifier has taken it up"
    };
    Ok(Outcome {
        message: format!(
            "{} ({force}); {}",
            plan.path.display(),
            file.report().replace('\n', "; ")
        ),
        value: f64::NAN,
        stddev: f64::NAN,
    })
}

/// A frame of each place, from `height_um` above the start.
async fn visit(
    plan: &Plan,
    tour: &mut Tour,
    handle: &Handle,
    start: &Start,
    height_um: f64,
    places: &[[f64; 2]],
) -> Result<Vec<Arc<Frame>>, End> {
    let z_um = start.position_um[2] + height_um;
    tour.go([f64::NAN, f64::NAN, z_um], start, handle).await?;
    tour.look();
    let mut frames = Vec::new();
    for &[x_um, y_um] in places {
        tour.go([x_um, y_um, f64::NAN], start, handle).await?;
        frames.push(tour.frame(plan.settle, handle).await?);
        handle.feedback(Calibrate::Feedback {
            // The way back and the median are the rest.
            progress: 0.9 * frames.len() as f32 / places.len() as f32,
            z: z_um * 1e-6,
        });
    }
    Ok(frames)
}

/// Makes the flat field and writes it, and beside it a picture for people.
fn make(frames: &[Arc<Frame>], path: PathBuf, objective: String, height_um: f64) -> Result<FlatFieldFile> {
    let (flat, quality) = making::flat_field(frames)?;
    let record = Record::new(&flat, &quality, Some(objective), Some(height_um));
    let file = FlatFieldFile { flat, record };
    let Picture(picture) = Picture::of_flat_field(&file.flat);
    // First, so that a disk that is full changes nothing that is in force.
    write_whole(&path.with_extension("picture.png"), |to| {
        picture.write_with_encoder(PngEncoder::new(to))
    })?;
    file.write(&path)?;
    Ok(file)
}
