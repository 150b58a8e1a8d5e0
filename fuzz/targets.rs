//! What is thrown at the parsers: bytes of any kind into everything that reads a file, a message or a wire.
//!
//! A target takes bytes and panics if the parser does, or if what it promises does not hold. `tests/all/fuzzed.rs` runs all of them with
//! stable Rust on damaged valid inputs; `fuzz_targets/` runs them with libFuzzer, which looks for new ones.

use std::io::Cursor;
use std::time::Duration;

use hhnet::dataset::depth::Depth;
use hhnet::dataset::manifest::{Manifest, Outline};
use hhnet::dataset::{pages, stack};
use hhnet::encoding::{self, ByteOrder, RawImage};
use hhnet::protocol::grbl::command::{Command, Distance};
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::protocol::grbl::reply::{LineSplitter, Reply};
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::stage::guard::Guard;
use hhnet::table::Table;
use hhnet::units::Instant;

/// Most pixels of an image that a target decodes.
const MOST_PIXELS: u64 = 250_000;

/// A target: its name, how it is run, and valid inputs to start from.
pub struct Target {
    /// Also the name of its file in `fuzz_targets`.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs that are understood.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that a damaged input is given now and then.
    pub pieces: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "grbl_reply",
        run: grbl_reply,
        seeds: || bytes(&LINES),
        pieces: &[
            "<Idle|",
            "MPos:",
            "WPos:",
            "WCO:",
            "|",
            ":",
            ",",
            "-",
            ".000",
            "\n",
            "ALARM:",
            "[MSG:",
            "$",
            "99999999999",
        ],
    },
    Target {
        name: "grbl_command",
        run: grbl_command,
        seeds: || bytes(&COMMANDS),
        pieces: &[
            "$J=",
            "G91",
            "G21",
            "G53",
            "X",
            "Z",
            "F",
            "-",
            ".",
            "1e9",
            "$",
            "=",
            "?",
            "!",
            "\u{18}",
            "\n",
            "99999999999",
        ],
    },
    Target {
        name: "grbl_host",
        run: grbl_host,
        seeds: conversations,
        pieces: &[
            "\0ok\n",
            "\0<Idle|MPos:0.000,0.000,0.000|FS:0,0>\n",
            "\x01",
            "\x02",
            "\x03",
            "\x04",
            "\x05",
            "\x06",
        ],
    },
    Target {
        name: "grbl_emulator",
        run: grbl_emulator,
        seeds: || bytes(&COMMANDS),
        pieces: &[
            "$J=G91Z1F600\n",
            "$H\n",
            "$X\n",
            "?",
            "\u{18}",
            "\u{85}",
            "!",
            "~",
            "$$\n",
            "$I\n",
            "\n",
        ],
    },
    Target {
        name: "table",
        run: table,
        seeds: || bytes(&TABLES),
        pieces: &[
            "\"", ";", ",", "\t", "\r\n", "µ", "z_um", "file", "\u{feff}", "sep=;\n", "1,234", "nan",
            "1e999", "page", "\u{2212}",
        ],
    },
    Target {
        name: "manifest",
        run: manifest,
        seeds: || vec![manifest_seed()],
        pieces: &[
            "{",
            "}",
            "[",
            "]",
            "null",
            "-1",
            "1e400",
            "\"",
            ",",
            "18446744073709551616",
            "\u{0}",
        ],
    },
    Target {
        name: "pages",
        run: pages,
        seeds: images,
        pieces: &[
            "II*\0",
            "MM\0*",
            "ImageJ=1\n",
            "spacing=1\n",
            "<OME>",
            "\u{0}\u{0}\u{0}\u{0}",
            "IHDR",
            "IDAT",
        ],
    },
    Target {
        name: "image_message",
        run: image_message,
        seeds: messages,
        pieces: &[
            "bayer_rggb",
            "mono",
            "nv",
            "yuv422",
            "rgba",
            "16",
            "8",
            "UC",
            "\u{0}",
            "\u{0}\u{1}\u{1}",
            "\u{7f}",
        ],
    },
    Target {
        name: "onnx_metadata",
        run: onnx_metadata,
        seeds: || {
            vec![
                include_bytes!("../tests/models/good.onnx").to_vec(),
                include_bytes!("../tests/models/whole_frame.onnx").to_vec(),
            ]
        },
        pieces: &[
            "r",
            "hhnet_sharpness",
            "hhnet_z_range_um",
            "[1, 2]",
            "\u{0}",
            "\u{7f}",
        ],
    },
];

/// The target of a name.
#[allow(dead_code, reason = "the stable runner takes all")]
pub fn run(name: &str, input: &[u8]) {
    for target in TARGETS.iter().filter(|target| target.name == name) {
        (target.run)(input);
    }
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const LINES: [&str; 14] = [
    "ok\n",
    "error:15\r\n",
    "ALARM:3\r\n",
    "\r\nGrbl 1.1h ['$' for help]\r\n",
    "GrblHAL 1.1f ['$' or '$HELP' for help]\n",
    "[VER:1.1h.20190830:]\n[OPT:V,15,128]\nok\n",
    "[MSG:'$H'|'$X' to unlock]\n",
    "$1=25\n$10=1\n$110=500.000\n$122=100.000\n",
    ">G54:ok\n",
    "<Idle|MPos:0.000,0.000,0.000|FS:0,0|WCO:0.000,0.000,0.000>\n",
    "<Jog|MPos:0.000,0.000,2.508|FS:600,0|Ov:100,100,100>\n",
    "<Hold:0|WPos:-1.000,0.000,2.508|Bf:15,128|FS:600,0|Pn:XZ>\n",
    "<Alarm:11|MPos:0.000,0.000,0.000,1.000|FS:0,0|A:SM|TLR:0|H:0|FW:grblHAL>\n",
    "<Run|MPos:0.0000,0.0000,-0.1250|F:1.5>\n",
];

/// Lines come out as they went in: what a reply says of a position is what its bytes say.
fn grbl_reply(input: &[u8]) {
    let mut splitter = LineSplitter::default();
    for byte in input {
        let Some(line) = splitter.push(*byte) else {
            continue;
        };
        let Some(reply) = Reply::parse(&line) else {
            continue;
        };
        if let Reply::Status(report) = &reply {
            assert!(report.position.iter().all(|distance| distance.mm().is_finite()));
            let text = String::from_utf8_lossy(&line);
            let (_, numbers) = text.split_once("Pos:").unwrap_or_default();
            let end = numbers.find(['|', '>']).unwrap_or(numbers.len());
            for (number, read) in numbers[..end].split(',').zip(report.position) {
                assert_eq!(Distance::parse_mm(number), Some(read), "{text}");
            }
        }
        // What is written of it means the same.
        let again = Reply::parse(reply.emit().as_bytes());
        if let (Reply::Alarm(_) | Reply::Error(_) | Reply::Ok, Some(again)) = (&reply, again) {
            assert_eq!(again, reply);
        }
    }
}

const COMMANDS: [&str; 8] = [
    "$J=G91G21Z0.0025F60\n",
    "$J=G91G21X1.000Y-0.5000Z0.1000F120.0\n",
    "$$\n$I\n$X\n$H\n",
    "$1=255\n$10=1\n$122=100.000\n",
    "G4P0.05\n",
    "?\n",
    "G91 G1 Z1 F100\nG90 G0 X0\n",
    "\n",
];

/// Any line a host may send.
fn grbl_command(input: &[u8]) {
    for line in String::from_utf8_lossy(input).lines() {
        if let Ok(command) = Command::parse(line) {
            drop(command.emit());
        }
    }
    _ = Distance::parse_mm(&String::from_utf8_lossy(input));
}

/// A time from a byte: 0 to about 4 s, fine at first.
fn pause(byte: u8) -> Duration {
    let byte = u64::from(byte);
    Duration::from_micros(byte * byte * 64)
}

/// Conversations: pieces that begin with a byte of what is done, 0 for what the link brings up to a line end.
fn conversations() -> Vec<Vec<u8>> {
    let welcome = "\x02\0\r\nGrbl 1.1h ['$' for help]\r\n\x01\x30";
    let settled = "\0ok\n\0<Idle|MPos:0.000,0.000,0.100|FS:0,0|WCO:0.000,0.000,0.000>\n\x01\x20\0[VER:1.1h.20190830:]\n\0ok\n\x01\x20\
                   \0$122=100.000\n\0ok\n\x01\x20\0<Idle|MPos:0.000,0.000,0.100|FS:0,0>\n\x01\x20";
    let moving = "\x04\x60\x01\x20\0ok\n\0<Jog|MPos:0.000,0.000,0.101|FS:600,0>\n\x01\x20\x05\x01\x20\0<Idle|MPos:0.000,0.000,0.102|FS:0,0>\n";
    [
        format!("{welcome}{settled}{moving}"),
        format!("{welcome}\0ALARM:1\n\x06\x01\x40{settled}"),
        format!("{welcome}{settled}\x03\x02{settled}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// A host among bytes, times and commands of any kind: no panic, no position that is not a number, and none that counts before a
/// controller has reported one.
fn grbl_host(input: &[u8]) {
    let mut host = GrblHost::new(Guard::default());
    let mut now = Instant::from_nanos(1_000_000_000);
    let (mut splitter, mut reported) = (LineSplitter::default(), false);
    let mut rest = input;
    while let Some((&action, behind)) = rest.split_first() {
        rest = behind;
        match action {
            0 => {
                let end = rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(rest.len(), |at| at + 1);
                let (line, behind) = rest.split_at(end);
                rest = behind;
                for byte in line {
                    let reply = splitter.push(*byte).and_then(|line| Reply::parse(&line));
                    reported |= matches!(reply, Some(Reply::Status(_)));
                }
                host.handle_bytes(line, now);
            }
            1 => {
                let Some((&byte, behind)) = rest.split_first() else {
                    break;
                };
                rest = behind;
                now = now + pause(byte);
            }
            2 => {
                host.handle_open(now);
                splitter.clear();
                reported = false;
            }
            3 => host.handle_close("the plug was pulled", now),
            4 => {
                let Some((&byte, behind)) = rest.split_first() else {
                    break;
                };
                rest = behind;
                let um_per_s = (f64::from(byte) - 128.0) * 10.0;
                drop(host.command_velocity(um_per_s, now, now));
            }
            5 => host.command_stop(now),
            6 => host.command_clear_fault(now),
            7 => drop(host.command_move_relative([f64::NAN, 0.0, 1e9], 10.0, now)),
            8 => drop(host.command_move_relative([0.0, 0.0, 5.0], 100.0, now)),
            _ => {}
        }
        drop(host.poll(now));
        let state = host.state();
        if state.position_valid {
            assert!(reported, "a position counts that no controller has reported");
            assert!(state.position_um.iter().all(|um| um.is_finite()), "{state:?}");
        }
        assert!(state.reason.len() < 2000, "{}", state.reason.len());
    }
}

/// An emulated controller that is sent anything.
fn grbl_emulator(input: &[u8]) {
    let mut emulator = Emulator::new(EmulatorConfig::default());
    let mut now = Instant::from_nanos(1_000_000_000);
    for chunk in input.chunks(16) {
        emulator.receive(chunk, now);
        now = now + pause(chunk[0] / 4);
        for byte in emulator.poll(now) {
            assert!(byte.is_ascii(), "{byte}");
        }
    }
}

const TABLES: [&str; 6] = [
    "file,z_um\na.png,-3.5\nb.png,12\n",
    "File;Page;z (µm);Field;x_um;y_um;pixel_size_um\na.tif;2;-3,5;left;;;0,1\nb.tif;;1;;10;-2,5;\n",
    "sep=;\r\nfile;z [nm]\r\n\"a;\"\"b\"\".png\";3500\r\n",
    "file\tz\na_z+0µm.png\t0 µm\n",
    "f\0i\0l\0e\0,\0z\0_\0u\0m\0\n\0a\0,\0\x31\0\n\0",
    "symptom,message,meaning,remedy\n\"a\nb\",c,d,e\n",
];

/// Tables, and those that name the heights of images.
fn table(input: &[u8]) {
    if let Ok(table) = Table::parse(input) {
        let columns = table.columns.len();
        assert!(
            table
                .rows
                .iter()
                .all(|row| row.cells.len() == columns && row.line > 0)
        );
    }
    for line in stack::parse(input).into_iter().flatten() {
        assert!(line.z_um.is_finite() && !line.file.is_empty() && line.page != Some(0));
        assert!(line.pixel_size_um.is_none_or(f64::is_finite));
        drop(line.field_name());
    }
}

fn manifest_seed() -> Vec<u8> {
    include_bytes!("seeds/manifest.json").to_vec()
}

/// What a data set says of itself.
fn manifest(input: &[u8]) {
    drop(Outline::parse(input));
    if let Ok(mut manifest) = Manifest::parse(input) {
        manifest.total();
    }
}

/// Image messages: the encoding's name, a zero, then width, height, bytes a row, byte order, and the data.
fn messages() -> Vec<Vec<u8>> {
    let message = |encoding: &str, step: u8, bytes: usize| {
        let mut message = encoding.as_bytes().to_vec();
        message.extend([0, 4, 4, step, 1]);
        message.extend((0..bytes).map(|at| (37 * at) as u8));
        message
    };
    vec![
        message("rgb8", 12, 48),
        message("bgra8", 18, 72),
        message("mono16", 8, 32),
        message("bayer_grbg8", 4, 16),
        message("bayer_rggb16", 8, 32),
        message("yuv422_yuy2", 8, 32),
        message("nv12", 4, 24),
        message("nv24", 4, 48),
        message("16UC3", 24, 96),
    ]
}

/// A size of a message: small ones as they are, the largest byte for one that is absurd.
fn size(byte: u8) -> usize {
    match byte {
        255 => usize::MAX / 2,
        254 => 1 << 40,
        byte => usize::from(byte),
    }
}

/// Image messages of foreign cameras: three bytes for every pixel, or a refusal.
fn image_message(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (name, rest) = input.split_at(end);
    let [_, width, height, step, big, ref data @ ..] = *rest else {
        return;
    };
    let (width, height) = (size(width), size(height));
    let image = RawImage {
        width,
        height,
        step: size(step),
        encoding: String::from_utf8_lossy(name).into_owned(),
        order: if big % 2 == 0 {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        },
        data: data.to_vec(),
    };
    match encoding::decode(image, &mut encoding::Depth::default()) {
        Ok(rgb) => assert_eq!(rgb.len(), 3 * width * height),
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
}

fn images() -> Vec<Vec<u8>> {
    let encode = |format| {
        let picture = image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([x as u8, y as u8, 200]));
        let mut file = Cursor::new(Vec::new());
        // Encoding into memory does not fail; without the seed the runner would say so.
        drop(image::DynamicImage::from(picture).write_to(&mut file, format));
        file.into_inner()
    };
    use image::ImageFormat::{Jpeg, Png, Tiff};
    vec![
        encode(Png),
        encode(Jpeg),
        encode(Tiff),
        include_bytes!("seeds/imagej.tif").to_vec(),
        include_bytes!("seeds/ome.tif").to_vec(),
    ]
}

/// Image files: their pages, heights and values.
fn pages(input: &[u8]) {
    _ = pages::is_image(input);
    if let Ok(found) = pages::describe(Cursor::new(input)) {
        assert!(found.count > 0);
        if let Ok(heights) = &found.heights_um {
            assert!(heights.len() == found.count && heights.iter().all(|um| um.is_finite()));
        }
    }
    for page in 0..2 {
        if let Ok(page) = pages::decode_bytes(input, page, MOST_PIXELS) {
            let pixels = page.width * page.height;
            assert!(pixels > 0 && pixels as u64 <= MOST_PIXELS);
            let depth = Depth::of(page.largest().unwrap_or(0));
            assert_eq!(page.into_rgb(depth).len(), 3 * pixels);
        }
    }
}

/// Model files: what they say about themselves. The graph is read by ONNX Runtime.
fn onnx_metadata(input: &[u8]) {
    use hhnet::drivers::onnx::OnnxNetwork;

    const KEYS: [&str; 5] = [
        "hhnet_class_edges_um",
        "hhnet_z_range_um",
        "hhnet_sharpness",
        "hhnet_condenser",
        "hhnet_whole_frames",
    ];
    let text = String::from_utf8_lossy(input);
    for key in KEYS {
        _ = OnnxNetwork::makes_sense(key, &text);
    }
    if let Some(entries) = OnnxNetwork::metadata_in(input) {
        for (key, value) in &entries {
            _ = OnnxNetwork::makes_sense(key, value);
        }
        let mine = [("hhnet_sharpness", "1.5".to_owned())];
        let changed =
            OnnxNetwork::with_metadata_in(input, &mine).and_then(|bytes| OnnxNetwork::metadata_in(&bytes));
        let is_there = |entry: &(String, String)| entry.0 == mine[0].0 && entry.1 == mine[0].1;
        assert!(changed.is_some_and(|entries| entries.iter().any(is_there)));
    }
}
