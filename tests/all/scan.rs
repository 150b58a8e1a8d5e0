//! Scans on paper: plans by the command line, and a whole slide of ten thousand tiles whose heights of focus are learnt on the way.

use std::process::Command;
use std::time::Instant;

use hhnet::scan::plan::{Order, Plan, Stand, Wish};
use hhnet::scan::region::Region;
use hhnet::scan::surface::{Found, ShapeLimits, Surface, SurfaceConfig};
use hhnet::statistics::{median, quantile, sorted};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

fn hhnet(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hhnet"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_plan_is_told_before_anything_moves() {
    let region = ["scan", "plan", "--centre", "1", "-2", "--size", "3", "2"];
    let (is_right, told, _) = hhnet(&region);
    assert!(is_right && told.contains("tiles on"), "{told}");
    let (is_right, json, _) =
        hhnet(&[&region[..], &["--json", "--order", "spiral", "--overlap", "0.2"]].concat());
    assert!(is_right);
    let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
    let tiles = summary["plan"]["tiles"].as_array().unwrap();
    // A field is 177 by 132 µm, and a fifth of it is shared.
    assert_eq!(tiles.len(), 21 * 19);
    assert_eq!(summary["tiles"], tiles.len());
    assert_eq!(summary["bytes"], tiles.len() * 2048 * 1536 * 3);
    let middle = [0, 1].map(|axis| tiles[0]["at_um"][axis].as_f64().unwrap().round());
    assert_eq!(middle, [1000.0, -2000.0]);
    let (_, whole, _) = hhnet(&["scan", "plan"]);
    assert!(whole.contains("GB of frames"), "{whole}");
}

#[test]
fn a_plan_that_cannot_be_is_refused_in_a_sentence() {
    for (arguments, words) in [
        (
            &["--centre", "40", "0", "--size", "1", "1"][..],
            "outside what the stage may reach",
        ),
        (
            &["--centre", "0", "0", "--size", "1", "1", "--overlap", "0.9"],
            "overlap",
        ),
        (&["--polygon", "0", "0", "1", "1", "2", "2", "3"], "not pairs"),
        (&["--objective", "41x"], "40x0.65"),
        (&["--order", "nearest"], "serpentine"),
    ] {
        let (is_right, _, error) = hhnet(&[&["scan", "plan"][..], arguments].concat());
        assert!(
            !is_right && error.contains(words) && error.lines().count() == 1,
            "{error}"
        );
    }
}

/// A slide tilted by 5.4 µm/mm, bent, and hilly, mm.
fn slide_um(x: f64, y: f64) -> f64 {
    5.0 * x - 2.0 * y + 0.01 * (x * x + y * y) + 0.5 * (1.7 * x + 0.4).sin() * (1.3 * y).cos()
}

#[test]
fn ten_thousand_tiles_teach_the_surface_and_cost_the_same_to_the_end() {
    let stand = Stand {
        field_um: [176.64, 132.48],
        limits_um: [(-38_000.0, 38_000.0), (-13_000.0, 13_000.0)],
        at_um: [0.0, 0.0],
    };
    let wish = Wish {
        region: Region::around([0.0, 0.0], [15_900.0, 11_900.0]),
        order: Order::Serpentine,
        overlap: 0.1,
    };
    let plan = Plan::new(&wish, &stand).unwrap();
    assert_eq!(plan.tiles().len(), 10_000);
    let mut surface = Surface::new(SurfaceConfig::of_a_slide((-500.0, 500.0)));
    let mut random = Pcg64::seed_from_u64(1);
    let (mut off, mut costs, mut wrong) = (Vec::new(), Vec::new(), 0);
    for (number, tile) in plan.tiles().iter().enumerate() {
        let began = Instant::now();
        let expected = surface.expected(tile.at_um);
        let [x, y] = tile.at_um.map(|um| um / 1000.0);
        if number >= 200 {
            off.push((expected.unwrap().z_um - slide_um(x, y)).abs());
        }
        // Of a hundred tiles one shows no focus but something else, and three in ten nothing.
        let is_wrong = random.random_bool(0.01);
        wrong += usize::from(is_wrong);
        let error_um = if is_wrong {
            8.0
        } else {
            random.random_range(-0.25..0.25)
        };
        surface.add(Found {
            at_um: tile.at_um,
            z_um: slide_um(x, y) + error_um,
            stddev_um: 0.15,
            specimen: if random.random_bool(0.3) {
                0.0
            } else {
                random.random_range(0.1..1.0)
            },
        });
        costs.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let off = sorted(off);
    let (half, most) = (quantile(&off, 0.5).unwrap(), quantile(&off, 0.99).unwrap());
    let cost = |costs: &[f64]| median(costs.iter().copied()).unwrap();
    println!(
        "expected heights are off by {half:.2} µm (median), {most:.2} µm (99 %); a tile costs {:.2} ms at the thousandth, {:.2} ms at the ten thousandth",
        cost(&costs[900..1100]),
        cost(&costs[9900..])
    );
    assert!(half < 0.15 && most < 0.7, "{half} {most}");
    let contradicted = surface.contradicted().count();
    assert!(
        contradicted <= wrong && contradicted as f64 > 0.55 * wrong as f64,
        "{contradicted} of {wrong}"
    );
    let shape = surface.shape().unwrap();
    assert!(
        (shape.tilt_um_per_mm[0] - 5.0).abs() < 0.2 && (shape.tilt_um_per_mm[1] + 2.0).abs() < 0.2,
        "{shape:?}"
    );
    assert_eq!(shape.complaint(&ShapeLimits::default()), None);
}
