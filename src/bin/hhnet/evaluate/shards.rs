//! Labelled patches on disk.
//!
//! A data set is a folder of shards `patches-NNNN.npy` (uint8 [n, 300, 300, 3]), `handcrafted-NNNN.npy` (float32 [n, 18])
//! and `labels-NNNN.npy` (float64 [n, columns]) with a `manifest.json`, which lists the shards and names the columns. What it does not
//! list is no part of the set, and a set it does not call complete is not read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use hhnet::classes::ClassEdges;
use hhnet::dataset::manifest::Outline;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::features::FEATURES;
use hhnet::estimate::network::Network as _;
use hhnet::estimate::patches::PATCH;
use hhnet::evaluation::JudgedFrame;
use indicatif::ProgressBar;
use ndarray::{Array2, Array4, s};
use ndarray_npy::{ReadNpyExt, ReadableElement};
use serde_json::Value;

use super::Protocol;

/// Slide and frame.
type FrameKey = (u64, u64);

/// The heights of the set, and its frames.
pub(super) fn judge(network: &mut OnnxNetwork, data: &Path) -> Result<(Protocol, Vec<JudgedFrame>)> {
    let manifest = manifest(data)?;
    check_edges(&manifest.class_edges, &network.card().class_edges)?;
    if let Some(pixel_um) = manifest.object_pixel_um {
        super::check_pixel(network.card(), pixel_um, &data.display().to_string())?;
    }
    let column = |name: &str| {
        let found = manifest.label_columns.iter().position(|column| column == name);
        found.with_context(|| format!("the manifest of {} names no label column {name}", data.display()))
    };
    let [z_um, slide, frame] = [column("defocus_um")?, column("slide_seed")?, column("frame")?];
    // Only sets that keep blank patches need to say which they are.
    let blank = column("blank").ok();
    ensure!(
        blank.is_some() || !network.card().whole_frames,
        "{} judges whole frames, and {} does not hold them: make it with --keep-blank",
        network.card().model_id,
        data.display()
    );
    let bar = ProgressBar::new(manifest.shards.len() as u64);
    let mut frames = BTreeMap::<FrameKey, JudgedFrame>::new();
    for shard in &manifest.shards {
        let name = format!("{:04}", shard.number);
        let patches: Array4<u8> = read(data, "patches", &name)?;
        let handcrafted: Array2<f32> = read(data, "handcrafted", &name)?;
        let labels: Array2<f64> = read(data, "labels", &name)?;
        let count = shard.patches;
        let width = manifest.label_columns.len();
        if patches.dim() != (count, PATCH, PATCH, 3)
            || handcrafted.dim() != (count, FEATURES)
            || labels.dim() != (count, width)
        {
            bail!(
                "shard {name} of {} has shapes {:?}, {:?}, {:?}, but its manifest says [{count}, 300, 300, 3], [{count}, 18], \
                 [{count}, {width}]: build the set again",
                data.display(),
                patches.shape(),
                handcrafted.shape(),
                labels.shape()
            );
        }
        let keys: Vec<FrameKey> = labels
            .outer_iter()
            .map(|row| (row[slide] as u64, row[frame] as u64))
            .collect();
        let mut first = 0;
        // The patches of a frame lie one after the other.
        for same in keys.chunk_by(|one, next| one == next) {
            let rows = first..first + same.len();
            first = rows.end;
            let answers = network.infer(
                patches.slice(s![rows.clone(), .., .., ..]),
                handcrafted.slice(s![rows.clone(), ..]),
            )?;
            let judged = frames.entry(same[0]).or_insert_with(|| JudgedFrame {
                z_um: labels[[rows.start, z_um]],
                slide: same[0].0,
                patches: Vec::new(),
                condenser_na: None,
                seconds: None,
            });
            let votes = |row: usize| blank.is_none_or(|column| labels[[row, column]] == 0.0);
            let answers = rows.zip(answers).filter(|&(row, _)| votes(row));
            judged.patches.extend(answers.map(|(_, answer)| answer));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let heights = manifest.config.as_ref().map(|config| &config["heights"]);
    let protocol = match heights.and_then(Value::as_str) {
        Some("paper") => Protocol::Paper,
        _ => Protocol::Continuous,
    };
    Ok((protocol, frames.into_values().collect()))
}

fn manifest(data: &Path) -> Result<Outline> {
    let path = data.join("manifest.json");
    let shown = data.display();
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "{shown} holds no data set, {} is missing: make one with `hhnet dataset`",
            path.display()
        )
    })?;
    let manifest = Outline::parse(&text)
        .with_context(|| format!("{} is not the manifest of a data set", path.display()))?;
    ensure!(
        manifest.complete,
        "{shown} is not complete: run its build again with --resume"
    );
    ensure!(
        !manifest.shards.is_empty(),
        "{shown} lists no shards: make a set with `hhnet dataset`"
    );
    Ok(manifest)
}

fn read<T, D>(data: &Path, kind: &str, name: &str) -> Result<ndarray::Array<T, D>>
where
    T: ReadableElement,
    D: ndarray::Dimension,
{
    let path = data.join(format!("{kind}-{name}.npy"));
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    ndarray::Array::read_npy(BufReader::new(file))
        .with_context(|| format!("{} is not an array of the right type", path.display()))
}

/// The set may not have other class edges than the model.
fn check_edges(named: &Value, edges: &ClassEdges) -> Result<()> {
    let number = |name: &str, place: usize| named.get(name).or_else(|| named.get(place))?.as_f64();
    let wanted = [
        ("in_focus_um", edges.in_focus_um),
        ("near_um", edges.near_um),
        ("middle_um", edges.middle_um),
        ("far_um", edges.far_um),
    ];
    for (place, (name, model_um)) in wanted.into_iter().enumerate() {
        let data_um = number(name, place)
            .with_context(|| format!("the manifest names no class edge {name}: make the set again"))?;
        ensure!(
            (data_um - model_um).abs() <= 1e-3 * model_um,
            "the model's class edge {name} is {model_um}, the data set's {data_um}: use a data set for the model's objective"
        );
    }
    Ok(())
}
