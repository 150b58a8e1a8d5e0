//! The virtual microscope: camera, and a stage behind a pseudo-terminal.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, sim_microscope};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| {
        process.add(|app| sim_microscope::run(app, None))
    })
}
