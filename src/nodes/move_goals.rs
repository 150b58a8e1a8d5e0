//! Goals of the `move_stage` action: from metres to a move of the stage, and from its status to an outcome.

use std::time::Duration;

use r2r::hhnet::action::MoveStage;

use super::stage_waits::STOP_SHADOW;
use crate::drivers::serial::{StageHandle, stands};
use crate::ros::action::{ActionServer, GoalHandle, GoalRequest};
use crate::stage::status::{Refusal, StageState, StageStatus};
use crate::units::{Instant, Micrometres};

type Request = GoalRequest<MoveStage::Action>;
type Handle = GoalHandle<MoveStage::Action>;

/// How far from its target each axis may stand and have reached it, µm: more than a microstep. Of z it is far less than a depth of field; a cross
/// table of 800 steps a millimetre stands up to 0.6 µm beside what it was sent to.
const ARRIVED_UM: [f64; 3] = [1.5, 1.5, 0.3];
/// Time beyond twice the planned one that a move may take.
const SPARE: Duration = Duration::from_secs(2);
/// Time in which a stage at rest must have begun to move or have said why not.
const START_LIMIT: Duration = Duration::from_millis(500);

/// How long after a stop goals of a burst may go on to arrive that was sent before it.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// Why a goal ends.
const STOPPED: &str = "~/stop was called";
const SUPERSEDED: &str = "a newer goal took over";

/// How the stage ended up, as the action says it.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Reached,
    Cancelled,
    Preempted,
    Failed,
}

/// Time in which a goal that is interrupted must have come to a stand.
const STAND_LIMIT: Duration = Duration::from_secs(1);

/// The goals of one bridge: at most one is being worked on, and at most one waits for the stage to stand.
pub(super) struct MoveGoals {
    /// Height of the stage's zero in the coordinates of the goals.
    pub(super) zero: Micrometres,
    /// Greatest speed, µm/s.
    pub(super) max_um_per_s: f64,
    running: Option<Running>,
    waiting: Option<Request>,
    /// Goals that arrive until then were sent before `~/stop` was called.
    refused_until: Instant,
    /// When that was called last.
    stopped: Instant,
}

/// The goal being worked on.
struct Running {
    handle: Handle,
    target_um: [f64; 3],
    started: Instant,
    deadline: Instant,
    /// How it ends once the stage stands, why, and when that is too late.
    ending: Option<(Outcome, &'static str, Instant)>,
}

impl MoveGoals {
    /// No goals; `zero` is the height of the stage's zero.
    pub(super) fn new(zero: Micrometres, max_um_per_s: f64) -> Self {
        Self {
            zero,
            max_um_per_s,
            running: None,
            waiting: None,
            refused_until: Instant::default(),
            stopped: Instant::default(),
        }
    }

    /// Takes up a goal, at once or when the one before it has come to a stand; rejects what the stage refuses.
    pub(super) fn take_up(&mut self, request: Request, stage: &StageHandle, now: Instant) {
        if now < self.refused_until {
            // A burst that goes on was sent before the stop as a whole.
            self.refused_until = (now + STOP_SHADOW).min(self.stopped + LONGEST_BURST);
            request.reject(STOPPED);
            return;
        }
        // What cannot be done at all does not disturb what is being done.
        let status = stage.status().borrow().clone();
        let possible = self.path(&request.goal, &status).and_then(|(by_um, _)| {
            let reach = stage.check_reach(status.position_um, by_um);
            reach.map_err(|refusal| refusal.to_string())
        });
        if let Err(reason) = possible {
            request.reject(&reason);
        } else if self.running.is_some() {
            if let Some(older) = self.waiting.replace(request) {
                older.reject(SUPERSEDED);
            }
            self.interrupt(Outcome::Preempted, SUPERSEDED, stage, now);
        } else {
            self.begin(request, stage, now);
        }
    }

    /// Ends the goal being worked on as soon as the stage stands; it is told to.
    fn interrupt(&mut self, outcome: Outcome, message: &'static str, stage: &StageHandle, now: Instant) {
        let Some(running) = self.running.as_mut().filter(|running| running.ending.is_none()) else {
            return;
        };
        running.ending = Some((outcome, message, now + STAND_LIMIT));
        stage.begin_stop();
    }

    /// Stops the stage, and ends what was accepted or waits.
    pub(super) fn stop(&mut self, message: &'static str, stage: &StageHandle, now: Instant) {
        if let Some(waiting) = self.waiting.take() {
            waiting.reject(message);
        }
        self.interrupt(Outcome::Preempted, message, stage, now);
        stage.begin_stop();
    }

    /// The same, for `~/stop`: what was sent before it is refused, also where it arrives later.
    pub(super) fn stop_all(
        &mut self,
        goals: &mut ActionServer<MoveStage::Action>,
        stage: &StageHandle,
        now: Instant,
    ) {
        self.stop(STOPPED, stage, now);
        (self.stopped, self.refused_until) = (now, now + STOP_SHADOW);
        while let Some(goal) = goals.try_next() {
            goal.reject(STOPPED);
        }
    }

    /// Starts a goal on a stage that stands.
    fn begin(&mut self, request: Request, stage: &StageHandle, now: Instant) {
        let status = stage.status().borrow().clone();
        match self.start(&request.goal, &status, stage) {
            Ok((target_um, planned)) => {
                self.running = Some(Running {
                    handle: request.accept(),
                    target_um,
                    started: now,
                    deadline: now + planned.saturating_mul(2) + SPARE,
                    ending: None,
                });
            }
            Err(refusal) => request.reject(&refusal),
        }
    }

    /// Starts the move; its target and the time it is planned to take.
    fn start(
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
        if !goal.relative && !status.xy_valid && metres[..2].iter().any(|m| !m.is_nan()) {
            return Err(Refusal::UnvouchedXy.to_string());
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

    /// Feedback, and the end if it has come: arrival, a fault, a cancel, too much time; then the goal that waits for it.
    pub(super) fn follow(&mut self, stage: &StageHandle, now: Instant) {
        let status = stage.status().borrow().clone();
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.handle.is_cancelling())
        {
            self.interrupt(Outcome::Cancelled, "stopped as asked", stage, now);
        }
        let Some(running) = &self.running else {
            return;
        };
        if let Some((outcome, message, deadline)) = running.ending {
            self.finish_ending(outcome, message, now >= deadline, &status);
        } else {
            self.watch(stage, &status, now);
        }
        if self.running.is_none()
            && let Some(waiting) = self.waiting.take()
        {
            self.begin(waiting, stage, now);
        }
    }

    /// An interrupted goal ends when the stage stands.
    fn finish_ending(&mut self, outcome: Outcome, message: &str, is_late: bool, status: &StageStatus) {
        if status.state == StageState::Moving && !is_late {
            return;
        }
        match stands(status) {
            Ok(_) => self.finish(outcome, message, status),
            Err(unconfirmed) => self.finish(Outcome::Failed, &unconfirmed.to_string(), status),
        }
    }

    /// A goal that is being worked on.
    fn watch(&mut self, stage: &StageHandle, status: &StageStatus, now: Instant) {
        let Some(running) = &self.running else {
            return;
        };
        let remaining_um = running.remaining_um(status);
        let [x, y, z] = self.position(status);
        running.handle.feedback(MoveStage::Feedback {
            x,
            y,
            z,
            remaining: remaining_um * 1e-6,
        });
        let standing = status.state == StageState::Idle;
        if matches!(status.state, StageState::Fault | StageState::Disconnected) {
            self.finish(Outcome::Failed, &status.reason, status);
        } else if standing && running.has_arrived(status) {
            let is_known = running.target_um[2].is_finite();
            let sentence = if is_known {
                "stands at the target"
            } else {
                "has moved up; its height is not known"
            };
            self.finish(Outcome::Reached, sentence, status);
        } else if standing && now.since(running.started) > START_LIMIT && status.stamp > running.started {
            let sentence = format!("the stage stopped {remaining_um:.1} µm from the target");
            self.finish(Outcome::Failed, &sentence, status);
        } else if now > running.deadline {
            self.interrupt(
                Outcome::Failed,
                "the stage did not arrive in time and was stopped",
                stage,
                now,
            );
        }
    }

    /// Whether a goal is being worked on.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Ends everything at once, if there is anything: something else moves the stage now, or nothing does any more.
    pub(super) fn end(&mut self, outcome: Outcome, message: &str, status: &StageStatus) {
        if let Some(waiting) = self.waiting.take() {
            waiting.reject(message);
        }
        self.finish(outcome, message, status);
    }

    /// Ends the goal being worked on, if there is one.
    fn finish(&mut self, outcome: Outcome, message: &str, status: &StageStatus) {
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
    /// Whether each axis whose target is known stands at it.
    fn has_arrived(&self, status: &StageStatus) -> bool {
        let axes = self.target_um.iter().zip(status.position_um).zip(ARRIVED_UM);
        axes.filter(|((target, _), _)| target.is_finite())
            .all(|((target, at), most)| (target - at).abs() <= most)
    }

    /// How far the stage is from the target along the axes whose position is known, µm.
    fn remaining_um(&self, status: &StageStatus) -> f64 {
        let squares = self
            .target_um
            .iter()
            .zip(status.position_um)
            .filter(|(target, _)| target.is_finite())
            .map(|(target, at)| (target - at).powi(2));
        squares.sum::<f64>().sqrt()
    }
}
