//! JPEG as cameras and previews use it: what it costs a frame in detail, and how a frame becomes one.

use std::io::Cursor;

use image::{ImageDecoder as _, codecs::jpeg::JpegDecoder};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// How finely a JPEG keeps colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// As finely as brightness (4:4:4).
    Full,
    /// Halved both ways (4:2:0), as most cameras and previews do.
    Halved,
}

/// An interleaved RGB image of `width` x `height` pixels as a JPEG; `quality` 1 to 100.
///
/// # Errors
/// If the sizes do not fit, or a side is 0 or above 65 535.
pub fn encode(
    rgb: &[u8],
    (width, height): (usize, usize),
    quality: u8,
    chroma: Chroma,
) -> Result<Vec<u8>, JpegError> {
    let side = |side: usize| {
        u16::try_from(side)
            .ok()
            .filter(|&side| side > 0)
            .ok_or(JpegError::Side(side))
    };
    let (columns, rows) = (side(width)?, side(height)?);
    let mut bytes = Vec::with_capacity(rgb.len() / 8);
    let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
    encoder.set_sampling_factor(match chroma {
        Chroma::Full => SamplingFactor::F_1_1,
        Chroma::Halved => SamplingFactor::F_2_2,
    });
    encoder
        .encode(rgb, columns, rows, ColorType::Rgb)
        .map_err(|error| JpegError::Codec(error.to_string()))?;
    Ok(bytes)
}

/// The image a viewer gets back: `rgb` encoded and decoded, the same size.
///
/// # Errors
/// As for [`encode`].
pub fn round_trip(
    rgb: &[u8],
    size: (usize, usize),
    quality: u8,
    chroma: Chroma,
) -> Result<Vec<u8>, JpegError> {
    let codec = |error: image::ImageError| JpegError::Codec(error.to_string());
    let decoder = JpegDecoder::new(Cursor::new(encode(rgb, size, quality, chroma)?)).map_err(codec)?;
    let mut decoded = vec![0; rgb.len()];
    decoder.read_image(&mut decoded).map_err(codec)?;
    Ok(decoded)
}

/// Why an image cannot be a JPEG.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JpegError {
    /// The format cannot hold this many pixels a side.
    #[error("a JPEG has 1 to 65535 pixels a side, not {0}")]
    Side(usize),
    /// The encoder or decoder refused.
    #[error("JPEG: {0}")]
    Codec(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grey waves of 16 pixels with a red and a blue stripe.
    fn picture() -> Vec<u8> {
        let pixel = |at: usize| {
            let (x, y) = (at % 96, at / 96);
            let grey = (128.0 + 60.0 * (x as f64 * 0.39).sin()) as u8;
            match y {
                20..23 => [220, 30, 40],
                50..53 => [30, 40, 220],
                _ => [grey; 3],
            }
        };
        (0..96 * 64).flat_map(pixel).collect()
    }

    fn worst(a: &[u8], b: &[u8]) -> u8 {
        a.iter()
            .zip(b)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap_or_default()
    }

    #[test]
    fn quality_and_chroma_cost_what_they_should() {
        let rgb = picture();
        let best = round_trip(&rgb, (96, 64), 100, Chroma::Full).unwrap();
        let poor = round_trip(&rgb, (96, 64), 30, Chroma::Full).unwrap();
        let halved = round_trip(&rgb, (96, 64), 100, Chroma::Halved).unwrap();
        assert!(worst(&rgb, &best) <= 6, "{}", worst(&rgb, &best));
        assert!(worst(&rgb, &poor) > 3 * worst(&rgb, &best));
        assert!(
            worst(&rgb, &halved) > 40,
            "the stripes' colour must run: {}",
            worst(&rgb, &halved)
        );
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert_eq!(encode(&[], (0, 3), 90, Chroma::Full), Err(JpegError::Side(0)));
        assert!(matches!(
            encode(&[0; 5], (2, 1), 90, Chroma::Full),
            Err(JpegError::Codec(_))
        ));
    }
}
