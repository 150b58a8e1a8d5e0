//! Damaged inputs into every parser: none may panic.
//!
//! Of each parser, 20,000 inputs; `HHNET_FUZZ_INPUTS=10000000 cargo test --release --test all fuzzed::` for as many as one likes.
//! The inputs follow from their number alone; `HHNET_FUZZ_SEED` chooses others.

#[path = "../../fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Longest input, bytes.
const LONGEST: usize = 4096;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.next() % end as u64) as usize
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is '{text}': give a whole number"))
    })
}

/// One to eight damages of a valid input.
fn damage(input: &mut Vec<u8>, other: &[u8], pieces: &[&str], random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        match random.below(8) {
            0 => input.insert(at, random.next() as u8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 if at < input.len() => input[at] ^= 1 << random.below(8),
            3 => drop(input.drain(at..end)),
            4 => {
                let copied = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copied);
            }
            5 => {
                let piece = pieces[random.below(pieces.len())].bytes();
                drop(input.splice(at..at, piece));
            }
            6 => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                drop(input.splice(at..at, other[from..to].iter().copied()));
            }
            _ if random.below(20) == 0 => input.truncate(at),
            _ => {}
        }
    }
    input.truncate(LONGEST);
}

fn check(name: &str) {
    let target: &Target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let (inputs, seed) = (number("HHNET_FUZZ_INPUTS", 20_000), number("HHNET_FUZZ_SEED", 1));
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let started = std::time::Instant::now();
    for at in 0..inputs {
        let mut random = Random((seed << 40) ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut input = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        damage(&mut input, other, target.pieces, &mut random);
        let run = std::panic::AssertUnwindSafe(|| (target.run)(&input));
        if std::panic::catch_unwind(run).is_err() {
            panic!("{name} panics at input {at}: {}", input.escape_ascii());
        }
    }
    eprintln!(
        "{name}: {inputs} inputs in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

macro_rules! parsers {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_parser_is_tested() {
            let tested = [$(stringify!($name)),*];
            let missing: Vec<&str> = TARGETS.iter().map(|target| target.name).filter(|name| !tested.contains(name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            for name in tested {
                let file = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&file).is_file(), "{file} is missing");
            }
        }
    };
}

parsers!(
    grbl_reply,
    grbl_command,
    grbl_host,
    grbl_emulator,
    table,
    manifest,
    pages,
    image_message,
    onnx_metadata,
);
