//! Fills in the card: from passes and moves to rows with a verdict and a sentence.

use super::backlash::backlash;
use super::card::{Card, Quantity, Row, Value, Verdict};
use super::focus_height::focus_height_um;
use super::latency::{Passing, latency};
use super::pass::{Approach, Pass};
use super::pixel_size::{Moved, pixel_size};
use super::response::{Stated, condenser_na, response};
use crate::estimate::temperature::CondenserLaw;

/// Scale of the network from which to which it is as good as the stage.
const SCALE: std::ops::RangeInclusive<f64> = 0.85..=1.15;
/// Part of the frames that have to name the right side, and the part below which the sides are the wrong way round.
const RIGHT_SIDE: f64 = 0.95;
const WRONG_SIDE: f64 = 0.5;
/// How far frames may be off the line, times what is usual.
const RESIDUAL: f64 = 2.0;
/// Half of the depth of field is in focus.
const IN_FOCUS_DEPTHS: f64 = 0.5;
/// Standard deviations that are good enough: of heights in depths of field, of apertures and pixels in parts.
const SURE_DEPTHS: f64 = 0.25;
const SURE_NA: f64 = 0.1;
const SURE_PIXEL: f64 = 0.01;
/// Part of a long play that it may be unsure by.
const SURE_PLAY: f64 = 0.15;
/// Standard deviation of a latency that is good enough, ms: at 100 µm/s it is a fifth of the depth of field of a 40x/0.65.
const SURE_MS: f64 = 3.0;
/// Part by which x and y of a stage may differ.
const ALIKE: f64 = 0.02;
/// Part by which a pixel may differ from what was taken for granted.
const SAME_PIXEL: f64 = 0.03;

/// What is known beforehand.
#[derive(Clone, Debug)]
pub struct Known {
    /// Depth of field of the objective, µm.
    pub depth_um: f64,
    /// Name of the model; empty if none judged.
    pub model: String,
    /// How its heights depend on the condenser.
    pub condenser: Option<CondenserLaw>,
    /// What it answers for, µm.
    pub range_um: Option<[f64; 2]>,
    /// Side of a pixel as it was taken for granted, µm.
    pub pixel_um: Option<f64>,
    /// Now, RFC 3339.
    pub made: String,
}

impl Known {
    fn row(&self, quantity: Quantity, value: Value, verdict: Verdict, note: String) -> (Quantity, Row) {
        let row = Row {
            value: Some(value.value),
            stddev: Some(value.stddev),
            unit: quantity.unit().to_owned(),
            verdict,
            note,
            made: self.made.clone(),
            model: self.model_of(quantity),
        };
        (quantity, row)
    }

    fn missing(&self, quantity: Quantity, note: &str) -> (Quantity, Row) {
        let row = Row {
            value: None,
            stddev: None,
            unit: quantity.unit().to_owned(),
            verdict: Verdict::Missing,
            note: note.to_owned(),
            made: self.made.clone(),
            model: self.model_of(quantity),
        };
        (quantity, row)
    }

    fn model_of(&self, quantity: Quantity) -> String {
        match quantity {
            Quantity::ResponseScale | Quantity::ResponseOffset | Quantity::CondenserNa => self.model.clone(),
            _ => String::new(),
        }
    }
}

/// Rows of a card.
pub type Rows = Vec<(Quantity, Row)>;

/// The card of everything that was recorded.
pub fn card(objective: &str, passes: &[Pass], moves: Result<&[Moved], &str>, known: &Known) -> Card {
    let mut card = Card::new(objective);
    let rows = [
        focus_rows(passes, known),
        response_rows(passes, known),
        backlash_rows(passes, known),
        pixel_rows(moves, known),
    ];
    for (quantity, row) in rows.into_iter().flatten() {
        card.take(quantity, row);
    }
    card
}

fn verdict(is_good: bool) -> Verdict {
    if is_good { Verdict::Good } else { Verdict::Doubtful }
}

/// Where focus is: of the first pass that shows it.
pub fn focus_rows(passes: &[Pass], known: &Known) -> Rows {
    let quantity = Quantity::FocusHeight;
    let mut reason = "nothing was recorded".to_owned();
    for pass in passes {
        match focus_height_um(pass) {
            Ok(height) => {
                let limit_um = SURE_DEPTHS * known.depth_um;
                let from = match pass.approach {
                    Some(Approach::FromBelow) => ", reached from below",
                    Some(Approach::FromAbove) => ", reached from above",
                    None => "",
                };
                let note = format!(
                    "by the peak of sharpness over {} frames of {}{from}",
                    pass.looks.len(),
                    pass.field
                );
                return vec![known.row(quantity, height, verdict(height.stddev <= limit_um), note)];
            }
            Err(error) => reason = error.to_string(),
        }
    }
    vec![known.missing(quantity, &reason)]
}

/// What the network stated of heights above focus, over all passes that show their focus.
pub fn stated(passes: &[Pass]) -> Vec<Stated> {
    let of = |pass: &Pass| -> Option<Vec<Stated>> {
        let focus_um = focus_height_um(pass).ok()?.value;
        let looks = pass.looks.iter().filter_map(|look| {
            Some(Stated {
                true_um: look.z_um - focus_um,
                stated_um: look.estimate_um?,
            })
        });
        Some(looks.collect())
    };
    passes.iter().filter_map(of).flatten().collect()
}

/// Scale, offset and condenser.
pub fn response_rows(passes: &[Pass], known: &Known) -> Rows {
    const ALL: [Quantity; 3] = [
        Quantity::ResponseScale,
        Quantity::ResponseOffset,
        Quantity::CondenserNa,
    ];
    let nothing = |note: &str| ALL.map(|quantity| known.missing(quantity, note)).to_vec();
    if known.model.is_empty() {
        return nothing("no network has judged the frames");
    }
    let (stated, looks) = (
        stated(passes),
        passes.iter().map(|pass| pass.looks.len()).sum::<usize>(),
    );
    if stated.is_empty() {
        return nothing(
            "no pass shows focus by sharpness with frames that the network trusts: focus first, on a place with specimen",
        );
    }
    let found = match response(&stated, known.depth_um) {
        Ok(found) => found,
        Err(error) => return nothing(&error.to_string()),
    };
    let is_wrong = found.scale.value <= 0.0 || found.right_side < WRONG_SIDE;
    let offset_limit_um = IN_FOCUS_DEPTHS * known.depth_um;
    let of_frames = format!(
        "{} of {looks} frames are trusted, {:.0} % of those out of focus name the right side",
        found.frames,
        100.0 * found.right_side
    );
    let (scale_verdict, scale_note) = if is_wrong {
        let note = format!(
            "the network says too far where the stage stands below focus ({of_frames}): z counts downwards, or the model is for another instrument; \
             turn the direction of z in the motion controller, and do not focus before"
        );
        (Verdict::Wrong, note)
    } else if found.right_side < RIGHT_SIDE {
        (
            Verdict::Doubtful,
            format!("{of_frames}: that is too few, train on this stack or set up Köhler illumination"),
        )
    } else if !SCALE.contains(&found.scale.value) {
        let note = format!(
            "the network is off by {:+.0} % ({of_frames}): tell it the condenser, or train on this stack",
            100.0 * (found.scale.value - 1.0)
        );
        (Verdict::Doubtful, note)
    } else if found.residual > RESIDUAL {
        let note = format!(
            "frames scatter {:.1} times as much about the line as is usual ({of_frames})",
            found.residual
        );
        (Verdict::Doubtful, note)
    } else {
        (Verdict::Good, of_frames)
    };
    let offset_is_good = found.offset_um.value.abs() <= offset_limit_um && !is_wrong;
    let offset_note = if offset_is_good {
        "what the network calls focus is as sharp as it gets".to_owned()
    } else {
        format!(
            "what the network calls focus lies {:.1} µm from the sharpest picture",
            found.offset_um.value / found.scale.value.abs().max(0.1)
        )
    };
    vec![
        known.row(Quantity::ResponseScale, found.scale, scale_verdict, scale_note),
        known.row(
            Quantity::ResponseOffset,
            found.offset_um,
            verdict(offset_is_good),
            offset_note,
        ),
        condenser_row(&stated, is_wrong, known),
    ]
}

fn condenser_row(stated: &[Stated], is_wrong: bool, known: &Known) -> (Quantity, Row) {
    let quantity = Quantity::CondenserNa;
    let Some(law) = &known.condenser else {
        return known.missing(
            quantity,
            "the model does not say how its heights depend on the condenser",
        );
    };
    if is_wrong {
        return known.missing(quantity, "the sides of focus are the wrong way round");
    }
    match condenser_na(stated, law, known.range_um, known.depth_um) {
        Some(na) => {
            let is_sure = na.stddev <= SURE_NA * na.value;
            let note = if is_sure {
                format!(
                    "heights are right for a condenser of this aperture; the model takes {:.2} for granted",
                    law.na
                )
            } else {
                "frames above and below focus contradict each other about it".to_owned()
            };
            known.row(quantity, na, verdict(is_sure), note)
        }
        None => known.missing(
            quantity,
            "no frame lies two depths of field or more from focus within the range of the model",
        ),
    }
}

/// The play of the drive, by the field with the most passes.
pub fn backlash_rows(passes: &[Pass], known: &Known) -> Rows {
    let quantity = Quantity::Backlash;
    let mut fields: Vec<&str> = passes.iter().map(|pass| pass.field.as_str()).collect();
    fields.dedup();
    let of = |field: &str| -> Vec<&Pass> {
        passes
            .iter()
            .filter(|pass| pass.field == field && pass.approach.is_some())
            .collect()
    };
    // The first of those with the most.
    let most = fields.iter().rev().max_by_key(|field| of(field).len());
    let own = most.map(|field| of(field)).unwrap_or_default();
    let found = match backlash(&own, known.depth_um) {
        Ok(found) => found,
        Err(error) => return vec![known.missing(quantity, &error.to_string())],
    };
    let best = found.best_um();
    let limit_um = (SURE_DEPTHS * known.depth_um).max(SURE_PLAY * best.value);
    let [below, above] = found.passes;
    let by = |value: Value| format!("{:.2} ± {:.2} µm", value.value, value.stddev);
    let estimates = found
        .by_estimates_um
        .map_or(String::new(), |value| format!(", {} by the network", by(value)));
    let measures = format!(
        "{} by sharpness{estimates}, over {below} passes from below and {above} from above",
        by(found.by_sharpness_um)
    );
    let (verdict, note) = if found.is_contradictory(known.depth_um) {
        (
            Verdict::Doubtful,
            format!("the two measures contradict each other: {measures}"),
        )
    } else if best.stddev > limit_um {
        (
            Verdict::Doubtful,
            format!("it is not sure: {measures}; the stand drifts, or steps are too long"),
        )
    } else {
        (Verdict::Good, measures)
    };
    // Less than nothing is nothing, within what it is sure to.
    let best = Value {
        value: best.value.max(0.0),
        ..best
    };
    vec![known.row(quantity, best, verdict, note)]
}

/// How late the stamps of frames are, by frames of a moving lens.
pub fn latency_rows(frames: &[Passing], known: &Known) -> Rows {
    let quantity = Quantity::Latency;
    let found = match latency(frames, known.depth_um) {
        Ok(found) => found,
        Err(error) => return vec![known.missing(quantity, &error.to_string())],
    };
    let ms = Value {
        value: 1e3 * found.seconds.value,
        stddev: 1e3 * found.seconds.stddev,
    };
    let is_sure = ms.stddev <= SURE_MS;
    let measures = format!(
        "over {} of {} frames of a moving lens; play by the same frames {:.2} ± {:.2} µm",
        found.frames,
        frames.len(),
        found.play_um.value,
        found.play_um.stddev
    );
    let note = if is_sure {
        measures
    } else {
        format!("it is not sure: {measures}")
    };
    vec![known.row(quantity, ms, verdict(is_sure), note)]
}

/// Pixel and camera; the error of `moves` says why there are none.
pub fn pixel_rows(moves: Result<&[Moved], &str>, known: &Known) -> Rows {
    const ALL: [Quantity; 3] = [
        Quantity::PixelSize,
        Quantity::CameraRotation,
        Quantity::StageAspect,
    ];
    let found = match moves.map(pixel_size) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return ALL
                .map(|quantity| known.missing(quantity, &error.to_string()))
                .to_vec();
        }
        Err(reason) => return ALL.map(|quantity| known.missing(quantity, reason)).to_vec(),
    };
    let pixel = found.pixel_um;
    let is_sure = pixel.stddev <= SURE_PIXEL * pixel.value;
    let is_even = (found.aspect.value - 1.0).abs() <= ALIKE.max(3.0 * found.aspect.stddev);
    let moves = format!("{} moves, off by {:.1} pixels", found.moves, found.residual_px);
    let pixel_note = match known.pixel_um {
        Some(um) if (pixel.value / um - 1.0).abs() > SAME_PIXEL => {
            format!("{moves}; not the {um:.4} µm that were taken for granted")
        }
        Some(um) => format!("{moves}; as good as the {um:.4} µm that were taken for granted"),
        None => moves,
    };
    let mirror = if found.is_mirrored {
        "the picture is mirrored against the stage"
    } else {
        "the picture is not mirrored against the stage"
    };
    let aspect_note = if is_even {
        "x and y of the stage count alike".to_owned()
    } else {
        "x and y of the stage do not count alike: check the steps per mm of both axes".to_owned()
    };
    vec![
        known.row(
            Quantity::PixelSize,
            pixel,
            verdict(is_sure && is_even),
            pixel_note,
        ),
        known.row(
            Quantity::CameraRotation,
            found.rotation_deg,
            verdict(is_sure),
            mirror.to_owned(),
        ),
        known.row(Quantity::StageAspect, found.aspect, verdict(is_even), aspect_note),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::calibration::pass::Look;

    fn known() -> Known {
        Known {
            depth_um: 1.43,
            model: "a model".to_owned(),
            condenser: Some(CondenserLaw {
                na: 0.4,
                exponents: [-0.171, -0.551],
            }),
            range_um: Some([-65.0, 65.0]),
            pixel_um: Some(0.08625),
            made: "now".to_owned(),
        }
    }

    /// A pass that a network of this scale judged, behind this play.
    fn pass(approach: Approach, scale: f64, play_um: f64) -> Pass {
        let behind_um = if approach == Approach::FromBelow {
            play_um
        } else {
            0.0
        };
        let look = |at: i32| {
            let z_um = 50.0 + 0.7 * f64::from(at);
            let defocus_um = z_um - behind_um - 50.3;
            Look {
                z_um,
                sharpness: Some(0.2 + (-(defocus_um / 2.5).powi(2)).exp()),
                estimate_um: Some(scale * defocus_um),
            }
        };
        Pass {
            field: "here".to_owned(),
            approach: Some(approach),
            looks: (-28..=28).map(look).collect(),
        }
    }

    fn of(scale: f64) -> Card {
        let passes = [Approach::FromBelow, Approach::FromAbove].map(|approach| pass(approach, scale, 2.0));
        card("40x0.65", &passes, Err("nothing moved"), &known())
    }

    #[test]
    fn a_good_instrument_gets_a_good_card() {
        let card = of(1.0);
        let good = |quantity| card.good(quantity).unwrap_or(f64::NAN);
        assert!((good(Quantity::FocusHeight) - 52.3).abs() < 0.1, "{card:?}");
        assert!((good(Quantity::ResponseScale) - 1.0).abs() < 0.02, "{card:?}");
        assert!((good(Quantity::Backlash) - 2.0).abs() < 0.1, "{card:?}");
        assert!((good(Quantity::CondenserNa) - 0.4).abs() < 0.02, "{card:?}");
        assert_eq!(card.rows[&Quantity::PixelSize].note, "nothing moved");
        // Frames of a stage at rest tell no latency.
        let told = Quantity::ALL
            .into_iter()
            .filter(|&quantity| quantity != Quantity::Latency);
        assert!(card.rows.keys().copied().eq(told), "{card:?}");
    }

    #[test]
    fn a_latency_is_good_where_enough_frames_are_sure_of_it() {
        let frame = |at: usize, wrong_um: f64| {
            let um_per_s = [20.0, -20.0, 100.0, -100.0][at % 4];
            let z_um = 45.0 + (3.7 * at as f64) % 10.0;
            let chance_um = wrong_um * (2.0 * (0.618 * at as f64).fract() - 1.0);
            Passing {
                z_um,
                um_per_s,
                estimate_um: z_um - 0.025 * um_per_s - 50.0 + chance_um,
            }
        };
        for (frames, wrong_um, expected) in [
            (48, 0.2, Verdict::Good),
            (16, 3.0, Verdict::Doubtful),
            (8, 0.2, Verdict::Missing),
        ] {
            let frames: Vec<Passing> = (0..frames).map(|at| frame(at, wrong_um)).collect();
            let rows = latency_rows(&frames, &known());
            let [(Quantity::Latency, row)] = rows.as_slice() else {
                panic!("{rows:?}")
            };
            assert_eq!((row.verdict, row.unit.as_str()), (expected, "ms"), "{row:?}");
            if expected == Verdict::Good {
                assert!((row.value.unwrap() - 25.0).abs() < 1.0, "{row:?}");
            }
        }
    }

    #[test]
    fn a_wrong_sign_is_named_and_nothing_is_built_on_it() {
        let card = of(-1.0);
        let scale = &card.rows[&Quantity::ResponseScale];
        assert_eq!(scale.verdict, Verdict::Wrong);
        assert!(scale.note.contains("counts downwards"), "{}", scale.note);
        assert_eq!(card.rows[&Quantity::CondenserNa].verdict, Verdict::Missing);
        assert!(card.table().contains("WRONG"));
    }

    #[test]
    fn a_network_that_is_off_is_doubtful() {
        let card = of(0.7);
        let scale = &card.rows[&Quantity::ResponseScale];
        assert!(
            scale.verdict == Verdict::Doubtful && scale.note.contains("-30 %"),
            "{scale:?}"
        );
    }

    #[test]
    fn without_a_network_classical_values_are_left() {
        let mut passes = vec![pass(Approach::FromBelow, 1.0, 0.0)];
        passes[0]
            .looks
            .iter_mut()
            .for_each(|look| look.estimate_um = None);
        let card = card("40x0.65", &passes, Err("nothing moved"), &known());
        assert!(card.good(Quantity::FocusHeight).is_some());
        assert_eq!(card.rows[&Quantity::ResponseScale].verdict, Verdict::Missing);
        assert!(
            card.rows[&Quantity::Backlash]
                .note
                .contains("(1 and 0 are there)"),
            "{card:?}"
        );
    }
}
