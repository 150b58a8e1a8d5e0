//! What frames of one place show of the height they were taken at: recorded once, looked up in every run.

use super::content::Content;
#[cfg(test)]
use crate::classes::ClassEdges;
use crate::estimate::classifier::Estimate;
use crate::focus::Observation;
#[cfg(test)]
use crate::units::Micrometres;
use crate::units::{Defocus, Instant};

/// What the control laws are told of a frame; when it was exposed is known in a run only.
pub fn judgement(estimate: &Estimate) -> Observation {
    Observation {
        index: estimate.index,
        defocus: estimate.defocus.map(|um| Defocus::from_um(um.0)),
        stddev_um: estimate.defocus_stddev.map(|um| um.0),
        sharpness: estimate.sharpness,
        other_side: estimate.index.other_side(&estimate.probabilities),
        trusted: estimate.trusted,
        reason: estimate
            .doubt
            .map_or_else(|| "".into(), |doubt| doubt.to_string().into()),
        has_specimen: estimate.patches_used > 0,
        left_out: 0,
        exposed: Instant::default(),
    }
}

/// How sharp a frame is, by the measures of the rivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharpness {
    /// [`crate::estimate::sharpness::tenengrad`].
    pub tenengrad: f64,
    /// [`crate::estimate::sharpness::brenner`].
    pub brenner: f64,
    /// Size as a JPEG, bytes.
    pub jpeg_bytes: f64,
}

impl Sharpness {
    /// Between two frames, `share` of the way from the first to the second, 0 to 1.
    fn between(first: Self, second: Self, share: f64) -> Self {
        let mix = |a: f64, b: f64| a + share * (b - a);
        Self {
            tenengrad: mix(first.tenengrad, second.tenengrad),
            brenner: mix(first.brenner, second.brenner),
            jpeg_bytes: mix(first.jpeg_bytes, second.jpeg_bytes),
        }
    }
}

/// What there is to see in a frame, for whichever strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// By the network.
    pub judgement: Observation,
    /// By classical measures.
    pub sharpness: Sharpness,
}

/// Frames of one height; they differ in their noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// True defocus, µm; positive: too far from the slide.
    pub defocus_um: f64,
    /// One or more frames.
    pub frames: Vec<Seen>,
}

/// The frames of one place, at every height.
#[derive(Clone, Debug)]
pub struct Response {
    content: Content,
    slide: u64,
    coverage: f64,
    planes: Vec<Plane>,
}

/// Planes from which no response can be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "a response needs two planes or more, of finite heights that differ, each with a frame: got {0} that are fit"
)]
pub struct TooFewPlanes(usize);

impl Response {
    /// The response of a place of a slide, `coverage` of which (0 to 1) is covered by specimen; the planes in any order.
    ///
    /// # Errors
    /// Fewer than two planes with frames.
    pub fn new(
        content: Content,
        slide: u64,
        coverage: f64,
        mut planes: Vec<Plane>,
    ) -> Result<Self, TooFewPlanes> {
        planes.retain(|plane| plane.defocus_um.is_finite() && !plane.frames.is_empty());
        planes.sort_by(|a, b| a.defocus_um.total_cmp(&b.defocus_um));
        planes.dedup_by(|a, b| a.defocus_um == b.defocus_um);
        if planes.len() < 2 {
            return Err(TooFewPlanes(planes.len()));
        }
        Ok(Self {
            content,
            slide,
            coverage,
            planes,
        })
    }

    /// What lies there.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Seed of the slide.
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// Part of the frame that is covered by specimen, 0 to 1.
    pub fn coverage(&self) -> f64 {
        self.coverage
    }

    /// The planes, from the lowest up.
    pub fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// What a frame shows that is exposed at this defocus, µm; `pick` chooses the noise.
    ///
    /// The network's answer is that of the nearest plane, its defocus moved by as much as the lens is from there: answers of one frame stay
    /// together, with whatever is wrong about them. Measures of sharpness are mixed from the two planes around. Beyond the outermost plane
    /// everything is as there.
    pub fn at(&self, defocus_um: f64, pick: u64) -> Seen {
        let last = self.planes.len() - 1;
        let above = self
            .planes
            .partition_point(|plane| plane.defocus_um < defocus_um)
            .clamp(1, last);
        let (low, high) = (&self.planes[above - 1], &self.planes[above]);
        let inside_um = defocus_um.clamp(low.defocus_um, high.defocus_um);
        let share = (inside_um - low.defocus_um) / (high.defocus_um - low.defocus_um);
        let frame = |plane: &Plane| plane.frames[(pick % plane.frames.len() as u64) as usize].clone();
        let (first, second) = (frame(low), frame(high));
        let sharpness = Sharpness::between(first.sharpness, second.sharpness, share);
        let (mut judgement, from_um) = if share < 0.5 {
            (first.judgement, low.defocus_um)
        } else {
            (second.judgement, high.defocus_um)
        };
        judgement.defocus = judgement
            .defocus
            .map(|defocus| Defocus::from_um(defocus.um() + inside_um - from_um));
        Seen { judgement, sharpness }
    }
}

/// A clear answer, for tests.
#[cfg(test)]
pub(super) fn told(defocus_um: f64) -> Observation {
    Observation {
        index: ClassEdges::default().classify(Micrometres(defocus_um)),
        defocus: Some(Defocus::from_um(defocus_um)),
        stddev_um: None,
        sharpness: None,
        other_side: 0.0,
        trusted: true,
        reason: "".into(),
        has_specimen: true,
        left_out: 0,
        exposed: Instant::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::DistanceIndex;
    use crate::estimate::classifier::Doubt;

    fn seen(um: f64, sharp: f64) -> Seen {
        Seen {
            judgement: told(um),
            sharpness: Sharpness {
                tenengrad: sharp,
                brenner: 2.0 * sharp,
                jpeg_bytes: 3.0 * sharp,
            },
        }
    }

    fn plane(defocus_um: f64, frames: Vec<Seen>) -> Plane {
        Plane { defocus_um, frames }
    }

    #[test]
    fn answers_are_those_of_the_nearest_plane_and_measures_are_mixed() {
        let planes = vec![
            plane(2.0, vec![seen(2.1, 4.0)]),
            plane(-2.0, vec![seen(-2.5, 1.0)]),
            plane(0.0, vec![seen(0.2, 8.0), seen(0.3, 9.0)]),
        ];
        let response = Response::new(Content::Dense, 7, 0.5, planes).unwrap();
        for (at_um, pick, defocus_um, tenengrad) in [
            (0.0, 0, 0.2, 8.0),
            (0.0, 3, 0.3, 9.0),
            (0.5, 0, 0.7, 7.0),
            (1.5, 0, 1.6, 5.0),
            (-1.5, 1, -2.0, 3.0),
            // Beyond the ends everything is as there.
            (90.0, 5, 2.1, 4.0),
            (-90.0, 5, -2.5, 1.0),
        ] {
            let is = response.at(at_um, pick);
            let is_um = is.judgement.defocus.unwrap().um();
            assert!((is_um - defocus_um).abs() < 1e-12, "{at_um}: {is_um}");
            assert!((is.sharpness.tenengrad - tenengrad).abs() < 1e-12, "{at_um}");
            assert!((is.sharpness.jpeg_bytes - 3.0 * tenengrad).abs() < 1e-12);
        }
    }

    #[test]
    fn planes_without_frames_do_not_count() {
        let empty = plane(1.0, Vec::new());
        let nowhere = plane(f64::NAN, vec![seen(0.0, 1.0)]);
        let planes = vec![empty, nowhere, plane(0.0, vec![seen(0.0, 1.0)])];
        let error = Response::new(Content::Sparse, 1, 0.1, planes).unwrap_err();
        assert!(error.to_string().ends_with("got 1 that are fit"), "{error}");
    }

    #[test]
    fn the_other_side_is_what_the_classes_beyond_focus_hold() {
        let estimate = Estimate {
            index: DistanceIndex::FARTHEST,
            certainty: 0.6,
            probabilities: [0.5, 0.1, 0.1, 0.05, 0.05, 0.15, 0.05],
            defocus: Some(Micrometres(33.0)),
            defocus_stddev: None,
            sharpness: None,
            patches_used: 12,
            trusted: false,
            doubt: Some(Doubt::NoAnswer),
        };
        let judgement = judgement(&estimate);
        assert!((judgement.other_side - 0.2).abs() < 1e-6);
        assert_eq!(judgement.defocus, Some(Defocus::from_um(33.0)));
        assert!(judgement.has_specimen && !judgement.trusted && !judgement.reason.is_empty());
    }
}
