//! `hhnet bench`: how long decisions take, and how whole runs compare with those of other methods.

mod autofocus;
mod decision;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// As for `decision`.
    #[command(flatten)]
    decision: Option<decision::Arguments>,
}

#[derive(Subcommand)]
enum Command {
    /// How long one decision takes; what is measured if nothing is named.
    Decision(decision::Arguments),
    /// Runs of the control laws beside those of published methods, on one virtual microscope.
    Autofocus(autofocus::Arguments),
}

/// Measures what is named.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match (&arguments.command, &arguments.decision) {
        (Some(Command::Autofocus(arguments)), _) => autofocus::run(arguments),
        (Some(Command::Decision(arguments)), _) | (None, Some(arguments)) => decision::run(arguments),
        (None, None) => {
            bail!("say what to measure: hhnet bench decision --model M, or hhnet bench autofocus")
        }
    }
}
