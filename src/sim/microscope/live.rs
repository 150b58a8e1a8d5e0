//! The virtual microscope at the speed of a camera.
//!
//! What stays the same while a stage focuses is the field; what changes is its height. So the noiseless light is kept on
//! a lattice of heights and mixed linearly between them, and only the camera is computed for every frame. The lattice
//! is finest around focus, 0.2 depths of field, and widens as the blur varies more slowly. A frame does not depend on
//! what was kept before: heights of the lattice that are missing are rendered first.
//!
//! Against [`Microscope`] a frame differs by the mixing and by rounding the place to an eighth of a pixel, together at most two
//! grey values (`tests/all/live.rs`). Travel in x or y during an exposure is not mixed but rendered in full.

use std::collections::BTreeMap;

use super::{Microscope, MicroscopeConfig, MicroscopeError, Passage, Pose, field_at, passage};
use crate::sim::optics::transfer::Transfer;
use crate::sim::optics::{KeptLight, Light, View};

/// The lattice is even in asinh(z / (scale · depth of field)), this many heights to a unit.
const PER_UNIT: f64 = 10.0;
/// See [`PER_UNIT`].
const SCALE_DEPTHS: f64 = 2.0;
/// Most heights kept: those of ±65 µm at 40x/0.65, 390 MB at 2048x1536.
const MOST_KEPT: usize = 80;
/// Parts of a pixel to which places are rounded.
const PLACES_PER_PIXEL: f64 = 8.0;
/// Points at which a travel along z is sampled.
const TRAVEL_POINTS: usize = 8;

/// A microscope that keeps what it has rendered.
#[derive(Debug)]
pub struct LiveMicroscope {
    microscope: Microscope,
    place_um: [f64; 2],
    /// By lattice index: the light, and the frame that last used it.
    kept: BTreeMap<i32, (KeptLight, u64)>,
    /// Transfer functions of lattice heights; they do not depend on the field.
    transfers: BTreeMap<i32, [Transfer; 3]>,
    light: Light,
    frames: u64,
}

impl LiveMicroscope {
    /// A live microscope of this configuration.
    ///
    /// # Errors
    /// As [`Microscope::new`].
    pub fn new(config: MicroscopeConfig) -> Result<Self, MicroscopeError> {
        Ok(Self {
            microscope: Microscope::new(config)?,
            place_um: [f64::NAN; 2],
            kept: BTreeMap::new(),
            transfers: BTreeMap::new(),
            light: Light::default(),
            frames: 0,
        })
    }

    /// The microscope that renders what is not kept.
    pub fn microscope(&self) -> &Microscope {
        &self.microscope
    }

    /// One frame while the stage moves, as [`Microscope::expose_moving`].
    ///
    /// # Errors
    /// As there.
    pub fn expose_moving(
        &mut self,
        pose: Pose,
        travel_um: [f64; 3],
        sequence: u64,
    ) -> Result<Vec<u8>, MicroscopeError> {
        let still = travel_um[..2].iter().all(|um| um.abs() < self.place_step_um());
        let defocus_um = pose.z_um - self.microscope.focus_height_um(pose.x_um, pose.y_um);
        let farthest_um = self.microscope.farthest_um();
        let reach_um = defocus_um.abs() + 0.5 * travel_um[2].abs();
        // What cannot be mixed, or cannot be at all, is the exact renderer's to do or to refuse.
        if !(still && reach_um <= farthest_um && pose.x_um.is_finite() && pose.y_um.is_finite()) {
            return self.microscope.expose_moving(pose, travel_um, sequence);
        }
        self.go_to([pose.x_um, pose.y_um]);
        let weights = self.weights(defocus_um, travel_um[2]);
        self.frames += 1;
        for &index in weights.keys() {
            self.keep(index)?;
        }
        let parts: Vec<(&KeptLight, f32)> = weights
            .iter()
            .map(|(index, weight)| (&self.kept[index].0, *weight as f32))
            .collect();
        self.light.mix(&parts);
        Ok(self.microscope.sensor.expose(&self.light, sequence))
    }

    fn place_step_um(&self) -> f64 {
        self.microscope.config.objective.object_pixel_um() / PLACES_PER_PIXEL
    }

    /// Forgets what was kept of another place.
    fn go_to(&mut self, place_um: [f64; 2]) {
        let step_um = self.place_step_um();
        let rounded_um = place_um.map(|um| (um / step_um).round() * step_um);
        if rounded_um != self.place_um {
            self.kept.clear();
            self.place_um = rounded_um;
        }
    }

    fn lattice(&self, defocus_um: f64) -> f64 {
        let scale_um = SCALE_DEPTHS * self.microscope.config.objective.depth_of_field_um();
        PER_UNIT * (defocus_um / scale_um).asinh()
    }

    fn height_um(&self, index: i32) -> f64 {
        let scale_um = SCALE_DEPTHS * self.microscope.config.objective.depth_of_field_um();
        scale_um * (f64::from(index) / PER_UNIT).sinh()
    }

    /// How much of each lattice height is in an exposure; adds up to 1.
    fn weights(&self, defocus_um: f64, travel_um: f64) -> BTreeMap<i32, f64> {
        let points = if travel_um == 0.0 { 1 } else { TRAVEL_POINTS };
        let mut weights = BTreeMap::new();
        for point in 0..points {
            let part = (point as f64 + 0.5) / points as f64 - 0.5;
            let z_um = defocus_um + part * travel_um;
            let below = self.lattice(z_um).floor() as i32;
            let (low_um, high_um) = (self.height_um(below), self.height_um(below + 1));
            let above = ((z_um - low_um) / (high_um - low_um)).clamp(0.0, 1.0);
            for (index, weight) in [(below, 1.0 - above), (below + 1, above)] {
                if weight > 0.0 {
                    *weights.entry(index).or_insert(0.0) += weight / points as f64;
                }
            }
        }
        weights
    }

    /// Makes sure that a lattice height is kept, dropping the one unused for longest if there are too many.
    fn keep(&mut self, index: i32) -> Result<(), MicroscopeError> {
        if let Some((_, used)) = self.kept.get_mut(&index) {
            *used = self.frames;
            return Ok(());
        }
        if self.kept.len() >= MOST_KEPT
            && let Some(oldest) = self
                .kept
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(index, _)| *index)
        {
            self.kept.remove(&oldest);
        }
        let height_um = self.height_um(index);
        let Microscope {
            slide,
            passages,
            light,
            ..
        } = &mut self.microscope;
        let mut view = View {
            defocus_um: height_um,
            ..View::default()
        };
        let Passage { imager, painted } = passage(passages, &view);
        let (field, shift_um) = field_at(slide, imager, painted, self.place_um)?;
        view.shift_um = shift_um;
        let transfers = self
            .transfers
            .entry(index)
            .or_insert_with(|| imager.transfers(&view));
        imager.render_through(field, transfers, &view, light);
        self.kept.insert(index, (light.keep(), self.frames));
        Ok(())
    }
}
