//! The comparison on fields that nobody rendered: the network is right to a few per cent, and sharpness falls off like a Lorentzian.

use std::time::Duration;

use super::content::Content;
use super::response::{Plane, Seen, Sharpness, told};
use super::strategy::End;
use super::*;

/// Half width of the peak of sharpness, µm.
const WIDTH_UM: f64 = 2.5;

fn seen(defocus_um: f64) -> Seen {
    let told_um = 1.03 * defocus_um + 0.05 * (3.0 * defocus_um).sin();
    let sharp = 1.0 / (1.0 + (defocus_um / WIDTH_UM).powi(2)) + 0.1;
    Seen {
        judgement: told(told_um),
        sharpness: Sharpness {
            tenengrad: sharp,
            brenner: sharp,
            jpeg_bytes: 1e6 * sharp,
        },
    }
}

fn responses() -> Vec<Response> {
    let planes = || {
        (-1500..=1500).map(|tenth| {
            let defocus_um = 0.1 * f64::from(tenth);
            Plane {
                defocus_um,
                frames: vec![seen(defocus_um)],
            }
        })
    };
    (0..2)
        .map(|slide| Response::new(Content::Dense, slide, 0.5, planes().collect()).unwrap())
        .collect()
}

fn comparison(runs: usize) -> Comparison {
    Comparison {
        objective: Objective::default(),
        runs,
        seed: 4,
        durations: Durations {
            decision: Duration::from_millis(25),
            sharpness: Duration::from_millis(1),
        },
        // Without play, what is left is the method's own error.
        play_um: 0.0,
    }
}

/// Every method ends within what it promises: ours in the band of class 0, Brent and the climb within their tolerance and least step, the
/// sweep within its distance between frames, the stacks within a quarter of a depth of field.
#[test]
fn every_method_finds_focus_as_well_as_it_was_published_to() {
    let fields = responses();
    let trials = comparison(12).run(&Method::ALL, &fields, &|| ()).unwrap();
    assert_eq!(trials.len(), comparison(12).total(&Method::ALL, &fields));
    for trial in &trials {
        let most_um = match trial.method {
            Method::Brent => 1.2,
            Method::HillClimb => 1.3,
            Method::Sweep => 1.7,
            Method::Tenengrad17 => 0.36,
            Method::Refined => 0.36,
            Method::Predictive | Method::Stepwise | Method::Paper | Method::StepCnn => 0.72,
        };
        let run = &trial.run;
        // Algorithm 1 may hunt until its time is over.
        if trial.method == Method::Paper && run.end != End::InFocus {
            continue;
        }
        assert_eq!(run.end, End::InFocus, "{:?} {run:?}", trial.method);
        assert!(run.error_um.abs() <= most_um, "{:?} {run:?}", trial.method);
        assert!(run.frames > 0 && run.took_s > 0.0, "{:?} {run:?}", trial.method);
    }
}

#[test]
fn the_report_holds_what_others_read() {
    let fields = responses();
    let trials = comparison(4)
        .run(&[Method::Predictive, Method::Sweep], &fields, &|| ())
        .unwrap();
    let report = summary::report(&trials, Objective::default().depth_of_field_um());
    assert_eq!(report.as_object().unwrap().len(), 2);
    let (ours, sweep) = (&report["predictive"], &report["sweep"]);
    for (of, runs) in [
        (ours, 4),
        (sweep, 4),
        (&ours["within_30_um"], 2),
        (&ours["content"]["dense"], 4),
        (&ours["content"]["sparse"], 0),
    ] {
        assert_eq!(of["runs"], runs);
        for key in [
            "success",
            "declared_failures",
            "false_in_focus",
            "wrong_first_moves",
            "wrong_first_moves_towards_slide",
            "overshoot_um",
            "frames",
        ] {
            assert_eq!(
                of[key].is_number(),
                runs > 0 || key.contains('_') && key != "overshoot_um",
                "{key}"
            );
        }
        for key in ["time_s", "final_error_dof", "final_error_um"] {
            for part in ["median", "p95", "p99"] {
                assert_eq!(of[key][part].is_number(), runs > 0, "{key} {part}");
            }
        }
    }
    // Whoever sweeps from below the start goes deeper than focus and start; ours does not.
    assert!(sweep["overshoot_um"].as_f64().unwrap() > 5.0, "{sweep}");
    assert!(ours["overshoot_um"].as_f64().unwrap() < 5.0, "{ours}");
}

#[test]
fn the_same_seed_gives_the_same_runs() {
    let fields = responses();
    let runs = |seed| {
        let comparison = Comparison {
            seed,
            ..comparison(6)
        };
        let trials = comparison
            .run(&[Method::Predictive, Method::Brent], &fields, &|| ())
            .unwrap();
        trials.into_iter().map(|trial| trial.run).collect::<Vec<_>>()
    };
    assert_eq!(runs(4), runs(4));
    assert_ne!(runs(4), runs(5));
}

#[test]
fn nothing_to_compare_is_refused() {
    let fields = responses();
    for (runs, fields, named) in [(0, &fields[..], "no run"), (3, &[], "no field")] {
        let error = comparison(runs).run(&Method::ALL, fields, &|| ()).unwrap_err();
        assert!(error.to_string().starts_with(named), "{error}");
    }
}
