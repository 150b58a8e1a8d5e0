//! Estimates in, velocity along z out.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, focus_controller};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| process.add(focus_controller::run))
}
