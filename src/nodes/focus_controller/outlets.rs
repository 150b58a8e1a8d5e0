//! What the focus controller says: commands, its state, results and diagnostics.

use std::sync::Arc;

use anyhow::Result;
use r2r::geometry_msgs::msg::{Twist, TwistStamped, Vector3};
use r2r::hhnet::action::Autofocus;
use r2r::hhnet::msg::{FocusEstimate, FocusState, StageTarget};

use super::super::demand::Demand;
use super::super::frame_in;
use super::super::frames::to_text;
use super::messages::describe;
use super::{Call, Focusing, Handle};
use crate::focus::session::{Answer, End};
use crate::focus::{Account, Command, FocusController, Method, RunState};
use crate::ros::convert::{from_time, header};
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::Base;
use crate::ros::node::{Builder, Publisher, latched, newest_reliable};
use crate::statistics::median;
use crate::units::Instant;

/// What the newest messages said, for those who watch a goal.
pub(super) struct Heard {
    pub(super) index: i8,
    pub(super) certainty: f32,
    pub(super) defocus: f64,
    pub(super) z: f64,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            index: 0,
            certainty: 0.0,
            defocus: f64::NAN,
            z: f64::NAN,
        }
    }
}

pub(super) struct Outlets {
    velocities: Publisher<TwistStamped>,
    targets: Publisher<StageTarget>,
    states: Publisher<FocusState>,
    /// The frame in which velocities are meant.
    frame_id: Arc<str>,
    pub(super) demand: Demand,
    pub(super) tally: Tally,
    pub(super) heard: Heard,
    published: Option<RunState>,
}

impl Outlets {
    /// On a node that does not spin yet.
    pub(super) fn new(node: &mut Builder) -> Result<Self> {
        Ok(Self {
            velocities: node.publisher("cmd_vel", newest_reliable())?,
            targets: node.publisher("cmd_target", newest_reliable())?,
            states: node.publisher("focus_state", latched())?,
            frame_id: frame_in(&node.namespace()?, "z"),
            demand: Demand::new(node, "focus")?,
            tally: Tally::default(),
            heard: Heard::default(),
            published: None,
        })
    }

    pub(super) fn command(&self, command: Command, now: Instant) {
        match command {
            Command::Velocity(um_per_s) => self.command_velocity(um_per_s, now),
            Command::Target(z, um_per_s) => self.targets.publish(&StageTarget {
                header: header(now, &self.frame_id),
                z: z.as_metres(),
                max_speed: um_per_s * 1e-6,
            }),
        }
    }

    fn command_velocity(&self, velocity_um_per_s: f64, now: Instant) {
        let linear = Vector3 {
            x: 0.0,
            y: 0.0,
            z: velocity_um_per_s * 1e-6,
        };
        let twist = Twist {
            linear,
            angular: Vector3::default(),
        };
        self.velocities.publish(&TwistStamped {
            header: header(now, &self.frame_id),
            twist,
        });
    }

    /// Publishes the state when it has changed.
    pub(super) fn publish_state(&mut self, controller: &FocusController, base: &Base) {
        if self.published.as_ref() == Some(controller.state()) {
            return;
        }
        let (state, reason) = describe(controller.state());
        match controller.state() {
            RunState::Failed(reason) => tracing::warn!(node = base.name, "gave up: {reason}"),
            RunState::InFocus => tracing::info!(node = base.name, "in focus"),
            RunState::Disabled | RunState::Looking | RunState::Moving | RunState::Searching => {}
        }
        self.published = Some(controller.state().clone());
        let reason = reason.to_owned();
        self.states.publish(&FocusState {
            header: header(base.now(), ""),
            state,
            reason,
            confirmed: *controller.state() == RunState::InFocus && controller.account().is_confirmed,
        });
    }

    /// Tells the one who asked.
    pub(super) fn answer(&self, answer: Answer<Handle, Call, Wish>, base: &mut Base) {
        match answer {
            Answer::Goal {
                goal,
                end,
                message,
                account,
            } => self.end(goal, end, message, account, base.now()),
            Answer::Call(call, Ok(message)) => call.answer(true, message.to_owned()),
            Answer::Call(call, Err(message)) => call.answer(false, message),
            Answer::Left(wish, Ok(())) => wish.done(),
            Answer::Left(wish, Err(reason)) => base.lifecycle.fail_over(wish, reason),
        }
    }

    fn end(&self, goal: Handle, end: End, message: String, account: Account, now: Instant) {
        let code = match end {
            End::InFocus => Autofocus::Result::IN_FOCUS as u8,
            End::Cancelled => Autofocus::Result::CANCELED as u8,
            End::Preempted => Autofocus::Result::PREEMPTED as u8,
            End::GaveUp => Autofocus::Result::GAVE_UP as u8,
            End::NodeGone => Autofocus::Result::NODE_GONE as u8,
        };
        let result = Autofocus::Result {
            code,
            message,
            z: self.heard.z,
            defocus: self.heard.defocus,
            expected_error: account.error_um.map_or(f64::NAN, |um| 1e-6 * um),
            confirmed: end == End::InFocus && account.is_confirmed,
            method: match account.method {
                Method::None => Autofocus::Result::METHOD_NONE as u8,
                Method::Estimate => Autofocus::Result::METHOD_ESTIMATE as u8,
                Method::Sweep => Autofocus::Result::METHOD_SWEEP as u8,
                Method::Refined => Autofocus::Result::METHOD_REFINED as u8,
            },
            refined_by: account.refined_um.map_or(f64::NAN, |um| 1e-6 * um),
            frames: account.frames,
            duration: now.since(goal.accepted()).as_secs_f64(),
        };
        match end {
            End::InFocus => goal.succeed(result),
            End::Cancelled => goal.cancelled(result),
            End::Preempted | End::GaveUp | End::NodeGone => goal.abort(result),
        }
    }

    pub(super) fn publish_diagnostics(&mut self, session: &Focusing, base: &Base) {
        let controller = session.controller();
        let (_, reason) = describe(controller.state());
        let (severity, message) = match controller.state() {
            _ if !session.is_active() => (Severity::Warn, "not active"),
            RunState::Failed(_) => (Severity::Error, reason),
            RunState::Disabled => (Severity::Ok, "disabled"),
            RunState::Looking => (Severity::Ok, "looking"),
            RunState::Moving => (Severity::Ok, "moving"),
            RunState::Searching => (Severity::Ok, "searching"),
            RunState::InFocus => (Severity::Ok, "in focus"),
        };
        let mode = controller.config().law.name().to_owned();
        let [rate, untrusted, age] = std::mem::take(&mut self.tally).values();
        let values = [("mode", mode), rate, untrusted, age];
        base.diagnostics.publish(base.now(), severity, message, &values);
    }
}

/// Numbers for the diagnostics of one second.
#[derive(Default)]
pub(super) struct Tally {
    untrusted: u64,
    ages_ms: Vec<f64>,
}

impl Tally {
    pub(super) fn handle_estimate(&mut self, estimate: &FocusEstimate, now: Instant) {
        let age = now.since(from_time(&estimate.header.stamp));
        self.ages_ms.push(1e3 * age.as_secs_f64());
        self.untrusted += u64::from(!estimate.trusted);
    }

    fn values(self) -> [(&'static str, String); 3] {
        [
            ("estimates_per_second", self.ages_ms.len().to_string()),
            ("untrusted_per_second", self.untrusted.to_string()),
            ("estimate_age_ms_median", to_text(median(self.ages_ms))),
        ]
    }
}
