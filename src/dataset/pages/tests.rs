//! Files made by an encoder, and bytes made of nothing.

use proptest::prelude::*;
use tiff::encoder::{TiffEncoder, colortype};
use tiff::tags::Tag;

use super::*;

/// A TIFF of grey pages of 16 bits, 4x3 pixels, that begin with these values, and its description.
fn stack(firsts: &[u16], description: &str) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut file).unwrap();
    for &first in firsts {
        let mut image = encoder.new_image::<colortype::Gray16>(4, 3).unwrap();
        image
            .encoder()
            .write_tag(Tag::ImageDescription, description)
            .unwrap();
        let values: Vec<u16> = (0..12).map(|at| first + at).collect();
        image.write_data(&values).unwrap();
    }
    file.into_inner()
}

fn read(bytes: &[u8], page: usize) -> Page {
    decode_bytes(bytes, page, MAX_PIXELS).unwrap()
}

#[test]
fn every_page_is_counted_and_read() {
    let bytes = stack(
        &[100, 2000, 4000],
        "ImageJ=1.53\nimages=3\nspacing=1.5\nunit=um\n",
    );
    let pages = describe(Cursor::new(&bytes)).unwrap();
    assert_eq!((pages.count, pages.is_deep), (3, true));
    assert_eq!(pages.heights_um, Ok(vec![0.0, 1.5, 3.0]));
    for (page, first) in [(0, 100), (1, 2000), (2, 4000)] {
        let found = read(&bytes, page);
        assert_eq!(
            (found.width, found.height, found.largest()),
            (4, 3, Some(first + 11))
        );
        let Values::Words(words) = &found.values else {
            panic!("{found:?}")
        };
        assert_eq!(words[..6], [first, first, first, first + 1, first + 1, first + 1]);
        let rgb = found.into_rgb(Depth::of(4011));
        assert_eq!(rgb[0], Depth::of(4011).to_byte(first));
    }
    let message = decode_bytes(&bytes, 3, MAX_PIXELS).unwrap_err().to_string();
    assert_eq!(message, "it has no page 4: it holds 3");
}

#[test]
fn plain_images_have_one_page_of_their_own_depth() {
    let grey =
        image::ImageBuffer::<image::Luma<u16>, _>::from_fn(5, 4, |x, y| image::Luma([(300 * x + y) as u16]));
    let colour = image::RgbImage::from_fn(5, 4, |x, y| image::Rgb([x as u8, y as u8, 200]));
    for (image, format, is_deep) in [
        (DynamicImage::from(grey.clone()), ImageFormat::Png, true),
        (DynamicImage::from(grey), ImageFormat::Tiff, true),
        (DynamicImage::from(colour.clone()), ImageFormat::Png, false),
        (DynamicImage::from(colour.clone()), ImageFormat::Tiff, false),
        (DynamicImage::from(colour), ImageFormat::Jpeg, false),
    ] {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        let bytes = file.into_inner();
        let pages = describe(Cursor::new(&bytes)).unwrap();
        assert_eq!((pages.count, pages.is_deep), (1, is_deep), "{format:?}");
        let page = read(&bytes, 0);
        let expected = if is_deep {
            Values::Words(image.to_rgb16().into_raw())
        } else if format == ImageFormat::Jpeg {
            page.values.clone()
        } else {
            Values::Bytes(image.to_rgb8().into_raw())
        };
        assert_eq!((page.width, page.height), (5, 4));
        assert!(page.values == expected, "{format:?}");
        for cut in [bytes.len() / 2, bytes.len() - 2] {
            let cut = decode_bytes(&bytes[..cut], 0, MAX_PIXELS);
            // The last bytes of a TIFF are its directory's, those of a PNG the check sum of its end.
            assert!(cut.is_err() || format == ImageFormat::Png, "{format:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let mut float = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut float).unwrap();
    encoder
        .write_image::<colortype::Gray32Float>(2, 2, &[0.0; 4])
        .unwrap();
    for (bytes, words) in [
        (&b""[..], "not a PNG, JPEG or TIFF"),
        (b"hello", "not a PNG, JPEG or TIFF"),
        (float.get_ref(), "whole numbers"),
    ] {
        let message = decode_bytes(bytes, 0, MAX_PIXELS).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let large = stack(&[1], "");
    let message = decode_bytes(&large, 0, 11).unwrap_err().to_string();
    assert!(message.contains("4x3"), "{message}");
    assert!(describe(Cursor::new(b"II*\0")).is_err());
}

proptest! {
    /// A file with some bytes changed is read or refused.
    #[test]
    fn damaged_files_get_an_answer(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), kind in 0..3) {
        let mut bytes = match kind {
            0 => stack(&[1, 2], "ImageJ=1\nimages=2\nspacing=1\nunit=um\n"),
            kind => {
                let mut file = Cursor::new(Vec::new());
                let format = if kind == 1 { ImageFormat::Png } else { ImageFormat::Jpeg };
                DynamicImage::new_rgb8(9, 7).write_to(&mut file, format).unwrap();
                file.into_inner()
            }
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        drop(describe(Cursor::new(&bytes)));
        for page in 0..2 {
            if let Ok(page) = decode_bytes(&bytes, page, 100_000) {
                let (Values::Bytes(_) | Values::Words(_)) = page.values;
                prop_assert!(page.width * page.height <= 100_000);
            }
        }
    }
}
