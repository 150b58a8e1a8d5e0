//! What pictures say of a motion: whether the lens went the way it was told and as far, and how far the slide went aside.

use std::sync::Arc;

use crate::calibration::shift::shift;
use crate::estimate::sharpness::tenengrad;
use crate::frame::Frame;

/// Part of a commanded rise that has to be seen for its direction: play takes some of a first one.
const SEEN_PART: f64 = 0.4;
/// Seen rise by commanded rise that is right; estimates are off by a tenth, steps/mm by half or more.
const RIGHT_RISE: (f64, f64) = (0.6, 1.5);
/// Seen move aside by commanded move that is right.
const RIGHT_ASIDE: (f64, f64) = (0.8, 1.25);
/// Cosine between the moves of x and y in the picture above which they are one line.
const ONE_LINE: f64 = 0.3;
/// Change of sharpness from which something has moved.
const CHANGED: f64 = 0.1;

/// Why a rise is not seen.
const NO_HEIGHT: &str = "no height could be told from the pictures";

/// A picture taken while the stage stood.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The picture.
    pub frame: Arc<Frame>,
    /// Height above focus that a network tells of it, µm, if it is trusted.
    pub defocus_um: Option<f64>,
    /// Side of a pixel on the slide, µm.
    pub pixel_um: f64,
}

/// What a comparison of pictures says of a motion.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// As commanded; what was seen, µm.
    Right(f64),
    /// Otherwise than commanded; what was seen, µm.
    Wrong(f64),
    /// Nothing, for this reason.
    Nothing(String),
}

/// Whether the lens rose, by pictures before and after it was told to rise by `by_um`.
pub fn direction(before: &Sight, after: &Sight, by_um: f64) -> Told {
    match (before.defocus_um, after.defocus_um) {
        (Some(before_um), Some(after_um)) => {
            let seen_um = after_um - before_um;
            if seen_um >= SEEN_PART * by_um {
                Told::Right(seen_um)
            } else {
                Told::Wrong(seen_um)
            }
        }
        _ if has_changed(&before.frame, &after.frame) => {
            let reason = "the sharpness changed, which tells no direction, and no height could be told from the pictures";
            Told::Nothing(reason.to_owned())
        }
        _ => Told::Nothing(NO_HEIGHT.to_owned()),
    }
}

/// Whether the lens rose as far as it was told, `by_um`, after it had risen before.
pub fn rise(before: &Sight, after: &Sight, by_um: f64) -> Told {
    let (Some(before_um), Some(after_um)) = (before.defocus_um, after.defocus_um) else {
        return Told::Nothing(NO_HEIGHT.to_owned());
    };
    judge(after_um - before_um, by_um, RIGHT_RISE)
}

fn judge(seen_um: f64, by_um: f64, (least, most): (f64, f64)) -> Told {
    if (least..=most).contains(&(seen_um / by_um)) {
        Told::Right(seen_um)
    } else {
        Told::Wrong(seen_um)
    }
}

/// How far the slide went in the picture, µm right and down, and whether that is what was commanded, in whatever direction the camera
/// stands.
pub fn aside(before: &Sight, after: &Sight, by_um: f64) -> (Told, Option<[f64; 2]>) {
    match shift(&before.frame, &after.frame) {
        Ok(shift) => {
            let um = shift.px.map(|px| px * before.pixel_um);
            (judge(um[0].hypot(um[1]), by_um, RIGHT_ASIDE), Some(um))
        }
        Err(reason) => (Told::Nothing(reason.to_string()), None),
    }
}

/// Whether two moves in the picture lie on one line.
pub fn is_one_line(a: [f64; 2], b: [f64; 2]) -> bool {
    let product = a[0] * b[0] + a[1] * b[1];
    let lengths = a[0].hypot(a[1]) * b[0].hypot(b[1]);
    // Written so that NaN is one.
    let is_across = product.abs() <= ONE_LINE * lengths;
    !is_across
}

fn has_changed(before: &Frame, after: &Frame) -> bool {
    let (before, after) = (tenengrad(before), tenengrad(after));
    (after - before).abs() > CHANGED * before.max(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::microscope::{Microscope, MicroscopeConfig, Pose};
    use crate::units::Instant;

    fn sight(microscope: &mut Microscope, x_um: f64, y_um: f64, defocus_um: f64) -> Sight {
        let z_um = microscope.focus_height_um(x_um, y_um) + defocus_um;
        let rgb = microscope.expose(Pose { x_um, y_um, z_um }, 7).unwrap();
        let config = microscope.config();
        Sight {
            frame: Arc::new(Frame::new(config.width, config.height, rgb, Instant::default(), 0).unwrap()),
            defocus_um: Some(defocus_um),
            pixel_um: config.objective.object_pixel_um(),
        }
    }

    #[test]
    fn moves_aside_are_measured_at_the_heights_of_a_first_motion() {
        let mut microscope = Microscope::new(MicroscopeConfig::default()).unwrap();
        for defocus_um in [0.0, 4.0, 14.0] {
            let start = sight(&mut microscope, 0.0, 0.0, defocus_um);
            for (x_um, y_um, is_right) in [
                (26.0, 0.0, true),
                (-26.0, 0.0, true),
                (0.0, 26.0, true),
                (52.0, 0.0, false),
                (13.0, 0.0, false),
            ] {
                let after = sight(&mut microscope, x_um, y_um, defocus_um);
                let (told, um) = aside(&start, &after, 26.0);
                let Some(um) = um else {
                    // Far from focus a picture may say nothing, but nothing false.
                    assert!(
                        defocus_um > 20.0 || x_um > 50.0,
                        "{x_um} {y_um} at {defocus_um}: {told:?}"
                    );
                    continue;
                };
                assert_eq!(
                    matches!(told, Told::Right(_)),
                    is_right,
                    "{x_um} {y_um} at {defocus_um}: {told:?} {um:?}"
                );
                assert!(is_one_line(um, [x_um, y_um]), "{x_um} {y_um}: {um:?}");
                assert!(!is_one_line(um, [y_um, x_um]), "{x_um} {y_um}: {um:?}");
            }
            let (told, _) = aside(&start, &sight(&mut microscope, 0.0, 0.0, defocus_um), 26.0);
            assert!(
                matches!(told, Told::Wrong(um) if um < 0.2) || defocus_um > 10.0,
                "a slide that stood, at {defocus_um}: {told:?}"
            );
        }
        let bare = sight(&mut microscope, 39_000.0, 0.0, 0.0);
        let start = sight(&mut microscope, 0.0, 0.0, 0.0);
        assert!(matches!(aside(&start, &bare, 35.0).0, Told::Nothing(_)));
    }

    #[test]
    fn rises_are_told_by_heights() {
        let frame = Arc::new(Frame::new(64, 64, vec![100; 64 * 64 * 3], Instant::default(), 0).unwrap());
        let at = |defocus_um: Option<f64>| Sight {
            frame: frame.clone(),
            defocus_um,
            pixel_um: 0.0863,
        };
        let start = at(Some(1.0));
        assert_eq!(direction(&start, &at(Some(9.0)), 8.0), Told::Right(8.0));
        assert_eq!(
            direction(&start, &at(Some(6.0)), 8.0),
            Told::Right(5.0),
            "with play"
        );
        assert_eq!(direction(&start, &at(Some(-7.0)), 8.0), Told::Wrong(-8.0));
        assert_eq!(
            direction(&start, &at(Some(1.2)), 8.0),
            Told::Wrong(0.19999999999999996)
        );
        assert!(matches!(direction(&start, &at(None), 8.0), Told::Nothing(_)));
        assert_eq!(rise(&start, &at(Some(6.9)), 6.0), Told::Right(5.9));
        assert_eq!(rise(&start, &at(Some(13.0)), 6.0), Told::Wrong(12.0));
        assert_eq!(rise(&start, &at(Some(4.0)), 6.0), Told::Wrong(3.0));
    }
}
