//! Goals of the `move_stage` action: from metres to a move of the stage, and from its status to an outcome.

use std::time::Duration;

use r2r::hhnet::action::MoveStage;

use crate::drivers::serial::StageHandle;
use crate::protocol::status::{Refusal, StageState, StageStatus};
use crate::ros::action::{GoalHandle, GoalRequest};
use crate::ros::app::Clock;
use crate::units::{Instant, Micrometres};

type Request = GoalRequest<MoveStage::Action>;
type Handle = GoalHandle<MoveStage::Action>;

/// How far from its target a stage may stand and have reached it, µm: more than a microstep, far less than a depth of field.
const ARRIVED_UM: f64 = 0.3;
/// Time beyond twice the planned one that a move may take.
const SPARE: Duration = Duration::from_secs(2);
/// Time in which a stage at rest must have begun to move or have said why not.
const START_LIMIT: Duration = Duration::from_millis(500);

/// How the stage ended up, as the action says it.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Reached,
    Cancelled,
    Preempted,
    Failed,
}

/// The goals of one bridge: at most one is being worked on.
pub(super) struct MoveGoals {
    /// Height of the stage's zero in the coordinates of the goals.
    pub(super) zero: Micrometres,
    /// Greatest speed, µm/s.
    pub(super) max_um_per_s: f64,
    pub(super) running: Option<Running>,
}

/// The goal being worked on.
pub(super) struct Running {
    handle: Handle,
    target_um: [f64; 3],
    started: Instant,
    deadline: Instant,
}

impl MoveGoals {
    /// Takes up a goal: stops and ends an older one first; rejects what the stage refuses.
    pub(super) async fn take_up(&mut self, request: Request, stage: &StageHandle, clock: Clock) {
        // What cannot be done at all does not disturb what is being done.
        let status = stage.status().borrow().clone();
        let possible = self.path(&request.goal, &status).and_then(|(by_um, _)| {
            let reach = stage.check_reach(status.z_um(), by_um);
            reach.map_err(|refusal| refusal.to_string())
        });
        if let Err(reason) = possible {
            request.reject(&reason);
            return;
        }
        if self.running.is_some() {
            let stopped = stage.stop().await;
            let status = stage.status().borrow().clone();
            self.end(Outcome::Preempted, "a newer goal took over", &status);
            if let Err(unconfirmed) = stopped {
                request.reject(&unconfirmed.to_string());
                return;
            }
        }
        let status = stage.status().borrow().clone();
        match self.begin(&request.goal, &status, stage) {
            Ok((target_um, planned)) => {
                // Stopping an older goal took its time.
                let now = clock.now();
                self.running = Some(Running {
                    handle: request.accept(),
                    target_um,
                    started: now,
                    deadline: now + planned.saturating_mul(2) + SPARE,
                });
            }
            Err(refusal) => request.reject(&refusal),
        }
    }

    /// Starts the move; its target and the time it is planned to take.
    fn begin(
        &self,
        goal: &MoveStage::Goal,
        status: &StageStatus,
        stage: &StageHandle,
    ) -> Result<([f64; 3], Duration), String> {
        let (by_um, um_per_s) = self.path(goal, status)?;
        let target_um = std::array::from_fn(|axis| status.position_um[axis] + by_um[axis]);
        let length = by_um.iter().map(|um| um * um).sum::<f64>().sqrt();
        // Nothing to do is done at once; a NaN goes to the stage, which refuses it by name.
        let planned = match length {
            0.0 => Ok(Duration::ZERO),
            _ => stage.move_relative(by_um, um_per_s),
        };
        Ok((
            target_um,
            planned.map_err(|refusal: Refusal| refusal.to_string())?,
        ))
    }

    /// How far to go along each axis, µm, and how fast, µm/s.
    fn path(&self, goal: &MoveStage::Goal, status: &StageStatus) -> Result<([f64; 3], f64), String> {
        if matches!(status.state, StageState::Disconnected | StageState::Fault) {
            return Err(format!("the stage cannot move: {}", status.reason));
        }
        let metres = [goal.x, goal.y, goal.z];
        if metres.iter().any(|m| m.is_infinite()) || !(goal.max_speed.is_finite() && goal.max_speed >= 0.0) {
            return Err("a target is infinite or max_speed is not a speed: give metres and m/s".to_owned());
        }
        if !goal.relative && !status.position_valid {
            return Err(
                "the stage does not know where it is: call ~/home or ~/accept_position, or give a relative target".to_owned(),
            );
        }
        let origin = [0.0, 0.0, self.zero.0];
        let by_um = std::array::from_fn(|axis| match metres[axis] * 1e6 {
            um if um.is_nan() => 0.0,
            um if goal.relative => um,
            um => um - origin[axis] - status.position_um[axis],
        });
        let um_per_s = match goal.max_speed * 1e6 {
            0.0 => self.max_um_per_s,
            um_per_s => um_per_s.min(self.max_um_per_s),
        };
        Ok((by_um, um_per_s))
    }

    /// Feedback, and the end if it has come: arrival, a fault, a cancel, too much time.
    pub(super) async fn follow(&mut self, stage: &StageHandle, now: Instant) {
        let status = stage.status().borrow().clone();
        let Some(running) = &self.running else {
            return;
        };
        if running.handle.is_cancelling() {
            let stopped = stage.stop().await;
            let status = stage.status().borrow().clone();
            match stopped {
                Ok(_) => self.end(Outcome::Cancelled, "stopped as asked", &status),
                Err(unconfirmed) => self.end(Outcome::Failed, &unconfirmed.to_string(), &status),
            }
            return;
        }
        let remaining_um = running.remaining_um(&status);
        let [x, y, z] = self.position(&status);
        running.handle.feedback(MoveStage::Feedback {
            x,
            y,
            z,
            remaining: remaining_um * 1e-6,
        });
        let standing = status.state == StageState::Idle;
        if matches!(status.state, StageState::Fault | StageState::Disconnected) {
            self.end(Outcome::Failed, &status.reason, &status);
        } else if standing && remaining_um <= ARRIVED_UM {
            self.end(Outcome::Reached, "stands at the target", &status);
        } else if standing && now.since(running.started) > START_LIMIT && status.stamp > running.started {
            let sentence = format!("the stage stopped {remaining_um:.1} µm from the target");
            self.end(Outcome::Failed, &sentence, &status);
        } else if now > running.deadline {
            drop(stage.stop().await);
            let status = stage.status().borrow().clone();
            self.end(
                Outcome::Failed,
                "the stage did not arrive in time and was stopped",
                &status,
            );
        }
    }

    /// Whether a goal is being worked on.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Ends the goal being worked on, if there is one.
    pub(super) fn end(&mut self, outcome: Outcome, message: &str, status: &StageStatus) {
        let Some(running) = self.running.take() else {
            return;
        };
        let [x, y, z] = self.position(status);
        let code = match outcome {
            Outcome::Reached => MoveStage::Result::REACHED as u8,
            Outcome::Cancelled => MoveStage::Result::CANCELED as u8,
            Outcome::Preempted => MoveStage::Result::PREEMPTED as u8,
            Outcome::Failed => MoveStage::Result::FAILED as u8,
        };
        let result = MoveStage::Result {
            code,
            message: message.to_owned(),
            x,
            y,
            z,
        };
        match outcome {
            Outcome::Reached => running.handle.succeed(result),
            Outcome::Cancelled => running.handle.cancelled(result),
            Outcome::Preempted | Outcome::Failed => running.handle.abort(result),
        }
    }

    /// x, y, z of the lens, m.
    fn position(&self, status: &StageStatus) -> [f64; 3] {
        let [x, y, z] = status.position_um.map(|um| um * 1e-6);
        [x, y, z + self.zero.as_metres()]
    }
}

impl Running {
    fn remaining_um(&self, status: &StageStatus) -> f64 {
        let squares = self
            .target_um
            .iter()
            .zip(status.position_um)
            .map(|(target, at)| (target - at).powi(2));
        squares.sum::<f64>().sqrt()
    }
}
