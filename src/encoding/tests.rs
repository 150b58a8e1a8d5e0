//! Known pixels in every encoding, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn raw(encoding: &str, (width, height): (usize, usize), step: usize, data: Vec<u8>) -> RawImage {
    RawImage {
        width,
        height,
        step,
        encoding: encoding.to_owned(),
        order: ByteOrder::Little,
        data,
    }
}

/// Two by two pixels in this encoding: red, green, blue and white, or their luma.
fn check(encoding: &str, step: usize, data: &[u8], expected: [[u8; 3]; 4]) {
    let rgb = decode(raw(encoding, (2, 2), step, data.to_vec()), &mut Depth::default());
    assert_eq!(rgb.as_deref(), Ok(expected.as_flattened()), "{encoding}");
}

const COLOURS: [[u8; 3]; 4] = [[250, 10, 20], [30, 240, 40], [50, 60, 230], [200, 210, 220]];

/// The four pixels' samples in the order of `channels`, with a fourth one of 7 where there are four.
fn samples(channels: &[usize]) -> Vec<u8> {
    let sample = |pixel: &[u8; 3], at: usize| pixel.get(at).copied().unwrap_or(7);
    COLOURS
        .iter()
        .flat_map(|pixel| channels.iter().map(move |&at| sample(pixel, at)))
        .collect()
}

#[test]
fn interleaved_bytes_are_put_in_order() {
    for (names, channels) in [
        (&["rgb8"][..], &[0, 1, 2][..]),
        (&["bgr8", "8UC3"], &[2, 1, 0]),
        (&["rgba8"], &[0, 1, 2, 3]),
        (&["bgra8", "8UC4"], &[2, 1, 0, 3]),
    ] {
        for name in names {
            check(name, 2 * channels.len(), &samples(channels), COLOURS);
        }
    }
    for name in ["mono8", "8UC1"] {
        check(name, 2, &[1, 2, 3, 4], [[1; 3], [2; 3], [3; 3], [4; 3]]);
    }
}

#[test]
fn words_are_read_in_both_orders_and_scaled_by_what_they_use() {
    for (names, channels) in [
        (&["rgb16"][..], &[0, 1, 2][..]),
        (&["bgr16", "16UC3"], &[2, 1, 0]),
        (&["rgba16"], &[0, 1, 2, 3]),
        (&["bgra16", "16UC4"], &[2, 1, 0, 3]),
    ] {
        for (name, bits) in names
            .iter()
            .flat_map(|name| [8, 10, 12, 14, 16].map(|bits| (name, bits)))
        {
            let words = samples(channels)
                .into_iter()
                .map(|byte| u16::from(byte) << (bits - 8));
            let little: Vec<u8> = words.clone().flat_map(u16::to_le_bytes).collect();
            let big = words.flat_map(u16::to_be_bytes).collect();
            check(name, 4 * channels.len(), &little, COLOURS);
            let image = RawImage {
                order: ByteOrder::Big,
                ..raw(name, (2, 2), 4 * channels.len(), big)
            };
            let rgb = decode(image, &mut Depth::default());
            assert_eq!(rgb.as_deref(), Ok(COLOURS.as_flattened()), "{name}, {bits} bits");
        }
    }
    for name in ["mono16", "16UC1"] {
        check(
            name,
            4,
            &[0x10, 0, 0x20, 0, 0x30, 0, 0xf0, 0x0f],
            [[1; 3], [2; 3], [3; 3], [255; 3]],
        );
    }
}

#[test]
fn a_depth_grows_with_the_source_and_never_shrinks() {
    let mut depth = Depth::default();
    for (most, bits) in [
        (200, 8),
        (256, 10),
        (100, 10),
        (4095, 12),
        (1000, 12),
        (65_535, 16),
    ] {
        depth.grow([most, 0].into_iter());
        assert_eq!(depth.bits, bits, "{most}");
    }
    assert_eq!((depth.narrow(0xffff), depth.narrow(0x00ff)), (255, 0));
    // One hot pixel does not make a picture dark.
    let mut hot = Depth::default();
    let mut picture = vec![4000; 20_000];
    picture[77] = 65_000;
    hot.grow(picture.iter().copied());
    assert_eq!((hot.bits, hot.narrow(65_000)), (12, 255));
}

#[test]
fn another_encoding_begins_with_a_depth_of_its_own() {
    let mut depth = Depth::default();
    let mut grey = |encoding: &str, word: u16| {
        let data = word.to_le_bytes().repeat(4);
        decode(raw(encoding, (2, 2), 4, data), &mut depth).unwrap()[0]
    };
    assert_eq!((grey("mono16", 0x4000), grey("mono16", 0x0400)), (64, 4));
    assert_eq!((grey("bayer_rggb16", 0x0400), grey("mono16", 0x0400)), (64, 64));
}

#[test]
fn mosaics_are_filled_from_their_neighbours() {
    // A field of one colour, of which each pixel has one channel.
    let colour = [10, 200, 90];
    for (name, pattern) in [
        ("rggb", [0, 1, 1, 2]),
        ("bggr", [2, 1, 1, 0]),
        ("gbrg", [1, 2, 0, 1]),
        ("grbg", [1, 0, 2, 1]),
    ] {
        let at = |at: usize| colour[pattern[at / 6 % 2 * 2 + at % 6 % 2]];
        let bytes: Vec<u8> = (0..6 * 4).map(at).collect();
        let words = bytes
            .iter()
            .flat_map(|&byte| (u16::from(byte) << 4).to_le_bytes())
            .collect();
        for (image, bits) in [
            (raw(&format!("bayer_{name}8"), (6, 4), 6, bytes.clone()), 8),
            (raw(&format!("bayer_{name}16"), (6, 4), 12, words), 16),
        ] {
            let rgb = decode(image, &mut Depth::default());
            assert_eq!(rgb, Ok(colour.repeat(24)), "{name}{bits}");
        }
    }
}

#[test]
fn a_mosaic_keeps_what_each_pixel_sees_and_borrows_the_means() {
    let data: Vec<u8> = (0..16).map(|at| at * at % 251).collect();
    let rgb = decode(raw("bayer_rggb8", (4, 4), 4, data.clone()), &mut Depth::default()).unwrap();
    let pixel = |x: usize, y: usize| [0, 1, 2].map(|channel| rgb[3 * (4 * y + x) + channel]);
    let at = |x: usize, y: usize| u16::from(data[4 * y + x]);
    let mean = |of: &[u16]| ((of.iter().sum::<u16>() + of.len() as u16 / 2) / of.len() as u16) as u8;
    assert_eq!(
        pixel(2, 2),
        [
            at(2, 2) as u8,
            mean(&[at(1, 2), at(3, 2), at(2, 1), at(2, 3)]),
            mean(&[at(1, 1), at(3, 1), at(1, 3), at(3, 3)])
        ]
    );
    assert_eq!(
        pixel(1, 2),
        [
            mean(&[at(0, 2), at(2, 2)]),
            at(1, 2) as u8,
            mean(&[at(1, 1), at(1, 3)])
        ]
    );
    assert_eq!(pixel(0, 0)[1], mean(&[at(1, 0), at(1, 0), at(0, 1), at(0, 1)]));
}

/// Values of `cv2.cvtColor` (COLOR_YUV2RGB_UYVY): black, white, and the three colours of BT.601.
#[test]
fn luma_and_differences_make_colours() {
    for (yuv, expected) in [
        ([16, 128, 128], [0, 0, 0]),
        ([235, 128, 128], [255, 255, 255]),
        ([81, 90, 240], [254, 0, 0]),
        ([145, 54, 34], [0, 255, 1]),
        ([41, 240, 110], [0, 0, 255]),
        ([126, 128, 128], [128, 128, 128]),
        ([0, 128, 128], [0, 0, 0]),
        ([255, 128, 128], [255, 255, 255]),
    ] {
        let [y, u, v] = yuv;
        let found = to_rgb(y, u, v);
        let near = found
            .iter()
            .zip(expected)
            .all(|(&found, expected): (&u8, u8)| found.abs_diff(expected) <= 1);
        assert!(near, "{yuv:?}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn pairs_and_planes_hold_the_same_picture() {
    let [a, b] = [[81, 90, 240], [145, 54, 34]];
    let [red, green] = [a, b].map(|[y, u, v]: [u8; 3]| to_rgb(y, u, v));
    // The left column or row in one colour, the other in the other.
    let upright = [red, red, green, green];
    for name in ["yuv422", "uyvy"] {
        check(
            name,
            4,
            &[a[1], a[0], a[2], a[0], b[1], b[0], b[2], b[0]],
            upright,
        );
    }
    for name in ["yuv422_yuy2", "yuyv"] {
        check(
            name,
            4,
            &[a[0], a[1], a[0], a[2], b[0], b[1], b[0], b[2]],
            upright,
        );
    }
    check("nv12", 2, &[a[0], a[0], a[0], a[0], a[1], a[2]], [red; 4]);
    check("nv21", 2, &[a[0], a[0], a[0], a[0], a[2], a[1]], [red; 4]);
    check(
        "nv24",
        2,
        &[
            a[0], b[0], a[0], b[0], a[1], a[2], b[1], b[2], a[1], a[2], b[1], b[2],
        ],
        [red, green, red, green],
    );
}

#[test]
fn padding_is_left_out() {
    let padded = |row: usize, pad: usize, data: Vec<u8>| -> Vec<u8> {
        data.chunks(row)
            .flat_map(|row| [row, &vec![99; pad]].concat())
            .collect()
    };
    let words: Vec<u8> = samples(&[0, 1, 2])
        .into_iter()
        .flat_map(|byte| [0, byte])
        .collect();
    for (name, row, data) in [
        ("rgb8", 6, samples(&[0, 1, 2])),
        ("bgr8", 6, samples(&[2, 1, 0])),
        ("rgb16", 12, words),
    ] {
        for pad in [1, 2, 16] {
            let mut data = padded(row, pad, data.clone());
            check(name, row + pad, &data, COLOURS);
            // The last row may go without.
            data.truncate(2 * row + pad);
            check(name, row + pad, &data, COLOURS);
        }
    }
    check(
        "nv12",
        5,
        &[81, 81, 0, 0, 0, 81, 81, 0, 0, 0, 90, 240],
        [to_rgb(81, 90, 240); 4],
    );
}

#[test]
fn what_is_no_picture_is_said_in_a_sentence() {
    let said = |image: RawImage| decode(image, &mut Depth::default()).unwrap_err().to_string();
    for (image, words) in [
        (raw("32FC1", (2, 2), 8, vec![0; 16]), "images encoded as '32FC1'"),
        (raw("rgb8", (0, 2), 6, vec![0; 12]), "0x2"),
        (raw("rgb8", (20_000, 20_000), 60_000, vec![]), "200 megapixels"),
        (
            raw("rgb8", (2, 2), 5, vec![0; 12]),
            "rgb8 with rows of 5 bytes, and 2 pixels need 6",
        ),
        (
            raw("bayer_rggb16", (2, 2), 4, vec![0; 7]),
            "7 bytes of data, and need 8",
        ),
        (raw("yuv422", (3, 1), 6, vec![0; 6]), "3 pixels need 8"),
        (
            raw("nv12", (3, 3), 4, vec![0; 19]),
            "19 bytes of data, and need 20",
        ),
        (raw("mono8", (2, usize::MAX), 2, vec![0; 6]), "too large"),
        (raw("mono8", (2, 3), usize::MAX, vec![0; 6]), "and need"),
    ] {
        let message = said(image);
        assert!(message.contains(words), "{message}");
    }
    let long = said(raw(&"\u{1b}[2J\0x".repeat(200_000), (1, 1), 1, vec![0]));
    assert!(
        long.len() < 500 && !long.contains(char::is_control) && long.contains('…'),
        "{long}"
    );
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(
        at in 0..ENCODINGS.len(),
        (width, height, step) in (0_usize..12, 0_usize..12, 0_usize..100),
        data in proptest::collection::vec(any::<u8>(), 0..600),
        big in any::<bool>(),
    ) {
        let image = RawImage {
            order: if big { ByteOrder::Big } else { ByteOrder::Little },
            ..raw(ENCODINGS[at].0, (width, height), step, data)
        };
        if let Ok(rgb) = decode(image, &mut Depth::default()) {
            prop_assert_eq!(rgb.len(), 3 * width * height);
        }
    }

    #[test]
    fn wild_sizes_are_refused_before_memory_is_asked_for(
        at in 0..ENCODINGS.len(),
        (width, height, step) in (any::<u32>(), any::<u32>(), any::<u32>()),
    ) {
        let size = (width as usize, height as usize);
        let image = raw(ENCODINGS[at].0, size, step as usize, vec![0; 100]);
        if let Ok(rgb) = decode(image, &mut Depth::default()) {
            prop_assert!(rgb.len() <= 300);
        }
    }
}
