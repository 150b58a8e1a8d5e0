//! The control laws of this package on the virtual stand, as the node drives them.

use std::time::Duration;

use super::strategy::{End, Look, Strategy, Work};
use crate::focus::{Command, FocusController, Observation, RunState, StageMotion, StageReport};
use crate::protocol::grbl::host::GrblHost;
use crate::stage::status::StageState;
use crate::units::{Instant, StageHeight};

/// Period of stage reports and of commands, as of the nodes.
const TICK: Duration = Duration::from_millis(20);

/// A controller with what the node around it does.
pub(super) struct Ours {
    controller: FocusController,
    next_tick: Instant,
    /// Whether the last command was to move.
    is_driving: bool,
    /// Whether an estimate has arrived that was not acted on.
    has_news: bool,
    frames: usize,
    end: Option<End>,
}

impl Ours {
    pub fn new(controller: FocusController) -> Self {
        Self {
            controller,
            next_tick: Instant::default(),
            is_driving: false,
            has_news: false,
            frames: 0,
            end: None,
        }
    }

    /// The end of a motion is commanded too, not left to the host's timeout.
    fn command(&mut self, host: &mut GrblHost, now: Instant) {
        let command = self.controller.poll(now);
        let refused = match command {
            Command::Target(z, um_per_s) => host.command_target(z.um(), um_per_s, now, now).err(),
            Command::Velocity(um_per_s) if um_per_s != 0.0 || self.is_driving => {
                host.command_velocity(um_per_s, now, now).err()
            }
            Command::Velocity(_) => None,
        };
        self.is_driving = command.is_motion();
        if let Some(refusal) = refused {
            self.controller.give_up(refusal.to_string());
        }
        self.end = match (self.end.take(), self.controller.state()) {
            (None, RunState::InFocus) => Some(End::InFocus),
            (None, RunState::Failed(reason)) => Some(End::Failed(reason.clone())),
            (end, _) => end,
        };
    }
}

impl Strategy for Ours {
    fn work(&self) -> Work {
        Work::Decision
    }

    fn begin(&mut self, _: f64, now: Instant) {
        (self.frames, self.end) = (0, None);
        self.controller.enable(now);
    }

    fn rest(&mut self) {
        self.controller.disable();
    }

    fn handle_look(&mut self, look: Look, now: Instant) {
        self.frames += 1;
        let observation = Observation {
            exposed: look.exposed,
            ..look.seen.judgement
        };
        self.controller.handle_observation(observation, now);
        // As the node does: an estimate is acted on when it arrives.
        self.has_news = true;
    }

    fn act(&mut self, host: &mut GrblHost, now: Instant) {
        if now < self.next_tick {
            if std::mem::take(&mut self.has_news) {
                self.command(host, now);
            }
            return;
        }
        self.next_tick = now + TICK;
        self.has_news = false;
        let status = host.state();
        let motion = match status.state {
            StageState::Idle => StageMotion::Still,
            StageState::Moving => StageMotion::Moving,
            StageState::Disconnected | StageState::Fault => StageMotion::Unavailable,
        };
        self.controller.handle_stage(StageReport {
            z: status.position_valid.then(|| StageHeight::from_um(status.z_um())),
            motion,
            at: now,
        });
        self.command(host, now);
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn next_wakeup(&self) -> Option<Instant> {
        Some(self.next_tick)
    }
}
