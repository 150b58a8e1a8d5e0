//! The whole loop without pictures, in virtual time: controller, host, cable, emulated firmware, and the mechanics
//! between motor and lens. The classifier is one that always knows, so what is left is motion and timing.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::time::Duration;

use hhnet::focus::{FocusConfig, FocusController, Motion, Observation, Phase, StageReport};
use hhnet::protocol::grbl_emulator::{Emulator, EmulatorConfig};
use hhnet::protocol::grbl_host::{GrblConfig, GrblHost};
use hhnet::protocol::status::StageState;
use hhnet::stage::{Axis, MechanicsConfig};
use hhnet::units::{Instant, Micrometres};

/// Depth the count must never go below, µm, and its upper counterpart; as shipped.
const Z_RANGE_UM: (f64, f64) = (-100.0, 300.0);
/// From the middle of an exposure to the estimate: transfer, features, network.
const LATENCY: Duration = Duration::from_millis(45);
/// Time between frames.
const FRAME: Duration = Duration::from_millis(25);
/// Period of stage reports and of commands.
const TICK: Duration = Duration::from_millis(20);

struct Loop {
    controller: FocusController,
    host: GrblHost,
    emulator: Emulator,
    /// Physical height of focus, µm.
    focus_um: f64,
    estimates: VecDeque<(Instant, Observation)>,
    now: Instant,
    next_frame: Instant,
    next_tick: Instant,
    /// Whether the last command was to move.
    driving: bool,
    /// Lowest the motor's count and the lens (relative to where both started) have been, µm.
    lowest_count_um: f64,
    lowest_lens_um: f64,
}

impl Loop {
    /// Powered up with the lens `offset_um` above focus, which the controller counts as 0.
    fn new(offset_um: f64, mechanics: MechanicsConfig) -> Self {
        let focus_um = 12.3;
        let now = Instant::from_nanos(5_000_000_000);
        let host = GrblHost::new(GrblConfig {
            z_min_um: Z_RANGE_UM.0,
            z_max_um: Z_RANGE_UM.1,
            ..GrblConfig::default()
        });
        let config = FocusConfig {
            z_min: Micrometres(Z_RANGE_UM.0),
            z_max: Micrometres(Z_RANGE_UM.1),
            ..FocusConfig::default()
        };
        let mut this = Self {
            controller: FocusController::new(config.checked().unwrap()),
            host: host.unwrap(),
            emulator: Emulator::new(EmulatorConfig {
                physical_offset_um: [0.0, 0.0, focus_um + offset_um],
                mechanics: [
                    MechanicsConfig::cross_table(),
                    MechanicsConfig::cross_table(),
                    mechanics,
                ],
                ..EmulatorConfig::default()
            }),
            focus_um,
            estimates: VecDeque::new(),
            now,
            next_frame: now,
            next_tick: now,
            driving: false,
            lowest_count_um: 0.0,
            lowest_lens_um: 0.0,
        };
        this.host.handle_open(now);
        while this.host.state().state != StageState::Idle {
            this.step();
            assert!(
                this.now.since(now) < Duration::from_secs(2),
                "{:?}",
                this.host.state()
            );
        }
        this.controller.enable(this.now);
        this
    }

    fn lens_um(&self, at: Instant) -> f64 {
        self.emulator.position_um(Axis::Z, at)
    }

    fn defocus_um(&self, at: Instant) -> f64 {
        self.lens_um(at) - self.focus_um
    }

    /// Everything due now, then on to the next thing that happens.
    fn step(&mut self) {
        let received = self.emulator.poll(self.now);
        self.host.handle_bytes(&received, self.now);
        self.look();
        if self.now >= self.next_tick {
            self.next_tick = self.next_tick + TICK;
            self.tick();
        }
        let bytes = self.host.poll(self.now);
        self.emulator.receive(&bytes, self.now);
        let next = [self.host.next_wakeup(), self.emulator.next_wakeup(self.now)]
            .into_iter()
            .flatten()
            .chain([self.next_frame, self.next_tick])
            .chain(self.estimates.front().map(|(due, _)| *due))
            .min();
        self.now = next
            .unwrap_or(self.next_tick)
            .max(self.now + Duration::from_nanos(1));
        let start_um = self
            .emulator
            .mechanics(Axis::Z)
            .motor()
            .position_um(Instant::default());
        let count_um = self.emulator.mechanics(Axis::Z).motor().position_um(self.now) - start_um;
        self.lowest_count_um = self.lowest_count_um.min(count_um);
        self.lowest_lens_um = self.lowest_lens_um.min(self.lens_um(self.now) - start_um);
    }

    /// Exposes when it is time, and hears of what was exposed a while ago.
    fn look(&mut self) {
        if self.now >= self.next_frame {
            let exposed = self.next_frame;
            self.next_frame = exposed + FRAME;
            let defocus = Micrometres(self.defocus_um(exposed));
            let observation = Observation {
                index: self.controller.config().edges.classify(defocus),
                defocus: Some(defocus),
                other_side: 0.0,
                trusted: true,
                exposed,
            };
            self.estimates.push_back((exposed + LATENCY, observation));
        }
        while self.estimates.front().is_some_and(|(due, _)| *due <= self.now) {
            if let Some((_, observation)) = self.estimates.pop_front() {
                self.controller.handle_observation(observation, self.now);
            }
        }
    }

    fn tick(&mut self) {
        let status = self.host.state();
        let motion = match status.state {
            StageState::Idle => Motion::Still,
            StageState::Moving => Motion::Moving,
            _ => Motion::Unavailable,
        };
        self.controller.handle_stage(StageReport {
            z: status.position_valid.then(|| Micrometres(status.z_um())),
            motion,
            at: self.now,
        });
        let um_per_s = self.controller.poll(self.now);
        // As the node does: the end of a motion is commanded, not left to the host's timeout.
        if um_per_s != 0.0 || self.driving {
            self.host.command_velocity(um_per_s, self.now, self.now).unwrap();
        }
        self.driving = um_per_s != 0.0;
    }

    /// Runs until the controller is done, then half a second more, in which it may trim what rings or drifts; how it
    /// ended and how long that took, s.
    fn run(&mut self) -> (Phase, f64) {
        let start = self.now;
        while !matches!(self.controller.phase(), Phase::InFocus | Phase::Failed(_)) {
            self.step();
        }
        let (ended, took) = (self.controller.phase().clone(), self.now.since(start));
        let end = self.now + Duration::from_millis(500);
        while self.now < end {
            self.step();
        }
        (ended, took.as_secs_f64())
    }
}

/// Uniform in ±60 µm, different for every index, in no order.
fn offset_um(index: u64) -> f64 {
    let golden = 0.618_033_988_749_894_9 * (index + 1) as f64;
    120.0 * golden.fract() - 60.0
}

#[test]
fn two_hundred_runs_end_in_focus_with_real_mechanics() {
    let began = std::time::Instant::now();
    let mut took_s = Vec::new();
    let mut virtual_s = 0.0;
    let mut worst_um = 0.0_f64;
    let mut lowest_um = 0.0_f64;
    for index in 0..200 {
        let offset_um = offset_um(index);
        let mut run = Loop::new(offset_um, MechanicsConfig::fine_focus());
        let (phase, seconds) = run.run();
        took_s.push(seconds);
        let defocus_um = run.defocus_um(run.now);
        assert_eq!(phase, Phase::InFocus, "from {offset_um} µm: ends at {defocus_um}");
        assert!(
            defocus_um.abs() <= 1.0,
            "from {offset_um} µm: ends at {defocus_um}"
        );
        assert!(
            run.lowest_count_um >= Z_RANGE_UM.0,
            "count at {}",
            run.lowest_count_um
        );
        assert!(
            run.lowest_lens_um >= Z_RANGE_UM.0,
            "lens at {}",
            run.lowest_lens_um
        );
        worst_um = worst_um.max(defocus_um.abs());
        lowest_um = lowest_um.min(run.lowest_lens_um);
        virtual_s += run.now.as_nanos() as f64 * 1e-9 - 5.0;
    }
    took_s.sort_by(f64::total_cmp);
    let real_s = began.elapsed().as_secs_f64();
    println!(
        "200 runs: {:.2} s median, {:.2} s at most; |defocus| at most {worst_um:.2} µm, lens never below {lowest_um:.1} µm; \
         {:.0} runs per minute, {:.0} times real time",
        took_s[100],
        took_s[199],
        200.0 * 60.0 / real_s,
        virtual_s / real_s
    );
    assert!(virtual_s > 5.0 * real_s, "{virtual_s} s took {real_s} s");
}

/// Play only moves the count: the loop closes over the picture.
#[test]
fn a_worn_drive_still_focuses() {
    for (index, backlash_um) in [0.0, 1.0, 4.0, 8.0].into_iter().enumerate() {
        for sign in [-1.0, 1.0] {
            let worn = MechanicsConfig::fine_focus()
                .with_backlash(backlash_um)
                .and_then(|worn| worn.with_settling(25.0, 0.1))
                .unwrap();
            let mut run = Loop::new(sign * (20.0 + 7.0 * index as f64), worn);
            run.run();
            let defocus_um = run.defocus_um(run.now);
            assert_eq!(
                *run.controller.phase(),
                Phase::InFocus,
                "{backlash_um} µm of play"
            );
            assert!(
                defocus_um.abs() <= 1.0,
                "{backlash_um} µm of play: ends at {defocus_um}"
            );
        }
    }
}

/// A focus below the lowest permitted count is not reached, and the lens stops at the limit.
#[test]
fn z_min_holds_with_play_and_ringing() {
    let config = MechanicsConfig::fine_focus();
    let mut run = Loop::new(140.0, config);
    let (phase, _) = run.run();
    assert!(matches!(phase, Phase::Failed(_)), "{phase:?}");
    assert!(
        run.lowest_count_um >= Z_RANGE_UM.0,
        "count at {}",
        run.lowest_count_um
    );
    assert!(
        run.lowest_count_um <= Z_RANGE_UM.0 + 10.0,
        "stopped at {}",
        run.lowest_count_um
    );
    assert!(
        run.lowest_lens_um >= Z_RANGE_UM.0,
        "lens at {}",
        run.lowest_lens_um
    );
}
