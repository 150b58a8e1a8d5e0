//! Rides up and down past focus at two speeds, for how late the stamps of frames are.

use std::time::Duration;

use r2r::hhnet::action::Calibrate;

use super::super::tour::End;
use super::{LEAD_UM, Sweep};
use crate::calibration::latency::Passing;

/// Speeds, depths of field a second: 20 and 100 µm/s under the 40x/0.65.
const SPEEDS: [f64; 2] = [14.0, 70.0];
/// Frames that each speed is to have, and rides up and down in which a slow camera may take them.
const FRAMES: usize = 24;
const MOST_ROUNDS: usize = 15;
/// Most frames that one ride keeps: a frame is 9 MB.
const MOST_OF_A_RIDE: f64 = 10.0;
/// Part of the greatest speed of a ride below which the stage speeds up or slows down.
const STEADY: f64 = 0.7;

impl Sweep<'_> {
    /// Up and down past focus, at each speed until there are enough frames.
    pub(super) async fn rides(&mut self, focus_um: f64) -> Result<(), End> {
        let [below_um, above_um] = self.room_um(focus_um)?;
        let (low_um, high_um) = (focus_um - below_um, focus_um + above_um);
        self.go_z(low_um - LEAD_UM).await?;
        for (number, depths_per_s) in SPEEDS.into_iter().enumerate() {
            let um_per_s = depths_per_s * self.depth_um();
            let every = Duration::from_secs_f64((high_um - low_um) / um_per_s / MOST_OF_A_RIDE);
            let before = self.passing.len();
            for _ in 0..MOST_ROUNDS {
                // What lies outside is the way in which the play is taken up.
                for to_um in [high_um + LEAD_UM, low_um - LEAD_UM] {
                    let seen = self
                        .tour
                        .ride(to_um, um_per_s, every, &self.start, self.handle)
                        .await?;
                    let fastest = seen.iter().map(|seen| seen.um_per_s.abs()).fold(0.0, f64::max);
                    for seen in seen {
                        let is_steady = seen.um_per_s.abs() >= STEADY * fastest;
                        if is_steady && (low_um..=high_um).contains(&seen.z_um) {
                            let look = self.look(seen.z_um, seen.frame, None).await?;
                            self.passing.extend(look.estimate_um.map(|estimate_um| Passing {
                                z_um: seen.z_um,
                                um_per_s: seen.um_per_s,
                                estimate_um,
                            }));
                        }
                    }
                }
                let found = (self.passing.len() - before).min(FRAMES);
                self.handle.feedback(Calibrate::Feedback {
                    progress: 0.95 * (number * FRAMES + found) as f32 / (SPEEDS.len() * FRAMES) as f32,
                    z: 1e-6 * self.tour.stands_um()?[2],
                });
                if found == FRAMES {
                    break;
                }
            }
        }
        Ok(())
    }
}
