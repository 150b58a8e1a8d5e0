//! Frames from the virtual microscope, a folder or a recorded stack.

use std::process::ExitCode;

use hhnet::nodes::{SECTIONS, camera};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| {
        process.add(|app| camera::run(app, None, Vec::new()))
    })
}
