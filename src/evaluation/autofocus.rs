//! The control laws of this package beside the methods of other systems: the same fields, starts, stage and camera, in virtual time.
//!
//! [`response`] is what frames of a field show at every height, recorded once; [`content`] finds fields of three kinds. On a [`stand`] a
//! [`strategy`] runs from one start after the other; [`method`] lists which there are, with their settings, [`ours`] and those that
//! search for the sharpest frame or step by a network ([`search`]). [`summary`] is what came of it.
//!
//! Half of the starts lie 3.5 to 21 depths of field from focus (5 to 30 µm with a 40x/0.65), half 21 to 70 (30 to 100 µm), on either side.
//! Whoever searches a range is told it and 10 % more: 23 depths of field for the near half, 77 for the far one.

pub mod content;
pub mod method;
mod ours;
pub mod response;
mod search;
pub mod stand;
pub mod strategy;
pub mod summary;

use rayon::prelude::*;

use crate::focus::FocusConfigError;
use crate::objective::Objective;
use crate::random::SplitMix64;
use method::Method;
use response::Response;
use stand::{Run, Stand, StandError, Start};
use strategy::Durations;

/// Limits of the starts, depths of field: nearest, between near and far, farthest.
const STARTS_DEPTHS: [f64; 3] = [3.5, 21.0, 70.0];
/// How much farther than that is searched.
const SEARCHED: f64 = 1.1;

/// What is compared on what.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The lens.
    pub objective: Objective,
    /// Runs of every method, 1 or more.
    pub runs: usize,
    /// Seed of the starts, and of how camera and frames fall.
    pub seed: u64,
    /// How long the computer takes.
    pub durations: Durations,
    /// Play between motor and lens, µm.
    pub play_um: f64,
}

/// A run of a method on a field.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// The method.
    pub method: Method,
    /// The field.
    pub response: &'a Response,
    /// What came of it.
    pub run: Run,
}

impl Comparison {
    /// Runs every method from the same starts, which are dealt to the fields in turn; first each field's run that is not counted. `progress`
    /// hears of each run that is over.
    ///
    /// # Errors
    /// No runs or no fields; a stage that does not do what it is told.
    pub fn run<'a>(
        &self,
        methods: &[Method],
        responses: &'a [Response],
        progress: &(dyn Fn() + Sync),
    ) -> Result<Vec<Trial<'a>>, ComparisonError> {
        if self.runs == 0 {
            return Err(ComparisonError::NoRuns);
        }
        if responses.is_empty() {
            return Err(ComparisonError::NoFields);
        }
        let starts = self.starts();
        let chains: Vec<(Method, usize)> = methods
            .iter()
            .flat_map(|&method| (0..responses.len()).map(move |field| (method, field)))
            .collect();
        let trials: Vec<Vec<Trial>> = chains
            .into_par_iter()
            .map(|(method, field)| {
                let own = starts.iter().copied().skip(field).step_by(responses.len());
                self.chain(method, field, &responses[field], own, progress)
            })
            .collect::<Result<_, _>>()?;
        Ok(trials.into_iter().flatten().collect())
    }

    /// How many runs that are, with those that are not counted.
    pub fn total(&self, methods: &[Method], responses: &[Response]) -> usize {
        methods.len() * (self.runs + responses.len())
    }

    /// The runs of one method on one field.
    fn chain<'a>(
        &self,
        method: Method,
        field: usize,
        response: &'a Response,
        starts: impl Iterator<Item = Start>,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Vec<Trial<'a>>, ComparisonError> {
        let strategy = method.strategy(&self.objective)?;
        let seed = SplitMix64(self.seed ^ (field as u64 + 1)).bits();
        let mut stand = Stand::new(response, strategy, self.durations, self.play_um, seed)?;
        let depth_um = self.objective.depth_of_field_um();
        let [_, near, _] = STARTS_DEPTHS;
        let first = Start {
            defocus_um: 0.5 * near * depth_um,
            reach_um: SEARCHED * near * depth_um,
        };
        std::iter::once(first)
            .chain(starts)
            .map(|start| {
                let run = stand.run(start)?;
                progress();
                Ok(Trial {
                    method,
                    response,
                    run,
                })
            })
            .collect()
    }

    /// The starts, near and far in turn.
    fn starts(&self) -> Vec<Start> {
        let depth_um = self.objective.depth_of_field_um();
        let [nearest, near, far] = STARTS_DEPTHS;
        let mut random = SplitMix64(self.seed);
        let mut chance = move || (random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        (0..self.runs)
            .map(|run| {
                let (least, most) = if run % 2 == 0 {
                    (nearest, near)
                } else {
                    (near, far)
                };
                let away_um = depth_um * (least + (most - least) * chance());
                Start {
                    defocus_um: if chance() < 0.5 { away_um } else { -away_um },
                    reach_um: SEARCHED * most * depth_um,
                }
            })
            .collect()
    }
}

/// There is nothing to compare, or it cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    /// No runs.
    #[error("no run was asked for: choose 1 or more runs of each strategy")]
    NoRuns,
    /// No fields.
    #[error("no field to focus on was recorded: choose 1 or more slides")]
    NoFields,
    /// The stand.
    #[error(transparent)]
    Stand(#[from] StandError),
    /// Our laws.
    #[error(transparent)]
    Config(#[from] FocusConfigError),
}

#[cfg(test)]
mod tests;
