//! Brent's search for the sharpest frame, as Micro-Manager's OughtaFocus does it.
//!
//! Source: `OughtaFocus.java` and `BrentFocusOptimizer.java` of micro-manager/micro-manager: localmin of Brent, Algorithms for Minimization
//! Without Derivatives (1973, chapter 5), as Commons Math runs it: it begins in the middle of the interval, where the lens stands, and ends
//! with the best of all points. Settings: tolerance 1 µm, relative tolerance 1e-9, at most 100 images, one image a point, no rest beyond the
//! stage's own report of standstill: its defaults. The interval is not its default of 10 µm but all that focus may lie in, as a lab would
//! set it; the measure is Tenengrad, of its eleven the one that does best on smears. It declares nothing: its end is its result.

use std::time::Duration;

use super::{Errand, Next, Search};
use crate::evaluation::autofocus::strategy::{End, Look, Work};

const RELATIVE: f64 = 1e-9;
const MOST_IMAGES: usize = 100;
/// (3 - √5) / 2.
const GOLDEN: f64 = 0.381_966_011_250_105;

/// A point and what was measured there; smaller is better, as in the book.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    um: f64,
    value: f64,
}

/// The search between two images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brent {
    tolerance_um: f64,
    low_um: f64,
    high_um: f64,
    /// Least so far, second least, and the one before.
    best: Point,
    second: Point,
    third: Point,
    /// The step, and the one before the last.
    step_um: f64,
    before_um: f64,
    images: usize,
    /// Where the image is taken that comes next.
    asked_um: f64,
    is_going_home: bool,
}

impl Brent {
    /// With this tolerance, µm.
    pub fn new(tolerance_um: f64) -> Self {
        Self {
            tolerance_um,
            ..Self::default()
        }
    }

    fn ask(&mut self, um: f64) -> Next {
        self.asked_um = um;
        Next::Go(Errand::look(um, 1, Duration::ZERO))
    }

    /// Takes in what was measured at the point asked for.
    fn learn(&mut self, value: f64) {
        let new = Point {
            um: self.asked_um,
            value,
        };
        self.images += 1;
        if self.images == 1 {
            (self.best, self.second, self.third) = (new, new, new);
            return;
        }
        if new.value <= self.best.value {
            if new.um < self.best.um {
                self.high_um = self.best.um;
            } else {
                self.low_um = self.best.um;
            }
            (self.third, self.second, self.best) = (self.second, self.best, new);
            return;
        }
        if new.um < self.best.um {
            self.low_um = new.um;
        } else {
            self.high_um = new.um;
        }
        if new.value <= self.second.value || self.second.um == self.best.um {
            (self.third, self.second) = (self.second, new);
        } else if new.value <= self.third.value
            || self.third.um == self.best.um
            || self.third.um == self.second.um
        {
            self.third = new;
        }
    }

    /// Where the next image is to be taken; None: close enough.
    fn choose(&mut self) -> Option<f64> {
        let middle_um = 0.5 * (self.low_um + self.high_um);
        let least_um = RELATIVE * self.best.um.abs() + self.tolerance_um;
        let width_um = self.high_um - self.low_um;
        if (self.best.um - middle_um).abs() <= 2.0 * least_um - 0.5 * width_um {
            return None;
        }
        self.step_um = match self.parabola() {
            Some(step_um) => {
                let at_um = self.best.um + step_um;
                let margin_um = (at_um - self.low_um).min(self.high_um - at_um);
                if margin_um < 2.0 * least_um {
                    least_um.copysign(middle_um - self.best.um)
                } else {
                    step_um
                }
            }
            None => {
                self.before_um = if self.best.um < middle_um {
                    self.high_um - self.best.um
                } else {
                    self.low_um - self.best.um
                };
                GOLDEN * self.before_um
            }
        };
        let step_um = if self.step_um.abs() < least_um {
            least_um.copysign(self.step_um)
        } else {
            self.step_um
        };
        Some(self.best.um + step_um)
    }

    /// The step to the lowest point of the parabola through the three, if it may be taken.
    fn parabola(&mut self) -> Option<f64> {
        let least_um = RELATIVE * self.best.um.abs() + self.tolerance_um;
        if self.before_um.abs() <= least_um {
            return None;
        }
        let (x, w, v) = (self.best, self.second, self.third);
        let r = (x.um - w.um) * (x.value - v.value);
        let q = (x.um - v.um) * (x.value - w.value);
        let p = (x.um - v.um) * q - (x.um - w.um) * r;
        let q = 2.0 * (q - r);
        let (p, q) = (if q > 0.0 { -p } else { p }, q.abs());
        let allowed = p > q * (self.low_um - x.um)
            && p < q * (self.high_um - x.um)
            && p.abs() < (0.5 * q * self.before_um).abs();
        allowed.then(|| {
            self.before_um = self.step_um;
            p / q
        })
    }
}

impl Search for Brent {
    fn work(&self) -> Work {
        Work::Sharpness
    }

    fn begin(&mut self, from_um: f64, reach_um: f64) {
        *self = Self {
            low_um: from_um - reach_um,
            high_um: from_um + reach_um,
            asked_um: from_um,
            ..Self::new(self.tolerance_um)
        };
    }

    fn next(&mut self, looks: &[Look]) -> Next {
        if self.is_going_home {
            return Next::Over(End::InFocus);
        }
        if let [look] = looks {
            self.learn(-look.seen.sharpness.tenengrad);
        }
        if self.images == 0 {
            return self.ask(self.asked_um);
        }
        match self.choose().filter(|_| self.images < MOST_IMAGES) {
            Some(um) => self.ask(um),
            None => {
                self.is_going_home = true;
                Next::Go(Errand::go(self.best.um))
            }
        }
    }
}
