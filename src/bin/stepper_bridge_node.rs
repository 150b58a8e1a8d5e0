//! Velocity commands to a motion controller on a serial port.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, stepper_bridge};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| process.add(stepper_bridge::run))
}
