//! All nodes in one process; frames are handed over without copying.
//!
//! The virtual microscope runs unless `sim_microscope.enabled` is false; with a camera source other than `sim` it is a stage
//! alone and renders nothing.

use std::process::ExitCode;

use hhnet::nodes::frames::hand_over;
use hhnet::nodes::{camera, classifier, focus_controller, sim_microscope, stepper_bridge};

fn main() -> ExitCode {
    hhnet::ros::app::main(|process| {
        let (sim_out, sim_in) = hand_over();
        let (camera_out, camera_in) = hand_over();
        let app = process.app();
        process.add(sim_microscope::run(app.clone(), Some(sim_out)));
        process.add(camera::run(app.clone(), Some(sim_in), Some(camera_out)));
        process.add(classifier::run(app.clone(), Some(camera_in)));
        process.add(focus_controller::run(app.clone()));
        process.add(stepper_bridge::run(app));
    })
}
