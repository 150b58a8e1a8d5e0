//! A stage on a serial port: the asynchronous shell around a [`Host`].
//!
//! [`open_port`] opens a port that exists, is a device, is ours to use and is nobody else's. [`StageDriver`] runs the
//! conversation over any byte stream in a task, reconnects with growing pauses when the stream ends (a read of no bytes
//! is an unplugged cable) and never resumes motion by itself. The stage stops when the [`StageHandle`] is dropped.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::termios::{ControlFlags, SetArg, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_serial::{SerialPortBuilderExt, SerialStream};

use super::TimeSource;
use super::position_store::PositionStore;
use crate::commissioning::clearance::{Clearance, Way};
use crate::stage::host::{Host, Hosts};
use crate::stage::identity::Identity;
use crate::stage::status::{Refusal, StageState, StageStatus};
use crate::units::Instant;

/// GRBL's baud rate.
pub const GRBL_BAUD: u32 = 115_200;

/// First and longest pause between attempts to reopen a port.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1000));
/// Longest time a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest time a stop may take to be confirmed.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);
/// Longest time the stage may take to stop when the driver ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest sleep of the loop.
const TICK: Duration = Duration::from_millis(100);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nothing there.
    #[error("serial port {} does not exist: plug in the controller or correct the port parameter", path.display())]
    Missing {
        /// The port.
        path: PathBuf,
    },
    /// Something else than a device.
    #[error("{} is not a serial port: expected a character device under /dev", path.display())]
    NotADevice {
        /// The port.
        path: PathBuf,
    },
    /// In use.
    #[error("serial port {} is in use by another program: end it first", path.display())]
    Taken {
        /// The port.
        path: PathBuf,
    },
    /// Not allowed.
    #[error("no permission to use serial port {}: join the group that owns it (usually dialout)", path.display())]
    Forbidden {
        /// The port.
        path: PathBuf,
    },
    /// Anything else the system says.
    #[error("cannot use serial port {}: {message}", path.display())]
    Other {
        /// The port.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
}

impl PortError {
    fn from_errno(path: &Path, errno: i32) -> Self {
        let path = path.to_owned();
        match Errno::from_raw(errno) {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Self::Missing { path },
            Errno::EBUSY | Errno::EWOULDBLOCK => Self::Taken { path },
            Errno::EACCES | Errno::EPERM => Self::Forbidden { path },
            other => Self::Other {
                path,
                message: other.desc().to_owned(),
            },
        }
    }

    fn from_io(path: &Path, error: &std::io::Error) -> Self {
        error.raw_os_error().map_or_else(
            || Self::Other {
                path: path.to_owned(),
                message: error.to_string(),
            },
            |errno| Self::from_errno(path, errno),
        )
    }
}

/// Opens a serial port (or pseudo-terminal) exclusively, raw, 8N1, without resetting the board behind it if that can be
/// avoided.
///
/// # Errors
/// A sentence saying what is wrong with the port and what to do. Needs a running tokio runtime.
pub fn open_port(path: &Path, baud: u32) -> Result<SerialStream, PortError> {
    let device = path
        .canonicalize()
        .map_err(|error| PortError::from_io(path, &error))?;
    let metadata = device
        .metadata()
        .map_err(|error| PortError::from_io(path, &error))?;
    if !device.starts_with("/dev") || !metadata.file_type().is_char_device() {
        return Err(PortError::NotADevice {
            path: path.to_owned(),
        });
    }
    // The name of a virtual stage that has crashed may lead to a user's terminal by now.
    if super::emulated_port::is_abandoned(path) {
        return Err(PortError::Missing {
            path: path.to_owned(),
        });
    }
    prepare(path, &device)?;
    let Some(name) = device.to_str() else {
        return Err(PortError::NotADevice {
            path: path.to_owned(),
        });
    };
    // A pseudo-terminal would stay exclusive after a crash, closed to everybody; there the lock alone has to do.
    let pseudo = device.starts_with("/dev/pts");
    let stream = tokio_serial::new(name, baud)
        .exclusive(!pseudo)
        .open_native_async()
        .map_err(|error| PortError::Other {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
    if pseudo {
        relock(path, &stream)?;
    }
    Ok(stream)
}

/// Checks that no process holds the port and keeps the modem lines from dropping, which would reset many boards.
fn prepare(path: &Path, device: &Path) -> Result<(), PortError> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags.bits())
        .open(device)
        .map_err(|error| PortError::from_io(path, &error))?;
    // A device without terminal settings is no serial port.
    let mut settings = tcgetattr(&file).map_err(|_| PortError::NotADevice {
        path: path.to_owned(),
    })?;
    lock(path, &file)?;
    settings.control_flags.remove(ControlFlags::HUPCL);
    tcsetattr(&file, SetArg::TCSANOW, &settings).map_err(|errno| PortError::from_errno(path, errno as i32))
}

/// Makes the shared lock the serial library has put on `stream` an exclusive one. It ends with the stream.
#[expect(
    deprecated,
    reason = "its successor owns the file it locks, and this one belongs to the stream"
)]
fn relock(path: &Path, stream: &SerialStream) -> Result<(), PortError> {
    nix::fcntl::flock(stream.as_raw_fd(), nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|errno| PortError::from_errno(path, errno as i32))
}

fn lock(path: &Path, file: &File) -> Result<(), PortError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => PortError::Taken {
            path: path.to_owned(),
        },
        TryLockError::Error(error) => PortError::from_io(path, &error),
    })
}

struct Shared {
    host: Mutex<Box<dyn Host>>,
    /// Those of other protocols, the next one first.
    others: Mutex<VecDeque<Box<dyn Host>>>,
    status: watch::Sender<StageStatus>,
    store: Mutex<PositionStore>,
    wake: Notify,
    closing: AtomicBool,
    clock: TimeSource,
    /// Whether the controller may be moved at all; None: whoever drives it answers for that.
    clearance: Mutex<Option<Clearance>>,
}

impl Shared {
    fn host(&self) -> MutexGuard<'_, Box<dyn Host>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Writes down what may be, before anything more is sent.
    fn remember(&self) {
        let Some(record) = self.host().memory() else {
            return;
        };
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = store.save(&record) {
            let path = store
                .path()
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            tracing::warn!(
                "the position cannot be written down in {path}: {error}; after the next start it has to be vouched for anew"
            );
        }
    }

    /// What answers speaks another protocol: the host of the next one asks it. Whether there is one.
    fn try_next(&self) -> bool {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut next) = others.pop_front() else {
            return false;
        };
        let now = self.now();
        next.handle_open(now);
        let mut host = self.host();
        host.handle_close("it speaks another protocol", now);
        others.push_back(std::mem::replace(&mut *host, next));
        true
    }

    fn publish(&self, host: &dyn Host) {
        self.status.send_replace(host.state());
    }

    /// Why the controller that is in touch may not be moved that way.
    fn objection(&self, host: &dyn Host, way: Way) -> Option<String> {
        let clearance = self.clearance.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not in touch refuses by itself, and has not said yet which controller it is.
        if host.state().state == StageState::Disconnected {
            return None;
        }
        clearance.as_ref()?.check(host.identity().as_ref(), way).err()
    }

    /// Gives the host a command that moves the stage, if it may be moved.
    fn motion<R>(
        &self,
        way: Way,
        command: impl FnOnce(&mut dyn Host, Instant) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        self.command(|host, now| {
            let Some(reason) = self.objection(host, way) else {
                return command(host, now);
            };
            let status = host.state();
            Err(match status.state {
                // What a fault says comes first, but homing would end it.
                StageState::Fault if way != Way::Home => Refusal::NotReady {
                    reason: status.reason,
                },
                _ => Refusal::NotCleared { reason },
            })
        })
    }

    /// Gives the host a command, publishes the outcome and wakes the loop.
    fn command<R>(&self, command: impl FnOnce(&mut dyn Host, Instant) -> R) -> R {
        let now = self.now();
        let mut host = self.host();
        let outcome = command(&mut **host, now);
        self.publish(&**host);
        drop(host);
        self.wake.notify_one();
        outcome
    }
}

/// Starts the conversation with a stage.
#[derive(Debug)]
pub struct StageDriver;

impl StageDriver {
    /// Drives the stage behind `stream` until the stream ends, by the first of `hosts` that understands it. Needs a running
    /// tokio runtime.
    pub fn spawn<S>(
        stream: S,
        hosts: impl Into<Hosts>,
        store: PositionStore,
        clock: TimeSource,
    ) -> StageHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stream = Some(stream);
        Self::start(move || stream.take().map(Ok), hosts, store, clock)
    }

    /// Drives the stage behind the stream `open` opens, and opens it again whenever it ends. Needs a running tokio
    /// runtime.
    pub fn spawn_reopening<S, F>(
        mut open: F,
        hosts: impl Into<Hosts>,
        store: PositionStore,
        clock: TimeSource,
    ) -> StageHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: FnMut() -> Result<S, PortError> + Send + 'static,
    {
        Self::start(move || Some(open()), hosts, store, clock)
    }

    /// Drives the stage on the serial port at `path`, reopening it when it comes back. A port that cannot be opened shows in the status.
    pub fn spawn_port(
        path: PathBuf,
        baud: u32,
        hosts: impl Into<Hosts>,
        store: PositionStore,
        clock: TimeSource,
    ) -> StageHandle {
        Self::spawn_reopening(move || open_port(&path, baud), hosts, store, clock)
    }

    fn start<S, F>(open: F, hosts: impl Into<Hosts>, store: PositionStore, clock: TimeSource) -> StageHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: FnMut() -> Option<Result<S, PortError>> + Send + 'static,
    {
        let Hosts { first, others } = hosts.into();
        let (status, receiver) = watch::channel(first.state());
        let shared = Arc::new(Shared {
            host: Mutex::new(first),
            others: Mutex::new(others),
            status,
            store: Mutex::new(store),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            clock,
            clearance: Mutex::new(None),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), open));
        StageHandle {
            shared,
            status: receiver,
            task: Some(task),
        }
    }
}

/// A stop that could not be confirmed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the stage is not known to stand still: {reason}")]
pub struct StopUnconfirmed {
    /// What is known instead, one sentence.
    pub reason: String,
}

/// Whether a stage is known to stand still: confirmed, or because nothing was sent that it could still be doing.
///
/// # Errors
/// What is known instead.
pub fn stands(status: &StageStatus) -> Result<StageStatus, StopUnconfirmed> {
    if status.state == StageState::Idle || !status.may_move {
        return Ok(status.clone());
    }
    Err(StopUnconfirmed {
        reason: status.reason.clone(),
    })
}

/// Control over a running driver. Dropping it stops the stage.
pub struct StageHandle {
    shared: Arc<Shared>,
    status: watch::Receiver<StageStatus>,
    task: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for StageHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StageHandle({:?})", *self.status.borrow())
    }
}

impl StageHandle {
    /// Asks for a height, µm, to be driven to at most at `um_per_s`, decided at `at`: a velocity that ends there, and has to be repeated
    /// like one. Never blocks on I/O.
    ///
    /// # Errors
    /// Why the command has no effect.
    pub fn target(&self, z_um: f64, um_per_s: f64, at: Instant) -> Result<(), Refusal> {
        self.shared.motion(Way::Height, |host, now| {
            host.command_target(z_um, um_per_s, at, now)
        })
    }

    /// Asks for a velocity along z, µm/s (z up, away from the slide), decided at `at`. It holds until the next command
    /// or the command timeout. Returns the velocity after the speed limits. Never blocks on I/O.
    ///
    /// # Errors
    /// Why nothing will happen.
    pub fn velocity(&self, z_um_per_s: f64, at: Instant) -> Result<f64, Refusal> {
        if z_um_per_s == 0.0 {
            return self
                .shared
                .command(|host, now| host.command_velocity(z_um_per_s, at, now));
        }
        self.shared.motion(Way::Height, |host, now| {
            host.command_velocity(z_um_per_s, at, now)
        })
    }

    /// Moves x, y, z by `by_um` at `um_per_s` along the path; the status says when it is done.
    ///
    /// # Errors
    /// Why nothing will happen.
    pub fn move_relative(&self, by_um: [f64; 3], um_per_s: f64) -> Result<Duration, Refusal> {
        let is_upright = by_um[0] == 0.0 && by_um[1] == 0.0;
        let way = if is_upright { Way::Height } else { Way::Sideways };
        self.shared
            .motion(way, |host, now| host.command_move_relative(by_um, um_per_s, now))
    }

    /// Whether a stage that stands at `from_um`, x, y, z, may be moved by `by_um`.
    ///
    /// # Errors
    /// As [`Host::check_reach`].
    pub fn check_reach(&self, from_um: [f64; 3], by_um: [f64; 3]) -> Result<(), Refusal> {
        self.shared.host().check_reach(from_um, by_um)
    }

    /// Stops the stage and waits until the controller has confirmed that it stands still. A stage that was never sent anywhere
    /// stands, whether or not its controller answers.
    ///
    /// # Errors
    /// If there is no confirmation within a second: silence never counts as standing still.
    pub async fn stop(&self) -> Result<StageStatus, StopUnconfirmed> {
        self.begin_stop();
        let mut status = self.status.clone();
        let at_rest =
            tokio::time::timeout(STOP_TIMEOUT, status.wait_for(|s| s.state != StageState::Moving)).await;
        match at_rest {
            Ok(Ok(status)) => stands(&status),
            Ok(Err(_)) => Err(StopUnconfirmed {
                reason: "the driver has ended".to_owned(),
            }),
            Err(_) => Err(StopUnconfirmed {
                reason: "no confirmation within a second".to_owned(),
            }),
        }
    }

    /// Stops the stage without waiting for it; [`stands`] of the status says when it does.
    pub fn begin_stop(&self) {
        self.shared.command(|host, now| host.command_stop(now));
    }

    /// Takes up work again after a fault and releases a stop that holds; the status, Disconnected until then, says whether it
    /// worked. The position stays invalid.
    pub fn clear_fault(&self) {
        self.shared.command(|host, now| host.command_clear_fault(now));
    }

    /// Runs the controller's homing cycle; the status says when it is done.
    ///
    /// # Errors
    /// If the stage is moving, in a fault or not connected.
    pub fn home(&self) -> Result<(), Refusal> {
        self.shared.motion(Way::Home, |host, now| host.command_home(now))
    }

    /// Declares where the stage is now along the axes given, x, y, z, µm, which makes their positions valid.
    ///
    /// # Errors
    /// If it is not at rest.
    pub fn reference(&self, um: [Option<f64>; 3]) -> Result<(), Refusal> {
        self.shared.command(|host, now| host.command_reference(um, now))
    }

    /// From now on nothing moves but what this permits; a stop always does.
    pub fn require(&self, clearance: Clearance) {
        *self
            .shared
            .clearance
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(clearance);
    }

    /// Why the controller that is in touch may not be moved, whatever the host says; None if it may, or none is in touch.
    pub fn objection(&self) -> Option<String> {
        self.shared.objection(&**self.shared.host(), Way::Height)
    }

    /// What is to be told of the controller's clearance in diagnostics, and what should be changed though it may be moved.
    pub fn clearance(&self) -> (String, Option<String>) {
        let identity = self.identity();
        let clearance = self
            .shared
            .clearance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clearance.as_ref().map_or_else(
            || ("not asked for".to_owned(), None),
            |clearance| {
                (
                    clearance.told(identity.as_ref()),
                    clearance.warning(identity.as_ref()),
                )
            },
        )
    }

    /// Which controller it is, once it is in touch and has said so.
    pub fn identity(&self) -> Option<Identity> {
        self.shared.host().identity()
    }

    /// How far the stage may go on after a stop at such a speed, µm; NaN while nothing is known of it.
    pub fn stopping_um(&self, um_per_s: f64) -> f64 {
        self.shared.host().stopping_um(um_per_s)
    }

    /// The status, to be watched.
    pub fn status(&self) -> watch::Receiver<StageStatus> {
        self.status.clone()
    }

    /// Dead-reckoned height at `at` (within the last 2 s), µm; for the exposure mid-point of a frame.
    pub fn z_um_at(&self, at: Instant) -> f64 {
        self.shared.host().expected_z_um(at)
    }

    /// Stops the stage, waits for standstill (at most half a second) and ends the driver.
    ///
    /// # Errors
    /// If standstill was not confirmed.
    pub async fn shutdown(mut self) -> Result<StageStatus, StopUnconfirmed> {
        self.close();
        if let Some(task) = self.task.take() {
            let limit = SHUTDOWN_TIMEOUT + WRITE_TIMEOUT;
            if tokio::time::timeout(limit, task).await.is_err() {
                return Err(StopUnconfirmed {
                    reason: "the driver did not end in time".to_owned(),
                });
            }
        }
        stands(&self.status.borrow())
    }

    /// Ends the driver at once, as a crash would: nothing more is written, and the stage runs out its short queue.
    pub fn abort(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.command(|host, now| host.command_stop(now));
    }
}

impl Drop for StageHandle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens, converses, and opens again.
async fn run<S, F>(shared: Arc<Shared>, mut open: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: FnMut() -> Option<Result<S, PortError>> + Send,
{
    let mut pause = BACKOFF.0;
    while !shared.closing.load(Ordering::Acquire) {
        let ended = match open() {
            None => return,
            Some(Err(error)) => Some(error.to_string()),
            Some(Ok(stream)) => {
                pause = BACKOFF.0;
                converse(&shared, stream).await
            }
        };
        // A conversation that was ended on purpose leaves its last status standing.
        let Some(reason) = ended else { return };
        shared.command(|host, now| host.handle_close(&reason, now));
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        while !shared.closing.load(Ordering::Acquire) {
            tokio::select! {
                () = &mut sleep => break,
                () = shared.wake.notified() => {}
            }
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Talks until the stream ends (the reason) or the driver is to end (`None`).
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(shared: &Shared, stream: S) -> Option<String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    shared.command(|host, now| host.handle_open(now));
    shared
        .store
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .forget_written();
    let mut buffer = [0; 512];
    let mut closing_since: Option<Instant> = None;
    // Each is asked once; the last one says what is wrong.
    let mut left = shared.others.lock().unwrap_or_else(PoisonError::into_inner).len();
    loop {
        if left > 0 && shared.host().is_foreign() && shared.try_next() {
            left -= 1;
        }
        let now = shared.now();
        let (bytes, wakeup, done, unreachable) = {
            let mut host = shared.host();
            let bytes = host.poll(now);
            shared.publish(&**host);
            let done = host.is_safe() && !host.awaits_memory();
            (bytes, host.next_wakeup(), done, host.is_unreachable())
        };
        if unreachable {
            return Some(
                "the controller does not answer, not even a reset; check its power and the port's name"
                    .to_owned(),
            );
        }
        shared.remember();
        if !bytes.is_empty() {
            match tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(format!("the port was lost while writing: {error}")),
                Err(_) => return Some("the port does not take data".to_owned()),
            }
        }
        if shared.closing.load(Ordering::Acquire) {
            let since = *closing_since.get_or_insert(now);
            if done || now.since(since) >= SHUTDOWN_TIMEOUT {
                return None;
            }
        }
        let sleep = wakeup.map_or(TICK, |at| at.since(shared.now())).min(TICK);
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                // Not "no data": a port that is gone reads as empty for ever.
                Ok(0) => return Some("the port was unplugged".to_owned()),
                Ok(count) => {
                    // What is behind the port says where it stands before it speaks, not before it can be opened.
                    let record = shared.store.lock().unwrap_or_else(PoisonError::into_inner).load_once();
                    let mut host = shared.host();
                    if let Some(record) = record {
                        host.set_memory(record);
                    }
                    host.handle_bytes(&buffer[..count], shared.now());
                }
                Err(error) => return Some(format!("the port was lost while reading: {error}")),
            },
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}
