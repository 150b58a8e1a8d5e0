//! `hhnet sim tour` and `hhnet calibrate`: what is measured of a virtual instrument is what it was made with.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::onnx_runtime;
use hhnet::calibration::card::{Card, Quantity, Verdict};

fn hhnet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hhnet"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
    command.output().unwrap_or_else(|error| panic!("hhnet: {error}"))
}

fn tour(folder: &Path, more: &[&str]) {
    let mut arguments = vec![
        "sim", "tour", "--width", "900", "--height", "768", "--places", "1",
    ];
    arguments.extend(["--reach-um", "20", "--out", folder.to_str().unwrap()]);
    arguments.extend(more);
    let output = hhnet(&arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn calibrate(folder: &Path, more: &[&str]) -> Card {
    let output = hhnet(&[&["calibrate", folder.to_str().unwrap(), "--json"][..], more].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Card::parse(&output.stdout).unwrap()
}

#[test]
fn what_is_measured_is_what_the_instrument_was_made_with() {
    onnx_runtime::require();
    let folder = tempfile::tempdir().unwrap();
    tour(
        folder.path(),
        &["--seed", "7", "--backlash-um", "3", "--condenser-na", "0.4"],
    );
    let into = folder.path().join("instrument.json");
    let card = calibrate(folder.path(), &["--into", into.to_str().unwrap()]);
    let table = card.table();
    let good = |quantity| {
        card.good(quantity)
            .unwrap_or_else(|| panic!("{quantity:?} is not good:\n{table}"))
    };
    assert!((good(Quantity::FocusHeight) - 40.0).abs() < 0.4, "{table}");
    assert!((good(Quantity::Backlash) - 3.0).abs() < 0.3, "{table}");
    assert!(
        (good(Quantity::PixelSize) / 0.08625 - 1.0).abs() < 0.005,
        "{table}"
    );
    assert!(good(Quantity::CameraRotation).abs() < 0.5, "{table}");
    assert!((good(Quantity::StageAspect) - 1.0).abs() < 0.01, "{table}");
    assert!((good(Quantity::ResponseScale) - 1.0).abs() < 0.15, "{table}");
    assert!((good(Quantity::CondenserNa) / 0.4 - 1.0).abs() < 0.15, "{table}");
    assert!(good(Quantity::ResponseOffset).abs() < 0.7, "{table}");
    let written = hhnet::drivers::calibration_file::read(&into, "40x0.65").unwrap();
    assert_eq!(written, Some(card));
}

#[test]
fn heights_that_count_downwards_are_named() {
    onnx_runtime::require();
    let folder = tempfile::tempdir().unwrap();
    tour(folder.path(), &["--seed", "3", "--backlash-um", "0"]);
    let card = calibrate(folder.path(), &["--flip-sign"]);
    let scale = &card.rows[&Quantity::ResponseScale];
    assert_eq!(scale.verdict, Verdict::Wrong, "{}", card.table());
    assert!(
        scale.value.unwrap() < -0.7 && scale.note.contains("counts downwards"),
        "{}",
        card.table()
    );
    assert_eq!(card.rows[&Quantity::CondenserNa].verdict, Verdict::Missing);
}

#[test]
fn a_folder_without_a_table_and_a_model_of_another_objective_are_refused() {
    onnx_runtime::require();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for (more, words) in [
        (&[][..], "give a CSV file with the columns file and z_um"),
        (
            &["--objective", "10x0.25", "--model", "models/hhnet_fast.onnx"],
            "is for objective 40x0.65, not 10x0.25",
        ),
        (&["--objective", "41x"], "41x"),
    ] {
        let output = hhnet(&[&["calibrate", path][..], more].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(words), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
}
