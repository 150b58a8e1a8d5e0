//! The GRBL host and the emulated controller, a cable between them and one virtual clock.

use std::time::Duration;

use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
pub use hhnet::sim::pair::Around;
use hhnet::sim::pair::{exchange, next_moment};
use hhnet::stage::Axis;
use hhnet::stage::guard::Guard;
use hhnet::stage::host::StageConfig;
use hhnet::stage::memory::Remembered;
use hhnet::stage::status::Refusal;
use hhnet::units::Instant;

/// The two at one moment.
#[derive(Clone)]
pub struct Pair<A = ()> {
    pub host: GrblHost,
    pub emulator: Emulator,
    pub now: Instant,
    pub around: A,
}

impl<A: Around> Pair<A> {
    /// Both powered up at `now`; the host remembers that the lens stands at `z_um`, whatever the emulator says.
    pub fn new(stage: StageConfig, emulator: EmulatorConfig, z_um: f64, now: Instant, around: A) -> Self {
        let memory = Remembered::powered_up_at([0.0, 0.0, z_um]);
        let mut host = GrblHost::new(Guard::new(stage).unwrap()).with_memory(Some(memory));
        host.handle_open(now);
        Self {
            host,
            emulator: Emulator::new(emulator),
            now,
            around,
        }
    }

    /// Everything due now.
    fn exchange(&mut self) {
        exchange(&mut self.host, &mut self.emulator, &mut self.around, self.now);
    }

    /// Goes on to the next thing that happens, at most to `until`.
    fn advance(&mut self, until: Instant) {
        self.now = next_moment(&self.host, &self.emulator, &self.around, self.now).min(until);
    }

    /// Everything that happens until then.
    pub fn run_until(&mut self, until: Instant) {
        self.exchange();
        while self.now < until {
            self.advance(until);
            self.exchange();
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(self.now + Duration::from_millis(ms));
    }

    /// Runs as long as something holds, which must end within the limit; how long that was, ms.
    pub fn run_while(&mut self, limit_ms: u64, holds: impl Fn(&Self) -> bool) -> f64 {
        let start = self.now;
        let limit = start + Duration::from_millis(limit_ms);
        while holds(self) {
            assert!(self.now < limit, "no end: {:?}", self.host.state());
            self.exchange();
            self.advance(limit);
        }
        self.now.since(start).as_secs_f64() * 1000.0
    }

    /// Runs until nothing moves and the host knows; how long that took, ms.
    pub fn run_to_rest(&mut self, limit_ms: u64) -> f64 {
        self.run_while(limit_ms, |pair| !pair.host.is_at_rest())
    }

    pub fn velocity(&mut self, um_per_s: f64) -> Result<f64, Refusal> {
        self.host.command_velocity(um_per_s, self.now, self.now)
    }

    pub fn move_z(&mut self, by_um: f64, um_per_s: f64) -> Result<Duration, Refusal> {
        self.host
            .command_move_relative([0.0, 0.0, by_um], um_per_s, self.now)
    }

    /// Commands a velocity every 20 ms for `ms`; whether all were obeyed.
    pub fn drive(&mut self, um_per_s: f64, ms: u64) -> bool {
        let end = self.now + Duration::from_millis(ms);
        let mut is_obeyed = true;
        while self.now < end {
            is_obeyed &= self.velocity(um_per_s).is_ok();
            self.run_until((self.now + Duration::from_millis(20)).min(end));
        }
        is_obeyed
    }

    /// The host's own check of the first motion, and back to where the lens was.
    pub fn check_first_motion(&mut self) {
        for by_um in [8.0, -8.0] {
            self.move_z(by_um, 200.0).unwrap();
            self.run_to_rest(1000);
        }
    }

    /// Where the lens is, by the mechanics.
    pub fn z_um(&self) -> f64 {
        self.emulator.position_um(Axis::Z, self.now)
    }
}
