//! `hhnet scan`: what a scan would be, before anything moves.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use hhnet::frame::{CAMERA_HEIGHT, CAMERA_WIDTH};
use hhnet::objective::Objective;
use hhnet::scan::plan::{Order, Pace, Plan, Stand, Wish};
use hhnet::scan::region::Region;
use serde::Serialize;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The tiles of a region in their order, how long the stage takes for them, and how much they are.
    Plan(PlanArguments),
}

/// Arguments of `hhnet scan plan`. Millimetres, in the coordinates of the stage.
#[derive(Args)]
pub(crate) struct PlanArguments {
    /// Middle of the region, x and y, mm; with `--size`.
    #[arg(long, num_args = 2, value_names = ["X", "Y"], allow_negative_numbers = true, requires = "size")]
    centre: Option<Vec<f64>>,
    /// Size of the region, x and y, mm.
    #[arg(long, num_args = 2, value_names = ["X", "Y"], requires = "centre")]
    size: Option<Vec<f64>>,
    /// Corners of a polygon instead, x and y of each, mm. Without any region: the whole slide.
    #[arg(long, num_args = 6.., value_name = "MM", allow_negative_numbers = true, conflicts_with = "centre")]
    polygon: Option<Vec<f64>>,
    /// Order of the tiles.
    #[arg(long, value_enum, default_value_t = OrderName::Serpentine)]
    order: OrderName,
    /// Part of a tile that its neighbour shows too, 0 to 0.5.
    #[arg(long, default_value_t = 0.1)]
    overlap: f64,
    /// Objective, for example 40x0.65.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// Least and greatest x that the stage may reach, mm.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], allow_negative_numbers = true, default_values_t = [-38.0, 38.0])]
    x_limits: Vec<f64>,
    /// Least and greatest y.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], allow_negative_numbers = true, default_values_t = [-13.0, 13.0])]
    y_limits: Vec<f64>,
    /// Where the stage stands, x and y, mm.
    #[arg(long, num_args = 2, value_names = ["X", "Y"], allow_negative_numbers = true, default_values_t = [0.0, 0.0])]
    from: Vec<f64>,
    /// Greatest speed of x and y, mm/s.
    #[arg(long, default_value_t = 20.0)]
    speed: f64,
    /// Acceleration of x and y, mm/s².
    #[arg(long, default_value_t = 200.0)]
    acceleration: f64,
    /// Time at each tile from standstill to the next move, s: settling, focus, exposure.
    #[arg(long, default_value_t = 0.25)]
    tile_time: f64,
    /// Print JSON with every tile instead of sentences.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderName {
    Raster,
    Serpentine,
    Spiral,
    Nearest,
}

impl From<OrderName> for Order {
    fn from(name: OrderName) -> Self {
        match name {
            OrderName::Raster => Self::Raster,
            OrderName::Serpentine => Self::Serpentine,
            OrderName::Spiral => Self::Spiral,
            OrderName::Nearest => Self::Nearest,
        }
    }
}

/// What a plan comes to.
#[derive(Serialize)]
struct Summary<'a> {
    tiles: usize,
    columns: u32,
    rows: u32,
    way_mm: f64,
    seconds: f64,
    /// Of all frames as they come from the camera.
    bytes: u64,
    plan: &'a Plan,
}

/// Runs one of the commands.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Plan(arguments) => plan(&arguments),
    }
}

fn plan(arguments: &PlanArguments) -> Result<()> {
    let objective = Objective::by_name(&arguments.objective)?;
    let pixel_um = objective.object_pixel_um();
    let stand = Stand {
        field_um: [CAMERA_WIDTH, CAMERA_HEIGHT].map(|pixels| pixels as f64 * pixel_um),
        limits_um: [&arguments.x_limits, &arguments.y_limits]
            .map(|limits| (1e3 * limits[0], 1e3 * limits[1])),
        at_um: pair_um(&arguments.from),
    };
    let wish = Wish {
        region: region(arguments)?,
        order: arguments.order.into(),
        overlap: arguments.overlap,
    };
    for (name, value) in [
        ("speed", arguments.speed),
        ("acceleration", arguments.acceleration),
    ] {
        ensure!(
            value > 0.0 && value.is_finite(),
            "{name} is {value}: give a number above 0"
        );
    }
    let pace = Pace {
        um_per_s: 1e3 * arguments.speed,
        um_per_s2: 1e3 * arguments.acceleration,
        tile_s: arguments.tile_time,
    };
    let plan = Plan::new(&wish, &stand)?;
    let [columns, rows] = plan.cells();
    let summary = Summary {
        tiles: plan.tiles().len(),
        columns,
        rows,
        way_mm: 1e-3 * plan.way_um(stand.at_um),
        seconds: plan.duration_s(stand.at_um, &pace),
        bytes: (3 * CAMERA_WIDTH * CAMERA_HEIGHT) as u64 * plan.tiles().len() as u64,
        plan: &plan,
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(
            out,
            "{} tiles on {columns} columns and {rows} rows, {:.0} x {:.0} µm each; {:.1} mm of way, {:.1} min, {:.1} GB of frames",
            summary.tiles,
            stand.field_um[0],
            stand.field_um[1],
            summary.way_mm,
            summary.seconds / 60.0,
            summary.bytes as f64 * 1e-9
        )?;
    }
    Ok(())
}

fn region(arguments: &PlanArguments) -> Result<Region> {
    if let Some(corners) = &arguments.polygon {
        ensure!(
            corners.len() % 2 == 0,
            "a polygon needs x and y of every corner: {} numbers are not pairs",
            corners.len()
        );
        return Ok(Region::Polygon {
            corners_um: corners.chunks_exact(2).map(pair_um).collect(),
        });
    }
    match &arguments.centre {
        Some(centre) => {
            let size = arguments.size.as_ref().context("a region needs --size")?;
            Ok(Region::around(pair_um(centre), pair_um(size)))
        }
        None => Ok(Region::Whole),
    }
}

fn pair_um(mm: &[f64]) -> [f64; 2] {
    [1e3 * mm[0], 1e3 * mm[1]]
}
