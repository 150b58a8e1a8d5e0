//! The virtual microscope: camera, and a stage behind a pseudo-terminal.

use std::process::ExitCode;

use hhnet::nodes::sim_microscope;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(sim_microscope::run(process.app(), None)))
}
