//! The virtual stand: host, cable, emulated controller, mechanics and a camera, on which a strategy runs from one start after the other.
//!
//! The camera exposes by itself, 40 times a second; the middle of an exposure decides what it shows, so that blur by motion is left out. What
//! it shows is looked up in a [`Response`] at the true height of the lens. A frame is in memory 20 to 24 ms after its middle, then it waits for
//! what is computed of it; the computer works on one frame at a time, and of those that wait it keeps the newest.
//!
//! The stage is one: it warms up, its play lies where the last move left it, and the first run on it, which tells our laws that the
//! picture follows, is marked. Between runs it is driven to the next start and has half a second to come to rest.

use std::collections::VecDeque;
use std::time::Duration;

use super::response::Response;
use super::strategy::{Durations, End, Look, Strategy};
use crate::focus::FocusConfig;
use crate::protocol::grbl::host::GrblHost;
use crate::random::mix;
use crate::sim::grbl::{Emulator, EmulatorConfig};
use crate::sim::mechanics::{MechanicsConfig, MechanicsError};
use crate::sim::microscope::{Shutter, ShutterError};
use crate::sim::pair::{Around, exchange, next_moment};
use crate::stage::Axis;
use crate::stage::guard::{Guard, StageConfigError};
use crate::stage::host::StageConfig;
use crate::stage::memory::Remembered;
use crate::stage::status::Refusal;
use crate::units::Instant;

/// Exposures a second, how late they may be and how long they are, s.
const CAMERA: (f64, f64, f64) = (40.0, 0.0005, 0.002);
/// From the middle of an exposure to the frame in memory, at least and at most.
const TRANSFER_MS: (f64, f64) = (20.0, 24.0);
/// How far the lens has to go before it counts as its first move, µm.
const FIRST_MOVE_UM: f64 = 1.0;
/// Rest before a run begins.
const REST: Duration = Duration::from_millis(500);
/// Time in which a strategy that is no longer to run says so to the stage.
const LAST_WORD: Duration = Duration::from_millis(100);
/// Time after which whoever has not ended is ended.
const LONGEST_RUN: Duration = Duration::from_secs(120);
/// Time in which the stage comes to rest, whatever it does.
const LONGEST_MOVE: Duration = Duration::from_secs(60);
/// Physical height of focus, µm; what the stage counts there is another number.
const FOCUS_UM: f64 = 12.3;

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Height above focus, µm.
    pub defocus_um: f64,
    /// How far focus may be away, as far as is known, µm.
    pub reach_um: f64,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Where it was meant to begin.
    pub start: Start,
    /// Whether it was the first of its stage.
    pub is_first: bool,
    /// True defocus when it began, µm.
    pub began_um: f64,
    /// How it ended.
    pub end: End,
    /// How long it took, s.
    pub took_s: f64,
    /// True defocus in the middle of the first exposure after that, µm.
    pub error_um: f64,
    /// Where the first move of a micrometre went, +1 up, -1 down; None: there was none.
    pub first_move: Option<f64>,
    /// How far the lens went below both its start and focus, µm.
    pub overshoot_um: f64,
    /// Frames used.
    pub frames: usize,
}

/// The camera, the computer behind it and the strategy.
struct Scene<'a> {
    response: &'a Response,
    strategy: Box<dyn Strategy>,
    durations: Durations,
    shutter: Shutter,
    seed: u64,
    camera_began: Instant,
    tick: u64,
    /// Frames on their way to memory, the one that waits, the one that is worked on; with when they get there or are done.
    arriving: VecDeque<(Instant, Look)>,
    waiting: Option<(Instant, Look)>,
    at_work: Option<(Instant, Look)>,
    watched: Watched,
}

/// What is seen of the lens during a run, µm.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    start_um: f64,
    lowest_um: f64,
    first_move: Option<f64>,
}

impl Scene<'_> {
    fn next_exposure(&self) -> Instant {
        let due = self.shutter.due(self.camera_began, self.tick);
        self.shutter.exposure(self.tick, due).middle
    }

    fn expose(&mut self, host: &GrblHost, emulator: &Emulator, now: Instant) {
        while self.next_exposure() <= now {
            let due = self.shutter.due(self.camera_began, self.tick);
            let exposure = self.shutter.exposure(self.tick, due);
            let drawn = mix(self.seed ^ mix(self.tick));
            let (least_ms, most_ms) = TRANSFER_MS;
            let share = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
            let transfer_ms = least_ms + share * (most_ms - least_ms);
            let arrives = exposure.middle + Duration::from_secs_f64(1e-3 * transfer_ms);
            let look = Look {
                began: exposure.start,
                exposed: exposure.middle,
                count_um: host.expected_z_um(exposure.middle),
                seen: self
                    .response
                    .at(defocus_um(emulator, exposure.middle), drawn & 0xff),
            };
            self.arriving.push_back((arrives, look));
            self.tick += 1;
        }
    }

    /// Works on the frames that have arrived, and tells the strategy of those that are done.
    fn work(&mut self, now: Instant) {
        loop {
            if self.at_work.is_none()
                && let Some((since, look)) = self.waiting.take()
            {
                self.at_work = Some((since + self.durations.of(self.strategy.work()), look));
            }
            let done = self.at_work.as_ref().map(|(at, _)| *at);
            let arrival = self.arriving.front().map(|(at, _)| *at);
            match (done, arrival) {
                (Some(at), arrival) if at <= now && arrival.is_none_or(|arrival| at <= arrival) => {
                    if let Some((at, look)) = self.at_work.take() {
                        self.strategy.handle_look(look, at);
                        // What waits is begun when this is done, not when it came.
                        self.waiting = self.waiting.take().map(|(came, look)| (came.max(at), look));
                    }
                }
                (_, Some(at)) if at <= now => self.waiting = self.arriving.pop_front(),
                _ => return,
            }
        }
    }
}

impl Around for Scene<'_> {
    fn act(&mut self, host: &mut GrblHost, emulator: &Emulator, now: Instant) {
        self.expose(host, emulator, now);
        self.work(now);
        self.strategy.act(host, now);
    }

    fn look(&mut self, _: &GrblHost, emulator: &Emulator, now: Instant) {
        let um = defocus_um(emulator, now);
        let watched = &mut self.watched;
        watched.lowest_um = watched.lowest_um.min(um);
        let gone_um = um - watched.start_um;
        if watched.first_move.is_none() && gone_um.abs() >= FIRST_MOVE_UM {
            watched.first_move = Some(gone_um.signum());
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let done = self.at_work.as_ref().map(|(at, _)| *at);
        let arrival = self.arriving.front().map(|(at, _)| *at);
        let strategy = self.strategy.next_wakeup();
        [Some(self.next_exposure()), done, arrival, strategy]
            .into_iter()
            .flatten()
            .min()
    }
}

fn defocus_um(emulator: &Emulator, at: Instant) -> f64 {
    emulator.position_um(Axis::Z, at) - FOCUS_UM
}

/// A stage with a strategy.
pub(super) struct Stand<'a> {
    host: GrblHost,
    emulator: Emulator,
    now: Instant,
    scene: Scene<'a>,
    is_fresh: bool,
}

impl<'a> Stand<'a> {
    /// Powered up in focus, its first motion checked. `seed` draws how camera and frames fall.
    pub fn new(
        response: &'a Response,
        strategy: Box<dyn Strategy>,
        durations: Durations,
        play_um: f64,
        seed: u64,
    ) -> Result<Self, StandError> {
        let now = Instant::from_nanos(5_000_000_000);
        let table = MechanicsConfig::cross_table();
        let fine = MechanicsConfig::fine_focus().with_backlash(play_um)?;
        let mut host = GrblHost::new(Guard::new(StageConfig::default())?)
            .with_memory(Some(Remembered::powered_up_at([0.0; 3])));
        host.handle_open(now);
        let (rate, jitter_s, exposure_s) = CAMERA;
        let late = Duration::from_nanos(mix(seed) % 25_000_000);
        let mut stand = Self {
            host,
            emulator: Emulator::new(EmulatorConfig {
                physical_offset_um: [0.0, 0.0, FOCUS_UM],
                mechanics: [table.clone(), table, fine],
                ..EmulatorConfig::default()
            }),
            now,
            scene: Scene {
                response,
                strategy,
                durations,
                shutter: Shutter::new(seed, rate, jitter_s, exposure_s)?,
                seed,
                camera_began: now + late,
                tick: 0,
                arriving: VecDeque::new(),
                waiting: None,
                at_work: None,
                watched: Watched::default(),
            },
            is_fresh: true,
        };
        stand.rest()?;
        for by_um in [8.0, -8.0] {
            stand.go(by_um)?;
        }
        Ok(stand)
    }

    /// Drives to the start and runs from there.
    pub fn run(&mut self, start: Start) -> Result<Run, StandError> {
        self.scene.strategy.rest();
        // A strategy that was cut short takes its last command back.
        self.run_until(self.now + LAST_WORD);
        self.rest()?;
        self.go(start.defocus_um - self.defocus_um())?;
        self.run_until(self.now + REST);
        let began = self.now;
        let began_um = self.defocus_um();
        self.scene.watched = Watched {
            start_um: began_um,
            lowest_um: began_um,
            first_move: None,
        };
        self.scene.strategy.begin(start.reach_um, began);
        let is_over = self.run_while(LONGEST_RUN, |stand| stand.scene.strategy.end().is_none());
        let took_s = self.now.since(began).as_secs_f64();
        let end = self.scene.strategy.end().cloned().filter(|_| is_over);
        // The picture that is taken next.
        self.run_until(self.scene.next_exposure());
        let watched = self.scene.watched;
        Ok(Run {
            start,
            is_first: std::mem::replace(&mut self.is_fresh, false),
            began_um,
            end: end.unwrap_or_else(|| End::Failed(format!("no end within {} s", LONGEST_RUN.as_secs()))),
            took_s,
            error_um: self.defocus_um(),
            first_move: watched.first_move,
            overshoot_um: (began_um.min(0.0) - watched.lowest_um).max(0.0),
            frames: self.scene.strategy.frames(),
        })
    }

    fn defocus_um(&self) -> f64 {
        defocus_um(&self.emulator, self.now)
    }

    /// A move of the stand's own.
    fn go(&mut self, by_um: f64) -> Result<(), StandError> {
        let speed = FocusConfig::default().speed_um_per_s;
        self.host
            .command_move_relative([0.0, 0.0, by_um], speed, self.now)?;
        self.rest()
    }

    fn rest(&mut self) -> Result<(), StandError> {
        if self.run_while(LONGEST_MOVE, |stand| !stand.host.is_at_rest()) {
            Ok(())
        } else {
            Err(StandError::Restless(self.host.state().reason))
        }
    }

    fn exchange(&mut self) {
        exchange(&mut self.host, &mut self.emulator, &mut self.scene, self.now);
    }

    fn advance(&mut self, until: Instant) {
        self.now = next_moment(&self.host, &self.emulator, &self.scene, self.now).min(until);
    }

    fn run_until(&mut self, until: Instant) {
        self.exchange();
        while self.now < until {
            self.advance(until);
            self.exchange();
        }
    }

    /// Whether it ended by itself.
    fn run_while(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now + limit;
        self.exchange();
        while holds(self) {
            if self.now >= limit {
                return false;
            }
            self.advance(limit);
            self.exchange();
        }
        true
    }
}

/// The stand cannot be set up, or its stage does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum StandError {
    /// The mechanics.
    #[error(transparent)]
    Mechanics(#[from] MechanicsError),
    /// The stage.
    #[error(transparent)]
    Stage(#[from] StageConfigError),
    /// The camera.
    #[error(transparent)]
    Camera(#[from] ShutterError),
    /// A move to a start.
    #[error("the stage of the comparison: {0}")]
    Refused(#[from] Refusal),
    /// It does not come to rest.
    #[error("the stage of the comparison does not come to rest: {0}")]
    Restless(String),
}
