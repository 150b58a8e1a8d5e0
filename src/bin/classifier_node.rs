//! One focus estimate for the newest frame.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, classifier};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| process.add(|app| classifier::run(app, None)))
}
