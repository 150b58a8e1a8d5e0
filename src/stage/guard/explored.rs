//! Every state that a guard can come into, whatever happens in whatever order, and every command in each: breadth first until nothing new
//! is found. Time stands, and the past recedes. What the guard says is compared with what follows from the rules alone: a stop holds until it is
//! released or outlived, an axis counts once it is vouched for, a limit is passed inwards only.

use std::collections::HashSet;

use super::*;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
/// Permitted heights, and where the stage may be: beyond the limits, at them, within.
const RANGE_UM: (f64, f64) = (-100.0, 300.0);
const HEIGHTS_UM: [f64; 7] = [-130.0, -99.0, -98.0, 0.0, 290.0, 299.0, 320.0];
const PACE: Pace = Pace {
    slowest_um_per_s: 0.01,
    fastest_um_per_s: 800.0,
};

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many ms go by.
    Pass(u64),
    /// A velocity, µm/s, decided so many ms ago, or yet to come.
    Velocity(f64, i64),
    /// A height to drive to, or to move to.
    Target(f64),
    Move(f64),
    /// A move along x.
    Aside,
    /// A velocity while the controller cannot move.
    Unready,
    Stop,
    Release,
    Distrust,
    Lose,
    Withdraw,
    Vouch([bool; 3]),
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Pass(100),
        Event::Pass(600),
        Event::Aside,
        Event::Unready,
        Event::Stop,
        Event::Release,
        Event::Distrust,
        Event::Lose,
        Event::Withdraw,
        Event::Vouch([true; 3]),
        Event::Vouch([false, false, true]),
        Event::Vouch([true, true, false]),
    ];
    for um_per_s in [-1e4, -20.0, 0.0, 20.0, 1e4] {
        events.extend([0, 150, 250, -40, -60].map(|ago_ms| Event::Velocity(um_per_s, ago_ms)));
    }
    events.extend(HEIGHTS_UM.map(Event::Target));
    events.extend(HEIGHTS_UM.map(Event::Move));
    events
}

/// A guard, where its stage stands, and what the rules make of what happened to them.
#[derive(Clone)]
struct State {
    guard: Guard,
    z_um: f64,
    /// A stop was called, and neither released nor outlived by half a second without a command.
    is_stopped: bool,
    /// What was vouched for since it was lost.
    known: [bool; 3],
    /// How it came about.
    path: Vec<Event>,
}

impl State {
    fn silence(&self) -> Duration {
        NOW.since(self.guard.heard_at)
    }

    /// What tells it from others; what only counts or only explains does not.
    fn print(&self) -> String {
        let Guard {
            is_held,
            valid,
            is_broken,
            ..
        } = self.guard;
        let (silence, z_um) = (self.silence(), self.z_um);
        let rules = (self.is_stopped, self.known);
        format!("{is_held} {valid:?} {is_broken} {silence:?} {z_um} {rules:?}")
    }

    fn happen(&mut self, event: Event) {
        self.path.push(event);
        match event {
            Event::Pass(ms) => self.pass(ms),
            Event::Velocity(um_per_s, ago_ms) => self.ask_velocity(um_per_s, ago_ms, Ok(())),
            Event::Unready => self.ask_velocity(20.0, 0, Err(Refusal::Busy)),
            Event::Target(z_um) => self.ask_target(z_um),
            Event::Move(z_um) => self.ask_move(z_um),
            Event::Aside => self.ask_aside(),
            Event::Stop => {
                self.guard.stop(NOW);
                self.is_stopped = true;
            }
            Event::Release => {
                self.guard.release();
                self.is_stopped = false;
            }
            Event::Distrust | Event::Lose => {
                match event {
                    Event::Lose => self.guard.lose("for once"),
                    _ => self.guard.distrust("for once"),
                }
                self.known = [false; 3];
            }
            Event::Withdraw => self.guard.withdraw(),
            Event::Vouch(axes) => {
                self.guard.vouch(axes);
                self.known = std::array::from_fn(|axis| self.known[axis] || axes[axis]);
            }
        }
        assert_eq!(self.guard.valid(), self.known, "{:?}", self.path);
    }

    fn pass(&mut self, ms: u64) {
        // Half a second and more are alike.
        let silence = (self.silence() + Duration::from_millis(ms)).min(Duration::from_millis(501));
        self.guard.heard_at = NOW.before(silence);
    }

    /// Whether a velocity that is asked for now may move the stage.
    fn may_stream(&mut self) -> bool {
        self.is_stopped &= self.silence() <= Duration::from_millis(500);
        !self.is_stopped && self.known[2]
    }

    fn ask_velocity(&mut self, um_per_s: f64, ago_ms: i64, ready: Result<(), Refusal>) {
        let ago = Duration::from_millis(ago_ms.unsigned_abs());
        let stamp = if ago_ms < 0 { NOW + ago } else { NOW.before(ago) };
        let is_of_now = (-50..=200).contains(&ago_ms);
        let may_move = self.may_stream() && ready.is_ok();
        let outcome = self.guard.check_velocity(um_per_s, stamp, NOW, ready, PACE);
        let expected = is_of_now && (um_per_s == 0.0 || may_move);
        assert_eq!(outcome.is_ok(), expected, "{outcome:?}, {:?}", self.path);
        let speed = outcome.unwrap_or_default();
        assert!(
            (-500.0..=800.0).contains(&speed) && speed * um_per_s >= 0.0,
            "{speed}"
        );
    }

    fn ask_target(&mut self, to_um: f64) {
        let expected = self.may_stream() && self.is_inwards(to_um);
        let way = (self.z_um, to_um);
        let outcome = self.guard.check_target(way, 100.0, NOW, NOW, Ok(()), PACE);
        assert_eq!(outcome.is_ok(), expected, "{outcome:?}, {:?}", self.path);
        if expected {
            self.z_um = to_um;
        }
    }

    fn ask_move(&mut self, to_um: f64) {
        let by_um = to_um - self.z_um;
        let expected = if self.known[2] {
            self.is_inwards(to_um)
        } else {
            (0.0..=500.0).contains(&by_um)
        };
        let outcome = self
            .guard
            .check_move([0.0, 0.0, self.z_um], [0.0, 0.0, by_um], 900.0, Ok(()));
        assert_eq!(outcome.is_ok(), expected, "{outcome:?}, {:?}", self.path);
        let Ok(speed) = outcome else { return };
        let most_um_per_s = match by_um {
            _ if by_um == 0.0 => 900.0,
            _ if !self.known[2] => BLIND_UM_PER_S,
            // Near the slide what can be gone in a quarter of a second, down to a crawl.
            _ if by_um < 0.0 => ((to_um - RANGE_UM.0) / 0.25).clamp(30.0, 500.0),
            _ => 900.0,
        };
        assert!(speed <= most_um_per_s + 1e-9, "{speed} µm/s, {:?}", self.path);
        self.z_um = to_um;
    }

    fn ask_aside(&mut self) {
        let expected = self.known[0] && self.known[2];
        let outcome = self
            .guard
            .check_move([0.0, 0.0, self.z_um], [10.0, 0.0, 0.0], 100.0, Ok(()));
        assert_eq!(outcome.is_ok(), expected, "{outcome:?}, {:?}", self.path);
    }

    /// Whether the way leads to a permitted height, or back towards one.
    fn is_inwards(&self, to_um: f64) -> bool {
        let (low_um, high_um) = (RANGE_UM.0 + 1.0, RANGE_UM.1 - 1.0);
        (to_um >= low_um || to_um >= self.z_um) && (to_um <= high_um || to_um <= self.z_um)
    }
}

#[test]
fn every_state_is_as_the_rules_have_it_and_none_is_the_last() {
    let config = StageConfig {
        z_range_um: RANGE_UM,
        ..StageConfig::default()
    };
    let mut guard = Guard::new(config).unwrap();
    guard.heard_at = NOW;
    let start = State {
        guard,
        z_um: 0.0,
        is_stopped: false,
        known: [false; 3],
        path: Vec::new(),
    };
    let mut met = HashSet::from([start.print()]);
    let mut open = vec![start];
    let (mut transitions, mut deepest) = (0, 0);
    while let Some(depth) = open.first().map(|state| state.path.len()) {
        deepest = depth;
        let mut next = Vec::new();
        for state in &open {
            for event in events() {
                let mut state = state.clone();
                state.happen(event);
                transitions += 1;
                if met.insert(state.print()) {
                    next.push(state);
                }
            }
            // Silence and an operator's word, and it obeys again.
            let mut last = state.clone();
            for event in [
                Event::Pass(600),
                Event::Vouch([true; 3]),
                Event::Velocity(20.0, 0),
                Event::Move(0.0),
            ] {
                last.happen(event);
            }
            assert!(last.z_um == 0.0 && !last.is_stopped, "{:?}", state.path);
        }
        open = next;
    }
    // Other numbers are other rules, or other events.
    assert_eq!((met.len(), transitions, deepest), (672, 34_272, 10));
}
