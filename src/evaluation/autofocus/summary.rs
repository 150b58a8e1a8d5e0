//! What came of the runs, in numbers.
//!
//! A run is a success if it says that it is in focus and the next picture is taken within one depth of field of focus; it is false in focus
//! if it says so and is farther off; the rest are declared failures. Times are of all runs, errors of those that say they are in focus. A first
//! move is wrong if the lens goes a micrometre the other way before it goes one towards focus.

use serde_json::{Map, Value, json};

use super::Trial;
use super::content::Content;
use super::method::Method;
use super::stand::Run;
use super::strategy::End;
use crate::statistics::{median, quantile, sorted};

/// Farthest that a success ends from focus, depths of field.
const SUCCESS_DEPTHS: f64 = 1.0;
/// Half of the depth of field lies on either side of focus.
const SHARP_DEPTHS: f64 = 0.5;

/// Some runs of one method.
#[derive(Clone, Debug)]
pub struct Summary<'a> {
    depth_um: f64,
    runs: Vec<&'a Run>,
}

impl<'a> Summary<'a> {
    /// Of those runs that were not the first of their stage.
    fn of(trials: impl Iterator<Item = &'a Trial<'a>>, depth_um: f64) -> Self {
        Self {
            depth_um,
            runs: trials
                .map(|trial| &trial.run)
                .filter(|run| !run.is_first)
                .collect(),
        }
    }

    fn errors_depths(&self) -> Vec<f64> {
        let declared = self.runs.iter().filter(|run| run.end == End::InFocus);
        sorted(declared.map(|run| run.error_um.abs() / self.depth_um))
    }

    fn count(&self, holds: impl Fn(&Run) -> bool) -> usize {
        self.runs.iter().filter(|run| holds(run)).count()
    }

    /// As JSON; quantiles of nothing are null.
    pub fn report(&self) -> Value {
        let errors = self.errors_depths();
        let within = |depths: f64| errors.partition_point(|error| *error <= depths);
        let share = |count: usize| (!self.runs.is_empty()).then(|| count as f64 / self.runs.len() as f64);
        let successes = within(SUCCESS_DEPTHS);
        let times = sorted(self.runs.iter().map(|run| run.took_s));
        let deep = sorted(self.runs.iter().map(|run| run.overshoot_um));
        let is_wrong = |run: &Run, way: f64| run.first_move == Some(way) && run.began_um.signum() == way;
        json!({
            "runs": self.runs.len(),
            "success": share(successes).map(rounded),
            "sharp": share(within(SHARP_DEPTHS)).map(rounded),
            "declared_failures": self.count(|run| run.end != End::InFocus),
            "false_in_focus": errors.len() - successes,
            "time_s": quantiles(&times),
            "final_error_dof": quantiles(&errors),
            "final_error_um": quantiles(&errors.iter().map(|error| error * self.depth_um).collect::<Vec<_>>()),
            "wrong_first_moves": self.count(|run| is_wrong(run, 1.0) || is_wrong(run, -1.0)),
            "wrong_first_moves_towards_slide": self.count(|run| is_wrong(run, -1.0)),
            "overshoot_um": deep.last().copied().map(rounded),
            "overshoot_um_p99": quantile(&deep, 0.99).map(rounded),
            "frames": median(self.runs.iter().map(|run| run.frames as f64)),
        })
    }
}

/// Every method's summary by name: of all runs and of those from within 21 depths of field of focus (30 µm with the 40x/0.65), of both by
/// kind of field as well; the median time of first runs, and why runs failed.
pub fn report(trials: &[Trial], depth_um: f64) -> Value {
    let methods = Method::ALL.into_iter().filter_map(|method| {
        let own: Vec<&Trial> = trials.iter().filter(|trial| trial.method == method).collect();
        (!own.is_empty()).then(|| (method.name().to_owned(), of_method(&own, depth_um)))
    });
    Value::Object(methods.collect())
}

fn of_method(trials: &[&Trial], depth_um: f64) -> Value {
    let of = |chosen: &dyn Fn(&Trial) -> bool| {
        Summary::of(trials.iter().copied().filter(|trial| chosen(trial)), depth_um).report()
    };
    let [_, near, _] = super::STARTS_DEPTHS;
    let is_near = |trial: &Trial| trial.run.start.defocus_um.abs() <= near * depth_um;
    let by_content = |chosen: &dyn Fn(&Trial) -> bool| -> Value {
        let each = |content: Content| of(&|trial| trial.response.content() == content && chosen(trial));
        Content::ALL
            .into_iter()
            .map(|content| (content.name().to_owned(), each(content)))
            .collect()
    };
    let mut report = of(&|_| true);
    report["content"] = by_content(&|_| true);
    report["within_30_um"] = of(&is_near);
    report["within_30_um"]["content"] = by_content(&is_near);
    let first = trials.iter().filter(|trial| trial.run.is_first);
    report["first_time_s"] = median(first.map(|trial| trial.run.took_s)).map(rounded).into();
    report["failures"] = failures(trials);
    report
}

/// How often each reason was given; numbers in it count as equal.
fn failures(trials: &[&Trial]) -> Value {
    let mut counts = Map::new();
    for trial in trials {
        let End::Failed(reason) = &trial.run.end else {
            continue;
        };
        let reason: String = reason
            .split_inclusive(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
            .map(|part| part.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.'))
            .collect();
        let count = counts.get(&reason).and_then(Value::as_u64).unwrap_or(0) + 1;
        counts.insert(reason, count.into());
    }
    Value::Object(counts)
}

fn quantiles(sorted: &[f64]) -> Value {
    let of = |part| quantile(sorted, part).map(rounded);
    json!({
        "median": median(sorted.iter().copied()).map(rounded),
        "p95": of(0.95),
        "p99": of(0.99),
    })
}

/// To what a reader can use: a thousandth.
fn rounded(value: f64) -> f64 {
    (1000.0 * value).round() / 1000.0
}
