//! A client of an action: it sends a goal, waits for the result, and cancels.
//!
//! On the plain services of the action, like the server: whoever serves it, in whatever language, is asked the same way. Feedback is not taken.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::Result;
use r2r::action_msgs::srv::CancelGoal;
use tokio::time::timeout;

use super::goals::{GoalId, Status};
use super::{Action, info, to_uuid};
use crate::ros::node::{Builder, Client};
use crate::units::Instant;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// Nobody serves it.
    #[error("nothing serves the action {0}: start the node that does")]
    Absent(String),
    /// It is served, and does not answer.
    #[error("the action {0} does not answer: look at the log of the node that serves it")]
    Silent(String),
    /// The goal was refused.
    #[error("the action {0} refuses the goal: the log of the node that serves it says why")]
    Refused(String),
}

/// What asks an action to do something.
pub struct ActionClient<A: Action> {
    name: String,
    sends: Client<A::SendGoal>,
    results: Client<A::GetResult>,
    cancels: Client<CancelGoal::Service>,
    ids: RandomState,
    sent: u64,
}

/// A goal that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted(GoalId);

impl<A: Action> ActionClient<A> {
    /// A client of the action `name`, on a node that does not spin yet.
    ///
    /// # Errors
    /// If ROS refuses the name.
    pub fn new(node: &mut Builder, name: &str) -> Result<Self> {
        let service = |part| format!("{name}/_action/{part}");
        Ok(Self {
            sends: node.client(&service("send_goal"))?,
            results: node.client(&service("get_result"))?,
            cancels: node.client(&service("cancel_goal"))?,
            name: name.to_owned(),
            ids: RandomState::new(),
            sent: 0,
        })
    }

    /// Sends a goal and waits until it is accepted; for a server, and then for its answer, as long as `patience`.
    ///
    /// # Errors
    /// If nothing serves the action, or the goal is refused.
    pub async fn send(&mut self, goal: A::Goal, patience: Duration) -> Result<Accepted, ActionError> {
        let there = timeout(patience, self.sends.is_served()).await;
        if !there.unwrap_or(false) {
            return Err(ActionError::Absent(self.name.clone()));
        }
        self.sent += 1;
        let half = |part: u64| u128::from(self.ids.hash_one((self.sent, part)));
        let id = (half(0) << 64 | half(1)).to_be_bytes();
        let request = A::make_goal_request_msg(to_uuid(id), goal);
        let answer = timeout(patience, self.sends.call(&request)).await;
        let Ok(Some(answer)) = answer else {
            return Err(ActionError::Silent(self.name.clone()));
        };
        match A::destructure_goal_response_msg(answer) {
            (true, _) => Ok(Accepted(id)),
            (false, _) => Err(ActionError::Refused(self.name.clone())),
        }
    }

    /// Waits for the result of a goal, as long as `patience`; whether the goal succeeded.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn result(
        &self,
        Accepted(id): Accepted,
        patience: Duration,
    ) -> Result<(bool, A::Result), ActionError> {
        let request = A::make_result_request_msg(to_uuid(id));
        match timeout(patience, self.results.call(&request)).await {
            Ok(Some(answer)) => {
                let (status, result) = A::destructure_result_response_msg(answer);
                Ok((status == Status::Succeeded as i8, result))
            }
            Ok(None) | Err(_) => Err(ActionError::Silent(self.name.clone())),
        }
    }

    /// Asks to cancel a goal; its result says what became of it.
    ///
    /// # Errors
    /// If that is not answered within `patience`.
    pub async fn cancel(&self, Accepted(id): Accepted, patience: Duration) -> Result<(), ActionError> {
        let request = CancelGoal::Request {
            goal_info: info(id, Instant::default()),
        };
        match timeout(patience, self.cancels.call(&request)).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(ActionError::Silent(self.name.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use r2r::hhnet::action::MoveStage;

    use super::super::ActionServer;
    use super::*;
    use crate::ros::clock::Clock;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test(flavor = "multi_thread")]
    async fn goals_are_sent_refused_cancelled_and_answered() {
        let name = format!("asked_{}", std::process::id());
        let mut serving = Builder::new("serves_client").unwrap();
        let mut server = ActionServer::<MoveStage::Action>::new(&mut serving, &name, Clock::start()).unwrap();
        let mut asking = Builder::new("asks").unwrap();
        let mut client = ActionClient::<MoveStage::Action>::new(&mut asking, &name).unwrap();
        let mut nobody = ActionClient::<MoveStage::Action>::new(&mut asking, "served_by_nobody").unwrap();
        let (_serves, _asks) = (serving.spin().unwrap(), asking.spin().unwrap());
        let goal = |z| MoveStage::Goal {
            z,
            ..MoveStage::Goal::default()
        };
        let absent = nobody.send(goal(0.0), Duration::from_millis(300)).await;
        assert_eq!(absent, Err(ActionError::Absent("served_by_nobody".to_owned())));

        // Refuses the first, does the second, and is asked to cancel the third.
        tokio::spawn(async move {
            server.next().await.unwrap().reject("the first");
            let second = server.next().await.unwrap().accept();
            second.succeed(MoveStage::Result {
                z: 0.25,
                ..MoveStage::Result::default()
            });
            let third = server.next().await.unwrap().accept();
            while !third.is_cancelling() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            third.cancelled(MoveStage::Result::default());
        });
        assert_eq!(
            client.send(goal(1.0), LIMIT).await,
            Err(ActionError::Refused(name))
        );
        let second = client.send(goal(2.0), LIMIT).await.unwrap();
        let (succeeded, result) = client.result(second, LIMIT).await.unwrap();
        assert!(succeeded && result.z == 0.25);
        let third = client.send(goal(3.0), LIMIT).await.unwrap();
        assert!(client.result(third, Duration::from_millis(100)).await.is_err());
        client.cancel(third, LIMIT).await.unwrap();
        assert!(!client.result(third, LIMIT).await.unwrap().0);
    }
}
