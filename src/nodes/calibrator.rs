//! `calibrator`: measures properties of the microscope and puts them in force. So far, the flat field.

mod tour;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use image::codecs::png::PngEncoder;
use r2r::hhnet::action::Calibrate;
use r2r::hhnet::msg::About;
use tokio::sync::watch;

use self::tour::{End, Start, Tour};
use super::frames::ShotReceiver;
use super::microscope::MicroscopeParameters;
use crate::calibration::places::places;
use crate::drivers::flat_field_file::{FlatFieldFile, Record};
use crate::drivers::whole_file::write_whole;
use crate::estimate::flat_field::making;
use crate::frame::Frame;
use crate::objective::Objective;
use crate::parameters;
use crate::pictures::preview::Picture;
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::ros::app::App;
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::Builder;
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities};

/// How far the lens is raised for a flat field unless a parameter says otherwise, depths of field: 60 µm at 40x/0.65.
const HEIGHT_DEPTHS: f64 = 42.0;
/// Least of that, where the upper limit is near, depths of field.
const LEAST_HEIGHT_DEPTHS: f64 = 21.0;
/// How far the stage goes in x and y unless the goal says otherwise, µm under a lens that magnifies once: places lie apart by as much as a
/// frame of 2048 pixels is wide.
const REACH_UM: f64 = 20_000.0;
/// Least of that: nearer to each other, places show the same specimen, which no median leaves out.
const LEAST_REACH_UM: f64 = 8_000.0;
/// Time in which a calibration that is interrupted must have ended.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The same at the end of the process; the bridge stops the stage by itself.
const STOP_LIMIT: Duration = Duration::from_millis(300);

parameters! {
    /// Parameters of the calibrator node.
    CalibratorParameters in "calibrator" with microscope: MicroscopeParameters [objective, flat_field, x_min, x_max, y_min, y_max, z_min, z_max] {
        /// How far the lens is raised while the frames of a flat field are taken, m; 0 for 42 depths of field. The farther, the less of the
        /// specimen is left in it.
        height: f64 [0.0..=0.001, "m", live] = 0.0,
        /// Rest between standstill and the exposure of a frame, s.
        settle: f64 [0.0..=10.0, "s", live] = 0.2,
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for CalibratorParameters {
    fn check(&self) -> Result<()> {
        self.microscope.check()
    }
}

type Handle = GoalHandle<Calibrate::Action>;

/// Everything the calibrator reacts to.
enum Event {
    Goal(GoalRequest<Calibrate::Action>),
    /// A calibration has ended.
    Ended(Box<Tour>),
}

/// Runs the node; `frames` are the camera's if it is in this process.
///
/// # Errors
/// Bad parameters.
pub async fn run(app: App, frames: Option<ShotReceiver>) -> Result<()> {
    let mut node = Builder::new("calibrator")?;
    let mut live = node.parameters::<CalibratorParameters>(app.clock)?;
    let autostart = live.borrow_and_update().autostart;
    let (stop, stopped) = watch::channel(false);
    let calibrator = Calibrator {
        goals: ActionServer::new(&mut node, "calibrate", app.clock)?,
        tour: Some(Box::new(Tour::new(&mut node, frames, stopped, app.clock)?)),
        running: None,
        stop,
        leaving: None,
        live,
    };
    let mut base = Base::start(node, app, "calibration", "none", autostart)?;
    base.presence.introduce(About {
        capabilities: capabilities(&["calibrate"]),
        ..About::default()
    });
    base.run(calibrator).await
}

/// The node between its events.
struct Calibrator {
    live: watch::Receiver<CalibratorParameters>,
    goals: ActionServer<Calibrate::Action>,
    /// What a calibration works with; it is with the one that runs.
    tour: Option<Box<Tour>>,
    running: Option<BoxFuture<'static, Box<Tour>>>,
    stop: watch::Sender<bool>,
    /// Answered when the calibration that runs has ended.
    leaving: Option<Wish>,
}

impl Managed for Calibrator {
    type Device = ();
    type Event = Event;

    fn open(&mut self) -> BoxFuture<'static, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn handle_opened(&mut self, (): &mut (), _: &mut Base) -> Result<()> {
        Ok(())
    }

    async fn refuse(&mut self, _: bool) -> Infallible {
        loop {
            match self.goals.next().await {
                Some(request) => request.reject("the calibrator is not configured"),
                None => std::future::pending().await,
            }
        }
    }

    async fn next_event(&mut self, (): &mut (), _: bool) -> Event {
        let running = &mut self.running;
        let ended = async {
            match running {
                Some(running) => running.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(request) = self.goals.next() => Event::Goal(request),
            tour = ended => Event::Ended(tour),
        }
    }

    async fn handle(&mut self, event: Event, (): &mut (), base: &mut Base) -> Result<Flow> {
        match event {
            Event::Goal(request) if !base.is_active() => request.reject("the calibrator is not active"),
            Event::Goal(request) => self.begin(request),
            Event::Ended(tour) => {
                self.running = None;
                self.tour = Some(tour);
                if let Some(wish) = self.leaving.take() {
                    base.switched(wish);
                }
            }
        }
        Ok(Flow::Continue)
    }

    fn handle_second(&mut self, (): &mut (), base: &mut Base) {
        let (message, work) = match (base.is_active(), &self.running) {
            (false, _) => ("not active", Work::inactive()),
            (true, None) => ("nothing to calibrate", Work::Idle("ready".into())),
            (true, Some(_)) => ("calibrating", Work::Busy("calibrating".into())),
        };
        let severity = if base.is_active() {
            Severity::Ok
        } else {
            Severity::Warn
        };
        base.report(severity, message, &[], work);
        if let Some(tour) = &self.tour {
            tour.remind();
        }
    }

    fn handle_switch(&mut self, wish: Wish, (): &mut (), base: &mut Base) {
        self.stop.send_replace(!base.is_active());
        if self.running.is_some() && !base.is_active() {
            self.leaving = Some(wish);
        } else {
            base.switched(wish);
        }
    }

    async fn close(&mut self, (): (), base: &mut Base) {
        self.stop.send_replace(true);
        let limit = if base.app.is_stopping() {
            STOP_LIMIT
        } else {
            END_LIMIT
        };
        if let Some(running) = self.running.take() {
            self.tour = tokio::time::timeout(limit, running).await.ok();
        }
    }
}

impl Calibrator {
    fn begin(&mut self, request: GoalRequest<Calibrate::Action>) {
        let Some(mut tour) = self.tour.take() else {
            request.reject("a calibration is under way");
            return;
        };
        let goal = request.goal.clone();
        let handle = request.accept();
        let parameters = self.live.borrow().clone();
        let calibrating = async move {
            let outcome = match plan(&goal, &parameters) {
                Ok(plan) => calibrate(&plan, &mut tour, &handle).await,
                Err(error) => Err(End::Failed(format!("{error:#}"))),
            };
            tour.rest();
            answer(handle, outcome);
            tour
        };
        self.running = Some(calibrating.boxed());
    }
}

/// A flat field to be measured.
struct Plan {
    path: PathBuf,
    objective: String,
    /// Farthest the stage goes, µm.
    reach_um: f64,
    /// Least and wanted height above where the lens stands, µm.
    heights_um: [f64; 2],
    settle: Duration,
    limits_um: [(f64, f64); 3],
}

fn plan(goal: &Calibrate::Goal, parameters: &CalibratorParameters) -> Result<Plan> {
    let microscope = &parameters.microscope;
    ensure!(
        goal.what == Calibrate::Goal::FLAT_FIELD as u8,
        "this version calibrates FLAT_FIELD ({}) alone, not {}",
        Calibrate::Goal::FLAT_FIELD as u8,
        goal.what
    );
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
    let um = |low: f64, high: f64| (low * 1e6, high * 1e6);
    Ok(Plan {
        path: PathBuf::from(&microscope.flat_field),
        objective: microscope.objective.clone(),
        reach_um: match goal.reach * 1e6 {
            0.0 => REACH_UM / objective.magnification,
            reach_um => reach_um,
        },
        heights_um: [height_um.min(LEAST_HEIGHT_DEPTHS * depth_um), height_um],
        settle: Duration::from_secs_f64(parameters.settle),
        limits_um: [
            um(microscope.x_min, microscope.x_max),
            um(microscope.y_min, microscope.y_max),
            um(microscope.z_min, microscope.z_max),
        ],
    })
}

/// Takes frames, makes the flat field, and puts it in force; what there is to say of it.
async fn calibrate(plan: &Plan, tour: &mut Tour, handle: &Handle) -> Result<String, End> {
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
    Ok(format!(
        "{} ({force}); {}",
        plan.path.display(),
        file.report().replace('\n', "; ")
    ))
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

fn answer(handle: Handle, outcome: Result<String, End>) {
    let result = |code: u8, message: String| Calibrate::Result {
        code,
        message,
        value: f64::NAN,
        stddev: f64::NAN,
    };
    match outcome {
        Ok(message) => handle.succeed(result(Calibrate::Result::CALIBRATED as u8, message)),
        Err(End::Stopped) => {
            let message = "stopped as asked; the stage stands where it was, raised".to_owned();
            handle.cancelled(result(Calibrate::Result::CANCELED as u8, message));
        }
        Err(End::Stage(message) | End::Failed(message)) => {
            handle.abort(result(Calibrate::Result::FAILED as u8, message));
        }
    }
}
