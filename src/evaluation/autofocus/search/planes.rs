//! The peak of Tenengrad over 17 planes, with a parabola through its top.
//!
//! Source: the 17-plane Tenengrad peak of kyu-softmatter/dino-autofocus (docs/synthetic-results.md). Its planes are dense enough to resolve
//! the peak; a stack of 17 over all that focus may lie in is not, so that stacks follow each other, each between the neighbours of the last
//! one's best plane, until the planes are half a depth of field apart. A stack whose best plane is its first or last is taken once more
//! around that plane, then it fails. Planes are taken upwards, from 5 µm below the lowest to clear the play (as Squid does), after
//! 50 ms of rest (OpenFlexure's smart stack).

use std::time::Duration;

use super::{Errand, Next, Search};
use crate::evaluation::autofocus::strategy::{End, Look, Work};

const PLANES: usize = 17;
const SETTLE: Duration = Duration::from_millis(50);
/// Spacing at which a stack is the last, depths of field.
const FINE_DEPTHS: f64 = 0.5;
/// What is gone down farther to take up the play, µm.
const CLEAR_UM: f64 = 5.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Below,
    Plane,
    ToPeak,
    Done,
}

/// The search between two frames.
#[derive(Clone, Debug)]
pub(crate) struct Planes {
    depth_um: f64,
    part: Part,
    middle_um: f64,
    spacing_um: f64,
    /// Sharpness of the planes of this stack so far, from the lowest up.
    stack: Vec<f64>,
    is_retaken: bool,
}

impl Planes {
    /// For this depth of field, µm.
    pub fn new(depth_um: f64) -> Self {
        Self {
            depth_um,
            part: Part::Below,
            middle_um: 0.0,
            spacing_um: 0.0,
            stack: Vec::new(),
            is_retaken: false,
        }
    }

    fn plane_um(&self, plane: f64) -> f64 {
        self.middle_um + (plane - 0.5 * (PLANES - 1) as f64) * self.spacing_um
    }

    /// Where this stack has its peak, in planes from its lowest; the second is whether that is one of its ends.
    fn peak(&self) -> (f64, bool) {
        let best = (0..self.stack.len()).max_by(|&a, &b| self.stack[a].total_cmp(&self.stack[b]));
        let best = best.unwrap_or_default();
        match self.stack.get(best.wrapping_sub(1)..best + 2) {
            Some(&[before, top, after]) => {
                let bend = before - 2.0 * top + after;
                let shift = if bend < 0.0 {
                    0.5 * (before - after) / bend
                } else {
                    0.0
                };
                (best as f64 + shift, false)
            }
            _ => (best as f64, true),
        }
    }

    /// What follows a whole stack.
    fn conclude(&mut self) -> Next {
        let (peak, is_end) = self.peak();
        self.middle_um = self.plane_um(peak);
        self.stack.clear();
        if is_end && std::mem::replace(&mut self.is_retaken, true) {
            return Next::Over(End::Failed(
                "the sharpest plane is the last one: look farther".to_owned(),
            ));
        }
        if is_end {
            return self.go_below();
        }
        if self.spacing_um <= FINE_DEPTHS * self.depth_um {
            self.part = Part::ToPeak;
            return Next::Go(Errand::go(self.middle_um - CLEAR_UM));
        }
        self.spacing_um *= 2.0 / (PLANES - 1) as f64;
        self.is_retaken = false;
        self.go_below()
    }

    fn go_below(&mut self) -> Next {
        self.part = Part::Plane;
        Next::Go(Errand::go(self.plane_um(0.0) - CLEAR_UM))
    }
}

impl Search for Planes {
    fn work(&self) -> Work {
        Work::Sharpness
    }

    fn begin(&mut self, from_um: f64, reach_um: f64) {
        *self = Self {
            middle_um: from_um,
            spacing_um: 2.0 * reach_um / (PLANES - 1) as f64,
            ..Self::new(self.depth_um)
        };
    }

    fn next(&mut self, looks: &[Look]) -> Next {
        self.stack
            .extend(looks.iter().map(|look| look.seen.sharpness.tenengrad));
        match self.part {
            Part::Below => self.go_below(),
            Part::Plane if self.stack.len() == PLANES => self.conclude(),
            Part::Plane => Next::Go(Errand::look(self.plane_um(self.stack.len() as f64), 1, SETTLE)),
            Part::ToPeak => {
                self.part = Part::Done;
                Next::Go(Errand::go(self.middle_um))
            }
            Part::Done => Next::Over(End::InFocus),
        }
    }
}
