//! The emulated controller behind a real pseudo-terminal, for the virtual microscope.
//!
//! A program that opens the port talks to an [`Emulator`] running in real time, through the same serial stack as with hardware.
//! The simulated camera asks an [`EmulatedStage`] where the lens really is. A symbolic link gives the port a stable
//! name; the port can be closed and opened any number of times.

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::geteuid;

use super::TimeSource;
use super::runtime_dir::{RuntimeDirError, runtime_dir};
use crate::sim::grbl::{Emulator, EmulatorConfig};
use crate::stage::Axis;
use crate::units::Instant;

/// Longest wait of the emulation thread, which bounds how fast it ends.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// Wait while the port is not open.
const CLOSED_WAIT: Duration = Duration::from_millis(5);
/// Attempts to take a name.
const CLAIM_ATTEMPTS: u32 = 20;

/// Why an emulated port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EmulatedPortError {
    /// No pseudo-terminal.
    #[error("cannot make a pseudo-terminal: {0}; is /dev/pts mounted?")]
    Terminal(#[from] Errno),
    /// No link.
    #[error("cannot link the emulated port at {}: {source}", path.display())]
    Link {
        /// Where the link should be.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something else is there.
    #[error("cannot link the emulated port at {}: something that is not the name of a virtual stage is there; remove it or choose another port", path.display())]
    InTheWay {
        /// Where the link should be.
        path: PathBuf,
    },
    /// Another virtual stage is there.
    #[error("cannot link the emulated port at {}: another virtual stage offers itself there; end it, or give this one another namespace or port", path.display())]
    Taken {
        /// Where the link should be.
        path: PathBuf,
    },
    /// No folder for its lock.
    #[error("cannot lock the name of the emulated port: {0}")]
    Folder(#[from] RuntimeDirError),
    /// No thread.
    #[error("cannot start the emulation thread: {0}")]
    Thread(io::Error),
}

/// The emulated machine, shared between the port and the simulated camera.
#[derive(Clone)]
pub struct EmulatedStage {
    emulator: Arc<Mutex<Emulator>>,
    clock: TimeSource,
}

impl std::fmt::Debug for EmulatedStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmulatedStage")
    }
}

impl EmulatedStage {
    /// A machine that is powered up at its first use.
    pub fn new(config: EmulatorConfig, clock: TimeSource) -> Self {
        Self {
            emulator: Arc::new(Mutex::new(Emulator::new(config))),
            clock,
        }
    }

    /// Where an axis really was at `at` (not later than now, exact for the last 2 s), µm.
    pub fn position_um(&self, axis: Axis, at: Instant) -> f64 {
        self.lock().position_um(axis, at)
    }

    /// The real velocity of an axis at `at`, µm/s.
    pub fn um_per_s(&self, axis: Axis, at: Instant) -> f64 {
        self.lock().um_per_s(axis, at)
    }

    /// When the last committed motion ends (in the past if at rest).
    pub fn motion_end(&self) -> Instant {
        self.lock().motion_end()
    }

    /// Cuts the power and restores it: see [`Emulator::power_cut`].
    pub fn power_cut(&self) {
        let now = (self.clock)();
        self.lock().power_cut(now);
    }

    /// Presses a limit switch: see [`Emulator::trip_limit`].
    pub fn trip_limit(&self) {
        let now = (self.clock)();
        self.lock().trip_limit(now);
    }

    fn lock(&self) -> MutexGuard<'_, Emulator> {
        self.emulator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pseudo-terminal with an emulated controller behind it. Dropping it unplugs it.
#[derive(Debug)]
pub struct EmulatedPort {
    link: PathBuf,
    device: PathBuf,
    stage: EmulatedStage,
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Held as long as the machine is plugged in; the system frees it however this process ends.
    _claim: File,
}

impl EmulatedPort {
    /// Plugs a new machine in at `link`.
    ///
    /// # Errors
    /// If there is no pseudo-terminal to be had or the link cannot be made.
    pub fn open(link: &Path, config: EmulatorConfig, clock: TimeSource) -> Result<Self, EmulatedPortError> {
        Self::attach(link, EmulatedStage::new(config, clock))
    }

    /// Plugs an existing machine in at `link`, replacing what a crash left there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn attach(link: &Path, stage: EmulatedStage) -> Result<Self, EmulatedPortError> {
        Self::attach_announced(link, stage, || ())
    }

    /// The same, with something that is done once the name is ours and before anything can open the port: what stands in files
    /// about the machine has to be there by then.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn attach_announced(
        link: &Path,
        stage: EmulatedStage,
        announce: impl FnOnce(),
    ) -> Result<Self, EmulatedPortError> {
        refuse_others(link)?;
        let claim = claim(link)?;
        let (master, device) = terminal()?;
        announce();
        place_link(&device, link)?;
        let running = Arc::new(AtomicBool::new(true));
        let cable = Cable {
            master,
            stage: stage.clone(),
            running: Arc::clone(&running),
        };
        let thread = std::thread::Builder::new()
            .name("emulated-stage".to_owned())
            .spawn(move || cable.run())
            .map_err(EmulatedPortError::Thread)?;
        Ok(Self {
            link: link.to_owned(),
            device,
            stage,
            running,
            thread: Some(thread),
            _claim: claim,
        })
    }

    /// The stable name of the port.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// The pseudo-terminal itself.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The machine behind the port.
    pub fn stage(&self) -> &EmulatedStage {
        &self.stage
    }

    /// Where an axis really was at `at`, µm.
    pub fn position_um(&self, axis: Axis, at: Instant) -> f64 {
        self.stage.position_um(axis, at)
    }
}

impl Drop for EmulatedPort {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to stop.
            _ = thread.join().is_ok();
        }
        if fs::read_link(&self.link).is_ok_and(|target| target == self.device) {
            // Nothing to be done about a link that cannot be removed; the next start replaces it. The claim's file stays: removed
            // here, it could be one that a successor has just locked.
            _ = fs::remove_file(&self.link).is_ok();
        }
    }
}

/// The file that the process behind the port at `link` holds locked. It is not beside the link, which may stand in a folder of devices.
fn claim_path(link: &Path) -> Result<PathBuf, RuntimeDirError> {
    let folder = link.parent().and_then(|folder| folder.canonicalize().ok());
    let place = match (folder, link.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => link.to_owned(),
    };
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    Ok(runtime_dir()?.join(format!("{:016x}.lock", hasher.finish())))
}

/// The claim's file if it is a plain one of this user: a link is not followed, a FIFO not waited for.
fn open_claim(path: &Path, create: bool) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .write(true)
        .create(create)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(path)?;
    let metadata = file.metadata()?;
    let is_ours = metadata.is_file() && metadata.uid() == geteuid().as_raw();
    match is_ours {
        true => Ok(file),
        false => Err(io::Error::other(
            "its lock is not a plain file of this user; remove it",
        )),
    }
}

/// Takes the name for this process.
fn claim(link: &Path) -> Result<File, EmulatedPortError> {
    let path = link.to_owned();
    let file = match open_claim(&claim_path(link)?, true) {
        Ok(file) => file,
        Err(source) => return Err(EmulatedPortError::Link { path, source }),
    };
    // `is_abandoned` holds it for an instant.
    for _ in 0..CLAIM_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSED_WAIT),
            Err(TryLockError::Error(source)) => return Err(EmulatedPortError::Link { path, source }),
        }
    }
    Err(EmulatedPortError::Taken { path })
}

/// Whether `link` is the name of a virtual stage whose process has ended without removing it.
pub(super) fn is_abandoned(link: &Path) -> bool {
    let claim = claim_path(link)
        .ok()
        .and_then(|path| open_claim(&path, false).ok());
    link.is_symlink() && claim.is_some_and(|claim| claim.try_lock_shared().is_ok())
}

/// Refuses a name that something else has: a file, a device, or a link that leads to no pseudo-terminal.
fn refuse_others(link: &Path) -> Result<(), EmulatedPortError> {
    let is_ours = match link.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => {
            fs::read_link(link).is_ok_and(|target| target.starts_with("/dev/pts"))
        }
        Ok(_) => false,
        Err(_) => true,
    };
    match is_ours {
        true => Ok(()),
        false => Err(EmulatedPortError::InTheWay {
            path: link.to_owned(),
        }),
    }
}

/// The near end of a new pseudo-terminal in raw mode, and its name. A program that this process starts does not inherit it: it would
/// keep the machine plugged in.
fn terminal() -> Result<(File, PathBuf), Errno> {
    let near = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let device = PathBuf::from(ptsname_r(&near)?);
    // The far end belongs to the program that opens it; kept open here, closing it would go unnoticed.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let far = open(&device, flags, Mode::empty())?;
    let mut settings = tcgetattr(&far)?;
    cfmakeraw(&mut settings);
    tcsetattr(&far, SetArg::TCSANOW, &settings)?;
    Ok((OwnedFd::from(near).into(), device))
}

/// Makes `link` point to `device`, at once and not in steps.
fn place_link(device: &Path, link: &Path) -> Result<(), EmulatedPortError> {
    refuse_others(link)?;
    let mut aside = link.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let failed = |source| EmulatedPortError::Link {
        path: link.to_owned(),
        source,
    };
    if aside.symlink_metadata().is_ok() {
        fs::remove_file(&aside).map_err(failed)?;
    }
    std::os::unix::fs::symlink(device, &aside).map_err(failed)?;
    fs::rename(&aside, link).map_err(failed)
}

/// The near end of the pseudo-terminal and what is behind it.
struct Cable {
    master: File,
    stage: EmulatedStage,
    running: Arc<AtomicBool>,
}

impl Cable {
    fn run(mut self) {
        let mut unsent: Vec<u8> = Vec::new();
        while self.running.load(Ordering::Acquire) {
            let now = (self.stage.clock)();
            let (output, wakeup) = {
                let mut emulator = self.stage.lock();
                (emulator.poll(now), emulator.next_wakeup(now))
            };
            unsent.extend(output);
            self.write(&mut unsent);
            let wait = wakeup.map_or(LONGEST_WAIT, |at| at.since(now)).min(LONGEST_WAIT);
            self.wait_and_read(wait);
        }
    }

    /// Sends what the terminal takes; a real line does not wait either.
    fn write(&mut self, unsent: &mut Vec<u8>) {
        while !unsent.is_empty() {
            match self.master.write(unsent) {
                Ok(count) if count > 0 => {
                    unsent.drain(..count);
                }
                _ => {
                    unsent.clear();
                }
            }
        }
    }

    fn wait_and_read(&mut self, wait: Duration) {
        // Rounded up to a whole millisecond: output is a trickle, and bytes may go in small groups.
        let wait_ms = u16::try_from(wait.as_micros().div_ceil(1000))
            .unwrap_or(u16::MAX)
            .max(1);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(wait_ms)).is_err() {
            return;
        }
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            let mut buffer = [0; 512];
            if let Ok(count) = self.master.read(&mut buffer) {
                let now = (self.stage.clock)();
                self.stage.lock().receive(&buffer[..count], now);
                return;
            }
        }
        if events.contains(PollFlags::POLLHUP) {
            // The port is not open.
            std::thread::sleep(CLOSED_WAIT);
        }
    }
}
