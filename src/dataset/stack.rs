//! The table that says at which height each image of a z-stack was taken.

use crate::calibration::pass::Approach;
use crate::table::{Numbers, Row, Table, TableError};

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct StackLine {
    /// Where it stands in the table's file, counted from 1.
    pub line: usize,
    /// Name of the image within its folder.
    pub file: String,
    /// Page of that file, counted from 1, if the table has a column `page`.
    pub page: Option<u32>,
    /// Defocus, µm; positive: the lens is too far.
    pub z_um: f64,
    /// Name of the field of view, if the line states it.
    pub field: Option<String>,
    /// Middle of the image on the slide, µm, if the line states both.
    pub place_um: Option<[f64; 2]>,
    /// Side of a pixel in the object plane, µm, if the line states it.
    pub pixel_size_um: Option<f64>,
    /// Height as the stage counts it, µm, if the line states it beside the defocus.
    pub stage_z_um: Option<f64>,
    /// From where the lens came to this height, if the line states it.
    pub approach: Option<Approach>,
}

/// Reads the table `file,z_um`, with the further columns `field`, `page`, `x_um` and `y_um`, `pixel_size_um`, `stage_z_um`, `approach` if it has
/// them.
///
/// # Errors
/// If the table cannot be read, a column is missing, or a cell is not what its column needs.
pub fn parse(bytes: &[u8]) -> Result<Vec<StackLine>, TableError> {
    let table = Table::parse(bytes)?;
    let needed = |names: &[&str], written: &str| {
        table.column(names).ok_or_else(|| {
            TableError::whole(format!(
                "there is no column {written} among {}: the first line must name the columns file and z_um",
                table.found()
            ))
        })
    };
    let mut reader = Reader {
        numbers: Numbers::new(table.separator),
        file: needed(&["file", "filename", "file_name"], "file")?,
        z: needed(&["z"], "z_um")?,
        field: table.column(&["field"]),
        page: table.column(&["page"]),
        x: table.column(&["x"]),
        y: table.column(&["y"]),
        pixel_size: table.column(&["pixel_size"]),
        stage_z: table.column(&["stage_z"]),
        approach: table.column(&["approach"]),
        table: &table,
    };
    let lines = table.rows.iter().map(|row| reader.line(row));
    lines.collect()
}

struct Reader<'a> {
    table: &'a Table,
    numbers: Numbers,
    file: usize,
    z: usize,
    field: Option<usize>,
    page: Option<usize>,
    x: Option<usize>,
    y: Option<usize>,
    pixel_size: Option<usize>,
    stage_z: Option<usize>,
    approach: Option<usize>,
}

impl Reader<'_> {
    fn line(&mut self, row: &Row) -> Result<StackLine, TableError> {
        let file = row.cells[self.file].clone();
        if file.is_empty() {
            return Err(TableError::at(
                row.line,
                "it names no file: name one, or take out the line",
            ));
        }
        let filled = |column: Option<usize>| {
            let cell = column.map(|column| row.cells[column].as_str());
            cell.filter(|cell| !cell.is_empty())
        };
        let page = filled(self.page).map(|cell| Numbers::count("page", cell, row.line));
        let field = filled(self.field).map(str::to_owned);
        let approach = filled(self.approach).map(str::parse::<Approach>).transpose();
        let approach = approach.map_err(|error| TableError::at(row.line, error.to_string()))?;
        let [x, y] = [("x", self.x), ("y", self.y)].map(|(name, column)| self.optional(name, column, row));
        Ok(StackLine {
            line: row.line,
            file,
            page: page.transpose()?,
            z_um: self.length("z", self.z, row)?,
            field,
            place_um: x?.zip(y?).map(|(x, y)| [x, y]),
            pixel_size_um: self.optional("pixel_size", self.pixel_size, row)?,
            stage_z_um: self.optional("stage_z", self.stage_z, row)?,
            approach,
        })
    }

    fn length(&mut self, name: &str, column: usize, row: &Row) -> Result<f64, TableError> {
        let unit = self.table.columns[column].unit;
        let shown = if unit.is_some() {
            format!("{name}_um")
        } else {
            name.to_owned()
        };
        self.numbers.length_um(&shown, &row.cells[column], unit, row.line)
    }

    fn optional(&mut self, name: &str, column: Option<usize>, row: &Row) -> Result<Option<f64>, TableError> {
        match column.filter(|&column| !row.cells[column].is_empty()) {
            Some(column) => self.length(name, column, row).map(Some),
            None => Ok(None),
        }
    }
}

impl StackLine {
    /// The field as the line names it, else its place, else the part of the file's name before its height, else `all`.
    pub fn field_name(&self) -> String {
        let place = || self.place_um.map(|[x, y]| format!("{x},{y}"));
        self.field
            .clone()
            .or_else(place)
            .or_else(|| before_height(&self.file).map(str::to_owned))
            .unwrap_or_else(|| "all".to_owned())
    }
}

/// What a file's name says before `z` and a number: `level1_iy000` of `level1_iy000_z+000.793um.png`.
pub fn before_height(file: &str) -> Option<&str> {
    const BETWEEN: [char; 4] = ['_', '-', ' ', '.'];
    let is_height = |&(at, letter): &(usize, char)| {
        if !letter.eq_ignore_ascii_case(&'z') || !file[..at].ends_with(BETWEEN) {
            return false;
        }
        let number = file[at + 1..].trim_start_matches(['+', '-', '\u{2212}', '_', '=']);
        number.starts_with(|c: char| c.is_ascii_digit())
    };
    let (at, _) = file.char_indices().rfind(is_height)?;
    let name = file[..at].trim_end_matches(BETWEEN);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lose_their_heights() {
        for (file, expected) in [
            ("level1_iy000_z+000.793um.png", Some("level1_iy000")),
            ("a_z-3.png", Some("a")),
            ("a_z+0µm.png", Some("a")),
            ("µ_z\u{2212}3µm.png", Some("µ")),
            ("slide 7 Z12.tif", Some("slide 7")),
            ("zebra_z=1_z2.jpg", Some("zebra_z=1")),
            ("zebra_zoo.jpg", None),
            ("z3.png", None),
            ("field.png", None),
        ] {
            assert_eq!(before_height(file), expected, "{file}");
        }
    }

    #[test]
    fn what_a_line_says_is_read() {
        let text =
            "File;Page;z (µm);Field;x_um;y_um;pixel_size_um\na.tif;2;-3,5;left;;;0,1\nb.tif;;1;;10;-2,5;\n";
        let lines = parse(text.as_bytes()).unwrap();
        assert_eq!(
            (lines[0].file.as_str(), lines[0].page, lines[0].z_um),
            ("a.tif", Some(2), -3.5)
        );
        assert_eq!(
            (lines[0].field_name().as_str(), lines[0].pixel_size_um),
            ("left", Some(0.1))
        );
        assert_eq!((lines[1].page, lines[1].field_name().as_str()), (None, "10,-2.5"));
        assert_eq!(lines[1].line, 3);
        let line = &parse(b"file,z_um,stage_z_um,approach\na.png,1,41.5,from_below\n").unwrap()[0];
        assert_eq!(
            (line.stage_z_um, line.approach),
            (Some(41.5), Some(Approach::FromBelow))
        );
        assert_eq!(parse(b"file;z;stain\na.png;3 nm;3\n").unwrap()[0].z_um, 0.003);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, words) in [
            ("file,height\na,1\n", "no column z_um among 'file', 'height'"),
            ("a.png,1\nb.png,2\n", "no column file among 'a.png', '1'"),
            ("file,z_um\na.png,\n", "line 2: z_um is empty"),
            ("file,z_um\n,1\n", "line 2: it names no file"),
            ("file,z_um,page\na,1,0\n", "line 2: page is '0'"),
            ("file,z_um,x_um\na,1,left\n", "x_um is 'left'"),
            ("file,z\na.png,1\n", "name the column z_um"),
            ("file,z_um,approach\na.png,1,up\n", "line 2: approach is 'up'"),
        ] {
            let message = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_name_has_a_field_or_none(file in ".{0,20}", tail in "[_ .-]?[zZ][+=_-]?[0-9]{0,2}[µmu]{0,2}") {
            _ = before_height(&file);
            _ = before_height(&(file + &tail));
        }

        #[test]
        fn any_lines_get_an_answer(rows in "[a-z0-9,.;µ\"\n -]{0,120}") {
            for line in parse(format!("file,z_um,field,page\n{rows}").as_bytes()).into_iter().flatten() {
                prop_assert!(line.z_um.is_finite() && !line.file.is_empty());
            }
        }
    }
}
