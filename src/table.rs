//! Tables as people write them: CSV from an editor, a spreadsheet or a script.
//!
//! Read where the meaning is beyond doubt, else refused with one sentence that says what was found and what is expected.
//! Taken are UTF-8 and UTF-16 text; commas, semicolons or tabs between cells; spaces around them; quoted cells; any line ends; names of
//! columns in any case, with their unit in any usual form (`z_um`, `Z (µm)`, `z [nm]`, `z/µm`). Numbers may have a decimal comma where
//! no comma stands between the cells, a unit, and the minus sign of a typesetter ([`number`]).

pub mod number;
mod text;

pub use number::{Numbers, Unit};

/// Largest table that is read, bytes.
pub const MAX_BYTES: usize = 64 << 20;
/// Longest piece of a cell that a message repeats, characters.
const SHOWN: usize = 40;

/// Why a table cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TableError {
    /// Line of the file, counted from 1; None if the whole table is meant.
    pub line: Option<usize>,
    /// What was found, and what is expected.
    pub reason: String,
}

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl TableError {
    pub(crate) fn at(line: usize, reason: impl Into<String>) -> Self {
        let (line, reason) = (Some(line), reason.into());
        Self { line, reason }
    }

    pub(crate) fn whole(reason: impl Into<String>) -> Self {
        let (line, reason) = (None, reason.into());
        Self { line, reason }
    }
}

/// What stands between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// `;`, as spreadsheets write where the comma is the decimal mark.
    Semicolon,
    /// A tab.
    Tab,
    /// `,`.
    Comma,
}

impl Separator {
    /// In the order in which they are believed when a header fits several.
    const ALL: [Self; 3] = [Self::Semicolon, Self::Tab, Self::Comma];

    const fn char(self) -> char {
        match self {
            Self::Semicolon => ';',
            Self::Tab => '\t',
            Self::Comma => ',',
        }
    }
}

/// A name in the header, without its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Lower case, `_` for spaces and hyphens, for example `z`.
    pub name: String,
    /// The unit the header states.
    pub unit: Option<Unit>,
    /// As it stands in the file.
    pub written: String,
}

/// A line below the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it begins in the file, counted from 1.
    pub line: usize,
    /// As many as the header has names; without the spaces around them.
    pub cells: Vec<String>,
}

/// A header and the rows below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What stands between the cells.
    pub separator: Separator,
    /// The header.
    pub columns: Vec<Column>,
    /// The rows, none of them empty.
    pub rows: Vec<Row>,
}

impl Table {
    /// Reads a whole file.
    ///
    /// # Errors
    /// If it is no text, a quote is not closed, a name stands twice in the header, or a row has not as many cells as the header.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let text = text::decode(bytes)?;
        let (named, first_line, text) = named_separator(&text);
        let separator = named.unwrap_or_else(|| guess(text));
        let mut records = text::records(text, separator.char(), first_line)?.into_iter();
        let header = records
            .next()
            .ok_or_else(|| TableError::whole("it is empty: the first line must name the columns"))?;
        let mut columns = Vec::<Column>::new();
        for written in header.cells {
            let column = Column::of(written);
            let twice = columns.iter().find(|other| other.name == column.name);
            if let Some(other) = twice.filter(|_| !column.name.is_empty()) {
                let (one, two) = (shown(&other.written), shown(&column.written));
                return Err(TableError::at(
                    header.line,
                    format!("the columns {one} and {two} have one name: keep one of them"),
                ));
            }
            columns.push(column);
        }
        let rows = records.map(|row| fit(row, columns.len(), separator));
        Ok(Self {
            separator,
            rows: rows.collect::<Result<_, _>>()?,
            columns,
        })
    }

    /// The place of a column by its name without unit, or by one of its other names.
    pub fn column(&self, names: &[&str]) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| names.contains(&column.name.as_str()))
    }

    /// The header for a message: what was found.
    pub fn found(&self) -> String {
        let names: Vec<String> = self
            .columns
            .iter()
            .take(12)
            .map(|column| shown(&column.written))
            .collect();
        names.join(", ")
    }
}

/// A cell as a message shows it: quoted, short, without control characters.
pub(crate) fn shown(cell: &str) -> String {
    let mut short: String = cell.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if cell.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}

/// A first line `sep=;`, which spreadsheets write and read: the separator, the number of the next line, and the text from there.
fn named_separator(text: &str) -> (Option<Separator>, usize, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.trim_end_matches('\r');
    let named = Separator::ALL
        .into_iter()
        .find(|separator| line.strip_prefix("sep=") == Some(separator.char().encode_utf8(&mut [0; 4])));
    match named {
        Some(separator) => (Some(separator), 2, rest),
        None => (None, 1, text),
    }
}

/// The separator that makes most columns of the first line in which something stands.
fn guess(text: &str) -> Separator {
    let header = text
        .split(['\n', '\r'])
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let count = |separator: Separator| header.matches(separator.char()).count();
    // The first of several greatest.
    Separator::ALL
        .into_iter()
        .rev()
        .max_by_key(|&separator| count(separator))
        .unwrap_or(Separator::Comma)
}

/// A row with as many cells as the header; empty ones beyond it are dropped, as spreadsheets append them.
fn fit(mut row: Row, columns: usize, separator: Separator) -> Result<Row, TableError> {
    while row.cells.len() > columns && row.cells.last().is_some_and(String::is_empty) {
        row.cells.pop();
    }
    if row.cells.len() == columns {
        return Ok(row);
    }
    let found = row.cells.len();
    let comma = if separator == Separator::Comma && found > columns {
        "; a decimal comma needs semicolons between the cells"
    } else {
        ""
    };
    Err(TableError::at(
        row.line,
        format!("it has {found} cells and the header {columns}: write a cell for each column{comma}"),
    ))
}

impl Column {
    fn of(written: String) -> Self {
        let plain = written.trim().to_lowercase().replace(['µ', 'μ'], "u");
        let (name, unit) =
            split_unit(&plain).map_or((plain.as_str(), None), |(name, unit)| (name, Some(unit)));
        let name = name.trim_matches([' ', '_', '-']).replace([' ', '-'], "_");
        Self { name, unit, written }
    }
}

/// `z (um)`, `z [um]`, `z/um`, `z_um` and `z um` are `z` in µm.
fn split_unit(name: &str) -> Option<(&str, Unit)> {
    for (open, close) in [('(', ")"), ('[', "]")] {
        if let Some((name, unit)) = name.strip_suffix(close).and_then(|rest| rest.split_once(open)) {
            return Some((name, Unit::parse(unit.trim())?));
        }
    }
    let (name, unit) = name.rsplit_once(['/', '_', ' '])?;
    Some((name, Unit::parse(unit)?)).filter(|(name, _)| !name.trim().is_empty())
}

#[cfg(test)]
mod tests;
