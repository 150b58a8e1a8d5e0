//! One painted thing: a soft-edged outline, a thickness profile, and how much of each stain it holds.

use super::random::{TiledNoise, ease};

/// What is painted at each point: three stains, opaque matter, and optical thickness.
pub(crate) const AMOUNTS: usize = 5;
/// Index of eosin and haemoglobin (red cells, granules).
pub(crate) const EOSIN: usize = 0;
/// Index of the purple nuclear stain.
pub(crate) const NUCLEAR: usize = 1;
/// Index of the blue of basophilic cytoplasm.
pub(crate) const BLUE: usize = 2;
/// Index of matter that is dark in all colours.
pub(crate) const OPAQUE: usize = 3;
/// Index of the optical thickness, in units of the slide's phase strength.
pub(crate) const THICKNESS: usize = 4;

/// Width over which thickness rises from the rim, µm: dried cells lie in a meniscus and slope where stain ends sharply.
const SLOPE_UM: f32 = 1.6;

/// Most circles in one outline.
pub(crate) const LOBES: usize = 5;

/// How thickness falls from the middle of a shape to its rim.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// Red cell: full at seven tenths of the radius, `pallor` (0..1) in the middle.
    Biconcave { pallor: f32 },
    /// Flat with a soft rim.
    Plateau,
    /// A spherical cap.
    Dome,
}

/// A circle of an outline, relative to the shape's middle, µm.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lobe {
    pub(crate) x_um: f32,
    pub(crate) y_um: f32,
    pub(crate) radius_um: f32,
}

/// Grain inside a shape: relative depth and size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grain {
    /// 0 for none; 1 modulates the amounts between 0 and 2.
    pub(crate) depth: f32,
    /// Size of a grain, µm.
    pub(crate) size_um: f64,
}

/// A soft-edged outline (the union of up to five circles, made irregular) with amounts that add to what lies below.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) x_um: f64,
    pub(crate) y_um: f64,
    pub(crate) lobes: [Lobe; LOBES],
    pub(crate) lobe_count: usize,
    /// Cosine and sine of the long axis, and its stretch (1 round).
    pub(crate) axis: [f32; 2],
    pub(crate) stretch: f32,
    /// Relative strength of two-, three- and fivefold irregularity of the rim.
    pub(crate) wobble: [f32; 3],
    /// Width of the rim, µm.
    pub(crate) rim_um: f32,
    pub(crate) profile: Profile,
    pub(crate) grain: Grain,
    pub(crate) amounts: [f32; AMOUNTS],
}

impl Shape {
    /// A disc without stain, to be filled in.
    pub(crate) fn disc(x_um: f64, y_um: f64, radius_um: f64, profile: Profile) -> Self {
        let mut lobes = [Lobe::default(); LOBES];
        lobes[0].radius_um = radius_um as f32;
        Self {
            x_um,
            y_um,
            lobes,
            lobe_count: 1,
            axis: [1.0, 0.0],
            stretch: 1.0,
            wobble: [0.0; 3],
            rim_um: 0.3,
            profile,
            grain: Grain {
                depth: 0.0,
                size_um: 1.0,
            },
            amounts: [0.0; AMOUNTS],
        }
    }

    /// Radius that surely encloses the shape, µm.
    pub(crate) fn reach_um(&self) -> f64 {
        let lobes = &self.lobes[..self.lobe_count];
        let far = lobes
            .iter()
            .map(|lobe| lobe.x_um.hypot(lobe.y_um) + lobe.radius_um)
            .fold(0.0, f32::max);
        let irregular = 1.0 + self.wobble.iter().map(|w| w.abs()).sum::<f32>();
        f64::from(far * irregular * self.stretch.max(1.0 / self.stretch) + self.rim_um)
    }

    /// Adds the shape to one row of a raster whose first sample is at (`x_um`, `y_um`).
    pub(crate) fn paint_row(
        &self,
        row: &mut [[f32; AMOUNTS]],
        x_um: f64,
        y_um: f64,
        step_um: f64,
        grain: &TiledNoise,
    ) {
        let reach_um = self.reach_um();
        let first = ((self.x_um - reach_um - x_um) / step_um).ceil().max(0.0) as usize;
        let last = ((self.x_um + reach_um - x_um) / step_um).floor();
        if last < 0.0 || first >= row.len() {
            return;
        }
        let last = (last as usize).min(row.len() - 1);
        let dy = (y_um - self.y_um) as f32;
        for (index, sample) in row.iter_mut().enumerate().take(last + 1).skip(first) {
            let sample_x_um = x_um + index as f64 * step_um;
            let (mut stain, thickness) = self.value((sample_x_um - self.x_um) as f32, dy);
            if stain <= 0.0 {
                continue;
            }
            if self.grain.depth > 0.0 {
                stain *= self.grain_at(sample_x_um, y_um, grain);
            }
            for (sum, amount) in sample.iter_mut().zip(&self.amounts[..THICKNESS]) {
                *sum += stain * amount;
            }
            sample[THICKNESS] += thickness * self.amounts[THICKNESS];
        }
    }

    /// Depth of stain and thickness at an offset from the middle, 0 (outside) to 1.
    fn value(&self, dx: f32, dy: f32) -> (f32, f32) {
        let along = (dx * self.axis[0] + dy * self.axis[1]) / self.stretch;
        let across = (dy * self.axis[0] - dx * self.axis[1]) * self.stretch;
        let mut best = f32::MAX;
        let mut radius = 1.0;
        for lobe in &self.lobes[..self.lobe_count] {
            let (x, y) = (along - lobe.x_um, across - lobe.y_um);
            let scaled = (x * x + y * y) / (lobe.radius_um * lobe.radius_um);
            if scaled < best {
                best = scaled;
                radius = lobe.radius_um;
            }
        }
        let soft = self.rim_um / radius;
        let outer = 1.0 + soft;
        if best > outer * outer * 2.0 {
            return (0.0, 0.0);
        }
        let rho = best.sqrt() * self.rim(along, across);
        let below_rim = radius * (1.0 + 0.5 * soft - rho);
        let square = rho * rho;
        let body = match self.profile {
            Profile::Plateau => 1.0,
            Profile::Dome => (1.0 - square).max(0.0),
            Profile::Biconcave { pallor } => {
                let from_ridge = 1.0 - square / 0.47;
                (1.0 - (1.0 - pallor) * from_ridge * from_ridge).max(0.0)
            }
        };
        let within = |rim_um: f32| body * ease((below_rim / rim_um).clamp(0.0, 1.0));
        (within(self.rim_um), within(self.rim_um.max(SLOPE_UM.min(radius))))
    }

    /// Factor on the distance that makes the rim irregular: low harmonics of the angle, from powers of a unit vector.
    fn rim(&self, along: f32, across: f32) -> f32 {
        let length = along.hypot(across).max(1e-6);
        let (cos, sin) = (along / length, across / length);
        let (cos2, sin2) = (cos * cos - sin * sin, 2.0 * cos * sin);
        let (cos3, sin3) = (cos2 * cos - sin2 * sin, sin2 * cos + cos2 * sin);
        let sin5 = sin3 * cos2 + cos3 * sin2;
        1.0 + self.wobble[0] * sin2 + self.wobble[1] * cos3 + self.wobble[2] * sin5
    }

    fn grain_at(&self, x_um: f64, y_um: f64, noise: &TiledNoise) -> f32 {
        let (u, v) = (x_um / self.grain.size_um, y_um / self.grain.size_um);
        let coarse = noise.at(u, v);
        let fine = noise.at(2.1 * u + 31.7, 2.1 * v + 11.3);
        (1.0 + self.grain.depth * (0.9 * coarse + 0.5 * fine)).max(0.05)
    }
}
