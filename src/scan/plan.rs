//! The plan of a scan: the tiles, each once, in an order, and what they will take.
//!
//! Tiles lie on a grid that just covers the region: neighbours share at least the overlap that was asked for, and the outermost end at the
//! edge of the region, so that none looks beyond it. Where the region is narrower than a field the one tile is centred on it.

use serde::{Deserialize, Serialize};

use super::region::{Region, RegionError};
use crate::range::{OutOfRange, within};

/// Most tiles of one plan: at 40x a whole slide has 100,000.
pub const MOST_TILES: usize = 1_000_000;
/// Most of one that goes on to the nearest each time, for which all that are left are looked through.
const MOST_NEAREST: usize = 30_000;
/// What rounding may make of an edge, µm.
const ROUNDING_UM: f64 = 1e-6;

/// In which order tiles are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Row by row, each from least x to greatest: every tile is approached from the same side.
    Raster,
    /// Row by row, to and fro.
    #[default]
    Serpentine,
    /// From the middle outwards.
    Spiral,
    /// Always on to the nearest that is left, from where the stage stands.
    Nearest,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The part of the slide.
    pub region: Region,
    /// The order.
    pub order: Order,
    /// Part of a tile that its neighbour shows too, 0 to 0.5.
    pub overlap: f64,
}

/// What the instrument is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stand {
    /// What a frame shows, x and y, µm.
    pub field_um: [f64; 2],
    /// Where the stage may be driven to, least and greatest x and y, µm.
    pub limits_um: [(f64, f64); 2],
    /// Where it stands, µm.
    pub at_um: [f64; 2],
}

/// One tile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tile {
    /// Column from least x and row from least y, from 0.
    pub cell: [u32; 2],
    /// Where the stage has to stand for it, x and y, µm.
    pub at_um: [f64; 2],
}

/// The tiles of a scan, in their order; a tile's number is its place in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    tiles: Vec<Tile>,
    cells: [u32; 2],
    pitch_um: [f64; 2],
    field_um: [f64; 2],
}

impl Plan {
    /// A plan for what is asked for.
    ///
    /// # Errors
    /// If there is nothing to scan, some of it cannot be reached, or it is too much.
    pub fn new(wish: &Wish, stand: &Stand) -> Result<Self, PlanError> {
        within("overlap", wish.overlap, 0.0, 0.5)?;
        if stand.field_um.iter().any(|um| !(um.is_finite() && *um > 0.0)) {
            return Err(PlanError::Field(stand.field_um));
        }
        let half = stand.field_um.map(|um| 0.5 * um);
        // At the limit of travel half a field lies beyond the limit.
        let whole = [0, 1].map(|axis| {
            let (low, high) = stand.limits_um[axis];
            (low - half[axis], high + half[axis])
        });
        let bounds = wish.region.bounds_um(whole)?;
        let lines = [0, 1].map(|axis| Line::new(bounds[axis], stand.field_um[axis], wish.overlap));
        let count = lines.map(|line| line.count).iter().product::<f64>();
        // NaN is in no range.
        if !(1.0..=MOST_TILES as f64).contains(&count) {
            return Err(PlanError::TooMany(count));
        }
        let cells = lines.map(|line| line.count as u32);
        let mut tiles: Vec<Tile> = (0..cells[1])
            .flat_map(|row| (0..cells[0]).map(move |column| [column, row]))
            .map(|cell| Tile {
                cell,
                at_um: [0, 1].map(|axis| lines[axis].at_um(cell[axis])),
            })
            .collect();
        tiles.retain(|tile| wish.region.touches(seen_um(tile, stand.field_um)));
        for tile in &tiles {
            check_reach(tile, stand.limits_um)?;
        }
        if tiles.is_empty() {
            return Err(PlanError::Nothing);
        }
        if wish.order == Order::Nearest && tiles.len() > MOST_NEAREST {
            return Err(PlanError::Nearest(tiles.len()));
        }
        put_in_order(&mut tiles, wish.order, cells, stand.at_um);
        Ok(Self {
            tiles,
            cells,
            pitch_um: lines.map(|line| line.pitch_um),
            field_um: stand.field_um,
        })
    }

    /// The tiles in their order.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Columns and rows of the grid that they lie on; a polygon leaves some of its cells empty.
    pub fn cells(&self) -> [u32; 2] {
        self.cells
    }

    /// From one column, and one row, to the next, µm; 0 where there is only one.
    pub fn pitch_um(&self) -> [f64; 2] {
        self.pitch_um
    }

    /// What a tile shows, x and y, µm.
    pub fn field_um(&self) -> [f64; 2] {
        self.field_um
    }

    /// Way of the stage from `from_um` through all tiles, along straight lines, µm.
    pub fn way_um(&self, from_um: [f64; 2]) -> f64 {
        self.hops_um(from_um).sum()
    }

    /// What the scan takes by itself, s, from `from_um`: moves, and at each tile what it takes there.
    pub fn duration_s(&self, from_um: [f64; 2], pace: &Pace) -> f64 {
        let moving: f64 = self.hops_um(from_um).map(|um| pace.move_s(um)).sum();
        moving + pace.tile_s * self.tiles.len() as f64
    }

    fn hops_um(&self, from_um: [f64; 2]) -> impl Iterator<Item = f64> {
        let places = self.tiles.iter().map(|tile| tile.at_um);
        std::iter::once(from_um)
            .chain(places.clone())
            .zip(places)
            .map(|(from, to)| distance(from, to))
    }
}

/// How fast the stage moves, and how long a tile takes once it stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Greatest speed, µm/s.
    pub um_per_s: f64,
    /// Acceleration, µm/s².
    pub um_per_s2: f64,
    /// From standstill to the next move, s: settling, focus, exposure.
    pub tile_s: f64,
}

impl Pace {
    /// From standstill to standstill over a distance, µm; s.
    pub fn move_s(&self, um: f64) -> f64 {
        let ramps_um = self.um_per_s.powi(2) / self.um_per_s2;
        if um < ramps_um {
            2.0 * (um / self.um_per_s2).sqrt()
        } else {
            um / self.um_per_s + self.um_per_s / self.um_per_s2
        }
    }
}

/// The places of the tiles along one axis.
#[derive(Clone, Copy, Debug)]
struct Line {
    first_um: f64,
    pitch_um: f64,
    count: f64,
}

impl Line {
    fn new((low_um, high_um): (f64, f64), field_um: f64, overlap: f64) -> Self {
        let way_um = high_um - low_um - field_um;
        if way_um <= ROUNDING_UM {
            return Self {
                first_um: 0.5 * (low_um + high_um),
                pitch_um: 0.0,
                count: 1.0,
            };
        }
        let steps = ((way_um - ROUNDING_UM) / (field_um * (1.0 - overlap)))
            .ceil()
            .max(1.0);
        Self {
            first_um: low_um + 0.5 * field_um,
            pitch_um: way_um / steps,
            count: steps + 1.0,
        }
    }

    fn at_um(&self, cell: u32) -> f64 {
        self.first_um + self.pitch_um * f64::from(cell)
    }
}

/// What a tile shows, least and greatest x and y.
fn seen_um(tile: &Tile, field_um: [f64; 2]) -> [(f64, f64); 2] {
    [0, 1].map(|axis| {
        let half = 0.5 * field_um[axis];
        (tile.at_um[axis] - half, tile.at_um[axis] + half)
    })
}

fn check_reach(tile: &Tile, limits_um: [(f64, f64); 2]) -> Result<(), PlanError> {
    for (axis, (name, (low_um, high_um))) in ['x', 'y'].into_iter().zip(limits_um).enumerate() {
        let at_um = tile.at_um[axis];
        if !(low_um - ROUNDING_UM..=high_um + ROUNDING_UM).contains(&at_um) {
            return Err(PlanError::Reach {
                axis: name,
                at_um,
                low_um,
                high_um,
            });
        }
    }
    Ok(())
}

/// Puts tiles that lie row by row in an order.
fn put_in_order(tiles: &mut Vec<Tile>, order: Order, cells: [u32; 2], at_um: [f64; 2]) {
    match order {
        Order::Raster => {}
        Order::Serpentine => {
            for row in tiles.chunk_by_mut(|one, other| one.cell[1] == other.cell[1]) {
                if row.first().is_some_and(|tile| tile.cell[1] % 2 == 1) {
                    row.reverse();
                }
            }
        }
        Order::Spiral => {
            // Square rings around the middle of the grid, each counter-clockwise from the right.
            let middle = cells.map(|count| 0.5 * f64::from(count - 1));
            let turn = |tile: &Tile| {
                let [x, y] = [0, 1].map(|axis| f64::from(tile.cell[axis]) - middle[axis]);
                (x.abs().max(y.abs()), y.atan2(x))
            };
            tiles.sort_by(|one, other| {
                let (one, other) = (turn(one), turn(other));
                one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1))
            });
        }
        Order::Nearest => *tiles = nearest_first(tiles, at_um),
    }
}

/// Always on to the nearest that is left.
fn nearest_first(tiles: &[Tile], from_um: [f64; 2]) -> Vec<Tile> {
    let mut left = tiles.to_vec();
    let mut ordered = Vec::with_capacity(left.len());
    let mut at_um = from_um;
    // Of equally near ones the first, so that the same wish is always the same plan.
    while let Some(nearest) = (0..left.len()).min_by(|&one, &other| {
        distance(left[one].at_um, at_um).total_cmp(&distance(left[other].at_um, at_um))
    }) {
        let tile = left.remove(nearest);
        at_um = tile.at_um;
        ordered.push(tile);
    }
    ordered
}

fn distance(from_um: [f64; 2], to_um: [f64; 2]) -> f64 {
    (to_um[0] - from_um[0]).hypot(to_um[1] - from_um[1])
}

/// There is no such plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing to scan.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The overlap is no part of a tile that leaves anything to go on by.
    #[error(transparent)]
    Overlap(#[from] OutOfRange),
    /// A frame shows nothing.
    #[error("a frame is said to show {} x {} µm: check the objective and the pixel size of the microscope", .0[0], .0[1])]
    Field([f64; 2]),
    /// The stage may not go there.
    #[error(
        "a tile of the region lies at {axis} = {at_um:.1} µm, outside what the stage may reach ({low_um:.1} to {high_um:.1} µm): make the region smaller, or check the limits of the microscope"
    )]
    Reach {
        /// The axis.
        axis: char,
        /// Where the tile lies, µm.
        at_um: f64,
        /// Least place of the stage, µm.
        low_um: f64,
        /// Greatest place, µm.
        high_um: f64,
    },
    /// No scan is that long.
    #[error("the region has {0:.0} tiles, at most {MOST_TILES} can be planned: make it smaller")]
    TooMany(f64),
    /// To look for the nearest each time would take too long.
    #[error(
        "the region has {0} tiles, at most {MOST_NEAREST} can be taken nearest first: take them in a serpentine"
    )]
    Nearest(usize),
    /// No cell of the grid touches the polygon.
    #[error("no tile shows any of the region")]
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const FIELD_UM: [f64; 2] = [176.64, 132.48];
    const LIMITS_UM: [(f64, f64); 2] = [(-20_000.0, 20_000.0), (-10_000.0, 10_000.0)];

    fn stand() -> Stand {
        Stand {
            field_um: FIELD_UM,
            limits_um: LIMITS_UM,
            at_um: [0.0, 0.0],
        }
    }

    fn wish(region: Region, order: Order, overlap: f64) -> Wish {
        Wish {
            region,
            order,
            overlap,
        }
    }

    fn cells(plan: &Plan) -> Vec<[u32; 2]> {
        plan.tiles().iter().map(|tile| tile.cell).collect()
    }

    #[test]
    fn orders() {
        let region = Region::around([0.0, 0.0], FIELD_UM.map(|um| 2.5 * um));
        let ordered = |order| cells(&Plan::new(&wish(region.clone(), order, 0.0), &stand()).unwrap());
        assert_eq!(
            ordered(Order::Raster),
            [
                [0, 0],
                [1, 0],
                [2, 0],
                [0, 1],
                [1, 1],
                [2, 1],
                [0, 2],
                [1, 2],
                [2, 2]
            ]
        );
        assert_eq!(
            ordered(Order::Serpentine),
            [
                [0, 0],
                [1, 0],
                [2, 0],
                [2, 1],
                [1, 1],
                [0, 1],
                [0, 2],
                [1, 2],
                [2, 2]
            ]
        );
        assert_eq!(
            ordered(Order::Spiral),
            [
                [1, 1],
                [0, 0],
                [1, 0],
                [2, 0],
                [2, 1],
                [2, 2],
                [1, 2],
                [0, 2],
                [0, 1]
            ]
        );
        let nearest = ordered(Order::Nearest);
        assert_eq!(nearest[0], [1, 1]);
        for pair in nearest.windows(2) {
            let apart = pair[0][0].abs_diff(pair[1][0]) + pair[0][1].abs_diff(pair[1][1]);
            assert!(apart <= 2, "{nearest:?}");
        }
    }

    #[test]
    fn a_region_that_a_field_covers_is_one_tile_in_its_middle() {
        let plan = Plan::new(
            &wish(Region::around([50.0, -20.0], [100.0, 10.0]), Order::Spiral, 0.1),
            &stand(),
        )
        .unwrap();
        assert_eq!(
            plan.tiles(),
            [Tile {
                cell: [0, 0],
                at_um: [50.0, -20.0]
            }]
        );
        assert_eq!(plan.pitch_um(), [0.0, 0.0]);
    }

    #[test]
    fn the_whole_slide_ends_at_the_limits_of_travel() {
        let plan = Plan::new(&wish(Region::Whole, Order::Serpentine, 0.1), &stand()).unwrap();
        let first = plan.tiles()[0].at_um;
        assert_eq!(first, [-20_000.0, -10_000.0]);
        let greatest = plan
            .tiles()
            .iter()
            .map(|tile| tile.at_um[0])
            .fold(f64::MIN, f64::max);
        assert!((greatest - 20_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_polygon_leaves_out_what_shows_none_of_it() {
        let triangle = Region::Polygon {
            corners_um: vec![[0.0, 0.0], [2000.0, 0.0], [0.0, 2000.0]],
        };
        let part = Plan::new(&wish(triangle, Order::Raster, 0.0), &stand()).unwrap();
        let [columns, rows] = part.cells();
        let share = part.tiles().len() as f64 / f64::from(columns * rows);
        assert!((0.5..0.62).contains(&share), "{share}");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let around = |at: f64| Region::around([at, 0.0], [500.0, 500.0]);
        for (wish, words) in [
            (wish(around(0.0), Order::Raster, 0.6), "overlap"),
            (wish(around(0.0), Order::Raster, f64::NAN), "overlap"),
            (
                wish(around(30_000.0), Order::Raster, 0.0),
                "lies at x = 29838.3 µm",
            ),
            (
                wish(Region::around([0.0; 2], [0.0; 2]), Order::Raster, 0.0),
                "empty",
            ),
            (
                wish(Region::around([0.0; 2], [1e9; 2]), Order::Raster, 0.0),
                "tiles, at most",
            ),
        ] {
            let error = Plan::new(&wish, &stand()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_move_takes_what_its_ramps_and_its_way_take() {
        let pace = Pace {
            um_per_s: 20_000.0,
            um_per_s2: 200_000.0,
            tile_s: 0.1,
        };
        assert!((pace.move_s(200.0) - 0.0632).abs() < 1e-4);
        assert!((pace.move_s(20_000.0) - 1.1).abs() < 1e-9);
        let plan = Plan::new(
            &wish(
                Region::around([0.0, 0.0], FIELD_UM.map(|um| 3.0 * um)),
                Order::Serpentine,
                0.0,
            ),
            &stand(),
        )
        .unwrap();
        assert!((plan.way_um([-176.64, -132.48]) - (6.0 * 176.64 + 2.0 * 132.48)).abs() < 1e-6);
        let seconds = 6.0 * pace.move_s(176.64) + 2.0 * pace.move_s(132.48) + 0.9;
        assert!((plan.duration_s([-176.64, -132.48], &pace) - seconds).abs() < 1e-9);
    }

    fn region() -> impl Strategy<Value = Region> {
        let corner = || [-9_000.0..9_000.0, -9_000.0..9_000.0_f64];
        prop_oneof![
            (corner(), [1.0..3_000.0, 1.0..3_000.0]).prop_map(|(at, size)| Region::around(at, size)),
            proptest::collection::vec([-2_000.0..2_000.0, -2_000.0..2_000.0], 3..9)
                .prop_map(|corners_um| Region::Polygon { corners_um }),
        ]
    }

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![
            Just(Order::Raster),
            Just(Order::Serpentine),
            Just(Order::Spiral),
            Just(Order::Nearest)
        ]
    }

    proptest! {
        /// Whatever is asked for: every cell once, inside the limits, neighbours that overlap, and no part of a rectangle left out.
        #[test]
        fn a_plan_has_every_tile_once_inside_the_limits_and_leaves_nothing_out(
            region in region(),
            order in order(),
            overlap in 0.0..0.5,
            part in [0.0..1.0, 0.0..1.0_f64],
        ) {
            let Ok(plan) = Plan::new(&wish(region.clone(), order, overlap), &stand()) else {
                return Ok(());
            };
            let once: HashSet<_> = cells(&plan).into_iter().collect();
            prop_assert_eq!(once.len(), plan.tiles().len());
            for tile in plan.tiles() {
                for (axis, (low, high)) in LIMITS_UM.into_iter().enumerate() {
                    prop_assert!(tile.cell[axis] < plan.cells()[axis]);
                    prop_assert!(tile.at_um[axis] >= low - 1e-6 && tile.at_um[axis] <= high + 1e-6);
                }
            }
            for (pitch_um, field_um) in plan.pitch_um().into_iter().zip(FIELD_UM) {
                prop_assert!(pitch_um <= field_um * (1.0 - overlap) + 1e-6);
            }
            // A point of the region, wherever, is shown by a tile.
            let bounds = region.bounds_um(LIMITS_UM).unwrap();
            let point = [0, 1].map(|axis| bounds[axis].0 + part[axis] * (bounds[axis].1 - bounds[axis].0));
            let is_shown = plan.tiles().iter().any(|tile| {
                seen_um(tile, FIELD_UM).iter().zip(point).all(|((low, high), at)| *low <= at + 1e-6 && at <= high + 1e-6)
            });
            let is_in = region.touches([0, 1].map(|axis| (point[axis], point[axis])));
            prop_assert!(is_shown || !is_in, "{:?}", point);
        }

        /// The same wish is the same plan, whatever the order, and other orders hold the same tiles.
        #[test]
        fn orders_hold_the_same_tiles(region in region(), one in order(), other in order()) {
            let plan = |order| Plan::new(&wish(region.clone(), order, 0.1), &stand());
            let sorted = |plan: Plan| {
                let mut cells = cells(&plan);
                cells.sort();
                cells
            };
            prop_assert_eq!(plan(one), plan(one));
            prop_assert_eq!(plan(one).map(sorted), plan(other).map(sorted));
        }
    }
}
