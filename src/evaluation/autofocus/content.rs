//! How much specimen a field holds: slides of three kinds, and places on them that are of that kind.

use crate::range::OutOfRange;
use crate::range::within;
use crate::sim::slide::{Appearance, Raster, Slide};

/// Distance of the samples by which coverage is measured, µm.
const SAMPLE_UM: f64 = 1.0;
/// Green absorbance above which a sample is specimen and not the film of dried plasma.
const SPECIMEN: f32 = 0.12;
/// Places looked at on a slide before it is given up.
const PLACES: u32 = 400;

/// How much of a field is covered by specimen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// 30 to 75 %: a smear as it should be.
    Dense,
    /// 4 to 12 %: cells far apart.
    Sparse,
    /// 0.5 to 2 %: a few cells.
    ExtremelySparse,
}

impl Content {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dense, Self::Sparse, Self::ExtremelySparse];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::ExtremelySparse => "extremely_sparse",
        }
    }

    /// Least and most of a field that is covered, 0 to 1.
    pub const fn coverage(self) -> (f64, f64) {
        match self {
            Self::Dense => (0.30, 0.75),
            Self::Sparse => (0.04, 0.12),
            Self::ExtremelySparse => (0.005, 0.02),
        }
    }

    /// The look of a slide of this kind: that of its seed, with fewer cells of every sort. Dust stays.
    pub fn appearance(self, seed: u64) -> Appearance {
        let look = Appearance::new(seed);
        let share = match self {
            Self::Dense => 1.0,
            Self::Sparse => 0.15,
            Self::ExtremelySparse => 0.02,
        };
        Appearance {
            density: share * look.density,
            white_fraction: share * look.white_fraction,
            tumour_fraction: share * look.tumour_fraction,
            speck_fraction: share * look.speck_fraction,
            ..look
        }
    }

    /// A place of the slide with this look whose field, `size_um` wide and high, is covered as this kind is, and how much of it is; the
    /// first of many that lie apart.
    ///
    /// # Errors
    /// If there is none.
    pub fn find_place(
        self,
        seed: u64,
        look: &Appearance,
        size_um: [f64; 2],
    ) -> Result<([f64; 2], f64), NoPlace> {
        for side_um in size_um {
            within("field_um", side_um, SAMPLE_UM, 5000.0)?;
        }
        let slide = Slide::with_appearance(seed, look.clone());
        let (least, most) = self.coverage();
        (0..PLACES)
            .map(|place| {
                let apart = |along: u32, side_um: f64| (f64::from(along) - 10.0) * 1.5 * side_um;
                [apart(place % 20, size_um[0]), apart(place / 20, size_um[1])]
            })
            .map(|place_um| (place_um, coverage(&slide, place_um, size_um)))
            .find(|(_, covered)| (least..=most).contains(covered))
            .ok_or(NoPlace::NotFound {
                seed,
                content: self.name(),
            })
    }
}

/// Part of the field around a place that is covered by specimen, 0 to 1.
fn coverage(slide: &Slide, place_um: [f64; 2], size_um: [f64; 2]) -> f64 {
    let [width, height] = size_um.map(|um| (um / SAMPLE_UM) as usize);
    let maps = slide.paint(&Raster {
        left_um: place_um[0] - 0.5 * size_um[0],
        top_um: place_um[1] - 0.5 * size_um[1],
        step_um: SAMPLE_UM,
        width,
        height,
    });
    let covered = maps.absorbance[1].iter().filter(|green| **green > SPECIMEN);
    covered.count() as f64 / (width * height) as f64
}

/// A slide without such a place.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    /// None of the places looked at is covered as it should be.
    #[error("slide {seed} has no field that is {content}: choose another seed")]
    NotFound {
        /// Seed of the slide.
        seed: u64,
        /// The kind of field.
        content: &'static str,
    },
    /// The field has no size that can be looked for.
    #[error("{0}")]
    Size(#[from] OutOfRange),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slides_of_each_kind_have_such_fields() {
        for content in Content::ALL {
            for seed in 0..6 {
                let look = content.appearance(seed);
                let (_, covered) = content.find_place(seed, &look, [176.0, 132.0]).unwrap();
                let (least, most) = content.coverage();
                assert!((least..=most).contains(&covered), "{content:?} {seed}: {covered}");
            }
        }
    }

    #[test]
    fn a_slide_without_such_a_field_is_named() {
        let look = Appearance::empty(3);
        let message = Content::Dense.find_place(3, &look, [176.0, 132.0]).unwrap_err();
        assert!(message.to_string().contains("slide 3 has no field that is dense"));
        assert!(Content::Dense.find_place(3, &look, [0.0, 132.0]).is_err());
    }
}
