//! The report card: numbers as JSON and Markdown, pictures by matplotlib.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use hhnet::drivers::whole_file::write_bytes;
use hhnet::estimate::classifier::ClassifierConfig;
use hhnet::evaluation::JudgedFrame;

/// Draws confusion.png, reliability.png and errors.png in the folder it is given.
const DRAW: &str = include_str!("draw.py");

/// Writes report.json, frames.csv, report.md and the pictures.
pub(super) fn write(
    folder: &Path,
    report: &Value,
    frames: &[JudgedFrame],
    settings: &ClassifierConfig,
) -> Result<()> {
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        write_bytes(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    save("report.json", format!("{report:#}\n"))?;
    save("frames.csv", table(frames, settings)?)?;
    let drawn = draw(folder);
    save("report.md", card(report, drawn)?)
}

/// Writes report.json and report.md of frames that hold nothing.
pub(super) fn write_blank(folder: &Path, report: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        write_bytes(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    save("report.json", format!("{report:#}\n"))?;
    save("report.md", heading(report)? + &rows(report)?)
}

fn table(frames: &[JudgedFrame], settings: &ClassifierConfig) -> Result<String> {
    let mut text = String::from("z_um,index,certainty,trusted,defocus_um,stddev_um\n");
    for frame in frames {
        let estimate = frame.estimate(settings);
        let um = |value: Option<hhnet::units::Micrometres>| {
            value.map_or(String::new(), |um| format!("{:.4}", um.0))
        };
        writeln!(
            text,
            "{:.4},{},{:.4},{},{},{}",
            frame.z_um,
            estimate.index.value(),
            estimate.certainty,
            estimate.trusted,
            um(estimate.defocus),
            um(estimate.defocus_stddev)
        )?;
    }
    Ok(text)
}

/// Whether the pictures could be made: they need a Python with matplotlib, which `scripts/run` provides.
fn draw(folder: &Path) -> bool {
    let python = std::env::var("HHNET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let drawn = Command::new(python)
        .arg("-c")
        .arg(DRAW)
        .arg(folder)
        .stdin(Stdio::null())
        .status();
    drawn.is_ok_and(|status| status.success())
}

fn card(report: &Value, drawn: bool) -> Result<String> {
    let mut card = heading(report)? + &rows(report)? + &votings(report)?;
    card += "\nIntervals are Wilson's at 95 %, of as many independent trials as the scatter between slides leaves. Shares of images \
             leave out those without content, which are not trusted. Errors in µm and depths of field are of images within 8 depths of \
             field of focus.\n";
    if drawn {
        card += "\n![Confusion](confusion.png)\n\n![Reliability](reliability.png)\n\n![Errors](errors.png)\n";
    } else {
        card += "\nNo pictures: run this through `scripts/run`, whose Python has matplotlib.\n";
    }
    Ok(card)
}

fn heading(report: &Value) -> Result<String> {
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let mut heading = format!("# {}\n\nProtocol {}", text("model"), text("protocol"));
    if report["shifted"] == true {
        heading += ", shifted: optics, stain and density outside the trained ranges";
    }
    match report["source"].as_str() {
        Some(source) => writeln!(heading, "; {source}.")?,
        None => heading += ".\n",
    }
    Ok(heading)
}

fn rows(report: &Value) -> Result<String> {
    let mut rows = String::from("\n| | |\n|---|---|\n");
    for (name, value) in report.as_object().into_iter().flatten() {
        let elsewhere = [
            "model",
            "protocol",
            "shifted",
            "source",
            "confusion",
            "reliability",
            "image_accuracy",
            "image_accuracy_ci95",
            "voting_us",
        ];
        if !elsewhere.contains(&name.as_str()) {
            writeln!(rows, "| {} | {} |", name.replace('_', " "), cell(value))?;
        }
    }
    Ok(rows)
}

/// The paper's Table 3.
fn votings(report: &Value) -> Result<String> {
    let mut table =
        String::from("\n| voting | images right | 95 % interval | time of a vote, µs |\n|---|---|---|---|\n");
    for name in ["hard", "linear", "certainty"] {
        let [accuracy, interval, us] =
            ["image_accuracy", "image_accuracy_ci95", "voting_us"].map(|key| cell(&report[key][name]));
        writeln!(table, "| {name} | {accuracy} | {interval} | {us} |")?;
    }
    Ok(table)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => format!("{:.5}", number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" to "),
        Value::Object(entries) => entries
            .iter()
            .map(|(name, value)| format!("{name} {}", cell(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Null => "not measured".to_owned(),
        other => other.to_string(),
    }
}
