//! `sim_microscope`: the virtual microscope. Its camera looks through the virtual optics wherever its stage is, and the
//! stage is reached only through a pseudo-terminal on which an emulated GRBL 1.1 answers. Between the motors and what the
//! camera sees lie play, ringing, drift, stops and limit switches, none of which the controller knows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use r2r::QosProfile;
use r2r::hhnet::msg::{About, SimTruth};
use tokio::time::Interval;

use super::frames::{FrameOutlet, Shot, ShotSender, to_text};
use super::microscope::MicroscopeParameters;
use super::{frame_in, position_store, virtual_port};
use crate::drivers::emulated_port::{EmulatedPort, EmulatedStage};
use crate::frame::Frame;
use crate::objective::Objective;
use crate::parameters;
use crate::ros::app::App;
use crate::ros::clock::Clock;
use crate::ros::convert::header;
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::{Builder, Publisher};
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities};
use crate::sim::grbl::EmulatorConfig;
use crate::sim::mechanics::{Drift, MechanicsConfig};
use crate::sim::microscope::{
    Exposure, LiveMicroscope, Microscope, MicroscopeConfig, Pose, SensorConfig, Shutter,
};
use crate::sim::sensor::Noise;
use crate::sim::slide::SiteRandom;
use crate::stage::Axis;
use crate::stage::memory::Remembered;
use crate::statistics::median;

/// Hard stops of x, y, z, µm from the middle of the slide's nominal plane: the table passes every edge of the slide, and
/// the lens reaches it.
const STOPS_UM: [(f64, f64); 3] = [(-38_000.0, 38_000.0), (-13_000.0, 13_000.0), (-1000.0, 3000.0)];
/// Distance of the limit switches in front of the stops, µm.
const SWITCH_MARGIN_UM: f64 = 100.0;
/// Longest travel in x or y during an exposure that is rendered, µm; a faster stage smears no farther.
const MOST_TRAVEL_UM: f64 = 20.0;
/// Travel in an exposure that no picture shows, µm: drift and the last of the ringing, not worth the slower rendering.
const LEAST_TRAVEL_UM: f64 = 1e-3;
/// Kept from the largest modelled defocus, µm, for the rounding of sums.
const DEFOCUS_MARGIN_UM: f64 = 1e-3;
/// Purpose of the random number that says where the lens starts.
const START: u64 = 0x57a;

parameters! {
    /// Parameters of the virtual microscope.
    SimMicroscopeParameters in "sim_microscope" with microscope: MicroscopeParameters [objective] {
        /// Whether there is a virtual microscope at all; false when real hardware is used in the same process.
        enabled: bool = true,
        /// Seed of the slide; the same seed is the same slide.
        seed: i64 [0.0..=9007199254740991.0] = 1,
        /// Where on the slide the camera looks when the stage powers up, m from the slide's middle.
        x: f64 [-0.038..=0.038, "m"] = 0.0,
        /// Where on the slide the camera looks when the stage powers up, m from the slide's middle.
        y: f64 [-0.013..=0.013, "m"] = 0.0,
        /// Height of the lens above focus when the stage powers up, m; positive: too far from the slide. The controller
        /// calls it zero, whatever it is.
        start_defocus: f64 [-0.003..=0.003, "m"] = 0.0,
        /// Largest departure from `start_defocus`, m: what it really is comes from the seed.
        start_spread: f64 [0.0..=0.0001, "m"] = 0.0,
        /// Exposures per second; fewer if rendering cannot keep up.
        frame_rate: f64 [0.01..=1000.0, "1/s"] = 40.0,
        /// Most by which an exposure begins late, s, different from frame to frame and the same for the same seed; 0 to
        /// half a period.
        frame_jitter: f64 [0.0..=50.0, "s"] = 0.0005,
        /// Exposure time, s; at 0.002 clear glass has its usual brightness, in proportion otherwise.
        exposure: f64 [0.0..=1.0, "s"] = 0.002,
        /// Play between motor and lens, m. It moves the count, not the focus.
        backlash: f64 [0.0..=0.001, "m"] = 2e-6,
        /// Natural frequency of the lens on its drive, Hz, at least 1; 0 for one that follows at once.
        settling_frequency: f64 [0.0..=1000.0, "Hz"] = 60.0,
        /// Its damping ratio: what rings after a stop falls to a fifth in 1 / (4 x ratio x frequency).
        settling_damping: f64 [0.01..=0.95] = 0.15,
        /// How far the stand grows while it warms up, m.
        drift: f64 [-0.001..=0.001, "m"] = 3e-6,
        /// Time constant of that, s.
        drift_time: f64 [1.0..=1000000.0, "s"] = 1200.0,
        /// Amplitude of a slow swing of the lens, m.
        drift_swing: f64 [0.0..=0.001, "m"] = 0.2e-6,
        /// Its period, s.
        drift_period: f64 [1.0..=1000000.0, "s"] = 600.0,
        /// Shot and read noise.
        noise: bool = true,
        /// One colour filter per pixel, as in most cameras, instead of three colours at every pixel.
        bayer: bool = false,
        /// Path at which the stage's serial port appears; empty for the virtual stage of this namespace.
        port: String = "",
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for SimMicroscopeParameters {
    fn check(&self) -> Result<()> {
        self.microscope.check()?;
        self.shutter()?;
        self.mechanics().context("sim_microscope")?;
        Ok(())
    }
}

/// Everything the virtual microscope reacts to.
enum Event {
    /// The next exposure is due.
    Exposure,
}

/// Runs the node; frames go to `out` if another node of this process takes them.
///
/// # Errors
/// Bad parameters, or a port that cannot be made.
pub async fn run(app: App, out: Option<ShotSender>) -> Result<()> {
    let mut node = Builder::new("sim_microscope")?;
    let parameters = node
        .parameters::<SimMicroscopeParameters>(app.clock)?
        .borrow()
        .clone();
    if !parameters.enabled {
        // A camera in this process that waits for its frames learns that none will come.
        drop(out);
        let _spinning = node.spin()?;
        app.stopped().await;
        return Ok(());
    }
    let link = match parameters.port.as_str() {
        "" => virtual_port(&node.namespace()?)?,
        path => PathBuf::from(path),
    };
    let outlets = Outlets {
        frames: FrameOutlet::new(out.into_iter().collect(), &mut node, "sim/image_raw")?,
        truths: node.publisher("sim/truth", QosProfile::default().keep_last(50))?,
        frame_id: frame_in(&node.namespace()?, "camera_optical_frame"),
    };
    let device = format!("virtual {} {}", parameters.microscope.objective, link.display());
    let autostart = parameters.autostart;
    let microscope = SimMicroscope {
        outlets: Arc::new(Mutex::new(outlets)),
        tally: Tally::default(),
        clock: app.clock,
        parameters,
        link,
    };
    let mut base = Base::start(node, app, "simulation", &device, autostart)?;
    base.presence.introduce(About {
        capabilities: capabilities(&["sim/image_raw", "sim/truth"]),
        device,
        ..About::default()
    });
    base.run(microscope).await
}

/// The node between its events.
struct SimMicroscope {
    parameters: SimMicroscopeParameters,
    /// Where the stage's port appears.
    link: PathBuf,
    clock: Clock,
    outlets: Arc<Mutex<Outlets>>,
    tally: Tally,
}

/// A slide under the optics and its camera's clock.
struct Bench {
    /// None while it exposes.
    camera: Option<VirtualCamera>,
    shutter: Shutter,
    due: Interval,
    tick: u64,
}

impl Managed for SimMicroscope {
    type Device = Bench;
    type Event = Event;

    fn open(&mut self) -> BoxFuture<'static, Result<Bench>> {
        let (parameters, link, clock) = (self.parameters.clone(), self.link.clone(), self.clock);
        let outlets = self.outlets.clone();
        let opening = tokio::task::spawn_blocking(move || open(&parameters, &link, clock, outlets));
        async { opening.await.context("making the slide panicked")? }.boxed()
    }

    fn handle_opened(&mut self, _: &mut Bench, base: &mut Base) -> Result<()> {
        tracing::info!(
            node = base.name,
            "slide {} under {}, stage at {}",
            self.parameters.seed,
            self.parameters.microscope.objective,
            self.link.display()
        );
        Ok(())
    }

    async fn next_event(&mut self, bench: &mut Bench, is_active: bool) -> Event {
        if !is_active {
            return std::future::pending().await;
        }
        bench.due.tick().await;
        Event::Exposure
    }

    async fn handle(&mut self, event: Event, bench: &mut Bench, base: &mut Base) -> Result<Flow> {
        match event {
            Event::Exposure => self.handle_exposure(bench, base).await,
        }
    }

    fn handle_switch(&mut self, wish: Wish, _: &mut Bench, base: &mut Base) {
        base.presence.set(if base.is_active() {
            Work::Busy("simulating".into())
        } else {
            Work::inactive()
        });
        wish.done();
    }

    fn handle_second(&mut self, _: &mut Bench, base: &mut Base) {
        self.tally.report(base, &self.link);
    }

    async fn close(&mut self, bench: Bench, _: &mut Base) {
        drop(bench);
        // A stage that is gone is nowhere.
        position_store(&self.link).remove();
    }
}

impl SimMicroscope {
    async fn handle_exposure(&mut self, bench: &mut Bench, base: &mut Base) -> Result<Flow> {
        // The timer is too coarse for a jitter: the exposure is placed in time, and awaited whole.
        let now = base.now();
        let exposure = bench.shutter.exposure(bench.tick, now);
        bench.tick += 1;
        tokio::time::sleep(exposure.end.since(now)).await;
        let Some(mut busy) = bench.camera.take() else {
            bail!("the virtual camera is gone")
        };
        // Rendering takes tens of milliseconds on every core it can get: it must not hold a worker of the runtime.
        let exposing = tokio::task::spawn_blocking(move || {
            let outcome = busy.expose(exposure);
            (busy, outcome)
        });
        let (returned, outcome) = tokio::select! {
            // The end of the process need not wait for a picture.
            () = base.app.stopped() => return Ok(Flow::End),
            exposed = exposing => exposed.context("the virtual camera panicked")?,
        };
        bench.camera = Some(returned);
        self.tally.exposures += 1;
        self.tally
            .rendering_ms
            .extend(outcome?.map(|took| 1e3 * took.as_secs_f64()));
        Ok(Flow::Continue)
    }
}

/// Numbers for the diagnostics of one second.
#[derive(Default)]
struct Tally {
    exposures: u64,
    /// Of those that were asked for.
    rendering_ms: Vec<f64>,
}

impl Tally {
    /// Publishes the second that is over, and begins the next.
    fn report(&mut self, base: &mut Base, link: &Path) {
        let rendering_ms = std::mem::take(&mut self.rendering_ms);
        let exposures = std::mem::take(&mut self.exposures);
        let (severity, message) = match (base.is_active(), rendering_ms.len()) {
            (false, _) => (Severity::Warn, "not active"),
            (true, 0) => (Severity::Ok, "nothing takes frames"),
            (true, _) => (Severity::Ok, "simulating"),
        };
        let values = [
            ("frames_per_second", rendering_ms.len().to_string()),
            ("exposures_per_second", exposures.to_string()),
            ("rendering_ms_median", to_text(median(rendering_ms))),
            ("port", link.display().to_string()),
            ("port_state", "offered".to_owned()),
        ];
        base.report(severity, message, &values, Work::Busy("simulating".into()));
    }
}

/// The slide under the optics, and the stage at its port.
fn open(
    parameters: &SimMicroscopeParameters,
    link: &Path,
    clock: Clock,
    outlets: Arc<Mutex<Outlets>>,
) -> Result<Bench> {
    let shutter = parameters.shutter()?;
    let microscope = microscope(parameters)?;
    let start_um = parameters.start_um(microscope.microscope())?;
    let emulator = EmulatorConfig {
        physical_offset_um: start_um,
        mechanics: parameters.mechanics()?,
        ..EmulatorConfig::default()
    };
    let stage = EmulatedStage::new(emulator, Arc::new(move || clock.now()));
    // It knows where it is, as a stage that was just homed does. x and y count from the middle of the slide, z from power-up.
    let [x_um, y_um, _] = start_um;
    let announce = || {
        if let Err(error) = position_store(link).save(&Remembered::powered_up_at([x_um, y_um, 0.0])) {
            tracing::warn!(
                "the virtual stage cannot say where it stands: {error}; call ~/accept_position of the stepper bridge"
            );
        }
    };
    let port = EmulatedPort::attach_announced(link, stage, announce)
        .with_context(|| format!("the virtual stage cannot offer its port at {}", link.display()))?;
    let mut due = tokio::time::interval(shutter.period());
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let camera = VirtualCamera {
        microscope,
        port,
        outlets,
        sequence: 0,
    };
    Ok(Bench {
        camera: Some(camera),
        shutter,
        due,
        tick: 0,
    })
}

impl SimMicroscopeParameters {
    /// When exposures happen.
    fn shutter(&self) -> Result<Shutter> {
        Shutter::new(
            self.seed as u64,
            self.frame_rate,
            self.frame_jitter,
            self.exposure,
        )
        .map_err(|error| anyhow!("sim_microscope {error}"))
    }

    /// Where x, y and z are when the controller powers up, µm.
    fn start_um(&self, microscope: &Microscope) -> Result<[f64; 3]> {
        let (x_um, y_um) = (self.x * 1e6, self.y * 1e6);
        let spread = SiteRandom::new(self.seed as u64, START).range(-1.0, 1.0) * self.start_spread;
        let defocus_um = (self.start_defocus + spread) * 1e6;
        let start_um = [x_um, y_um, microscope.focus_height_um(x_um, y_um) + defocus_um];
        for (axis, (um, (low_um, high_um))) in Axis::ALL.into_iter().zip(start_um.into_iter().zip(STOPS_UM)) {
            if !(low_um..=high_um).contains(&um) {
                bail!(
                    "sim_microscope cannot start with {axis:?} at {um} µm: its travel is {low_um} to {high_um} µm; \
                     change x, y or start_defocus"
                );
            }
        }
        Ok(start_um)
    }

    /// The mechanics of x, y and z.
    fn mechanics(&self) -> Result<[MechanicsConfig; 3]> {
        let mut z = MechanicsConfig::fine_focus()
            .with_backlash(self.backlash * 1e6)?
            .with_drift(Drift {
                warm_up_um: self.drift * 1e6,
                warm_up_s: self.drift_time,
                swing_um: self.drift_swing * 1e6,
                swing_s: self.drift_period,
            })?;
        z = if self.settling_frequency == 0.0 {
            z.without_settling()
        } else {
            z.with_settling(self.settling_frequency, self.settling_damping)?
        };
        let [x_stops, y_stops, z_stops] = STOPS_UM;
        let between = |axis: MechanicsConfig, (low_um, high_um): (f64, f64)| {
            axis.with_stops(low_um, high_um, SWITCH_MARGIN_UM)
        };
        Ok([
            between(MechanicsConfig::cross_table(), x_stops)?,
            between(MechanicsConfig::cross_table(), y_stops)?,
            between(z, z_stops)?,
        ])
    }
}

fn microscope(parameters: &SimMicroscopeParameters) -> Result<LiveMicroscope> {
    let config = MicroscopeConfig {
        objective: Objective::by_name(&parameters.microscope.objective)?,
        slide_seed: parameters.seed as u64,
        noise: if parameters.noise { Noise::On } else { Noise::Off },
        sensor: SensorConfig {
            bayer: parameters.bayer,
            exposure_ms: 1e3 * parameters.exposure,
            ..SensorConfig::default()
        },
        ..MicroscopeConfig::default()
    };
    Ok(LiveMicroscope::new(config)?)
}

struct Outlets {
    frames: FrameOutlet,
    truths: Publisher<SimTruth>,
    frame_id: Arc<str>,
}

struct VirtualCamera {
    microscope: LiveMicroscope,
    port: EmulatedPort,
    outlets: Arc<Mutex<Outlets>>,
    sequence: u64,
}

impl VirtualCamera {
    /// One exposure: the truth always, the picture if it is wanted (then how long it took to make).
    fn expose(&mut self, exposure: Exposure) -> Result<Option<Duration>> {
        let exposed = exposure.middle;
        let place = |at| Axis::ALL.map(|axis| self.port.position_um(axis, at));
        let (first, middle, last) = (place(exposure.start), place(exposed), place(exposure.end));
        let [x_um, y_um, z_um] = middle;
        let focus_um = self.microscope.microscope().focus_height_um(x_um, y_um);
        let defocus_um = z_um - focus_um;
        let outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        outlets.truths.publish(&SimTruth {
            header: header(exposed, &outlets.frame_id),
            z: z_um * 1e-6,
            defocus: defocus_um * 1e-6,
            x: x_um * 1e-6,
            y: y_um * 1e-6,
        });
        if !outlets.frames.is_wanted() {
            return Ok(None);
        }
        let began = std::time::Instant::now();
        // Farther away the optics are not modelled; the picture stays as it is there.
        let farthest_um = self.microscope.microscope().farthest_um() - DEFOCUS_MARGIN_UM;
        let most_um = [MOST_TRAVEL_UM, MOST_TRAVEL_UM, farthest_um];
        let travel_um = Axis::ALL.map(Axis::index).map(|axis| {
            let um = last[axis] - first[axis];
            if um.abs() < LEAST_TRAVEL_UM {
                0.0
            } else {
                um.clamp(-most_um[axis], most_um[axis])
            }
        });
        let reach_um = farthest_um - 0.5 * travel_um[2].abs();
        let pose = Pose {
            x_um,
            y_um,
            z_um: focus_um + defocus_um.clamp(-reach_um, reach_um),
        };
        let rgb = self.microscope.expose_moving(pose, travel_um, self.sequence)?;
        let MicroscopeConfig { width, height, .. } = *self.microscope.microscope().config();
        let frame = Arc::new(Frame::new(width, height, rgb, exposed, self.sequence)?);
        self.sequence += 1;
        let shot = Shot {
            frame,
            frame_id: outlets.frame_id.clone(),
        };
        let took = began.elapsed();
        outlets.frames.send(&shot);
        Ok(Some(took))
    }
}
