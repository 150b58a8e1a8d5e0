//! The command line of the virtual microscope and the data sets it writes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn hhnet(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hhnet"));
    command
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap_or_else(|error| panic!("hhnet: {error}"))
}

#[test]
fn a_stack_names_the_height_of_every_file() {
    let out = tempfile::tempdir().unwrap();
    let arguments = [
        "sim",
        "stack",
        "--width",
        "320",
        "--height",
        "320",
        "--z-um=-3,0,12.5",
    ];
    assert!(hhnet(&arguments, out.path()).status.success());
    let manifest = fs::read_to_string(out.path().join("manifest.csv")).unwrap();
    let rows: Vec<Vec<&str>> = manifest.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["file", "z_um", "x_um", "y_um"]);
    assert_eq!(rows.len(), 4);
    for (row, z_um) in rows[1..].iter().zip(["-3", "0", "12.5"]) {
        assert_eq!(row[1..], [z_um, "0", "0"]);
        let picture = image::open(out.path().join(row[0])).unwrap();
        assert_eq!((picture.width(), picture.height()), (320, 320));
    }
}

#[test]
fn a_data_set_is_whole_and_goes_on_only_with_its_own_configuration() {
    let out = tempfile::tempdir().unwrap();
    let synth = |patches: &str, more: &[&str]| {
        let mut arguments = vec!["dataset", "synth", "--slides", "2", "--frames-per-slide", "1"];
        arguments.extend(["--patches-per-frame", patches, "--first-seed", "40"]);
        arguments.extend(more);
        hhnet(&arguments, out.path())
    };
    assert!(synth("3", &[]).status.success());
    let read = |name: &str| fs::read(out.path().join(name)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    assert_eq!(manifest["complete"], true);
    assert_eq!(manifest["patches"], 6);
    for (name, bytes) in [
        ("patches-0000.npy", 6 * 300 * 300 * 3),
        ("handcrafted-0000.npy", 6 * 18 * 4),
        ("labels-0000.npy", 6 * 6 * 8),
    ] {
        assert_eq!(read(name).len(), 128 + bytes, "{name}");
    }
    let first = read("patches-0000.npy");
    assert!(
        !synth("3", &[]).status.success(),
        "an existing data set was overwritten"
    );
    assert!(
        !synth("4", &["--resume"]).status.success(),
        "another configuration was appended"
    );
    fs::remove_file(out.path().join("patches-0000.npy")).unwrap();
    assert!(synth("3", &["--resume"]).status.success());
    assert!(
        read("patches-0000.npy") == first,
        "the same configuration gave other patches"
    );
    let mut older = manifest;
    older["label_columns"].as_array_mut().unwrap().pop();
    fs::write(out.path().join("manifest.json"), older.to_string()).unwrap();
    let refused = synth("3", &["--resume"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another configuration or version"),
        "shards of two layouts were mixed"
    );
}

const SMALL: [&str; 6] = ["sim", "render", "--width", "128", "--height", "96"];

#[test]
fn impossible_scenes_give_one_line_each() {
    let out = tempfile::tempdir().unwrap();
    for (arguments, named) in [
        (&["--objective", "41x"][..], "41x"),
        (&["--z-um", "1000"], "1000"),
        (&["--z-um=nan"], "NaN"),
        (&["--x-um=inf"], "inf"),
        (&["--width", "0"], "0x96"),
        (&["--reference", "--z-um", "90"], "source points"),
    ] {
        // The last of two values given for one option counts.
        let size = if arguments[0] == "--width" {
            &SMALL[..2]
        } else {
            &SMALL
        };
        let rest = if size.len() == 2 { &SMALL[4..] } else { &[] };
        let all = [size, rest, arguments].concat();
        let output = hhnet(&all, &out.path().join("frame.png"));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{arguments:?}: {message}");
        assert!(message.contains(named), "{arguments:?}: {message}");
        assert!(!out.path().join("frame.png").exists());
    }
}

fn picture(arguments: &[&str]) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("frame.png");
    let output = hhnet(&[&SMALL, arguments].concat(), &path);
    assert!(output.status.success(), "{output:?}");
    image::open(path).unwrap().into_rgb8().into_raw()
}

#[test]
fn the_reference_and_a_slide_without_phase_can_be_asked_for() {
    let seen = |arguments: &[&str]| picture(&[&["--noise", "off", "--z-um", "2"], arguments].concat());
    let mean = |a: &[u8], b: &[u8]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(a.abs_diff(*b)))
            .sum::<f64>()
            / a.len() as f64
    };
    let usual = seen(&[]);
    let reference = seen(&["--reference"]);
    assert!(
        usual != reference && mean(&usual, &reference) < 2.0,
        "{}",
        mean(&usual, &reference)
    );
    let without_phase = seen(&["--no-phase"]);
    assert!(
        mean(&usual, &without_phase) > 0.5,
        "{}",
        mean(&usual, &without_phase)
    );
}

#[test]
fn beyond_the_slide_is_nothing_but_glass() {
    // The slide ends 37.5 mm from its middle.
    let glass = picture(&["--x-um", "37600", "--noise", "off", "--z-um", "5"]);
    let centre = glass[3 * (48 * 128 + 64)..][..3].to_vec();
    assert_eq!(centre, [202, 200, 204]);
    // All that is left is the vignetting, in rings about the middle.
    for (row, line) in glass.chunks(3 * 128).enumerate() {
        for (column, pixel) in line.chunks(3).enumerate() {
            let square = |at: usize, middle: usize| (at as f64 - middle as f64).powi(2);
            let fall = 0.06 * (square(column, 64) + square(row, 48)) / (square(0, 64) + square(0, 48));
            for (value, level) in pixel.iter().zip([202.0, 200.0, 204.0]) {
                assert!(
                    (f64::from(*value) - level * (1.0 - fall)).abs() <= 0.51,
                    "{column}, {row}"
                );
            }
        }
    }
    assert_ne!(
        picture(&["--x-um", "37400", "--noise", "off", "--z-um", "5"]),
        glass
    );
}

#[test]
fn the_bench_prints_every_figure() {
    let arguments = ["sim", "bench", "--json", "--width", "128", "--height", "96"];
    let output = Command::new(env!("CARGO_BIN_EXE_hhnet"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "realtime_fps",
        "first_frame_s",
        "exact_render_s",
        "patches_per_min",
        "rss_mb",
    ] {
        assert!(
            figures[key].as_f64().is_some_and(|figure| figure > 0.0),
            "{key}: {figures}"
        );
    }
}
