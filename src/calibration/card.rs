//! The report card of an instrument: what was measured, what it is worth, and what to do about it. It is also the file that the nodes read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Version of the format.
pub const FORMAT: u32 = 1;

/// A number and its standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The number.
    pub value: f64,
    /// Its standard deviation, in the same unit.
    pub stddev: f64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Height of the stage in focus, by sharpness, µm.
    FocusHeight,
    /// µm that the network states per µm that the stage went; negative: the sides are the wrong way round.
    ResponseScale,
    /// What the network states where sharpness has focus, µm.
    ResponseOffset,
    /// Numerical aperture of the condenser.
    CondenserNa,
    /// How far the motor turns before the lens follows, µm.
    Backlash,
    /// By how much the stamps of frames are later than where the stage says it was, ms; negative: earlier.
    Latency,
    /// Side of a pixel in the object plane, µm.
    PixelSize,
    /// How far the camera is turned against the stage, degrees.
    CameraRotation,
    /// µm along x of the stage that show as long as one along y.
    StageAspect,
}

impl Quantity {
    /// All of them, in the order of the card.
    pub const ALL: [Self; 9] = [
        Self::FocusHeight,
        Self::ResponseScale,
        Self::ResponseOffset,
        Self::CondenserNa,
        Self::Backlash,
        Self::Latency,
        Self::PixelSize,
        Self::CameraRotation,
        Self::StageAspect,
    ];

    /// As in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FocusHeight => "focus_height",
            Self::ResponseScale => "response_scale",
            Self::ResponseOffset => "response_offset",
            Self::CondenserNa => "condenser_na",
            Self::Backlash => "backlash",
            Self::Latency => "latency",
            Self::PixelSize => "pixel_size",
            Self::CameraRotation => "camera_rotation",
            Self::StageAspect => "stage_aspect",
        }
    }

    /// Its unit; empty for a bare number.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::FocusHeight | Self::ResponseOffset | Self::Backlash | Self::PixelSize => "µm",
            Self::Latency => "ms",
            Self::CameraRotation => "°",
            Self::ResponseScale | Self::CondenserNa | Self::StageAspect => "",
        }
    }

    /// Decimals worth to print.
    const fn decimals(self) -> usize {
        match self {
            Self::PixelSize => 5,
            Self::StageAspect => 4,
            Self::ResponseScale | Self::CondenserNa => 3,
            Self::FocusHeight | Self::ResponseOffset | Self::Backlash | Self::CameraRotation => 2,
            Self::Latency => 1,
        }
    }
}

/// What a value is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It can be used.
    Good,
    /// It was measured, and the note says why not to rely on it. No node uses it.
    Doubtful,
    /// The instrument contradicts itself; the note says how, and what to change.
    Wrong,
    /// It was not measured; the note says why.
    Missing,
}

impl Verdict {
    /// As on the card.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Doubtful => "doubtful",
            Self::Wrong => "WRONG",
            Self::Missing => "missing",
        }
    }
}

/// One quantity on the card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured; none if nothing was.
    pub value: Option<f64>,
    /// Its standard deviation.
    pub stddev: Option<f64>,
    /// Unit of both; empty for a bare number.
    pub unit: String,
    /// What it is worth.
    pub verdict: Verdict,
    /// What there is to say of it, a sentence.
    pub note: String,
    /// When it was measured, RFC 3339, UTC.
    pub made: String,
    /// Model whose estimates it depends on; empty where no network had a say.
    #[serde(default)]
    pub model: String,
}

/// What was measured of an instrument under one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of the format, 1.
    pub format: u32,
    /// Objective it was measured under, for example `40x0.65`.
    pub objective: String,
    /// What was measured, by its name.
    pub rows: BTreeMap<Quantity, Row>,
}

/// A file that is no card, or another's.
#[derive(Debug, thiserror::Error)]
pub enum BadCard {
    /// No JSON, or not of this form.
    #[error("it is not the card of a calibration ({0})")]
    Form(#[from] serde_json::Error),
    /// From another version.
    #[error("its format is {0}, and this version reads {FORMAT}")]
    Format(u32),
    /// A number that cannot be.
    #[error("its {} is {value}, which no instrument has", quantity.name())]
    Impossible {
        /// What.
        quantity: Quantity,
        /// As it stands there.
        value: f64,
    },
}

/// A card of another objective.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was measured under objective {theirs}, not {ours}: give each objective a file of its own")]
pub struct OtherObjective {
    theirs: String,
    ours: String,
}

impl Card {
    /// An empty one.
    pub fn new(objective: &str) -> Self {
        Self {
            format: FORMAT,
            objective: objective.to_owned(),
            rows: BTreeMap::new(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is of another form or format, or holds numbers that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadCard> {
        let card: Self = serde_json::from_slice(bytes)?;
        if card.format != FORMAT {
            return Err(BadCard::Format(card.format));
        }
        for (&quantity, row) in &card.rows {
            if let Some(value) = row.value.filter(|value| !is_possible(quantity, *value)) {
                return Err(BadCard::Impossible { quantity, value });
            }
        }
        Ok(card)
    }

    /// As in the file.
    pub fn to_json(&self) -> String {
        // Names, numbers and text: nothing in it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Puts a row in the place of an older one; what was not measured now leaves an older measurement as it is.
    pub fn take(&mut self, quantity: Quantity, row: Row) {
        let is_missing = row.verdict == Verdict::Missing;
        let known = self
            .rows
            .get(&quantity)
            .is_some_and(|old| old.verdict != Verdict::Missing);
        if !(is_missing && known) {
            self.rows.insert(quantity, row);
        }
    }

    /// Refuses a card of another objective.
    ///
    /// # Errors
    /// If it is one.
    pub fn check_objective(&self, objective: &str) -> Result<(), OtherObjective> {
        if self.objective == objective {
            return Ok(());
        }
        Err(OtherObjective {
            theirs: self.objective.clone(),
            ours: objective.to_owned(),
        })
    }

    /// What the nodes use: a value that is good.
    pub fn good(&self, quantity: Quantity) -> Option<f64> {
        let row = self.rows.get(&quantity)?;
        row.value.filter(|_| row.verdict == Verdict::Good)
    }

    /// The card as a table of Markdown, which reads as plain text too.
    pub fn table(&self) -> String {
        let mut lines =
            vec![["quantity", "value", "±", "unit", "verdict", "what to know"].map(str::to_owned)];
        for (quantity, row) in &self.rows {
            let number = |number: Option<f64>| {
                number.map_or("–".to_owned(), |number| {
                    format!("{number:.*}", quantity.decimals())
                })
            };
            lines.push([
                quantity.name().replace('_', " "),
                number(row.value),
                number(row.stddev),
                row.unit.clone(),
                row.verdict.name().to_owned(),
                row.note.clone(),
            ]);
        }
        let widths: [usize; 5] = std::array::from_fn(|column| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0)
        });
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(widths) {
                // Writing to a string does not fail.
                _ = write!(text, "| {cell:width$} ");
            }
            _ = writeln!(text, "| {} |", line[5]);
            if at == 0 {
                widths
                    .iter()
                    .for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
                text += "|---|\n";
            }
        }
        text
    }
}

/// Whether an instrument may have this.
fn is_possible(quantity: Quantity, value: f64) -> bool {
    let range = match quantity {
        Quantity::FocusHeight => -1e6..=1e6,
        Quantity::ResponseScale => -10.0..=10.0,
        Quantity::ResponseOffset => -1e3..=1e3,
        Quantity::CondenserNa => 0.05..=1.5,
        Quantity::Backlash => -10.0..=1000.0,
        Quantity::Latency => -500.0..=500.0,
        Quantity::PixelSize => 1e-3..=100.0,
        Quantity::CameraRotation => -180.0..=180.0,
        Quantity::StageAspect => 0.1..=10.0,
    };
    range.contains(&value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn row(value: f64, verdict: Verdict) -> Row {
        Row {
            value: (verdict != Verdict::Missing).then_some(value),
            stddev: (verdict != Verdict::Missing).then_some(0.1),
            unit: "µm".to_owned(),
            verdict,
            note: "as it is".to_owned(),
            made: "2026-01-01T00:00:00Z".to_owned(),
            model: String::new(),
        }
    }

    #[test]
    fn names_are_those_of_the_file() {
        for quantity in Quantity::ALL {
            assert_eq!(serde_json::to_value(quantity).unwrap(), quantity.name());
        }
    }

    #[test]
    fn a_card_survives_its_file_and_only_what_is_good_is_used() {
        let mut card = Card::new("40x0.65");
        card.take(Quantity::Backlash, row(2.0, Verdict::Good));
        card.take(Quantity::PixelSize, row(0.08, Verdict::Doubtful));
        card.take(Quantity::Backlash, row(0.0, Verdict::Missing));
        card.take(Quantity::CondenserNa, row(0.0, Verdict::Missing));
        let read = Card::parse(card.to_json().as_bytes()).unwrap();
        assert_eq!(read, card);
        assert_eq!(read.good(Quantity::Backlash), Some(2.0));
        assert_eq!(read.good(Quantity::PixelSize), None);
        assert_eq!(read.good(Quantity::FocusHeight), None);
        assert_eq!(read.rows[&Quantity::CondenserNa].verdict, Verdict::Missing);
        let table = read.table();
        assert!(table.contains("| backlash     | 2.00    | 0.10"), "{table}");
        assert!(read.check_objective("40x0.65").is_ok());
        let message = read.check_objective("10x0.25").unwrap_err().to_string();
        assert!(message.contains("40x0.65, not 10x0.25"), "{message}");
    }

    #[test]
    fn what_is_no_card_is_refused() {
        let mut card = Card::new("40x0.65");
        card.take(Quantity::PixelSize, row(0.0, Verdict::Good));
        for (text, words) in [
            ("{}".to_owned(), "not the card"),
            (
                card.to_json().replace("\"format\": 1", "\"format\": 7"),
                "format is 7",
            ),
            (card.to_json(), "pixel_size is 0"),
        ] {
            let message = Card::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
