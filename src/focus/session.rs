//! What surrounds the control law: who may begin a run, what ends it, and when those who asked are answered.
//!
//! A run is begun by a goal, by `enable`, or at start. It ends by itself (in focus, given up), or because it is asked to (a stop, a
//! newer goal, a cancel, a deactivation), because a node that focusing needs is missing, or because the stage was stopped by others. However
//! it ends, a goal is answered when the stage stands: it says so, or it has not been heard of for too long, which the answer says then.
//! Nothing resumes by itself.
//!
//! [`Session`] holds no clock and does no I/O. Goals, calls and transitions are whatever the caller has; they come back, with their
//! outcome, from [`Session::answers`].

use std::time::Duration;

use super::{
    Account, Command, FocusConfig, FocusController, Observation, POSITION_INVALID, RunState, StageMotion,
    StageReport, Wanted,
};
use crate::units::{Instant, StageHeight};

/// Time for the stage to stand before a stop or a deactivation is answered all the same.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Time for a stage that goes on reporting motion to stand before a goal ends all the same.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Calls that wait for the stage to stand; more are answered at once that it is not known.
const MOST_CALLS: usize = 100;
/// Time from a command to the first report that shows what came of it.
const REACTION: Duration = Duration::from_millis(100);
/// Zero velocities sent after the last motion, so that one lost message does not delay a stop.
const STOP_REPEATS: u32 = 5;

/// Why nothing is done before activation.
const INACTIVE: &str = "the focus controller is not active: call ~/change_state";
/// Why nothing is done without a stage.
const UNAVAILABLE: &str = "the stage is not ready: look at stage_state for the reason";

/// A goal, as far as its end depends on it.
pub trait Goal {
    /// When it was accepted.
    fn accepted(&self) -> Instant;
    /// Whether its client wants it to end.
    fn is_cancelling(&self) -> bool;
}

/// How a goal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The specimen is in focus and the stage stands.
    InFocus,
    /// Its client cancelled it.
    Cancelled,
    /// Something else took over.
    Preempted,
    /// Focus was not found.
    GaveUp,
    /// A node that focusing needs is missing.
    NodeGone,
}

/// Someone is answered.
#[derive(Debug, PartialEq)]
pub enum Answer<G, C, W> {
    /// A goal has ended.
    Goal {
        /// The goal.
        goal: G,
        /// How.
        end: End,
        /// One sentence.
        message: String,
        /// What the run says for itself.
        account: Account,
    },
    /// A call of a service is answered with a sentence: done, or not.
    Call(C, Result<&'static str, String>),
    /// A transition out of work is over; if it failed, why.
    Left(W, Result<(), &'static str>),
}

/// What the stage says.
#[derive(Clone, Debug, PartialEq)]
pub struct StageNews {
    /// Its height and motion.
    pub report: StageReport,
    /// Why, one sentence; may be empty.
    pub reason: String,
    /// How often it was stopped by `~/stop`, counted by the bridge.
    pub stops: u32,
}

/// What a session needs beside a stage and estimates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Which node that focusing needs is missing, one sentence.
    pub missing: Option<String>,
    /// Why the images must not move the stage, one sentence.
    pub unfit: Option<&'static str>,
    /// The process ends: what goes missing now is no news.
    pub is_ending: bool,
}

/// A goal being worked on.
#[derive(Debug)]
struct Run<G> {
    goal: G,
    /// What it asks for beyond the settings.
    wanted: Wanted,
    /// The height that it began at.
    from: Option<StageHeight>,
    /// How it ends once the stage stands, and since when that is known.
    ending: Option<(End, String, Instant)>,
}

/// A call that is answered when the stage stands.
#[derive(Debug)]
struct Call<C> {
    call: C,
    done: &'static str,
    asked: Instant,
}

/// The session. `G` is a goal, `C` a call of a service, `W` a transition of the node.
#[derive(Debug)]
pub struct Session<G, C, W> {
    controller: FocusController,
    /// The settings between goals.
    config: FocusConfig,
    is_active: bool,
    /// A run begins as soon as nothing hinders it.
    begins_when_ready: bool,
    around: Surroundings,
    /// Newest of the stage and when it was heard; None until it has been heard of.
    stage: Option<(StageNews, Instant)>,
    /// When a motion was last commanded.
    commanded: Instant,
    /// The run before was given up because a node is missing.
    is_bereft: bool,
    run: Option<Run<G>>,
    calls: Vec<Call<C>>,
    leaving: Option<(W, Instant)>,
    zeros_due: u32,
    answers: Vec<Answer<G, C, W>>,
}

impl<G: Goal, C, W> Session<G, C, W> {
    /// A session in which nothing runs; `begins_when_ready`: a run begins by itself as soon as nothing hinders it.
    pub fn new(config: FocusConfig, begins_when_ready: bool) -> Self {
        Self {
            controller: FocusController::new(config.clone()),
            config,
            is_active: false,
            begins_when_ready,
            around: Surroundings::default(),
            stage: None,
            commanded: Instant::default(),
            is_bereft: false,
            run: None,
            calls: Vec::new(),
            leaving: None,
            zeros_due: 0,
            answers: Vec::new(),
        }
    }

    /// The control law and what it is doing.
    pub fn controller(&self) -> &FocusController {
        &self.controller
    }

    /// Goes on by other settings; a goal being worked on keeps what it asked for.
    pub fn set_config(&mut self, config: FocusConfig) {
        let narrowed = match &self.run {
            Some(run) => config.narrowed(&run.wanted, run.from),
            None => config.clone(),
        };
        self.controller.set_config(narrowed);
        self.config = config;
    }

    /// Whether commands are taken.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// The goal being worked on.
    pub fn goal(&self) -> Option<&G> {
        self.run.as_ref().map(|run| &run.goal)
    }

    /// Whether [`Self::poll`] has to be called every 20 ms; otherwise once after each event is enough.
    pub fn is_busy(&self) -> bool {
        self.is_running()
            || self.zeros_due > 0
            || self.leaving.is_some()
            || self.run.is_some()
            || !self.calls.is_empty()
    }

    /// Whether the law may command a motion.
    fn is_running(&self) -> bool {
        !matches!(self.controller.state(), RunState::Disabled | RunState::Failed(_))
    }

    /// Who has been answered since the last call.
    pub fn answers(&mut self) -> Vec<Answer<G, C, W>> {
        std::mem::take(&mut self.answers)
    }
}

/// What happened.
impl<G: Goal, C, W> Session<G, C, W> {
    /// A new estimate.
    pub fn handle_estimate(&mut self, observation: Observation, now: Instant) {
        self.controller.handle_observation(observation, now);
    }

    /// The stage has reported.
    pub fn handle_stage(&mut self, news: StageNews, now: Instant) {
        self.controller.handle_stage(news.report);
        let stops = self.stage.as_ref().map(|(known, _)| known.stops);
        let was_stopped = stops.is_some_and(|stops| stops != news.stops);
        let motion = news.report.motion;
        self.stage = Some((news, now));
        if self.is_running() && motion == StageMotion::Unavailable {
            self.controller.give_up(self.unavailable());
        }
        if was_stopped {
            // A stage that was stopped is to stand, not to be looked at and driven on.
            self.controller.disable();
            self.begins_when_ready = false;
            self.end_soon(End::Preempted, "~/stop of the stepper bridge was called", now);
        }
        if self.begins_when_ready && self.hindrance().is_none() {
            self.begins_when_ready = false;
            self.controller.enable(now);
        }
    }

    /// What is known of the other nodes.
    pub fn handle_surroundings(&mut self, around: Surroundings, now: Instant) {
        self.around = around;
        match &self.around {
            Surroundings {
                missing: Some(missing),
                is_ending: false,
                ..
            } if self.is_running() => {
                let missing = missing.clone();
                self.is_bereft = true;
                self.controller.give_up(missing.clone());
                self.end_soon(End::NodeGone, &missing, now);
            }
            Surroundings {
                missing: None,
                unfit: Some(reason),
                ..
            } if self.is_running() => self.controller.give_up((*reason).to_owned()),
            // Work can be given again.
            Surroundings { missing: None, .. }
                if std::mem::take(&mut self.is_bereft) && !self.is_running() =>
            {
                self.controller.disable();
            }
            _ => {}
        }
    }

    /// Whether a goal could be worked on now.
    ///
    /// # Errors
    /// Why not, one sentence.
    pub fn check_goal(&self) -> Result<(), String> {
        if !self.is_active {
            return Err(INACTIVE.to_owned());
        }
        if let Some(reason) = self.hindrance() {
            return Err(reason);
        }
        if self.is_stageless() {
            return Err(self.unavailable());
        }
        Ok(())
    }

    /// A goal was asked for, whether or not it is accepted: a run no longer begins by itself.
    pub fn handle_request(&mut self) {
        self.begins_when_ready = false;
    }

    /// A goal was accepted: it takes over.
    pub fn begin(&mut self, goal: G, wanted: Wanted, now: Instant) {
        self.end_now(End::Preempted, "a newer goal took over");
        let from = self.stage.as_ref().and_then(|(news, _)| news.report.z);
        self.controller.set_config(self.config.narrowed(&wanted, from));
        self.run = Some(Run {
            goal,
            wanted,
            from,
            ending: None,
        });
        self.controller.enable(now);
    }

    /// Begins a run without a goal.
    pub fn enable(&mut self, call: C, now: Instant) {
        if let Some(reason) = self.hindrance() {
            self.answers.push(Answer::Call(call, Err(reason)));
            return;
        }
        self.begins_when_ready = false;
        self.end_now(End::Preempted, "~/enable was called");
        self.controller.enable(now);
        self.answers.push(Answer::Call(call, Ok("focusing")));
    }

    /// Ends whatever runs, by `enable` with false.
    pub fn disable(&mut self, call: C, now: Instant) {
        if self.is_active {
            self.halt("~/enable was called", now);
            self.await_stand(call, "disabled, the stage stands", now);
        } else {
            self.answers.push(Answer::Call(call, Err(INACTIVE.to_owned())));
        }
    }

    /// Ends whatever runs, by `stop`.
    pub fn stop(&mut self, call: C, now: Instant) {
        self.halt("~/stop was called", now);
        self.await_stand(call, "disabled and stopped, the stage stands", now);
    }

    /// Commands are taken from now on.
    pub fn activate(&mut self) {
        self.is_active = true;
    }

    /// No more commands are taken; the transition is over when the stage stands.
    pub fn deactivate(&mut self, wish: W, now: Instant) {
        self.is_active = false;
        self.halt("the focus controller was deactivated", now);
        self.leaving = Some((wish, now + STOP_LIMIT));
    }

    /// Ends the session: everyone is answered.
    pub fn close(&mut self) {
        for Call { call, .. } in std::mem::take(&mut self.calls) {
            let reason = "disabled, but the focus controller ends before the stage is known to stand";
            self.answers.push(Answer::Call(call, Err(reason.to_owned())));
        }
        self.end_now(End::GaveUp, "the focus controller ends");
    }

    fn halt(&mut self, message: &str, now: Instant) {
        self.end_soon(End::Preempted, message, now);
        self.begins_when_ready = false;
        self.controller.disable();
        self.zeros_due = self.zeros_due.max(1);
    }

    fn await_stand(&mut self, call: C, done: &'static str, now: Instant) {
        self.calls.push(Call {
            call,
            done,
            asked: now,
        });
    }
}

/// What to do.
impl<G: Goal, C, W> Session<G, C, W> {
    /// What to command now, if anything is to be sent.
    pub fn poll(&mut self, now: Instant) -> Option<Command> {
        let command = self.controller.poll(now);
        if command.is_motion() {
            self.commanded = now;
        }
        let is_sent = command.is_motion() || self.zeros_due > 0;
        self.zeros_due = if command.is_motion() {
            STOP_REPEATS
        } else {
            self.zeros_due.saturating_sub(1)
        };
        self.poll_leaving(now);
        self.poll_run(now);
        self.poll_calls(now);
        is_sent.then_some(command)
    }

    /// Deactivated in motion: the motion ends first, unless no stage is left to say that it has.
    fn poll_leaving(&mut self, now: Instant) {
        let may_move = self.may_move();
        if let Some((wish, _)) = self.leaving.take_if(|(_, limit)| !may_move || now >= *limit) {
            let outcome = if may_move {
                Err("the stage was told to stop and has not reported standstill")
            } else {
                Ok(())
            };
            self.answers.push(Answer::Left(wish, outcome));
        }
    }

    /// Ends the goal if its end has come and the stage stands; the law is left disabled: nothing moves between goals.
    fn poll_run(&mut self, now: Instant) {
        let Some(run) = &mut self.run else { return };
        if run.ending.is_none() {
            run.ending = verdict(run, self.controller.state(), self.controller.account(), now);
        }
        let Some((end, message, since)) = run.ending.clone() else {
            return;
        };
        if self.is_running() {
            self.controller.disable();
        }
        let heard = self
            .stage
            .as_ref()
            .map_or(Instant::default(), |(_, heard)| *heard);
        let silence = now.since(heard.max(self.commanded));
        if !self.may_move() {
            self.end_now(end, &message);
        } else if silence >= STOP_LIMIT || now.since(since) >= END_LIMIT {
            let unheard = "the stage was told to stop and has not been heard of since";
            match end {
                End::InFocus | End::Cancelled => self.end_now(End::GaveUp, unheard),
                _ => self.end_now(end, &format!("{message}; {unheard}")),
            }
        }
    }

    /// Answers the calls that waited for the stage to stand, as far as that is known.
    fn poll_calls(&mut self, now: Instant) {
        let is_crowded = self.calls.len() > MOST_CALLS;
        let report = self.stage.as_ref().map(|(news, _)| news.report);
        for call in std::mem::take(&mut self.calls) {
            let is_late = now.since(call.asked) >= STOP_LIMIT || is_crowded;
            let outcome = match report.map(|report| (report.motion, report.at)) {
                Some((StageMotion::Still, at)) if at > call.asked.max(self.commanded + REACTION) => {
                    Ok(call.done)
                }
                Some((StageMotion::Unavailable, _)) | None => Err(
                    "disabled, but the stage is not ready and may move: look at stage_state for the reason",
                ),
                Some((StageMotion::Moving, _)) if is_late => {
                    Err("disabled, but the stage still moves: call stop of the stepper bridge")
                }
                Some((StageMotion::Still, _)) if is_late => {
                    Err("disabled, but the stage has not reported since: check that its driver is running")
                }
                Some((StageMotion::Moving | StageMotion::Still, _)) => {
                    self.calls.push(call);
                    continue;
                }
            };
            self.answers
                .push(Answer::Call(call.call, outcome.map_err(str::to_owned)));
        }
    }

    /// Has the goal end when the stage stands.
    fn end_soon(&mut self, end: End, message: &str, now: Instant) {
        if let Some(run) = &mut self.run {
            run.ending.get_or_insert_with(|| (end, message.to_owned(), now));
        }
    }

    fn end_now(&mut self, end: End, message: &str) {
        if let Some(Run { goal, .. }) = self.run.take() {
            self.answers.push(Answer::Goal {
                goal,
                end,
                message: message.to_owned(),
                account: self.controller.account(),
            });
            self.controller.set_config(self.config.clone());
        }
    }
}

/// What hinders.
impl<G: Goal, C, W> Session<G, C, W> {
    fn motion(&self) -> Option<StageMotion> {
        self.stage.as_ref().map(|(news, _)| news.report.motion)
    }

    /// The stage has not been heard of, or is not there.
    fn is_stageless(&self) -> bool {
        matches!(self.motion(), None | Some(StageMotion::Unavailable))
    }

    /// The stage was heard of, and its height does not count.
    fn is_lost(&self) -> bool {
        self.stage
            .as_ref()
            .is_some_and(|(news, _)| news.report.z.is_none())
    }

    /// Whether the stage may move: it says that it does, or has not told yet what came of the last command.
    fn may_move(&self) -> bool {
        match self.stage.as_ref().map(|(news, _)| news.report) {
            Some(StageReport {
                motion: StageMotion::Moving,
                ..
            }) => true,
            Some(StageReport {
                motion: StageMotion::Still,
                at,
                ..
            }) => at <= self.commanded + REACTION,
            _ => false,
        }
    }

    /// Why the stage does not move.
    fn unavailable(&self) -> String {
        match self.stage.as_ref().map(|(news, _)| news.reason.as_str()) {
            None | Some("") => UNAVAILABLE.to_owned(),
            Some(reason) => format!("the stage is not available: {reason}"),
        }
    }

    /// Why no run can begin, of those reasons that are known.
    fn hindrance(&self) -> Option<String> {
        if !self.is_active {
            return Some(INACTIVE.to_owned());
        }
        if self.around.missing.is_some() {
            return self.around.missing.clone();
        }
        if self.motion() == Some(StageMotion::Unavailable) {
            return Some(self.unavailable());
        }
        self.unfitness()
    }

    /// Why nothing can be done with a stage that is there.
    fn unfitness(&self) -> Option<String> {
        if self.is_lost() {
            return Some(POSITION_INVALID.to_owned());
        }
        self.around.unfit.map(str::to_owned)
    }

    /// Why work that is given now would not be done, of a session that is active.
    ///
    /// # Errors
    /// One sentence.
    pub fn check_able(&self) -> Result<(), String> {
        if let RunState::Failed(reason) = self.controller.state() {
            return Err(reason.clone());
        }
        if let Some(missing) = &self.around.missing {
            return Err(missing.clone());
        }
        if self.is_stageless() {
            return Err(self.unavailable());
        }
        self.unfitness().map_or(Ok(()), Err)
    }
}

/// How a goal ends by what the law is doing, if its end has come.
fn verdict<G: Goal>(
    run: &Run<G>,
    state: &RunState,
    account: Account,
    now: Instant,
) -> Option<(End, String, Instant)> {
    // One that was in focus has kept its time; should it be lost, the law has a time of its own.
    let limit = run.wanted.limit.filter(|_| !account.is_confirmed);
    let is_late = limit.is_some_and(|limit| now.since(run.goal.accepted()) > limit);
    let (end, message) = match state {
        RunState::InFocus if !run.wanted.holds => (End::InFocus, "in focus"),
        RunState::Failed(reason) => (End::GaveUp, reason.as_str()),
        _ if run.goal.is_cancelling() => (End::Cancelled, "stopped as asked"),
        RunState::InFocus => return None,
        _ if is_late => (End::GaveUp, "not in focus within the goal's timeout"),
        _ => return None,
    };
    Some((end, message.to_owned(), now))
}

#[cfg(test)]
mod tests;
