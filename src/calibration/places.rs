//! Where the stage goes for a flat field: a square of places around where it stands.

/// Places along each side of the square.
const SIDE: usize = 5;
/// Fewest places, of 25: fewer leave too much of the specimen in the median.
pub const LEAST_PLACES: usize = 12;

/// The places around `at_um`, whole µm (which is what motion controllers report), none farther away than `reach_um` but for the rounding,
/// in an order in which each is beside the one before. Those outside `limits_um`, the lowest and highest x and y, are left out.
///
/// # Errors
/// If too few are left.
pub fn places(
    at_um: [f64; 2],
    reach_um: f64,
    limits_um: [(f64, f64); 2],
) -> Result<Vec<[f64; 2]>, TooFewPlaces> {
    // The corners of the square are the farthest.
    let half_um = reach_um / std::f64::consts::SQRT_2;
    let offset_um = |at: usize| half_um * (2.0 * at as f64 / (SIDE - 1) as f64 - 1.0);
    let is_inside = |place_um: &[f64; 2]| {
        let inside = |(at_um, (low_um, high_um)): (&f64, (f64, f64))| (low_um..=high_um).contains(at_um);
        place_um.iter().zip(limits_um).all(inside)
    };
    let row = |row: usize| {
        let column = move |at: usize| if row.is_multiple_of(2) { at } else { SIDE - 1 - at };
        (0..SIDE).map(move |at| {
            let place = [at_um[0] + offset_um(column(at)), at_um[1] + offset_um(row)];
            place.map(f64::round)
        })
    };
    let found: Vec<_> = (0..SIDE).flat_map(row).filter(is_inside).collect();
    if found.len() < LEAST_PLACES {
        return Err(TooFewPlaces {
            found: found.len(),
            reach_um,
        });
    }
    Ok(found)
}

/// The stage stands too near to the limits of its travel.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "only {found} of 25 places within {reach_um:.0} µm lie inside the limits of x and y, at least {LEAST_PLACES} are needed: move the stage away from them"
)]
pub struct TooFewPlaces {
    found: usize,
    reach_um: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [(f64, f64); 2] = [(-1e4, 1e4); 2];

    fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
        (a[0] - b[0]).hypot(a[1] - b[1])
    }

    #[test]
    fn places_lie_apart_and_within_reach() {
        let at_um = [300.0, -40.0];
        let found = places(at_um, 500.0, FREE).unwrap();
        assert_eq!(found.len(), 25);
        let pitch_um = 500.0 * 2.0_f64.sqrt() / 4.0;
        for (index, &place) in found.iter().enumerate() {
            assert!(distance(place, at_um) <= 501.0, "{place:?}");
            let nearest = found[..index].iter().map(|&other| distance(place, other));
            assert!(nearest.fold(f64::MAX, f64::min) > pitch_um - 1.0, "{place:?}");
        }
        assert!(
            found
                .windows(2)
                .all(|pair| distance(pair[0], pair[1]) < pitch_um + 1.0)
        );
    }

    #[test]
    fn limits_hold() {
        // At the right edge less than half of the square is left.
        let edge = |high_um| [(-1e4, high_um), (-1e4, 1e4)];
        let error = places([0.0, 0.0], 500.0, edge(-10.0)).unwrap_err();
        assert!(error.to_string().contains("only 10 of 25"), "{error}");
        let found = places([0.0, 0.0], 500.0, edge(10.0)).unwrap();
        assert!(found.len() == 15 && found.iter().all(|place| place[0] <= 10.0));
        assert!(places([0.0, 0.0], f64::NAN, FREE).is_err());
    }
}
