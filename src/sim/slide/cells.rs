//! What lives on the slide, and where: one lattice per kind of thing, one stream of numbers per lattice site.

use super::appearance::Appearance;
use super::random::{SiteRandom, TiledNoise};
use super::shape::{BLUE, EOSIN, Grain, LOBES, Lobe, NUCLEAR, OPAQUE, Profile, Shape, THICKNESS};

/// Lattice pitch of white cells, µm.
const WHITE_PITCH_UM: f64 = 58.0;
/// Lattice pitch of tumour cells and clusters, µm.
const TUMOUR_PITCH_UM: f64 = 170.0;
/// Lattice pitch of platelets and stain specks, µm.
const SPECK_PITCH_UM: f64 = 11.0;
/// Lattice pitch of dust, µm.
const DUST_PITCH_UM: f64 = 130.0;
/// Farthest a nucleated cell or cluster reaches from its lattice site, µm.
const CLUSTER_REACH_UM: f64 = 75.0;

/// A rectangle of the slide, µm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) left_um: f64,
    pub(crate) top_um: f64,
    pub(crate) right_um: f64,
    pub(crate) bottom_um: f64,
}

impl Region {
    fn grown(self, by_um: f64) -> Self {
        Self {
            left_um: self.left_um - by_um,
            top_um: self.top_um - by_um,
            right_um: self.right_um + by_um,
            bottom_um: self.bottom_um + by_um,
        }
    }
}

/// Everything the cell lattices need to know of a slide.
pub(crate) struct Population<'a> {
    pub(crate) seed: u64,
    pub(crate) appearance: &'a Appearance,
    pub(crate) density: &'a TiledNoise,
}

/// A nucleated cell's outline, which red cells make way for.
struct Body {
    x_um: f64,
    y_um: f64,
    radius_um: f64,
}

impl Population<'_> {
    /// Every shape that may touch the region, in an order that depends on the slide alone.
    pub(crate) fn shapes(&self, region: Region) -> Vec<Shape> {
        let mut shapes = Vec::new();
        let mut bodies = Vec::new();
        let around = region.grown(CLUSTER_REACH_UM);
        self.each_site(around, 2, TUMOUR_PITCH_UM, |site, random| {
            if random.chance(self.appearance.tumour_fraction) {
                self.tumour(site, random, &mut shapes, &mut bodies);
            }
        });
        self.each_site(around, 3, WHITE_PITCH_UM, |site, random| {
            if random.chance(self.appearance.white_fraction) && clear_of(&bodies, site, 9.0) {
                self.white(site, random, &mut shapes, &mut bodies);
            }
        });
        self.each_site(
            region.grown(8.0),
            1,
            self.appearance.red_pitch_um,
            |site, random| {
                if random.chance(self.presence(site)) && clear_of(&bodies, site, 2.2) {
                    shapes.push(self.red(site, random));
                }
            },
        );
        self.each_site(region.grown(8.0), 4, SPECK_PITCH_UM, |site, random| {
            if random.chance(self.appearance.speck_fraction) {
                self.speck(site, random, &mut shapes);
            }
        });
        self.each_site(region.grown(20.0), 5, DUST_PITCH_UM, |site, random| {
            if random.chance(self.appearance.dust_fraction) {
                shapes.push(dust(site, random));
            }
        });
        shapes
    }

    /// Calls `visit` with a jittered point and its random numbers for every lattice site in the region.
    fn each_site(
        &self,
        region: Region,
        layer: u64,
        pitch_um: f64,
        mut visit: impl FnMut([f64; 2], &mut SiteRandom),
    ) {
        let site = |um: f64| (um / pitch_um).floor() as i64;
        for row in site(region.top_um)..=site(region.bottom_um) {
            for column in site(region.left_um)..=site(region.right_um) {
                let mut random = SiteRandom::at(self.seed, layer, column, row);
                // Every other row is offset by half a pitch, which packs discs without showing a square lattice.
                let offset = if row & 1 == 0 { 0.25 } else { 0.75 };
                let x_um = (column as f64 + offset + random.range(-0.4, 0.4)) * pitch_um;
                let y_um = (row as f64 + 0.5 + random.range(-0.4, 0.4)) * pitch_um;
                visit([x_um, y_um], &mut random);
            }
        }
    }

    /// Probability that a red cell's site is occupied: crowded, ordinary and empty stretches.
    fn presence(&self, [x_um, y_um]: [f64; 2]) -> f64 {
        let broad = self.density.at(x_um / 210.0, y_um / 210.0);
        let local = self.density.at(x_um / 48.0 + 77.3, y_um / 48.0 + 19.1);
        let level = 0.68 + 0.52 * f64::from(broad) + 0.42 * f64::from(local);
        (self.appearance.density * level).clamp(0.0, 0.97)
    }

    fn red(&self, [x_um, y_um]: [f64; 2], random: &mut SiteRandom) -> Shape {
        let look = self.appearance;
        let radius_um = (3.55 * look.red_size * (1.0 + 0.07 * random.normal())).clamp(2.4, 4.8);
        let pallor = (look.pallor + 0.12 * random.normal()).clamp(0.15, 0.98) as f32;
        let mut cell = Shape::disc(x_um, y_um, radius_um, Profile::Biconcave { pallor });
        orient(&mut cell, random, 0.06);
        let rough = if random.chance(look.rough_fraction) {
            3.0
        } else {
            1.0
        };
        cell.wobble = [0.02, 0.015 * rough, 0.012 * rough].map(|w| w * random.normal() as f32);
        cell.rim_um = random.range(0.30, 0.50) as f32;
        cell.grain = Grain {
            depth: 0.06,
            size_um: 0.9,
        };
        let strength = (1.0 + 0.12 * random.normal()).clamp(0.6, 1.4) as f32;
        cell.amounts[EOSIN] = strength;
        cell.amounts[BLUE] = if random.chance(0.06) { 0.25 * strength } else { 0.0 };
        cell.amounts[THICKNESS] = strength;
        cell
    }

    fn white(
        &self,
        site: [f64; 2],
        random: &mut SiteRandom,
        shapes: &mut Vec<Shape>,
        bodies: &mut Vec<Body>,
    ) {
        let kind = random.unit();
        let (radius_um, nucleus_um) = if kind < 0.40 {
            (random.range(5.0, 6.3), random.range(0.72, 0.86)) // lymphocyte
        } else if kind < 0.85 {
            (random.range(5.8, 7.2), 0.62) // granulocyte
        } else {
            (random.range(7.0, 8.3), 0.66) // monocyte
        };
        bodies.push(Body {
            x_um: site[0],
            y_um: site[1],
            radius_um,
        });
        let mut body = Shape::disc(site[0], site[1], radius_um, Profile::Plateau);
        orient(&mut body, random, 0.08);
        body.wobble = [0.02, 0.02, 0.015].map(|w| w * random.normal() as f32);
        body.rim_um = random.range(0.5, 0.9) as f32;
        body.grain = Grain {
            depth: 0.35,
            size_um: random.range(0.7, 1.1),
        };
        let granular = (0.40..0.85).contains(&kind);
        body.amounts[BLUE] = if granular {
            0.25
        } else {
            random.range(0.7, 1.2) as f32
        };
        body.amounts[EOSIN] = if granular {
            random.range(0.35, 0.8) as f32
        } else {
            0.1
        };
        body.amounts[THICKNESS] = 0.55;
        let axis = body.axis;
        shapes.push(body);
        let mut nucleus = Shape::disc(site[0], site[1], radius_um * nucleus_um, Profile::Plateau);
        nucleus.axis = axis;
        if granular {
            segment(&mut nucleus, random, radius_um);
        } else if kind >= 0.85 {
            bend(&mut nucleus, random, radius_um);
        } else {
            nucleus.x_um += 0.1 * radius_um * random.normal().clamp(-1.5, 1.5);
        }
        nucleus.wobble = [0.03, 0.025, 0.02].map(|w| w * random.normal() as f32);
        nucleus.rim_um = random.range(0.35, 0.6) as f32;
        nucleus.grain = Grain {
            depth: random.range(0.3, 0.5) as f32,
            size_um: random.range(1.0, 1.7),
        };
        nucleus.amounts[NUCLEAR] = random.range(0.75, 1.1) as f32;
        nucleus.amounts[THICKNESS] = 0.5;
        shapes.push(nucleus);
    }

    fn tumour(
        &self,
        site: [f64; 2],
        random: &mut SiteRandom,
        shapes: &mut Vec<Shape>,
        bodies: &mut Vec<Body>,
    ) {
        let cells = 1 + (5.0 * random.unit().powi(2)) as usize;
        for member in 0..cells {
            let spread_um = if member == 0 {
                0.0
            } else {
                random.range(12.0, 24.0)
            };
            let (sin, cos) = random.range(0.0, std::f64::consts::TAU).sin_cos();
            let place = [site[0] + spread_um * cos, site[1] + spread_um * sin];
            if clear_of(bodies, place, 0.0) {
                self.tumour_cell(place, random, shapes, bodies);
            }
        }
    }

    fn tumour_cell(
        &self,
        [x_um, y_um]: [f64; 2],
        random: &mut SiteRandom,
        shapes: &mut Vec<Shape>,
        bodies: &mut Vec<Body>,
    ) {
        let radius_um = random.range(8.0, 12.5);
        bodies.push(Body {
            x_um,
            y_um,
            radius_um,
        });
        let mut body = Shape::disc(x_um, y_um, radius_um, Profile::Plateau);
        orient(&mut body, random, 0.14);
        body.wobble = [0.05, 0.05, 0.035].map(|w| w * random.normal() as f32);
        body.rim_um = random.range(0.8, 1.6) as f32;
        body.grain = Grain {
            depth: 0.4,
            size_um: random.range(0.9, 1.6),
        };
        body.amounts[BLUE] = random.range(0.8, 1.6) as f32;
        body.amounts[EOSIN] = 0.15;
        body.amounts[THICKNESS] = 0.8;
        let axis = body.axis;
        shapes.push(body);
        let nucleus_um = radius_um * random.range(0.55, 0.75);
        let drift_um = 0.12 * radius_um;
        let (nx_um, ny_um) = (
            x_um + drift_um * random.normal(),
            y_um + drift_um * random.normal(),
        );
        let mut nucleus = Shape::disc(nx_um, ny_um, nucleus_um, Profile::Plateau);
        nucleus.axis = axis;
        nucleus.stretch = random.range(0.95, 1.2) as f32;
        nucleus.wobble = [0.05, 0.05, 0.03].map(|w| w * random.normal() as f32);
        nucleus.rim_um = random.range(0.4, 0.7) as f32;
        nucleus.grain = Grain {
            depth: random.range(0.35, 0.6) as f32,
            size_um: random.range(1.1, 2.0),
        };
        nucleus.amounts[NUCLEAR] = random.range(0.6, 1.0) as f32;
        nucleus.amounts[THICKNESS] = 0.6;
        shapes.push(nucleus);
        for _ in 0..(1.0 + 2.5 * random.unit()) as usize {
            let (sin, cos) = random.range(0.0, std::f64::consts::TAU).sin_cos();
            let out_um = nucleus_um * random.range(0.0, 0.55);
            let (x, y) = (nx_um + out_um * cos, ny_um + out_um * sin);
            let mut nucleolus = Shape::disc(x, y, random.range(0.7, 1.4), Profile::Dome);
            nucleolus.amounts[NUCLEAR] = 0.5;
            nucleolus.amounts[THICKNESS] = 0.3;
            shapes.push(nucleolus);
        }
    }

    /// A platelet, a small clump of them, or a speck of stain.
    fn speck(&self, [x_um, y_um]: [f64; 2], random: &mut SiteRandom, shapes: &mut Vec<Shape>) {
        let stain = random.chance(0.3);
        let radius_um = if stain {
            random.range(0.2, 0.6)
        } else {
            random.range(0.7, 1.5)
        };
        let mut speck = Shape::disc(x_um, y_um, radius_um, Profile::Dome);
        orient(&mut speck, random, 0.2);
        speck.wobble = [0.08, 0.08, 0.05].map(|w| w * random.normal() as f32);
        speck.grain = Grain {
            depth: 0.4,
            size_um: 0.6,
        };
        if stain {
            speck.amounts[OPAQUE] = random.range(0.4, 1.2) as f32;
            speck.amounts[NUCLEAR] = 0.4;
        } else {
            speck.amounts[NUCLEAR] = random.range(0.25, 0.6) as f32;
            speck.amounts[BLUE] = 0.3;
        }
        speck.amounts[THICKNESS] = random.range(0.3, 0.6) as f32;
        shapes.push(speck);
    }
}

/// Dust or pigment: dark, ragged, rare.
fn dust([x_um, y_um]: [f64; 2], random: &mut SiteRandom) -> Shape {
    let mut dust = Shape::disc(x_um, y_um, random.range(0.8, 3.2), Profile::Plateau);
    orient(&mut dust, random, 0.5);
    dust.wobble = [0.12, 0.12, 0.10].map(|w| w * random.normal() as f32);
    dust.rim_um = 0.5;
    dust.grain = Grain {
        depth: 0.5,
        size_um: 1.0,
    };
    dust.amounts[OPAQUE] = random.range(0.5, 1.6) as f32;
    dust.amounts[THICKNESS] = 0.5;
    dust
}

/// Breaks a nucleus into the three or four lobes of a granulocyte.
fn segment(nucleus: &mut Shape, random: &mut SiteRandom, radius_um: f64) {
    let lobes = 2 + (2.99 * random.unit()) as usize;
    let start = random.range(0.0, std::f64::consts::TAU);
    nucleus.lobe_count = lobes.min(LOBES);
    for (index, lobe) in nucleus.lobes.iter_mut().enumerate().take(lobes) {
        let angle = start + 1.45 * index as f64 + 0.2 * random.normal();
        let out_um = 0.40 * radius_um;
        *lobe = Lobe {
            x_um: (out_um * angle.cos()) as f32,
            y_um: (out_um * angle.sin()) as f32,
            radius_um: (radius_um * random.range(0.28, 0.38)) as f32,
        };
    }
}

/// Bends a nucleus into the kidney of a monocyte.
fn bend(nucleus: &mut Shape, random: &mut SiteRandom, radius_um: f64) {
    nucleus.lobe_count = LOBES;
    let start = random.range(0.0, std::f64::consts::TAU);
    for (index, lobe) in nucleus.lobes.iter_mut().enumerate() {
        let angle = start + 0.62 * index as f64;
        *lobe = Lobe {
            x_um: (0.36 * radius_um * angle.cos()) as f32,
            y_um: (0.36 * radius_um * angle.sin()) as f32,
            radius_um: (0.40 * radius_um) as f32,
        };
    }
}

/// Turns a shape any way and stretches it by a half-normal amount of this scale.
fn orient(shape: &mut Shape, random: &mut SiteRandom, stretch: f64) {
    let (sin, cos) = random.range(0.0, std::f64::consts::TAU).sin_cos();
    shape.axis = [cos as f32, sin as f32];
    shape.stretch = (1.0 + stretch * random.normal().abs()).min(1.6) as f32;
}

fn clear_of(bodies: &[Body], [x_um, y_um]: [f64; 2], gap_um: f64) -> bool {
    bodies
        .iter()
        .all(|body| (body.x_um - x_um).hypot(body.y_um - y_um) > body.radius_um + gap_um)
}
