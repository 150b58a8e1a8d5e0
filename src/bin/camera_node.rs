//! Frames from the virtual microscope, a folder or a recorded stack.

use std::process::ExitCode;

use hhnet::nodes::camera;

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| process.add(|app| camera::run(app, None, None)))
}
