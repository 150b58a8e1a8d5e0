//! Whether a controller may be driven: because nothing of it is real, because its first motion was made and nothing has changed since, or
//! because its owner answers for it. Everything else is unknown, and unknown means refuse.

use crate::commissioning::record::{FORMAT, Outcome, Record};
use crate::stage::identity::Identity;

/// Difference of limits that is rounding, µm.
const ROUNDING_UM: f64 = 0.5;
/// What to do, the end of every refusal.
const REMEDY: &str =
    "run `hhnet first-motion` on its port, or set stepper_bridge.first_motion to waived if you answer for it";

/// Whether a first motion is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It has to have been made.
    Required,
    /// The owner answers for the stand.
    Waived,
}

/// Where a motion leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Along z alone.
    Height,
    /// Also along x or y.
    Sideways,
    /// To the switches.
    Home,
}

/// What is known of the controller of one port.
#[derive(Clone, Debug)]
pub struct Clearance {
    demand: Demand,
    record: Option<Record>,
    /// Heights that the parameters permit, µm.
    z_range_um: (f64, f64),
}

impl Clearance {
    /// By the record of its port, if there is one, for a stage that is permitted these heights, lowest and highest, µm in the coordinates of
    /// `microscope.z_min`.
    pub fn new(demand: Demand, record: Option<Record>, z_range_um: (f64, f64)) -> Self {
        Self {
            demand,
            record,
            z_range_um,
        }
    }

    /// Whether the controller that says it is `identity` may be moved that way.
    ///
    /// # Errors
    /// One sentence that says why not and what to do.
    pub fn check(&self, identity: Option<&Identity>, way: Way) -> Result<(), String> {
        if self.demand == Demand::Waived || identity.is_some_and(Identity::is_virtual) {
            return Ok(());
        }
        let why = self.objection(identity, way);
        why.map_or(Ok(()), |why| Err(format!("{why}: {REMEDY}")))
    }

    fn objection(&self, identity: Option<&Identity>, way: Way) -> Option<String> {
        let Some(identity) = identity else {
            return Some(
                "the controller does not say which one it is, so that nothing is known of its first motion"
                    .to_owned(),
            );
        };
        let Some(record) = self.record.as_ref().filter(|record| record.format == FORMAT) else {
            return Some("the first motion of this controller has not been made".to_owned());
        };
        if let Some(difference) = identity.difference(&record.controller) {
            return Some(format!(
                "the first motion was made with another controller or other settings, because {difference}"
            ));
        }
        if record.outcome != Outcome::Passed {
            return Some(format!(
                "the first motion of this controller was not right ({})",
                record.reason
            ));
        }
        let (low_um, _) = self.z_range_um;
        let confirmed_um = record.z_min_um.unwrap_or(f64::NAN);
        // Written so that NaN is refused.
        let is_confirmed = low_um >= confirmed_um - ROUNDING_UM;
        if !is_confirmed {
            return Some(format!(
                "microscope.z_min permits {low_um:.0} µm, but the first motion was made for heights from {confirmed_um:.0} µm on"
            ));
        }
        if way == Way::Sideways && !record.x_and_y {
            return Some("x and y were not checked in the first motion of this controller".to_owned());
        }
        None
    }

    /// What does not forbid to drive it but should be changed, one sentence.
    pub fn warning(&self, identity: Option<&Identity>) -> Option<String> {
        let identity = identity.filter(|identity| !identity.is_virtual())?;
        self.check(Some(identity), Way::Height).ok()?;
        if self.demand == Demand::Waived {
            return None;
        }
        let (_, high_um) = self.z_range_um;
        let confirmed_um = self.record.as_ref()?.z_max_um?;
        (high_um > confirmed_um + ROUNDING_UM).then(|| {
            format!(
                "microscope.z_max permits {high_um:.0} µm, but the first motion was made for heights up to {confirmed_um:.0} µm: correct it, or run \
                 `hhnet first-motion` again"
            )
        })
    }

    /// For diagnostics: why it may be driven, or that it may not.
    pub fn told(&self, identity: Option<&Identity>) -> String {
        match (self.demand, identity, &self.record) {
            (_, Some(identity), _) if identity.is_virtual() => "virtual".to_owned(),
            (Demand::Waived, ..) => "waived".to_owned(),
            (Demand::Required, None, _) => "unknown".to_owned(),
            (Demand::Required, Some(_), Some(record)) if self.check(identity, Way::Height).is_ok() => {
                format!("made {}", record.made)
            }
            (Demand::Required, ..) => "required".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commissioning::questions::Answers;
    use crate::stage::identity::VIRTUAL_BUILD;

    fn identity(build: &str, steps: &str) -> Identity {
        Identity {
            firmware: "GRBL 1.1h.20190830".to_owned(),
            build: build.to_owned(),
            options: String::new(),
            settings: [("$102".to_owned(), steps.to_owned())].into(),
        }
    }

    fn record(outcome: Outcome) -> Record {
        Record {
            made: "2026-11-30T17:31:08Z".to_owned(),
            controller: identity("", "20000"),
            outcome,
            reason: "z runs the wrong way".to_owned(),
            x_and_y: true,
            ..Record::new(&Answers {
                z_min_um: Some(-100.0),
                z_max_um: Some(300.0),
                ..Answers::default()
            })
        }
    }

    #[test]
    fn unknown_means_refuse() {
        use Demand::{Required, Waived};
        let passed = || Some(record(Outcome::Passed));
        let z_only = Record {
            x_and_y: false,
            ..record(Outcome::Passed)
        };
        let older = Record {
            format: 0,
            ..record(Outcome::Passed)
        };
        let limitless = Record {
            z_min_um: None,
            ..record(Outcome::Passed)
        };
        let real = || Some(identity("", "20000"));
        let usual = (-100.0, 300.0);
        for (demand, record, range, identity, way, refused) in [
            (Required, passed(), usual, real(), Way::Sideways, None),
            (Required, passed(), (-50.0, 200.0), real(), Way::Height, None),
            (
                Required,
                None,
                usual,
                real(),
                Way::Height,
                Some("has not been made"),
            ),
            (
                Required,
                Some(older),
                usual,
                real(),
                Way::Height,
                Some("has not been made"),
            ),
            (
                Required,
                passed(),
                usual,
                None,
                Way::Height,
                Some("does not say which"),
            ),
            (
                Required,
                passed(),
                usual,
                Some(identity("", "10000")),
                Way::Height,
                Some("$102 was 20000 and is 10000"),
            ),
            (
                Required,
                Some(record(Outcome::Refused)),
                usual,
                real(),
                Way::Height,
                Some("not right (z runs"),
            ),
            (
                Required,
                passed(),
                (-101.0, 300.0),
                real(),
                Way::Height,
                Some("microscope.z_min"),
            ),
            (
                Required,
                passed(),
                (f64::NAN, 300.0),
                real(),
                Way::Height,
                Some("microscope.z_min"),
            ),
            (
                Required,
                Some(limitless),
                usual,
                real(),
                Way::Height,
                Some("microscope.z_min"),
            ),
            (
                Required,
                Some(z_only.clone()),
                usual,
                real(),
                Way::Sideways,
                Some("x and y were not"),
            ),
            (Required, Some(z_only), usual, real(), Way::Height, None),
            (Waived, None, usual, None, Way::Sideways, None),
            (Waived, None, usual, real(), Way::Sideways, None),
            (
                Required,
                None,
                usual,
                Some(identity(VIRTUAL_BUILD, "1")),
                Way::Sideways,
                None,
            ),
        ] {
            let found = Clearance::new(demand, record, range).check(identity.as_ref(), way);
            assert_eq!(found.is_err(), refused.is_some(), "{found:?}, not {refused:?}");
            if let (Err(found), Some(refused)) = (found, refused) {
                assert!(found.contains(refused), "{found}");
                assert!(
                    found.contains("hhnet first-motion") && found.contains("waived"),
                    "{found}"
                );
            }
        }
    }

    #[test]
    fn what_is_permitted_beyond_the_upper_limit_is_warned_of() {
        let warning = |high_um| {
            let clearance =
                Clearance::new(Demand::Required, Some(record(Outcome::Passed)), (-100.0, high_um));
            clearance.warning(Some(&identity("", "20000")))
        };
        assert_eq!(warning(300.0), None);
        assert!(warning(301.0).unwrap().contains("microscope.z_max"));
    }

    #[test]
    fn diagnostics_say_why_it_may_be_driven() {
        let told = |demand, record, identity: Option<Identity>| {
            Clearance::new(demand, record, (-100.0, 300.0)).told(identity.as_ref())
        };
        let real = || Some(identity("", "20000"));
        assert_eq!(
            told(Demand::Required, Some(record(Outcome::Passed)), real()),
            "made 2026-11-30T17:31:08Z"
        );
        assert_eq!(told(Demand::Required, None, real()), "required");
        assert_eq!(
            told(Demand::Required, Some(record(Outcome::Refused)), real()),
            "required"
        );
        assert_eq!(told(Demand::Required, None, None), "unknown");
        assert_eq!(told(Demand::Waived, None, None), "waived");
        assert_eq!(
            told(Demand::Required, None, Some(identity(VIRTUAL_BUILD, ""))),
            "virtual"
        );
    }
}
