//! Measures properties of the microscope and puts them in force.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, calibrator};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| process.add(|app| calibrator::run(app, None)))
}
