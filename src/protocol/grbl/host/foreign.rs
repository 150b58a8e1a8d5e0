//! Lines of devices that are no GRBL 1.1, told apart by how they begin.

/// What a line that is no reply of GRBL 1.1 gives away: the firmware and the remedy, as a sentence. `None` if it could be anything.
pub(super) fn unsupported(line: &str) -> Option<String> {
    let line = line.trim();
    let firmware = match line {
        _ if line.starts_with('<') && line.contains(",MPos:") => {
            return Some(old("GRBL 0.9 or older"));
        }
        _ if line.starts_with("Marlin") || line.starts_with("echo:") => "Marlin",
        _ if line.starts_with("Smoothie") => "Smoothieware",
        _ if line.starts_with("RepRapFirmware") => "RepRapFirmware",
        _ if line.starts_with("TinyG") || line.starts_with("{\"r\"") || line.starts_with("{\"sr\"") => {
            "TinyG"
        }
        _ if line.starts_with("Repetier") => "Repetier",
        _ if line.starts_with("Sangaboard") || line.contains("OpenFlexure Motor Board") => "Sangaboard",
        _ if line.starts_with("++") || line.contains("UC2") => "UC2-ESP",
        _ => return None,
    };
    Some(format!(
        "the controller runs {firmware}, which this bridge does not speak: install GRBL 1.1, grblHAL or FluidNC, or correct the port \
         parameter"
    ))
}

/// Why a release of GRBL named in its welcome line cannot be driven; `None` if it can.
pub(super) fn outdated(welcome: &str) -> Option<String> {
    let release = welcome.strip_prefix("Grbl ")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major: u32 = numbers.next()?.parse().ok()?;
    let minor: u32 = numbers.next()?.parse().ok()?;
    ((major, minor) < (1, 1)).then(|| old(&format!("GRBL {}", release.trim())))
}

fn old(name: &str) -> String {
    format!("the controller runs {name}, which has no jogging: install GRBL 1.1 on it")
}

/// A line as it can be shown: printable, and not longer than a glance.
pub(super) fn shown(line: &[u8]) -> String {
    const MOST: usize = 60;
    let mut text: String = String::from_utf8_lossy(line)
        .chars()
        .take(MOST)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if line.len() > MOST {
        text.push('…');
    }
    text
}

/// Whether a damaged line may be what is left of a welcome line: then the controller may have been reset.
pub(super) fn may_be_welcome(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    ["Grbl", "rbl ", "['$'", "for help", "help]"]
        .iter()
        .any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_firmwares_are_named() {
        for (line, expected) in [
            (
                "<Idle,MPos:0.000,0.000,0.000,WPos:0.000,0.000,0.000>",
                Some("GRBL 0.9"),
            ),
            ("Marlin 2.1.2", Some("Marlin")),
            ("echo:busy: processing", Some("Marlin")),
            ("Smoothie", Some("Smoothieware")),
            ("{\"r\":{\"fv\":0.970}}", Some("TinyG")),
            ("ets Jun  8 2016 00:22:57", None),
            ("", None),
        ] {
            let found = unsupported(line);
            assert_eq!(found.is_some(), expected.is_some(), "{line}");
            assert!(
                found.unwrap_or_default().contains(expected.unwrap_or_default()),
                "{line}"
            );
        }
        for (welcome, is_old) in [
            ("Grbl 0.9j", true),
            ("Grbl 0.8c", true),
            ("Grbl 1.1h", false),
            ("Grbl 3.7", false),
            ("GrblHAL 1.1f", false),
        ] {
            assert_eq!(outdated(welcome).is_some(), is_old, "{welcome}");
        }
    }

    #[test]
    fn lines_are_shown_short_and_printable() {
        assert_eq!(shown(b"a\x00\x1bb"), "a??b");
        assert_eq!(shown(&[b'x'; 300]).chars().count(), 61);
        assert!(may_be_welcome(b"\xffrbl 1.1h ['$' for help]"));
        assert!(!may_be_welcome(b"<Idle|MPos:0.0"));
    }
}
