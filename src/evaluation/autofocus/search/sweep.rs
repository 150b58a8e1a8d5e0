//! Sweep and return: OpenFlexure's `fast_autofocus`.
//!
//! Source: `things/autofocus.py` of openflexure-microscope-server v3: down by half the range, up by all of it while the camera streams, down
//! again by all of it, up to where the largest JPEG was taken. So the play of the drive is taken up the same way twice. The sweep is at the
//! speed of its stage, 1000 steps of 62 nm a second, which puts its frames about a depth of field apart; the other three legs are as
//! fast as ours may be. Heights are those that the stage counts at the middle of an exposure, which spares it the error of a clock that is
//! read when a frame arrives. It declares nothing: its end is its result.

use super::{Errand, Next, Search};
use crate::evaluation::autofocus::strategy::{End, Look, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Down,
    Sweep,
    Back,
    ToPeak,
    Done,
}

/// The sweep between two legs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    um_per_s: f64,
    leg: Leg,
    low_um: f64,
    high_um: f64,
    peak_um: f64,
}

impl Sweep {
    /// At this speed, µm/s.
    pub fn new(um_per_s: f64) -> Self {
        Self {
            um_per_s,
            leg: Leg::Down,
            low_um: 0.0,
            high_um: 0.0,
            peak_um: 0.0,
        }
    }
}

impl Search for Sweep {
    fn work(&self) -> Work {
        Work::Nothing
    }

    fn begin(&mut self, from_um: f64, reach_um: f64) {
        self.leg = Leg::Down;
        (self.low_um, self.high_um) = (from_um - reach_um, from_um + reach_um);
    }

    fn next(&mut self, looks: &[Look]) -> Next {
        let (leg, next) = match self.leg {
            Leg::Down => (Leg::Sweep, Next::Go(Errand::go(self.low_um))),
            Leg::Sweep => (Leg::Back, Next::Go(Errand::sweep(self.high_um, self.um_per_s))),
            Leg::Back => {
                let size = |look: &Look| look.seen.sharpness.jpeg_bytes;
                let largest = looks.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
                match largest {
                    Some(look) => self.peak_um = look.count_um,
                    None => {
                        let reason = "no frame came during the sweep: check the camera".to_owned();
                        return Next::Over(End::Failed(reason));
                    }
                }
                (Leg::ToPeak, Next::Go(Errand::go(self.low_um)))
            }
            Leg::ToPeak => (Leg::Done, Next::Go(Errand::go(self.peak_um))),
            Leg::Done => (Leg::Done, Next::Over(End::InFocus)),
        };
        self.leg = leg;
        next
    }
}
