//! `hhnet first-motion`: asks and tries, with the least that can go wrong, how a controller moves its stage, and writes down what was found.

mod answers;
mod eyes;
mod virtual_stand;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use hhnet::commissioning::course::{Course, Known, Step};
use hhnet::commissioning::questions::Question;
use hhnet::commissioning::record::{Outcome, Record};
use hhnet::drivers::TimeSource;
use hhnet::drivers::position_store::PositionStore;
use hhnet::drivers::record_store::RecordStore;
use hhnet::drivers::runtime_dir::state_dir;
use hhnet::drivers::serial::{StageDriver, StageHandle, open_port};
use hhnet::protocol;
use hhnet::stage::status::StageState;
use hhnet::units::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

use answers::Answers;
use eyes::Eyes;
use virtual_stand::VirtualStand;

/// Longest time between two looks at the stage.
const TICK: Duration = Duration::from_millis(10);

/// Arguments of `hhnet first-motion`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Serial port of the motion controller, best by its stable name under /dev/serial/by-id: the one that the parameter port of the bridge
    /// names.
    #[arg(
        long,
        required_unless_present = "virtual_stand",
        conflicts_with = "virtual_stand"
    )]
    port: Option<PathBuf>,
    /// Baud rate.
    #[arg(long, default_value_t = 115_200, value_parser = clap::value_parser!(u32).range(1200..=4_000_000))]
    baud: u32,
    /// Try it on the virtual microscope, which answers by itself and of which nothing is written down.
    #[arg(long = "virtual")]
    virtual_stand: bool,
    /// What is wrong with the virtual microscope.
    #[arg(long, requires = "virtual_stand", value_enum, default_value_t = Wrong::Nothing)]
    wrong: Wrong,
    /// Folder into which a camera program writes pictures of what is under the lens: the newest one is looked at while the stage stands.
    #[arg(long, conflicts_with = "virtual_stand")]
    frames: Option<PathBuf>,
    /// Objective in use: 10x0.25, 20x0.40, 40x0.65 or 60x0.85.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// ONNX model that tells heights from pictures; without it the one that ships for the objective.
    #[arg(long)]
    model: Option<PathBuf>,
    /// File of answers, a JSON object: working_distance, at_focus_or_above, z_moves, x_and_y, z_now, z_min, z_max.
    #[arg(long)]
    answers: Option<PathBuf>,
    /// Free distance between lens and slide at focus, for example "0.6 mm".
    #[arg(long)]
    working_distance: Option<String>,
    /// Lowest permitted height of the lens, for example "-100 um".
    #[arg(long, allow_hyphen_values = true)]
    z_min: Option<String>,
    /// Highest permitted height of the lens, for example "500 um".
    #[arg(long, allow_hyphen_values = true)]
    z_max: Option<String>,
    /// Height of the lens now, in the coordinates of both.
    #[arg(long, allow_hyphen_values = true)]
    z_now: Option<String>,
    /// Print the record as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Faults of the virtual microscope.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wrong {
    /// It is sound.
    Nothing,
    /// Up leads to the slide.
    ZReversed,
    /// Everything along z is twice as long.
    ZScale,
    /// The motor of z has no power.
    ZStill,
    /// The motor of x has no power.
    XStill,
}

/// Makes the first motion of a stand and says what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(make(arguments));
    // A thread that waits for a line of the terminal would keep the process.
    runtime.shutdown_background();
    outcome
}

async fn make(arguments: &Arguments) -> Result<()> {
    let clock = clock();
    let stand = match arguments.virtual_stand {
        true => Some(VirtualStand::new(
            &arguments.objective,
            arguments.wrong,
            Arc::clone(&clock),
        )?),
        false => None,
    };
    let port = match (&stand, &arguments.port) {
        (Some(stand), _) => stand.port().to_owned(),
        (None, Some(port)) => port.clone(),
        (None, None) => bail!("name the serial port of the controller with --port"),
    };
    let answers = Answers::new(arguments)?;
    let eyes = Eyes::new(arguments)?;
    let store = match stand {
        Some(_) => None,
        None => Some(RecordStore::of_port(&state_dir()?, &port)),
    };
    // Opening is tried first, so that a port that cannot work is an error and not a reconnection without end.
    drop(open_port(&port, arguments.baud)?);
    let stage = StageDriver::spawn_port(
        port.clone(),
        arguments.baud,
        protocol::hosts(&Course::stage_config())?,
        PositionStore::none(),
        Arc::clone(&clock),
    );
    let mut course = Course::new(eyes.optics());
    let mut trial = Trial {
        stage,
        answers,
        eyes,
        stand,
        clock,
        store,
        has_moved: false,
        told: String::new(),
        is_quiet: arguments.json,
    };
    trial.run(&mut course).await?;
    let Trial {
        stage,
        store,
        has_moved,
        ..
    } = trial;
    let stopped = stage.shutdown().await;
    let record = Record {
        made: date(SystemTime::now()),
        port: port.display().to_string(),
        ..course.record().clone()
    };
    report(&record, store.filter(|_| has_moved).as_ref(), arguments.json)?;
    if let Err(unconfirmed) = stopped {
        bail!("{unconfirmed}; cut the power of the motors if it moves");
    }
    match record.outcome {
        Outcome::Passed => Ok(()),
        Outcome::Refused => bail!("{}", record.reason),
    }
}

/// Says what was found, and writes it down.
fn report(record: &Record, store: Option<&RecordStore>, is_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if is_json {
        writeln!(out, "{:#}", serde_json::to_value(record)?)?;
    } else {
        writeln!(out, "\n{}", record.table())?;
    }
    let Some(store) = store else {
        crate::say(format_args!(
            "nothing is written down: the stand is virtual, or nothing was moved"
        ));
        return Ok(());
    };
    let path = store.path().display();
    store.save(record).with_context(|| {
        format!("the record cannot be written to {path}: free some space and begin again")
    })?;
    crate::say(format_args!("written down in {path}"));
    if record.outcome == Outcome::Passed {
        crate::say(format_args!(
            "the stage may be driven; the lens stands higher than it did, and where that is nobody has been told: call ~/accept_position or ~/home"
        ));
    }
    Ok(())
}

/// What takes part in a first motion.
struct Trial {
    stage: StageHandle,
    answers: Answers,
    eyes: Eyes,
    stand: Option<VirtualStand>,
    clock: TimeSource,
    /// Where it is written down; nowhere for a virtual stand.
    store: Option<RecordStore>,
    has_moved: bool,
    /// What was said last.
    told: String,
    is_quiet: bool,
}

impl Trial {
    /// Goes through a course.
    async fn run(&mut self, course: &mut Course) -> Result<()> {
        let mut signals = Signals::new()?;
        loop {
            let step = self.poll(course);
            self.tell(course, &step);
            let doing = async {
                match step {
                    Step::Wait => tokio::time::sleep(TICK).await,
                    Step::Ask(question) => self.ask(course, question).await?,
                    Step::Look => self.look(course)?,
                    Step::Move { by_um, um_per_s } => {
                        self.begin_motion()?;
                        if let Err(refusal) = self.stage.move_relative(by_um, um_per_s) {
                            course.handle_refusal(&refusal.to_string());
                        }
                    }
                    Step::Stop => self.stage.begin_stop(),
                    Step::Reference(um) => {
                        if let Err(refusal) = self.stage.reference(um.map(Some)) {
                            course.handle_refusal(&refusal.to_string());
                        }
                    }
                    Step::End => return Ok(false),
                }
                Ok::<bool, anyhow::Error>(true)
            };
            let goes_on = tokio::select! {
                biased;
                () = signals.next() => None,
                goes_on = doing => Some(goes_on?),
            };
            match goes_on {
                Some(true) => {}
                Some(false) => return Ok(()),
                None => {
                    self.stage.begin_stop();
                    course
                        .handle_interrupt("it was interrupted, and the stage was told to stop: begin again");
                }
            }
        }
    }

    fn poll(&self, course: &mut Course) -> Step {
        let status = self.stage.status().borrow().clone();
        let identity = self.stage.identity();
        let known = Known {
            status: &status,
            identity: identity.as_ref(),
            stopping_um: &|um_per_s| self.stage.stopping_um(um_per_s),
        };
        course.poll(&known, (self.clock)())
    }

    /// Says what happens now, once.
    fn tell(&mut self, course: &Course, step: &Step) {
        let told = course.told();
        let is_question = matches!(step, Step::Ask(_) | Step::End);
        if !is_question && !told.is_empty() && told != self.told {
            if !self.is_quiet {
                crate::say(format_args!("... {told}"));
            }
            self.told = told;
        }
    }

    async fn ask(&mut self, course: &mut Course, question: Question) -> Result<()> {
        let text = question.text(course.answers());
        if let Some(stand) = &self.stand
            && let Some(answer) = stand.answer(question).filter(|_| !self.answers.has(question))
        {
            crate::say(format_args!("{text}\n> {answer}"));
            return course
                .handle_answer(question, Some(&answer))
                .map_err(anyhow::Error::msg);
        }
        let stage = self.stage.status();
        let answer = self.answers.ask(question, &text).await?;
        // What is answered after contact was lost is not taken for what was asked.
        let is_lost = stage.borrow().state == StageState::Disconnected;
        if is_lost {
            return Ok(());
        }
        if let Err(wrong) = course.handle_answer(question, answer.as_deref()) {
            if !self.answers.has_terminal() {
                bail!("{}: {wrong}", question.key());
            }
            crate::say(format_args!("{wrong}"));
        }
        Ok(())
    }

    /// What was known before does not hold any more.
    fn begin_motion(&mut self) -> Result<()> {
        if let Some(stand) = &self.stand {
            stand.mark();
        }
        if std::mem::replace(&mut self.has_moved, true) {
            return Ok(());
        }
        match &self.store {
            Some(store) => store.remove().with_context(|| {
                format!(
                    "cannot remove the old record {}: make its folder writable",
                    store.path().display()
                )
            }),
            None => Ok(()),
        }
    }

    fn look(&mut self, course: &mut Course) -> Result<()> {
        let sight = tokio::task::block_in_place(|| self.eyes.look(self.stand.as_mut()))?;
        course.handle_sight(sight);
        Ok(())
    }
}

/// What ends a program.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [first, second, third] = kinds.map(signal);
        Ok(Self([first?, second?, third?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn clock() -> TimeSource {
    let start = std::time::Instant::now();
    Arc::new(move || Instant::from_nanos(1_000_000_000) + start.elapsed())
}

/// A time in the form of RFC 3339, to the second.
fn date(time: SystemTime) -> String {
    // A clock that is off by more than 7000 years says nothing.
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

/// A path for sentences.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
