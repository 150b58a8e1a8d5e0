//! Who answers: arguments, a file, a person at a terminal.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use hhnet::commissioning::questions::{BEFORE, Question};
use hhnet::drivers::whole_file::read_at_most;
use tokio::sync::mpsc;

use super::{Arguments, shown};

/// Largest file of answers, bytes.
const MOST_BYTES: u64 = 64 * 1024;

/// Answers given beforehand, and a terminal if there is one.
pub(super) struct Answers {
    given: BTreeMap<String, String>,
    lines: Option<mpsc::Receiver<String>>,
    has_terminal: bool,
}

impl Answers {
    /// # Errors
    /// A file that cannot be read, an answer to what was not asked, or too little to begin with and nobody to ask.
    pub(super) fn new(arguments: &Arguments) -> Result<Self> {
        let mut given = match &arguments.answers {
            None => BTreeMap::new(),
            Some(path) => {
                let bytes =
                    read_at_most(path, MOST_BYTES).with_context(|| format!("cannot read {}", shown(path)))?;
                serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "{} is no file of answers: write an object of texts, for example {{\"working_distance\": \"0.6 mm\"}}",
                        shown(path)
                    )
                })?
            }
        };
        for (question, answer) in [
            (Question::WorkingDistance, &arguments.working_distance),
            (Question::ZMin, &arguments.z_min),
            (Question::ZMax, &arguments.z_max),
            (Question::ZNow, &arguments.z_now),
        ] {
            if let Some(answer) = answer {
                given.insert(question.key().to_owned(), answer.clone());
            }
        }
        for key in given.keys() {
            let question = Question::ALL.into_iter().find(|question| question.key() == key);
            match question {
                None => bail!("'{key}' is none of the questions: correct the file of answers"),
                Some(question) => ensure!(
                    !question.is_by_eye(),
                    "'{key}' cannot be answered before the stage has moved: take it out of the file of answers"
                ),
            }
        }
        let has_terminal = std::io::stdin().is_terminal();
        let missing: Vec<&str> = BEFORE
            .into_iter()
            .filter(|question| question.usual().is_none() && !given.contains_key(question.key()))
            .map(Question::key)
            .collect();
        ensure!(
            has_terminal || arguments.virtual_stand || missing.is_empty(),
            "there is no terminal to ask at, and these are not answered: {}; run it in a terminal, or give them with --answers",
            missing.join(", ")
        );
        ensure!(
            has_terminal || arguments.virtual_stand || arguments.frames.is_some(),
            "there is no terminal to ask at and no camera, so nobody would see where the lens goes: run it in a terminal, or give --frames"
        );
        Ok(Self {
            given,
            lines: None,
            has_terminal,
        })
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// Whether this was answered beforehand.
    pub(super) fn has(&self, question: Question) -> bool {
        self.given.contains_key(question.key())
    }

    /// The answer; None if nobody is there to give one.
    ///
    /// # Errors
    /// A terminal that is gone.
    pub(super) async fn ask(&mut self, question: Question, text: &str) -> Result<Option<String>> {
        // One that was wrong is not given again.
        if let Some(answer) = self.given.remove(question.key()) {
            crate::say(format_args!("{text}\n> {answer}"));
            return Ok(Some(answer));
        }
        if !self.has_terminal {
            return Ok(question.usual().map(str::to_owned));
        }
        let usual = question
            .usual()
            .map_or(String::new(), |usual| format!(" [{usual}]"));
        // The terminal may be gone, which shows in the answer.
        drop(write!(std::io::stderr(), "{text}{usual}\n> "));
        let lines = self.lines.get_or_insert_with(read_lines);
        // What was typed before it was asked is no answer to what is to be seen now.
        while question.is_by_eye() && lines.try_recv().is_ok() {}
        let answer = lines.recv().await;
        answer
            .map(Some)
            .context("the terminal is gone, and nobody answers")
    }
}

/// The lines of standard input: reading one cannot be broken off, so a thread waits for it.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
