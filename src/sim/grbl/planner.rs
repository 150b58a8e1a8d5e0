//! How GRBL turns lines into motion: a queue of straight blocks, planned to end in a stop, cut into short segments.
//!
//! After `planner.c` and `stepper.c` of gnea/grbl 1.1h. Blocks are rounded to whole steps; one that is shorter than a
//! step vanishes. Segments last up to 10 ms, end where a block ends, and cannot be recalled: this is why a real
//! controller runs on for about 50 ms before it begins to brake.

use std::collections::VecDeque;

/// Duration of a motion segment, s.
pub const SEGMENT_S: f64 = 0.01;

/// Segments computed ahead, the one being executed included (a ring of 6 holds 5).
pub const SEGMENTS_AHEAD: usize = 5;

/// Blocks the planner holds.
pub const BLOCKS: usize = 15;

/// Slowest speed the planner plans with (`MINIMUM_FEED_RATE`, 1 mm/min), mm/s.
const MIN_MM_PER_S: f64 = 1.0 / 60.0;

/// What the machine can do, from its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Steps per millimetre (`$100..102`).
    pub steps_per_mm: [f64; 3],
    /// Highest speed, mm/s (`$110..112`, there mm/min).
    pub mm_per_s: [f64; 3],
    /// Acceleration, mm/s² (`$120..122`).
    pub mm_per_s2: [f64; 3],
    /// Junction deviation, mm (`$11`).
    pub junction_mm: f64,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    direction: [f64; 3],
    remaining_mm: f64,
    end_steps: [i64; 3],
    nominal: f64,
    acceleration: f64,
    max_entry: f64,
}

/// A stretch of motion that is now committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// How long it takes, s.
    pub seconds: f64,
    /// Where it ends, mm.
    pub to_mm: [f64; 3],
}

/// The queue, and the speed and place up to which motion has been cut into segments.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    blocks: VecDeque<Block>,
    /// Where the last queued block ends.
    end_steps: [i64; 3],
    /// Where the last segment ends, mm.
    at_mm: [f64; 3],
    /// Speed there, mm/s.
    speed: f64,
}

/// What came of queueing a motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It will be executed.
    Motion,
    /// Shorter than a step: nothing to do.
    Nothing,
}

impl Planner {
    /// Standing at `steps` with nothing queued.
    pub fn at(steps: [i64; 3], limits: &Limits) -> Self {
        let mut at_mm = [0.0; 3];
        for axis in 0..3 {
            at_mm[axis] = steps[axis] as f64 / limits.steps_per_mm[axis];
        }
        Self {
            blocks: VecDeque::new(),
            end_steps: steps,
            at_mm,
            speed: 0.0,
        }
    }

    /// Whether another block has to wait.
    pub fn is_full(&self) -> bool {
        self.blocks.len() >= BLOCKS
    }

    /// Whether everything queued has been cut into segments.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Free places.
    pub fn free(&self) -> usize {
        BLOCKS - self.blocks.len().min(BLOCKS)
    }

    /// Speed at the end of the last segment, mm/s: what a real controller reports as its feed.
    pub fn mm_per_s(&self) -> f64 {
        self.speed
    }

    /// Queues a straight line to `target_mm` at `mm_per_s`, or at the machine's limit if that is `None`.
    pub fn push(&mut self, target_mm: [f64; 3], mm_per_s: Option<f64>, limits: &Limits) -> Queued {
        let mut end_steps = [0; 3];
        let mut delta = [0.0; 3];
        for axis in 0..3 {
            end_steps[axis] = (target_mm[axis] * limits.steps_per_mm[axis]).round() as i64;
            delta[axis] = (end_steps[axis] - self.end_steps[axis]) as f64 / limits.steps_per_mm[axis];
        }
        if end_steps == self.end_steps {
            return Queued::Nothing;
        }
        let length = delta.iter().map(|d| d * d).sum::<f64>().sqrt();
        let direction = delta.map(|d| d / length);
        let by_axis = |limit: [f64; 3]| {
            (0..3)
                .map(|axis| limit[axis] / direction[axis].abs())
                .fold(f64::INFINITY, f64::min)
        };
        let rapid = by_axis(limits.mm_per_s);
        let nominal = mm_per_s.map_or(rapid, |speed| speed.clamp(MIN_MM_PER_S, rapid.max(MIN_MM_PER_S)));
        let acceleration = by_axis(limits.mm_per_s2);
        let max_entry = self.blocks.back().map_or(0.0, |last| {
            junction_speed(last.direction, direction, acceleration, limits.junction_mm)
                .min(last.nominal)
                .min(nominal)
        });
        self.end_steps = end_steps;
        self.blocks.push_back(Block {
            direction,
            remaining_mm: length,
            end_steps,
            nominal,
            acceleration,
            max_entry,
        });
        Queued::Motion
    }

    /// Cuts the next segment, slowing down to stop at the end of the queue; `None` when all is done.
    pub fn cut(&mut self, limits: &Limits) -> Option<Segment> {
        let exit = self.exit_speed();
        let block = self.blocks.front_mut()?;
        let mut left = SEGMENT_S;
        while left > 1e-12 && block.remaining_mm > 1e-9 {
            let (seconds, mm, speed) = advance(
                self.speed,
                block.remaining_mm,
                block.nominal,
                exit,
                block.acceleration,
                left,
            );
            left -= seconds;
            block.remaining_mm -= mm;
            self.speed = speed;
            if seconds <= 0.0 && mm <= 0.0 {
                block.remaining_mm = 0.0;
            }
        }
        Some(self.segment(SEGMENT_S - left, limits))
    }

    /// Cuts the next segment of braking to a stop as soon as possible; `None` once stopped.
    pub fn cut_braking(&mut self, limits: &Limits) -> Option<Segment> {
        let block = self.blocks.front_mut()?;
        if self.speed <= 0.0 {
            return None;
        }
        let mut seconds = SEGMENT_S.min(self.speed / block.acceleration);
        let mut mm = self.speed * seconds - 0.5 * block.acceleration * seconds * seconds;
        if mm > block.remaining_mm {
            mm = block.remaining_mm;
            let end_speed = (self.speed * self.speed - 2.0 * block.acceleration * mm)
                .max(0.0)
                .sqrt();
            seconds = (self.speed - end_speed) / block.acceleration;
        }
        block.remaining_mm -= mm;
        self.speed = (self.speed - block.acceleration * seconds).max(0.0);
        if self.speed < 1e-9 {
            self.speed = 0.0;
        }
        Some(self.segment(seconds, limits))
    }

    /// Closes a segment at the present place, dropping the block if it is finished.
    fn segment(&mut self, seconds: f64, limits: &Limits) -> Segment {
        if let Some(block) = self.blocks.front() {
            for axis in 0..3 {
                let end = block.end_steps[axis] as f64 / limits.steps_per_mm[axis];
                self.at_mm[axis] = end - block.direction[axis] * block.remaining_mm.max(0.0);
            }
            if block.remaining_mm <= 1e-9 {
                self.blocks.pop_front();
            }
        }
        if self.blocks.is_empty() {
            self.speed = 0.0;
        }
        Segment {
            seconds,
            to_mm: self.at_mm,
        }
    }

    /// Highest speed at the end of the first block from which the rest of the queue can still stop.
    fn exit_speed(&self) -> f64 {
        let mut exit: f64 = 0.0;
        for block in self.blocks.iter().skip(1).rev() {
            let reachable = (exit * exit + 2.0 * block.acceleration * block.remaining_mm).sqrt();
            exit = reachable.min(block.max_entry);
        }
        exit
    }
}

/// Speed at which the corner between two directions may be passed (junction deviation), mm/s.
fn junction_speed(before: [f64; 3], after: [f64; 3], acceleration: f64, junction_mm: f64) -> f64 {
    let cos = -before.iter().zip(after).map(|(a, b)| a * b).sum::<f64>();
    if cos > 0.999_999 {
        0.0
    } else if cos < -0.999_999 {
        f64::INFINITY
    } else {
        let sin_half = (0.5 * (1.0 - cos)).sqrt();
        (acceleration * junction_mm * sin_half / (1.0 - sin_half)).sqrt()
    }
}

/// One phase of a trapezoid, at most `limit_s` long: its duration, length and final speed.
fn advance(speed: f64, mm: f64, nominal: f64, exit: f64, a: f64, limit_s: f64) -> (f64, f64, f64) {
    let braking_mm = ((speed * speed - exit * exit) / (2.0 * a)).max(0.0);
    let ramp = |seconds: f64, acceleration: f64| {
        let used = seconds.min(limit_s);
        let end = (speed + acceleration * used).max(0.0);
        (used, ((speed + end) * 0.5 * used).min(mm), end)
    };
    if braking_mm >= mm - 1e-9 && speed > exit {
        // At the braking curve: spend the rest of the block on it exactly.
        let seconds = 2.0 * mm / (speed + exit);
        if seconds <= limit_s {
            return (seconds, mm, exit);
        }
        return ramp(seconds, -(speed * speed - exit * exit) / (2.0 * mm));
    }
    if speed < nominal {
        let peak = ((speed * speed + exit * exit) * 0.5 + a * mm).sqrt().min(nominal);
        if peak > speed {
            let seconds = (peak - speed) / a;
            let (used, moved, end) = ramp(seconds, a);
            return (used, moved, if used >= seconds { peak } else { end });
        }
    }
    if speed > nominal {
        return ramp((speed - nominal) / a, -a);
    }
    let cruise_mm = mm - braking_mm;
    let used = (cruise_mm / speed).min(limit_s);
    (used, (speed * used).min(mm), speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        steps_per_mm: [250.0; 3],
        mm_per_s: [50.0; 3],
        mm_per_s2: [100.0; 3],
        junction_mm: 0.01,
    };

    fn run(planner: &mut Planner) -> (f64, [f64; 3], f64) {
        let (mut seconds, mut at, mut fastest) = (0.0, planner.at_mm, 0.0f64);
        for _ in 0..100_000 {
            let Some(segment) = planner.cut(&LIMITS) else {
                return (seconds, at, fastest);
            };
            seconds += segment.seconds;
            at = segment.to_mm;
            fastest = fastest.max(planner.mm_per_s());
        }
        panic!("motion without end");
    }

    #[test]
    fn a_block_takes_the_time_of_its_trapezoid() {
        for (mm, speed, expected_s) in [
            (10.0, 10.0, 1.1),
            (0.1, 10.0, 2.0 * 0.001f64.sqrt()),
            (-1.0, 1.0, 1.01),
        ] {
            let mut planner = Planner::at([0; 3], &LIMITS);
            assert_eq!(planner.push([0.0, 0.0, mm], Some(speed), &LIMITS), Queued::Motion);
            let (seconds, at, fastest) = run(&mut planner);
            assert!((seconds - expected_s).abs() < 1e-6, "{mm} mm: {seconds} s");
            assert_eq!(at[2], mm);
            assert!(fastest <= speed + 1e-9);
        }
    }

    #[test]
    fn chained_blocks_do_not_stop_and_reversals_do() {
        let mut planner = Planner::at([0; 3], &LIMITS);
        for step in 1..=10 {
            planner.push([0.0, 0.0, f64::from(step) * 0.1], Some(1.0), &LIMITS);
        }
        let (seconds, ..) = run(&mut planner);
        assert!((seconds - 1.01).abs() < 1e-6, "{seconds}");
        planner.push([0.0, 0.0, 2.0], Some(1.0), &LIMITS);
        planner.push([0.0, 0.0, 1.0], Some(1.0), &LIMITS);
        let (seconds, at, _) = run(&mut planner);
        assert!((seconds - 2.02).abs() < 1e-6 && at[2] == 1.0, "{seconds} {at:?}");
    }

    #[test]
    fn less_than_a_step_is_nothing() {
        let mut planner = Planner::at([0; 3], &LIMITS);
        assert_eq!(
            planner.push([0.0, 0.0, 0.0019], Some(1.0), &LIMITS),
            Queued::Nothing
        );
        assert_eq!(
            planner.push([0.0, 0.0, 0.0021], Some(1.0), &LIMITS),
            Queued::Motion
        );
    }

    #[test]
    fn braking_spans_blocks() {
        let mut planner = Planner::at([0; 3], &LIMITS);
        for step in 1..=10 {
            planner.push([0.0, 0.0, f64::from(step)], Some(10.0), &LIMITS);
        }
        let mut before = 0.0;
        for _ in 0..30 {
            before = planner.cut(&LIMITS).unwrap().to_mm[2];
        }
        let mut after = before;
        while let Some(segment) = planner.cut_braking(&LIMITS) {
            after = segment.to_mm[2];
        }
        assert!((after - before - 0.5).abs() < 1e-6, "{}", after - before);
    }
}
