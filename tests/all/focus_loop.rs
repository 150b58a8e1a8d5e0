//! The whole loop without pictures, in virtual time: controller, host, cable, emulated firmware, and the mechanics
//! between motor and lens. The classifier is one that always knows, so what is left is motion and timing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::common::pair::{Around, Pair};
use hhnet::focus::{
    Command, FocusConfig, FocusController, Law, Observation, RunState, StageMotion, StageReport, Sweeping,
};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::stage::Axis;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::StageState;
use hhnet::statistics::sorted;
use hhnet::units::{Defocus, Instant, Micrometres, StageHeight};

/// Depth the count must never go below, µm, and its upper counterpart; as shipped.
const Z_RANGE_UM: (f64, f64) = (-100.0, 300.0);
/// From the middle of an exposure to the estimate: transfer, features, network.
const LATENCY: Duration = Duration::from_millis(45);
/// Time between frames.
const FRAME: Duration = Duration::from_millis(25);
/// Longest time until a run has ended by itself, ms.
const LONGEST_RUN_MS: u64 = 600_000;
/// Period of stage reports and of commands.
const TICK: Duration = Duration::from_millis(20);

/// What stands between stage and estimates.
#[derive(Clone, Copy, Debug)]
struct World {
    law: Law,
    /// Travel of the lens for each µm that the stage counts.
    scale: f64,
    /// Whether the picture stays as it was at first.
    is_frozen: bool,
    /// How fast the specimen rises.
    drift_um_per_s: f64,
    /// The estimates are too long by this share, and vary by that many µm and that share from place to place.
    stretch: f64,
    noise_um: f64,
    wobble: f64,
    /// Whether the model states a distance, not only a class.
    has_distance: bool,
    sweeping: Sweeping,
    /// Distance from focus within which estimates are trusted, µm.
    trusted_um: f64,
    /// Whether frames have a sharpness, and whether there is a specimen that it shows.
    has_sharpness: bool,
    has_specimen: bool,
    /// Rest between standstill and the first exposure that counts.
    settle: Duration,
    /// Whether the bridge has checked its first motion before the run.
    is_checked: bool,
    latency: Duration,
    frame: Duration,
}

impl Default for World {
    fn default() -> Self {
        Self {
            law: Law::default(),
            scale: 1.0,
            is_frozen: false,
            drift_um_per_s: 0.0,
            stretch: 0.0,
            noise_um: 0.0,
            wobble: 0.0,
            has_distance: true,
            sweeping: Sweeping::default(),
            trusted_um: f64::INFINITY,
            has_sharpness: true,
            has_specimen: true,
            settle: FocusConfig::default().settle,
            is_checked: true,
            latency: LATENCY,
            frame: FRAME,
        }
    }
}

/// What judges pictures of the lens and drives it into focus.
struct Autofocus {
    world: World,
    /// Where the lens was at power-up, by the motor's mechanics, µm.
    start_um: f64,
    motor_start_um: Option<f64>,
    first_look_um: Option<f64>,
    exposures: u64,
    controller: FocusController,
    /// Physical height of focus, µm.
    focus_um: f64,
    estimates: VecDeque<(Instant, Observation)>,
    next_frame: Instant,
    next_tick: Instant,
    acted: Option<Instant>,
    /// Whether the last command was to move.
    driving: bool,
    /// Lowest the motor's count and the lens (relative to where both started) have been, µm.
    lowest_count_um: f64,
    lowest_lens_um: f64,
    /// Physical height of the lens at its lowest, µm.
    lowest_physical_um: f64,
}

type Loop = Pair<Autofocus>;

impl Around for Autofocus {
    fn act(&mut self, host: &mut GrblHost, emulator: &Emulator, now: Instant) {
        let seconds = now.since(self.acted.replace(now).unwrap_or(now)).as_secs_f64();
        self.focus_um += seconds * self.world.drift_um_per_s;
        let is_news = self.expose(emulator, now);
        if now >= self.next_tick {
            self.next_tick = self.next_tick + TICK;
            self.report(host, now);
            self.command(host, now);
        } else if is_news {
            // As the node does: an estimate is acted on when it arrives.
            self.command(host, now);
        }
    }

    fn look(&mut self, _: &GrblHost, emulator: &Emulator, now: Instant) {
        let motor = emulator.mechanics(Axis::Z).motor();
        // Later the motor has forgotten where it began.
        let start_um = *self.motor_start_um.get_or_insert(motor.position_um(now));
        let lens_um = self.lens_um(emulator, now);
        self.lowest_count_um = self.lowest_count_um.min(motor.position_um(now) - start_um);
        self.lowest_physical_um = self.lowest_physical_um.min(lens_um);
        self.lowest_lens_um = self.lowest_lens_um.min(lens_um - start_um);
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let estimate = self.estimates.front().map(|(due, _)| *due);
        [Some(self.next_frame), Some(self.next_tick), estimate]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Autofocus {
    fn lens_um(&self, emulator: &Emulator, at: Instant) -> f64 {
        let travel_um = emulator.position_um(Axis::Z, at) - self.start_um;
        self.start_um + self.world.scale * travel_um
    }

    /// What the model says of the lens then, µm.
    fn estimate_um(&mut self, emulator: &Emulator, at: Instant) -> f64 {
        let true_um = self.lens_um(emulator, at) - self.focus_um;
        self.exposures += 1;
        let chance = 2.0 * (0.618_033_988_749_894_9 * self.exposures as f64).fract() - 1.0;
        let place = 1.0 + self.world.stretch + self.world.wobble * (0.9 * true_um).sin();
        let first_um = *self.first_look_um.get_or_insert(true_um * place);
        let shown_um = if self.world.is_frozen {
            first_um
        } else {
            true_um * place
        };
        shown_um + self.world.noise_um * chance * (1.0 + 0.1 * true_um.abs())
    }

    /// Sharpness of the picture then: a peak as wide as that of the 40x0.65 on what noise leaves.
    fn sharpness(&self, emulator: &Emulator, at: Instant) -> f64 {
        let true_um = self.lens_um(emulator, at) - self.focus_um;
        let chance = (0.754_877_666 * self.exposures as f64).fract();
        let shown = if self.world.has_specimen {
            (-0.5 * (true_um / 2.0).powi(2)).exp()
        } else {
            0.0
        };
        1e-3 * (1.0 + 0.05 * chance + 3.0 * shown)
    }

    /// Exposes when it is time, and hears of what was exposed a while ago; whether it did.
    fn expose(&mut self, emulator: &Emulator, now: Instant) -> bool {
        if now >= self.next_frame {
            let exposed = self.next_frame;
            self.next_frame = exposed + self.world.frame;
            let defocus_um = self.estimate_um(emulator, exposed);
            let observation = Observation {
                index: self.controller.config().edges.classify(Micrometres(defocus_um)),
                defocus: self.world.has_distance.then_some(Defocus::from_um(defocus_um)),
                other_side: 0.0,
                trusted: self.world.has_specimen && defocus_um.abs() <= self.world.trusted_um,
                reason: "".into(),
                stddev_um: Some(self.world.noise_um),
                sharpness: self
                    .world
                    .has_sharpness
                    .then(|| self.sharpness(emulator, exposed)),
                has_specimen: self.world.has_specimen,
                exposed,
            };
            self.estimates
                .push_back((exposed + self.world.latency, observation));
        }
        let mut is_news = false;
        while self.estimates.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, observation)) = self.estimates.pop_front() {
                self.controller.handle_observation(observation, now);
                is_news = true;
            }
        }
        is_news
    }

    fn report(&mut self, host: &GrblHost, now: Instant) {
        let status = host.state();
        let motion = match status.state {
            StageState::Idle => StageMotion::Still,
            StageState::Moving => StageMotion::Moving,
            _ => StageMotion::Unavailable,
        };
        self.controller.handle_stage(StageReport {
            z: status.position_valid.then(|| StageHeight::from_um(status.z_um())),
            motion,
            at: now,
        });
    }

    fn command(&mut self, host: &mut GrblHost, now: Instant) {
        let command = self.controller.poll(now);
        match command {
            Command::Target(z, um_per_s) => host.command_target(z.um(), um_per_s, now, now).unwrap(),
            // As the node does: the end of a motion is commanded, not left to the host's timeout.
            Command::Velocity(um_per_s) if um_per_s != 0.0 || self.driving => {
                host.command_velocity(um_per_s, now, now).unwrap();
            }
            Command::Velocity(_) => {}
        }
        self.driving = command.is_motion();
    }
}

impl Loop {
    /// Powered up with the lens `offset_um` above focus, which the controller counts as 0.
    fn focusing(offset_um: f64, mechanics: MechanicsConfig) -> Self {
        Self::in_world(World::default(), offset_um, mechanics)
    }

    fn in_world(world: World, offset_um: f64, mechanics: MechanicsConfig) -> Self {
        let focus_um = 12.3;
        let start_um = focus_um + offset_um;
        let now = Instant::from_nanos(5_000_000_000);
        let stage = StageConfig {
            z_range_um: Z_RANGE_UM,
            ..StageConfig::default()
        };
        let config = FocusConfig {
            law: world.law,
            settle: world.settle,
            sweeping: world.sweeping,
            z_min: StageHeight::from_um(Z_RANGE_UM.0),
            z_max: StageHeight::from_um(Z_RANGE_UM.1),
            ..FocusConfig::default()
        };
        let emulator = EmulatorConfig {
            physical_offset_um: [0.0, 0.0, start_um],
            mechanics: [
                MechanicsConfig::cross_table(),
                MechanicsConfig::cross_table(),
                mechanics,
            ],
            ..EmulatorConfig::default()
        };
        let autofocus = Autofocus {
            world,
            start_um,
            motor_start_um: None,
            first_look_um: None,
            exposures: 0,
            controller: FocusController::new(config.checked().unwrap()),
            focus_um,
            estimates: VecDeque::new(),
            next_frame: now,
            next_tick: now,
            acted: None,
            driving: false,
            lowest_count_um: 0.0,
            lowest_lens_um: 0.0,
            lowest_physical_um: start_um,
        };
        let mut this = Self::new(stage, emulator, 0.0, now, autofocus);
        this.run_while(2000, |this| this.host.state().state != StageState::Idle);
        if world.is_checked {
            this.check_first_motion();
        }
        // The lens rings after a move.
        this.run_ms(500);
        let lens_um = this.lens_um();
        let around = &mut this.around;
        (around.lowest_count_um, around.lowest_lens_um) = (0.0, 0.0);
        around.lowest_physical_um = lens_um;
        around.controller.enable(this.now);
        this
    }

    fn lens_um(&self) -> f64 {
        self.around.lens_um(&self.emulator, self.now)
    }

    fn defocus_um(&self) -> f64 {
        self.lens_um() - self.around.focus_um
    }

    /// Runs to focus, within all limits; how long that took, s.
    fn check_run(&mut self, name: &str) -> f64 {
        let (state, seconds) = self.run();
        let defocus_um = self.defocus_um();
        assert_eq!(state, RunState::InFocus, "{name}: ends at {defocus_um}");
        assert!(defocus_um.abs() <= 1.0, "{name}: ends at {defocus_um}");
        let around = &self.around;
        assert!(
            around.lowest_count_um >= Z_RANGE_UM.0,
            "{name}: count at {}",
            around.lowest_count_um
        );
        assert!(
            around.lowest_lens_um >= Z_RANGE_UM.0,
            "{name}: lens at {}",
            around.lowest_lens_um
        );
        seconds
    }

    /// Another field, whose focus lies `offset_um` below the lens.
    fn go_on_at(&mut self, offset_um: f64) {
        self.around.focus_um = self.lens_um() - offset_um;
        self.around.controller.disable();
        self.run_ms(300);
        self.around.controller.enable(self.now);
    }

    /// Runs until the controller is done, then half a second more, in which it may trim what rings or drifts; how it
    /// ended and how long that took, s.
    fn run(&mut self) -> (RunState, f64) {
        let took_ms = self.run_while(LONGEST_RUN_MS, |this| {
            !matches!(
                this.around.controller.state(),
                RunState::InFocus | RunState::Failed(_)
            )
        });
        let ended = self.around.controller.state().clone();
        self.run_ms(500);
        (ended, took_ms / 1000.0)
    }
}

/// Uniform in ±60 µm, different for every index, in no order.
fn offset_um(index: u64) -> f64 {
    let golden = 0.618_033_988_749_894_9 * (index + 1) as f64;
    120.0 * golden.fract() - 60.0
}

#[test]
fn two_hundred_runs_end_in_focus_with_real_mechanics() {
    for law in [Law::Predictive, Law::Stepwise] {
        let began = std::time::Instant::now();
        let world = World {
            law,
            ..World::default()
        };
        let mut took_s = Vec::new();
        let mut virtual_s = 0.0;
        let mut worst_um = 0.0_f64;
        let mut lowest_um = 0.0_f64;
        for index in 0..200 {
            let offset_um = offset_um(index);
            let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
            took_s.push(run.check_run(&format!("{law:?} from {offset_um} µm")));
            worst_um = worst_um.max(run.defocus_um().abs());
            lowest_um = lowest_um.min(run.around.lowest_lens_um);
            virtual_s += run.now.as_nanos() as f64 * 1e-9 - 5.0;
        }
        let took_s = sorted(took_s);
        let real_s = began.elapsed().as_secs_f64();
        println!(
            "{law:?}, 200 first runs: {:.2} s median, {:.2} s at most; |defocus| at most {worst_um:.2} µm, lens never below {lowest_um:.1} µm; \
             {:.0} runs per minute, {:.0} times real time",
            took_s[100],
            took_s[199],
            200.0 * 60.0 / real_s,
            virtual_s / real_s
        );
        assert!(virtual_s > 5.0 * real_s, "{virtual_s} s took {real_s} s");
    }
}

/// The bridge goes up by some micrometres and compares before it does what it is told first.
#[test]
fn the_check_of_the_first_motion_is_a_look_from_higher_up() {
    for law in [Law::Predictive, Law::Stepwise] {
        let world = World {
            law,
            is_checked: false,
            ..World::default()
        };
        let took_s = sorted((0..100).map(|index| {
            let offset_um = offset_um(index);
            Loop::in_world(world, offset_um, MechanicsConfig::fine_focus())
                .check_run(&format!("{law:?} from {offset_um} µm"))
        }));
        println!(
            "{law:?}, 100 very first runs: {:.2} s median, {:.2} s at most",
            took_s[50], took_s[99]
        );
    }
}

/// What a run costs once an earlier one has shown that the picture follows the stage.
#[test]
fn the_next_field_is_in_focus_in_no_time() {
    for law in [Law::Predictive, Law::Stepwise] {
        let world = World {
            law,
            noise_um: 0.1,
            wobble: 0.04,
            stretch: 0.05,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 20.0, MechanicsConfig::fine_focus());
        run.check_run("the first run");
        let mut took_s = Vec::new();
        let mut errors_um = Vec::new();
        for index in 0..400 {
            run.go_on_at(0.5 * offset_um(index));
            took_s.push(run.check_run(&format!("{law:?}, field {index}")));
            errors_um.push(run.defocus_um().abs());
        }
        let (took_s, errors_um) = (sorted(took_s), sorted(errors_um));
        println!(
            "{law:?}, 400 further runs from ±30 µm: {:.2} s median, {:.2} s at 99 %, {:.2} s at most; |defocus| {:.2} µm median, {:.2} µm at most",
            took_s[200], took_s[396], took_s[399], errors_um[200], errors_um[399]
        );
    }
}

/// Play only moves the count: the loop closes over the picture. A carriage that rings for so long needs more than the usual rest after a fast
/// move.
#[test]
fn a_worn_drive_still_focuses() {
    for (law, settle_ms) in [(Law::Predictive, 100), (Law::Stepwise, 30)] {
        for (index, backlash_um) in [0.0, 1.0, 4.0, 8.0].into_iter().enumerate() {
            for sign in [-1.0, 1.0] {
                let worn = MechanicsConfig::fine_focus()
                    .with_backlash(backlash_um)
                    .and_then(|worn| worn.with_settling(25.0, 0.1))
                    .unwrap();
                let world = World {
                    law,
                    settle: Duration::from_millis(settle_ms),
                    ..World::default()
                };
                let mut run = Loop::in_world(world, sign * (20.0 + 7.0 * index as f64), worn);
                run.check_run(&format!("{law:?}, {backlash_um} µm of play"));
                assert_eq!(*run.around.controller.state(), RunState::InFocus);
            }
        }
    }
}

/// A focus below the lowest permitted count is not reached, and the lens stops at the limit.
#[test]
fn z_min_holds_with_play_and_ringing() {
    let config = MechanicsConfig::fine_focus();
    let mut run = Loop::focusing(140.0, config);
    let (state, _) = run.run();
    assert!(matches!(state, RunState::Failed(_)), "{state:?}");
    assert!(
        run.around.lowest_count_um >= Z_RANGE_UM.0,
        "count at {}",
        run.around.lowest_count_um
    );
    assert!(
        // The law begins no step that would lead past the limit.
        run.around.lowest_count_um <= Z_RANGE_UM.0 + 20.0,
        "stopped at {}: {state:?}",
        run.around.lowest_count_um
    );
    assert!(
        run.around.lowest_lens_um >= Z_RANGE_UM.0,
        "lens at {}",
        run.around.lowest_lens_um
    );
}

/// Where no estimate is trusted: the lens finds estimates that are, or the peak of sharpness, or is back up where it began.
#[test]
fn a_lens_that_is_lost_sweeps() {
    for (name, trusted_um, has_specimen, least_um) in [
        ("trusted near focus", 25.0, true, 30.0),
        ("never trusted", -1.0, true, 0.0),
        ("empty glass", -1.0, false, 0.0),
    ] {
        let mut took_s = Vec::new();
        let mut worst_um = 0.0_f64;
        for index in 0..60 {
            let side = if index % 2 == 0 { 1.0 } else { -1.0 };
            let offset_um = side * (least_um + 1.5 * index as f64).min(95.0);
            let world = World {
                sweeping: Sweeping::Always,
                trusted_um,
                has_specimen,
                noise_um: 0.1,
                ..World::default()
            };
            let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
            let start_um = run.lens_um();
            let (state, seconds) = run.run();
            took_s.push(seconds);
            let around = &run.around;
            assert!(around.lowest_count_um >= Z_RANGE_UM.0 && around.lowest_lens_um >= Z_RANGE_UM.0);
            if has_specimen {
                assert_eq!(state, RunState::InFocus, "{name}, from {offset_um} µm");
                worst_um = worst_um.max(run.defocus_um().abs());
                assert!(around.controller.account().is_confirmed);
            } else {
                let RunState::Failed(reason) = state else {
                    panic!("{name}: {state:?}")
                };
                assert!(
                    reason.contains("of a sweep") && reason.contains("sharper"),
                    "{reason}"
                );
                assert!(
                    run.lens_um() >= start_um - 3.0,
                    "failed {} µm below the start",
                    start_um - run.lens_um()
                );
            }
        }
        let took_s = sorted(took_s);
        println!(
            "{name}: {:.1} s median, {:.1} s at most, |defocus| at most {worst_um:.2} µm",
            took_s[30], took_s[59]
        );
        assert!(worst_um <= 1.0, "{name}: {worst_um}");
    }
}

/// Up by the stage's word may lead to the slide: before the picture was seen to follow, a lens that is lost goes no farther than one step.
#[test]
fn a_stage_that_is_not_known_is_not_swept() {
    for offset_um in [-90.0, -30.0, 60.0, 95.0] {
        let world = World {
            scale: -1.0,
            trusted_um: -1.0,
            ..World::default()
        };
        let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
        let start_um = run.lens_um();
        let (state, _) = run.run();
        assert!(matches!(state, RunState::Failed(_)), "{state:?}");
        let way_um = start_um - run.around.lowest_physical_um;
        assert!(way_um < 30.0, "{offset_um} µm: {way_um} µm towards the slide");
    }
    // Once it was, it is.
    let mut run = Loop::focusing(15.0, MechanicsConfig::fine_focus());
    run.check_run("the first run");
    run.around.world.trusted_um = 25.0;
    run.go_on_at(50.0);
    run.check_run("a field far away");
}

/// A specimen that drifts stays in focus, and what is no specimen is not followed.
#[test]
fn focus_is_held_against_drift() {
    for (um_per_s, least) in [(1.0, 0.99), (-1.0, 0.99), (2.0, 0.9), (-2.0, 0.9), (0.0, 1.0)] {
        let world = World {
            noise_um: 0.1,
            drift_um_per_s: um_per_s,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 15.0, MechanicsConfig::fine_focus());
        let (state, _) = run.run();
        assert_eq!(state, RunState::InFocus);
        let half_depth_um = run.around.controller.config().edges.in_focus_um;
        let (mut within, mut errors_um) = (0, Vec::new());
        for _ in 0..6000 {
            run.run_ms(5);
            let off_um = run.defocus_um().abs();
            within += u32::from(off_um <= half_depth_um);
            errors_um.push(off_um);
        }
        assert_eq!(
            *run.around.controller.state(),
            RunState::InFocus,
            "{um_per_s} µm/s"
        );
        let errors_um = sorted(errors_um);
        let share = f64::from(within) / 6000.0;
        println!(
            "{um_per_s} µm/s: {:.2} % within half a depth of field, |defocus| {:.2} µm median, {:.2} µm at most",
            100.0 * share,
            errors_um[3000],
            errors_um[5999]
        );
        assert!(share >= least, "{um_per_s} µm/s: {share}");
    }
}

#[test]
fn a_picture_that_stands_still_while_focus_is_held_ends_the_run() {
    for shown_um in [0.45, -0.45] {
        let mut run = Loop::focusing(15.0, MechanicsConfig::fine_focus());
        assert_eq!(run.run().0, RunState::InFocus);
        (run.around.world.is_frozen, run.around.first_look_um) = (true, Some(shown_um));
        let z_um = run.lens_um();
        run.run_ms(60_000);
        let RunState::Failed(reason) = run.around.controller.state() else {
            panic!("{:?}", run.around.controller.state())
        };
        assert!(reason.contains("does not change"), "{reason}");
        assert!((run.lens_um() - z_um).abs() < 15.0, "{}", run.lens_um() - z_um);
    }
}

/// A number in 0 to 1, different for every index and salt.
fn chance(index: u64, salt: u64) -> f64 {
    let mut bits =
        (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (salt + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A start 5 to 60 µm from focus, above it and below in turn.
fn far_start_um(index: u64) -> f64 {
    let side = if index.is_multiple_of(2) { 1.0 } else { -1.0 };
    side * (5.0 + 55.0 * chance(index, 1))
}

/// Estimates with the errors of a real model, and a computer that is now quick, now slow.
fn usual(law: Law, index: u64) -> World {
    World {
        law,
        stretch: 0.36 * chance(index, 2) - 0.18,
        noise_um: 0.1,
        wobble: 0.04 * chance(index, 3),
        latency: Duration::from_secs_f64(0.03 + 0.15 * chance(index, 4)),
        frame: Duration::from_secs_f64(0.025 + 0.1 * chance(index, 5)),
        ..World::default()
    }
}

/// Runs a hundred times; how deep below its start the lens went at most, µm, and how many runs ended in focus.
fn check_ends(
    name: &str,
    law: Law,
    change: impl Fn(World) -> World,
    cause: &str,
    depth_um: f64,
) -> (f64, usize) {
    let (mut deepest_um, mut focused) = (0.0_f64, 0);
    for index in 0..100 {
        let offset_um = far_start_um(index);
        let world = change(usual(law, index));
        // The play is the lens's own, whatever the motor makes of a count.
        let play_um = 2.0 / world.scale.abs();
        let mechanics = MechanicsConfig::fine_focus().with_backlash(play_um).unwrap();
        let mut run = Loop::in_world(world, offset_um, mechanics);
        let start_um = run.lens_um();
        let (state, _) = run.run();
        let depth = start_um - run.around.lowest_physical_um;
        match state {
            RunState::Failed(reason) => assert!(
                reason.contains(cause),
                "{name}, {law:?} from {offset_um:.1} µm: {reason}, not {cause}"
            ),
            _ => focused += 1,
        }
        // A lens that follows is meant to go down to focus.
        let follows = !world.is_frozen && (0.5..2.0).contains(&world.scale);
        // Where estimates saturate, the lens goes as far as its class promises before it has to be seen to follow.
        let saturated_um = 2.0 * run.around.controller.config().edges.far_um;
        let meant_um = if follows {
            offset_um.max(0.0)
        } else if world.is_frozen && run.around.first_look_um.is_some_and(|um| um > saturated_um - 1.0) {
            0.5 * saturated_um
        } else {
            0.0
        };
        assert!(
            depth - meant_um <= depth_um,
            "{name}, {law:?} from {offset_um:.1} µm: {depth:.1} µm below the start"
        );
        deepest_um = deepest_um.max(depth - meant_um);
    }
    (deepest_um, focused)
}

#[test]
fn a_picture_that_does_not_follow_ends_the_run_with_its_cause() {
    let reversed = |world| World { scale: -1.0, ..world };
    let frozen = |world| World {
        is_frozen: true,
        ..world
    };
    let still = |world| World {
        is_frozen: true,
        noise_um: 0.0,
        ..world
    };
    let inches = |world| World { scale: 25.4, ..world };
    for law in [Law::Predictive, Law::Stepwise, Law::Paper] {
        for (name, change, cause, depth_um) in [
            (
                "reversed",
                &reversed as &dyn Fn(World) -> World,
                "wrong way",
                18.0,
            ),
            ("frozen", &frozen, "does not change", 10.0),
            ("still", &still, "does not change", 10.0),
            ("inches", &inches, "steps per millimetre", 25.0),
        ] {
            let (deepest_um, focused) = check_ends(name, law, change, cause, depth_um);
            println!("{name}, {law:?}: at most {deepest_um:.1} µm below the start, {focused} in focus");
            assert_eq!(focused, 0, "{name}");
        }
    }
}

/// What an earlier run has shown does not excuse a later one.
#[test]
fn a_picture_that_stands_still_later_ends_the_run() {
    let mut deepest_um = 0.0_f64;
    for index in 0..100 {
        let world = World {
            noise_um: 0.05,
            ..World::default()
        };
        let mut run = Loop::in_world(world, 20.0, MechanicsConfig::fine_focus());
        run.check_run("the first run");
        // Not where focus was confirmed just now.
        let side = if index % 2 == 0 { 1.0 } else { -1.0 };
        run.go_on_at(side * (7.0 + 0.25 * index as f64));
        (run.around.world.is_frozen, run.around.first_look_um) = (true, None);
        let start_um = run.lens_um();
        run.around.lowest_physical_um = start_um;
        let (state, _) = run.run();
        let RunState::Failed(reason) = state else {
            panic!("field {index}: {state:?}")
        };
        let is_named = reason.contains("does not change") || reason.contains("does not follow");
        assert!(is_named, "field {index}: {reason}");
        let seen_um = run.around.first_look_um.unwrap_or_default();
        let meant_um = seen_um.max(0.0);
        deepest_um = deepest_um.max(start_um - run.around.lowest_physical_um - meant_um);
    }
    println!("at most {deepest_um:.1} µm deeper than the first look ordered");
    assert!(deepest_um < 8.0, "{deepest_um}");
}

#[test]
fn a_scale_that_is_half_wrong_is_named_or_does_no_harm() {
    let wrong = |world| World { scale: 1.5, ..world };
    for law in [Law::Predictive, Law::Stepwise] {
        let (deepest_um, focused) = check_ends("half", law, wrong, "steps per millimetre", 20.0);
        println!("{law:?}: {deepest_um:.1} µm deeper than meant, {focused} in focus");
    }
}

#[test]
fn thousands_of_usual_runs_raise_no_alarm() {
    for law in [Law::Predictive, Law::Stepwise] {
        let mut took_s = Vec::new();
        for index in 0..2000 {
            let offset_um = 120.0 * chance(index, 7) - 60.0;
            let play_um = [0.0, 1.0, 2.0, 2.0][(index % 4) as usize];
            let mechanics = MechanicsConfig::fine_focus().with_backlash(play_um).unwrap();
            let mut run = Loop::in_world(usual(law, index), offset_um, mechanics);
            took_s.push(run.check_run(&format!("{law:?} {index}, from {offset_um} µm")));
        }
        let took_s = sorted(took_s);
        println!(
            "{law:?}: {:.2} s median, {:.2} s at most",
            took_s[1000], took_s[1999]
        );
    }
}

/// The paper's law may hunt until its time is over; what it declares is true, and it raises no alarm either.
#[test]
fn the_papers_law_declares_nothing_in_motion() {
    let mut focused = 0;
    for index in 0..200 {
        let offset_um = far_start_um(index);
        let world = usual(Law::Paper, index);
        let mut run = Loop::in_world(world, offset_um, MechanicsConfig::fine_focus());
        let (state, _) = run.run();
        let defocus_um = run.defocus_um();
        match state {
            RunState::InFocus => {
                focused += 1;
                assert!(
                    defocus_um.abs() <= 1.2,
                    "{index}: from {offset_um} µm, ends at {defocus_um} µm"
                );
            }
            RunState::Failed(reason) => assert!(reason.contains("no focus within"), "{index}: {reason}"),
            _ => {}
        }
    }
    println!("{focused} of 200 in focus");
}
