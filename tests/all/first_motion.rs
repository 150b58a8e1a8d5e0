//! The course of a first motion against the emulated controller, in virtual time: what is sound passes, what is not is found out, and the
//! lens goes nowhere that it could touch the slide.

use std::sync::Arc;
use std::time::Duration;

use hhnet::commissioning::course::{Course, Known, Optics, Step};
use hhnet::commissioning::questions::Question;
use hhnet::commissioning::record::{Outcome, Record, Verdict};
use hhnet::commissioning::sight::Sight;
use hhnet::frame::Frame;
use hhnet::objective::Objective;
use hhnet::protocol::grbl::host::GrblHost;
use hhnet::sim::grbl::{Emulator, EmulatorConfig};
use hhnet::sim::mechanics::MechanicsConfig;
use hhnet::sim::pair::{Around, exchange, next_moment};
use hhnet::stage::Axis;
use hhnet::stage::guard::Guard;
use hhnet::stage::host::Host as _;
use hhnet::units::Instant;

const TICK: Duration = Duration::from_millis(10);
/// Free distance between lens and slide, µm.
const FREE_UM: f64 = 600.0;

/// The cable.
#[derive(Clone, Copy, PartialEq)]
enum Cable {
    Sound,
    /// Nothing comes back.
    Silent,
    /// The byte that cancels a jog is lost.
    NoCancel,
    /// So is the one that resets.
    NoStop,
    /// It is pulled when the lens has risen so far, µm.
    Pulled,
}

impl Around for Cable {
    fn to_host(&mut self, bytes: Vec<u8>, _: Instant) -> Vec<u8> {
        if *self == Self::Silent { Vec::new() } else { bytes }
    }

    fn to_controller(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::NoCancel => bytes.retain(|byte| *byte != 0x85),
            Self::NoStop => bytes.retain(|byte| !matches!(byte, 0x85 | 0x18)),
            _ => {}
        }
        bytes
    }

    fn look(&mut self, host: &GrblHost, _: &Emulator, _: Instant) {
        if *self == Self::Pulled && host.state().z_um() > 100.0 {
            *self = Self::Silent;
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, PartialEq)]
enum Person {
    /// Says what there is to be seen.
    Honest,
    /// Sees nothing.
    Absent,
    /// Says that all is well, whatever happens.
    Careless,
}

struct Bench {
    emulator: EmulatorConfig,
    /// What is sent to the controller before.
    settings: &'static [u8],
    cable: Cable,
    person: Person,
    has_pictures: bool,
    has_xy: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            emulator: EmulatorConfig {
                mechanics: [
                    MechanicsConfig::cross_table(),
                    MechanicsConfig::cross_table(),
                    MechanicsConfig::fine_focus(),
                ],
                build: "LAB 7".to_owned(),
                ..EmulatorConfig::default()
            },
            settings: b"",
            cable: Cable::Sound,
            person: Person::Honest,
            has_pictures: false,
            has_xy: true,
        }
    }

    fn going(um_per_counted_um: [f64; 3]) -> Self {
        let mut bench = Self::new();
        bench.emulator.um_per_counted_um = um_per_counted_um;
        bench
    }

    fn with_pictures(mut self) -> Self {
        self.has_pictures = true;
        self
    }

    /// The course, and the lowest height of the lens in it, µm above where it began.
    fn run(self) -> (Record, f64) {
        let mut now = Instant::from_nanos(1_000_000_000_000);
        let mut emulator = Emulator::new(self.emulator.clone());
        emulator.receive(self.settings, now);
        let mut host = GrblHost::new(Guard::new(Course::stage_config()).unwrap());
        host.handle_open(now);
        let optics = Optics::new(&Objective::default(), [2048, 1536]);
        let mut course = Course::new(self.has_pictures.then_some(optics));
        let mut cable = self.cable;
        let place = |emulator: &Emulator, now| {
            [Axis::X, Axis::Y, Axis::Z].map(|axis| emulator.position_um(axis, now))
        };
        let (start, limit) = (place(&emulator, now), now + Duration::from_secs(120));
        let (mut lowest_um, mut before) = (0.0f64, start);
        loop {
            assert!(now < limit, "no end: {:#?}", course.record());
            exchange(&mut host, &mut emulator, &mut cable, now);
            let stands = place(&emulator, now);
            lowest_um = lowest_um.min(stands[2] - start[2]);
            let (status, identity) = (host.state(), host.identity());
            let known = Known {
                status: &status,
                identity: identity.as_ref(),
                stopping_um: &|speed| hhnet::stage::host::Host::stopping_um(&host, speed),
            };
            match course.poll(&known, now) {
                Step::Wait => {}
                Step::Ask(question) => {
                    let answer = self.answer(question, start, before, stands);
                    course.handle_answer(question, answer).unwrap();
                    continue;
                }
                Step::Look => {
                    let frame = Frame::new(64, 64, vec![128; 64 * 64 * 3], Instant::default(), 0).unwrap();
                    course.handle_sight(Some(Sight {
                        frame: Arc::new(frame),
                        defocus_um: Some(stands[2] - start[2]),
                        pixel_um: 0.0863,
                    }));
                    continue;
                }
                Step::Move { by_um, um_per_s } => {
                    before = stands;
                    if let Err(refusal) = host.command_move_relative(by_um, um_per_s, now) {
                        course.handle_refusal(&refusal.to_string());
                    }
                }
                Step::Stop => host.command_stop(now),
                Step::Reference(um) => {
                    host.command_reference(um.map(Some), now).unwrap();
                }
                Step::End => break,
            }
            now = next_moment(&host, &emulator, &cable, now).min(now + TICK);
        }
        (course.record().clone(), lowest_um)
    }

    fn answer(
        &self,
        question: Question,
        start: [f64; 3],
        before: [f64; 3],
        stands: [f64; 3],
    ) -> Option<&'static str> {
        let went = |axis: usize, yes, no| {
            let um: f64 = stands[axis] - before[axis];
            if um.abs() > 10.0 { yes } else { no }
        };
        let seen = match question {
            Question::WorkingDistance => return Some("0.6 mm"),
            Question::Standing => return Some("yes"),
            Question::Mover => return Some("lens"),
            Question::Sideways => return Some(if self.has_xy { "yes" } else { "no" }),
            Question::ZNow => return Some("0 um"),
            Question::ZMin => return Some("-100 um"),
            Question::ZMax => return Some("300 um"),
            Question::Apart if stands[2] > start[2] + 30.0 => "apart",
            Question::Apart if stands[2] < start[2] - 30.0 => "closer",
            Question::Apart => "nothing",
            Question::DirectionX => went(0, "right", "nothing"),
            Question::DirectionY => went(1, "far", "nothing"),
        };
        match (self.person, question) {
            (Person::Absent, _) => None,
            (Person::Honest, _) => Some(seen),
            (Person::Careless, Question::Apart) => Some("apart"),
            (Person::Careless, Question::DirectionX) => Some("left"),
            (Person::Careless, _) => Some("near"),
        }
    }
}

fn verdict(record: &Record, check: &str) -> Verdict {
    let row = record.checks.iter().find(|row| row.check == check);
    row.unwrap_or_else(|| panic!("no row {check}: {record:#?}"))
        .verdict
}

#[test]
fn a_sound_stand_passes_and_its_lens_is_never_lower_than_it_began() {
    for has_pictures in [false, true] {
        let (record, lowest_um) = Bench {
            has_pictures,
            ..Bench::new()
        }
        .run();
        println!("{}", record.table());
        assert_eq!(record.outcome, Outcome::Passed, "{record:#?}");
        assert!(lowest_um > -0.3, "{lowest_um}");
        assert!(record.x_and_y);
        assert_eq!(record.controller.build, "LAB 7");
        assert_eq!(record.controller.settings["$102"], "20000");
        assert_eq!(record.z_min_um, Some(-100.0));
        let mut rows = vec![
            "controller",
            "limits",
            "z up, first: read-back",
            "z up: direction by eye",
            "stop",
            "x: read-back",
            "x: by eye",
            "y: by eye",
            "y back: read-back",
        ];
        if has_pictures {
            rows.extend([
                "z up: direction by the picture",
                "z up: scale by the picture",
                "z down again: read-back",
            ]);
        }
        for row in rows {
            assert_eq!(verdict(&record, row), Verdict::Right, "{row}");
        }
    }
}

#[test]
fn a_stand_of_z_alone_passes_for_z_alone() {
    let (record, _) = Bench {
        has_xy: false,
        ..Bench::new()
    }
    .run();
    assert_eq!(record.outcome, Outcome::Passed, "{record:#?}");
    assert!(!record.x_and_y);
    assert_eq!(verdict(&record, "x and y"), Verdict::NotChecked);
}

#[test]
fn what_is_wrong_is_found_out_before_the_lens_gets_far() {
    let z = |factor| [1.0, 1.0, factor];
    for (name, bench, named, deepest_um) in [
        ("reversed", Bench::going(z(-1.0)), "send $3=4", 0.24 * FREE_UM),
        (
            "reversed, with pictures",
            Bench::going(z(-1.0)).with_pictures(),
            "send $3=4",
            9.0,
        ),
        (
            "reversed, with $3 set already",
            Bench {
                settings: b"$3=4\n",
                ..Bench::new()
            },
            "send $3=0",
            0.24 * FREE_UM,
        ),
        (
            "twice as far",
            Bench::going(z(2.0)).with_pictures(),
            "2.0 times as far as the controller counts",
            0.3,
        ),
        (
            "half as far",
            Bench::going(z(0.5)).with_pictures(),
            "the steps/mm",
            0.3,
        ),
        (
            "motor without power",
            Bench::going(z(1e-3)).with_pictures(),
            "hardly moves",
            0.3,
        ),
        (
            "motor without power, no pictures",
            Bench::going(z(1e-3)),
            "z was not seen to move",
            0.3,
        ),
        (
            "x without power",
            Bench::going([1e-3, 1.0, 1.0]),
            "x was not seen to move",
            0.3,
        ),
        (
            "y without power",
            Bench::going([1.0, 1e-3, 1.0]),
            "y was not seen to move",
            0.3,
        ),
        (
            "the stop is ignored",
            Bench {
                cable: Cable::NoCancel,
                ..Bench::new()
            },
            "",
            0.3,
        ),
        (
            "the reset too",
            Bench {
                cable: Cable::NoStop,
                ..Bench::new()
            },
            "",
            0.3,
        ),
        (
            "silent",
            Bench {
                cable: Cable::Silent,
                ..Bench::new()
            },
            "not in touch",
            0.0,
        ),
        (
            "pulled",
            Bench {
                cable: Cable::Pulled,
                ..Bench::new()
            },
            "",
            0.3,
        ),
        (
            "inches",
            Bench {
                settings: b"$13=1\n",
                ..Bench::new()
            },
            "inches",
            0.0,
        ),
        (
            "nobody looks",
            Bench {
                person: Person::Absent,
                ..Bench::new()
            },
            "nobody saw",
            0.3,
        ),
        (
            "reversed, and a careless person with a camera",
            Bench {
                person: Person::Careless,
                ..Bench::going(z(-1.0)).with_pictures()
            },
            "wrong way",
            9.0,
        ),
        (
            "reversed, and a careless person",
            Bench {
                person: Person::Careless,
                has_xy: false,
                ..Bench::going(z(-1.0))
            },
            "passes",
            0.6 * FREE_UM,
        ),
    ] {
        let (record, lowest_um) = bench.run();
        println!(
            "{name}: {} (lowest {lowest_um:.1} um)\n{}",
            record.reason,
            record.table()
        );
        assert!(-lowest_um <= deepest_um, "{name}: {lowest_um}");
        if named == "passes" {
            // Nothing but a person tells: but the slide is not touched.
            assert_eq!(record.outcome, Outcome::Passed, "{name}: {record:#?}");
            continue;
        }
        assert_eq!(record.outcome, Outcome::Refused, "{name}: {record:#?}");
        assert!(record.reason.contains(named), "{name}: {}", record.reason);
        assert!(
            record.checks.iter().any(|row| row.verdict == Verdict::Wrong),
            "{name}: {record:#?}"
        );
    }
}

#[test]
fn a_reversed_motor_that_was_turned_over_passes() {
    let (record, lowest_um) = Bench {
        settings: b"$3=4\n",
        ..Bench::going([1.0, 1.0, -1.0]).with_pictures()
    }
    .run();
    assert_eq!(record.outcome, Outcome::Passed, "{record:#?}");
    assert!(lowest_um > -0.3, "{lowest_um}");
    assert_eq!(record.controller.settings["$3"], "4");
}

#[test]
fn pictures_do_without_a_person_where_they_tell() {
    let (record, _) = Bench {
        person: Person::Absent,
        has_xy: false,
        ..Bench::new().with_pictures()
    }
    .run();
    assert_eq!(record.outcome, Outcome::Passed, "{record:#?}");
    assert_eq!(verdict(&record, "z up: direction by eye"), Verdict::NotChecked);
}

#[test]
fn a_wrong_answer_is_asked_again_and_an_end_is_an_end() {
    let mut course = Course::new(None);
    course.handle_interrupt("interrupted");
    let status = GrblHost::new(Guard::default()).state();
    let known = Known {
        status: &status,
        identity: None,
        stopping_um: &|_| f64::NAN,
    };
    assert_eq!(course.poll(&known, Instant::default()), Step::End);
    assert_eq!(course.record().outcome, Outcome::Refused);
    assert_eq!(course.record().reason, "interrupted");
}
