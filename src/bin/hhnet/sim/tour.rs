//! `hhnet sim tour`: what a calibration records, of an instrument whose play, condenser and pixel are known.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use hhnet::calibration::heights::heights_um;
use hhnet::calibration::pass::Approach;
use hhnet::drivers::whole_file::write_bytes;
use hhnet::sim::mechanics::{Mechanics, MechanicsConfig};
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::units::Instant;

use super::{Scene, cannot_write};

/// Distance between places, µm.
const APART_UM: f64 = 400.0;
/// Where focus lies by the counts of the stage, µm.
const FOCUS_UM: f64 = 40.0;
/// Views beside the first place, parts of the shorter side of a frame.
const VIEWS: [[f64; 2]; 6] = [
    [0.3, 0.05],
    [-0.3, 0.1],
    [0.08, 0.3],
    [-0.05, -0.3],
    [0.25, -0.25],
    [-0.2, 0.25],
];

#[derive(Args)]
pub(crate) struct Tour {
    #[command(flatten)]
    scene: Scene,
    /// Play of the focus drive, µm.
    #[arg(long, default_value_t = 2.0)]
    backlash_um: f64,
    /// Numerical aperture to which the condenser is set; that of the scene if left out.
    #[arg(long)]
    condenser_na: Option<f64>,
    /// How far the passes reach to either side of focus, µm.
    #[arg(long, default_value_t = 30.0)]
    reach_um: f64,
    /// Places, each with passes from below, from above, and from below.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    places: u8,
    /// Directory to write to; made if missing.
    #[arg(long)]
    out: PathBuf,
}

/// A focus drive: the motor goes, the lens follows as far as the play lets it.
struct Drive {
    mechanics: Mechanics,
    now: Instant,
}

impl Drive {
    fn new(backlash_um: f64) -> Result<Self> {
        let config = MechanicsConfig::rigid().with_backlash(backlash_um)?;
        Ok(Self {
            mechanics: Mechanics::new(config, 0.0),
            now: Instant::from_nanos(1_000_000_000),
        })
    }

    /// Drives to a count; the height of the lens there.
    fn go(&mut self, to_um: f64) -> f64 {
        const MOVE: Duration = Duration::from_millis(500);
        self.mechanics.push_steady(self.now, MOVE, to_um);
        self.now = self.now + 2 * MOVE;
        self.mechanics.lens_um(self.now, None)
    }
}

/// A line of the manifest, beside its file.
struct Line<'a> {
    field: &'a str,
    place_um: [f64; 2],
    stage_um: f64,
    defocus_um: f64,
    approach: Option<Approach>,
}

struct Writer<'a> {
    tour: &'a Tour,
    microscope: Microscope,
    sequence: u64,
    manifest: String,
}

impl Writer<'_> {
    fn take(&mut self, line: &Line) -> Result<()> {
        let &Line {
            field,
            place_um: [x_um, y_um],
            stage_um,
            defocus_um,
            approach,
        } = line;
        let rgb = self
            .microscope
            .expose_defocused(x_um, y_um, defocus_um, self.sequence)?;
        let file = format!("{field}_{:03}_z{defocus_um:+.3}um.png", self.sequence);
        self.sequence += 1;
        self.tour.scene.write_png(&rgb, &self.tour.out.join(&file))?;
        let pixel_um = self.microscope.config().objective.object_pixel_um();
        let approach = approach.map_or("", Approach::name);
        writeln!(
            self.manifest,
            "{file},{defocus_um:.4},{stage_um:.4},{x_um},{y_um},{field},{approach},{pixel_um}"
        )?;
        Ok(())
    }
}

pub(super) fn run(tour: &Tour) -> Result<()> {
    fs::create_dir_all(&tour.out).with_context(|| format!("cannot make {}", tour.out.display()))?;
    let mut config: MicroscopeConfig = tour.scene.config()?;
    if let Some(na) = tour.condenser_na {
        config.objective.condenser_na = na;
    }
    let depth_um = config.objective.depth_of_field_um();
    let short_px = config.width.min(config.height) as f64;
    let short_um = short_px * config.objective.object_pixel_um();
    let mut writer = Writer {
        tour,
        microscope: Microscope::new(config)?,
        sequence: 0,
        manifest: String::from("file,z_um,stage_z_um,x_um,y_um,field,approach,pixel_size_um\n"),
    };
    let mut drive = Drive::new(tour.backlash_um)?;
    let up = heights_um([tour.reach_um; 2], depth_um);
    let mut down = up.clone();
    down.reverse();
    let place = |number: u8| [tour.scene.x_um + APART_UM * f64::from(number), tour.scene.y_um];
    for number in 0..tour.places {
        let field = format!("place{}", number + 1);
        for (approach, heights) in [
            (Approach::FromBelow, &up),
            (Approach::FromAbove, &down),
            (Approach::FromBelow, &up),
        ] {
            // What is behind the first height takes the play up.
            let away_um = if approach == Approach::FromBelow {
                -1.0
            } else {
                1.0
            } * (tour.reach_um + tour.backlash_um + 5.0);
            drive.go(FOCUS_UM + away_um);
            for &height_um in heights {
                let stage_um = FOCUS_UM + height_um;
                let defocus_um = drive.go(stage_um) - FOCUS_UM;
                writer.take(&Line {
                    field: &field,
                    place_um: place(number),
                    stage_um,
                    defocus_um,
                    approach: Some(approach),
                })?;
            }
        }
    }
    let stage_um = FOCUS_UM + 1.0;
    let defocus_um = drive.go(stage_um) - FOCUS_UM;
    for view in VIEWS {
        let [x_um, y_um] = place(0);
        writer.take(&Line {
            field: "place1",
            place_um: [
                x_um + (view[0] * short_um).round(),
                y_um + (view[1] * short_um).round(),
            ],
            stage_um,
            defocus_um,
            approach: None,
        })?;
    }
    let path = tour.out.join("manifest.csv");
    write_bytes(&path, writer.manifest).with_context(|| cannot_write(&path))
}
