//! The 18 features of a camera frame: `cargo bench --bench features`. The aim is 6 ms on two cores and 10 ms on one.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hhnet::estimate::features::Handcrafted;
use hhnet::frame::Frame;
use hhnet::sim::microscope::{Microscope, MicroscopeConfig};
use hhnet::units::Instant;

/// A frame of stained cells in focus, 2048x1536 RGB.
fn frame() -> Result<Frame, Box<dyn std::error::Error>> {
    let mut microscope = Microscope::new(MicroscopeConfig::default())?;
    let MicroscopeConfig { width, height, .. } = *microscope.config();
    let rgb = microscope.expose_defocused(0.0, 0.0, 0.0, 0)?;
    Ok(Frame::new(width, height, rgb, Instant::default(), 0)?)
}

fn features(criterion: &mut Criterion) {
    let frame = frame().expect("the default microscope renders");
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("two threads can be started");
        criterion.bench_function(&format!("features of 2048x1536, {threads} threads"), |bencher| {
            pool.install(|| bencher.iter(|| Handcrafted::of(black_box(&frame), 0)));
        });
    }
}

criterion_group!(benches, features);
criterion_main!(benches);
