//! What a first motion found: a row for each check, an outcome, and the record of it that is kept.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::commissioning::questions::{Answers, Direction, Mover};
use crate::stage::identity::Identity;

/// Layout of the record.
pub const FORMAT: u32 = 1;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it has to be.
    Right,
    /// Otherwise: the controller may not be driven.
    Wrong,
    /// There was nothing to check it by.
    NotChecked,
}

impl Verdict {
    /// The words for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "WRONG",
            Self::NotChecked => "not checked",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was checked.
    pub check: String,
    /// What was asked for.
    pub asked: String,
    /// What came of it.
    pub measured: String,
    /// What that is worth.
    pub verdict: Verdict,
    /// Why, or what to do; empty if there is nothing to say.
    pub note: String,
}

/// Whether a controller may be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every check that has to be right is.
    Passed,
    /// Not.
    Refused,
}

/// A first motion, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Layout, [`FORMAT`].
    pub format: u32,
    /// When it ended, RFC 3339, UTC.
    pub made: String,
    /// The port.
    pub port: String,
    /// The controller.
    pub controller: Identity,
    /// Whether it may be driven.
    pub outcome: Outcome,
    /// Why not; empty if it may.
    pub reason: String,
    /// Lowest height that was confirmed, µm.
    pub z_min_um: Option<f64>,
    /// Highest height that was confirmed, µm.
    pub z_max_um: Option<f64>,
    /// Free distance between lens and slide at focus, µm.
    pub working_distance_um: Option<f64>,
    /// What the z motor moves.
    pub z_moves: Option<Mover>,
    /// Whether x and y were found right; false also if they have no motors.
    pub x_and_y: bool,
    /// Where the slide went when x and y counted up, as a person saw it.
    pub directions: [Option<Direction>; 2],
    /// Where it went in the picture, per µm of x and of y, µm right and down.
    pub in_picture: [Option<[f64; 2]>; 2],
    /// Every check.
    pub checks: Vec<Row>,
}

impl Record {
    /// Of a course that has not begun.
    pub fn new(answers: &Answers) -> Self {
        Self {
            format: FORMAT,
            made: String::new(),
            port: String::new(),
            controller: Identity::default(),
            outcome: Outcome::Refused,
            reason: "the first motion did not end".to_owned(),
            z_min_um: answers.z_min_um,
            z_max_um: answers.z_max_um,
            working_distance_um: answers.working_distance_um,
            z_moves: answers.mover,
            x_and_y: false,
            directions: [None; 2],
            in_picture: [None; 2],
            checks: Vec::new(),
        }
    }

    /// The checks as a table of text, one a line.
    pub fn table(&self) -> String {
        let titles = ["check", "asked", "measured", "verdict", ""].map(str::to_owned);
        let rows = self.checks.iter().map(|row| {
            [
                row.check.clone(),
                row.asked.clone(),
                row.measured.clone(),
                row.verdict.name().to_owned(),
                row.note.clone(),
            ]
        });
        let rows: Vec<[String; 5]> = std::iter::once(titles).chain(rows).collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 4] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                // Writing to a String cannot fail.
                _ = write!(line, "{cell:width$}  ");
            }
            text += format!("{line}{}", row[4]).trim_end();
            text.push('\n');
        }
        text
    }
}
