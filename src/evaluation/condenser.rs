//! The condenser: its law, fitted to instruments whose apertures are known, and its aperture, measured by heights that are known.

use std::collections::BTreeMap;

use crate::estimate::classifier::{ClassifierConfig, Estimate};
use crate::estimate::temperature::{CondenserLaw, KnownHeight};
use crate::objective::Objective;
use crate::statistics::{median, sorted};
use serde_json::{Value, json};

use super::JudgedFrame;

/// Depths of field nearer to which heights depend little on the condenser.
const NEAREST_DEPTHS: f64 = 2.0;
/// Depths of field beyond which the law need not be exact.
const FARTHEST_DEPTHS: f64 = 8.0;

/// Nothing tells the aperture of the condenser.
#[derive(Debug, thiserror::Error)]
#[error(
    "no frame tells the aperture of the condenser: heights of {least_um:.1} µm and more are needed, positive where the lens is too \
     far (--flip-sign)"
)]
pub struct NoAperture {
    /// From this defocus on heights depend on the condenser, µm.
    least_um: f64,
}

/// Defocus as stated of a condenser that is not known, µm.
fn stated_um(frame: &JudgedFrame, settings: &ClassifierConfig) -> Option<f64> {
    Some(Estimate::from_patches(&frame.patches, settings).defocus?.0)
}

/// The law that frames of known apertures obey; None without enough of them, or for an objective that is not in the catalogue.
pub fn fit(
    frames: &[JudgedFrame],
    objective: &str,
    settings: &ClassifierConfig,
    depth_um: f64,
) -> Option<CondenserLaw> {
    let usual_na = Objective::by_name(objective).ok()?.condenser_na;
    let known = frames.iter().filter_map(|frame| {
        Some(KnownHeight {
            condenser_na: frame.condenser_na?,
            stated_um: stated_um(frame, settings)?,
            true_um: frame.z_um,
        })
    });
    let known: Vec<_> = known.collect();
    CondenserLaw::fit(
        &known,
        usual_na,
        NEAREST_DEPTHS * depth_um,
        FARTHEST_DEPTHS * depth_um,
    )
}

/// Sets the aperture of every frame to what the other frames of its slide say. What all frames of a slide say together, over the slides:
/// median, least and most. Frames beyond the range that the model answers for say nothing.
///
/// # Errors
/// If no frame says anything.
pub fn measure(
    frames: &mut [JudgedFrame],
    law: CondenserLaw,
    settings: &ClassifierConfig,
    depth_um: f64,
) -> Result<Value, NoAperture> {
    let [least_um, most_um] = settings.range_um.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
    let heights: Vec<Option<(f64, f64)>> = frames
        .iter()
        .map(|frame| Some((stated_um(frame, settings)?, frame.z_um)))
        .map(|height| height.filter(|(_, true_um)| (least_um..=most_um).contains(true_um)))
        .collect();
    let mut slides = BTreeMap::<u64, Vec<usize>>::new();
    for (at, frame) in frames.iter().enumerate() {
        slides.entry(frame.slide).or_default().push(at);
    }
    let of = |rows: &[usize], without: Option<usize>| {
        let rows = rows.iter().filter(|&&at| Some(at) != without);
        law.measure(rows.filter_map(|&at| heights[at]), NEAREST_DEPTHS * depth_um)
    };
    for rows in slides.values() {
        for &at in rows {
            frames[at].condenser_na = of(rows, Some(at));
        }
    }
    let found = sorted(slides.values().filter_map(|rows| of(rows, None)));
    let (Some(least), Some(most)) = (found.first(), found.last()) else {
        return Err(NoAperture {
            least_um: NEAREST_DEPTHS * depth_um,
        });
    };
    Ok(json!({ "median": median(found.iter().copied()), "least": least, "most": most }))
}
