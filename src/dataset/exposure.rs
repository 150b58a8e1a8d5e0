//! Whether recorded images can teach anything: not black, not clipped, not one picture under several heights, not empty.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::estimate::patches::{self, Grid, ImageTooSmall};
use crate::frame::Frame;
use crate::statistics::median;

/// An image is nearly black if 99 of 100 of its values lie below this one.
const BLACK_BELOW: u8 = 16;
/// An image is clipped if this share of its values is white.
const CLIPPED: f64 = 0.5;
/// A field whose patches have this contrast in the middle, or less, is one of low contrast; grey levels.
const LOW_CONTRAST: f64 = 2.0;
/// Images a message names.
const NAMED: usize = 3;

/// What is to be known of an image before it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSummary {
    /// 99 of 100 values lie at or below it.
    pub bright: u8,
    /// Share of the values that are 255, 0 to 1.
    pub clipped: f64,
    /// Contrast of each patch of the centred grid, grey levels.
    pub contrasts: Vec<f32>,
    /// Equal for equal pixels.
    pub fingerprint: u64,
}

impl ImageSummary {
    /// The summary of an image.
    ///
    /// # Errors
    /// If it is smaller than a patch.
    pub fn of(frame: &Frame) -> Result<Self, ImageTooSmall> {
        let grid = Grid::centred(frame.width(), frame.height())?;
        let mut counts = [0_u64; 256];
        for value in frame.rgb() {
            counts[usize::from(*value)] += 1;
        }
        let all = frame.rgb().len() as u64;
        let mut below = 0;
        let bright = counts.iter().position(|count| {
            below += count;
            100 * below >= 99 * all
        });
        let mut hasher = DefaultHasher::new();
        (frame.width(), frame.rgb()).hash(&mut hasher);
        let origins = grid.origins().iter();
        Ok(Self {
            bright: bright.unwrap_or(255) as u8,
            clipped: counts[255] as f64 / all as f64,
            contrasts: origins.map(|&origin| patches::contrast(frame, origin)).collect(),
            fingerprint: hasher.finish(),
        })
    }

    /// Whether no patch has the contrast that a vote needs.
    pub fn is_blank(&self, min_contrast: f32) -> bool {
        self.contrasts.iter().all(|contrast| *contrast < min_contrast)
    }
}

/// An image of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name for a message.
    pub name: String,
    /// Its field of view.
    pub field: String,
    /// Its height, µm.
    pub z_um: f64,
    /// What there is to see in it.
    pub summary: ImageSummary,
}

/// What is to be said of a set that can be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Fields without a patch that holds something, in order.
    pub blank_fields: Vec<String>,
    /// Sentences.
    pub warnings: Vec<String>,
}

/// Why a set cannot teach: one sentence with the figures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Useless(String);

/// A way in which an image is exposed so that little is to be seen.
struct Exposure {
    is_bad: fn(&ImageSummary) -> bool,
    what: &'static str,
    remedy: &'static str,
}

const EXPOSURES: [Exposure; 2] = [
    Exposure {
        is_bad: |summary| summary.bright < BLACK_BELOW,
        what: "nearly black (99 of 100 values are below 16 of 255)",
        remedy: "give them more light, or --bits if they use fewer than they seem to",
    },
    Exposure {
        is_bad: |summary| summary.clipped > CLIPPED,
        what: "clipped (more than half of the values are 255)",
        remedy: "expose them shorter",
    },
];

/// Judges a set. A patch of less than `min_contrast` has no vote.
///
/// # Errors
/// If most images are nearly black or clipped, or two that show something are equal.
pub fn judge(images: &[Seen], min_contrast: f32) -> Result<Verdict, Useless> {
    let mut verdict = Verdict::default();
    for exposure in EXPOSURES {
        let bad: Vec<&Seen> = images
            .iter()
            .filter(|image| (exposure.is_bad)(&image.summary))
            .collect();
        let sentence = format!(
            "{} of {} images are {}: {}",
            bad.len(),
            images.len(),
            exposure.what,
            names(&bad)
        );
        if 2 * bad.len() > images.len() {
            return Err(Useless(format!("{sentence}; {}", exposure.remedy)));
        }
        if !bad.is_empty() {
            verdict.warnings.push(sentence);
        }
    }
    check_equal(images, min_contrast)?;
    look_at_fields(images, min_contrast, &mut verdict);
    Ok(verdict)
}

fn names(images: &[&Seen]) -> String {
    let mut text = images
        .iter()
        .take(NAMED)
        .map(|image| image.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    if images.len() > NAMED {
        text += ", …";
    }
    text
}

/// Two equal images with a specimen are one picture: no camera's noise repeats.
fn check_equal(images: &[Seen], min_contrast: f32) -> Result<(), Useless> {
    let mut first = BTreeMap::<u64, &Seen>::new();
    let mut equal = Vec::new();
    for image in images
        .iter()
        .filter(|image| !image.summary.is_blank(min_contrast))
    {
        match first.get(&image.summary.fingerprint) {
            Some(other) => equal.push((*other, image)),
            None => _ = first.insert(image.summary.fingerprint, image),
        }
    }
    let Some((one, other)) = equal.first() else {
        return Ok(());
    };
    Err(Useless(format!(
        "{} of {} images are equal to another one, {} ({} µm) and {} ({} µm) first: was the camera frozen, or a file copied? Keep one",
        equal.len(),
        images.len(),
        one.name,
        one.z_um,
        other.name,
        other.z_um
    )))
}

fn look_at_fields(images: &[Seen], min_contrast: f32, verdict: &mut Verdict) {
    let mut fields = BTreeMap::<&str, Vec<f32>>::new();
    for image in images {
        fields
            .entry(&image.field)
            .or_default()
            .extend(&image.summary.contrasts);
    }
    for (field, contrasts) in fields {
        let blank = contrasts
            .iter()
            .filter(|contrast| **contrast < min_contrast)
            .count();
        let count = contrasts.len();
        let middle = median(contrasts.into_iter().map(f64::from)).unwrap_or_default();
        if blank == count {
            verdict.blank_fields.push(field.to_owned());
        } else if middle < LOW_CONTRAST {
            verdict.warnings.push(format!(
                "field {field} has low contrast: {blank} of its {count} patches hold next to nothing, the middle one has a contrast of \
                 {middle:.1} of 255; expect less of it"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Instant;

    /// An image of a height whose left half has one level and whose right half another.
    fn seen(name: &str, field: &str, z_um: f64, levels: [u8; 2]) -> Seen {
        let rgb = (0..310 * 310 * 3).map(|at| levels[usize::from(at % 930 >= 465)]);
        let frame = Frame::new(310, 310, rgb.collect(), Instant::default(), 0).unwrap();
        Seen {
            name: name.to_owned(),
            field: field.to_owned(),
            z_um,
            summary: ImageSummary::of(&frame).unwrap(),
        }
    }

    fn refused(images: &[Seen], words: &str) {
        let message = judge(images, 0.6).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn sets_that_teach_nothing_are_refused_with_the_figures() {
        let good = seen("a", "left", 1.0, [100, 200]);
        let dark = seen("b", "left", 2.0, [3, 13]);
        let white = seen("c", "left", 3.0, [100, 255]);
        let whiter = seen("d", "left", 3.0, [255, 255]);
        refused(
            &[good.clone(), dark.clone(), dark.clone()],
            "2 of 3 images are nearly black",
        );
        refused(std::slice::from_ref(&whiter), "1 of 1 images are clipped");
        let twin = Seen {
            z_um: 4.0,
            name: "e".to_owned(),
            ..good.clone()
        };
        refused(
            &[good.clone(), white.clone(), twin],
            "1 of 3 images are equal to another one, a (1 µm) and e (4 µm)",
        );
        let verdict = judge(&[good, white, dark, whiter], 0.6).unwrap();
        assert_eq!(verdict.warnings.len(), 2, "{verdict:?}");
        assert!(
            verdict.warnings[0].contains("1 of 4 images are nearly black")
                && verdict.warnings[0].ends_with(": b")
        );
    }

    #[test]
    fn blank_fields_are_told_from_those_of_low_contrast() {
        let images = [
            seen("a", "good", 1.0, [100, 200]),
            seen("b", "blank", 1.0, [100, 100]),
            seen("c", "blank", 2.0, [100, 100]),
            seen("d", "low", 1.0, [100, 104]),
        ];
        let verdict = judge(&images, 0.6).unwrap();
        assert_eq!(verdict.blank_fields, ["blank"]);
        assert_eq!(verdict.warnings.len(), 1, "{verdict:?}");
        assert!(verdict.warnings[0].starts_with("field low has low contrast: 0 of its 1 patches"));
    }
}
