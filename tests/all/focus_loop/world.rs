//! The loop that is run: a lens, what judges its pictures, and how well they do.

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
use hhnet::units::{Defocus, Instant, Micrometres, StageHeight};

/// Depth the count must never go below, µm, and its upper counterpart; as shipped.
pub(super) const Z_RANGE_UM: (f64, f64) = (-100.0, 300.0);
/// From the middle of an exposure to the estimate: transfer, features, network.
pub(super) const LATENCY: Duration = Duration::from_millis(45);
/// Time between frames.
pub(super) const FRAME: Duration = Duration::from_millis(25);
/// Longest time until a run has ended by itself, ms.
pub(super) const LONGEST_RUN_MS: u64 = 600_000;
/// Period of stage reports and of commands.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// What stands between stage and estimates.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) law: Law,
    /// Travel of the lens for each µm that the stage counts.
    pub(super) scale: f64,
    /// Whether the picture stays as it was at first.
    pub(super) is_frozen: bool,
    /// How fast the specimen rises.
    pub(super) drift_um_per_s: f64,
    /// The estimates are too long by this share, and vary by that many µm and that share from place to place.
    pub(super) stretch: f64,
    pub(super) noise_um: f64,
    pub(super) wobble: f64,
    /// Whether the model states a distance, not only a class.
    pub(super) has_distance: bool,
    pub(super) sweeping: Sweeping,
    /// Distance from focus within which estimates are trusted, µm.
    pub(super) trusted_um: f64,
    /// Whether frames have a sharpness, and whether there is a specimen that it shows.
    pub(super) has_sharpness: bool,
    pub(super) has_specimen: bool,
    /// Rest between standstill and the first exposure that counts.
    pub(super) settle: Duration,
    /// Whether the bridge has checked its first motion before the run.
    pub(super) is_checked: bool,
    pub(super) latency: Duration,
    pub(super) frame: Duration,
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
pub(super) struct Autofocus {
    pub(super) world: World,
    /// Where the lens was at power-up, by the motor's mechanics, µm.
    pub(super) start_um: f64,
    pub(super) motor_start_um: Option<f64>,
    pub(super) first_look_um: Option<f64>,
    pub(super) exposures: u64,
    pub(super) controller: FocusController,
    /// Physical height of focus, µm.
    pub(super) focus_um: f64,
    pub(super) estimates: VecDeque<(Instant, Observation)>,
    pub(super) next_frame: Instant,
    pub(super) next_tick: Instant,
    pub(super) acted: Option<Instant>,
    /// Whether the last command was to move.
    pub(super) driving: bool,
    /// Lowest the motor's count and the lens (relative to where both started) have been, µm.
    pub(super) lowest_count_um: f64,
    pub(super) lowest_lens_um: f64,
    /// Physical height of the lens at its lowest, µm.
    pub(super) lowest_physical_um: f64,
}

pub(super) type Loop = Pair<Autofocus>;

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
                left_out: 0,
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
    pub(super) fn focusing(offset_um: f64, mechanics: MechanicsConfig) -> Self {
        Self::in_world(World::default(), offset_um, mechanics)
    }

    pub(super) fn in_world(world: World, offset_um: f64, mechanics: MechanicsConfig) -> Self {
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

    pub(super) fn lens_um(&self) -> f64 {
        self.around.lens_um(&self.emulator, self.now)
    }

    pub(super) fn defocus_um(&self) -> f64 {
        self.lens_um() - self.around.focus_um
    }

    /// Runs to focus, within all limits; how long that took, s.
    pub(super) fn check_run(&mut self, name: &str) -> f64 {
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
    pub(super) fn go_on_at(&mut self, offset_um: f64) {
        self.around.focus_um = self.lens_um() - offset_um;
        self.around.controller.disable();
        self.run_ms(300);
        self.around.controller.enable(self.now);
    }

    /// Runs until the controller is done, then half a second more, in which it may trim what rings or drifts; how it
    /// ended and how long that took, s.
    pub(super) fn run(&mut self) -> (RunState, f64) {
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
pub(super) fn offset_um(index: u64) -> f64 {
    let golden = 0.618_033_988_749_894_9 * (index + 1) as f64;
    120.0 * golden.fract() - 60.0
}

/// A number in 0 to 1, different for every index and salt.
pub(super) fn chance(index: u64, salt: u64) -> f64 {
    let mut bits =
        (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (salt + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A start 5 to 60 µm from focus, above it and below in turn.
pub(super) fn far_start_um(index: u64) -> f64 {
    let side = if index.is_multiple_of(2) { 1.0 } else { -1.0 };
    side * (5.0 + 55.0 * chance(index, 1))
}

/// Estimates with the errors of a real model, and a computer that is now quick, now slow.
pub(super) fn usual(law: Law, index: u64) -> World {
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
