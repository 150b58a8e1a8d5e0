//! All nodes in one process; frames are handed over without copying.
//!
//! The virtual microscope runs unless `sim_microscope.enabled` is false; with a camera source other than `sim` it is a stage
//! alone and renders nothing.

use std::process::ExitCode;

use hhnet::nodes::frames::hand_over;
use hhnet::nodes::{
    SECTIONS, calibrator, camera, classifier, focus_controller, sim_microscope, stepper_bridge,
};

fn main() -> ExitCode {
    hhnet::ros::app::main(SECTIONS, |process| {
        let (sim_out, sim_in) = hand_over();
        let (camera_out, camera_in) = hand_over();
        let (calibration_out, calibration_in) = hand_over();
        // The bridge needs its port until the stage stands.
        process.add_last(|app| sim_microscope::run(app, Some(sim_out)));
        process.add(|app| camera::run(app, Some(sim_in), vec![camera_out, calibration_out]));
        process.add(|app| classifier::run(app, Some(camera_in)));
        process.add(|app| calibrator::run(app, Some(calibration_in)));
        process.add(focus_controller::run);
        process.add(stepper_bridge::run);
    })
}
