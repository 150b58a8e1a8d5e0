//! The command line of the virtual microscope and the data sets it writes.

#![cfg(feature = "camera")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

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
        ("labels-0000.npy", 6 * 5 * 8),
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
}
