//! At which heights a pass takes its frames: close to each other near focus, farther apart where the blur changes slowly.

/// Distance of heights near focus, depths of field; and farther away than [`NEAR_DEPTHS`], the part of what is beyond.
const STEP_DEPTHS: f64 = 0.35;
const STEP_PART: f64 = 0.12;
const NEAR_DEPTHS: f64 = 5.0;

/// Heights of a pass above focus, from the lowest up, µm: from `reach_um[0]` below to `reach_um[1]` above, both at least 0; `depth_um` is the
/// depth of field.
pub fn heights_um(reach_um: [f64; 2], depth_um: f64) -> Vec<f64> {
    let [below, above] = reach_um.map(|reach_um| side_um(reach_um, depth_um));
    let below = below.iter().rev().map(|height_um| -height_um);
    below.chain([0.0]).chain(above.iter().copied()).collect()
}

/// Distances from focus on one side, without 0.
fn side_um(reach_um: f64, depth_um: f64) -> Vec<f64> {
    let mut heights = Vec::new();
    let mut height_um: f64 = 0.0;
    while height_um < reach_um {
        height_um += (STEP_DEPTHS * depth_um).max(STEP_PART * (height_um - NEAR_DEPTHS * depth_um));
        heights.push(height_um.min(reach_um));
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_close_near_focus_and_end_where_they_must() {
        let heights = heights_um([30.0, 12.0], 1.43);
        assert_eq!((heights[0], heights.last().copied()), (-30.0, Some(12.0)));
        assert!(heights.contains(&0.0));
        for pair in heights.windows(2) {
            let (step_um, off_um) = (pair[1] - pair[0], pair[0].abs().max(pair[1].abs()));
            assert!(step_um > 0.0 && step_um < 0.51 + 0.12 * off_um, "{pair:?}");
        }
        assert!((40..90).contains(&heights.len()), "{}", heights.len());
        assert_eq!(heights_um([0.0, 0.0], 1.43), [0.0]);
    }
}
