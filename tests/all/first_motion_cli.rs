//! `hhnet first-motion` as people use it: on the virtual microscope, at a terminal, without one, and broken off.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use hhnet::commissioning::clearance::{Clearance, Demand, Way};
use hhnet::commissioning::record::{Outcome, Record, Verdict};
use hhnet::drivers::TimeSource;
use hhnet::drivers::emulated_port::{EmulatedPort, EmulatedStage};
use hhnet::drivers::record_store::RecordStore;
use hhnet::sim::grbl::EmulatorConfig;
use hhnet::stage::Axis;
use hhnet::units::Instant;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longest wait for a line; a busy machine needs some.
const LIMIT: Duration = Duration::from_secs(60);

fn hhnet(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hhnet"));
    command.arg("first-motion").env("XDG_STATE_HOME", state);
    command
}

fn virtual_stand(more: &[&str]) -> (Output, Record) {
    let state = tempfile::tempdir().unwrap();
    let mut command = hhnet(state.path());
    let output = command
        .args(["--virtual", "--json"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(
        !state.path().join("hhnet").exists(),
        "a virtual stand is not written down"
    );
    (output, record)
}

#[test]
fn the_virtual_microscope_passes_with_its_pictures() {
    let (output, record) = virtual_stand(&[]);
    println!("{}\n{}", String::from_utf8_lossy(&output.stderr), record.table());
    assert!(output.status.success(), "{record:#?}");
    assert_eq!(record.outcome, Outcome::Passed);
    assert!(record.controller.is_virtual() && record.x_and_y);
    let verdict = |check: &str| {
        record
            .checks
            .iter()
            .find(|row| row.check == check)
            .unwrap()
            .verdict
    };
    for check in [
        "x: by the picture",
        "y: by the picture",
        "stop",
        "z up: direction by eye",
    ] {
        assert_eq!(verdict(check), Verdict::Right, "{check}: {record:#?}");
    }
    // Without ONNX Runtime there is nothing that tells heights, and the record says so.
    let expected = match std::env::var_os("ORT_DYLIB_PATH") {
        Some(_) => Verdict::Right,
        None => Verdict::NotChecked,
    };
    for check in ["z up: direction by the picture", "z up: scale by the picture"] {
        assert_eq!(verdict(check), expected, "{check}: {record:#?}");
    }
}

#[test]
fn what_is_wrong_with_a_virtual_microscope_is_found() {
    for (wrong, named) in [
        ("z-reversed", "$3=4"),
        ("x-still", "x by the picture: it hardly moves"),
    ] {
        let (output, record) = virtual_stand(&["--wrong", wrong]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{wrong}: {record:#?}");
        assert_eq!(record.outcome, Outcome::Refused);
        let last = said.trim_end().lines().last().unwrap();
        assert!(
            last.starts_with("error: ") && last.contains(named),
            "{wrong}: {said}"
        );
    }
}

/// A stage that is not virtual, as far as its controller says, behind a port.
struct Stand {
    folder: TempDir,
    port: EmulatedPort,
    clock: TimeSource,
}

impl Stand {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = std::time::Instant::now();
        let clock: TimeSource = Arc::new(move || Instant::from_nanos(1_000_000_000) + start.elapsed());
        let config = EmulatorConfig {
            build: "LAB 7".to_owned(),
            ..EmulatorConfig::default()
        };
        let port = EmulatedPort::open(&folder.path().join("stage"), config, Arc::clone(&clock)).unwrap();
        Self { folder, port, clock }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn command(&self) -> Command {
        std::fs::create_dir_all(self.state()).unwrap();
        let mut command = hhnet(&self.state());
        command.arg("--port").arg(self.port.link());
        command
    }

    fn store(&self) -> RecordStore {
        RecordStore::of_port(&self.state().join("hhnet"), self.port.link())
    }

    fn stage(&self) -> &EmulatedStage {
        self.port.stage()
    }

    fn z_um(&self) -> f64 {
        self.port.position_um(Axis::Z, (self.clock)())
    }
}

/// The program at a terminal.
struct Session {
    child: Child,
    terminal: File,
    said: mpsc::Receiver<Vec<u8>>,
    /// What was said and not waited for yet, and all of it.
    unread: String,
    all: String,
}

impl Session {
    fn start(command: &mut Command) -> Self {
        let pair = openpty(None, None).unwrap();
        let mut child = command
            .stdin(Stdio::from(pair.slave))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(count) = stderr.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            terminal: File::from(pair.master),
            said,
            unread: String::new(),
            all: String::new(),
        }
    }

    fn wait_for(&mut self, text: &str) {
        loop {
            if let Some(at) = self.unread.find(text) {
                self.unread.drain(..at + text.len());
                return;
            }
            let bytes = self
                .said
                .recv_timeout(LIMIT)
                .unwrap_or_else(|error| panic!("{error}: waited in vain for '{text}' in {}", self.all));
            let news = String::from_utf8_lossy(&bytes);
            self.unread += &news;
            self.all += &news;
        }
    }

    fn answer(&mut self, question: &str, answer: &str) {
        self.wait_for(question);
        self.wait_for("> ");
        writeln!(self.terminal, "{answer}").unwrap();
    }

    /// Everything that is asked before the stage moves.
    fn begin(&mut self) {
        self.answer("Working distance", "0.6 mm");
        self.answer("at focus now", "yes");
        self.answer("z motor move", "lens");
        self.answer("x and y have motors", "yes");
        self.answer("Height of the lens now", "");
        self.answer("z_min", "-100 um");
        self.answer("z_max", "300 um");
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        while let Ok(bytes) = self.said.recv_timeout(LIMIT) {
            self.all += &String::from_utf8_lossy(&bytes);
        }
        (status, self.all)
    }
}

#[test]
fn a_person_at_a_terminal_is_asked_one_question_at_a_time() {
    let stand = Stand::new();
    let mut session = Session::start(&mut stand.command());
    session.answer("Working distance", "0.6");
    session.wait_for("has no unit");
    session.begin();
    session.answer("Did the lens rise", "apart");
    session.answer("x counted up", "right");
    session.answer("y counted up", "far");
    let (status, said) = session.end();
    assert!(status.success(), "{said}");
    let record = stand
        .store()
        .load()
        .unwrap_or_else(|| panic!("no record: {said}"));
    assert_eq!(record.outcome, Outcome::Passed);
    assert_eq!(record.controller.build, "LAB 7");
    assert!(
        record.made.starts_with("20") && record.made.ends_with('Z'),
        "{}",
        record.made
    );
    let cleared = Clearance::new(Demand::Required, Some(record.clone()), (-100.0, 300.0));
    assert_eq!(cleared.check(Some(&record.controller), Way::Sideways), Ok(()));
    assert!(stand.z_um() > 100.0, "the lens stays up: {}", stand.z_um());
}

#[test]
fn it_ends_at_once_when_it_is_interrupted() {
    let stand = Stand::new();
    stand.store().remove().unwrap();
    let mut session = Session::start(&mut stand.command());
    session.begin();
    session.wait_for("z goes +120 um");
    let pid = Pid::from_raw(i32::try_from(session.child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let (status, said) = session.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let record = stand.store().load().unwrap();
    assert_eq!(record.outcome, Outcome::Refused);
    assert!(stand.stage().motion_end() <= (stand.clock)(), "the stage stands");
    let z_um = stand.z_um();
    assert!(z_um < 130.0, "it did not go on: {z_um}");
}

#[test]
fn nothing_moves_where_nobody_can_answer() {
    let stand = Stand::new();
    let refused = |more: &[&str], named: &str| {
        let output = stand.command().args(more).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(named) && said.trim_end().lines().count() == 1,
            "{said}"
        );
        assert_eq!(stand.z_um(), 0.0);
    };
    refused(&[], "there is no terminal to ask at");
    let write = |text: &str| {
        let path = stand.folder.path().join("answers.json");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let whole = r#"{"working_distance": "0.6 mm", "at_focus_or_above": "yes", "z_moves": "lens", "x_and_y": "no", "z_min": "-100 um",
        "z_max": "300 um"}"#;
    refused(&["--answers", &write(whole)], "nobody would see");
    refused(&["--answers", &write("{")], "no file of answers");
    refused(
        &["--answers", &write(r#"{"colour": "red"}"#)],
        "none of the questions",
    );
    refused(
        &["--answers", &write(r#"{"apart": "apart"}"#)],
        "before the stage has moved",
    );
    refused(&["--answers", "/nowhere"], "/nowhere");
}
