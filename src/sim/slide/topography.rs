//! Where the specimen lies in z: the height of best focus over the slide.

use super::random::SiteRandom;

/// Waves of local relief summed.
const WAVES: usize = 5;

/// Height of the specimen above the slide's nominal plane: tilt, bowl and local relief.
///
/// Several µm over a slide of 20 mm, but at most about 0.1 µm across one 40x field, so that a field has one focus.
#[derive(Clone, Debug)]
pub struct Topography {
    tilt: [f64; 2],
    bowl_per_um: f64,
    waves: [Wave; WAVES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Wave {
    amplitude_um: f64,
    wave_vector: [f64; 2],
    phase: f64,
}

impl Topography {
    /// That of a slide seed.
    pub fn new(seed: u64) -> Self {
        let mut random = SiteRandom::new(seed, 0x50f);
        let tilt = [random.range(-2.5e-4, 2.5e-4), random.range(-2.5e-4, 2.5e-4)];
        let bowl_per_um = random.range(-8e-9, 8e-9);
        let waves = std::array::from_fn(|_| {
            let period_um = random.range(1500.0, 4000.0);
            let (sin, cos) = random.range(0.0, std::f64::consts::TAU).sin_cos();
            let wave_number = std::f64::consts::TAU / period_um;
            Wave {
                amplitude_um: random.range(0.01, 0.06) * period_um / 1500.0,
                wave_vector: [wave_number * cos, wave_number * sin],
                phase: random.range(0.0, std::f64::consts::TAU),
            }
        });
        Self {
            tilt,
            bowl_per_um,
            waves,
        }
    }

    /// Height above the nominal plane at a point of the slide, µm; 0 to within a few µm near the origin.
    pub fn height_um(&self, x_um: f64, y_um: f64) -> f64 {
        let plane = self.tilt[0] * x_um + self.tilt[1] * y_um;
        let bowl = self.bowl_per_um * (x_um * x_um + y_um * y_um);
        let relief: f64 = self.waves.iter().map(|wave| wave.height_um(x_um, y_um)).sum();
        plane + bowl + relief
    }
}

impl Wave {
    fn height_um(&self, x_um: f64, y_um: f64) -> f64 {
        self.amplitude_um * (self.wave_vector[0] * x_um + self.wave_vector[1] * y_um + self.phase).sin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_within_a_field_and_not_over_the_slide() {
        for seed in 0..20 {
            let topography = Topography::new(seed);
            let mut heights = Vec::new();
            for step in 0..40 {
                let (x, y) = (
                    f64::from(step) * 250.0 - 5000.0,
                    f64::from(step % 7) * 800.0 - 2400.0,
                );
                let centre = topography.height_um(x, y);
                for (dx, dy) in [(88.0, 66.0), (-88.0, 66.0)] {
                    let departure = (topography.height_um(x + dx, y + dy) - centre).abs();
                    assert!(
                        departure < 0.15,
                        "seed {seed}: {departure} µm at the corner of a field"
                    );
                }
                heights.push(centre);
            }
            let span = heights.iter().copied().fold(f64::MIN, f64::max)
                - heights.iter().copied().fold(f64::MAX, f64::min);
            assert!(span > 0.3, "seed {seed} spans only {span} µm");
        }
    }
}
