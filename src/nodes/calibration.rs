//! The calibration in force: read from its file, and again when the file is replaced.

use std::time::Duration;

use super::in_force::InForce;
use super::microscope::MicroscopeParameters;
use crate::calibration::card::{Card, Quantity};
use crate::drivers::calibration_file::read;
use crate::units::Instant;

/// What was measured of the instrument, for one node.
#[derive(Default)]
pub(super) struct CalibrationInForce(InForce<Card>);

impl CalibrationInForce {
    /// Reads the file that `path` names, if it is another than the one that was read; whether anything has changed. An empty path names none.
    pub(super) fn refresh(&mut self, path: &str, objective: &str) -> bool {
        self.0
            .refresh(path, objective, |path, objective| Ok(read(path, objective)?))
    }

    /// A value that is good, in the unit of its quantity.
    pub(super) fn good(&self, quantity: Quantity) -> Option<f64> {
        self.0.ready().and_then(|card| card.good(quantity))
    }

    /// When a frame of this stamp was exposed, by the clock of the stage.
    pub(super) fn exposed(&self, stamp: Instant) -> Instant {
        let late_ms = self.good(Quantity::Latency).unwrap_or(0.0);
        let apart = Duration::from_secs_f64(1e-3 * late_ms.abs());
        if late_ms > 0.0 {
            stamp.before(apart)
        } else {
            stamp + apart
        }
    }

    /// Why the file cannot be used.
    pub(super) fn error(&self) -> Option<&str> {
        self.0.error()
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
        self.0.describe(|card| {
            let quantities = card.rows.keys().copied();
            let good = quantities.filter(|&quantity| card.good(quantity).is_some());
            good.map(Quantity::name).collect::<Vec<_>>().join(", ")
        })
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
