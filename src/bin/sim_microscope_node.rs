//! The virtual microscope: camera, and a stage behind a pseudo-terminal.

use std::process::ExitCode;

use hhnet::nodes::sim_microscope;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(|app| sim_microscope::run(app, None)))
}
