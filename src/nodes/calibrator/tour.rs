//! The stage and the camera in the hands of a calibration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use r2r::QosProfile;
use r2r::hhnet::action::MoveStage;
use r2r::hhnet::msg::StageState;
use r2r::sensor_msgs::msg::JointState;
use r2r::std_msgs::msg::String as Text;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::super::demand::By;
use super::super::frames::{FrameInput, ShotReceiver};
use super::super::recorded::{REFUSAL, Recorded};
use super::super::stamps;
use super::Handle;
use crate::frame::Frame;
use crate::ros::action::client::{Accepted, ActionClient};
use crate::ros::clock::Clock;
use crate::ros::convert::from_time;
use crate::ros::node::{Builder, Newest, latched};
use crate::stage::heights::Heights;
use crate::units::Instant;

/// Age of a state of the stage above which the bridge counts as gone.
const STATE_LIMIT: Duration = Duration::from_secs(2);
/// Time in which the bridge answers.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a move is tried that ends beside its target although the stage can move; the target stays the same.
const MOST_TRIES: usize = 2;
/// Longest move.
const MOVE_LIMIT: Duration = Duration::from_secs(120);
/// Time in which an interrupted move has come to a stand.
const STAND_LIMIT: Duration = Duration::from_secs(2);
/// Time in which a frame of a stage at rest arrives.
const FRAME_LIMIT: Duration = Duration::from_secs(20);
/// Exposure and transport of an image whose stamp says nothing.
const TRANSPORT: Duration = Duration::from_millis(500);
/// Time in which a classifier reads a new flat field; on a busy computer that takes seconds.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// Time after the end of a ride in which what was exposed on it, and where the stage was, still arrives.
const TAIL: Duration = Duration::from_millis(300);
/// How often a client's wish to cancel is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Why a calibration ends early.
pub(super) enum End {
    /// A client asked to stop, or the node leaves.
    Stopped,
    /// The stage does not do what it should: it is left where it is.
    Stage(String),
    /// The frames are of no use, or something else is wrong.
    Failed(String),
}

/// A frame that was exposed on a way.
pub(super) struct Seen {
    pub(super) frame: Arc<Frame>,
    /// Where the stage said it was at the frame's stamp, and how fast it went, µm and µm/s.
    pub(super) z_um: f64,
    pub(super) um_per_s: f64,
}

/// Where a calibration began.
pub(super) struct Start {
    /// x, y and z, µm.
    pub(super) position_um: [f64; 3],
    /// How often `~/stop` had been called.
    stops: u32,
}

/// What a calibration works with.
pub(super) struct Tour {
    mover: ActionClient<MoveStage::Action>,
    stages: Newest<StageState>,
    joints: Newest<JointState>,
    frames: FrameInput,
    in_force: Newest<Text>,
    recorded: Recorded,
    stopped: watch::Receiver<bool>,
    clock: Clock,
    stage: Option<StageState>,
    joint: Option<JointState>,
    /// When the stage was last said to stand.
    stood: Instant,
}

impl Tour {
    /// On a node that does not spin yet.
    pub(super) fn new(
        node: &mut Builder,
        frames: Option<ShotReceiver>,
        stopped: watch::Receiver<bool>,
        clock: Clock,
    ) -> Result<Self> {
        let frames = FrameInput::by(By::Calibrator, frames, node, "image_raw")?;
        let mut frames = frames.with_infos(node, "camera_info")?;
        // Silence would count as a wish for frames.
        frames.look(false);
        Ok(Self {
            mover: ActionClient::new(node, "move_stage")?,
            stages: node.subscribe("stage_state", QosProfile::default())?,
            joints: node.subscribe("joint_states", QosProfile::default())?,
            frames,
            in_force: node.subscribe("focus/flat_field", latched())?,
            recorded: Recorded::new(node, ["camera"])?,
            stopped,
            clock,
            stage: None,
            joint: None,
            stood: Instant::default(),
        })
    }

    /// Keeps the camera informed; call once a second.
    pub(super) fn remind(&self) {
        self.frames.remind();
    }

    /// Frames are wanted from now on.
    pub(super) fn look(&mut self) {
        self.frames.look(true);
    }

    /// Frames are not wanted any more.
    pub(super) fn rest(&mut self) {
        self.frames.look(false);
    }

    /// Where the stage stands, if it can be driven.
    pub(super) fn start(&mut self) -> Result<Start, End> {
        let failed = |reason: &str| End::Failed(reason.to_owned());
        if self.recorded.is_recorded() {
            return Err(failed(REFUSAL));
        }
        let position_um = self.position_um();
        let stage = self.state()?;
        if stage.state != StageState::IDLE as u8 {
            return Err(End::Failed(match stage.reason.as_str() {
                "" => "the stage moves: let it come to rest first".to_owned(),
                reason => format!("the stage cannot be driven: {reason}"),
            }));
        }
        if !(stage.position_valid && stage.xy_valid) {
            return Err(failed(
                "the stage does not know where it is: call ~/home or ~/accept_position of the stepper bridge first",
            ));
        }
        let stops = stage.stops;
        match position_um {
            Some(position_um) => Ok(Start { position_um, stops }),
            None => Err(failed(
                "joint_states does not say where the stage is: is the stepper bridge active?",
            )),
        }
    }

    /// The newest state of the stage.
    fn state(&mut self) -> Result<&StageState, End> {
        while let Some(Some(stage)) = self.stages.next().now_or_never() {
            self.stage = Some(stage);
        }
        let now = self.clock.now();
        let is_fresh = |stage: &&StageState| now.since(from_time(&stage.header.stamp)) < STATE_LIMIT;
        let fresh = self.stage.as_ref().filter(is_fresh);
        fresh.ok_or_else(|| {
            End::Stage("the stepper bridge does not say how the stage is: is it active?".to_owned())
        })
    }

    /// x, y and z, as far as they are known.
    fn position_um(&mut self) -> Option<[f64; 3]> {
        while let Some(Some(joint)) = self.joints.next().now_or_never() {
            self.joint = Some(joint);
        }
        let joint = self.joint.as_ref()?;
        let at = |axis: &str| {
            let index = joint.name.iter().position(|name| name == axis)?;
            joint
                .position
                .get(index)
                .filter(|at| at.is_finite())
                .map(|at| 1e6 * at)
        };
        Some([at("x")?, at("y")?, at("z")?])
    }

    /// Drives to a place, µm, NaN for an axis that stays; returns when the stage stands there.
    pub(super) async fn go(&mut self, to_um: [f64; 3], start: &Start, handle: &Handle) -> Result<(), End> {
        let mut result = MoveStage::Result::default();
        for _ in 0..MOST_TRIES {
            self.check_goes_on(start, handle)?;
            result = self.drive(to_um, handle).await?;
            if result.code == MoveStage::Result::REACHED as u8 {
                self.stood = self.clock.now();
                return Ok(());
            }
            // What took over has the stage; a fault does not go away by itself.
            let is_idle = self.state()?.state == StageState::IDLE as u8;
            if result.code != MoveStage::Result::FAILED as u8 || !is_idle {
                break;
            }
        }
        Err(not_moved(&result))
    }

    /// Whether nobody has stopped the stage or the calibration.
    fn check_goes_on(&mut self, start: &Start, handle: &Handle) -> Result<(), End> {
        if self.state()?.stops != start.stops {
            return Err(End::Stage("~/stop was called".to_owned()));
        }
        if is_stopped(&self.stopped, handle) {
            return Err(End::Stopped);
        }
        Ok(())
    }

    /// Drives to a height at most at this speed, µm/s; what was exposed on the way, one frame in `every` time.
    pub(super) async fn ride(
        &mut self,
        z_um: f64,
        um_per_s: f64,
        every: Duration,
        start: &Start,
        handle: &Handle,
    ) -> Result<Vec<Seen>, End> {
        self.check_goes_on(start, handle)?;
        let goal = MoveStage::Goal {
            x: f64::NAN,
            y: f64::NAN,
            z: 1e-6 * z_um,
            max_speed: 1e-6 * um_per_s,
            ..MoveStage::Goal::default()
        };
        let sent = self.mover.send(goal, PATIENCE).await;
        let sent = sent.map_err(|error| End::Stage(error.to_string()))?;
        let ended = self.mover.result(sent, MOVE_LIMIT).then(|result| async {
            sleep(TAIL).await;
            result
        });
        tokio::pin!(ended);
        let mut heights = Heights::default();
        let (mut seen, mut waiting): (Vec<Seen>, Vec<Arc<Frame>>) = (Vec::new(), Vec::new());
        let result = loop {
            tokio::select! {
                result = &mut ended => break result,
                Some(stage) = self.stages.next() => {
                    let at = from_time(&stage.header.stamp);
                    heights.handle_report(at, stage.z.is_finite().then_some(1e6 * stage.z));
                    waiting.retain(|frame| {
                        let Some(z_um) = heights.at(frame.stamp) else { return true };
                        seen.push(Seen {
                            frame: Arc::clone(frame),
                            z_um,
                            um_per_s: heights.um_per_s(frame.stamp),
                        });
                        false
                    });
                    self.stage = Some(stage);
                }
                shot = self.frames.next() => match shot {
                    Some(Ok(shot)) => {
                        let kept = waiting.last().or(seen.last().map(|seen| &seen.frame));
                        if kept.is_none_or(|kept| shot.frame.stamp.since(kept.stamp) >= every) {
                            waiting.push(shot.frame);
                        }
                    }
                    Some(Err(bad)) => return Err(End::Failed(bad.to_string())),
                    None => return Err(End::Failed("the camera has ended".to_owned())),
                },
                () = stop(&self.stopped, handle) => {
                    call_off(&self.mover, sent).await;
                    return Err(End::Stopped);
                }
            }
        };
        let (_, result) = result.map_err(|error| End::Stage(error.to_string()))?;
        if result.code != MoveStage::Result::REACHED as u8 {
            return Err(not_moved(&result));
        }
        self.stood = self.clock.now();
        seen.retain(|seen| seen.um_per_s != 0.0);
        Ok(seen)
    }

    /// One move; how it ended.
    async fn drive(&mut self, to_um: [f64; 3], handle: &Handle) -> Result<MoveStage::Result, End> {
        let [x, y, z] = to_um.map(|um| 1e-6 * um);
        let goal = MoveStage::Goal {
            x,
            y,
            z,
            ..MoveStage::Goal::default()
        };
        let sent = self.mover.send(goal, PATIENCE).await;
        let sent = sent.map_err(|error| End::Stage(error.to_string()))?;
        tokio::select! {
            result = self.mover.result(sent, MOVE_LIMIT) => match result {
                Ok((_, result)) => Ok(result),
                Err(error) => Err(End::Stage(error.to_string())),
            },
            () = stop(&self.stopped, handle) => {
                call_off(&self.mover, sent).await;
                Err(End::Stopped)
            }
        }
    }

    /// Drives back to the start: first in x and y, then down.
    pub(super) async fn come_back(&mut self, start: &Start, handle: &Handle) -> Result<(), End> {
        self.rest();
        let [x_um, y_um, z_um] = start.position_um;
        self.go([x_um, y_um, f64::NAN], start, handle).await?;
        self.go([f64::NAN, f64::NAN, z_um], start, handle).await
    }

    /// The first frame that was exposed when the stage had stood for this long.
    pub(super) async fn frame(&mut self, settle: Duration, handle: &Handle) -> Result<Arc<Frame>, End> {
        let since = self.stood + settle;
        let seeking = async {
            loop {
                let shot = match self.frames.next().await {
                    Some(Ok(shot)) => shot,
                    Some(Err(bad)) => return Err(End::Failed(bad.to_string())),
                    None => return Err(End::Failed("the camera has ended".to_owned())),
                };
                let exposed = match self.frames.since_arrival() {
                    None => shot.frame.stamp,
                    Some(ago) => {
                        let arrived = self.clock.now().before(ago);
                        let is_known = stamps::check(shot.frame.stamp, arrived).is_ok();
                        if is_known {
                            shot.frame.stamp
                        } else {
                            arrived.before(TRANSPORT)
                        }
                    }
                };
                if exposed >= since {
                    return Ok(shot.frame);
                }
            }
        };
        tokio::select! {
            frame = timeout(FRAME_LIMIT, seeking) => frame.unwrap_or_else(|_| {
                Err(End::Failed(format!("no frame arrived within {} s: is the camera active?", FRAME_LIMIT.as_secs())))
            }),
            () = stop(&self.stopped, handle) => Err(End::Stopped),
        }
    }

    /// Where the stage says it stands, x, y and z, µm.
    pub(super) fn stands_um(&mut self) -> Result<[f64; 3], End> {
        let position_um = self.position_um();
        position_um.ok_or_else(|| {
            End::Stage(
                "joint_states does not say where the stage is: is the stepper bridge active?".to_owned(),
            )
        })
    }

    /// Pixels of the camera that make one of this frame, across and down.
    pub(super) async fn binning(&mut self, frame: &Frame) -> [u32; 2] {
        self.frames.binning(frame).await
    }

    /// Waits until a classifier says that it divides by the flat field of this date; false if none does.
    pub(super) async fn hears_of(&mut self, made: &str, handle: &Handle) -> bool {
        let hearing = async {
            while let Some(text) = self.in_force.next().await {
                if text.data == made {
                    return true;
                }
            }
            false
        };
        tokio::select! {
            heard = timeout(READ_LIMIT, hearing) => heard.unwrap_or(false),
            () = stop(&self.stopped, handle) => false,
        }
    }
}

/// Ends a move; whether that is answered or not, it ends at its target.
async fn call_off(mover: &ActionClient<MoveStage::Action>, sent: Accepted) {
    _ = mover.cancel(sent, STAND_LIMIT).await.is_ok();
    _ = mover.result(sent, STAND_LIMIT).await.is_ok();
}

fn not_moved(result: &MoveStage::Result) -> End {
    End::Stage(format!(
        "the stage was not moved to its place: {}",
        result.message
    ))
}

fn is_stopped(stopped: &watch::Receiver<bool>, handle: &Handle) -> bool {
    *stopped.borrow() || handle.is_cancelling()
}

/// Waits until the calibration has to stop.
async fn stop(stopped: &watch::Receiver<bool>, handle: &Handle) {
    while !is_stopped(stopped, handle) {
        sleep(LOOK).await;
    }
}
