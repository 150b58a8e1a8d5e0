//! The whole loop with pictures, in virtual time: shutter, optics and camera on one side, host, cable, emulated firmware and
//! mechanics on the other. What judges the pictures is their sharpness or the model that ships.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::common::pair::Pair;
use crate::common::sharpness::{channel, tenengrad};
use hhnet::sim::grbl::EmulatorConfig;
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::sim::microscope::{LiveMicroscope, MicroscopeConfig, Pose, Shutter};
use hhnet::stage::Axis;
use hhnet::stage::host::StageConfig;
use hhnet::stage::status::StageState;
use hhnet::units::Instant;
#[cfg(feature = "onnx")]
use hhnet::{
    drivers::onnx::OnnxNetwork,
    estimate::classifier::{Classifier, ClassifierConfig},
    estimate::network::Network as _,
};

const WIDTH: usize = 640;
const HEIGHT: usize = 480;
/// Height of the lens above focus at power-up, µm.
const START_UM: f64 = 14.0;
/// Speed of the search, µm/s.
const SEARCH_UM_PER_S: f64 = 80.0;
/// Period of commands.
const TICK: Duration = Duration::from_millis(20);
/// Play between motor and lens, µm.
const BACKLASH_UM: f64 = 0.5;

/// What says from a frame where focus is.
enum Judge {
    /// Highest sharpness so far, and the lens's count when it was seen, µm.
    Sharpness { best: f64, best_um: f64 },
    #[cfg(feature = "onnx")]
    Model(Box<Classifier<OnnxNetwork>>),
}

impl Judge {
    fn sharpness() -> Self {
        Self::Sharpness {
            best: 0.0,
            best_um: 0.0,
        }
    }

    #[cfg(feature = "onnx")]
    fn model() -> Self {
        crate::common::onnx_runtime::require();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hhnet_fast.onnx");
        let network = OnnxNetwork::open(model, 1).unwrap();
        let settings = ClassifierConfig::for_edges(&network.card().class_edges);
        Self::Model(Box::new(Classifier::new(network, settings).unwrap()))
    }

    /// Where focus is, once that is known, by the lens's count, µm.
    fn focus_um(&mut self, frame: &hhnet::frame::Frame, count_um: f64) -> Option<f64> {
        match self {
            Self::Sharpness { best, best_um } => {
                let sharpness = tenengrad(&channel(frame.rgb(), 1), WIDTH);
                if sharpness > *best {
                    (*best, *best_um) = (sharpness, count_um);
                }
                // Well past the top.
                (sharpness < 0.5 * *best && count_um < *best_um).then_some(*best_um)
            }
            #[cfg(feature = "onnx")]
            Self::Model(classifier) => {
                let estimate = classifier.classify(frame).unwrap();
                let defocus_um = estimate.defocus?.0;
                (estimate.trusted && defocus_um.abs() < 3.0).then_some(count_um - defocus_um)
            }
        }
    }
}

fn is_busy(pair: &Pair) -> bool {
    pair.host.state().state != StageState::Idle
}

struct Loop {
    pair: Pair,
    microscope: LiveMicroscope,
    shutter: Shutter,
    begin: Instant,
    ticks: u64,
    bytes: DefaultHasher,
}

impl Loop {
    fn new() -> Self {
        let microscope = LiveMicroscope::new(MicroscopeConfig {
            slide_seed: 8,
            width: WIDTH,
            height: HEIGHT,
            ..MicroscopeConfig::default()
        })
        .unwrap();
        let focus_um = microscope.microscope().focus_height_um(0.0, 0.0);
        let fine = MechanicsConfig::fine_focus().with_backlash(BACKLASH_UM).unwrap();
        let emulator = EmulatorConfig {
            physical_offset_um: [0.0, 0.0, focus_um + START_UM],
            mechanics: [
                MechanicsConfig::cross_table(),
                MechanicsConfig::cross_table(),
                fine,
            ],
            ..EmulatorConfig::default()
        };
        let begin = Instant::from_nanos(5_000_000_000);
        let mut pair = Pair::new(StageConfig::default(), emulator, 0.0, begin, ());
        pair.run_while(2000, is_busy);
        Self {
            pair,
            microscope,
            shutter: Shutter::new(8, 40.0, 0.0005, 0.002).unwrap(),
            begin,
            ticks: 0,
            bytes: DefaultHasher::new(),
        }
    }

    fn count_um(&self, at: Instant) -> f64 {
        self.pair.emulator.mechanics(Axis::Z).motor().position_um(at)
    }

    fn defocus_um(&self) -> f64 {
        self.pair.z_um() - self.microscope.microscope().focus_height_um(0.0, 0.0)
    }

    /// The next exposure, when it is over, with the motor's count in its middle.
    fn expose(&mut self, um_per_s: f64) -> (hhnet::frame::Frame, f64) {
        let exposure = self
            .shutter
            .exposure(self.ticks, self.shutter.due(self.begin, self.ticks));
        while self.pair.now < exposure.end {
            if um_per_s != 0.0 {
                self.pair.velocity(um_per_s).unwrap();
            }
            self.pair.run_until((self.pair.now + TICK).min(exposure.end));
        }
        let place = |at| Axis::ALL.map(|axis| self.pair.emulator.position_um(axis, at));
        let (first, [x_um, y_um, z_um], last) =
            (place(exposure.start), place(exposure.middle), place(exposure.end));
        let pose = Pose { x_um, y_um, z_um };
        let travel_um = [0.0, 0.0, last[2] - first[2]];
        let rgb = self
            .microscope
            .expose_moving(pose, travel_um, self.ticks)
            .unwrap();
        rgb.hash(&mut self.bytes);
        let frame = hhnet::frame::Frame::new(WIDTH, HEIGHT, rgb, exposure.middle, self.ticks).unwrap();
        self.ticks += 1;
        (frame, self.count_um(exposure.middle))
    }
}

/// Finds focus from above; what is left of the defocus, µm, and a digest of all frames on the way.
fn run(mut judge: Judge) -> (f64, u64) {
    let mut run = Loop::new();
    // The camera has run since power-up; what it saw then nobody asked for.
    run.ticks = run.pair.now.since(run.begin).as_millis() as u64 / 25 + 1;
    let found_um = loop {
        let (frame, count_um) = run.expose(-SEARCH_UM_PER_S);
        if let Some(um) = judge.focus_um(&frame, count_um) {
            break um;
        }
        assert!(run.defocus_um() > -20.0, "went past focus without seeing it");
    };
    run.pair.velocity(0.0).unwrap();
    run.pair.run_ms(300);
    run.pair.run_while(2000, is_busy);
    // Upwards the lens follows when the play is through.
    let back_um = found_um - run.count_um(run.pair.now);
    let by_um = back_um + if back_um > 0.0 { BACKLASH_UM } else { 0.0 };
    run.pair.move_z(by_um, 200.0).unwrap();
    run.pair.run_ms(300);
    run.pair.run_while(2000, is_busy);
    run.ticks = run.pair.now.since(run.begin).as_millis() as u64 / 25 + 1;
    run.expose(0.0);
    (run.defocus_um(), run.bytes.finish())
}

fn check(judge: fn() -> Judge) {
    let (defocus_um, digest) = run(judge());
    println!("{defocus_um:.2} µm from focus");
    assert!(defocus_um.abs() < 1.43, "ends {defocus_um} µm from focus");
    assert_eq!(run(judge()), (defocus_um, digest), "another run, other frames");
    for threads in [1, 4] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let again = pool.install(|| run(judge()));
        assert_eq!(again, (defocus_um, digest), "{threads} threads");
    }
}

#[test]
fn a_loop_over_rendered_pictures_focuses_and_is_the_same_bytes_every_time() {
    check(Judge::sharpness);
}

#[cfg(feature = "onnx")]
#[test]
fn the_model_that_ships_focuses_and_sees_the_same_bytes_every_time() {
    check(Judge::model);
}
