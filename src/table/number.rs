//! Numbers with and without a unit, and the decimal mark of a table.

use super::{Separator, TableError, shown};

/// A unit of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// nm.
    Nanometre,
    /// µm.
    Micrometre,
    /// mm.
    Millimetre,
    /// m.
    Metre,
}

impl Unit {
    /// The unit of a text in lower or upper case, with either µ or `u`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_lowercase().replace(['µ', 'μ'], "u").as_str() {
            "nm" | "nanometer" | "nanometers" | "nanometre" | "nanometres" => Self::Nanometre,
            "um" | "micron" | "microns" | "micrometer" | "micrometers" | "micrometre" | "micrometres" => {
                Self::Micrometre
            }
            "mm" | "millimeter" | "millimeters" | "millimetre" | "millimetres" => Self::Millimetre,
            "m" | "meter" | "meters" | "metre" | "metres" => Self::Metre,
            _ => return None,
        })
    }

    /// µm in one of it.
    pub const fn um(self) -> f64 {
        match self {
            Self::Nanometre => 1e-3,
            Self::Micrometre => 1.0,
            Self::Millimetre => 1e3,
            Self::Metre => 1e6,
        }
    }
}

/// Reads the numbers of one table; remembers its decimal mark, which must not change.
#[derive(Clone, Debug)]
pub struct Numbers {
    separator: Separator,
    /// The first mark that was met, and its line.
    mark: Option<(char, usize)>,
}

impl Numbers {
    /// For a table whose cells are apart by `separator`.
    pub const fn new(separator: Separator) -> Self {
        Self {
            separator,
            mark: None,
        }
    }

    /// A length in µm. `stated` is the unit of the column's header; a unit in the cell must agree with it.
    ///
    /// # Errors
    /// If the cell holds no finite number, the decimal mark is in doubt, or no unit or two units are stated.
    pub fn length_um(
        &mut self,
        name: &str,
        cell: &str,
        stated: Option<Unit>,
        line: usize,
    ) -> Result<f64, TableError> {
        let wrong = |reason: String| TableError::at(line, reason);
        let (digits, unit_text) = split(cell);
        let own = match unit_text {
            "" => None,
            text => Some(Unit::parse(text).ok_or_else(|| no_number(name, cell, line))?),
        };
        let unit = match (own, stated) {
            (Some(own), Some(stated)) if own != stated => {
                return Err(wrong(format!(
                    "{name} is {} under a header of another unit: write one unit",
                    shown(cell)
                )));
            }
            (own, stated) => own.or(stated),
        };
        let number = self.number(name, cell, digits, line)?;
        let unit = unit.ok_or_else(|| {
            wrong(format!(
                "{name} is {} without a unit: name the column {name}_um, or write µm behind the number",
                shown(cell)
            ))
        })?;
        finite(name, number * unit.um(), cell, line)
    }

    /// A whole number from 1.
    ///
    /// # Errors
    /// If the cell holds anything else.
    pub fn count(name: &str, cell: &str, line: usize) -> Result<u32, TableError> {
        let number = cell.parse::<u32>().ok().filter(|&number| number > 0);
        number.ok_or_else(|| {
            TableError::at(
                line,
                format!("{name} is {}: give a whole number, counted from 1", shown(cell)),
            )
        })
    }

    fn number(&mut self, name: &str, cell: &str, digits: &str, line: usize) -> Result<f64, TableError> {
        let plain = digits.replace('\u{2212}', "-");
        if !is_number(&plain) {
            return Err(no_number(name, cell, line));
        }
        if let Some(mark) = plain.chars().find(|c| matches!(c, '.' | ',')) {
            self.check_mark(name, cell, &plain, mark, line)?;
        }
        let parsed = plain.replace(',', ".").parse();
        parsed.map_err(|_| no_number(name, cell, line))
    }

    /// Where commas stand between cells, or tabs do, `1,234` may be a thousand and more.
    fn check_mark(
        &mut self,
        name: &str,
        cell: &str,
        plain: &str,
        mark: char,
        line: usize,
    ) -> Result<(), TableError> {
        let wrong = |reason: String| Err(TableError::at(line, reason));
        if mark == ',' && self.separator != Separator::Semicolon && may_be_thousands(plain) {
            return wrong(format!(
                "{name} is {}, which may be meant as thousands: write a decimal point",
                shown(cell)
            ));
        }
        match self.mark {
            Some((other, first)) if other != mark => wrong(format!(
                "{name} is {}, and line {first} has the other decimal mark: write all numbers with one",
                shown(cell)
            )),
            Some(_) => Ok(()),
            None => {
                self.mark = Some((mark, line));
                Ok(())
            }
        }
    }
}

fn no_number(name: &str, cell: &str, line: usize) -> TableError {
    let reason = match cell.trim_start_matches(['+', '-']).to_lowercase().as_str() {
        "nan" => format!("{name} is NaN, which is no number: give it in µm, or take out the line"),
        "" => format!("{name} is empty: give a number in µm, or take out the line"),
        _ => format!(
            "{name} is {}, which is no number: give it in µm, as 3.5",
            shown(cell)
        ),
    };
    TableError::at(line, reason)
}

fn finite(name: &str, number: f64, cell: &str, line: usize) -> Result<f64, TableError> {
    if number.is_finite() {
        Ok(number)
    } else {
        Err(no_number(name, cell, line))
    }
}

/// The digits and the unit behind them.
fn split(cell: &str) -> (&str, &str) {
    let digits = cell.trim_end_matches(|c: char| c.is_alphabetic());
    (digits.trim(), cell[digits.len()..].trim())
}

/// A sign, digits with at most one mark among them, and an exponent, nothing else.
fn is_number(text: &str) -> bool {
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
        None => (text, None),
    };
    let mantissa = unsigned(mantissa);
    let sound = match mantissa.split_once(['.', ',']) {
        Some((whole, fraction)) => {
            (whole.is_empty() || all_digits(whole))
                && (fraction.is_empty() || all_digits(fraction))
                && whole.len() + fraction.len() > 0
        }
        None => all_digits(&mantissa),
    };
    sound && exponent.is_none_or(|digits| all_digits(&digits))
}

/// `12,345`: one to three digits that do not begin with 0, a comma, three digits.
fn may_be_thousands(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    text.split_once(',').is_some_and(|(whole, fraction)| {
        (1..=3).contains(&whole.len()) && !whole.starts_with('0') && fraction.len() == 3
    })
}
