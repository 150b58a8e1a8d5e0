//! The calibration in force: read from its file, and again when the file is replaced.

use std::path::{Path, PathBuf};

use super::microscope::MicroscopeParameters;
use crate::calibration::card::{Card, Quantity};
use crate::drivers::calibration_file::read;
use crate::drivers::whole_file::{Version, version};

/// What was measured of the instrument, for one node.
#[derive(Default)]
pub(super) struct CalibrationInForce {
    path: PathBuf,
    objective: String,
    /// Which file was read.
    version: Option<Version>,
    state: State,
}

/// What there is to use.
#[derive(Default)]
enum State {
    /// No file is named.
    #[default]
    None,
    /// The file is not there yet.
    Absent,
    /// It was read.
    Ready(Card),
    /// It cannot be used; why.
    Unusable(String),
}

impl CalibrationInForce {
    /// Reads the file that `path` names, if it is another than the one that was read; whether anything has changed. An empty path names none.
    pub(super) fn refresh(&mut self, path: &str, objective: &str) -> bool {
        let path = Path::new(path);
        let version = version(path);
        if (path, objective, version) == (&self.path, &self.objective, self.version) {
            return false;
        }
        (self.path, self.objective, self.version) = (path.to_owned(), objective.to_owned(), version);
        self.state = if path.as_os_str().is_empty() {
            State::None
        } else {
            match read(path, objective) {
                Ok(Some(card)) => State::Ready(card),
                Ok(None) => State::Absent,
                Err(error) => State::Unusable(error.to_string()),
            }
        };
        true
    }

    /// A value that is good, in the unit of its quantity.
    pub(super) fn good(&self, quantity: Quantity) -> Option<f64> {
        match &self.state {
            State::Ready(card) => card.good(quantity),
            State::None | State::Absent | State::Unusable(_) => None,
        }
    }

    /// Why the file cannot be used.
    pub(super) fn error(&self) -> Option<&str> {
        match &self.state {
            State::Unusable(reason) => Some(reason),
            State::None | State::Absent | State::Ready(_) => None,
        }
    }

    /// Fills in what the parameters leave open.
    pub(super) fn complete(&self, microscope: &mut MicroscopeParameters) {
        let fill = |parameter: &mut f64, quantity: Quantity, unit: f64| {
            if *parameter == 0.0 {
                *parameter = self.good(quantity).map_or(0.0, |value| unit * value);
            }
        };
        fill(&mut microscope.condenser_na, Quantity::CondenserNa, 1.0);
        fill(&mut microscope.pixel_size, Quantity::PixelSize, 1e-6);
    }

    /// What there is to say of it.
    pub(super) fn describe(&self) -> String {
        let path = self.path.display();
        match &self.state {
            State::None => "none".to_owned(),
            State::Absent => format!("none yet: {path} is not there, call the action calibrate"),
            State::Ready(card) => {
                let good = card
                    .rows
                    .keys()
                    .filter(|quantity| card.good(**quantity).is_some());
                let names: Vec<&str> = good.map(|quantity| quantity.name()).collect();
                format!("{} ({path})", names.join(", "))
            }
            State::Unusable(reason) => reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::card::{Row, Verdict};
    use crate::drivers::calibration_file::update;

    fn row(value: f64, verdict: Verdict) -> Row {
        Row {
            value: Some(value),
            stddev: Some(0.01),
            unit: String::new(),
            verdict,
            note: String::new(),
            made: String::new(),
            model: String::new(),
        }
    }

    #[test]
    fn what_is_good_fills_in_what_no_parameter_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instrument.json");
        let name = path.to_str().unwrap();
        let mut calibration = CalibrationInForce::default();
        assert!(!calibration.refresh("", "") && calibration.describe() == "none");
        assert!(calibration.refresh(name, "40x0.65") && calibration.describe().contains("is not there"));

        let rows = vec![
            (Quantity::CondenserNa, row(0.45, Verdict::Good)),
            (Quantity::PixelSize, row(0.09, Verdict::Doubtful)),
        ];
        update(&path, "40x0.65", rows).unwrap();
        assert!(calibration.refresh(name, "40x0.65") && !calibration.refresh(name, "40x0.65"));
        let mut microscope = MicroscopeParameters::default();
        calibration.complete(&mut microscope);
        assert_eq!((microscope.condenser_na, microscope.pixel_size), (0.45, 0.0));
        microscope.condenser_na = 0.3;
        calibration.complete(&mut microscope);
        assert_eq!(microscope.condenser_na, 0.3);

        assert!(calibration.refresh(name, "10x0.25") && calibration.good(Quantity::CondenserNa).is_none());
        let reason = calibration.error().unwrap();
        assert!(reason.contains("40x0.65, not 10x0.25"), "{reason}");
    }
}
