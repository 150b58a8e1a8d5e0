//! The live microscope against the exact one.

use hhnet::objective::Objective;
use hhnet::sim::microscope::{LiveMicroscope, Microscope, MicroscopeConfig, Noise, Pose};

fn config() -> MicroscopeConfig {
    MicroscopeConfig {
        slide_seed: 12,
        width: 512,
        height: 384,
        noise: Noise::Off,
        ..MicroscopeConfig::default()
    }
}

fn pose(z_um: f64) -> Pose {
    Pose {
        x_um: 12.075,
        y_um: -3.45,
        z_um,
    }
}

/// Largest and root-mean-square difference, grey values.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    let largest = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let squares: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2))
        .sum();
    (largest, (squares / a.len() as f64).sqrt())
}

#[test]
fn frames_are_those_of_the_exact_microscope() {
    let mut exact = Microscope::new(config()).unwrap();
    let mut live = LiveMicroscope::new(config()).unwrap();
    let focus_um = exact.focus_height_um(12.075, -3.45);
    let (mut worst, mut total) = (0, 0.0);
    // Between lattice heights, where mixing is at its worst, and elsewhere.
    let heights: Vec<f64> = (0..60)
        .map(|step| 1.7 * (0.11 * f64::from(step) - 3.3).sinh())
        .collect();
    for (sequence, z_um) in (0..).zip(&heights) {
        let expected = exact.expose(pose(focus_um + z_um), sequence).unwrap();
        let got = live
            .expose_moving(pose(focus_um + z_um), [0.0; 3], sequence)
            .unwrap();
        let (largest, rms) = difference(&expected, &got);
        println!("{z_um:8.2} µm: largest {largest}, rms {rms:.3}");
        worst = worst.max(largest);
        total += rms / heights.len() as f64;
    }
    assert!(worst <= 2 && total < 0.3, "largest {worst}, mean rms {total}");
}

#[test]
fn off_the_lattice_of_places_a_frame_is_a_sixteenth_of_a_pixel_away_at_most() {
    let pixel_um = Objective::default().object_pixel_um();
    let mut exact = Microscope::new(config()).unwrap();
    let (mut worst, mut worst_rms) = (0, 0.0_f64);
    for (sequence, [across, down]) in (0..).zip([[0.5, 0.5], [0.49, -0.3], [0.1, 0.45], [0.25, 0.0]]) {
        let mut live = LiveMicroscope::new(config()).unwrap();
        for z_um in [0.0, 1.0, -6.0] {
            let mut pose = pose(0.0);
            pose.x_um += across * pixel_um / 8.0;
            pose.y_um += down * pixel_um / 8.0;
            pose.z_um = exact.focus_height_um(pose.x_um, pose.y_um) + z_um;
            let (largest, rms) = difference(
                &exact.expose(pose, sequence).unwrap(),
                &live.expose_moving(pose, [0.0; 3], sequence).unwrap(),
            );
            println!("{across} and {down} eighths of a pixel, {z_um} µm: largest {largest}, rms {rms:.3}");
            worst = worst.max(largest);
            worst_rms = worst_rms.max(rms);
        }
    }
    assert!(worst <= 2 && worst_rms < 0.5, "largest {worst}, rms {worst_rms}");
}

#[test]
fn motion_along_z_is_blurred_alike() {
    let mut exact = Microscope::new(config()).unwrap();
    let mut live = LiveMicroscope::new(config()).unwrap();
    let focus_um = exact.focus_height_um(12.075, -3.45);
    for (z_um, travel_um) in [(0.0, 2.0), (3.0, -1.0), (-9.0, 4.0)] {
        let expected = exact
            .expose_moving(pose(focus_um + z_um), [0.0, 0.0, travel_um], 0)
            .unwrap();
        let got = live
            .expose_moving(pose(focus_um + z_um), [0.0, 0.0, travel_um], 0)
            .unwrap();
        let (largest, rms) = difference(&expected, &got);
        assert!(
            largest <= 2 && rms < 0.4,
            "{z_um} µm, travel {travel_um}: largest {largest}, rms {rms}"
        );
    }
}

#[test]
fn a_frame_does_not_depend_on_what_came_before() {
    let mut fresh = LiveMicroscope::new(config()).unwrap();
    let mut used = LiveMicroscope::new(config()).unwrap();
    for z_um in [40.0, 3.0, 1.9, -12.0] {
        used.expose_moving(pose(z_um), [0.0; 3], 1).unwrap();
    }
    used.expose_moving(
        Pose {
            x_um: 300.0,
            ..pose(0.0)
        },
        [0.0; 3],
        2,
    )
    .unwrap();
    assert!(
        used.expose_moving(pose(2.0), [0.0; 3], 7).unwrap()
            == fresh.expose_moving(pose(2.0), [0.0; 3], 7).unwrap()
    );
}

#[test]
fn what_cannot_be_shown_is_refused_as_by_the_exact_one() {
    let mut live = LiveMicroscope::new(config()).unwrap();
    for z_um in [400.0, f64::NAN] {
        let message = live
            .expose_moving(pose(z_um), [0.0; 3], 0)
            .unwrap_err()
            .to_string();
        assert!(message.contains("defocus"), "{message}");
    }
}
