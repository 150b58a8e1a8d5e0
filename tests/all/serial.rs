//! The serial driver against the emulated controller, over a real pseudo-terminal and in real time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::common::faults::{FOREVER, Fault, Faulty, Plan};
use hhnet::drivers::TimeSource;
use hhnet::drivers::emulated_port::{EmulatedPort, EmulatedPortError, EmulatedStage};
use hhnet::drivers::position_store::PositionStore;
use hhnet::drivers::serial::{GRBL_BAUD, PortError, StageDriver, StageHandle, open_port};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::EmulatorConfig;
use hhnet::stage::Axis;
use hhnet::stage::guard::Guard;
use hhnet::stage::memory::Remembered;
use hhnet::stage::status::{StageState, StageStatus};
use hhnet::units::Instant;
use tempfile::TempDir;

/// Longest wait for anything; a busy machine needs some.
const LIMIT: Duration = Duration::from_secs(10);

fn clock() -> TimeSource {
    let start = std::time::Instant::now();
    Arc::new(move || Instant::from_nanos(1_000_000_000_000) + start.elapsed())
}

struct Bench {
    folder: TempDir,
    link: PathBuf,
    clock: TimeSource,
    stage: EmulatedStage,
    port: Option<EmulatedPort>,
}

fn grbl() -> Box<GrblHost> {
    Box::new(GrblHost::new(Guard::default()))
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("stage");
        let clock = clock();
        let stage = EmulatedStage::new(EmulatorConfig::default(), Arc::clone(&clock));
        let port = Some(EmulatedPort::attach(&link, stage.clone()).unwrap());
        PositionStore::of_port(folder.path(), &link)
            .save(&Remembered::powered_up_at([0.0; 3]))
            .unwrap();
        Self {
            folder,
            link,
            clock,
            stage,
            port,
        }
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    fn z_um(&self) -> f64 {
        self.stage.position_um(Axis::Z, self.now())
    }

    fn spawn(&self) -> StageHandle {
        StageDriver::spawn_port(
            self.link.clone(),
            GRBL_BAUD,
            grbl(),
            PositionStore::of_port(self.folder.path(), &self.link),
            Arc::clone(&self.clock),
        )
    }

    async fn connected(&self) -> StageHandle {
        let handle = self.spawn();
        wait(&handle, |status| status.state == StageState::Idle).await;
        handle
    }

    /// The same, with the check of the first motion behind it; the stage stands where it stood.
    async fn checked(&self) -> StageHandle {
        let handle = self.connected().await;
        let stood = self.z_um();
        for by_um in [8.0, -8.0] {
            handle.move_relative([0.0, 0.0, by_um], 500.0).unwrap();
            wait(&handle, |status| status.state == StageState::Idle).await;
        }
        assert!((self.z_um() - stood).abs() < 0.06);
        handle
    }

    /// Commands a velocity every 20 ms for `ms`; the time of the last command.
    async fn drive(&self, handle: &StageHandle, um_per_s: f64, ms: u64) -> Instant {
        let end = self.now() + Duration::from_millis(ms);
        let mut last = self.now();
        while self.now() < end {
            last = self.now();
            handle.velocity(um_per_s, last).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        last
    }

    /// Waits for the last step of the stage.
    async fn last_step(&self) -> Instant {
        loop {
            let end = self.stage.motion_end();
            if end < Instant::from_nanos(self.now().as_nanos() - 400_000_000) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn wait(handle: &StageHandle, wanted: impl FnMut(&StageStatus) -> bool) -> StageStatus {
    let mut status = handle.status();
    match tokio::time::timeout(LIMIT, status.wait_for(wanted)).await {
        Ok(Ok(status)) => return status.clone(),
        Ok(Err(_)) => panic!("the driver ended: {handle:?}"),
        Err(_) => {}
    }
    panic!("still {handle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_and_stops_where_it_says() {
    let bench = Bench::new();
    let handle = bench.checked().await;
    let status = handle.status().borrow().clone();
    assert_eq!(
        (status.firmware.as_str(), status.position_valid),
        ("GRBL 1.1h", true)
    );
    bench.drive(&handle, 223.7, 500).await;
    handle.velocity(0.0, bench.now()).unwrap();
    let status = handle.stop().await.unwrap();
    let z_um = bench.z_um();
    assert!((80.0..135.0).contains(&z_um), "{z_um}");
    assert!(
        (status.z_um() - z_um).abs() <= 0.51,
        "{} vs {z_um}",
        status.z_um()
    );
    handle.move_relative([0.0, 0.0, -12.3], 200.0).unwrap();
    let target = z_um - 12.3;
    wait(&handle, |status| {
        status.state == StageState::Idle && status.z_um() < target + 1.0
    })
    .await;
    assert!(
        (bench.z_um() - target).abs() < 0.06,
        "{} vs {target}",
        bench.z_um()
    );
    handle.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_the_commander_and_loss_of_the_handle_stop_the_stage() {
    let bench = Bench::new();
    let handle = bench.checked().await;
    let last = bench.drive(&handle, 200.0, 300).await;
    let after_ms = bench.last_step().await.since(last).as_millis();
    println!("last step {after_ms} ms after the last command");
    assert!(after_ms <= 350, "{after_ms} ms");
    wait(&handle, |status| {
        status.state == StageState::Idle && status.reason.contains("no velocity")
    })
    .await;

    bench.drive(&handle, -200.0, 300).await;
    let dropped = bench.now();
    drop(handle);
    let after_ms = bench.last_step().await.since(dropped).as_millis();
    println!("last step {after_ms} ms after the handle was dropped");
    assert!(after_ms <= 200, "{after_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_driver_leaves_a_stage_that_stops() {
    let bench = Bench::new();
    let handle = bench.checked().await;
    bench.drive(&handle, 200.0, 300).await;
    // As after SIGKILL: nothing is written any more, and the port closes.
    let killed = bench.now();
    handle.abort();
    let after_ms = bench.last_step().await.since(killed).as_millis();
    println!("last step {after_ms} ms after the driver was killed");
    assert!(after_ms <= 200, "{after_ms} ms");
    let rest = bench.z_um();
    let next = bench.connected().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.z_um(), rest, "moved without a command");
    next.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unplugging_in_motion_and_plugging_in_again() {
    let mut bench = Bench::new();
    let handle = bench.checked().await;
    bench.drive(&handle, 200.0, 300).await;
    let unplugged = bench.now();
    bench.port = None;
    let status = wait(&handle, |status| status.state == StageState::Disconnected).await;
    println!(
        "noticed after {} ms: {}",
        bench.now().since(unplugged).as_millis(),
        status.reason
    );
    assert!(!status.position_valid && status.z_um().is_nan());
    assert!(handle.velocity(100.0, bench.now()).is_err());
    assert!(handle.stop().await.is_err());
    wait(&handle, |status| status.reason.contains("does not exist")).await;

    bench.port = Some(EmulatedPort::attach(&bench.link, bench.stage.clone()).unwrap());
    wait(&handle, |status| status.state == StageState::Fault).await;
    let rest = bench.z_um();
    assert!(handle.velocity(100.0, bench.now()).is_err());
    handle.clear_fault();
    let status = wait(&handle, |status| status.state == StageState::Idle).await;
    assert!(!status.position_valid);
    assert_eq!(bench.z_um(), rest, "moved without a command");
    assert!(
        handle.velocity(100.0, bench.now()).is_err(),
        "nobody vouches for the height"
    );
    handle.reference([None, None, Some(rest)]).unwrap();
    bench.drive(&handle, 200.0, 100).await;
    handle.stop().await.unwrap();
    assert!(bench.z_um() > rest);
}

#[tokio::test]
async fn a_name_belongs_to_one_virtual_stage_and_leads_nowhere_after_a_crash() {
    let mut bench = Bench::new();
    let second = EmulatedPort::attach(&bench.link, bench.stage.clone()).unwrap_err();
    assert!(second.to_string().contains("another virtual stage"), "{second}");
    let device = bench.port.as_ref().unwrap().device().to_owned();
    bench.port = None;
    // What a crash leaves behind, leading to a terminal that somebody else has got since.
    let terminal = nix::pty::openpty(None, None).unwrap();
    let somebody = nix::unistd::ttyname(&terminal.slave).unwrap();
    std::os::unix::fs::symlink(somebody, &bench.link).unwrap();
    let refused = open_port(&bench.link, GRBL_BAUD).unwrap_err();
    assert!(matches!(refused, PortError::Missing { .. }), "{refused}");
    bench.port = Some(EmulatedPort::attach(&bench.link, bench.stage.clone()).unwrap());
    assert!(
        open_port(&bench.link, GRBL_BAUD).is_ok(),
        "plugged in again, was {device:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_is_a_fault() {
    let bench = Bench::new();
    let handle = bench.checked().await;
    bench.drive(&handle, 100.0, 200).await;
    bench.stage.power_cut();
    let status = wait(&handle, |status| status.state == StageState::Fault).await;
    assert!(status.reason.contains("reset"), "{}", status.reason);
    // A jog on its way may still reach the restarted controller; stopping it is an alarm of its own, to be cleared as well.
    let cleared = async {
        let mut status = handle.status();
        loop {
            handle.clear_fault();
            let idle = status.wait_for(|status| status.state == StageState::Idle);
            if tokio::time::timeout(LIMIT / 10, idle).await.is_ok() {
                return;
            }
        }
    };
    assert!(
        tokio::time::timeout(LIMIT, cleared).await.is_ok(),
        "still {handle:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_cannot_be_used_say_why() {
    let bench = Bench::new();
    let check = |path: &str, expected: &str| {
        let error = open_port(path.as_ref(), GRBL_BAUD).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("/dev/no-such-port", "does not exist");
    check("/dev/null", "not a serial port");
    check("/proc/self/status", "not a serial port");
    let first = open_port(&bench.link, GRBL_BAUD).unwrap();
    assert!(matches!(
        open_port(&bench.link, GRBL_BAUD),
        Err(PortError::Taken { .. })
    ));
    let handle = bench.spawn();
    wait(&handle, |status| {
        status.reason.contains("in use by another program")
    })
    .await;
    drop(first);
    wait(&handle, |status| status.state == StageState::Idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_can_be_closed_and_opened_again_and_again() {
    let bench = Bench::new();
    for _ in 0..5 {
        let handle = bench.connected().await;
        bench.drive(&handle, 100.0, 60).await;
        handle.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_mute_peer_is_disconnected_and_noise_is_survived() {
    let (near, _far) = tokio::io::duplex(4096);
    let ticks = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let start = tokio::time::Instant::now();
    let second = |second| Instant::from_nanos(1_000_000_000) + Duration::from_secs(second);
    let now = move || Instant::from_nanos(1_000_000_000) + start.elapsed();
    let counter = Arc::clone(&ticks);
    let clock: TimeSource = Arc::new(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        now()
    });
    let plan = Plan::new(1)
        .with(second(3)..second(4), Fault::Flood(4))
        .with(second(5)..FOREVER, Fault::End);
    let line = Faulty::new(near, plan, Arc::new(now));
    let handle = StageDriver::spawn(line, grbl(), PositionStore::none(), clock);
    // Shorter than it takes to give such a link up for good.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(handle.status().borrow().state, StageState::Disconnected);
    let looks = ticks.load(std::sync::atomic::Ordering::Relaxed);
    assert!(looks < 300, "{looks} looks at the clock in 3 s of nothing");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(handle.status().borrow().state, StageState::Disconnected);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Whether a read or a write meets the end first is chance.
    let reason = handle.status().borrow().reason.clone();
    assert!(
        reason.contains("unplugged") || reason.contains("lost"),
        "{reason}"
    );
}

#[test]
fn links_replace_links_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("stage");
    std::os::unix::fs::symlink("/dev/pts/stale", &link).unwrap();
    let port = EmulatedPort::open(&link, EmulatorConfig::default(), clock()).unwrap();
    assert_eq!(std::fs::read_link(&link).unwrap(), port.device());
    drop(port);
    assert!(link.symlink_metadata().is_err());
    std::fs::write(&link, "precious").unwrap();
    let error = EmulatedPort::open(&link, EmulatorConfig::default(), clock()).unwrap_err();
    assert!(matches!(error, EmulatedPortError::InTheWay { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "precious");
}
