//! Labelled patches on disk.
//!
//! A data set is a folder of shards `patches-NNNN.npy` (uint8 [n, 300, 300, 3]), `handcrafted-NNNN.npy` (float32 [n, 18])
//! and `labels-NNNN.npy` (float32 [n, 3]: defocus in µm, slide, frame) with a `manifest.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use hhnet::classes::ClassEdges;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::features::FEATURES;
use hhnet::network::Network as _;
use hhnet::patches::PATCH;
use indicatif::ProgressBar;
use ndarray::{Array2, Array4, s};
use ndarray_npy::{ReadNpyExt, ReadableElement};
use serde_json::Value;

use super::JudgedFrame;

/// Patches shown to the network at once.
const BATCH: usize = 30;

/// Slide and frame, as the bits of their labels.
type FrameKey = (u32, u32);

pub(super) fn judge(network: &mut OnnxNetwork, data: &Path) -> Result<Vec<JudgedFrame>> {
    check_manifest(data, &network.card().class_edges)?;
    let shards = shards(data)?;
    let bar = ProgressBar::new(shards.len() as u64);
    let mut frames = BTreeMap::<FrameKey, JudgedFrame>::new();
    for name in shards {
        let patches: Array4<u8> = read(data, "patches", &name)?;
        let handcrafted: Array2<f32> = read(data, "handcrafted", &name)?;
        let labels: Array2<f32> = read(data, "labels", &name)?;
        let (count, ..) = patches.dim();
        if patches.dim() != (count, PATCH, PATCH, 3)
            || handcrafted.dim() != (count, FEATURES)
            || labels.dim() != (count, 3)
        {
            bail!(
                "shard {name} of {} has shapes {:?}, {:?}, {:?} but needs [n, 300, 300, 3], [n, 18], [n, 3]",
                data.display(),
                patches.shape(),
                handcrafted.shape(),
                labels.shape()
            );
        }
        for first in (0..count).step_by(BATCH) {
            let rows = first..(first + BATCH).min(count);
            let answers = network.infer(
                patches.slice(s![rows.clone(), .., .., ..]),
                handcrafted.slice(s![rows.clone(), ..]),
            )?;
            for (row, answer) in rows.zip(answers) {
                let key = (labels[[row, 1]].to_bits(), labels[[row, 2]].to_bits());
                let z_um = labels[[row, 0]].into();
                let frame = frames.entry(key).or_insert_with(|| JudgedFrame {
                    z_um,
                    patches: Vec::new(),
                    seconds: None,
                });
                frame.patches.push(answer);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(frames.into_values().collect())
}

/// The numbers of the shards, as their names have them.
fn shards(data: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data).with_context(|| format!("cannot list {}", data.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(
            name.strip_prefix("patches-")
                .and_then(|rest| rest.strip_suffix(".npy"))
                .map(str::to_owned),
        );
    }
    names.sort();
    ensure!(
        !names.is_empty(),
        "{} holds no patches-NNNN.npy: make one with `hhnet dataset synth`",
        data.display()
    );
    Ok(names)
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

/// The manifest may not name other class edges than the model.
fn check_manifest(data: &Path, edges: &ClassEdges) -> Result<()> {
    let path = data.join("manifest.json");
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "{} holds no data set, {} is missing",
            data.display(),
            path.display()
        )
    })?;
    let manifest: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let named = manifest
        .get("class_edges_um")
        .or_else(|| manifest.get("class_edges"));
    let number = |name: &str, place: usize| {
        named
            .and_then(|all| all.get(name).or_else(|| all.get(place)))?
            .as_f64()
    };
    let wanted = [
        ("in_focus_um", edges.in_focus_um),
        ("near_um", edges.near_um),
        ("middle_um", edges.middle_um),
        ("far_um", edges.far_um),
    ];
    for (place, (name, model_um)) in wanted.into_iter().enumerate() {
        let Some(data_um) = number(name, place) else {
            continue;
        };
        ensure!(
            (data_um - model_um).abs() <= 1e-3 * model_um,
            "the model's class edge {name} is {model_um}, the data set's {data_um}: use a data set for the model's objective"
        );
    }
    Ok(())
}
