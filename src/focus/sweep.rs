//! The last resort where no estimate can be trusted: a slow sweep through the permitted range, in which both the estimates and the sharpness
//! of the picture are watched.
//!
//! The lens goes up first, comes back, and only then goes on below where it began, never faster than [`MOST_PER_S`]. Two trusted looks in a
//! row, within the depth of class 3, that agree on the height of focus from two heights end the sweep, and so does one that a look at rest bears
//! out: the law goes on from there. If there are none, sharpness decides, as classical autofocus does ([`peak`]): the highest of all looks, if it
//! stands out and lies inside the range, is passed once more, slowly and from above; a parabola through the logarithm of what is sharpest there says where to stand (a gaussian peak, as
//! Subbarao and Tyan fit it, IEEE PAMI 20 (1998) 864), and the picture has to be as sharp there as it was on the way. If there is no
//! such peak, the lens goes back up to where it began.

pub(crate) mod peak;

use std::collections::VecDeque;

pub(super) use self::peak::NoPeak;
use self::peak::{highest, vertex};
use super::follows::Sight;
use crate::classes::ClassEdges;
use crate::units::Instant;

/// How far the sweep reaches from where it begins, in depths of class 3: beyond it no lens shows anything of a smear.
const REACH: f64 = 4.0;
/// Way from frame to frame in depths of class 1, of the whole range and around the peak.
const COARSE: f64 = 0.5;
const FINE: f64 = 0.08;
/// Greatest speed of a sweep, depths of class 1 per second: 100 µm/s under the 40x0.65, half of the paper's.
const MOST_PER_S: f64 = 20.0;
/// How far around the peak of the whole range is looked once more, in depths of class 1.
const AROUND: f64 = 1.5;
/// How far above it the lens is before it comes down to where it is to stand, in the same.
const ABOVE: f64 = 1.0;
/// Part of the peak that a look at rest has to show where the lens came to stand.
const KEPT: f64 = 0.85;
/// Distance to a goal that counts as arrived, µm.
const THERE_UM: f64 = 0.5;
/// Distance between two frames, in depths of class 1, beyond which the sweep is too fast, and the slowest frames that it waits for, s.
const GAP: f64 = 1.0;
const SLOWEST_FRAME_S: f64 = 0.3;
/// How often a sweep stops at a single look that is trusted.
const MOST_STOPS: u32 = 8;
/// How often one way is begun: the bridge checks its first motion before it does as it is told.
const TRIES: u32 = 3;

/// A way of the sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Leg {
    /// Where it ends, µm.
    pub goal_um: f64,
    /// Greatest speed, µm/s; none for that of the stage.
    pub um_per_s: Option<f64>,
}

/// What the sweep is at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Through the whole range.
    Coarse,
    /// Past the peak of it.
    Fine,
    /// To where it is sharpest; this sharp it has to be there.
    Landing { sharpness: f64 },
    /// Back up: there is nothing to be found.
    Leaving { cause: NoPeak },
}

/// What a look on the way says of the estimates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Nothing.
    None,
    /// It is trusted: a look at rest is worth a stop.
    Given,
    /// Two in a row agree on where focus is from two heights: they can be trusted.
    Kept,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Go there.
    Go(Leg),
    /// Look at rest: so sharp it has to be.
    Compare(f64),
    /// The lens is back, and there was nothing.
    Fail(NoPeak),
}

/// A sweep under way.
#[derive(Debug)]
pub(super) struct Sweep {
    range_um: (f64, f64),
    start_um: f64,
    near_um: f64,
    far_um: f64,
    /// Time between two frames, s.
    frame_s: f64,
    phase: Phase,
    legs: VecDeque<Leg>,
    tries: u32,
    /// When and where the newest look of this way was, µm.
    passed: Option<(Instant, f64)>,
    stops: u32,
    is_waiting: bool,
    hears_estimates: bool,
    /// Height and sharpness of the looks of this phase.
    looks: Vec<(f64, f64)>,
    /// Where the newest trusted look was, and where it has focus, µm.
    sighted: Option<(f64, f64)>,
}

impl Sweep {
    /// Around `start_um`, of a lens at `z_um`, within `limits_um`, with a frame every `frame_s`.
    pub fn new(
        (start_um, z_um): (f64, f64),
        limits_um: (f64, f64),
        frame_s: f64,
        edges: &ClassEdges,
    ) -> Self {
        let reach_um = REACH * edges.far_um;
        let range_um = (
            limits_um.0.max(start_um - reach_um),
            limits_um.1.min(start_um + reach_um),
        );
        let mut this = Self {
            range_um,
            start_um,
            near_um: edges.near_um,
            far_um: edges.far_um,
            frame_s,
            phase: Phase::Coarse,
            legs: VecDeque::new(),
            tries: 0,
            passed: None,
            stops: 0,
            is_waiting: false,
            hears_estimates: true,
            looks: Vec::new(),
            sighted: None,
        };
        let um_per_s = Some(this.um_per_s(COARSE));
        for (goal_um, um_per_s) in [(range_um.1, um_per_s), (z_um, None), (range_um.0, um_per_s)] {
            this.legs.push_back(Leg { goal_um, um_per_s });
        }
        this
    }

    /// The same by sharpness alone: estimates have led to where they are not trusted.
    pub fn by_sharpness(self) -> Self {
        Self {
            hears_estimates: false,
            ..self
        }
    }

    /// Whether what the estimates say counts.
    pub fn hears_estimates(&self) -> bool {
        self.hears_estimates
    }

    /// Lowest and highest height that it goes to, µm.
    pub fn range_um(&self) -> (f64, f64) {
        self.range_um
    }

    fn um_per_s(&self, depths_per_frame: f64) -> f64 {
        self.near_um * (depths_per_frame / self.frame_s).min(MOST_PER_S)
    }

    /// A look of the newest way, exposed then; what it says of the estimates here.
    pub fn handle_look(
        &mut self,
        at: Instant,
        z_um: f64,
        sharpness: Option<f64>,
        sight: Option<&Sight>,
    ) -> Promise {
        // On a fast way a height is known no better than its time.
        if self.legs.front().is_none_or(|leg| leg.um_per_s.is_none()) {
            return Promise::None;
        }
        self.keep_pace(at, z_um);
        self.looks.extend(
            sharpness
                .filter(|sharpness| sharpness.is_finite())
                .map(|sharpness| (z_um, sharpness)),
        );
        // Farther away what is trusted now may not be at the next look.
        let is_near = |sight: &&Sight| sight.defocus_um.abs() <= self.far_um;
        let clear = sight
            .filter(|_| self.hears_estimates)
            .filter(|sight| sight.is_trusted && sight.is_sided && sight.has_distance)
            .filter(is_near);
        let focus_um = clear.map(|sight| (sight.z_um, sight.z_um - sight.defocus_um));
        let before = std::mem::replace(&mut self.sighted, focus_um);
        let Some((z_um, focus_um)) = focus_um else {
            return Promise::None;
        };
        let agrees = before.is_some_and(|(before_um, focus_before_um)| {
            let way_um = (z_um - before_um).abs();
            way_um >= 0.2 * self.near_um && (focus_um - focus_before_um).abs() <= 0.5 * way_um
        });
        if agrees {
            Promise::Kept
        } else if self.stops < MOST_STOPS && self.phase == Phase::Coarse {
            self.stops += 1;
            self.is_waiting = true;
            Promise::Given
        } else {
            Promise::None
        }
    }

    /// Frames that come slower than was reckoned with slow the sweep down.
    fn keep_pace(&mut self, at: Instant, z_um: f64) {
        let before = self.passed.replace((at, z_um));
        let Some((before, before_um)) = before else { return };
        if (z_um - before_um).abs() > GAP * self.near_um {
            self.frame_s = at
                .since(before)
                .as_secs_f64()
                .clamp(self.frame_s, SLOWEST_FRAME_S);
            let slower = self.um_per_s(COARSE);
            for leg in &mut self.legs {
                leg.um_per_s = leg.um_per_s.map(|um_per_s| um_per_s.min(slower));
            }
        }
    }

    /// The speed of the way that is under way now, µm/s; none for that of the stage.
    pub fn speed_um_per_s(&self) -> Option<f64> {
        self.legs.front().and_then(|leg| leg.um_per_s)
    }

    /// Whether the lens has to stand until a look at rest has told whether the estimates can be trusted here.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// They cannot: the sweep goes on.
    pub fn go_on(&mut self) {
        (self.is_waiting, self.tries, self.passed) = (false, 0, None);
    }

    /// What to do, of a lens that stands at `z_um`.
    pub fn next(&mut self, z_um: f64) -> Next {
        while let Some(leg) = self.legs.front().copied() {
            let is_leaving = matches!(self.phase, Phase::Leaving { .. });
            if (z_um - leg.goal_um).abs() <= THERE_UM || (is_leaving && z_um > leg.goal_um) {
                self.legs.pop_front();
                (self.tries, self.passed) = (0, None);
                continue;
            }
            self.tries += 1;
            if self.tries <= TRIES {
                return Next::Go(leg);
            }
            self.tries = 0;
            if is_leaving {
                self.legs.clear();
            } else {
                self.leave(NoPeak::Stuck);
            }
        }
        match self.phase {
            Phase::Coarse => self.go_past_peak(z_um),
            Phase::Fine => self.go_to_peak(z_um),
            Phase::Landing { sharpness } => Next::Compare(sharpness),
            Phase::Leaving { cause } => Next::Fail(cause),
        }
    }

    /// Whether the picture at rest is as sharp as it has to be; if not, the lens goes back.
    pub fn compare(&mut self, found: f64, needed: f64) -> bool {
        let is_kept = found >= KEPT * needed;
        if !is_kept {
            self.leave(NoPeak::Gone);
        }
        is_kept
    }

    fn go_past_peak(&mut self, z_um: f64) -> Next {
        match highest(&self.looks, self.range_um, COARSE * self.near_um) {
            Ok((peak_um, _)) => {
                self.phase = Phase::Fine;
                self.looks.clear();
                let around_um = AROUND * self.near_um;
                let um_per_s = Some(self.um_per_s(FINE));
                self.send(peak_um + around_um, None);
                self.send(peak_um - around_um, um_per_s);
            }
            Err(cause) => self.leave(cause),
        }
        self.next(z_um)
    }

    fn go_to_peak(&mut self, z_um: f64) -> Next {
        match vertex(&self.looks) {
            Ok((peak_um, sharpness)) => {
                self.phase = Phase::Landing { sharpness };
                let um_per_s = Some(self.um_per_s(FINE));
                // Down to it as it was seen, whatever the play of the drive.
                self.send(peak_um + ABOVE * self.near_um, None);
                self.send(peak_um, um_per_s);
            }
            Err(cause) => self.leave(cause),
        }
        self.next(z_um)
    }

    /// Back up to where it began; from above it the lens stays where it is.
    fn leave(&mut self, cause: NoPeak) {
        self.phase = Phase::Leaving { cause };
        self.legs.clear();
        self.send(self.start_um, None);
    }

    fn send(&mut self, goal_um: f64, um_per_s: Option<f64>) {
        let goal_um = goal_um.clamp(self.range_um.0, self.range_um.1);
        self.legs.push_back(Leg { goal_um, um_per_s });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::random::SplitMix64;

    const FRAME_S: f64 = 0.04;

    /// Sharpness of a specimen at `focus_um`: a gaussian on a floor.
    fn specimen(focus_um: f64) -> impl Fn(f64) -> Option<f64> {
        move |z_um| Some(1.0 + 4.0 * (-0.5 * ((z_um - focus_um) / 2.5_f64).powi(2)).exp())
    }

    /// Lets a lens follow the sweep exactly; what came of it, where the lens stands and the lowest it was.
    fn sweep(start_um: f64, sharpness: impl Fn(f64) -> Option<f64>) -> (Next, f64, f64) {
        let edges = ClassEdges::default();
        let mut sweep = Sweep::new((start_um, start_um), (-100.0, 300.0), FRAME_S, &edges);
        let (mut z_um, mut lowest_um) = (start_um, start_um);
        let mut at = Instant::default();
        for _ in 0..20 {
            match sweep.next(z_um) {
                Next::Go(leg) => {
                    let step_um = leg.um_per_s.unwrap_or(1e4) * FRAME_S;
                    assert!(
                        leg.goal_um >= start_um || leg.um_per_s.is_none_or(|speed| speed <= 100.1),
                        "{leg:?}"
                    );
                    while z_um != leg.goal_um {
                        z_um += (leg.goal_um - z_um).clamp(-step_um, step_um);
                        lowest_um = lowest_um.min(z_um);
                        at = at + Duration::from_secs_f64(FRAME_S);
                        sweep.handle_look(at, z_um, sharpness(z_um), None);
                    }
                }
                Next::Compare(needed) if !sweep.compare(sharpness(z_um).unwrap(), needed) => {}
                end => return (end, z_um, lowest_um),
            }
        }
        panic!("no end: {sweep:?}");
    }

    #[test]
    fn sharpness_finds_the_specimen_where_nothing_else_does() {
        for (start_um, focus_um) in [
            (0.0, 80.0),
            (0.0, -70.3),
            (60.0, -20.1),
            (-90.0, 12.7),
            (250.0, 140.4),
        ] {
            let (end, z_um, lowest_um) = sweep(start_um, specimen(focus_um));
            assert!(matches!(end, Next::Compare(_)), "{start_um} {focus_um}: {end:?}");
            assert!((z_um - focus_um).abs() < 0.2, "{focus_um}: stands at {z_um}");
            assert!(lowest_um >= -100.0);
        }
    }

    #[test]
    fn without_a_peak_the_lens_is_back_where_it_began_and_the_cause_is_named() {
        let noise = |z_um: f64| Some(2.0 + 0.1 * (97.0 * z_um).sin());
        let ramp = |z_um: f64| Some(1.0 + (0.02 * z_um).exp());
        for (name, expected, curve) in [
            ("noise", NoPeak::Flat, &noise as &dyn Fn(f64) -> Option<f64>),
            ("ramp", NoPeak::Edge, &ramp),
            ("nothing", NoPeak::Few, &|_| None),
        ] {
            let (end, z_um, _) = sweep(10.0, curve);
            assert_eq!(end, Next::Fail(expected), "{name}");
            assert!(z_um >= 10.0 - THERE_UM, "{name}: {z_um}");
        }
    }

    #[test]
    fn frames_that_differ_by_chance_are_no_peak() {
        for seed in 0..200 {
            let random = std::cell::RefCell::new(SplitMix64(seed));
            let blocks = |_| Some(1.0 + 3.0 * random.borrow_mut().bits() as f64 / u64::MAX as f64);
            let (end, z_um, _) = sweep(10.0, blocks);
            assert!(matches!(end, Next::Fail(_)), "{seed}: {end:?}");
            assert!(z_um >= 10.0 - THERE_UM);
        }
    }

    #[test]
    fn what_was_sharp_once_only_is_not_stood_at() {
        // Sharp at every look of the whole range, of that and of the way past the peak, and never again.
        for (looks, cause) in [(1, NoPeak::Edge), (12, NoPeak::Gone)] {
            let passed = std::cell::Cell::new(0);
            let fading = |z_um: f64| {
                passed.set(passed.get() + u32::from((z_um - 40.0_f64).abs() < 1.3));
                specimen(40.0)(z_um).map(|sharpness| if passed.get() <= looks { sharpness } else { 1.0 })
            };
            let (end, z_um, _) = sweep(0.0, fading);
            assert_eq!(end, Next::Fail(cause), "{looks}");
            assert!(z_um >= -THERE_UM, "{z_um}");
        }
    }

    #[test]
    fn two_looks_that_agree_end_it_and_dirt_that_moves_with_the_lens_does_not() {
        let mut sweep = Sweep::new((0.0, 0.0), (-100.0, 300.0), FRAME_S, &ClassEdges::default());
        let mut look = |z_um, defocus_um| {
            let sight = Sight::clear(z_um, defocus_um);
            sweep.handle_look(Instant::default(), z_um, None, Some(&sight))
        };
        for number in 0..MOST_STOPS {
            let z_um = 4.0 * f64::from(number);
            assert_eq!(look(z_um, 20.0), Promise::Given, "worth a look at rest");
        }
        assert_eq!(look(36.0, 20.0), Promise::None, "not for ever");
        assert_eq!(look(36.3, 20.3), Promise::None, "too near to the look before");
        assert_eq!(look(40.0, 24.0), Promise::Kept);
        assert_eq!(look(58.0, 42.0), Promise::None, "too far away");
        assert_eq!(look(62.0, 46.0), Promise::None);
    }

    #[test]
    fn frames_that_come_slower_slow_it_down() {
        let mut sweep = Sweep::new((0.0, 0.0), (-100.0, 300.0), FRAME_S, &ClassEdges::default());
        let fast = sweep.speed_um_per_s().unwrap();
        for tick in 0..4_u64 {
            let at = Instant::from_nanos(tick * 160_000_000);
            sweep.handle_look(at, 0.16 * fast * tick as f64, None, None);
        }
        assert!((sweep.speed_um_per_s().unwrap() - 0.25 * fast).abs() < 1e-6);
    }

    #[test]
    fn a_stage_that_does_not_move_ends_it() {
        let mut sweep = Sweep::new((0.0, 0.0), (-100.0, 300.0), FRAME_S, &ClassEdges::default());
        let ways = (0..20)
            .map(|_| sweep.next(0.0))
            .take_while(|next| matches!(next, Next::Go(_)));
        assert_eq!(ways.count(), TRIES as usize);
        assert_eq!(sweep.next(0.0), Next::Fail(NoPeak::Stuck));
    }
}
