//! From bytes to records: encodings, quotes, line ends.

use super::{MAX_BYTES, Row, TableError};

/// The text of a file.
pub(super) fn decode(bytes: &[u8]) -> Result<String, TableError> {
    if bytes.len() > MAX_BYTES {
        return Err(TableError::whole(format!(
            "it is larger than {} MB: give a table of text",
            MAX_BYTES >> 20
        )));
    }
    let text = match *bytes {
        [0xef, 0xbb, 0xbf, ref rest @ ..] => utf8(rest)?,
        [0xff, 0xfe, ref rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, ref rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        // A Latin letter in UTF-16 has a byte 0 on one side.
        [first, 0, ..] if first != 0 => utf16(bytes, u16::from_le_bytes)?,
        [0, second, ..] if second != 0 => utf16(bytes, u16::from_be_bytes)?,
        _ => utf8(bytes)?,
    };
    if text.contains('\0') {
        return Err(no_text());
    }
    Ok(text)
}

fn no_text() -> TableError {
    TableError::whole("it is neither UTF-8 nor UTF-16 text: save it as CSV (UTF-8)")
}

fn utf8(bytes: &[u8]) -> Result<String, TableError> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(text.to_owned());
    }
    // µ has the same byte in all of Windows' and ISO's one-byte alphabets for European languages; other letters have not.
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        match chunk.invalid() {
            [] => {}
            [0xb5] => text.push('µ'),
            _ => return Err(no_text()),
        }
    }
    Ok(text)
}

fn utf16(bytes: &[u8], number: fn([u8; 2]) -> u16) -> Result<String, TableError> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(TableError::whole(
            "its UTF-16 text ends in the middle of a character: copy or save it again",
        ));
    }
    let units: Vec<u16> = pairs.iter().map(|pair| number(*pair)).collect();
    String::from_utf16(&units).map_err(|_| no_text())
}

/// The lines in which something stands, cut into cells.
pub(super) fn records(text: &str, separator: char, first_line: usize) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    let mut scanner = Scanner {
        rest: text,
        line: first_line,
        separator,
    };
    while !scanner.rest.is_empty() {
        let line = scanner.line;
        let cells = scanner.record()?;
        if cells.iter().any(|cell| !cell.is_empty()) {
            rows.push(Row { line, cells });
        }
    }
    Ok(rows)
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
    separator: char,
}

impl Scanner<'_> {
    /// The cells up to and with the end of the line.
    fn record(&mut self) -> Result<Vec<String>, TableError> {
        let mut cells = Vec::new();
        loop {
            let blank = |c: char| c.is_whitespace() && c != self.separator && !matches!(c, '\n' | '\r');
            self.rest = self.rest.trim_start_matches(blank);
            cells.push(match self.rest.strip_prefix('"') {
                Some(quoted) => self.quoted(quoted)?,
                None => self.plain(),
            });
            match self.rest.chars().next() {
                Some(c) if c == self.separator => self.rest = &self.rest[c.len_utf8()..],
                _ => break,
            }
        }
        self.line_end();
        Ok(cells)
    }

    fn plain(&mut self) -> String {
        let end = self.rest.find([self.separator, '\n', '\r']);
        let (cell, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        cell.trim().to_owned()
    }

    /// A cell behind its opening quote; two quotes inside stand for one.
    fn quoted(&mut self, mut rest: &str) -> Result<String, TableError> {
        let (begun, mut cell) = (self.line, String::new());
        // What the scanner has left is a part of the same text as `rest`.
        let all = self.rest;
        loop {
            let Some((part, behind)) = rest.split_once('"') else {
                return Err(TableError::at(
                    begun,
                    "a quote is opened and never closed: write the other one",
                ));
            };
            cell.push_str(part);
            self.line += part.matches('\n').count();
            rest = behind;
            match rest.strip_prefix('"') {
                Some(behind) => {
                    cell.push('"');
                    rest = behind;
                }
                None => break,
            }
        }
        self.rest = &all[all.len() - rest.len()..];
        let trailing = self.plain();
        if trailing.is_empty() {
            return Ok(cell.trim().to_owned());
        }
        Err(TableError::at(
            self.line,
            format!(
                "{} stands behind a closing quote: put the whole cell in quotes",
                super::shown(&trailing)
            ),
        ))
    }

    fn line_end(&mut self) {
        let rest = self.rest;
        self.rest = rest
            .strip_prefix("\r\n")
            .or_else(|| rest.strip_prefix(['\n', '\r']))
            .unwrap_or(rest);
        self.line += 1;
    }
}
