//! The nodes: parameters, core, a loop over what can happen, messages. Each is an async function that runs until the
//! process stops; `bin/` decides which share a process.

mod calibration;
pub mod calibrator;
pub mod camera;
pub mod classifier;
mod commanders;
pub mod demand;
mod flat_field;
pub mod focus_controller;
pub mod frames;
mod in_force;
pub mod microscope;
mod move_goals;
mod recorded;
pub mod sim_microscope;
mod stage_waits;
pub mod stamps;
pub mod stepper_bridge;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use r2r::sensor_msgs::msg::JointState;

use crate::drivers::position_store::PositionStore;
use crate::drivers::runtime_dir::{RuntimeDirError, runtime_dir, state_dir};
use crate::ros::params::{Parameters as _, Sections};
use crate::units::Micrometres;

/// Sections of a parameter file.
pub const SECTIONS: Sections = &[
    camera::CameraParameters::SECTION,
    classifier::ClassifierParameters::SECTION,
    focus_controller::FocusControllerParameters::SECTION,
    stepper_bridge::StepperBridgeParameters::SECTION,
    calibrator::CalibratorParameters::SECTION,
    sim_microscope::SimMicroscopeParameters::SECTION,
    microscope::MicroscopeParameters::SECTION,
];

/// Height of the lens in a joint state: position of joint `z`, m, if it is there and known.
fn stage_z(state: &JointState) -> Option<Micrometres> {
    let index = state.name.iter().position(|name| name == "z")?;
    let z = *state.position.get(index)?;
    z.is_finite().then(|| Micrometres::from_metres(z))
}

/// A coordinate frame of the microscope in a namespace: `lab1/z` in `/lab1`. Frames share one tree per ROS domain, where two
/// microscopes must not meet.
fn frame_in(namespace: &str, frame: &str) -> Arc<str> {
    match namespace.trim_matches('/') {
        "" => frame.into(),
        scope => format!("{scope}/{frame}").into(),
    }
}

/// Where the virtual stage of a namespace offers its port, unless a parameter says otherwise: a name that two microscopes,
/// two users or two ROS domains do not share, in a folder where no other user can lay a link.
fn virtual_port(namespace: &str) -> Result<PathBuf, RuntimeDirError> {
    let domain = std::env::var("ROS_DOMAIN_ID").unwrap_or_else(|_| "0".to_owned());
    let scope = namespace.trim_matches('/').replace('/', "-");
    let separator = if scope.is_empty() { "" } else { "-" };
    Ok(runtime_dir()?.join(format!("{domain}{separator}{scope}-stage")))
}

/// What is remembered of the motion controller on a port; nothing, and a line in the log, where there is no place for it.
fn position_store(port: &Path) -> PositionStore {
    match state_dir() {
        Ok(folder) => PositionStore::of_port(&folder, port),
        Err(error) => {
            tracing::warn!("the position cannot be remembered from one start to the next: {error}");
            PositionStore::none()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ros::params::to_markdown;

    #[test]
    fn frames_of_two_microscopes_differ() {
        assert_eq!(&*super::frame_in("/", "z"), "z");
        assert_eq!(&*super::frame_in("/lab/one", "z"), "lab/one/z");
    }

    /// `HHNET_WRITE_DOCS=1 cargo test` writes the page anew.
    #[test]
    fn the_page_of_parameters_is_true() {
        let sections = [
            to_markdown::<super::microscope::MicroscopeParameters>(),
            to_markdown::<super::camera::CameraParameters>(),
            to_markdown::<super::classifier::ClassifierParameters>(),
            to_markdown::<super::focus_controller::FocusControllerParameters>(),
            to_markdown::<super::stepper_bridge::StepperBridgeParameters>(),
            to_markdown::<super::calibrator::CalibratorParameters>(),
            to_markdown::<super::sim_microscope::SimMicroscopeParameters>(),
        ]
        .map(|section| section.unwrap());
        let text = format!(
            "# Parameters\n\n\
             Made from the tables in `src/nodes` by a test. Units are SI. A parameter that is not read-only may change while the node \
             runs (`ros2 param set`); the others are read at start. Every node also has `use_sim_time`, which is always false: camera \
             and stage run in real time. What stands in the section `microscope` is said once in a parameter file; a node that reads it has it \
             as `microscope.NAME`.\n\n{}",
            sections.join("\n")
        );
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parameters.md");
        if std::env::var_os("HHNET_WRITE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == text,
            "docs/parameters.md is out of date: run this test with HHNET_WRITE_DOCS=1"
        );
    }
}
