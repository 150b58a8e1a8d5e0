//! The virtual microscope: where the stage stands in, the frame its camera would take out.
//!
//! The same configuration, pose and sequence number give the same bytes, whatever was exposed before. A field is
//! painted at the nearest of a lattice of places and moved the rest of the way by the transform's shift theorem, so a
//! stage that drifts by a micrometre does not cost a new field.

mod live;
mod shutter;

use serde::{Deserialize, Serialize};

use crate::frame::{CAMERA_HEIGHT, CAMERA_WIDTH};
use crate::objective::Objective;
use crate::range::{OutOfRange, within};
use crate::sim::optics::{Field, Imager, Light, View};
use crate::sim::sensor::Sensor;
pub use live::LiveMicroscope;
pub use shutter::{Exposure, Shutter, ShutterError};

pub use crate::sim::sensor::{Noise, SensorConfig};
use crate::sim::slide::{Appearance, Raster, SiteRandom, Slide};

/// Largest modelled defocus in depths of field: 150 µm at 40x/0.65.
const FARTHEST_DEPTHS: f64 = 105.0;
/// Defocus up to which the narrow margin suffices, depths of field: 69 µm at 40x/0.65.
const NEAR_DEPTHS: f64 = 48.0;
/// Most source points of the reference: 22 µm of defocus at 40x/0.65, a minute for a small frame and hours for a large one.
const MOST_POINTS: usize = 20_000;
/// Margin of the reference in cones of light, and what is added to it, µm.
const REFERENCE_MARGIN: (f64, f64) = (1.25, 2.0);
/// Pitch of the lattice of painted fields, samples of the optics.
const FIELD_PITCH: f64 = 16.0;
/// Largest travel in x or y during an exposure, µm: what the painted margin allows.
const FARTHEST_TRAVEL_UM: f64 = 20.0;
/// Frame sides accepted, pixels.
const SIDES: std::ops::RangeInclusive<usize> = 64..=8192;

/// How the optics are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpticsModel {
    /// Transfer functions.
    Fast,
    /// The sum over source points.
    Reference,
}

/// Whether the specimen delays light besides absorbing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseDelay {
    /// Thickness shifts phase, which tells too far from too close.
    On,
    /// Absorption alone.
    Off,
}

/// What there is to know about one virtual microscope and its slide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MicroscopeConfig {
    /// The lens, its condenser and its aberrations.
    pub objective: Objective,
    /// Which slide lies on the stage.
    pub slide_seed: u64,
    /// The slide's look; `None` for the one its seed gives it.
    pub appearance: Option<Appearance>,
    /// Pixels per row, even.
    pub width: usize,
    /// Rows, even.
    pub height: usize,
    /// Camera noise.
    pub noise: Noise,
    /// Phase of the specimen.
    pub phase: PhaseDelay,
    /// Exposure and noise of the camera.
    pub sensor: SensorConfig,
}

impl Default for MicroscopeConfig {
    /// 40x/0.65, slide 1, 2048x1536, noise and phase on.
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            slide_seed: 1,
            appearance: None,
            width: CAMERA_WIDTH,
            height: CAMERA_HEIGHT,
            noise: Noise::On,
            phase: PhaseDelay::On,
            sensor: SensorConfig::default(),
        }
    }
}

impl MicroscopeConfig {
    /// One of many microscopes of the same kind: condenser aperture, spherical aberration, colour error, exposure, colour
    /// balance and noise drawn from the slide's seed. Training on these keeps a network from learning one instrument.
    pub fn randomised(objective: Objective, slide_seed: u64) -> Self {
        let mut random = SiteRandom::new(slide_seed, 0xd0a1);
        let mut config = Self {
            objective,
            slide_seed,
            ..Self::default()
        };
        let lens = &mut config.objective;
        lens.condenser_na *= random.range(0.8, 1.2);
        lens.spherical_waves *= random.range(0.0, 2.0);
        // 0.6 to 1.2 µm of red above green for the 40x, whose catalogue entry says 0.9.
        let red_factor = random.range(2.0 / 3.0, 4.0 / 3.0);
        lens.chromatic_shift_um[0] *= red_factor;
        lens.chromatic_shift_um[2] *= red_factor * random.range(0.5, 1.5);
        let camera = &mut config.sensor;
        let level = random.range(175.0, 228.0);
        camera.background = std::array::from_fn(|_| (level * random.range(0.96, 1.04)).min(238.0));
        camera.full_well_electrons *= random.range(0.6, 1.8);
        camera.read_noise_electrons *= random.range(0.5, 1.6);
        camera.vignetting = random.range(0.0, 0.15);
        config
    }
}

/// Where the stage stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pose {
    /// Middle of the frame on the slide, µm.
    pub x_um: f64,
    /// Middle of the frame on the slide, µm.
    pub y_um: f64,
    /// Height of the lens's green focus above the slide's nominal plane, µm; up is away from the slide.
    pub z_um: f64,
}

/// A virtual microscope with a slide on it.
#[derive(Debug)]
pub struct Microscope {
    config: MicroscopeConfig,
    slide: Slide,
    /// With a narrow margin for what is near focus and with a wide one for the rest.
    passages: [Passage; 2],
    sensor: Sensor,
    light: Light,
}

/// From the specimen to the light, with one width of margin around the frame.
#[derive(Debug)]
struct Passage {
    imager: Imager,
    painted: Option<Painted>,
}

#[derive(Debug)]
struct Painted {
    site: [i64; 2],
    field: Field,
}

impl Microscope {
    /// A microscope of this configuration.
    ///
    /// # Errors
    /// If a value is outside what is modelled; the message names it and the range.
    pub fn new(config: MicroscopeConfig) -> Result<Self, MicroscopeError> {
        check(&config)?;
        let mut appearance = config
            .appearance
            .clone()
            .unwrap_or_else(|| Appearance::new(config.slide_seed));
        if config.phase == PhaseDelay::Off {
            appearance.phase_rad = 0.0;
        }
        let lens = &config.objective;
        let cone_um = lens.condenser_na * lens.depth_of_field_um();
        let passages = [
            NEAR_DEPTHS * cone_um,
            FARTHEST_DEPTHS * cone_um + 0.5 * FARTHEST_TRAVEL_UM,
        ]
        .map(|reach_um| Passage {
            imager: Imager::new(lens, config.width, config.height, reach_um),
            painted: None,
        });
        Ok(Self {
            slide: Slide::with_appearance(config.slide_seed, appearance),
            sensor: Sensor::new(
                config.sensor,
                [config.width, config.height],
                config.noise,
                config.slide_seed,
                passages[0].imager.halfway().clone(),
            ),
            passages,
            light: Light::default(),
            config,
        })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &MicroscopeConfig {
        &self.config
    }

    /// The slide on the stage.
    pub fn slide(&self) -> &Slide {
        &self.slide
    }

    /// Height of the lens at which a place of the slide is in focus, µm.
    pub fn focus_height_um(&self, x_um: f64, y_um: f64) -> f64 {
        self.slide.focus_height_um(x_um, y_um)
    }

    /// Largest defocus, of either sign, that is modelled, µm.
    pub fn farthest_um(&self) -> f64 {
        farthest_um(&self.config.objective)
    }

    /// One frame with the stage at a pose: `3 * width * height` bytes of interleaved RGB. The whole frame has the
    /// defocus of its middle. `sequence` picks the noise.
    ///
    /// # Errors
    /// If the pose is not finite or its defocus is beyond [`Self::farthest_um`].
    pub fn expose(&mut self, pose: Pose, sequence: u64) -> Result<Vec<u8>, MicroscopeError> {
        let defocus_um = pose.z_um - self.focus_height_um(pose.x_um, pose.y_um);
        self.expose_defocused(pose.x_um, pose.y_um, defocus_um, sequence)
    }

    /// One frame while the stage moves: `pose` is where it is halfway through the exposure, `travel_um` how far it goes
    /// in x, y and z from the first light to the last.
    ///
    /// # Errors
    /// As for [`Self::expose`], or if it travels farther than 20 µm in x or y.
    pub fn expose_moving(
        &mut self,
        pose: Pose,
        travel_um: [f64; 3],
        sequence: u64,
    ) -> Result<Vec<u8>, MicroscopeError> {
        let defocus_um = pose.z_um - self.focus_height_um(pose.x_um, pose.y_um);
        self.collect([pose.x_um, pose.y_um], defocus_um, travel_um, sequence)
    }

    /// One frame of a place, `defocus_um` above its focus (positive: the lens is too far from the slide).
    ///
    /// # Errors
    /// As for [`Self::expose`].
    pub fn expose_defocused(
        &mut self,
        x_um: f64,
        y_um: f64,
        defocus_um: f64,
        sequence: u64,
    ) -> Result<Vec<u8>, MicroscopeError> {
        self.collect([x_um, y_um], defocus_um, [0.0; 3], sequence)
    }

    /// The frame that [`Self::expose_defocused`] approximates, by the sum over source points (`optics::reference`). Takes
    /// many seconds; the time grows with the square of the defocus. `progress` hears how much is done, from 0 to 1.
    ///
    /// # Errors
    /// As for [`Self::expose`], or if the defocus needs too many source points.
    pub fn expose_by_reference(
        &mut self,
        x_um: f64,
        y_um: f64,
        defocus_um: f64,
        sequence: u64,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<u8>, MicroscopeError> {
        self.check_reach(defocus_um, [0.0; 3])?;
        check_place([x_um, y_um])?;
        let lens = &self.config.objective;
        let (cones, more_um) = REFERENCE_MARGIN;
        let reach_um = cones * lens.condenser_na * defocus_um.abs() + more_um;
        let imager = Imager::new(lens, self.config.width, self.config.height, reach_um);
        let points = imager.reference_points(defocus_um);
        if points > MOST_POINTS {
            return Err(MicroscopeError::Reference { defocus_um, points });
        }
        let maps = self.slide.paint(&raster_at(&imager, [x_um, y_um]));
        imager.render_by_reference(&maps, defocus_um, &mut self.light, progress);
        Ok(self.sensor.expose(&self.light, sequence))
    }

    /// The light on the sensor before the camera makes bytes of it, at every second pixel, background 1: R, G and B, each row
    /// by row, computed by `model`. For measuring one against the other.
    ///
    /// # Errors
    /// As for [`Self::expose`] and [`Self::expose_by_reference`].
    pub fn light(
        &mut self,
        x_um: f64,
        y_um: f64,
        defocus_um: f64,
        model: OpticsModel,
    ) -> Result<[Vec<f32>; 3], MicroscopeError> {
        match model {
            OpticsModel::Fast => drop(self.expose_defocused(x_um, y_um, defocus_um, 0)?),
            OpticsModel::Reference => {
                drop(self.expose_by_reference(x_um, y_um, defocus_um, 0, &mut |_| ())?)
            }
        }
        let [columns, rows] = self.passages[0].imager.size();
        let border = self.light.border();
        Ok(std::array::from_fn(|channel| {
            let line = |row: usize| &self.light.row(channel, row + border)[border..border + columns];
            (0..rows).flat_map(line).copied().collect()
        }))
    }

    fn check_reach(&self, defocus_um: f64, travel_um: [f64; 3]) -> Result<(), MicroscopeError> {
        let farthest_um = self.farthest_um();
        let most_um = defocus_um.abs() + 0.5 * travel_um[2].abs();
        if most_um.is_nan() || most_um > farthest_um {
            return Err(MicroscopeError::Defocus {
                defocus_um,
                farthest_um,
            });
        }
        Ok(())
    }

    fn collect(
        &mut self,
        place_um: [f64; 2],
        defocus_um: f64,
        travel_um: [f64; 3],
        sequence: u64,
    ) -> Result<Vec<u8>, MicroscopeError> {
        self.check_reach(defocus_um, travel_um)?;
        if !travel_um[..2].iter().all(|um| um.abs() <= FARTHEST_TRAVEL_UM) {
            return Err(MicroscopeError::Travel {
                x_um: travel_um[0],
                y_um: travel_um[1],
            });
        }
        let mut view = View {
            defocus_um,
            travel_um,
            ..View::default()
        };
        let Passage { imager, painted } = passage(&mut self.passages, &view);
        let (field, shift_um) = field_at(&self.slide, imager, painted, place_um)?;
        view.shift_um = shift_um;
        imager.render(field, &view, &mut self.light);
        Ok(self.sensor.expose(&self.light, sequence))
    }

    /// Green transmittance of the specimen at every second pixel of the frame there, row by row: what a perfect
    /// microscope would show. For telling cells from empty glass.
    ///
    /// # Errors
    /// If the place is not finite.
    pub fn transmittance(&mut self, x_um: f64, y_um: f64) -> Result<&[f32], MicroscopeError> {
        let [Passage { imager, painted }, _] = &mut self.passages;
        let (field, _) = field_at(&self.slide, imager, painted, [x_um, y_um])?;
        Ok(field.transmittance())
    }
}

/// Largest defocus, of either sign, that is modelled for an objective, µm.
pub fn farthest_um(objective: &Objective) -> f64 {
    FARTHEST_DEPTHS * objective.depth_of_field_um()
}

/// The passage with the narrowest margin that holds whatever a view blurs into the frame; it depends on the view alone, so
/// that frames do not depend on what was rendered before.
fn passage<'a>([near, far]: &'a mut [Passage; 2], view: &View) -> &'a mut Passage {
    if near.imager.reaches(view) { near } else { far }
}

/// The painted field nearest to a place, painted now if it is not the one at hand, and how far from it the place is.
fn field_at<'a>(
    slide: &Slide,
    imager: &Imager,
    painted: &'a mut Option<Painted>,
    place_um: [f64; 2],
) -> Result<(&'a Field, [f64; 2]), MicroscopeError> {
    let pitch_um = FIELD_PITCH * imager.step_um();
    check_place(place_um)?;
    let site = place_um.map(|um| (um / pitch_um).round() as i64);
    let centre_um = site.map(|index| index as f64 * pitch_um);
    if painted.as_ref().is_none_or(|known| known.site != site) {
        *painted = None;
    }
    let known = painted.get_or_insert_with(|| Painted {
        site,
        field: imager.field(&slide.paint(&raster_at(imager, centre_um))),
    });
    Ok((
        &known.field,
        [place_um[0] - centre_um[0], place_um[1] - centre_um[1]],
    ))
}

/// The raster whose frame has its middle at a place.
fn raster_at(imager: &Imager, centre_um: [f64; 2]) -> Raster {
    let half_um = imager
        .size()
        .map(|samples| (samples / 2) as f64 * imager.step_um());
    imager.raster(centre_um[0] - half_um[0], centre_um[1] - half_um[1])
}

fn check_place([x_um, y_um]: [f64; 2]) -> Result<(), MicroscopeError> {
    if x_um.abs() < 1e7 && y_um.abs() < 1e7 {
        Ok(())
    } else {
        Err(MicroscopeError::Place { x_um, y_um })
    }
}

fn check(config: &MicroscopeConfig) -> Result<(), MicroscopeError> {
    for side in [config.width, config.height] {
        if !SIDES.contains(&side) || !side.is_multiple_of(2) {
            return Err(MicroscopeError::Size {
                width: config.width,
                height: config.height,
            });
        }
    }
    let lens = &config.objective;
    let camera = &config.sensor;
    let rows = [
        ("objective.magnification", lens.magnification, 1.0, 200.0),
        ("objective.na", lens.na, 0.02, 0.95),
        ("objective.condenser_na", lens.condenser_na, 0.005, 0.99 * lens.na),
        ("objective.spherical_waves", lens.spherical_waves, -2.0, 2.0),
        (
            "objective.chromatic_shift_um[0]",
            lens.chromatic_shift_um[0],
            -50.0,
            50.0,
        ),
        (
            "objective.chromatic_shift_um[1]",
            lens.chromatic_shift_um[1],
            -50.0,
            50.0,
        ),
        (
            "objective.chromatic_shift_um[2]",
            lens.chromatic_shift_um[2],
            -50.0,
            50.0,
        ),
        ("sensor.background[0]", camera.background[0], 1.0, 255.0),
        ("sensor.background[1]", camera.background[1], 1.0, 255.0),
        ("sensor.background[2]", camera.background[2], 1.0, 255.0),
        ("sensor.gain[0]", camera.gain[0], 0.1, 16.0),
        ("sensor.gain[1]", camera.gain[1], 0.1, 16.0),
        ("sensor.gain[2]", camera.gain[2], 0.1, 16.0),
        (
            "sensor.full_well_electrons",
            camera.full_well_electrons,
            100.0,
            1e6,
        ),
        (
            "sensor.read_noise_electrons",
            camera.read_noise_electrons,
            0.0,
            1000.0,
        ),
        ("sensor.vignetting", camera.vignetting, 0.0, 0.9),
        ("sensor.exposure_ms", camera.exposure_ms, 0.0, 1000.0),
        ("sensor.analogue_gain", camera.analogue_gain, 0.01, 100.0),
    ];
    let look = config.appearance.iter().flat_map(appearance_rows);
    for (name, value, least, most) in rows.into_iter().chain(look) {
        within(name, value, least, most)?;
    }
    Ok(())
}

/// Name, value and range of everything that may be set of a slide's look.
fn appearance_rows(look: &Appearance) -> impl Iterator<Item = (&'static str, f64, f64, f64)> {
    let absorbance = look.absorbance.as_flattened().iter();
    [
        ("appearance.density", look.density, 0.0, 10.0),
        ("appearance.phase_rad", look.phase_rad, 0.0, 3.0),
        ("appearance.red_pitch_um", look.red_pitch_um, 3.0, 100.0),
        ("appearance.red_size", look.red_size, 0.5, 2.0),
        ("appearance.pallor", look.pallor, 0.0, 1.0),
        ("appearance.rough_fraction", look.rough_fraction, 0.0, 1.0),
        ("appearance.white_fraction", look.white_fraction, 0.0, 1.0),
        ("appearance.tumour_fraction", look.tumour_fraction, 0.0, 1.0),
        ("appearance.speck_fraction", look.speck_fraction, 0.0, 1.0),
        ("appearance.dust_fraction", look.dust_fraction, 0.0, 1.0),
    ]
    .into_iter()
    .chain(absorbance.map(|each| ("appearance.absorbance", *each, 0.0, 10.0)))
    .collect::<Vec<_>>()
    .into_iter()
}

/// What a virtual microscope cannot do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MicroscopeError {
    /// The frame size is not modelled.
    #[error(
        "a frame of {width}x{height} cannot be rendered: both sides must be even, from 64 to 8192 pixels"
    )]
    Size {
        /// Pixels per row asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
    },
    /// A setting is out of range.
    #[error("{0}; beyond that the virtual microscope has no model")]
    Value(#[from] OutOfRange),
    /// Too far out of focus.
    #[error("a defocus of {defocus_um} µm is not modelled: stay within {farthest_um:.0} µm of focus")]
    Defocus {
        /// Defocus asked for, µm.
        defocus_um: f64,
        /// Largest defocus of either sign, µm.
        farthest_um: f64,
    },
    /// Too far out of focus for the sum over source points.
    #[error(
        "the sum over source points would take {points} of them at a defocus of {defocus_um} µm, more than {MOST_POINTS}: come \
         closer to focus or use the transfer functions"
    )]
    Reference {
        /// Defocus asked for, µm.
        defocus_um: f64,
        /// Points it would take.
        points: usize,
    },
    /// The stage is too fast for the exposure.
    #[error("a travel of x = {x_um} µm, y = {y_um} µm in one exposure is not modelled: stay within 20 µm")]
    Travel {
        /// Travel asked for, µm.
        x_um: f64,
        /// Travel asked for, µm.
        y_um: f64,
    },
    /// Not on any slide.
    #[error("there is no slide at x = {x_um} µm, y = {y_um} µm: stay within 10 m of the origin")]
    Place {
        /// Place asked for, µm.
        x_um: f64,
        /// Place asked for, µm.
        y_um: f64,
    },
}
