//! Velocity commands to a motion controller on a serial port.

use std::process::ExitCode;

use hhnet::nodes::stepper_bridge;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(stepper_bridge::run))
}
