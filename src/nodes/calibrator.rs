//! `calibrator`: measures properties of the microscope and puts them in force.

mod flat_field;
mod judge;
mod stack;
mod through_focus;
mod tour;
mod views;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use r2r::hhnet::action::Calibrate;
use r2r::hhnet::msg::About;
use tokio::sync::watch;

use self::tour::{End, Tour};
use super::frames::ShotReceiver;
use super::microscope::MicroscopeParameters;
use crate::calibration::card::{Card, Quantity};
use crate::calibration::report::Rows;
use crate::drivers::calibration_file;
use crate::objective::Objective;
use crate::parameters;
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::ros::app::App;
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::Builder;
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities};

/// Time in which a calibration that is interrupted must have ended.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The same at the end of the process; the bridge stops the stage by itself.
const STOP_LIMIT: Duration = Duration::from_millis(300);

parameters! {
    /// Parameters of the calibrator node.
    CalibratorParameters in "calibrator" with microscope: MicroscopeParameters [objective, pixel_size, flat_field, calibration, x_min, x_max, y_min, y_max, z_min, z_max] {
        /// How far the lens is raised while the frames of a flat field are taken, m; 0 for 42 depths of field. The farther, the less of the
        /// specimen is left in it.
        height: f64 [0.0..=0.001, "m", live] = 0.0,
        /// Path of the ONNX model that is calibrated; empty for the one that ships for the objective.
        model: String [live] = "",
        /// Threads of one inference.
        threads: i64 [1.0..=64.0, "", live] = 2,
        /// Folder to which RESPONSE writes the frames as a training set, a folder with manifest.csv for each goal, for `hhnet dataset ingest` and
        /// `hhnet calibrate`; empty for none. 6 MB a frame, some 300 frames.
        stacks: String [live] = "",
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
            let outcome = calibrate(&goal, &parameters, &mut tour, &handle).await;
            tour.rest();
            answer(handle, outcome);
            tour
        };
        self.running = Some(calibrating.boxed());
    }
}

/// What was measured, and what there is to say of it.
struct Outcome {
    message: String,
    /// m, or without unit; NaN for a picture.
    value: f64,
    stddev: f64,
}

async fn calibrate(
    goal: &Calibrate::Goal,
    parameters: &CalibratorParameters,
    tour: &mut Tour,
    handle: &Handle,
) -> Result<Outcome, End> {
    let unfit = |error: anyhow::Error| End::Failed(format!("{error:#}"));
    let what = What::of(goal).map_err(unfit)?;
    match what {
        What::FlatField => {
            let plan = flat_field::plan(goal, parameters).map_err(unfit)?;
            flat_field::calibrate(&plan, tour, handle).await
        }
        What::PixelSize => {
            let plan = views::plan(goal, parameters).map_err(unfit)?;
            views::calibrate(&plan, tour, handle).await
        }
        What::Backlash | What::FocusHeight | What::Response | What::Latency => {
            let plan = through_focus::plan(what, goal, parameters).map_err(unfit)?;
            through_focus::calibrate(&plan, tour, handle).await
        }
    }
}

/// What a goal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Backlash,
    FocusHeight,
    PixelSize,
    FlatField,
    Response,
    Latency,
}

impl What {
    fn of(goal: &Calibrate::Goal) -> Result<Self> {
        let named = [
            (Calibrate::Goal::BACKLASH as u8, Self::Backlash),
            (Calibrate::Goal::FOCUS_HEIGHT as u8, Self::FocusHeight),
            (Calibrate::Goal::PIXEL_SIZE as u8, Self::PixelSize),
            (Calibrate::Goal::FLAT_FIELD as u8, Self::FlatField),
            (Calibrate::Goal::RESPONSE as u8, Self::Response),
            (Calibrate::Goal::LATENCY as u8, Self::Latency),
        ];
        let found = named.into_iter().find(|(number, _)| *number == goal.what);
        found.map(|(_, what)| what).with_context(|| {
            format!(
                "what is {}, which names no property: give 0 (BACKLASH) to 5 (LATENCY)",
                goal.what
            )
        })
    }

    /// The quantity that the result states, and the unit of the card in that of the result.
    const fn stated(self) -> Option<(Quantity, f64)> {
        match self {
            Self::Backlash => Some((Quantity::Backlash, 1e-6)),
            Self::FocusHeight => Some((Quantity::FocusHeight, 1e-6)),
            Self::PixelSize => Some((Quantity::PixelSize, 1e-6)),
            Self::Response => Some((Quantity::ResponseScale, 1.0)),
            Self::Latency => Some((Quantity::Latency, 1e-3)),
            Self::FlatField => None,
        }
    }
}

/// What every measurement needs to know of the instrument.
struct Instrument {
    objective: Objective,
    /// File of the card.
    file: PathBuf,
    /// Side of a pixel of the unbinned camera as it is taken for granted, µm.
    pixel_um: f64,
    settle: Duration,
    /// x, y and z.
    limits_um: [(f64, f64); 3],
}

impl Instrument {
    fn of(parameters: &CalibratorParameters) -> Result<Self> {
        let microscope = &parameters.microscope;
        ensure!(
            !microscope.calibration.is_empty(),
            "there is no place for what is measured: name its file in microscope.calibration, for all nodes"
        );
        let file = PathBuf::from(&microscope.calibration);
        // Before the stage moves for nothing.
        calibration_file::read(&file, &microscope.objective)?;
        let objective = Objective::by_name(&microscope.objective)?;
        Ok(Self {
            pixel_um: match microscope.pixel_size * 1e6 {
                0.0 => objective.object_pixel_um(),
                pixel_um => pixel_um,
            },
            objective,
            file,
            settle: Duration::from_secs_f64(parameters.settle),
            limits_um: limits_um(microscope),
        })
    }

    /// Puts rows into the file; the outcome that they make.
    fn put_in_force(&self, what: What, rows: Rows, more: &str) -> Result<Outcome, End> {
        let mut own = Card::new(&self.objective.name);
        for (quantity, row) in rows.clone() {
            own.take(quantity, row);
        }
        let stated = what
            .stated()
            .and_then(|(quantity, unit)| Some((own.rows.get(&quantity)?, unit)));
        let Some((row, unit)) = stated else {
            return Err(End::Failed("nothing was measured".to_owned()));
        };
        let (Some(value), Some(stddev)) = (row.value, row.stddev) else {
            return Err(End::Failed(row.note.clone()));
        };
        let said = format!(
            "{value:.4} ± {stddev:.4} {} ({}): {}; written to {}{more}",
            row.unit,
            row.verdict.name(),
            row.note,
            self.file.display()
        );
        calibration_file::update(&self.file, &self.objective.name, rows)
            .map_err(|error| End::Failed(error.to_string()))?;
        Ok(Outcome {
            message: said,
            value: unit * value,
            stddev: unit * stddev,
        })
    }
}

fn limits_um(microscope: &MicroscopeParameters) -> [(f64, f64); 3] {
    let um = |low: f64, high: f64| (low * 1e6, high * 1e6);
    [
        um(microscope.x_min, microscope.x_max),
        um(microscope.y_min, microscope.y_max),
        um(microscope.z_min, microscope.z_max),
    ]
}

fn answer(handle: Handle, outcome: Result<Outcome, End>) {
    let result = |code: u8, message: String| Calibrate::Result {
        code,
        message,
        value: f64::NAN,
        stddev: f64::NAN,
    };
    match outcome {
        Ok(outcome) => handle.succeed(Calibrate::Result {
            value: outcome.value,
            stddev: outcome.stddev,
            ..result(Calibrate::Result::CALIBRATED as u8, outcome.message)
        }),
        Err(End::Stopped) => {
            let message =
                "stopped as asked; the stage stands where it was then, and nothing has changed".to_owned();
            handle.cancelled(result(Calibrate::Result::CANCELED as u8, message));
        }
        Err(End::Stage(message) | End::Failed(message)) => {
            handle.abort(result(Calibrate::Result::FAILED as u8, message));
        }
    }
}
