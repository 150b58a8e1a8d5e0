//! The file of an instrument's calibration: its [`Card`] as JSON, written as a whole.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::flat_field_file::date;
use super::whole_file::{read_at_most, write_bytes};
use crate::calibration::card::{BadCard, Card, OtherObjective};
use crate::calibration::report::Rows;

/// Largest file that is read, bytes.
const MOST_BYTES: u64 = 1_000_000;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationFileError {
    /// It cannot be read.
    #[error("the calibration {} cannot be read ({reason}): correct its name and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It is no card.
    #[error("{} is no calibration that can be used: {reason}; remove it, and calibrate again", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: BadCard,
    },
    /// It belongs to another objective.
    #[error("the calibration {} does not belong here: {reason}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        reason: OtherObjective,
    },
    /// It cannot be written.
    #[error("the calibration cannot be written to {} ({reason}): name a place that can be written to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
}

/// The time now as it stands in a card: RFC 3339, UTC.
pub fn now() -> String {
    date(SystemTime::now())
}

/// Reads the card of an instrument under an objective; none if the file is not there.
///
/// # Errors
/// If it cannot be read, is no card, or belongs to another objective.
pub fn read(path: &Path, objective: &str) -> Result<Option<Card>, CalibrationFileError> {
    let bytes = match read_at_most(path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => {
            let path = path.to_owned();
            return Err(CalibrationFileError::Read { path, reason });
        }
    };
    let card = Card::parse(&bytes).map_err(|reason| CalibrationFileError::Bad {
        path: path.to_owned(),
        reason,
    })?;
    card.check_objective(objective)
        .map_err(|reason| CalibrationFileError::Other {
            path: path.to_owned(),
            reason,
        })?;
    Ok(Some(card))
}

/// Writes a card.
///
/// # Errors
/// If the disk does not take it; what stood there before stays.
pub fn write(path: &Path, card: &Card) -> Result<(), CalibrationFileError> {
    write_bytes(path, card.to_json()).map_err(|reason| CalibrationFileError::Write {
        path: path.to_owned(),
        reason,
    })
}

/// Puts rows into the file in the place of older ones, and returns the card that stands there now. What was not measured now leaves an older
/// measurement as it is.
///
/// # Errors
/// As [`read`] and [`write`]; the file stays as it was.
pub fn update(path: &Path, objective: &str, rows: Rows) -> Result<Card, CalibrationFileError> {
    let mut card = read(path, objective)?.unwrap_or_else(|| Card::new(objective));
    for (quantity, row) in rows {
        card.take(quantity, row);
    }
    write(path, &card)?;
    Ok(card)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::calibration::card::{Quantity, Row, Verdict};

    fn row(value: f64) -> Row {
        Row {
            value: Some(value),
            stddev: Some(0.1),
            unit: "µm".to_owned(),
            verdict: Verdict::Good,
            note: String::new(),
            made: now(),
            model: String::new(),
        }
    }

    #[test]
    fn rows_are_put_beside_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instrument.json");
        assert_eq!(read(&path, "40x0.65").unwrap(), None);
        update(&path, "40x0.65", vec![(Quantity::Backlash, row(2.0))]).unwrap();
        update(&path, "40x0.65", vec![(Quantity::PixelSize, row(0.08))]).unwrap();
        let card = update(&path, "40x0.65", vec![(Quantity::Backlash, row(2.5))]).unwrap();
        assert_eq!(read(&path, "40x0.65").unwrap().unwrap(), card);
        assert_eq!(card.good(Quantity::Backlash), Some(2.5));
        assert_eq!(card.good(Quantity::PixelSize), Some(0.08));
        assert!(card.rows[&Quantity::Backlash].made.ends_with('Z'));
    }

    #[test]
    fn a_file_of_another_objective_or_of_nothing_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instrument.json");
        update(&path, "40x0.65", vec![(Quantity::Backlash, row(2.0))]).unwrap();
        let before = std::fs::read(&path).unwrap();
        let message = update(&path, "10x0.25", Vec::new()).unwrap_err().to_string();
        assert!(message.contains("40x0.65, not 10x0.25"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "no card").unwrap();
        let message = read(&path, "40x0.65").unwrap_err().to_string();
        assert!(
            message.contains("is no calibration that can be used"),
            "{message}"
        );
        let nowhere = folder.path().join("no/folder.json");
        let message = write(&nowhere, &Card::new("40x0.65")).unwrap_err().to_string();
        assert!(message.contains("name a place"), "{message}");
    }
}
