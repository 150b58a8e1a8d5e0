//! Heights that the stage reported lately, to know where the lens was when a frame was exposed.

use std::collections::VecDeque;

use crate::units::Instant;

/// Reports kept: two seconds of a stage in motion.
const KEPT: usize = 100;

/// The newest reports, oldest first.
#[derive(Debug, Default)]
pub struct Heights(VecDeque<(Instant, f64)>);

impl Heights {
    /// A report; one that is older than the newest begins anew, for the clock was set.
    pub fn handle_report(&mut self, at: Instant, z_um: Option<f64>) {
        let Some(z_um) = z_um else {
            return self.0.clear();
        };
        if self.0.back().is_some_and(|newest| newest.0 > at) {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((at, z_um));
    }

    /// The newest height, µm: that of a stage which has stood since.
    pub fn newest(&self) -> Option<f64> {
        self.0.back().map(|newest| newest.1)
    }

    /// The height then, µm: between two reports in proportion, unknown before the oldest and after the newest. A busy computer passes on a
    /// frame before the report of where the stage was meanwhile.
    pub fn at(&self, then: Instant) -> Option<f64> {
        if self.0.back()?.0 == then {
            return self.newest();
        }
        let after = self.0.iter().position(|(at, _)| *at > then)?;
        let (before, after) = (self.0.get(after.checked_sub(1)?)?, self.0.get(after)?);
        let share = then.since(before.0).as_secs_f64() / after.0.since(before.0).as_secs_f64();
        Some(before.1 + share * (after.1 - before.1))
    }

    /// Whether there is a report of between the two.
    pub fn are_told(&self, from: Instant, to: Instant) -> bool {
        self.0.iter().any(|(at, _)| *at > from && *at <= to)
    }

    /// The velocity then, µm/s, by the reports around it; zero where there are none.
    pub fn um_per_s(&self, then: Instant) -> f64 {
        let Some(after) = self.0.iter().position(|(at, _)| *at > then) else {
            return 0.0;
        };
        let around = after
            .checked_sub(1)
            .and_then(|before| Some((self.0.get(before)?, self.0.get(after)?)));
        around.map_or(0.0, |(before, after)| {
            (after.1 - before.1) / after.0.since(before.0).as_secs_f64()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_between_reports_are_in_proportion() {
        let mut heights = Heights::default();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        for (ms, z_um) in [(100, 1.0), (120, 5.0), (140, 5.0)] {
            heights.handle_report(at(ms), Some(z_um));
        }
        for (ms, expected) in [
            (90, None),
            (100, Some(1.0)),
            (105, Some(2.0)),
            (130, Some(5.0)),
            (140, Some(5.0)),
            (141, None),
        ] {
            assert_eq!(heights.at(at(ms)), expected, "{ms} ms");
        }
        assert_eq!(heights.newest(), Some(5.0));
        heights.handle_report(at(160), None);
        assert_eq!((heights.at(at(160)), heights.newest()), (None, None));
    }
}
