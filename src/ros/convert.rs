//! Messages from and to the core's types.

use anyhow::{Result, ensure};
use r2r::builtin_interfaces::msg::Time;
use r2r::sensor_msgs::msg::Image;
use r2r::std_msgs::msg::Header;

use crate::frame::Frame;
use crate::units::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A stamp.
pub fn to_time(instant: Instant) -> Time {
    let nanos = instant.as_nanos();
    Time {
        // Wraps in 2038, as the message does.
        sec: (nanos / NANOS_PER_SECOND) as i32,
        nanosec: (nanos % NANOS_PER_SECOND) as u32,
    }
}

/// The instant of a stamp; zero for stamps before 1970.
pub fn from_time(time: &Time) -> Instant {
    let seconds = u64::try_from(time.sec).unwrap_or(0);
    Instant::from_nanos(seconds * NANOS_PER_SECOND + u64::from(time.nanosec))
}

/// A header.
pub fn header(stamp: Instant, frame_id: &str) -> Header {
    Header {
        stamp: to_time(stamp),
        frame_id: frame_id.to_owned(),
    }
}

/// An `rgb8` image message.
pub fn to_image(frame: &Frame, frame_id: &str) -> Image {
    Image {
        header: header(frame.stamp, frame_id),
        height: frame.height() as u32,
        width: frame.width() as u32,
        encoding: "rgb8".to_owned(),
        is_bigendian: 0,
        step: 3 * frame.width() as u32,
        data: frame.rgb().to_vec(),
    }
}

/// A frame from an image message.
///
/// # Errors
/// If the encoding is not `rgb8` or the sizes disagree.
pub fn from_image(image: Image, sequence: u64) -> Result<Frame> {
    ensure!(
        image.encoding == "rgb8",
        "images must be encoded as rgb8, not '{}'",
        image.encoding
    );
    ensure!(
        u64::from(image.step) == 3 * u64::from(image.width),
        "image rows must not be padded (step {})",
        image.step
    );
    let stamp = from_time(&image.header.stamp);
    Ok(Frame::new(
        image.width as usize,
        image.height as usize,
        image.data,
        stamp,
        sequence,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_round_trip() {
        let instant = Instant::from_nanos(1_790_000_000_123_456_789);
        assert_eq!(from_time(&to_time(instant)), instant);
        assert_eq!(from_time(&Time { sec: -5, nanosec: 0 }), Instant::from_nanos(0));
    }

    #[test]
    fn images_round_trip_and_bad_ones_are_refused() {
        let frame = Frame::new(4, 2, (0..24).collect(), Instant::from_nanos(7), 3).unwrap();
        let image = to_image(&frame, "camera_optical_frame");
        assert_eq!(from_image(image.clone(), 3).unwrap(), frame);
        assert!(
            from_image(
                Image {
                    encoding: "mono8".into(),
                    ..image.clone()
                },
                0
            )
            .is_err()
        );
        assert!(
            from_image(
                Image {
                    step: 16,
                    ..image.clone()
                },
                0
            )
            .is_err()
        );
        assert!(
            from_image(
                Image {
                    data: vec![0; 23],
                    ..image
                },
                0
            )
            .is_err()
        );
    }
}
