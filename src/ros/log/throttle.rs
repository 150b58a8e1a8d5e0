//! Keeps a place in the code that repeats itself from drowning the others.

use std::time::Duration;

use super::{Line, Place};

/// How often the same place is told for the same node within [`PERIOD`].
pub(super) const LINES: u32 = 3;
/// See [`LINES`].
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// Places remembered for that; the one told longest ago is forgotten first.
const REMEMBERED: usize = 64;

/// What was told, and what was left out.
#[derive(Default)]
pub(super) struct Throttle {
    /// The place told last stands last.
    entries: Vec<Entry>,
}

struct Entry {
    node: String,
    place: Place,
    /// When its period began.
    since: Duration,
    /// Lines told within it.
    told: u32,
    /// Lines left out since one was told.
    left_out: u32,
    /// The last of them.
    last: Option<Line>,
}

impl Throttle {
    /// The line as it is to be told, with how many like it were left out before; None if it is left out. `now` counts from any
    /// beginning.
    pub(super) fn pass(&mut self, mut line: Line, now: Duration) -> Option<Line> {
        let is_same = |entry: &Entry| entry.place == line.place && entry.node == line.node;
        let mut entry = match self.entries.iter().position(is_same) {
            Some(at) => self.entries.remove(at),
            None => Entry {
                node: line.node.clone(),
                place: line.place,
                since: now,
                told: 0,
                left_out: 0,
                last: None,
            },
        };
        if now.saturating_sub(entry.since) >= PERIOD {
            (entry.since, entry.told) = (now, 0);
        }
        if self.entries.len() >= REMEMBERED {
            self.entries.remove(0);
        }
        let told = if entry.told < LINES {
            entry.told += 1;
            entry.last = None;
            count(&mut line, std::mem::take(&mut entry.left_out));
            Some(line)
        } else {
            entry.left_out += 1;
            entry.last = Some(line);
            None
        };
        self.entries.push(entry);
        told
    }

    /// The last lines of places that have fallen silent with something left out, each with the count of the others.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<Line> {
        let silent = self
            .entries
            .iter_mut()
            .filter(|entry| now.saturating_sub(entry.since) >= PERIOD);
        let last = silent.filter_map(|entry| {
            let mut line = entry.last.take()?;
            count(&mut line, std::mem::take(&mut entry.left_out).saturating_sub(1));
            (entry.since, entry.told) = (now, 1);
            Some(line)
        });
        last.collect()
    }
}

/// Says how many lines like this one were left out.
fn count(line: &mut Line, left_out: u32) {
    if left_out > 0 {
        line.text += &format!(" ({left_out} lines like this were left out before it)");
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogLevel;
    use super::*;

    fn line(place: u32, text: &str) -> Line {
        Line {
            node: "camera".to_owned(),
            severity: LogLevel::Warn,
            text: text.to_owned(),
            place: Place {
                file: "camera.rs",
                line: place,
                target: "hhnet",
            },
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn lines_of_one_place_are_counted_whatever_their_numbers() {
        let mut throttle = Throttle::default();
        for at in 0..3 {
            assert!(throttle.pass(line(1, &format!("{at} bytes")), ms(at)).is_some());
        }
        for at in 3..100 {
            assert!(throttle.pass(line(1, &format!("{at} bytes")), ms(at)).is_none());
        }
        assert_eq!(
            throttle.pass(line(2, "another place"), ms(100)).unwrap().text,
            "another place"
        );
        let again = throttle.pass(line(1, "7 bytes"), ms(1000)).unwrap();
        assert_eq!(again.text, "7 bytes (97 lines like this were left out before it)");
        assert_eq!(
            throttle.pass(line(1, "8 bytes"), ms(1001)).unwrap().text,
            "8 bytes"
        );
    }

    #[test]
    fn the_end_of_a_burst_is_told() {
        let mut throttle = Throttle::default();
        for at in 0..10 {
            drop(throttle.pass(line(1, &format!("{at} bytes")), ms(at)));
        }
        assert!(throttle.overdue(ms(500)).is_empty());
        let told: Vec<String> = throttle
            .overdue(ms(1000))
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(told, ["9 bytes (6 lines like this were left out before it)"]);
        assert!(throttle.overdue(ms(2500)).is_empty());
    }

    #[test]
    fn the_memory_of_places_is_bounded() {
        let mut throttle = Throttle::default();
        for at in 0..1000 {
            assert!(throttle.pass(line(at, "x"), Duration::ZERO).is_some());
        }
        assert_eq!(throttle.entries.len(), REMEMBERED);
    }
}
