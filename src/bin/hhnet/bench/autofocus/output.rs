//! The table of the comparison, and its folder: report.json, runs.csv, responses.csv and pictures by matplotlib.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use hhnet::drivers::whole_file::write_bytes;
use hhnet::evaluation::autofocus::Trial;
use hhnet::evaluation::autofocus::method::Method;
use hhnet::evaluation::autofocus::response::Response;
use hhnet::evaluation::autofocus::strategy::End;
use serde_json::Value;

/// Draws time.png, error.png and response.png in the folder it is given.
const DRAW: &str = include_str!("draw.py");

const HEAD: &str = "\
| strategy | success | false in focus | failures | time s, median / 95 % / 99 % | error in depths of field, median / 99 % \
| wrong first moves | overshoot µm | frames |
|---|---|---|---|---|---|---|---|---|
";
const HEAD_BY_CONTENT: &str = "
Success by content (from within 30 µm, all), and time of the first run of a stage

| strategy | dense | sparse | extremely sparse | first run s |
|---|---|---|---|---|
";

/// Prints the report, as JSON or as a table.
pub(super) fn print(report: &Value, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{report:#}")?;
    } else {
        write!(out, "{}", tables(report)?)?;
    }
    Ok(())
}

/// Writes the folder; where no Python with matplotlib is at hand, without pictures.
pub(super) fn write(folder: &Path, report: &Value, responses: &[Response], trials: &[Trial]) -> Result<()> {
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        write_bytes(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    save("report.json", format!("{report:#}\n"))?;
    save("report.md", tables(report)?)?;
    save("runs.csv", runs(trials)?)?;
    save("responses.csv", points(responses)?)?;
    let python = std::env::var("HHNET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let drawn = Command::new(python)
        .args(["-c", DRAW])
        .arg(folder)
        .stdin(Stdio::null())
        .status();
    if !drawn.is_ok_and(|status| status.success()) {
        crate::say(format_args!(
            "no pictures: run this through scripts/run, whose Python has matplotlib"
        ));
    }
    Ok(())
}

/// One table of all runs, one of those from within 30 µm, one of successes by content.
fn tables(report: &Value) -> Result<String> {
    let mut text = format!(
        "{}; model {}; decision {:.1} ms; play {} µm\n",
        report["machine"].as_str().unwrap_or_default(),
        report["model"].as_str().unwrap_or_default(),
        report["decision_ms"].as_f64().unwrap_or(f64::NAN),
        report["play_um"],
    );
    let strategies = &report["strategies"];
    let named = Method::ALL.map(|method| (method.name(), &strategies[method.name()]));
    let rows = || named.into_iter().filter(|(_, row)| row.is_object());
    for (title, key) in [("All runs", None), ("From within 30 µm", Some("within_30_um"))] {
        write!(text, "\n{title}\n\n{HEAD}")?;
        for (name, row) in rows() {
            writeln!(text, "{}", line(name, key.map_or(row, |key| &row[key])))?;
        }
    }
    text += HEAD_BY_CONTENT;
    for (name, row) in rows() {
        let of = |content: &str| {
            let success = |of: &Value| share(&of["content"][content]["success"]);
            format!("{}, {}", success(&row["within_30_um"]), success(row))
        };
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} |",
            of("dense"),
            of("sparse"),
            of("extremely_sparse"),
            number(&row["first_time_s"], 2)
        )?;
    }
    Ok(text)
}

fn line(name: &str, row: &Value) -> String {
    let (time, error) = (&row["time_s"], &row["final_error_dof"]);
    format!(
        "| {name} | {} | {} | {} | {} / {} / {} | {} / {} | {} | {} | {} |",
        share(&row["success"]),
        row["false_in_focus"],
        row["declared_failures"],
        number(&time["median"], 2),
        number(&time["p95"], 2),
        number(&time["p99"], 2),
        number(&error["median"], 2),
        number(&error["p99"], 2),
        row["wrong_first_moves"],
        number(&row["overshoot_um"], 1),
        number(&row["frames"], 0),
    )
}

fn share(value: &Value) -> String {
    value
        .as_f64()
        .map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn number(value: &Value, decimals: usize) -> String {
    value
        .as_f64()
        .map_or("–".to_owned(), |number| format!("{number:.decimals$}"))
}

fn runs(trials: &[Trial]) -> Result<String> {
    let mut text = String::from(
        "strategy,slide,content,is_first,start_um,began_um,took_s,error_um,overshoot_um,frames,end\n",
    );
    for Trial {
        method,
        response,
        run,
    } in trials
    {
        let end = match &run.end {
            End::InFocus => "in focus".to_owned(),
            End::Failed(reason) => reason.replace([',', '\n'], ";"),
        };
        writeln!(
            text,
            "{},{},{},{},{:.3},{:.3},{:.4},{:.4},{:.3},{},{end}",
            method.name(),
            response.slide(),
            response.content().name(),
            run.is_first,
            run.start.defocus_um,
            run.began_um,
            run.took_s,
            run.error_um,
            run.overshoot_um,
            run.frames
        )?;
    }
    Ok(text)
}

fn points(responses: &[Response]) -> Result<String> {
    let mut text = String::from(
        "slide,content,z_um,index,defocus_um,trusted,other_side,tenengrad,brenner,jpeg_bytes,reason\n",
    );
    for response in responses {
        for plane in response.planes() {
            for seen in &plane.frames {
                let judgement = &seen.judgement;
                writeln!(
                    text,
                    "{},{},{:.4},{},{},{},{:.3},{:.6},{:.6},{},{}",
                    response.slide(),
                    response.content().name(),
                    plane.defocus_um,
                    judgement.index.value(),
                    judgement
                        .defocus
                        .map_or(String::new(), |defocus| format!("{:.4}", defocus.um())),
                    judgement.trusted,
                    judgement.other_side,
                    seen.sharpness.tenengrad,
                    seen.sharpness.brenner,
                    seen.sharpness.jpeg_bytes,
                    judgement.reason.replace([',', '\n'], ";"),
                )?;
            }
        }
    }
    Ok(text)
}
