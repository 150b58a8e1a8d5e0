//! Messages from and to the core's types.

use r2r::builtin_interfaces::msg::Time;
use r2r::sensor_msgs::msg::Image;
use r2r::std_msgs::msg::Header;

use crate::encoding::{ByteOrder, Depth, ImageError, RawImage, decode};
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

/// The instant of a stamp. Zero, which everything here takes for no time at all, for what is no stamp of today: seconds before
/// 1970, nanoseconds that are more than a second.
pub fn from_time(time: &Time) -> Instant {
    let nanos = u64::from(time.nanosec);
    Instant::from_nanos(match u64::try_from(time.sec) {
        Ok(seconds) if nanos < NANOS_PER_SECOND => seconds * NANOS_PER_SECOND + nanos,
        _ => 0,
    })
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

/// A frame from an image message; `depth` is that of its camera.
///
/// # Errors
/// If the encoding is unknown or the sizes disagree.
pub fn from_image(image: Image, sequence: u64, depth: &mut Depth) -> Result<Frame, ImageError> {
    let stamp = from_time(&image.header.stamp);
    let (width, height) = (image.width as usize, image.height as usize);
    let raw = RawImage {
        width,
        height,
        step: image.step as usize,
        encoding: image.encoding,
        order: match image.is_bigendian {
            0 => ByteOrder::Little,
            _ => ByteOrder::Big,
        },
        data: image.data,
    };
    Ok(Frame::new(width, height, decode(raw, depth)?, stamp, sequence)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_round_trip() {
        let instant = Instant::from_nanos(1_790_000_000_123_456_789);
        assert_eq!(from_time(&to_time(instant)), instant);
        for (sec, nanosec) in [
            (-5, 0),
            (-1, 999_999_999),
            (1_790_000_000, 1_000_000_000),
            (0, u32::MAX),
        ] {
            assert_eq!(
                from_time(&Time { sec, nanosec }),
                Instant::default(),
                "{sec} {nanosec}"
            );
        }
    }

    #[test]
    fn images_round_trip_and_bad_ones_are_refused() {
        let frame = Frame::new(4, 2, (0..24).collect(), Instant::from_nanos(7), 3).unwrap();
        let image = to_image(&frame, "camera_optical_frame");
        let read = |image| from_image(image, 3, &mut Depth::default());
        assert_eq!(read(image.clone()).unwrap(), frame);
        let swapped = Image {
            encoding: "bgr8".into(),
            data: image
                .data
                .chunks(3)
                .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]])
                .collect(),
            ..image.clone()
        };
        assert_eq!(read(swapped).unwrap(), frame);
        let big = Image {
            encoding: "rgb16".into(),
            is_bigendian: 1,
            step: 24,
            data: image.data.iter().flat_map(|&byte| [byte, 0]).collect(),
            ..image.clone()
        };
        // The brightest, 23 * 256, takes 14 bits.
        assert_eq!(read(big).unwrap().rgb()[20], 4 * 20);
        for (encoding, step, bytes) in [
            ("32FC3", 48, 96),
            ("rgb8", 11, 24),
            ("rgb8", 16, 24),
            ("rgb8", 12, 23),
        ] {
            let bad = Image {
                encoding: encoding.into(),
                step,
                data: vec![0; bytes],
                ..image.clone()
            };
            assert!(read(bad).is_err(), "{encoding}, {step}, {bytes}");
        }
    }
}
