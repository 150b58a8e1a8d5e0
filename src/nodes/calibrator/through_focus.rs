//! Passes through focus: the play of the drive, the height of focus, and what the network states of heights that the stage knows.
//!
//! The lens is raised first, and nothing is swept unless the network says that it rose: with z reversed, up leads to the slide. Then focus is where
//! the network sees it; each pass begins a little beyond its first height, so that the play is taken up, and ends within the limits.

mod in_motion;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use r2r::hhnet::action::Calibrate;

use super::judge::{Judge, Wanted};
use super::stack::{Images, Stack};
use super::tour::{End, Start, Tour};
use super::{CalibratorParameters, Handle, Instrument, Outcome, What};
use crate::calibration::heights::heights_um;
use crate::calibration::latency::Passing;
use crate::calibration::pass::{Approach, Look, Pass};
use crate::calibration::report::{Rows, backlash_rows, focus_rows, latency_rows, response_rows};
use crate::drivers::calibration_file;
use crate::frame::Frame;

/// How far the lens is raised at first, depths of field, and the part of it that the network has to see.
const RISE_DEPTHS: f64 = 5.0;
const SEEN: f64 = 0.5;
/// Play of the drive that may be part of it, µm.
const MOST_PLAY_UM: f64 = 5.0;
/// How far passes reach from focus unless the goal says otherwise, depths of field: 20 µm under the 40x/0.65 for the network, 9 µm for the rest.
const FAR_DEPTHS: f64 = 14.0;
const NEAR_DEPTHS: f64 = 6.0;
/// Least of that, on both sides.
const LEAST_DEPTHS: f64 = 3.0;
/// Way before the first height of a pass, in which the play is taken up, µm.
const LEAD_UM: f64 = 10.0;
/// Places that RESPONSE visits, and how far they lie apart, µm under a lens that magnifies once: no view has anything of another.
const PLACES: [[f64; 2]; 4] = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
const APART_UM: f64 = 12_000.0;

pub(super) struct Plan {
    what: What,
    instrument: Instrument,
    wanted: Wanted,
    /// Where the training set goes.
    stacks: Option<PathBuf>,
    reach_um: f64,
}

pub(super) fn plan(what: What, goal: &Calibrate::Goal, parameters: &CalibratorParameters) -> Result<Plan> {
    let instrument = Instrument::of(parameters)?;
    let depth_um = instrument.objective.depth_of_field_um();
    let depths = if what == What::Response {
        FAR_DEPTHS
    } else {
        NEAR_DEPTHS
    };
    let reach_um = match goal.reach * 1e6 {
        0.0 => depths * depth_um,
        reach_um => reach_um,
    };
    ensure!(
        reach_um >= LEAST_DEPTHS * depth_um && reach_um <= 1000.0,
        "reach is {} m: give {:.7} to 0.001, or 0 for as far as the objective needs",
        goal.reach,
        LEAST_DEPTHS * depth_um * 1e-6
    );
    let is_recorded = what == What::Response && !parameters.stacks.is_empty();
    Ok(Plan {
        what,
        instrument,
        wanted: Wanted::of(parameters)?,
        stacks: is_recorded.then(|| PathBuf::from(&parameters.stacks)),
        reach_um,
    })
}

/// Sweeps, fits, and puts in force what was measured.
pub(super) async fn calibrate(plan: &Plan, tour: &mut Tour, handle: &Handle) -> Result<Outcome, End> {
    let start = tour.start()?;
    let wanted = plan.wanted.clone();
    let judge = tokio::task::spawn_blocking(move || Judge::open(&wanted)).await;
    let judge = judge.map_err(|_| End::Failed("loading the model panicked".to_owned()))?;
    let judge = judge.map_err(|error| End::Failed(format!("{error:#}")))?;
    let made = calibration_file::now();
    let stack = plan
        .stacks
        .as_ref()
        .map(|parent| Stack::begin(parent, &made))
        .transpose();
    let mut sweep = Sweep {
        plan,
        tour,
        handle,
        start,
        hands: Some(Hands {
            judge,
            stack: stack.map_err(|error| End::Failed(format!("{error:#}")))?,
        }),
        passes: Vec::new(),
        passing: Vec::new(),
        done: 0,
        of: 1,
    };
    let swept = sweep.run().await;
    let Sweep {
        tour,
        start,
        hands,
        passes,
        passing,
        ..
    } = sweep;
    if let Err(End::Failed(reason)) = swept {
        tour.come_back(&start, handle).await?;
        return Err(End::Failed(reason));
    }
    swept?;
    tour.come_back(&start, handle).await?;
    let Some(Hands { judge, stack }) = hands else {
        return Err(End::Failed("judging a frame panicked".to_owned()));
    };
    let known = judge.known(plan.instrument.objective.depth_of_field_um());
    let own: Vec<Pass> = passes.iter().map(|(pass, _)| pass.clone()).collect();
    let rows: Rows = match plan.what {
        What::Latency => latency_rows(&passing, &known),
        What::Backlash => [focus_rows(&own, &known), backlash_rows(&own, &known)].concat(),
        What::Response => [
            focus_rows(&own, &known),
            response_rows(&own, &known),
            backlash_rows(&own, &known),
        ]
        .concat(),
        _ => focus_rows(&own, &known),
    };
    let mut more = String::new();
    if let Some(stack) = stack {
        more = format!("; frames in {}", stack.folder().display());
        let written = tokio::task::spawn_blocking(move || stack.end(&passes)).await;
        let written = written.map_err(|_| End::Failed("writing the frames panicked".to_owned()))?;
        written.map_err(|error| End::Failed(format!("{error:#}")))?;
    }
    plan.instrument.put_in_force(plan.what, rows, &more)
}

/// What works on frames, apart from the loop that moves the stage.
struct Hands {
    judge: Judge,
    stack: Option<Stack>,
}

struct Sweep<'a> {
    plan: &'a Plan,
    tour: &'a mut Tour,
    handle: &'a Handle,
    start: Start,
    /// None while a frame is worked on.
    hands: Option<Hands>,
    passes: Vec<(Pass, Images)>,
    /// What frames of the moving lens showed.
    passing: Vec<Passing>,
    /// Frames taken, and to be taken.
    done: usize,
    of: usize,
}

impl Sweep<'_> {
    async fn run(&mut self) -> Result<(), End> {
        use Approach::{FromAbove, FromBelow};
        self.tour.look();
        let mut focus_um = self.rise().await?;
        match self.plan.what {
            What::Latency => self.rides(focus_um).await,
            What::FocusHeight => self.passes("here", focus_um, &[FromBelow]).await,
            What::Backlash => {
                self.passes("here", focus_um, &[FromBelow, FromAbove, FromBelow])
                    .await
            }
            _ => {
                for (number, place) in (1..).zip(PLACES) {
                    let approaches: &[Approach] = if number == 1 {
                        &[FromBelow, FromAbove, FromBelow]
                    } else {
                        let Some(found_um) = self.visit(place, focus_um).await? else {
                            continue;
                        };
                        focus_um = found_um;
                        &[FromBelow]
                    };
                    self.passes(&format!("place{number}"), focus_um, approaches)
                        .await?;
                }
                Ok(())
            }
        }
    }

    fn depth_um(&self) -> f64 {
        self.plan.instrument.objective.depth_of_field_um()
    }

    /// Raises the lens, and looks whether the network sees it; the height of focus, as far as it knows.
    async fn rise(&mut self) -> Result<f64, End> {
        let rise_um = RISE_DEPTHS * self.depth_um();
        let z_um = self.start.position_um[2];
        if z_um + rise_um > self.plan.instrument.limits_um[2].1 {
            return Err(End::Failed(format!(
                "z_max leaves no room for the first {rise_um:.1} µm up: set microscope.z_max higher"
            )));
        }
        let before = self.take(None).await?;
        self.go_z(z_um + rise_um).await?;
        let after = self.take(None).await?;
        let (Some(before_um), Some(after_um)) = (before.estimate_um, after.estimate_um) else {
            return Err(End::Failed(
                "the network does not trust what it sees here: focus first, on a place with specimen"
                    .to_owned(),
            ));
        };
        let seen_um = after_um - before_um;
        // Where the lens came from above, it follows once the play is taken up.
        if seen_um < SEEN * (after.z_um - before.z_um - MOST_PLAY_UM) {
            return Err(End::Failed(format!(
                "the lens was sent {rise_um:.1} µm up and the network says that its height changed by {seen_um:+.1} µm: z counts downwards, the model is for \
                 another instrument, or dust is stronger than the specimen; nothing was swept"
            )));
        }
        Ok(after.z_um - after_um)
    }

    /// Drives to a place, above focus; the height of focus there, or none if the network does not trust what it sees.
    async fn visit(&mut self, place: [f64; 2], focus_um: f64) -> Result<Option<f64>, End> {
        let apart_um = APART_UM / self.plan.instrument.objective.magnification;
        let [x_um, y_um] = [0, 1].map(|axis| (self.start.position_um[axis] + place[axis] * apart_um).round());
        let is_inside = |at_um: f64, (low_um, high_um): (f64, f64)| (low_um..=high_um).contains(&at_um);
        let [x_limits, y_limits, z_limits] = self.plan.instrument.limits_um;
        if !(is_inside(x_um, x_limits) && is_inside(y_um, y_limits)) {
            return Ok(None);
        }
        let above_um = (focus_um + RISE_DEPTHS * self.depth_um()).min(z_limits.1);
        self.go_z(above_um).await?;
        self.tour
            .go([x_um, y_um, f64::NAN], &self.start, self.handle)
            .await?;
        let look = self.take(None).await?;
        Ok(look.estimate_um.map(|estimate_um| look.z_um - estimate_um))
    }

    /// How far the lens may go below and above focus, µm, so that there is a way left to take up the play.
    fn room_um(&self, focus_um: f64) -> Result<[f64; 2], End> {
        let (low_um, high_um) = self.plan.instrument.limits_um[2];
        let below_um = (focus_um - low_um - LEAD_UM).min(self.plan.reach_um);
        let above_um = (high_um - LEAD_UM - focus_um).min(self.plan.reach_um);
        let least_um = LEAST_DEPTHS * self.depth_um();
        if below_um.min(above_um) < least_um {
            return Err(End::Failed(format!(
                "z_min and z_max leave {below_um:.0} µm below and {above_um:.0} µm above focus for a sweep, and {least_um:.0} µm are needed: set \
                 microscope.z_min and z_max"
            )));
        }
        Ok([below_um, above_um])
    }

    /// Passes around a height, one after the other.
    async fn passes(&mut self, field: &str, focus_um: f64, approaches: &[Approach]) -> Result<(), End> {
        let [below_um, above_um] = self.room_um(focus_um)?;
        let offsets = heights_um([below_um, above_um], self.depth_um());
        let more = if field == "place1" { PLACES.len() - 1 } else { 0 };
        if self.passes.is_empty() {
            self.of = offsets.len() * (approaches.len() + more);
        }
        for &approach in approaches {
            // Heights that motion controllers report are rounded.
            let mut heights: Vec<f64> = offsets.iter().map(|off_um| focus_um + off_um).collect();
            let mut first_um = focus_um - below_um - LEAD_UM;
            if approach == Approach::FromAbove {
                heights.reverse();
                first_um = focus_um + above_um + LEAD_UM;
            }
            self.go_z(first_um).await?;
            let pass = Pass {
                field: field.to_owned(),
                approach: Some(approach),
                looks: Vec::new(),
            };
            let [x_um, y_um, _] = self.tour.stands_um()?;
            self.passes.push((pass, Images::new([x_um, y_um], f64::NAN)));
            for z_um in heights {
                self.go_z(z_um).await?;
                let at = self.passes.len() - 1;
                let look = self.take(Some(at)).await?;
                self.passes[at].0.looks.push(look);
                self.done += 1;
                self.handle.feedback(Calibrate::Feedback {
                    progress: 0.95 * (self.done as f32 / self.of as f32).min(1.0),
                    z: look.z_um * 1e-6,
                });
            }
        }
        Ok(())
    }

    async fn go_z(&mut self, z_um: f64) -> Result<(), End> {
        self.tour
            .go([f64::NAN, f64::NAN, z_um], &self.start, self.handle)
            .await
    }

    /// A frame of where the stage stands, judged, and written for the pass at that place of the list.
    async fn take(&mut self, pass: Option<usize>) -> Result<Look, End> {
        let frame = self.tour.frame(self.plan.instrument.settle, self.handle).await?;
        let [_, _, z_um] = self.tour.stands_um()?;
        self.look(z_um, frame, pass).await
    }

    /// A frame that was exposed at a height, judged, and written for the pass at that place of the list.
    async fn look(&mut self, z_um: f64, frame: Arc<Frame>, pass: Option<usize>) -> Result<Look, End> {
        let binning = self.tour.binning(&frame).await;
        let pixel_um = binning.map(|pixels| self.plan.instrument.pixel_um * f64::from(pixels));
        let taken = pass.map(|at| {
            let (pass, images) = &mut self.passes[at];
            images.set_pixel((pixel_um[0] * pixel_um[1]).sqrt());
            (pass.field.clone(), std::mem::take(images))
        });
        let Some(mut hands) = self.hands.take() else {
            return Err(End::Failed("judging a frame panicked".to_owned()));
        };
        let work = move || {
            let mut taken = taken;
            let looked = hands.judge.look(z_um, &frame, pixel_um);
            let looked = looked.and_then(|(look, corrected)| {
                if let (Some(stack), Some((field, images))) = (&mut hands.stack, &mut taken) {
                    stack.add(images, field, &corrected)?;
                }
                Ok(look)
            });
            (hands, taken.map(|(_, images)| images), looked)
        };
        let worked = tokio::task::spawn_blocking(work).await;
        let (hands, images, looked) =
            worked.map_err(|_| End::Failed("judging a frame panicked".to_owned()))?;
        self.hands = Some(hands);
        if let (Some(at), Some(images)) = (pass, images) {
            self.passes[at].1 = images;
        }
        looked.map_err(|error| End::Failed(format!("{error:#}")))
    }
}
