//! Estimates in, velocity along z out.

use std::process::ExitCode;

use hhnet::nodes::focus_controller;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(focus_controller::run))
}
