//! One focus estimate for the newest frame.

use std::process::ExitCode;

use hhnet::nodes::classifier;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(|app| classifier::run(app, None)))
}
