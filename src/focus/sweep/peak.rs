//! The peak of sharpness over the heights of a sweep: whether there is one, and where its top lies.

use crate::statistics::median;

/// Share of the height of the peak above its floor from which on a look takes part in the fit.
const TOP: f64 = 0.5;
/// By how much the peak has to exceed the median of all looks.
const CONTRAST: f64 = 1.25;
/// Part of the variance that the parabola has to explain: of frames that differ by chance it explains a tenth.
const SMOOTH: f64 = 0.7;
/// Looks without which there is no curve.
const LEAST_LOOKS: usize = 8;
/// Why sharpness shows no focus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPeak {
    /// Too few looks.
    Few,
    /// Nothing stands out.
    Flat,
    /// It grows to the end of the range.
    Edge,
    /// What is sharpest has no shape.
    Rough,
    /// Where it was sharpest it is no longer.
    Gone,
    /// The stage did not go there.
    Stuck,
}

impl NoPeak {
    /// As the end of a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Self::Few => "too few frames came with it to tell sharpness",
            Self::Flat => "nothing in it was sharper than the rest",
            Self::Edge => "the picture grew sharper up to its end",
            Self::Rough => "their sharpness changes from frame to frame, not from height to height",
            Self::Gone => "what was sharp in it was not when the lens came back",
            Self::Stuck => "the stage did not go where it was sent",
        }
    }
}

/// The sharpest of all looks, µm and sharpness, if it stands out and lies inside the range by `margin_um`.
pub(crate) fn highest(
    looks: &[(f64, f64)],
    range_um: (f64, f64),
    margin_um: f64,
) -> Result<(f64, f64), NoPeak> {
    if looks.len() < LEAST_LOOKS {
        return Err(NoPeak::Few);
    }
    let usual = median(looks.iter().map(|look| look.1)).ok_or(NoPeak::Few)?;
    let top = sharpest(looks).ok_or(NoPeak::Few)?;
    if top.1 < CONTRAST * usual || top.1 <= 0.0 {
        Err(NoPeak::Flat)
    } else if top.0 < range_um.0 + margin_um || top.0 > range_um.1 - margin_um {
        Err(NoPeak::Edge)
    } else {
        Ok(top)
    }
}

fn sharpest(looks: &[(f64, f64)]) -> Option<(f64, f64)> {
    looks
        .iter()
        .copied()
        .max_by(|one, other| one.1.total_cmp(&other.1))
}

/// Height and sharpness of the top of the parabola through the logarithms of the sharpest looks above the floor (least squares).
pub(crate) fn vertex(looks: &[(f64, f64)]) -> Result<(f64, f64), NoPeak> {
    let top = sharpest(looks).ok_or(NoPeak::Few)?;
    if median(looks.iter().map(|look| look.1)).is_none_or(|usual| top.1 < CONTRAST * usual) {
        return Err(NoPeak::Flat);
    }
    let floor = looks.iter().map(|look| look.1).fold(f64::INFINITY, f64::min);
    let upper: Vec<(f64, f64)> = looks
        .iter()
        .filter(|look| look.1 - floor >= TOP * (top.1 - floor))
        .map(|look| (look.0 - top.0, (look.1 - floor).ln()))
        .collect();
    if upper.len() < LEAST_LOOKS / 2 {
        return Err(NoPeak::Few);
    }
    let [c, b, a] = parabola(&upper).ok_or(NoPeak::Few)?;
    if a >= 0.0 {
        return Err(NoPeak::Flat);
    }
    let at_um = -0.5 * b / a;
    let is_inside = upper.iter().any(|look| look.0 <= at_um) && upper.iter().any(|look| look.0 >= at_um);
    if !is_inside {
        return Err(NoPeak::Edge);
    }
    let mean = upper.iter().map(|look| look.1).sum::<f64>() / upper.len() as f64;
    let misses = upper.iter().map(|(x, y)| (y - (c + x * (b + x * a))).powi(2));
    let spread = upper.iter().map(|(_, y)| (y - mean).powi(2));
    if misses.sum::<f64>() > (1.0 - SMOOTH) * spread.sum::<f64>() {
        return Err(NoPeak::Rough);
    }
    Ok((top.0 + at_um, floor + (c + 0.5 * b * at_um).exp()))
}

/// Coefficients of 1, x and x² of the parabola with the least squares; none where the points do not determine it.
pub(in crate::focus) fn parabola(points: &[(f64, f64)]) -> Option<[f64; 3]> {
    let sum = |power: i32| points.iter().map(|point| point.0.powi(power)).sum::<f64>();
    let moment = |power: i32| {
        points
            .iter()
            .map(|point| point.0.powi(power) * point.1)
            .sum::<f64>()
    };
    let [s0, s1, s2, s3, s4] = [0, 1, 2, 3, 4].map(sum);
    let [t0, t1, t2] = [0, 1, 2].map(moment);
    let determinant = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = determinant([[s0, s1, s2], [s1, s2, s3], [s2, s3, s4]]);
    let solved = [
        determinant([[t0, s1, s2], [t1, s2, s3], [t2, s3, s4]]) / whole,
        determinant([[s0, t0, s2], [s1, t1, s3], [s2, t2, s4]]) / whole,
        determinant([[s0, s1, t0], [s1, s2, t1], [s2, s3, t2]]) / whole,
    ];
    solved.iter().all(|value| value.is_finite()).then_some(solved)
}
