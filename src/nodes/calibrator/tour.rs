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
use crate::ros::action::client::ActionClient;
use crate::ros::clock::Clock;
use crate::ros::convert::from_time;
use crate::ros::node::{Builder, Newest, latched};
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
            if self.state()?.stops != start.stops {
                return Err(End::Stage("~/stop was called".to_owned()));
            }
            if is_stopped(&self.stopped, handle) {
                return Err(End::Stopped);
            }
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
        Err(End::Stage(format!(
            "the stage was not moved to its place: {}",
            result.message
        )))
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
                // Whether it is answered or not, the move ends at its target.
                _ = self.mover.cancel(sent, STAND_LIMIT).await.is_ok();
                _ = self.mover.result(sent, STAND_LIMIT).await.is_ok();
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

fn is_stopped(stopped: &watch::Receiver<bool>, handle: &Handle) -> bool {
    *stopped.borrow() || handle.is_cancelling()
}

/// Waits until the calibration has to stop.
async fn stop(stopped: &watch::Receiver<bool>, handle: &Handle) {
    while !is_stopped(stopped, handle) {
        sleep(LOOK).await;
    }
}
