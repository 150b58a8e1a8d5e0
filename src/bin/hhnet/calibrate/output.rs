//! The folder of a report card: card.json, card.md, looks.csv, and pictures by matplotlib.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use hhnet::calibration::card::Card;
use hhnet::calibration::focus_height::focus_height_um;
use hhnet::calibration::pass::Pass;
use hhnet::calibration::report::Known;
use hhnet::drivers::whole_file::write_bytes;

/// Draws response.png and sharpness.png in the folder it is given.
const DRAW: &str = include_str!("draw.py");

/// Writes the folder; where no Python with matplotlib is at hand, without pictures.
pub(super) fn write(folder: &Path, card: &Card, passes: &[Pass], known: &Known) -> Result<()> {
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        write_bytes(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    save("card.json", card.to_json())?;
    save("looks.csv", looks(passes)?)?;
    let python = std::env::var("HHNET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let drawn = Command::new(python)
        .args(["-c", DRAW])
        .arg(folder)
        .arg(known.depth_um.to_string())
        .stdin(Stdio::null())
        .status();
    let is_drawn = drawn.is_ok_and(|status| status.success());
    if !is_drawn {
        crate::say(format_args!(
            "no pictures: run this through scripts/run, whose Python has matplotlib"
        ));
    }
    let pictures = if is_drawn {
        "\n![What the network states of heights that the stage knows](response.png)\n\n![Sharpness over height](sharpness.png)\n"
    } else {
        ""
    };
    let judged = if known.model.is_empty() {
        String::new()
    } else {
        format!(", judged by {}", known.model)
    };
    save(
        "card.md",
        format!(
            "# Report card, {}{judged}, {}\n\n{}{pictures}",
            card.objective,
            known.made,
            card.table()
        ),
    )
}

fn looks(passes: &[Pass]) -> Result<String> {
    let mut text = String::from("pass,field,approach,z_um,focus_um,sharpness,estimate_um\n");
    for (number, pass) in passes.iter().enumerate() {
        let cell = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.6}"));
        let focus_um = cell(focus_height_um(pass).ok().map(|height| height.value));
        let approach = pass.approach.map_or("", |approach| approach.name());
        for look in &pass.looks {
            writeln!(
                text,
                "{number},{},{approach},{:.4},{focus_um},{},{}",
                pass.field.replace([',', '"', '\n'], " "),
                look.z_um,
                cell(look.sharpness),
                cell(look.estimate_um)
            )?;
        }
    }
    Ok(text)
}
