//! What is done while no estimate can be trusted: look for longer, step away from the slide, look again.

use std::time::Duration;

use super::Observation;
use crate::units::Instant;

/// Untrusted looks in a row before looking elsewhere or giving up, and how long they are watched at least.
const MOST_DOUBTFUL: u32 = 12;
const LOOK: Duration = Duration::from_millis(1200);
/// The same before a step up, for a law to which a step costs less than to look for longer.
const FEW_DOUBTFUL: u32 = 4;
const SHORT_LOOK: Duration = Duration::from_millis(100);

/// Untrusted looks of a stage at rest.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// How many in a row, here.
    doubtful: u32,
    /// Exposures of the first and the newest of them.
    span: Option<(Instant, Instant)>,
    /// How many there were before each step up, of this length.
    before: Vec<u32>,
    step_um: f64,
}

impl Search {
    /// A look of the stage at rest.
    pub fn handle_look(&mut self, look: &Observation) {
        if look.trusted {
            (self.doubtful, self.span) = (0, None);
            return;
        }
        self.doubtful += 1;
        let first = self.span.map_or(look.exposed, |(first, _)| first);
        self.span = Some((first, look.exposed));
    }

    /// Whether nothing more is to be expected from looking on here.
    pub fn is_over(&self) -> bool {
        self.has_watched(MOST_DOUBTFUL, LOOK)
    }

    /// Whether a step up is worth more than to look on here.
    pub fn is_step_due(&self) -> bool {
        self.has_watched(FEW_DOUBTFUL, SHORT_LOOK)
    }

    fn has_watched(&self, looks: u32, least: Duration) -> bool {
        let watched = self
            .span
            .map_or(Duration::ZERO, |(first, last)| last.since(first));
        self.doubtful >= looks && watched >= least
    }

    /// The lens goes up by that much, to look again.
    pub fn handle_step(&mut self, step_um: f64) {
        self.before.push(self.doubtful);
        self.step_um = step_um;
        (self.doubtful, self.span) = (0, None);
    }

    /// Steps up so far.
    pub fn steps(&self) -> usize {
        self.before.len()
    }

    /// How far the lens rose by these steps, µm.
    pub fn risen_um(&self) -> f64 {
        self.before.len() as f64 * self.step_um
    }

    /// Time from frame to frame, s, by the untrusted ones here; none of fewer than two.
    pub fn frame_s(&self) -> Option<f64> {
        let (first, last) = self.span.filter(|_| self.doubtful > 1)?;
        Some(last.since(first).as_secs_f64() / f64::from(self.doubtful - 1))
    }

    /// Why the run ends; `sweep` is what came of a sweep, `reason` what the estimates say themselves, empty if they do not.
    pub fn sentence(&self, sweep: Option<&str>, reason: &str) -> String {
        let mut places = self.before.iter().chain([&self.doubtful]);
        let mut text = format!(
            "{} frames in a row could not be judged",
            places.next().unwrap_or(&0)
        );
        for count in places {
            text += &format!(", nor {count} after a step of {:.0} µm up", self.step_um);
        }
        if let Some(sweep) = sweep {
            text += &format!(", nor those of a sweep {sweep}");
        }
        let reason = if reason.is_empty() {
            "is there a stained slide in the light?"
        } else {
            reason
        };
        format!("{text}: {reason}")
    }
}
