//! The heights of focus over a slide, learnt tile by tile: where focus is to be expected at a place, and how surely.
//!
//! The heights are a Gaussian process: an unknown height, tilt and curvature with the spread that slides in holders have, and around that a
//! smooth relief. So the first points are continued as a plane, more of them as a bowl, many as what lies between them, and the uncertainty
//! grows with the distance from what was measured; no switch is thrown anywhere (Rasmussen and Williams, *Gaussian Processes for Machine
//! Learning*, 2006, sections 2.2, 2.7 and 5.4.2). Coordinates count from where it is asked, and the nearest points with a few of the
//! farther ones speak for all, so that it costs the same at the ten thousandth tile as at the fiftieth.
//!
//! A point that the others contradict, each held against all others of its neighbourhood, has no say, until more of them agree with it.

use nalgebra::{DMatrix, DVector, Matrix6, Vector6};

/// Nearest points that speak for a place, and farther ones.
const NEAR: usize = 24;
const FAR: usize = 12;
/// Spread of the height of a slide, µm.
const HEIGHT_UM: f64 = 300.0;
/// From so many standard deviations on a point is contradicted, and up to so many it may speak again.
const CONTRADICTED: f64 = 4.5;
const AGREES: f64 = 3.0;
/// Contradicted points that are looked at again each time.
const READMITTED: usize = 3;
/// Points without which none is contradicted: three are a plane, whatever they are.
const LEAST_POINTS: usize = 6;
/// Share of a tile that has to hold specimen for its focus to be that of the slide.
const LEAST_SPECIMEN: f64 = 0.04;

/// What slides are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SurfaceConfig {
    /// Usual tilt, µm/mm.
    pub tilt_um_per_mm: f64,
    /// Usual curvature, µm/mm².
    pub bowl_um_per_mm2: f64,
    /// Usual relief of the specimen, µm, and how wide its hills are, mm.
    pub relief_um: f64,
    /// See `relief_um`.
    pub relief_mm: f64,
    /// Least and greatest height that is ever expected, µm.
    pub limits_um: (f64, f64),
}

impl SurfaceConfig {
    /// Of a glass slide in a holder, within these heights.
    pub fn of_a_slide(limits_um: (f64, f64)) -> Self {
        Self {
            tilt_um_per_mm: 5.0,
            bowl_um_per_mm2: 0.1,
            relief_um: 1.0,
            relief_mm: 1.0,
            limits_um,
        }
    }
}

/// Where focus was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// x and y, µm.
    pub at_um: [f64; 2],
    /// Height of focus, µm.
    pub z_um: f64,
    /// Standard deviation of that, µm.
    pub stddev_um: f64,
    /// Share of the tile that holds specimen, 0 to 1.
    pub specimen: f64,
}

/// What is expected at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Height of focus, µm, inside the limits.
    pub z_um: f64,
    /// Standard deviation of what will be found there, µm, without the error of finding it.
    pub stddev_um: f64,
}

/// The slide as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Tilt along x and y, µm/mm, in the middle of the points.
    pub tilt_um_per_mm: [f64; 2],
    /// Standard deviation of the tilt, the greater of the two.
    pub tilt_stddev: f64,
    /// Mean curvature, µm/mm²: how much its height grows with the square of the distance from there.
    pub bowl_um_per_mm2: f64,
    /// Standard deviation of that.
    pub bowl_stddev: f64,
}

/// What a scan does not go on with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShapeLimits {
    /// Greatest tilt, µm/mm.
    pub tilt_um_per_mm: f64,
    /// Greatest curvature, µm/mm².
    pub bowl_um_per_mm2: f64,
}

impl Default for ShapeLimits {
    /// A slide of 75 mm whose ends differ by a millimetre does not lie flat in its holder, and one whose middle is a tenth of a millimetre
    /// away from its ends is bent, or lies on a crumb.
    fn default() -> Self {
        Self {
            tilt_um_per_mm: 13.0,
            bowl_um_per_mm2: 0.07,
        }
    }
}

impl Shape {
    /// Why the slide is to be looked at before it is scanned: a sentence, if its shape is surely beyond the limits.
    pub fn complaint(&self, limits: &ShapeLimits) -> Option<String> {
        let [x, y] = self.tilt_um_per_mm;
        let tilt = x.hypot(y);
        let bowl = self.bowl_um_per_mm2.abs();
        let what = if tilt - 2.0 * self.tilt_stddev > limits.tilt_um_per_mm {
            format!(
                "tilted by {tilt:.1} µm/mm (x {x:+.1}, y {y:+.1}; at most {:.1})",
                limits.tilt_um_per_mm
            )
        } else if bowl - 2.0 * self.bowl_stddev > limits.bowl_um_per_mm2 {
            format!("bent by {bowl:.3} µm/mm² (at most {:.3})", limits.bowl_um_per_mm2)
        } else {
            return None;
        };
        Some(format!(
            "the slide is badly seated: it is {what}. Take it out, clean the holder, and put it in again"
        ))
    }
}

#[derive(Clone, Copy, Debug)]
struct Point {
    found: Found,
    /// Whether the others contradict it.
    is_contradicted: bool,
    is_deleted: bool,
}

impl Point {
    fn speaks(&self) -> bool {
        !self.is_contradicted && self.may_speak()
    }

    fn may_speak(&self) -> bool {
        !self.is_deleted && self.found.specimen >= LEAST_SPECIMEN
    }

    /// Variance of its height, µm²: of little specimen the focus of a part is known.
    fn variance(&self) -> f64 {
        self.found.stddev_um.powi(2) / self.found.specimen
    }
}

/// The heights of focus over a slide.
#[derive(Clone, Debug)]
pub struct Surface {
    config: SurfaceConfig,
    points: Vec<Point>,
}

impl Surface {
    /// Of a slide of which nothing is known.
    pub fn new(config: SurfaceConfig) -> Self {
        Self {
            config,
            points: Vec::new(),
        }
    }

    /// Focus was found somewhere; the number by which that point can be deleted.
    pub fn add(&mut self, found: Found) -> usize {
        self.points.push(Point {
            found,
            is_contradicted: false,
            is_deleted: false,
        });
        self.judge(found.at_um);
        self.points.len() - 1
    }

    /// A point is not to count; whether there is one of that number.
    pub fn delete(&mut self, number: usize) -> bool {
        let Some(point) = self.points.get_mut(number) else {
            return false;
        };
        point.is_deleted = true;
        let at_um = point.found.at_um;
        self.judge(at_um);
        true
    }

    /// Numbers of the points that the others contradict.
    pub fn contradicted(&self) -> impl Iterator<Item = usize> {
        let numbered = self.points.iter().enumerate();
        numbered.filter_map(|(number, point)| (point.is_contradicted && point.may_speak()).then_some(number))
    }

    /// What is to be expected at a place, x and y, µm; none while no point speaks.
    pub fn expected(&self, at_um: [f64; 2]) -> Option<Expected> {
        let chosen = self.chosen(at_um, Point::speaks);
        self.by(&chosen, at_um)
    }

    /// The slide as a whole; none before there are points for it.
    pub fn shape(&self) -> Option<Shape> {
        let speaking = || self.points.iter().filter(|point| point.speaks());
        let count = speaking().count();
        if count < LEAST_POINTS {
            return None;
        }
        let mean = |of: &dyn Fn(&Point) -> f64| speaking().map(of).sum::<f64>() / count as f64;
        let middle_um = [0, 1].map(|axis| mean(&|point| point.found.at_um[axis]));
        let height_um = mean(&|point| point.found.z_um);
        let config = &self.config;
        // Bayesian linear regression; the relief is noise to it, of which a hill's width of points knows as much as one.
        let spread = [
            HEIGHT_UM,
            config.tilt_um_per_mm,
            config.tilt_um_per_mm,
            config.bowl_um_per_mm2,
            config.bowl_um_per_mm2,
            config.bowl_um_per_mm2,
        ];
        let mut precision = Matrix6::from_diagonal(&Vector6::from(spread.map(|spread| spread.powi(-2))));
        let mut right = Vector6::zeros();
        let together = self.per_hill(count);
        for point in speaking() {
            let [x, y] = millimetres(point.found.at_um, middle_um);
            let row = Vector6::new(1.0, x, y, x * x, y * y, x * y);
            let weight = 1.0 / (point.variance() + together * config.relief_um.powi(2));
            precision += weight * row * row.transpose();
            right += weight * (point.found.z_um - height_um) * row;
        }
        let covariance = precision.try_inverse()?;
        let found = covariance * right;
        let deviation = |at: usize| covariance[(at, at)].sqrt();
        let bowl_variance = covariance[(3, 3)] + covariance[(4, 4)] + 2.0 * covariance[(3, 4)];
        Some(Shape {
            tilt_um_per_mm: [found[1], found[2]],
            tilt_stddev: deviation(1).max(deviation(2)),
            bowl_um_per_mm2: 0.5 * (found[3] + found[4]),
            bowl_stddev: 0.5 * bowl_variance.max(0.0).sqrt(),
        })
    }

    /// How many points there are on one hill of the relief, at least one.
    fn per_hill(&self, count: usize) -> f64 {
        let extent = |axis: usize| {
            let along = self.points.iter().filter(|point| point.speaks());
            let along = along.map(|point| point.found.at_um[axis] / 1000.0);
            let (low, high) = along.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| {
                (low.min(at), high.max(at))
            });
            ((high - low) / self.config.relief_mm).max(1.0)
        };
        (count as f64 / (extent(0) * extent(1))).max(1.0)
    }

    /// Holds each point near a place against all others there, the worst first.
    fn judge(&mut self, at_um: [f64; 2]) {
        let mut chosen = self.chosen(at_um, Point::speaks);
        while chosen.len() >= LEAST_POINTS {
            let Some((worst, by)) = self.most_contradicted(&chosen, at_um) else {
                return;
            };
            if by <= CONTRADICTED {
                break;
            }
            self.points[chosen.remove(worst)].is_contradicted = true;
        }
        for number in self.contradicted_near(at_um) {
            let point = self.points[number];
            let others = self.chosen(point.found.at_um, Point::speaks);
            let Some(expected) = self.unbounded(&others, point.found.at_um) else {
                continue;
            };
            let stddev_um = (expected.stddev_um.powi(2) + point.variance()).sqrt();
            if (point.found.z_um - expected.z_um).abs() <= AGREES * stddev_um {
                self.points[number].is_contradicted = false;
            }
        }
    }

    /// The nearest of those that are contradicted.
    fn contradicted_near(&self, at_um: [f64; 2]) -> Vec<usize> {
        let apart = |number: &usize| {
            let [x, y] = millimetres(self.points[*number].found.at_um, at_um);
            x * x + y * y
        };
        let mut numbers: Vec<usize> = self.contradicted().collect();
        numbers.sort_by(|one, other| apart(one).total_cmp(&apart(other)));
        numbers.truncate(READMITTED);
        numbers
    }

    /// Which of the chosen the others contradict most, and by how many standard deviations: leaving one out in closed form (5.12 there).
    fn most_contradicted(&self, chosen: &[usize], at_um: [f64; 2]) -> Option<(usize, f64)> {
        let inverse = self.covariance(chosen, at_um).cholesky()?.inverse();
        let solved = &inverse * self.heights(chosen).0;
        (0..chosen.len())
            .map(|at| (at, solved[at].abs() / inverse[(at, at)].sqrt()))
            .max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// The nearest points of a kind, and a few of the farther ones.
    fn chosen(&self, at_um: [f64; 2], is_of_kind: impl Fn(&Point) -> bool) -> Vec<usize> {
        let numbered = self.points.iter().enumerate();
        let mut apart: Vec<(f64, usize)> = numbered
            .filter(|(_, point)| is_of_kind(point))
            .map(|(number, point)| {
                let [x, y] = [0, 1].map(|axis| point.found.at_um[axis] - at_um[axis]);
                (x * x + y * y, number)
            })
            .collect();
        let number = |entry: &(f64, usize)| entry.1;
        if apart.len() <= NEAR + FAR {
            return apart.iter().map(number).collect();
        }
        let (near, nearest_of_far, farther) =
            apart.select_nth_unstable_by(NEAR, |one, other| one.0.total_cmp(&other.0));
        let every = (farther.len() + 1).div_ceil(FAR);
        let far = std::iter::once(&*nearest_of_far)
            .chain(farther.iter())
            .step_by(every);
        near.iter().chain(far).map(number).collect()
    }

    fn by(&self, chosen: &[usize], at_um: [f64; 2]) -> Option<Expected> {
        let (low_um, high_um) = self.config.limits_um;
        let expected = self.unbounded(chosen, at_um)?;
        Some(Expected {
            z_um: expected.z_um.max(low_um).min(high_um),
            ..expected
        })
    }

    fn unbounded(&self, chosen: &[usize], at_um: [f64; 2]) -> Option<Expected> {
        if chosen.is_empty() {
            return None;
        }
        let (heights, mean_um) = self.heights(chosen);
        let here = DVector::from_iterator(
            chosen.len(),
            chosen.iter().map(|&number| {
                let there = millimetres(self.points[number].found.at_um, at_um);
                self.alike([0.0; 2], there)
            }),
        );
        let decomposed = self.covariance(chosen, at_um).cholesky()?;
        let weights = decomposed.solve(&here);
        let variance = self.alike([0.0; 2], [0.0; 2]) - weights.dot(&here);
        Some(Expected {
            z_um: mean_um + weights.dot(&heights),
            stddev_um: variance.max(0.0).sqrt(),
        })
    }

    /// Heights less their mean, and the mean.
    fn heights(&self, chosen: &[usize]) -> (DVector<f64>, f64) {
        let heights = chosen.iter().map(|&number| self.points[number].found.z_um);
        let heights = DVector::from_iterator(chosen.len(), heights);
        let mean_um = heights.mean();
        (heights.add_scalar(-mean_um), mean_um)
    }

    /// How the heights that were found go together.
    fn covariance(&self, chosen: &[usize], at_um: [f64; 2]) -> DMatrix<f64> {
        let places: Vec<_> = chosen
            .iter()
            .map(|&number| millimetres(self.points[number].found.at_um, at_um))
            .collect();
        DMatrix::from_fn(chosen.len(), chosen.len(), |row, column| {
            let own = if row == column {
                self.points[chosen[row]].variance()
            } else {
                0.0
            };
            self.alike(places[row], places[column]) + own
        })
    }

    /// How the heights of two places go together, µm²; places in mm.
    fn alike(&self, [x, y]: [f64; 2], [u, v]: [f64; 2]) -> f64 {
        let config = &self.config;
        let along = x * u + y * v;
        let apart = (x - u).powi(2) + (y - v).powi(2);
        HEIGHT_UM.powi(2)
            + config.tilt_um_per_mm.powi(2) * along
            + config.bowl_um_per_mm2.powi(2) * along.powi(2)
            + config.relief_um.powi(2) * (-0.5 * apart / config.relief_mm.powi(2)).exp()
    }
}

fn millimetres(at_um: [f64; 2], origin_um: [f64; 2]) -> [f64; 2] {
    [0, 1].map(|axis| (at_um[axis] - origin_um[axis]) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    const LIMITS_UM: (f64, f64) = (-500.0, 500.0);

    fn surface() -> Surface {
        Surface::new(SurfaceConfig::of_a_slide(LIMITS_UM))
    }

    /// From -1 to 1.
    fn chance(random: &mut SplitMix64) -> f64 {
        2.0 * (random.bits() >> 11) as f64 / (1_u64 << 53) as f64 - 1.0
    }

    /// A slide tilted by 5 and 2 µm/mm, bent, with a relief; mm.
    fn slide(x: f64, y: f64) -> f64 {
        30.0 + 5.0 * x - 2.0 * y + 0.02 * (x * x + y * y) + 0.4 * (1.9 * x).sin() * (2.3 * y + 1.0).cos()
    }

    fn found(x: f64, y: f64, z_um: f64) -> Found {
        Found {
            at_um: [1000.0 * x, 1000.0 * y],
            z_um,
            stddev_um: 0.15,
            specimen: 0.6,
        }
    }

    /// Points on a grid of 0.4 mm, with errors of 0.15 µm.
    fn scanned(columns: u32, rows: u32) -> Surface {
        let mut surface = surface();
        let mut random = SplitMix64(7);
        for row in 0..rows {
            for column in 0..columns {
                let (x, y) = (0.4 * f64::from(column), 0.4 * f64::from(row));
                surface.add(found(x, y, slide(x, y) + 0.15 * chance(&mut random)));
            }
        }
        surface
    }

    fn expected(surface: &Surface, x: f64, y: f64) -> Expected {
        surface.expected([1000.0 * x, 1000.0 * y]).unwrap()
    }

    #[test]
    fn nothing_is_expected_before_anything_was_found_and_then_less_surely_farther_away() {
        let mut surface = surface();
        assert_eq!(surface.expected([0.0, 0.0]), None);
        surface.add(found(0.0, 0.0, 12.0));
        let spread = [0.0, 0.2, 1.0, 5.0].map(|x| {
            let there = expected(&surface, x, 0.0);
            assert!((there.z_um - 12.0).abs() < 0.01, "{x}: {there:?}");
            there.stddev_um
        });
        assert!(
            spread.is_sorted() && spread[0] < 0.25 && spread[3] > 20.0,
            "{spread:?}"
        );
    }

    #[test]
    fn three_points_are_a_plane() {
        let mut surface = surface();
        for (x, y) in [(0.0, 0.0), (2.0, 0.0), (0.0, 2.0)] {
            surface.add(found(x, y, 30.0 + 5.0 * x - 2.0 * y));
        }
        let there = expected(&surface, 2.0, 2.0);
        assert!((there.z_um - 36.0).abs() < 1.0, "{there:?}");
        assert!((0.5..5.0).contains(&there.stddev_um), "{there:?}");
    }

    #[test]
    fn tilt_bowl_and_relief_are_recovered_as_surely_as_is_said() {
        let surface = scanned(20, 15);
        assert_eq!(surface.contradicted().count(), 0);
        let (mut within, mut count) = (0, 0);
        for step in 0..200 {
            let x = 7.6 * (0.618_033_988_75 * f64::from(step)).fract();
            let y = 5.6 * (0.754_877_666 * f64::from(step)).fract();
            let there = expected(&surface, x, y);
            let off_um = (there.z_um - slide(x, y)).abs();
            assert!(off_um < 0.35, "{x} {y}: {off_um}");
            within += usize::from(off_um <= 2.0 * there.stddev_um);
            count += 1;
        }
        assert!(within as f64 >= 0.9 * f64::from(count), "{within} of {count}");
        // Beyond the last row by a tile it is known to a micrometre, and by 5 mm it is not.
        let next = expected(&surface, 7.8, 2.0);
        assert!((next.z_um - slide(7.8, 2.0)).abs() < 0.6, "{next:?}");
        assert!(expected(&surface, 12.6, 2.0).stddev_um > 3.0 * next.stddev_um);
    }

    #[test]
    fn the_shape_of_the_slide_is_told_and_a_badly_seated_one_named() {
        let shape = scanned(20, 15).shape().unwrap();
        // In the middle of the points, 3.8 and 2.8 mm from the corner.
        let tilt = [5.0 + 0.04 * 3.8, -2.0 + 0.04 * 2.8];
        for (found, made) in shape.tilt_um_per_mm.into_iter().zip(tilt) {
            let off = (found - made).abs();
            assert!(off < 0.15 && off < 3.0 * shape.tilt_stddev, "{shape:?}");
        }
        assert!((shape.bowl_um_per_mm2 - 0.02).abs() < 0.03, "{shape:?}");
        assert_eq!(shape.complaint(&ShapeLimits::default()), None);
        let strict = ShapeLimits {
            tilt_um_per_mm: 3.0,
            ..ShapeLimits::default()
        };
        let complaint = shape.complaint(&strict).unwrap();
        assert!(
            complaint.contains("badly seated") && complaint.contains("tilted by 5."),
            "{complaint}"
        );
        assert_eq!(scanned(2, 2).shape(), None);
    }

    #[test]
    fn a_point_that_the_others_contradict_has_no_say_until_they_agree() {
        let mut surface = surface();
        let mut random = SplitMix64(3);
        let wrong = surface.add(found(1.2, 1.2, slide(1.2, 1.2) + 9.0));
        for row in 0..6 {
            for column in 0..6 {
                let (x, y) = (0.4 * f64::from(column), 0.4 * f64::from(row));
                if (row, column) != (3, 3) {
                    surface.add(found(x, y, slide(x, y) + 0.1 * chance(&mut random)));
                }
            }
        }
        assert_eq!(surface.contradicted().collect::<Vec<_>>(), [wrong]);
        let there = expected(&surface, 1.2, 1.2);
        assert!((there.z_um - slide(1.2, 1.2)).abs() < 0.3, "{there:?}");
    }

    #[test]
    fn a_deleted_point_is_as_if_it_had_never_been() {
        let mut surface = scanned(4, 4);
        let before = expected(&surface, 0.5, 0.7);
        let number = surface.add(found(0.5, 0.7, slide(0.5, 0.7) + 0.5));
        assert!(expected(&surface, 0.5, 0.7) != before);
        assert!(surface.delete(number));
        assert_eq!(expected(&surface, 0.5, 0.7), before);
        assert!(!surface.delete(99));
    }

    #[test]
    fn little_specimen_bends_nothing() {
        let mut surface = scanned(5, 5);
        let before = expected(&surface, 1.0, 1.0);
        let almost_empty = Found {
            specimen: 0.01,
            ..found(1.0, 1.0, slide(1.0, 1.0) + 6.0)
        };
        surface.add(almost_empty);
        assert_eq!(expected(&surface, 1.0, 1.0), before);
        let sparse = Found {
            specimen: 0.05,
            ..found(1.0, 1.0, before.z_um + 1.0)
        };
        surface.add(sparse);
        let moved_um = expected(&surface, 1.0, 1.0).z_um - before.z_um;
        assert!((0.0..0.25).contains(&moved_um), "{moved_um}");
    }

    #[test]
    fn what_is_expected_lies_inside_the_limits() {
        let mut surface = Surface::new(SurfaceConfig::of_a_slide((-20.0, 40.0)));
        for x in [0.0, 1.0, 2.0] {
            surface.add(found(x, 0.0, 30.0 + 5.0 * x));
        }
        assert_eq!(expected(&surface, 9.0, 0.0).z_um, 40.0);
        assert_eq!(expected(&surface, -30.0, 0.0).z_um, -20.0);
    }
}
