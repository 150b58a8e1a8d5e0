//! The range in which a setting must lie.

/// The value if it lies from `least` to `most`, both included; NaN lies nowhere.
///
/// # Errors
/// If it does not; the sentence names the setting, its value and the range.
pub fn within(name: &'static str, value: f64, least: f64, most: f64) -> Result<f64, OutOfRange> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(OutOfRange {
            name,
            value,
            least,
            most,
        })
    }
}

/// A setting that does not lie in its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}: choose {least} {}", Upper(*most))]
pub struct OutOfRange {
    name: &'static str,
    value: f64,
    least: f64,
    most: f64,
}

/// The end of a range, in words where there is none.
struct Upper(f64);

impl std::fmt::Display for Upper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < f64::MAX {
            write!(f, "to {}", self.0)
        } else {
            write!(f, "or more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn what_lies_outside_is_named_with_its_range() {
        for value in [0.5, 1.0, 2.0] {
            assert_eq!(within("gain", value, 0.5, 2.0), Ok(value));
        }
        for (value, most, sentence) in [
            (3.0, 2.0, "gain is 3: choose 0.5 to 2"),
            (f64::NAN, 2.0, "gain is NaN: choose 0.5 to 2"),
            (0.0, f64::MAX, "gain is 0: choose 0.5 or more"),
        ] {
            let error = within("gain", value, 0.5, most).unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
    }
}
