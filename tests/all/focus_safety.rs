//! What holds whatever the control law is told: arbitrary estimates, late, lost, twice, out of order and with wrong times; stage reports that
//! are late or lost; runs that are begun and ended at any moment; limits anywhere. Controller, host, cable, emulated firmware and mechanics
//! in virtual time, for each law.
//!
//! Everything is asserted of the motor, at each moment at which anything happens, and never of what the controller says of itself:
//!
//! * it never goes below `z_min`, nor above `z_max`;
//! * it is never faster towards the slide than the cap, nor than is permitted at its height;
//! * it stands soon after the estimates end, the run ends, the stage is stopped, or the controller falls silent;
//! * it never goes down on estimates that are not trusted, but for the rest of what the newest trusted one ordered, and in a sweep, slowly and
//!   no farther below where it was than a sweep may;
//! * a run ends by itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hhnet::classes::{ClassEdges, DistanceIndex};
use hhnet::focus::{
    Command, FocusConfig, FocusController, Law, Observation, RunState, StageMotion, StageReport, Sweeping,
};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::stage::Axis;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::StageState;
use hhnet::units::{CLOCK_SKEW, Defocus, Instant, Micrometres, StageHeight};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rand::SeedableRng as _;
use rand_pcg::Pcg64;

use crate::common::pair::{Around, Pair};

const MS: Duration = Duration::from_millis(1);
/// Period of stage reports and of commands.
const TICK: Duration = Duration::from_millis(20);
const LAWS: [Law; 3] = [Law::Predictive, Law::Stepwise, Law::Paper];
/// Longest time of a run here.
const RUN_TIMEOUT: Duration = Duration::from_secs(4);
/// Time from the end of a run, a stop, or the last command to standstill: the command timeout, what is queued, and braking.
const STOPS_WITHIN: Duration = Duration::from_millis(320);
/// A microstep, µm, and what a quotient may be off by.
const STEP_UM: f64 = 0.051;
/// Time over which a speed is measured.
const WINDOW: Duration = Duration::from_millis(100);
/// How far below where it was a sweep may go, in depths of class 3.
const SWEEP: f64 = 4.0;
/// Way of the bridge's check of its first motion, µm.
const CHECK_UM: f64 = 7.0;

/// What the estimates of a while say.
#[derive(Clone, Copy, Debug)]
enum Picture {
    /// The lens's defocus times this; 1 is true, -1 a reversed axis.
    Scaled(f64),
    /// The same all the time.
    Frozen,
    /// Anything.
    Any,
    /// Nothing that can be trusted.
    Doubtful,
    /// Too close, and sure of the side.
    TooClose,
    /// There are none.
    None,
}

/// What the times of the estimates say.
#[derive(Clone, Copy, Debug)]
enum Stamps {
    True,
    /// So many ms later or earlier.
    Off(i64),
    /// All the same.
    Stuck,
}

/// What is done at the beginning of a while.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Nothing,
    Enable,
    Disable,
    GiveUp,
    /// `~/stop` of the bridge, of which the controller does not know.
    Stop,
    /// The parameter `mode`.
    Switch(Law),
}

/// A while.
#[derive(Clone, Debug)]
struct While {
    ms: u64,
    ask: Ask,
    picture: Picture,
    stamps: Stamps,
    /// Time between frames, and the range of their latencies, ms.
    frame_ms: u64,
    latency_ms: (u64, u64),
    /// Shares of the estimates that are lost, and that come twice.
    lost: f64,
    twice: f64,
    /// Share of the stage's reports that are lost, and the age of the others, ms.
    deaf: f64,
    report_ms: u64,
    /// Whether the controller's process runs.
    is_alive: bool,
}

/// A course of events.
#[derive(Clone, Debug)]
struct Course {
    law: Law,
    seed: u64,
    /// Where the lens is at first, and focus, µm.
    z_um: f64,
    focus_um: f64,
    z_range_um: (f64, f64),
    max_down_um_per_s: f64,
    /// Whether the bridge has checked its first motion before the run.
    is_checked: bool,
    /// Whether frames have a sharpness, without which nothing is swept.
    is_shown: bool,
    whiles: Vec<While>,
}

/// The longest that a motor may go on after the exposure of the newest estimate: its age when it decides, the longest move, and its end.
fn blind(law: Law) -> Duration {
    let longest_move = match law {
        // Two moves of a length, if the first is the short one that shows whether the picture follows.
        Law::Paper | Law::Stepwise => 600 * MS,
        // A height is let go of after its way, and a second and a half.
        Law::Predictive => 1620 * MS,
    };
    // What is decided is commanded at the next tick.
    FocusConfig::default().estimate_timeout + longest_move + STOPS_WITHIN + TICK
}

/// The farthest down that a trusted estimate sends the motor, µm: the depth of class 3 and what the stage goes on for, or, by Algorithm 1, as
/// far as it gets in the time for which an estimate counts.
fn order_um(law: Law) -> f64 {
    let config = FocusConfig::default();
    let overrun_s = 0.2;
    match law {
        Law::Paper => (config.motion_timeout.as_secs_f64() + overrun_s) * config.default_speed_um_per_s,
        Law::Stepwise => ClassEdges::default().far_um + overrun_s * config.default_speed_um_per_s,
        // Play that was learnt is added, and a move goes on once by the depth of class 1.
        Law::Predictive => ClassEdges::default().far_um + 5.0 + ClassEdges::default().near_um,
    }
}

/// What is around host and controller, and what the motor was seen to do.
struct Focusing {
    course: Course,
    number: usize,
    until: Instant,
    random: Pcg64,
    controller: FocusController,
    estimates: Vec<(Instant, Observation)>,
    reports: VecDeque<(Instant, StageReport)>,
    frozen_um: Option<f64>,
    stuck: Option<Instant>,
    next_frame: Instant,
    next_tick: Instant,
    is_driving: bool,
    /// Motor's coordinates less the stage's, µm.
    offset_um: Option<f64>,
    seen: Seen,
}

/// What is needed to judge a motion.
#[derive(Clone, Debug)]
struct Seen {
    /// Laws that may have ordered the motion.
    blind: Duration,
    order_um: f64,
    /// When the run began, and when it did or was in focus last.
    began: Instant,
    sought: Instant,
    /// Exposure of the newest estimate that was handed over and could be of this run; else when that began.
    newest: Instant,
    /// Where the motor was when a trusted estimate was handed over last, µm; none in this run.
    ordered_um: Option<f64>,
    /// Since when the run is over.
    over: Option<Instant>,
    /// Since when a stop holds, and when a velocity or height was asked for last.
    stopped: Option<Instant>,
    asked: Instant,
    /// When a motion was commanded last.
    commanded: Instant,
    z_um: f64,
    fastest_down_um_per_s: f64,
    has_descended: bool,
    was_in_focus: bool,
    /// When the controller searched last in this run, and the lowest height that the motor had before it swept, µm.
    searched: Option<Instant>,
    has_searched: bool,
    lowest_um: f64,
}

impl Focusing {
    fn new(course: Course, now: Instant) -> Self {
        let config = FocusConfig {
            law: course.law,
            z_min: StageHeight::from_um(course.z_range_um.0),
            z_max: StageHeight::from_um(course.z_range_um.1),
            run_timeout: RUN_TIMEOUT,
            sweeping: Sweeping::Always,
            ..FocusConfig::default()
        };
        let (law, z_um) = (course.law, course.z_um);
        Self {
            number: 0,
            until: Instant::from_nanos(u64::MAX),
            random: Pcg64::seed_from_u64(course.seed),
            controller: FocusController::new(config.checked().unwrap()),
            estimates: Vec::new(),
            reports: VecDeque::new(),
            frozen_um: None,
            stuck: None,
            next_frame: now,
            next_tick: now,
            is_driving: false,
            offset_um: None,
            seen: Seen {
                blind: blind(law),
                order_um: order_um(law),
                began: now,
                sought: now,
                newest: now,
                ordered_um: None,
                over: Some(now),
                stopped: None,
                asked: now,
                commanded: now,
                z_um,
                fastest_down_um_per_s: 0.0,
                has_descended: false,
                was_in_focus: false,
                searched: None,
                has_searched: false,
                lowest_um: z_um,
            },
            course,
        }
    }

    fn current(&self) -> While {
        self.course.whiles[self.number].clone()
    }

    /// Begins the next while when the one before is over; the last one goes on.
    fn turn(&mut self, host: &mut GrblHost, now: Instant) {
        while now >= self.until && self.number + 1 < self.course.whiles.len() {
            self.number += 1;
            self.until = self.until + MS * self.current().ms as u32;
            self.ask(host, now);
        }
    }

    fn ask(&mut self, host: &mut GrblHost, now: Instant) {
        (self.frozen_um, self.stuck) = (None, None);
        match self.current().ask {
            Ask::Nothing => {}
            Ask::Enable => {
                self.controller.enable(now);
                let seen = &mut self.seen;
                // What is exposed just now is of this run.
                (seen.began, seen.sought, seen.newest) = (now, now, now.before(Duration::from_nanos(1)));
                (seen.ordered_um, seen.over) = (None, None);
                (seen.searched, seen.lowest_um) = (None, seen.z_um);
            }
            Ask::Disable => {
                self.controller.disable();
                self.seen.over = self.seen.over.or(Some(now));
            }
            Ask::GiveUp => {
                self.controller.give_up("for once".to_owned());
                self.seen.over = self.seen.over.or(Some(now));
            }
            Ask::Stop => {
                host.command_stop(now);
                self.seen.stopped = Some(now);
                self.seen.asked = now;
            }
            Ask::Switch(law) => {
                let config = FocusConfig {
                    law,
                    ..self.controller.config().clone()
                };
                self.controller.set_config(config);
                self.seen.blind = self.seen.blind.max(blind(law));
                self.seen.order_um = self.seen.order_um.max(order_um(law));
            }
        }
    }

    /// What the model says of the lens at a moment.
    fn observe(&mut self, defocus_um: f64, exposed: Instant) -> Observation {
        let random = &mut self.random;
        let (mut um, mut trusted, mut other_side) = (defocus_um, true, 0.0);
        let mut index = None;
        match self.course.whiles[self.number].picture {
            Picture::Scaled(scale) => um *= scale,
            Picture::Frozen => um = *self.frozen_um.get_or_insert(defocus_um),
            Picture::Any => {
                um = *[0.0, 0.3, 2.0, 8.0, 40.0, 1e9]
                    .get(random.random_range(0..6_usize))
                    .unwrap()
                    * random.random_range(-1.0..1.0);
                index = random
                    .random_bool(0.5)
                    .then(|| DistanceIndex::from_class(random.random_range(0..7)));
                trusted = random.random_bool(0.8);
                other_side = random.random_range(0.0..1.0_f32).powi(2);
            }
            Picture::Doubtful => {
                um = random.random_range(-60.0..60.0);
                trusted = false;
                other_side = random.random_range(0.0..1.0);
            }
            Picture::TooClose => {
                um = random.random_range(-60.0..-0.8);
                trusted = random.random_bool(0.8);
            }
            Picture::None => {}
        }
        let edges = self.controller.config().edges;
        let has_distance = self.random.random_bool(0.9);
        let sharpness = self.course.is_shown && self.random.random_bool(0.9);
        Observation {
            index: index.unwrap_or_else(|| edges.classify(Micrometres(um))),
            defocus: has_distance.then_some(Defocus::from_um(um)),
            other_side,
            trusted,
            reason: Arc::default(),
            stddev_um: Some(0.1),
            sharpness: sharpness.then(|| self.random.random_range(0.1..1.0)),
            has_specimen: self.random.random_bool(0.95),
            left_out: if self.random.random_bool(0.1) { 7 } else { 0 },
            exposed,
        }
    }

    /// Exposes when it is time: what is told of it arrives later, or never.
    fn expose(&mut self, emulator: &Emulator, now: Instant) {
        if now < self.next_frame {
            return;
        }
        let during = self.current();
        let exposed = self.next_frame;
        self.next_frame = exposed + MS * during.frame_ms as u32;
        if matches!(during.picture, Picture::None) || self.random.random_bool(during.lost) {
            return;
        }
        let defocus_um = emulator.position_um(Axis::Z, exposed) - self.course.focus_um;
        let stamp = match during.stamps {
            Stamps::True => exposed,
            Stamps::Off(ms) if ms < 0 => exposed.before(MS * ms.unsigned_abs() as u32),
            Stamps::Off(ms) => exposed + MS * ms as u32,
            Stamps::Stuck => *self.stuck.get_or_insert(exposed),
        };
        let observation = self.observe(defocus_um, stamp);
        for _ in 0..1 + u32::from(self.random.random_bool(during.twice)) {
            let (least_ms, most_ms) = during.latency_ms;
            let late = MS * self.random.random_range(least_ms..=most_ms) as u32;
            self.estimates.push((exposed + late, observation.clone()));
        }
    }

    /// Hands over what is due, in the order in which it is.
    fn deliver(&mut self, z_um: f64, now: Instant) {
        self.estimates.sort_by_key(|(due, _)| *due);
        let due = self.estimates.partition_point(|(due, _)| *due <= now);
        for (_, observation) in self.estimates.drain(..due) {
            // Of now, and not older than the newest before it.
            if observation.exposed <= now + CLOCK_SKEW && observation.exposed > self.seen.newest {
                self.seen.newest = observation.exposed;
                if observation.trusted {
                    self.seen.ordered_um = Some(z_um);
                }
            }
            self.controller.handle_observation(observation, now);
        }
    }

    /// The stage's report, as far as it gets through.
    fn report(&mut self, host: &GrblHost, during: &While, now: Instant) {
        let status = host.state();
        let motion = match status.state {
            StageState::Idle => StageMotion::Still,
            StageState::Moving => StageMotion::Moving,
            _ => StageMotion::Unavailable,
        };
        let report = StageReport {
            z: status.position_valid.then(|| StageHeight::from_um(status.z_um())),
            motion,
            at: now,
        };
        if !self.random.random_bool(during.deaf) {
            self.reports
                .push_back((now + MS * during.report_ms as u32, report));
        }
        while self.reports.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, report)) = self.reports.pop_front() {
                self.controller.handle_stage(report);
            }
        }
    }

    /// What the node does every 20 ms.
    fn tick(&mut self, host: &mut GrblHost, during: &While, now: Instant) {
        self.report(host, during, now);
        if *self.controller.state() == RunState::InFocus {
            (self.seen.sought, self.seen.was_in_focus) = (now, true);
        }
        let command = self.controller.poll(now);
        let is_asked = command.is_motion() || self.is_driving;
        if is_asked {
            if now.since(self.seen.asked) > 500 * MS {
                self.seen.stopped = None;
            }
            self.seen.asked = now;
        }
        // What is refused has no effect.
        match command {
            Command::Target(z, um_per_s) => drop(host.command_target(z.um(), um_per_s, now, now)),
            Command::Velocity(um_per_s) if is_asked => drop(host.command_velocity(um_per_s, now, now)),
            Command::Velocity(_) => {}
        }
        if command.is_motion() {
            self.seen.commanded = now;
        }
        self.is_driving = command.is_motion();
        self.judge_run(now);
    }

    /// A run that is not in focus ends in time.
    fn judge_run(&mut self, now: Instant) {
        let seen = &mut self.seen;
        if *self.controller.state() == RunState::Searching {
            (seen.searched, seen.has_searched) = (Some(now), true);
        }
        match self.controller.state() {
            RunState::Looking | RunState::Moving | RunState::Searching => {
                assert!(
                    now.since(seen.sought) <= RUN_TIMEOUT + 2 * TICK,
                    "no end of the run"
                );
            }
            RunState::InFocus => {}
            RunState::Disabled | RunState::Failed(_) => seen.over = seen.over.or(Some(now)),
        }
    }
}

impl Seen {
    /// Judges the motor: where it is and was a tenth of a second before, µm in stage coordinates, and its velocity, µm/s.
    fn judge(&mut self, course: &Course, (z_um, before_um): (f64, f64), um_per_s: f64, now: Instant) {
        let (low_um, high_um) = course.z_range_um;
        // From beyond a limit there is only the way back.
        let (floor_um, ceiling_um) = (low_um.min(course.z_um), high_um.max(course.z_um));
        assert!(z_um >= floor_um - STEP_UM, "{z_um} µm, below {floor_um}");
        assert!(z_um <= ceiling_um + STEP_UM, "{z_um} µm, above {ceiling_um}");
        let way_um = before_um - z_um;
        let permitted_um_per_s = ((before_um - low_um) / 0.25)
            .max(30.0)
            .min(course.max_down_um_per_s);
        assert!(
            way_um <= permitted_um_per_s * WINDOW.as_secs_f64() + STEP_UM,
            "{way_um} µm down in {WINDOW:?} from {before_um} µm"
        );
        self.fastest_down_um_per_s = self.fastest_down_um_per_s.max(way_um / WINDOW.as_secs_f64());
        self.z_um = z_um;
        if um_per_s == 0.0 {
            return;
        }
        let age = now.since(self.newest);
        assert!(age <= self.blind, "moves by an estimate of {age:?} ago");
        let silence = now.since(self.commanded);
        assert!(
            silence <= STOPS_WITHIN,
            "moves {silence:?} after the last command"
        );
        for (what, since) in [("the end", self.over), ("a stop", self.stopped)] {
            let late = since.map_or(Duration::ZERO, |since| now.since(since));
            assert!(late <= STOPS_WITHIN, "moves {late:?} after {what}");
        }
        // So near the upper limit the bridge checks its first motion downwards.
        let is_checking = z_um > high_um - 2.0 * CHECK_UM;
        if um_per_s < 0.0 && !is_checking {
            self.judge_descent(z_um, now);
        }
    }

    /// The motor goes down.
    fn judge_descent(&mut self, z_um: f64, now: Instant) {
        self.has_descended = true;
        // What the run before has ordered ends within that time.
        if self.over.is_some() || now.since(self.began) <= STOPS_WITHIN {
            return;
        }
        if self.searched.is_some_and(|at| now.since(at) <= STOPS_WITHIN) {
            let least_um = self.lowest_um - SWEEP * ClassEdges::default().far_um;
            assert!(z_um >= least_um - 2.0, "{z_um} µm in a sweep, below {least_um}");
            return;
        }
        self.lowest_um = self.lowest_um.min(z_um);
        let ordered_um = self.ordered_um.expect("goes down, and no estimate was trusted");
        assert!(
            z_um >= ordered_um - self.order_um,
            "{:.1} µm down since the newest trusted estimate",
            ordered_um - z_um
        );
    }
}

impl Around for Focusing {
    fn act(&mut self, host: &mut GrblHost, emulator: &Emulator, now: Instant) {
        self.turn(host, now);
        self.expose(emulator, now);
        let during = self.current();
        if now >= self.next_tick {
            self.next_tick = self.next_tick + TICK;
            if during.is_alive {
                self.deliver(self.seen.z_um, now);
                self.tick(host, &during, now);
            }
        }
    }

    fn look(&mut self, _: &GrblHost, emulator: &Emulator, now: Instant) {
        let Some(offset_um) = self.offset_um else { return };
        let motor = emulator.mechanics(Axis::Z).motor();
        let places_um = [now, now.before(WINDOW)].map(|at| motor.position_um(at) - offset_um);
        self.seen
            .judge(&self.course, places_um.into(), motor.um_per_s(now), now);
    }

    fn next_wakeup(&self) -> Option<Instant> {
        Some(self.next_frame.min(self.next_tick))
    }
}

/// Runs a course; what the motor did.
fn run(course: &Course) -> Seen {
    let now = Instant::from_nanos(5_000_000_000);
    let stage = StageConfig {
        z_range_um: course.z_range_um,
        max_down_um_per_s: course.max_down_um_per_s,
        ..StageConfig::default()
    };
    let emulator = EmulatorConfig {
        physical_offset_um: [0.0, 0.0, course.z_um],
        mechanics: [
            MechanicsConfig::rigid(),
            MechanicsConfig::rigid(),
            MechanicsConfig::fine_focus(),
        ],
        ..EmulatorConfig::default()
    };
    let around = Focusing::new(course.clone(), now);
    let mut pair = Pair::new(stage, emulator, course.z_um, now, around);
    pair.run_while(2000, |pair| pair.host.state().state != StageState::Idle);
    let motor_um = pair.emulator.mechanics(Axis::Z).motor().end_um();
    if course.is_checked && pair.move_z(8.0, 200.0).is_ok() {
        pair.run_to_rest(1000);
        drop(pair.move_z(-8.0, 200.0));
        pair.run_to_rest(1000);
    }
    let around = &mut pair.around;
    around.offset_um = Some(motor_um - course.z_um);
    around.seen.over = None;
    around.until = pair.now + MS * around.current().ms as u32;
    around.ask(&mut pair.host, pair.now);
    let whole_ms = course.whiles.iter().map(|during| during.ms).sum();
    pair.run_ms(whole_ms);
    pair.around.seen
}

fn pictures() -> BoxedStrategy<Picture> {
    prop_oneof![
        12 => Just(Picture::Scaled(1.0)),
        2 => (-2.0..3.0_f64).prop_map(Picture::Scaled),
        1 => Just(Picture::Frozen),
        4 => Just(Picture::Any),
        2 => Just(Picture::Doubtful),
        1 => Just(Picture::TooClose),
        1 => Just(Picture::None),
    ]
    .boxed()
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        16 => Just(Ask::Nothing),
        4 => Just(Ask::Enable),
        1 => Just(Ask::Disable),
        1 => Just(Ask::GiveUp),
        1 => Just(Ask::Stop),
        1 => prop::sample::select(LAWS.to_vec()).prop_map(Ask::Switch),
    ]
}

/// A while with these pictures.
fn whiles(pictures: BoxedStrategy<Picture>) -> impl Strategy<Value = While> {
    let stamps = prop_oneof![
        8 => Just(Stamps::True),
        2 => (-4000..1500_i64).prop_map(Stamps::Off),
        1 => Just(Stamps::Stuck),
    ];
    let link = (
        8..120_u64,
        (5..150_u64, prop_oneof![2 => Just(0), 1 => 0..300_u64]),
        0.0..0.3_f64,
        0.0..0.3_f64,
    );
    let reports = (
        prop_oneof![3 => Just(0.0), 1 => 0.0..1.0_f64],
        prop_oneof![4 => Just(0), 1 => 0..400_u64, 1 => 0..1400_u64],
    );
    let is_alive = prop::bool::weighted(0.9);
    (20..2500_u64, asks(), pictures, stamps, link, reports, is_alive).prop_map(
        |(
            ms,
            ask,
            picture,
            stamps,
            (frame_ms, (least_ms, more_ms), lost, twice),
            (deaf, report_ms),
            is_alive,
        )| {
            While {
                ms,
                ask,
                picture,
                stamps,
                frame_ms,
                latency_ms: (least_ms, least_ms + more_ms),
                lost,
                twice,
                deaf,
                report_ms,
                is_alive,
            }
        },
    )
}

/// A course through such whiles, whose first begins a run.
fn courses(pictures: BoxedStrategy<Picture>) -> impl Strategy<Value = Course> {
    let place = (
        -40.0..40.0_f64,
        -80.0..80.0_f64,
        -200.0..20.0_f64,
        30.0..400.0_f64,
    );
    let whiles = prop::collection::vec(whiles(pictures), 1..12);
    (any::<u64>(), place, 20.0..500.0_f64, any::<bool>(), whiles).prop_map(
        |(seed, (z_um, offset_um, low_um, length_um), max_down_um_per_s, is_checked, mut whiles)| {
            whiles[0].ask = Ask::Enable;
            Course {
                law: Law::default(),
                seed,
                z_um,
                focus_um: z_um - offset_um,
                z_range_um: (low_um, low_um + length_um),
                max_down_um_per_s,
                is_checked,
                is_shown: true,
                whiles,
            }
        },
    )
}

/// Runs so many courses by each law; what they came to is judged together.
fn check(cases: u32, courses: impl Strategy<Value = Course>, judge: impl Fn(&Seen)) -> Vec<Seen> {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    };
    let all = std::cell::RefCell::new(Vec::new());
    TestRunner::new(config)
        .run(&courses, |course| {
            for law in LAWS {
                let course = Course {
                    law,
                    ..course.clone()
                };
                let seen = run(&course);
                judge(&seen);
                all.borrow_mut().push(seen);
            }
            Ok(())
        })
        .unwrap();
    all.into_inner()
}

#[test]
fn no_course_of_events_leads_the_motor_astray() {
    let all = check(500, courses(pictures()), |_| {});
    let descended = all.iter().filter(|seen| seen.has_descended).count();
    let in_focus = all.iter().filter(|seen| seen.was_in_focus).count();
    let fastest_um_per_s = all
        .iter()
        .map(|seen| seen.fastest_down_um_per_s)
        .fold(0.0, f64::max);
    println!(
        "{} courses: {descended} went down, at most at {fastest_um_per_s:.0} µm/s, {in_focus} were in focus",
        all.len()
    );
    // What never moves breaks no rule.
    assert!(descended * 5 > all.len() && in_focus * 25 > all.len() && fastest_um_per_s > 150.0);
}

/// A stage whose first motion was checked with room above it, and frames without a sharpness: the bridge itself never goes down, and nothing
/// is swept.
fn checked(course: Course) -> Course {
    let high_um = course.z_range_um.1.max(course.z_um + 20.0);
    Course {
        is_checked: true,
        is_shown: false,
        z_range_um: (course.z_range_um.0, high_um),
        ..course
    }
}

#[test]
fn what_cannot_be_trusted_never_leads_down() {
    let pictures = prop_oneof![3 => Just(Picture::Doubtful), 1 => Just(Picture::None)];
    let courses = courses(pictures.boxed()).prop_map(checked);
    check(150, courses, |seen| assert!(!seen.has_descended));
}

/// A sweep does go down, as far as [`Seen::judge_descent`] lets it.
#[test]
fn what_cannot_be_trusted_leads_down_in_a_sweep_only() {
    let pictures = prop_oneof![3 => Just(Picture::Doubtful), 1 => Just(Picture::None)];
    let courses = courses(pictures.boxed()).prop_map(|course| Course {
        is_shown: true,
        ..checked(course)
    });
    let seen = check(200, courses, |seen| {
        assert!(!seen.has_descended || seen.has_searched)
    });
    assert!(seen.iter().any(|seen| seen.has_descended), "none swept");
}

#[test]
fn too_close_only_ever_retreats() {
    let pictures = prop_oneof![3 => Just(Picture::TooClose), 1 => Just(Picture::Doubtful)];
    let courses = courses(pictures.boxed()).prop_map(checked);
    check(150, courses, |seen| assert!(!seen.has_descended));
}
