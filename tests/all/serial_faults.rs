//! The serial driver on a line on which things go wrong, in virtual time: no wrong position is called valid for longer than it
//! takes to find out, and the stage is driven again when the line is well again.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hhnet::drivers::TimeSource;
use hhnet::drivers::position_store::PositionStore;
use hhnet::drivers::serial::{StageDriver, StageHandle};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::stage::Axis;
use hhnet::stage::guard::Guard;
use hhnet::stage::memory::Remembered;
use hhnet::stage::status::{StageState, StageStatus};
use hhnet::units::Instant;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::common::faults::{Fault, Faulty, Plan};
use crate::positions::DETECTION;

/// Longest queue of motion that the host sends ahead, s.
const QUEUED_S: f64 = 0.1;
const MS: Duration = Duration::from_millis(1);
const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// When the line is bad; the stage is in motion by then.
const BAD: Range<u64> = 3000..4000;
/// Longest time until the stage is driven again, from when the line is well again.
const LIMIT: Duration = Duration::from_secs(10);
/// Runs of each fault, with other seeds.
const SEEDS: u64 = 100;

/// What becomes of the position while the line is bad.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    /// It stays valid.
    Kept,
    /// It may be lost, and one that is wrong is found out as on a sound line.
    Lost,
}

type Machine = Arc<Mutex<Emulator>>;

/// The controller at the far end, until the link ends.
async fn controller(mut link: DuplexStream, machine: Machine, clock: TimeSource) {
    let mut buffer = [0; 512];
    loop {
        let now = clock();
        let (bytes, wakeup) = {
            let mut machine = machine.lock().unwrap();
            (machine.poll(now), machine.next_wakeup(now))
        };
        if link.write_all(&bytes).await.is_err() {
            return;
        }
        let wait = wakeup.map_or(100 * MS, |at| at.since(now).max(MS));
        tokio::select! {
            biased;
            read = link.read(&mut buffer) => match read {
                Ok(count) if count > 0 => machine.lock().unwrap().receive(&buffer[..count], clock()),
                _ => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Bench {
    /// Where the position is written down.
    _folder: TempDir,
    machine: Machine,
    clock: TimeSource,
    handle: StageHandle,
    /// Since when a valid position has been wrong.
    wrong_since: Option<Instant>,
    longest_wrong: Duration,
    was_invalid: bool,
}

impl Bench {
    fn new(plan: Plan) -> Self {
        let start = tokio::time::Instant::now();
        let clock: TimeSource = Arc::new(move || START + start.elapsed());
        let machine = Machine::new(Mutex::new(Emulator::new(EmulatorConfig::default())));
        let (far, its_clock) = (Arc::clone(&machine), Arc::clone(&clock));
        let open = move || {
            let (near, link) = tokio::io::duplex(4096);
            tokio::spawn(controller(link, Arc::clone(&far), Arc::clone(&its_clock)));
            Ok(Faulty::new(near, plan.clone(), Arc::clone(&its_clock)))
        };
        let folder = tempfile::tempdir().unwrap();
        let mut store = PositionStore::of_port(folder.path(), folder.path());
        store.save(&Remembered::powered_up_at([0.0; 3])).unwrap();
        let host = Box::new(GrblHost::new(Guard::default()));
        let handle = StageDriver::spawn_reopening(open, host, store, Arc::clone(&clock));
        Self {
            _folder: folder,
            machine,
            clock,
            handle,
            wrong_since: None,
            longest_wrong: Duration::ZERO,
            was_invalid: false,
        }
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    fn z_um(&self) -> f64 {
        self.machine.lock().unwrap().position_um(Axis::Z, self.now())
    }

    fn status(&self) -> StageStatus {
        self.handle.status().borrow().clone()
    }

    /// Looks once a millisecond whether what the driver says is true.
    async fn run(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            tokio::time::sleep(MS).await;
            let (status, now) = (self.status(), self.now());
            // A line that is late holds up what the plan has done already: at most what is queued ahead.
            let queued_um = QUEUED_S * status.z_um_per_s.abs();
            let tolerance_um = crate::positions::tolerance_um(status.state) + queued_um;
            let is_wrong = status.position_valid && (status.z_um() - self.z_um()).abs() > tolerance_um;
            let since = self.wrong_since.filter(|_| is_wrong).unwrap_or(now);
            self.wrong_since = is_wrong.then_some(since);
            self.longest_wrong = self.longest_wrong.max(now.since(since));
            self.was_invalid |= !status.position_valid;
        }
    }

    /// Runs until the stage is idle, with what an operator does about a fault.
    async fn run_to_idle(&mut self, what: &str) {
        let end = self.now() + LIMIT;
        while self.status().state != StageState::Idle {
            if self.status().state == StageState::Fault {
                self.handle.clear_fault();
            }
            self.run(50 * MS).await;
            assert!(self.now() < end, "{what}: still {:?}", self.status());
        }
    }

    /// Commands a velocity every 20 ms, obeyed or not.
    async fn drive(&mut self, um_per_s: f64, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            drop(self.handle.velocity(um_per_s, self.now()));
            self.run(20 * MS).await;
        }
    }
}

/// Drives through the bad time and on when it is over; the bench, at rest.
async fn run(what: &str, plan: Plan, um_per_s: f64) -> Bench {
    let mut bench = Bench::new(plan);
    bench.run(1000 * MS).await;
    // The check of the first motion, and back.
    for by_um in [8.0, -8.0] {
        bench.run_to_idle(what).await;
        bench.handle.move_relative([0.0, 0.0, by_um], 200.0).unwrap();
        bench.run(100 * MS).await;
    }
    bench.run_to_idle(what).await;
    bench.was_invalid = false;
    let until = START + MS * BAD.end as u32;
    let time = until.since(bench.now());
    bench.drive(um_per_s, time).await;
    // A late answer may spoil the check of the first motion; that is a fault like any other.
    let limit = bench.now() + LIMIT;
    let mut way_um = 0.0;
    while way_um < 5.0 {
        assert!(bench.now() < limit, "{what}: {way_um} µm, {:?}", bench.status());
        bench.run_to_idle(what).await;
        if !bench.status().position_valid {
            bench.handle.reference([None, None, Some(bench.z_um())]).unwrap();
        }
        let stood_um = bench.z_um();
        bench.drive(-0.5 * um_per_s, 300 * MS).await;
        drop(bench.handle.stop().await);
        way_um = (bench.z_um() - stood_um) / -um_per_s.signum();
    }
    bench.run_to_idle(what).await;
    let status = bench.status();
    assert!(
        status.position_valid && (status.z_um() - bench.z_um()).abs() <= 1.0,
        "{what}: {} µm, {status:?}",
        bench.z_um()
    );
    bench
}

fn check(what: &str, position: Position, plan: impl Fn(u64, Range<Instant>) -> Plan) {
    let limit = match position {
        Position::Kept => Duration::ZERO,
        Position::Lost => DETECTION,
    };
    let bad = START + MS * BAD.start as u32..START + MS * BAD.end as u32;
    let mut longest = Duration::ZERO;
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let plan = plan(seed, bad.clone());
        let what = format!("{what}, seed {seed}");
        let um_per_s = if seed % 2 == 0 { 150.0 } else { -150.0 };
        let bench = runtime.block_on(run(&what, plan, um_per_s));
        longest = longest.max(bench.longest_wrong);
        assert!(
            bench.longest_wrong <= limit,
            "{what}: wrong for {:?}",
            bench.longest_wrong
        );
        assert!(
            position != Position::Kept || !bench.was_invalid,
            "{what}: position lost"
        );
    }
    println!("{what}: a wrong position was valid for at most {longest:?}");
}

macro_rules! faults {
    ($($name:ident: $fault:expr, $position:ident;)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), Position::$position, |seed, bad| Plan::new(seed).with(bad, $fault));
        })*
    };
}

faults!(
    lost_bytes: Fault::Drop(0.01), Lost;
    a_deaf_line: Fault::Drop(1.0), Lost;
    late_bytes: Fault::Delay(Duration::ZERO..30 * MS), Lost;
    very_late_bytes: Fault::Delay(100 * MS..400 * MS), Lost;
    turned_bits: Fault::Corrupt(0.005), Lost;
    split_chunks: Fault::Split(1.0), Kept;
    merged_chunks: Fault::Merge(20 * MS), Kept;
    a_flood: Fault::Flood(11), Lost;
    silence: Fault::Silence, Lost;
    an_end: Fault::End, Lost;
);

#[test]
fn everything_at_any_time() {
    check("everything", Position::Lost, Plan::random);
}
