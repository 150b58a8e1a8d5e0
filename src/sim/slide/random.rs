//! Numbers that depend on a place: hashed lattices for cells, tiled value noise for texture.
//!
//! The slide has no stored content. Every cell asks for the numbers of its own lattice site, so any two fields that
//! overlap agree, in whatever order they are drawn.

use crate::random::{GAMMA, SplitMix64, mix};

/// Side of the repeating noise tile, lattice sites; a power of two.
const TILE: usize = 256;

/// A short stream of random numbers owned by one lattice site, cell or slide.
#[derive(Clone, Debug)]
pub(crate) struct SiteRandom(SplitMix64);

impl SiteRandom {
    /// The stream of a seed and a purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Self(SplitMix64(mix(seed ^ mix(purpose.wrapping_add(GAMMA)))))
    }

    /// The stream of lattice site (`column`, `row`) of the layer `purpose`.
    pub(crate) fn at(seed: u64, purpose: u64, column: i64, row: i64) -> Self {
        let site = mix((column as u64).wrapping_mul(GAMMA) ^ mix(row as u64));
        Self::new(seed ^ site, purpose)
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in [`low`, `high`).
    pub(crate) fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Normal with mean 0 and variance 1 (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Smooth noise in [-1, 1] over the plane, repeating every 256 lattice sites.
#[derive(Clone, Debug)]
pub(crate) struct TiledNoise {
    sites: Vec<f32>,
}

impl TiledNoise {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = SiteRandom::new(seed, 0x7e47);
        let sites = (0..TILE * TILE).map(|_| random.range(-1.0, 1.0) as f32).collect();
        Self { sites }
    }

    /// The noise at (`x`, `y`), in lattice sites.
    pub(crate) fn at(&self, x: f64, y: f64) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let (u, v) = (ease((x - left) as f32), ease((y - top) as f32));
        let column = (left as i64 as usize) & (TILE - 1);
        let row = (top as i64 as usize) & (TILE - 1);
        let (next_column, next_row) = ((column + 1) & (TILE - 1), (row + 1) & (TILE - 1));
        let site = |row: usize, column: usize| self.sites[row * TILE + column];
        let upper = site(row, column) + u * (site(row, next_column) - site(row, column));
        let lower = site(next_row, column) + u * (site(next_row, next_column) - site(next_row, column));
        upper + v * (lower - upper)
    }
}

/// The cubic 3t² - 2t³, flat at 0 and 1.
pub(crate) fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_repeatable_and_distinct() {
        let value = |column, row| SiteRandom::at(7, 1, column, row).bits();
        assert_eq!(value(3, -4), value(3, -4));
        let all: std::collections::HashSet<u64> = (-20..20)
            .flat_map(|x| (-20..20).map(move |y| value(x, y)))
            .collect();
        assert_eq!(all.len(), 1600);
    }

    #[test]
    fn normals_have_unit_variance() {
        let mut random = SiteRandom::new(1, 2);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|v| v * v).sum::<f64>() / 20_000.0 - mean * mean;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04,
            "{mean} {variance}"
        );
    }

    #[test]
    fn noise_is_continuous_across_sites_and_tiles() {
        let noise = TiledNoise::new(3);
        for x in [-256.0, -1.0, 0.0, 5.0, 256.0] {
            assert!((noise.at(x - 1e-6, 0.4) - noise.at(x + 1e-6, 0.4)).abs() < 1e-4);
        }
    }
}
