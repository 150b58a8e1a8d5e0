//! `camera`: frames from the virtual microscope, a folder of images, or a recorded z-stack.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{BoxFuture, FutureExt as _};
use r2r::QosProfile;
use r2r::hhnet::msg::About;
use r2r::sensor_msgs::msg::{CameraInfo, JointState};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Interval;

use super::demand::{POLL, Taker};
use super::frame_in;
use super::frames::{FrameInput, FrameOutlet, FrameTally, Preview, Shot, ShotReceiver, ShotSender};
use super::recorded::RECORDED_FRAMES;
use crate::drivers::TimeSource;
use crate::drivers::camera::{FolderSource, FrameSource, Pace, ZStackSource};
use crate::frame::Frame;
use crate::pictures::preview::Picture;
use crate::ros::app::App;
use crate::ros::convert::header;
use crate::ros::diagnostics::Severity;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::{Builder, Publisher, newest_reliable};
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities};
use crate::units::Micrometres;
use crate::{choices, parameters};

/// Time in which a failed virtual microscope ends the process.
const MICROSCOPE_END_LIMIT: Duration = Duration::from_secs(1);

choices! {
    /// Where frames come from.
    SourceKind {
        /// The virtual microscope.
        Sim = "sim",
        /// A folder of images, shown again and again.
        Folder = "folder",
        /// A recorded z-stack: the image of the height nearest to the stage's.
        ZStack = "zstack",
    }
}

parameters! {
    /// Parameters of the camera node.
    CameraParameters in "camera" {
        /// Where frames come from: `sim`, `folder` or `zstack`. What is recorded is shown again and again: see `identical_frames` of the
        /// classifier.
        source: SourceKind = SourceKind::Sim,
        /// Folder of images, for sources `folder` and `zstack`.
        path: String = "",
        /// Frames per second, for sources `folder` and `zstack`.
        rate: f64 [0.01..=1000.0, "1/s"] = 10.0,
        /// Height of the stage at which the z-stack's zero lies, m.
        stack_zero: f64 [-0.1..=0.1, "m"] = 0.0,
        /// `frame_id` of the images, below the node's namespace: `lab1/camera_optical_frame` in `/lab1`.
        frame_id: String = "camera_optical_frame",
        /// Most pictures per second on `image_raw/compressed`.
        preview_rate: f64 [0.1..=60.0, "1/s", live] = 5.0,
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for CameraParameters {
    fn check(&self) -> Result<()> {
        ensure!(
            self.source == SourceKind::Sim || !self.path.is_empty(),
            "camera source '{}' needs camera.path: set it to the folder of the images",
            self.source
        );
        ensure!(
            !self.frame_id.is_empty() && !self.frame_id.starts_with('/'),
            "camera frame_id is '{}': give a name without a leading slash",
            self.frame_id
        );
        Ok(())
    }
}

impl CameraParameters {
    /// What others can build on; recorded images cannot show what the stage does.
    fn capabilities(&self) -> &'static [&'static str] {
        match self.source {
            SourceKind::Sim => &["image_raw", "image_raw/compressed", "camera_info"],
            _ => &[
                "image_raw",
                "image_raw/compressed",
                "camera_info",
                RECORDED_FRAMES,
            ],
        }
    }
}

/// What recorded images are shown by; handles of a node are made before it spins.
#[derive(Clone)]
struct Recording {
    /// Newest height of the stage.
    heights: watch::Receiver<Micrometres>,
    clock: TimeSource,
}

impl Recording {
    fn new(node: &mut Builder, parameters: &CameraParameters, app: &App) -> Result<Self> {
        let (sender, heights) = watch::channel(Micrometres(0.0));
        if parameters.source == SourceKind::ZStack {
            let mut joints = node.subscribe::<JointState>("joint_states", QosProfile::default())?;
            tokio::spawn(async move {
                while let Some(state) = joints.next().await {
                    if let Some(height) = super::stage_z(&state) {
                        sender.send_replace(height);
                    }
                }
            });
        }
        let clock = app.clock;
        Ok(Self {
            heights,
            clock: Arc::new(move || clock.now()),
        })
    }

    /// Opens the recording, which takes seconds.
    fn open(self, parameters: &CameraParameters) -> Result<Box<dyn FrameSource>> {
        let path = Path::new(&parameters.path);
        let pace = Pace::new(Duration::from_secs_f64(1.0 / parameters.rate), self.clock);
        Ok(match parameters.source {
            SourceKind::ZStack => {
                let zero = Micrometres::from_metres(parameters.stack_zero);
                Box::new(
                    ZStackSource::open(path, zero, self.heights, pace).context("camera source 'zstack'")?,
                )
            }
            _ => Box::new(FolderSource::open(path, pace).context("camera source 'folder'")?),
        })
    }
}

/// The virtual microscope, of this process or another. The node keeps its end: it is made before the node spins.
struct VirtualSource(OwnedMutexGuard<FrameInput>);

impl FrameSource for VirtualSource {
    fn next_frame(&mut self) -> BoxFuture<'_, Result<Option<Arc<Frame>>>> {
        async {
            let shot = self.0.next().await.transpose()?;
            Ok(shot.map(|shot| shot.frame))
        }
        .boxed()
    }

    fn look(&mut self, is_wanted: bool) {
        self.0.look(is_wanted);
    }

    fn remind(&self) {
        self.0.remind();
    }

    fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

/// Everything the camera reacts to.
enum Event {
    /// A frame, or the end of the source.
    Frame(Result<Option<Arc<Frame>>>),
    /// The source is gone.
    Ended,
    /// Another node may want frames now.
    Demand,
}

/// Runs the node; `sim` are the virtual microscope's frames if it is in this process, `out` take what is captured.
///
/// # Errors
/// Bad parameters, an unusable source.
pub async fn run(app: App, sim: Option<ShotReceiver>, out: Vec<ShotSender>) -> Result<()> {
    let mut node = Builder::new("camera")?;
    let mut live = node.parameters::<CameraParameters>(app.clock)?;
    let parameters = live.borrow_and_update().clone();
    // As long as the receiver exists, the virtual microscope renders.
    let shots = sim.filter(|_| parameters.source == SourceKind::Sim);
    let sim = match parameters.source {
        SourceKind::Sim => {
            let input = FrameInput::new(shots, &mut node, "sim/image_raw")?;
            Some(Arc::new(Mutex::new(input)))
        }
        SourceKind::Folder | SourceKind::ZStack => None,
    };
    let camera = Camera {
        sim,
        recording: Recording::new(&mut node, &parameters, &app)?,
        outlets: Outlets {
            frames: FrameOutlet::new(out, &mut node, "image_raw")?,
            infos: node.publisher("camera_info", newest_reliable())?,
            info_taker: Taker::new(&mut node, "camera_info")?,
            preview: Preview::new(&mut node, "image_raw/compressed")?,
            frame_id: frame_in(&node.namespace()?, &parameters.frame_id),
        },
        poll: tokio::time::interval(POLL),
        tally: FrameTally::default(),
        taken: 0,
        looks: false,
        live,
    };
    let mut base = Base::start(node, app, "frames", &parameters.device(), parameters.autostart)?;
    base.presence.introduce(About {
        capabilities: capabilities(parameters.capabilities()),
        device: parameters.device(),
        ..About::default()
    });
    base.run(camera).await
}

/// The node between its events.
struct Camera {
    live: watch::Receiver<CameraParameters>,
    /// The virtual microscope, where that is the source.
    sim: Option<Arc<Mutex<FrameInput>>>,
    recording: Recording,
    outlets: Outlets,
    poll: Interval,
    tally: FrameTally,
    /// Frames of all times.
    taken: u64,
    /// Whether frames are wanted.
    looks: bool,
}

impl Managed for Camera {
    type Device = Box<dyn FrameSource>;
    type Event = Event;

    fn open(&mut self) -> BoxFuture<'static, Result<Self::Device>> {
        if let Some(input) = self.sim.clone() {
            return async { Ok(Box::new(VirtualSource(input.lock_owned().await)) as _) }.boxed();
        }
        let (parameters, recording) = (self.live.borrow().clone(), self.recording.clone());
        let opening = tokio::task::spawn_blocking(move || recording.open(&parameters));
        async { opening.await.context("opening the source panicked")? }.boxed()
    }

    fn handle_opened(&mut self, _: &mut Self::Device, base: &mut Base) -> Result<()> {
        let source = self.live.borrow().source;
        tracing::info!(node = base.name, "frames come from source '{source}'");
        Ok(())
    }

    async fn next_event(&mut self, source: &mut Self::Device, is_active: bool) -> Event {
        self.looks = is_active && self.outlets.is_wanted();
        source.look(self.looks);
        if is_active && source.has_ended() {
            return Event::Ended;
        }
        tokio::select! {
            taking = source.next_frame(), if self.looks => Event::Frame(taking),
            // A new subscriber waits for the first frame.
            () = self.outlets.frames.demanded() => Event::Demand,
            _ = self.poll.tick() => Event::Demand,
        }
    }

    async fn handle(&mut self, event: Event, _: &mut Self::Device, base: &mut Base) -> Result<Flow> {
        match event {
            Event::Frame(Ok(Some(frame))) => self.handle_frame(frame, base),
            Event::Frame(Ok(None)) | Event::Ended => return without_microscope(&base.app).await,
            Event::Frame(Err(error)) => return self.handle_failure(error),
            Event::Demand => {}
        }
        Ok(Flow::Continue)
    }

    fn handle_second(&mut self, source: &mut Self::Device, base: &mut Base) {
        let (severity, message) = match (base.is_active(), self.looks, self.tally.frames()) {
            (false, _, _) => (Severity::Warn, "not active"),
            (true, false, _) => (Severity::Ok, "nothing takes frames"),
            (true, true, 0) => (Severity::Warn, "no frame in the last second"),
            (true, true, _) => (Severity::Ok, "frames arrive"),
        };
        if !self.looks {
            self.tally.pause();
        }
        let [rate, drops, median, most] = self.tally.values();
        let (kind, frames) = (self.live.borrow().source.to_string(), self.taken.to_string());
        let mut values = vec![rate, drops, median, most, ("frames", frames), ("source", kind)];
        values.extend(source.health());
        let work = match severity {
            Severity::Ok if self.looks => Work::Busy(message.into()),
            Severity::Ok => Work::Idle(message.into()),
            Severity::Warn | Severity::Error => Work::Fault(message.into()),
        };
        base.report(severity, message, &values, work);
        source.remind();
    }

    async fn close(&mut self, mut source: Self::Device, _: &mut Base) {
        source.look(false);
    }
}

impl Camera {
    fn handle_frame(&mut self, frame: Arc<Frame>, base: &Base) {
        self.tally.handle_frame(&frame, base.now());
        self.outlets.publish(frame, self.live.borrow().preview_rate);
        self.taken += 1;
    }

    /// A source that fails is let go of; one that never worked, in a node that starts by itself, ends the process.
    fn handle_failure(&self, error: anyhow::Error) -> Result<Flow> {
        if self.taken == 0 && self.live.borrow().autostart {
            return Err(error);
        }
        Ok(Flow::Fail(format!("{error:#}")))
    }
}

impl CameraParameters {
    /// What the frames come from, for `~/about`.
    fn device(&self) -> String {
        match self.source {
            SourceKind::Sim => "virtual".to_owned(),
            source => format!("{source} {}", self.path),
        }
    }
}

/// The end of a camera whose virtual microscope is gone: one that failed ends the process and says itself why, one that
/// was never there does neither.
async fn without_microscope(app: &App) -> Result<Flow> {
    match tokio::time::timeout(MICROSCOPE_END_LIMIT, app.stopped()).await {
        Ok(()) => Ok(Flow::End),
        Err(_) => bail!(
            "camera source is 'sim', but sim_microscope.enabled is false: enable it, or choose another camera.source"
        ),
    }
}

struct Outlets {
    frames: FrameOutlet,
    infos: Publisher<CameraInfo>,
    /// The classifier, where it is in another process.
    info_taker: Taker,
    preview: Preview,
    frame_id: Arc<str>,
}

impl Outlets {
    /// Whether anything takes frames, pictures of them, or what is said of them.
    fn is_wanted(&self) -> bool {
        let subscriptions = self.infos.subscriptions();
        self.frames.is_wanted() || self.preview.is_wanted() || self.info_taker.is_wanted(subscriptions)
    }

    /// The image in step with its info, same stamp and frame; a small picture of it at most `preview_rate` times a second.
    fn publish(&mut self, frame: Arc<Frame>, preview_rate: f64) {
        let shot = Shot {
            frame,
            frame_id: self.frame_id.clone(),
        };
        // An all-zero K says that the camera is not calibrated.
        self.infos.publish(&CameraInfo {
            header: header(shot.frame.stamp, &shot.frame_id),
            height: shot.frame.height() as u32,
            width: shot.frame.width() as u32,
            distortion_model: "plumb_bob".to_owned(),
            ..CameraInfo::default()
        });
        self.frames.send(&shot);
        self.preview.show(&shot, preview_rate, Picture::of);
    }
}
