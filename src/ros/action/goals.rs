//! What an action server remembers about its goals: states, results, who waits for them, and until when.
//!
//! No ROS and no clock in here: the server asks what to answer and passes the time in. States and codes are those of
//! `action_msgs` (ROS 2 design article "Actions").

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Instant;

/// Goals that may wait for the node's word at once; more are refused at the door.
pub const MOST_PENDING: usize = 64;
/// Requests for one result that may wait at once; more are answered with the state as it is.
pub const MOST_WAITING: usize = 64;

/// Identity of a goal, chosen by its client.
pub type GoalId = [u8; 16];

/// States of `action_msgs/GoalStatus` that occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Status {
    /// No such goal.
    Unknown = 0,
    /// Being worked on.
    Executing = 2,
    /// Asked to stop, not yet stopped.
    Canceling = 3,
    /// Reached.
    Succeeded = 4,
    /// Stopped because a client asked.
    Canceled = 5,
    /// Given up by the server.
    Aborted = 6,
}

impl Status {
    fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Canceled | Self::Aborted)
    }
}

/// Codes of `action_msgs/CancelGoal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum CancelCode {
    /// The goals that match will be stopped, be it none.
    Accepted = 0,
    /// Nothing will be stopped: too many requests wait.
    Rejected = 1,
    /// The goal named is not known.
    UnknownGoal = 2,
    /// The goal named is over.
    GoalTerminated = 3,
}

struct Entry<R, W> {
    id: GoalId,
    accepted: Instant,
    status: Status,
    result: Option<R>,
    ended: Instant,
    waiting: Vec<W>,
}

/// The goals of one action: `R` is a result, `W` a request for one that has to wait.
pub struct Goals<R, W> {
    /// Ids that wait to be accepted or rejected.
    pending: Vec<GoalId>,
    /// In the order they were accepted.
    entries: VecDeque<Entry<R, W>>,
    keep_for: Duration,
    keep_most: usize,
}

/// What to do with a request for a result.
#[derive(Debug, PartialEq)]
pub enum ResultAnswer<R, W> {
    /// Answer now.
    Now(W, Status, Option<R>),
    /// It will be answered when the goal ends.
    Later,
}

impl<R: Clone, W> Goals<R, W> {
    /// Results are kept for `keep_for` after the end of their goal, and never more than `keep_most` of them.
    pub fn new(keep_for: Duration, keep_most: usize) -> Self {
        Self {
            pending: Vec::new(),
            entries: VecDeque::new(),
            keep_for,
            keep_most,
        }
    }

    /// Reserves the id of a goal that has arrived.
    ///
    /// # Errors
    /// Why the goal is refused before the node hears of it: its id is taken, so that the goal of that id must be left alone,
    /// or too many goals wait.
    pub fn arrive(&mut self, id: GoalId) -> Result<(), &'static str> {
        if self.pending.contains(&id) || self.find(id).is_some() {
            return Err("a goal of this id is known already");
        }
        if self.pending.len() >= MOST_PENDING {
            return Err("too many goals wait for an answer: send them one after the other");
        }
        self.pending.push(id);
        Ok(())
    }

    /// Begins a goal that has arrived.
    pub fn accept(&mut self, id: GoalId, now: Instant) {
        self.withdraw(id);
        self.entries.push_back(Entry {
            id,
            accepted: now,
            status: Status::Executing,
            result: None,
            ended: now,
            waiting: Vec::new(),
        });
    }

    /// Gives the id of a goal that was not accepted free again.
    pub fn withdraw(&mut self, id: GoalId) {
        self.pending.retain(|pending| *pending != id);
    }

    /// Cancels by the rule of `action_msgs/CancelGoal`: a zero id with a zero stamp means all goals; a stamp means all goals
    /// accepted up to then; an id means that goal. Returns the code and the goals that will stop, with the times of their
    /// acceptance. As in rcl, only a request for one goal by its id can fail; to stop all of none succeeds.
    pub fn cancel(&mut self, id: GoalId, stamp: Instant) -> (CancelCode, Vec<(GoalId, Instant)>) {
        let (no_id, no_stamp) = (id == GoalId::default(), stamp == Instant::default());
        let mut stopping = Vec::new();
        for entry in &mut self.entries {
            let named = !no_id && entry.id == id;
            let early = !no_stamp && entry.accepted <= stamp;
            if (named || early || (no_id && no_stamp)) && !entry.status.is_over() {
                entry.status = Status::Canceling;
                stopping.push((entry.id, entry.accepted));
            }
        }
        let code = match self.find(id) {
            _ if !stopping.is_empty() || no_id || !no_stamp => CancelCode::Accepted,
            Some(at) if self.entries[at].status.is_over() => CancelCode::GoalTerminated,
            _ => CancelCode::UnknownGoal,
        };
        (code, stopping)
    }

    /// Ends a goal and returns those who waited for its result. An end after the first changes nothing.
    pub fn end(&mut self, id: GoalId, status: Status, result: R, now: Instant) -> Vec<W> {
        let Some(at) = self.find(id) else {
            return Vec::new();
        };
        let entry = &mut self.entries[at];
        if entry.status.is_over() {
            return Vec::new();
        }
        entry.status = status;
        entry.result = Some(result);
        entry.ended = now;
        std::mem::take(&mut entry.waiting)
    }

    /// A client asks for a result; at once it is told what is known if too many wait already.
    pub fn ask(&mut self, id: GoalId, request: W) -> ResultAnswer<R, W> {
        match self.find(id) {
            None => ResultAnswer::Now(request, Status::Unknown, None),
            Some(at) if self.entries[at].status.is_over() => {
                let entry = &self.entries[at];
                ResultAnswer::Now(request, entry.status, entry.result.clone())
            }
            Some(at) if self.entries[at].waiting.len() >= MOST_WAITING => {
                ResultAnswer::Now(request, self.entries[at].status, None)
            }
            Some(at) => {
                self.entries[at].waiting.push(request);
                ResultAnswer::Later
            }
        }
    }

    /// Forgets what was kept long enough; true if anything was forgotten.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        let keep_for = self.keep_for;
        self.entries
            .retain(|entry| !entry.status.is_over() || now.since(entry.ended) < keep_for);
        let over = |entry: &Entry<R, W>| entry.status.is_over();
        let mut surplus = self
            .entries
            .iter()
            .filter(|entry| over(entry))
            .count()
            .saturating_sub(self.keep_most);
        self.entries.retain(|entry| {
            let drop = surplus > 0 && over(entry);
            surplus -= usize::from(drop);
            !drop
        });
        self.entries.len() < before
    }

    /// When the next result is to be forgotten; None if none is kept.
    pub fn next_expiry(&self) -> Option<Instant> {
        let over = self.entries.iter().filter(|entry| entry.status.is_over());
        over.map(|entry| entry.ended + self.keep_for).min()
    }

    /// Every goal remembered: id, time of acceptance, state.
    pub fn statuses(&self) -> impl Iterator<Item = (GoalId, Instant, Status)> + '_ {
        self.entries
            .iter()
            .map(|entry| (entry.id, entry.accepted, entry.status))
    }

    fn find(&self, id: GoalId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_secs(seconds)
    }

    fn id(number: u8) -> GoalId {
        [number; 16]
    }

    fn goals(ids: &[u8]) -> Goals<&'static str, u32> {
        let mut goals = Goals::new(KEEP, 3);
        for (second, &number) in ids.iter().enumerate() {
            goals.arrive(id(number)).unwrap();
            goals.accept(id(number), at(second as u64));
        }
        goals
    }

    fn stopping(found: &(CancelCode, Vec<(GoalId, Instant)>)) -> Vec<u8> {
        found.1.iter().map(|(id, _)| id[0]).collect()
    }

    #[test]
    fn an_id_is_taken_once() {
        let mut goals = goals(&[1]);
        assert!(goals.arrive(id(1)).is_err(), "it runs");
        goals.end(id(1), Status::Succeeded, "", at(5));
        assert!(goals.arrive(id(1)).is_err(), "its result is kept");
        goals.arrive(id(2)).unwrap();
        assert!(goals.arrive(id(2)).is_err(), "it waits for an answer");
        goals.withdraw(id(2));
        goals.arrive(id(2)).unwrap();
        goals.accept(id(2), at(6));
        assert_eq!(goals.statuses().count(), 2);
    }

    #[test]
    fn who_waits_is_bounded() {
        let mut goals = goals(&[1]);
        for number in 0..MOST_PENDING {
            goals.arrive([100 + number as u8; 16]).unwrap();
        }
        assert!(goals.arrive(id(2)).unwrap_err().contains("too many"));
        for request in 0..MOST_WAITING as u32 {
            assert_eq!(goals.ask(id(1), request), ResultAnswer::Later);
        }
        assert_eq!(
            goals.ask(id(1), 99),
            ResultAnswer::Now(99, Status::Executing, None)
        );
    }

    #[test]
    fn results_come_at_once_later_or_never() {
        let mut goals = goals(&[1]);
        assert_eq!(goals.ask(id(1), 70), ResultAnswer::Later);
        assert_eq!(goals.ask(id(1), 71), ResultAnswer::Later);
        assert_eq!(goals.end(id(1), Status::Succeeded, "there", at(3)), [70, 71]);
        assert!(goals.end(id(1), Status::Aborted, "again", at(4)).is_empty());
        let known = ResultAnswer::Now(72, Status::Succeeded, Some("there"));
        assert_eq!(goals.ask(id(1), 72), known);
        assert_eq!(goals.ask(id(9), 73), ResultAnswer::Now(73, Status::Unknown, None));
    }

    #[test]
    fn cancelling_follows_the_rule_of_the_service() {
        let mut all = goals(&[1, 2, 3]);
        all.end(id(1), Status::Succeeded, "", at(3));
        let found = all.cancel(GoalId::default(), Instant::default());
        assert_eq!((found.0, stopping(&found)), (CancelCode::Accepted, vec![2, 3]));
        let mut early = goals(&[1, 2, 3]);
        let found = early.cancel(GoalId::default(), at(1));
        assert_eq!((found.0, stopping(&found)), (CancelCode::Accepted, vec![1, 2]));
        let found = early.cancel(id(3), Instant::default());
        assert_eq!((found.0, stopping(&found)), (CancelCode::Accepted, vec![3]));
        assert_eq!(
            early.cancel(id(8), Instant::default()),
            (CancelCode::UnknownGoal, vec![])
        );
        early.end(id(3), Status::Canceled, "", at(4));
        assert_eq!(
            early.cancel(id(3), Instant::default()),
            (CancelCode::GoalTerminated, vec![])
        );
        early.end(id(1), Status::Canceled, "", at(4));
        assert_eq!(
            early.cancel(id(3), at(0)),
            (CancelCode::Accepted, vec![]),
            "a stamp asks for many"
        );
        assert_eq!(
            goals(&[]).cancel(GoalId::default(), Instant::default()),
            (CancelCode::Accepted, vec![]),
            "all of none"
        );
    }

    #[test]
    fn results_are_kept_for_a_while_and_not_too_many() {
        let mut goals = goals(&[1, 2, 3, 4, 5]);
        assert_eq!(goals.next_expiry(), None);
        for number in 1..=4 {
            goals.end(id(number), Status::Succeeded, "", at(10 + u64::from(number)));
        }
        assert_eq!(goals.next_expiry(), Some(at(21)));
        assert!(goals.expire(at(15)), "four are one too many");
        let left = |goals: &Goals<&str, u32>| goals.statuses().map(|(id, ..)| id[0]).collect::<Vec<_>>();
        assert_eq!(left(&goals), [2, 3, 4, 5]);
        assert!(!goals.expire(at(21)));
        assert!(goals.expire(at(23)));
        assert_eq!(left(&goals), [4, 5], "the one that runs stays");
    }

    #[test]
    fn ten_thousand_goals_leave_no_more_than_the_limit() {
        let mut goals = Goals::<u8, u8>::new(KEEP, 100);
        for number in 0u32..10_000 {
            let mut id = GoalId::default();
            id[..4].copy_from_slice(&(number + 1).to_le_bytes());
            goals.arrive(id).unwrap();
            goals.accept(id, at(0));
            goals.end(id, Status::Succeeded, 0, at(0));
            goals.expire(at(0));
        }
        assert_eq!(goals.statuses().count(), 100);
    }
}
