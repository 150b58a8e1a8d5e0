//! A virtual microscope on which to see what a first motion is like: its stage behind a pseudo-terminal, its picture, and a person who looks.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context as _, Result};
use hhnet::commissioning::questions::Question;
use hhnet::drivers::TimeSource;
use hhnet::drivers::emulated_port::{EmulatedPort, EmulatedPortError};
use hhnet::drivers::runtime_dir::runtime_dir;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::sim::grbl::EmulatorConfig;
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig, Pose};
use hhnet::stage::Axis;

use super::Wrong;

/// What a motor without power moves, of what it should.
const STILL: f64 = 1e-3;
/// Virtual stands at a time.
const MOST_PORTS: u32 = 32;
/// Motion that a person sees, µm.
const SEEN_UM: f64 = 10.0;

/// A stage, a slide, and where the stage stood before its last motion.
pub(super) struct VirtualStand {
    port: EmulatedPort,
    microscope: Microscope,
    clock: TimeSource,
    began_um: [f64; 3],
    before_um: Cell<[f64; 3]>,
    sequence: u64,
}

impl VirtualStand {
    /// In focus on the first slide.
    pub(super) fn new(objective: &str, wrong: Wrong, clock: TimeSource) -> Result<Self> {
        let microscope = Microscope::new(MicroscopeConfig {
            objective: Objective::by_name(objective)?,
            ..MicroscopeConfig::default()
        })?;
        let began_um = [0.0, 0.0, microscope.focus_height_um(0.0, 0.0)];
        let um_per_counted_um = match wrong {
            Wrong::Nothing => [1.0, 1.0, 1.0],
            Wrong::ZReversed => [1.0, 1.0, -1.0],
            Wrong::ZScale => [1.0, 1.0, 2.0],
            Wrong::ZStill => [1.0, 1.0, STILL],
            Wrong::XStill => [STILL, 1.0, 1.0],
        };
        let config = EmulatorConfig {
            physical_offset_um: began_um,
            um_per_counted_um,
            mechanics: [
                MechanicsConfig::cross_table(),
                MechanicsConfig::cross_table(),
                MechanicsConfig::fine_focus(),
            ],
            ..EmulatorConfig::default()
        };
        Ok(Self {
            port: plugged_in(&config, &clock)?,
            microscope,
            clock,
            began_um,
            before_um: Cell::new(began_um),
            sequence: 0,
        })
    }

    /// The name of its port.
    pub(super) fn port(&self) -> &Path {
        self.port.link()
    }

    fn place_um(&self) -> [f64; 3] {
        let now = (self.clock)();
        Axis::ALL.map(|axis| self.port.position_um(axis, now))
    }

    /// A motion begins.
    pub(super) fn mark(&self) {
        self.before_um.set(self.place_um());
    }

    /// What a person would say who stands beside it and sees everything.
    pub(super) fn answer(&self, question: Question) -> Option<String> {
        let (place_um, before_um) = (self.place_um(), self.before_um.get());
        let went = |axis: usize, word| {
            let um: f64 = place_um[axis] - before_um[axis];
            if um.abs() > SEEN_UM { word } else { "nothing" }
        };
        let risen_um = place_um[2] - self.began_um[2];
        let answer = match question {
            Question::WorkingDistance => "0.6 mm",
            Question::Standing | Question::Sideways => "yes",
            Question::Mover => "lens",
            Question::ZNow => "0 um",
            Question::ZMin => "-100 um",
            Question::ZMax => "300 um",
            Question::Apart if risen_um > SEEN_UM => "apart",
            Question::Apart if risen_um < -SEEN_UM => "closer",
            Question::Apart => "nothing",
            Question::DirectionX => went(0, "right"),
            Question::DirectionY => went(1, "far"),
        };
        Some(answer.to_owned())
    }

    /// What the camera sees now.
    pub(super) fn frame(&mut self) -> Result<Frame> {
        let [x_um, y_um, z_um] = self.place_um();
        let focus_um = self.microscope.focus_height_um(x_um, y_um);
        // Farther away the optics are not modelled.
        let farthest_um = 0.99 * self.microscope.farthest_um();
        let pose = Pose {
            x_um,
            y_um,
            z_um: focus_um + (z_um - focus_um).clamp(-farthest_um, farthest_um),
        };
        let rgb = self.microscope.expose(pose, self.sequence)?;
        self.sequence += 1;
        let MicroscopeConfig { width, height, .. } = *self.microscope.config();
        Frame::new(width, height, rgb, (self.clock)(), self.sequence).context("the virtual camera")
    }
}

/// A port under the first name that no other one has: each name leaves a lock behind.
fn plugged_in(config: &EmulatorConfig, clock: &TimeSource) -> Result<EmulatedPort> {
    let folder = runtime_dir()?;
    let mut number = 0;
    loop {
        let link = folder.join(format!("first-motion-{number}"));
        match EmulatedPort::open(&link, config.clone(), TimeSource::clone(clock)) {
            Err(EmulatedPortError::Taken { .. }) if number < MOST_PORTS => number += 1,
            outcome => return Ok(outcome?),
        }
    }
}
