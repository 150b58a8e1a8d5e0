//! A host and the emulated controller with a cable between them, in virtual time: what happens in one moment, and when the next one is.
//!
//! Nothing here knows what the motion is for. Whoever owns the two goes from moment to moment:
//!
//! ```
//! # use hhnet::protocol::grbl::host::GrblHost;
//! # use hhnet::sim::grbl::{Emulator, EmulatorConfig};
//! # use hhnet::sim::pair::{exchange, next_moment};
//! # use hhnet::{stage::guard::Guard, units::Instant};
//! let (mut host, mut emulator) = (GrblHost::new(Guard::default()), Emulator::new(EmulatorConfig::default()));
//! let (mut now, end) = (Instant::from_nanos(0), Instant::from_nanos(500_000_000));
//! host.handle_open(now);
//! while now < end {
//!     exchange(&mut host, &mut emulator, &mut (), now);
//!     now = next_moment(&host, &emulator, &(), now).min(end);
//! }
//! assert!(host.is_at_rest());
//! ```

use std::time::Duration;

use crate::protocol::grbl::host::GrblHost;
use crate::sim::grbl::Emulator;
use crate::units::Instant;

/// What is between the two and around them. By default a sound cable, and nothing else.
pub trait Around {
    /// What of the controller's bytes reaches the host now.
    fn to_host(&mut self, bytes: Vec<u8>, _: Instant) -> Vec<u8> {
        bytes
    }

    /// What of the host's bytes reaches the controller now.
    fn to_controller(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    /// Commands the host, when it has heard everything and before it is asked what to send.
    fn act(&mut self, _: &mut GrblHost, _: &Emulator, _: Instant) {}

    /// Looks at what has come of it.
    fn look(&mut self, _: &GrblHost, _: &Emulator, _: Instant) {}

    /// When any of this has something to do next.
    fn next_wakeup(&self) -> Option<Instant> {
        None
    }
}

impl Around for () {}

/// Everything due at `now`.
pub fn exchange(host: &mut GrblHost, emulator: &mut Emulator, around: &mut impl Around, now: Instant) {
    let received = around.to_host(emulator.poll(now), now);
    host.handle_bytes(&received, now);
    around.act(host, emulator, now);
    let sent = around.to_controller(host.poll(now));
    emulator.receive(&sent, now);
    around.look(host, emulator, now);
}

/// When something happens next, later than `now`; the end of time if nothing will.
pub fn next_moment(host: &GrblHost, emulator: &Emulator, around: &impl Around, now: Instant) -> Instant {
    [
        host.next_wakeup(),
        emulator.next_wakeup(now),
        around.next_wakeup(),
    ]
    .into_iter()
    .flatten()
    .min()
    .map_or(Instant::from_nanos(u64::MAX), |next| {
        next.max(now + Duration::from_nanos(1))
    })
}
