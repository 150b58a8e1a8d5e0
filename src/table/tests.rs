//! Variants of one table, and what is refused.

use proptest::prelude::*;

use super::*;

/// The cells of the row of one table written in many ways.
fn check(bytes: &[u8], expected: &[&str]) {
    let table =
        Table::parse(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)));
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["file", "z"], "{}", String::from_utf8_lossy(bytes));
    assert_eq!(table.columns[1].unit, Some(Unit::Micrometre));
    assert_eq!(table.rows.len(), 1, "{}", String::from_utf8_lossy(bytes));
    assert_eq!(
        table.rows[0].cells,
        expected,
        "{}",
        String::from_utf8_lossy(bytes)
    );
}

fn utf16(text: &str, number: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(number).collect()
}

#[test]
fn one_table_written_in_many_ways_reads_the_same() {
    for text in [
        "file,z_um\na.png,-3.5\n",
        "file,z_um\na.png,-3.5",
        "file, z_um\r\na.png, -3.5\r\n",
        "File;Z_um\na.png;-3.5\n",
        "\u{feff}FILE\tZ (µm)\n a.png \t-3.5\n",
        "\n\nfile;z [um]\n\na.png;-3.5;;\n\n",
        "sep=;\nfile;z_um\na.png;-3.5\n",
        "\"file\", \"z_um\"\n\"a.png\" , \"-3.5\"\n",
        "file,z/μm\ra.png,-3.5\r",
        "file , Z µm\na.png,-3.5\n",
        "file,z um\na.png,-3.5\n,\n",
    ] {
        let expected = ["a.png", "-3.5"];
        check(text.as_bytes(), &expected);
        let text = text.trim_start_matches('\u{feff}');
        check(&utf16(&format!("\u{feff}{text}"), u16::to_le_bytes), &expected);
        check(&utf16(&format!("\u{feff}{text}"), u16::to_be_bytes), &expected);
        if !text.starts_with('\n') {
            check(&utf16(text, u16::to_le_bytes), &expected);
            check(&utf16(text, u16::to_be_bytes), &expected);
        }
    }
    check(b"file;z (\xb5m)\na.png;-3.5\n", &["a.png", "-3.5"]);
    check(b"file,z_um\n\"a, \"\"b\"\"\n.png\",1\n", &["a, \"b\"\n.png", "1"]);
}

#[test]
fn what_is_in_doubt_is_refused_with_what_was_found() {
    for (text, words) in [
        (&b""[..], "is empty"),
        (b"\n \n", "is empty"),
        (b"file,File\na,b\n", "'file' and 'File'"),
        (b"file,z_um\na.png\n", "line 2: it has 1 cells and the header 2"),
        (b"file,z_um\na.png,3,5\n", "decimal comma needs semicolons"),
        (b"file,z_um\n\"a.png,1\n", "line 2: a quote is opened"),
        (b"file,z_um\n\n\"a\"b,1\n", "line 3: 'b' stands behind"),
        (b"file,z_um\n\xe9.png,1\n", "neither UTF-8 nor UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither UTF-8 nor UTF-16"),
        (b"\xff\xfef", "ends in the middle"),
        (b"\0\0\0\0", "neither"),
    ] {
        let message = Table::parse(text).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    let table = Table::parse(b"file,z_um\r\n\"two\nlines\",1\r\n\r\nb,2\r\n").unwrap();
    let lines: Vec<usize> = table.rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, [2, 5]);
}

#[test]
fn numbers_are_read_where_their_meaning_is_beyond_doubt() {
    use Separator::{Comma, Semicolon, Tab};
    let um = Some(Unit::Micrometre);
    for (separator, cell, unit, expected) in [
        (Comma, "-3.5", um, -3.5),
        (Comma, "3,5", um, 3.5),
        (Semicolon, "3,5", um, 3.5),
        (Semicolon, "1,234", um, 1.234),
        (Tab, "0,125", um, 0.125),
        (Comma, "\u{2212}3.5 µm", um, -3.5),
        (Comma, "+3.5um", None, 3.5),
        (Comma, "3500 nm", None, 3.5),
        (Comma, "0.0035mm", None, 3.5),
        (Comma, "3.5e-3", Some(Unit::Millimetre), 3.5),
        (Comma, ".5", um, 0.5),
        (Comma, "2.", um, 2.0),
        (Comma, "3.5\u{a0}μm", None, 3.5),
    ] {
        let found = Numbers::new(separator).length_um("z", cell, unit, 2).unwrap();
        assert!((found - expected).abs() < 1e-12, "{cell}: {found}");
    }
    for (separator, cell, unit, words) in [
        (Comma, "", um, "z is empty"),
        (Comma, "nan", um, "z is NaN"),
        (Comma, "inf", um, "no number"),
        (Comma, "1e999", um, "no number"),
        (Comma, "low", um, "'low'"),
        (Comma, "3.5.1", um, "'3.5.1'"),
        (Comma, "1.234,5", um, "no number"),
        (Comma, "1 000", um, "no number"),
        (Comma, "1,234", um, "thousands"),
        (Tab, "12,345", um, "thousands"),
        (Comma, "3.5 nm", um, "another unit"),
        (Comma, "3.5", None, "without a unit"),
        (Comma, "3.5 px", um, "'3.5 px'"),
        (Comma, "\u{2028}\u{0}", um, "no number"),
    ] {
        let mut numbers = Numbers::new(separator);
        let message = numbers.length_um("z", cell, unit, 2).unwrap_err().to_string();
        assert!(
            message.contains(words) && message.starts_with("line 2: "),
            "{cell}: {message}"
        );
    }
}

#[test]
fn one_table_has_one_decimal_mark() {
    let mut numbers = Numbers::new(Separator::Semicolon);
    let um = Some(Unit::Micrometre);
    assert_eq!(numbers.length_um("z", "3,5", um, 2), Ok(3.5));
    assert_eq!(numbers.length_um("z", "4", um, 3), Ok(4.0));
    let message = numbers.length_um("z", "1.234", um, 4).unwrap_err().to_string();
    assert!(message.contains("line 2 has the other decimal mark"), "{message}");
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(Table::parse(&bytes));
    }

    #[test]
    fn any_text_gets_an_answer(text in "[a-z\"',;\t\r\n µ.0-9=]{0,80}") {
        drop(Table::parse(text.as_bytes()));
    }

    #[test]
    fn any_cell_gets_an_answer(cell in ".{0,12}", digits in "[-+0-9.,eE µmn]{0,12}") {
        for cell in [cell, digits] {
            let mut numbers = Numbers::new(Separator::Tab);
            if let Ok(um) = numbers.length_um("z", &cell, Some(Unit::Micrometre), 2) {
                prop_assert!(um.is_finite());
            }
        }
    }

    /// What is written in quotes comes back, whatever it is.
    #[test]
    fn quoted_cells_come_back(cells in proptest::collection::vec("[^\0]{0,12}", 2), separator in 0..3usize) {
        let separator = Separator::ALL[separator];
        let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        let mark = separator.char();
        let text = format!("a{mark}b\n{}\nend{mark}end\n", quoted.join(&mark.to_string()));
        let table = Table::parse(text.as_bytes()).unwrap();
        let trimmed: Vec<&str> = cells.iter().map(|cell| cell.trim()).collect();
        if trimmed.iter().any(|cell| !cell.is_empty()) {
            prop_assert_eq!(&table.rows[0].cells, &trimmed);
        }
        prop_assert_eq!(&table.rows.last().unwrap().cells, &["end", "end"]);
    }

    #[test]
    fn plain_numbers_come_back(um in -1e6..1e6f64) {
        for (separator, text) in [
            (Separator::Comma, format!("{um}")),
            (Separator::Semicolon, format!("{um}").replace('.', ",")),
        ] {
            let found = Numbers::new(separator).length_um("z", &text, Some(Unit::Micrometre), 2);
            prop_assert_eq!(found, Ok(um));
        }
    }
}
