//! The methods without a stage: errands against a curve of sharpness.

use std::time::Duration;

use super::*;
use crate::evaluation::autofocus::response::{Seen, Sharpness, told};

/// What is measured of a frame at a height, focus being at 0.
fn look(count_um: f64, sharp: f64) -> Look {
    Look {
        began: Instant::default(),
        exposed: Instant::default(),
        count_um,
        seen: Seen {
            judgement: told(count_um),
            sharpness: Sharpness {
                tenengrad: sharp,
                brenner: sharp,
                jpeg_bytes: sharp,
            },
        },
    }
}

/// Runs a method to its end; where it ends, all places where it took frames at rest, and how.
fn run(
    mut search: impl Search,
    from_um: f64,
    reach_um: f64,
    curve: impl Fn(f64) -> f64,
) -> (f64, Vec<f64>, End) {
    search.begin(from_um, reach_um);
    let (mut at_um, mut looks, mut places) = (from_um, Vec::new(), Vec::new());
    for _ in 0..1000 {
        match search.next(&looks) {
            Next::Over(end) => return (at_um, places, end),
            Next::Go(errand) => {
                looks = match errand.wanted {
                    Wanted::None => Vec::new(),
                    Wanted::AtRest(frames) => {
                        places.push(errand.to_um);
                        vec![look(errand.to_um, curve(errand.to_um)); frames]
                    }
                    Wanted::Underway => (0..=100)
                        .map(|part| at_um + 0.01 * f64::from(part) * (errand.to_um - at_um))
                        .map(|um| look(um, curve(um)))
                        .collect(),
                };
                at_um = errand.to_um;
            }
        }
    }
    panic!("no end");
}

fn lorentzian(um: f64) -> f64 {
    1.0 / (1.0 + (um / 3.0).powi(2))
}

#[test]
fn brent_ends_within_its_tolerance_in_few_images() {
    for from_um in [-28.0, -11.0, 3.0, 17.5, 29.0] {
        let (end_um, places, end) = run(Brent::new(1.0), from_um, 33.0, lorentzian);
        assert_eq!(end, End::InFocus);
        assert!(end_um.abs() <= 1.0, "from {from_um} to {end_um}");
        assert_eq!(places[0], from_um);
        assert!((4..20).contains(&places.len()), "{places:?}");
        assert!(places.contains(&end_um));
    }
}

#[test]
fn the_climb_turns_and_halves() {
    let (end_um, places, end) = run(HillClimb::new(20.0, 1.0), -35.0, 0.0, lorentzian);
    assert_eq!(end, End::InFocus);
    // Up to past the top, down past it, and so on.
    assert_eq!(places[..6], [-35.0, -15.0, 5.0, 25.0, 15.0, 5.0]);
    assert!(end_um.abs() <= 1.25, "{end_um}");
    // The wrong way first.
    let (_, places, _) = run(HillClimb::new(20.0, 1.0), 12.0, 0.0, lorentzian);
    assert_eq!(places[..4], [12.0, 32.0, 22.0, 12.0]);
}

#[test]
fn the_sweep_returns_to_its_sharpest_frame() {
    let (end_um, places, end) = run(Sweep::new(62.0), 20.0, 33.0, lorentzian);
    assert_eq!((end, places.len()), (End::InFocus, 0));
    assert!(end_um.abs() <= 0.34, "{end_um}");
}

#[test]
fn stacks_narrow_to_the_top_of_their_parabola() {
    let (end_um, places, end) = run(Planes::new(1.43), 20.0, 33.0, lorentzian);
    assert_eq!((end, places.len()), (End::InFocus, 34));
    assert!(end_um.abs() <= 0.02, "{end_um}");
    // Where there is no top there is no focus.
    let (_, _, end) = run(Planes::new(1.43), 20.0, 33.0, |um| um);
    assert!(matches!(end, End::Failed(reason) if reason.contains("look farther")));
}

#[test]
fn batches_step_until_one_is_within_two_steps() {
    let (end_um, places, end) = run(StepCnn::new(0.7), 14.0, 33.0, lorentzian);
    assert_eq!((end, places), (End::InFocus, vec![14.0, 0.0]));
    assert!(end_um.abs() < 1e-12, "{end_um}");
}

#[test]
fn a_frame_counts_from_the_rest_on() {
    let mut searcher = Searcher::new(HillClimb::new(20.0, 1.0), 500.0);
    let from = Instant::from_nanos(1_000_000_000);
    let errand = Errand::look(5.0, 1, Duration::from_millis(100));
    searcher.phase = Phase::Looking(errand, from);
    for (began, counted) in [(from.before(Duration::from_nanos(1)), 0), (from, 1), (from, 1)] {
        let look = Look {
            began,
            ..look(0.0, 1.0)
        };
        searcher.handle_look(look, from);
        assert_eq!(searcher.frames(), counted);
    }
}
