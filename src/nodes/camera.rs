//! `camera`: frames from the virtual microscope, a folder of images, or a recorded z-stack.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{BoxFuture, FutureExt as _};
use r2r::hhnet::msg::About;
use r2r::sensor_msgs::msg::{CameraInfo, JointState};
use r2r::{Publisher, QosProfile};
use tokio::sync::watch;

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
use crate::ros::diagnostics::{Diagnostics, Severity};
use crate::ros::lifecycle::{Lifecycle, Wish};
use crate::ros::node::{Builder, newest_reliable};
use crate::ros::params::Checked;
use crate::ros::presence::{Presence, Work, capabilities};
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

/// The virtual microscope, of this process or another.
struct VirtualSource<'a>(&'a mut FrameInput);

impl FrameSource for VirtualSource<'_> {
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

/// Opens the source; decoding a folder takes seconds, in which the process must still hear that it is to end.
async fn open<'a>(
    parameters: &CameraParameters,
    sim: &'a mut Option<FrameInput>,
    recording: &Recording,
) -> Result<Box<dyn FrameSource + 'a>> {
    if let Some(input) = sim {
        return Ok(Box::new(VirtualSource(input)));
    }
    let (parameters, recording) = (parameters.clone(), recording.clone());
    let opened = tokio::task::spawn_blocking(move || recording.open(&parameters)).await;
    opened
        .context("opening the source panicked")?
        .map(|source| source as _)
}

/// Runs the node; `sim` are the virtual microscope's frames if it is in this process, `out` takes what is captured.
///
/// # Errors
/// Bad parameters, an unusable source.
pub async fn run(app: App, sim: Option<ShotReceiver>, out: Option<ShotSender>) -> Result<()> {
    let mut node = Builder::new("camera")?;
    let mut live = node.parameters::<CameraParameters>(app.clock)?;
    let parameters = live.borrow_and_update().clone();
    // As long as the receiver exists, the virtual microscope renders.
    let shots = sim.filter(|_| parameters.source == SourceKind::Sim);
    let mut sim = match parameters.source {
        SourceKind::Sim => Some(FrameInput::new(shots, &mut node, "sim/image_raw")?),
        SourceKind::Folder | SourceKind::ZStack => None,
    };
    let recording = Recording::new(&mut node, &parameters, &app)?;
    let mut outlets = Outlets {
        frames: FrameOutlet::new(out, &mut node, "image_raw")?,
        infos: node.publisher("camera_info", newest_reliable())?,
        info_taker: Taker::new(&mut node, "camera_info")?,
        preview: Preview::new(&mut node, "image_raw/compressed")?,
        frame_id: frame_in(&node.namespace()?, &parameters.frame_id),
    };
    let mut diagnostics = Diagnostics::new(&mut node, "frames", &parameters.device())?;
    let mut presence = Presence::new(&mut node, app.clock)?;
    let mut lifecycle = Lifecycle::new(&mut node, &app, parameters.autostart)?;
    let name = node.name().to_owned();
    let spinning = node.spin()?;
    presence.introduce(About {
        capabilities: capabilities(parameters.capabilities()),
        device: parameters.device(),
        ..About::default()
    });
    presence.set(Work::inactive());

    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut poll = tokio::time::interval(POLL);
    let mut tally = FrameTally::default();
    let mut taken = 0_u64;
    while let Some(wish) = lifecycle.configure(&app, &mut diagnostics).await {
        let opened = tokio::select! {
            () = app.stopped() => break,
            opened = open(&parameters, &mut sim, &recording) => opened,
        };
        let Some(mut source) = wish.settle(opened)? else {
            continue;
        };
        presence.set(Work::inactive());
        tracing::info!(node = name, "frames come from source '{}'", parameters.source);
        let mut is_active = false;
        let leaving = loop {
            let looks = is_active && outlets.is_wanted();
            source.look(looks);
            if is_active && source.has_ended() {
                return without_microscope(&app).await;
            }
            tokio::select! {
                () = app.stopped() => break Ok(None),
                wish = lifecycle.next() => {
                    if let Some(wish) = wish.switch(&mut is_active) {
                        break Ok(Some(wish));
                    }
                    presence.set(if is_active { Work::Idle("ready".into()) } else { Work::inactive() });
                }
                taking = source.next_frame(), if looks => {
                    match taking {
                        Ok(Some(frame)) => {
                            tally.handle_frame(&frame, app.clock.now());
                            outlets.publish(frame, live.borrow_and_update().preview_rate);
                        }
                        Ok(None) => return without_microscope(&app).await,
                        // A source that never worked, in a node that starts by itself.
                        Err(error) if taken == 0 && parameters.autostart => return Err(error),
                        Err(error) => break Err(error),
                    }
                    taken += 1;
                }
                // A new subscriber waits for the first frame.
                () = outlets.frames.demanded() => {}
                _ = poll.tick() => {}
                _ = second.tick() => {
                    let (severity, message) = match (is_active, looks, tally.frames()) {
                        (false, _, _) => (Severity::Warn, "not active"),
                        (true, false, _) => (Severity::Ok, "nobody looks"),
                        (true, true, 0) => (Severity::Warn, "no frame in the last second"),
                        (true, true, _) => (Severity::Ok, "frames arrive"),
                    };
                    if !looks {
                        tally.pause();
                    }
                    let [rate, drops, median, most] = tally.values();
                    let (kind, frames) = (parameters.source.to_string(), taken.to_string());
                    let mut values = vec![rate, drops, median, most, ("frames", frames), ("source", kind)];
                    values.extend(source.health());
                    diagnostics.publish(app.clock.now(), severity, message, &values);
                    source.remind();
                    if is_active {
                        presence.set(match severity {
                            Severity::Ok if looks => Work::Busy(message.into()),
                            Severity::Ok => Work::Idle(message.into()),
                            Severity::Warn | Severity::Error => Work::Fault(message.into()),
                        });
                    }
                }
            }
        };
        source.look(false);
        drop(source);
        match leaving {
            Ok(wish) => {
                presence.set(Work::inactive());
                wish.into_iter().for_each(Wish::done);
            }
            Err(error) => {
                lifecycle.fail(&format!("{error:#}")).await;
                presence.set(lifecycle.work());
            }
        }
    }
    drop(spinning);
    Ok(())
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
async fn without_microscope(app: &App) -> Result<()> {
    match tokio::time::timeout(MICROSCOPE_END_LIMIT, app.stopped()).await {
        Ok(()) => Ok(()),
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
    /// Whether anybody takes frames, pictures of them, or what is said of them.
    fn is_wanted(&self) -> bool {
        let subscriptions = self.infos.get_inter_process_subscription_count().unwrap_or(0);
        self.frames.is_wanted() || self.preview.is_wanted() || self.info_taker.is_wanted(subscriptions)
    }

    /// The image in step with its info, same stamp and frame; a small picture of it at most `preview_rate` times a second.
    fn publish(&mut self, frame: Arc<Frame>, preview_rate: f64) {
        let shot = Shot {
            frame,
            frame_id: self.frame_id.clone(),
        };
        // An all-zero K says that the camera is not calibrated. Publishing fails only while the process ends.
        drop(self.infos.publish(&CameraInfo {
            header: header(shot.frame.stamp, &shot.frame_id),
            height: shot.frame.height() as u32,
            width: shot.frame.width() as u32,
            distortion_model: "plumb_bob".to_owned(),
            ..CameraInfo::default()
        }));
        self.frames.send(&shot);
        self.preview.show(&shot, preview_rate, Picture::of);
    }
}
