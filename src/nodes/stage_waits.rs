//! Requests that are answered once the stage has done something: stands, is unlocked. The bridge's loop never waits for the stage
//! itself, so that a stop is taken up whatever else is going on.

use std::time::Duration;

use r2r::ServiceRequest;
use r2r::std_srvs::srv::Trigger;

use crate::drivers::serial::stands;
use crate::ros::lifecycle::Wish;
use crate::ros::node::reply;
use crate::stage::status::{StageState, StageStatus};
use crate::units::{Instant, Micrometres};

/// A stop is answered after this time at the latest, if only by saying that standstill is not confirmed yet.
const STOP_LIMIT: Duration = Duration::from_millis(140);
/// And not earlier than this: what was sent before the stop has arrived by then and was refused.
pub(super) const STOP_SHADOW: Duration = Duration::from_millis(30);
/// Longest time a controller may take to come back from a fault.
const CLEAR_LIMIT: Duration = Duration::from_secs(4);
/// Longest time a deactivation waits for standstill.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

type Request = ServiceRequest<Trigger::Service>;

/// What waits for the stage.
#[derive(Default)]
pub(super) struct StageWaits {
    stops: Vec<(Request, Instant)>,
    clears: Vec<(Request, Instant)>,
    deactivation: Option<(Wish, Instant)>,
}

impl StageWaits {
    pub(super) fn is_empty(&self) -> bool {
        self.stops.is_empty() && self.clears.is_empty() && self.deactivation.is_none()
    }

    pub(super) fn add_stop(&mut self, request: Request, now: Instant) {
        self.stops.push((request, now));
    }

    pub(super) fn add_clear(&mut self, request: Request, now: Instant) {
        self.clears.push((request, now));
    }

    pub(super) fn deactivate(&mut self, wish: Wish, now: Instant) {
        self.deactivation = Some((wish, now));
    }

    /// Answers what can be answered; a deactivation that cannot be, with the reason.
    pub(super) fn settle(
        &mut self,
        status: &StageStatus,
        zero: Micrometres,
        now: Instant,
    ) -> Option<(Wish, String)> {
        let waited = |since: Instant| now.since(since);
        let is_moving = status.state == StageState::Moving;
        for (request, since) in std::mem::take(&mut self.stops) {
            if waited(since) < STOP_SHADOW || (is_moving && waited(since) < STOP_LIMIT) {
                self.stops.push((request, since));
            } else {
                respond(request, stopped(status, zero));
            }
        }
        for (request, since) in std::mem::take(&mut self.clears) {
            if status.state == StageState::Disconnected && waited(since) < CLEAR_LIMIT {
                self.clears.push((request, since));
            } else {
                respond(request, cleared(status));
            }
        }
        let is_over = |(_, since): &mut (Wish, Instant)| !is_moving || waited(*since) >= LEAVE_LIMIT;
        let (wish, _) = self.deactivation.take_if(is_over)?;
        match stands(status) {
            Ok(_) => {
                wish.done();
                None
            }
            // No link, no confirmation; a velocity runs out, a move ends at its target, and nothing follows.
            Err(unconfirmed) => Some((wish, unconfirmed.to_string())),
        }
    }

    /// Answers all service requests: the stage is let go of.
    pub(super) fn let_go(&mut self, reason: &str) {
        let requests = self.stops.drain(..).chain(self.clears.drain(..));
        for (request, _) in requests {
            respond(request, Err::<String, _>(reason));
        }
    }
}

/// What a stop comes to.
fn stopped(status: &StageStatus, zero: Micrometres) -> Result<String, String> {
    if status.state == StageState::Moving {
        return Err("the stage is stopping, but is not known to stand yet: watch stage_state".to_owned());
    }
    let status = stands(status).map_err(|unconfirmed| unconfirmed.to_string())?;
    let z_um = status.z_um() + zero.0;
    Ok(if z_um.is_finite() {
        format!("stands at {z_um:.2} µm")
    } else {
        "stands; its height is not known".to_owned()
    })
}

/// What clearing a fault comes to.
fn cleared(status: &StageStatus) -> Result<String, String> {
    match status.state {
        StageState::Fault | StageState::Disconnected => Err(status.reason.clone()),
        StageState::Idle | StageState::Moving if status.position_valid => Ok("the stage can move".to_owned()),
        StageState::Idle | StageState::Moving => Ok(
            "the controller goes on, but the position is not valid: call ~/home, or ~/accept_position with where the stage stands"
                .to_owned(),
        ),
    }
}

/// Answers a service with the sentence of either outcome.
pub(super) fn respond(request: Request, outcome: Result<String, impl std::fmt::Display>) {
    let success = outcome.is_ok();
    let message = outcome.unwrap_or_else(|error| error.to_string());
    reply(request, Trigger::Response { success, message });
}
