//! The seam of the stage: the driver works with any [`Host`], here that of a controller with a protocol of four words.
//!
//! `v UM_PER_S` moves, `s` stops, `?` asks; the answer is `z UM UM_PER_S`.

use std::sync::Arc;
use std::time::Duration;

use hhnet::drivers::position_store::PositionStore;
use hhnet::drivers::serial::{StageDriver, StageHandle};
use hhnet::protocol;
use hhnet::stage::guard::{Guard, Pace};
use hhnet::stage::host::{Host, StageConfig};
use hhnet::stage::memory::Remembered;
use hhnet::stage::status::{Refusal, StageState, StageStatus};
use hhnet::units::Instant;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

const ASK_PERIOD: Duration = Duration::from_millis(20);
const PACE: Pace = Pace {
    slowest_um_per_s: 1.0,
    fastest_um_per_s: 300.0,
};

/// The host of the tiny controller.
struct Tiny {
    guard: Guard,
    out: String,
    line: Vec<u8>,
    status: StageStatus,
    asked: Instant,
    commanded: Instant,
    /// The height asked for, which it knows only as a velocity that ends.
    goal: Option<(f64, f64)>,
}

impl Tiny {
    fn new() -> Self {
        let config = StageConfig {
            z_range_um: (-20.0, 100.0),
            ..StageConfig::default()
        };
        Self {
            guard: Guard::new(config).unwrap(),
            out: String::new(),
            line: Vec::new(),
            status: StageStatus {
                stamp: Instant::default(),
                state: StageState::Disconnected,
                reason: "waiting".to_owned(),
                position_um: [f64::NAN; 3],
                z_um_per_s: 0.0,
                position_valid: false,
                xy_valid: false,
                may_move: false,
                firmware: "tiny".to_owned(),
                warnings: Vec::new(),
                garbled_lines: 0,
                refused_commands: 0,
            },
            asked: Instant::default(),
            commanded: Instant::default(),
            goal: None,
        }
    }
}

impl Host for Tiny {
    fn handle_open(&mut self, _: Instant) {
        self.line.clear();
    }

    fn handle_close(&mut self, reason: &str, _: Instant) {
        self.status = StageStatus {
            reason: reason.to_owned(),
            ..Self::new().status
        };
    }

    fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.line.extend(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8(self.line.drain(..=end).collect()).unwrap();
            let numbers: Vec<f64> = line
                .split_whitespace()
                .skip(1)
                .map(|word| word.parse().unwrap())
                .collect();
            // It counts from where its switches are.
            self.guard.vouch([true; 3]);
            self.status = StageStatus {
                stamp: now,
                state: if numbers[1] == 0.0 {
                    StageState::Idle
                } else {
                    StageState::Moving
                },
                reason: String::new(),
                position_um: [0.0, 0.0, numbers[0]],
                z_um_per_s: numbers[1],
                position_valid: self.guard.knows_height(),
                refused_commands: self.guard.refused(),
                ..self.status.clone()
            };
        }
    }

    fn poll(&mut self, now: Instant) -> Vec<u8> {
        if self.status.state == StageState::Moving && now.since(self.commanded) > self.guard.command_timeout()
        {
            self.out += "s\n";
        }
        if let Some((goal_um, um_per_s)) = self.goal
            && (self.status.z_um() - goal_um) * um_per_s >= 0.0
        {
            self.goal = None;
            self.out += "s\n";
        }
        if now >= self.asked + ASK_PERIOD {
            self.asked = now;
            self.out += "?\n";
        }
        std::mem::take(&mut self.out).into_bytes()
    }

    fn next_wakeup(&self) -> Option<Instant> {
        Some(self.asked + ASK_PERIOD)
    }

    fn state(&self) -> StageStatus {
        self.status.clone()
    }

    fn expected_z_um(&self, _: Instant) -> f64 {
        self.status.z_um()
    }

    fn is_unreachable(&self) -> bool {
        false
    }

    fn is_foreign(&self) -> bool {
        false
    }

    fn is_safe(&self) -> bool {
        self.status.state != StageState::Moving
    }

    fn set_memory(&mut self, _: Option<Remembered>) {}

    fn memory(&self) -> Option<Remembered> {
        None
    }

    fn awaits_memory(&self) -> bool {
        false
    }

    fn command_velocity(&mut self, z_um_per_s: f64, stamp: Instant, now: Instant) -> Result<f64, Refusal> {
        let permitted = self.guard.check_velocity(z_um_per_s, stamp, now, Ok(()), PACE)?;
        self.commanded = now;
        self.goal = None;
        self.out += &format!("v {permitted}\n");
        Ok(permitted)
    }

    fn command_target(
        &mut self,
        z_um: f64,
        um_per_s: f64,
        stamp: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        let way = (self.status.z_um(), z_um);
        let permitted = self.guard.check_target(way, um_per_s, stamp, now, Ok(()), PACE)?;
        self.commanded = now;
        self.goal = Some((z_um, permitted));
        self.out += &format!("v {permitted}\n");
        Ok(())
    }

    fn command_move_relative(
        &mut self,
        by_um: [f64; 3],
        um_per_s: f64,
        _: Instant,
    ) -> Result<Duration, Refusal> {
        self.guard
            .check_move(self.status.position_um, by_um, um_per_s, Ok(()))?;
        Err(Refusal::NotReady {
            reason: "this one knows velocities only".to_owned(),
        })
    }

    fn check_reach(&self, from_um: [f64; 3], by_um: [f64; 3]) -> Result<(), Refusal> {
        self.guard.check_reach(from_um, by_um)
    }

    fn command_stop(&mut self, now: Instant) {
        self.guard.stop(now);
        self.out += "s\n";
    }

    fn command_clear_fault(&mut self, _: Instant) {
        self.guard.release();
    }

    fn command_reference(&mut self, _: [Option<f64>; 3], _: Instant) -> Result<(), Refusal> {
        Ok(())
    }

    fn command_home(&mut self, _: Instant) -> Result<(), Refusal> {
        Err(Refusal::Busy)
    }
}

/// The controller, until the link ends.
async fn controller(link: DuplexStream) {
    let (reader, mut writer) = tokio::io::split(link);
    let mut lines = BufReader::new(reader).lines();
    let (mut z_um, mut um_per_s, mut since) = (0.0, 0.0, tokio::time::Instant::now());
    while let Ok(Some(line)) = lines.next_line().await {
        z_um += um_per_s * since.elapsed().as_secs_f64();
        since = tokio::time::Instant::now();
        match line.split_once(' ') {
            Some(("v", speed)) => um_per_s = speed.parse().unwrap(),
            _ if line == "s" => um_per_s = 0.0,
            _ => {
                let answer = format!("z {z_um} {um_per_s}\n");
                if writer.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn wait(handle: &StageHandle, reached: impl Fn(&StageStatus) -> bool) -> StageStatus {
    let mut status = handle.status();
    let waiting = status.wait_for(|status| reached(status));
    let found = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    found.expect("it is reached").expect("the driver runs").clone()
}

#[tokio::test(start_paused = true)]
async fn the_driver_drives_what_speaks_another_protocol() {
    let (near, far) = tokio::io::duplex(4096);
    let device = tokio::spawn(controller(far));
    let start = tokio::time::Instant::now();
    let clock: hhnet::drivers::TimeSource =
        Arc::new(move || Instant::from_nanos(1_000_000_000) + start.elapsed());
    let handle = StageDriver::spawn(
        near,
        Box::new(Tiny::new()),
        PositionStore::none(),
        Arc::clone(&clock),
    );
    wait(&handle, |status| status.state == StageState::Idle).await;

    handle.velocity(50.0, clock()).unwrap();
    wait(&handle, |status| status.z_um() > 5.0).await;
    let stood = handle.stop().await.unwrap();
    assert!(stood.z_um() > 5.0 && stood.state == StageState::Idle, "{stood:?}");

    let held = handle.velocity(-50.0, clock()).unwrap_err();
    assert_eq!(held, Refusal::Stopped);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let stale = handle
        .velocity(-50.0, Instant::from_nanos(0))
        .unwrap_err()
        .to_string();
    assert!(stale.contains("ms old"), "{stale}");
    handle.velocity(-50.0, clock()).unwrap();
    wait(&handle, |status| status.state == StageState::Moving).await;
    let silent = wait(&handle, |status| status.state == StageState::Idle).await;
    assert!(
        silent.z_um() > -10.0,
        "a velocity without a next one ends: {silent:?}"
    );

    let refused = handle
        .move_relative([0.0, 0.0, 500.0], 10.0)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("permitted are -19.0 to 99.0"), "{refused}");
    device.abort();
    wait(&handle, |status| {
        status.state == StageState::Disconnected && !status.reason.is_empty()
    })
    .await;
}

/// What is behind the port is found out by asking: GRBL's host cannot read the answers, the next one can.
#[tokio::test(start_paused = true)]
async fn the_answers_pick_the_host() {
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(controller(far));
    let start = tokio::time::Instant::now();
    let clock: hhnet::drivers::TimeSource =
        Arc::new(move || Instant::from_nanos(1_000_000_000) + start.elapsed());
    let mut hosts = protocol::hosts(&StageConfig::default()).unwrap();
    hosts.others.push_back(Box::new(Tiny::new()));
    let handle = StageDriver::spawn(near, hosts, PositionStore::none(), Arc::clone(&clock));
    let found = wait(&handle, |status| status.state == StageState::Idle).await;
    assert_eq!(found.firmware, "tiny");
    handle.velocity(50.0, clock()).unwrap();
    wait(&handle, |status| status.z_um() > 5.0).await;
}
