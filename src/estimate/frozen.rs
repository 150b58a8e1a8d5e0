//! A camera that sends the same picture again and again: the noise of a sensor never lets two frames be equal.

use std::sync::Arc;
use std::time::Duration;

use crate::frame::Frame;

/// Remembers the frame before.
#[derive(Debug, Default)]
pub struct FrozenCamera {
    before: Option<Arc<Frame>>,
}

impl FrozenCamera {
    /// The time between this frame and the one before, if every byte is equal and the stamps are not: a frame that arrives twice is
    /// not taken twice.
    ///
    /// Noise ends the comparison within the first pixels; only frames that are equal are read to the end.
    pub fn handle_frame(&mut self, frame: &Arc<Frame>) -> Option<Duration> {
        let before = self.before.replace(frame.clone())?;
        let apart = frame
            .stamp
            .since(before.stamp)
            .max(before.stamp.since(frame.stamp));
        (!apart.is_zero() && before.shows_the_same_as(frame)).then_some(apart)
    }

    /// Forgets the frame before: the next one is the first.
    pub fn reset(&mut self) {
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Instant;

    #[test]
    fn two_equal_frames_of_different_times_are_a_frozen_camera() {
        let frame = |byte, stamp_ms: u64| {
            let stamp = Instant::from_nanos(stamp_ms * 1_000_000);
            Arc::new(Frame::new(2, 1, vec![byte; 6], stamp, 0).unwrap())
        };
        let mut camera = FrozenCamera::default();
        let mut check = |byte, stamp_ms, expected_ms: Option<u64>| {
            let apart = camera.handle_frame(&frame(byte, stamp_ms));
            assert_eq!(
                apart,
                expected_ms.map(Duration::from_millis),
                "{byte} at {stamp_ms} ms"
            );
        };
        check(1, 10, None);
        check(1, 30, Some(20));
        check(1, 30, None);
        check(1, 60, Some(30));
        check(2, 80, None);
        check(1, 90, None);
        // A clock that was set back.
        check(1, 50, Some(40));
        camera.reset();
        assert_eq!(camera.handle_frame(&frame(1, 99)), None);
    }
}
