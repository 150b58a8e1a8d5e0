//! The pixel size: views beside the place where the stage stands, each approached from the same side.

use r2r::hhnet::action::Calibrate;

use anyhow::{Result, ensure};

use super::tour::{End, Start, Tour};
use super::{CalibratorParameters, Handle, Instrument, Outcome, What};
use crate::calibration::pixel_size::Moved;
use crate::calibration::report::{Known, pixel_rows};
use crate::calibration::shift::shift;
use crate::drivers::calibration_file;

/// Where the views lie, parts of the reach.
const VIEWS: [[f64; 2]; 6] = [
    [0.95, 0.15],
    [-0.95, 0.3],
    [0.25, 0.95],
    [-0.15, -0.95],
    [0.7, -0.7],
    [-0.6, 0.75],
];
/// The reach unless the goal says otherwise, pixels, and the most that it says: beyond, views of a small camera have nothing in common.
const REACH_PX: f64 = 400.0;
/// Least reach, pixels: below, half a pixel is too much of it.
const LEAST_REACH_PX: f64 = 60.0;
/// Way before each place by which the play of a cross table is taken up, µm.
const LEAD_UM: f64 = 20.0;

pub(super) struct Plan {
    instrument: Instrument,
    reach_um: f64,
}

pub(super) fn plan(goal: &Calibrate::Goal, parameters: &CalibratorParameters) -> Result<Plan> {
    let instrument = Instrument::of(parameters)?;
    let least_um = LEAST_REACH_PX * instrument.pixel_um;
    let reach_um = match goal.reach * 1e6 {
        0.0 => REACH_PX * instrument.pixel_um,
        reach_um => reach_um,
    };
    ensure!(
        reach_um >= least_um && reach_um <= 1e5,
        "reach is {} m: give {:.7} or more, or 0 for as far as the objective needs",
        goal.reach,
        least_um * 1e-6
    );
    Ok(Plan { instrument, reach_um })
}

/// Takes the views, compares each with the first, and puts what they tell in force.
pub(super) async fn calibrate(plan: &Plan, tour: &mut Tour, handle: &Handle) -> Result<Outcome, End> {
    let start = tour.start()?;
    for ((low_um, high_um), at_um) in plan
        .instrument
        .limits_um
        .into_iter()
        .zip(start.position_um)
        .take(2)
    {
        if at_um - plan.reach_um - LEAD_UM < low_um || at_um + plan.reach_um > high_um {
            return Err(End::Failed(format!(
                "the limits of x and y leave no room for views {:.0} µm around: move the stage away from them",
                plan.reach_um
            )));
        }
    }
    let visited = visit(plan, tour, handle, &start).await;
    let (moves, binning) = match visited {
        Err(End::Failed(reason)) => {
            tour.come_back(&start, handle).await?;
            return Err(End::Failed(reason));
        }
        visited => visited?,
    };
    tour.come_back(&start, handle).await?;
    // Frames of a binned camera have larger pixels; the parameter is of the unbinned one.
    let whole = (f64::from(binning[0]) * f64::from(binning[1])).sqrt();
    let moves: Vec<Moved> = moves
        .into_iter()
        .map(|moved| Moved {
            shift_px: moved.shift_px.map(|px| px * whole),
            ..moved
        })
        .collect();
    let known = Known {
        depth_um: plan.instrument.objective.depth_of_field_um(),
        model: String::new(),
        condenser: None,
        range_um: None,
        pixel_um: Some(plan.instrument.pixel_um),
        made: calibration_file::now(),
    };
    let rows = pixel_rows(Ok(&moves), &known);
    plan.instrument.put_in_force(What::PixelSize, rows, "")
}

/// The moves, and how many pixels of the camera make one of a frame.
async fn visit(
    plan: &Plan,
    tour: &mut Tour,
    handle: &Handle,
    start: &Start,
) -> Result<(Vec<Moved>, [u32; 2]), End> {
    let [x_um, y_um, z_um] = start.position_um;
    let mut moves = Vec::new();
    let mut first = None;
    let mut binning = [1; 2];
    tour.look();
    for [across, down] in std::iter::once([0.0; 2]).chain(VIEWS) {
        let place_um = [x_um + across * plan.reach_um, y_um + down * plan.reach_um].map(f64::round);
        tour.go(
            [place_um[0] - LEAD_UM, place_um[1] - LEAD_UM, f64::NAN],
            start,
            handle,
        )
        .await?;
        tour.go([place_um[0], place_um[1], f64::NAN], start, handle)
            .await?;
        let frame = tour.frame(plan.instrument.settle, handle).await?;
        let [at_x_um, at_y_um, _] = tour.stands_um()?;
        let Some((from, from_um)) = &first else {
            binning = tour.binning(&frame).await;
            first = Some((frame, [at_x_um, at_y_um]));
            continue;
        };
        let from = std::sync::Arc::clone(from);
        let found = tokio::task::spawn_blocking(move || shift(&from, &frame)).await;
        let found = found.map_err(|_| End::Failed("comparing two frames panicked".to_owned()))?;
        let found = found.map_err(|error| End::Failed(error.to_string()))?;
        moves.push(Moved {
            stage_um: [at_x_um - from_um[0], at_y_um - from_um[1]],
            shift_px: found.px,
        });
        handle.feedback(Calibrate::Feedback {
            progress: 0.95 * moves.len() as f32 / VIEWS.len() as f32,
            z: z_um * 1e-6,
        });
    }
    Ok((moves, binning))
}
