//! How fast the conversation with GRBL goes.

use std::time::Duration;

use super::ms;

/// Duration of one jog.
pub(super) const CHUNK: Duration = ms(25);
/// Most motion queued ahead.
pub(super) const LOOKAHEAD: Duration = ms(100);
/// The same at and below `SLOW_UM_PER_S`, where a short stop matters more than smoothness.
const SLOW_LOOKAHEAD: Duration = ms(75);
const SLOW_UM_PER_S: f64 = 300.0;
/// Queued motion up to this long is left to run out on a stop; longer is cancelled.
pub(super) const RUN_OUT: Duration = ms(80);
/// Period of status requests in motion and at rest.
pub(super) const POLL_MOVING: Duration = ms(50);
pub(super) const POLL_IDLE: Duration = ms(100);
/// Time a status request may take; three misses in motion mean that the controller is gone.
pub(super) const REPLY_TIMEOUT: Duration = ms(100);
/// From writing a jog to the start of its motion: transmission and parsing.
pub(super) const LINK_DELAY: Duration = ms(5);

/// Most motion queued ahead at a speed.
pub(super) fn lookahead(um_per_s: f64) -> Duration {
    if um_per_s.abs() <= SLOW_UM_PER_S {
        SLOW_LOOKAHEAD
    } else {
        LOOKAHEAD
    }
}
