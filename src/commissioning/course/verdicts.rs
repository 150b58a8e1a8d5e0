//! What a course makes of what was measured and seen.

use super::super::questions::{Direction, Seen};
use super::super::record::{Outcome, Row, Verdict};
use super::super::sight::Told;
use super::{Course, Part, Z_BIT};
use crate::stage::guard::NAMES;

impl Course {
    pub(super) fn add(&mut self, check: &str, asked: &str, measured: &str, verdict: Verdict, note: &str) {
        self.record.checks.push(Row {
            check: check.to_owned(),
            asked: asked.to_owned(),
            measured: measured.to_owned(),
            verdict,
            note: note.to_owned(),
        });
    }

    pub(super) fn refuse(&mut self, reason: &str) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.record.outcome = Outcome::Refused;
        self.record.reason = reason.to_owned();
    }

    pub(super) fn pass(&mut self) {
        self.is_over = true;
        self.record.outcome = Outcome::Passed;
        self.record.reason = String::new();
        self.record.x_and_y = self.answers.sideways == Some(true);
    }

    pub(super) fn judge_picture(&mut self, name: &str, axis: usize, by_um: f64, told: Told) {
        let asked = format!("{by_um:+.1} um");
        match told {
            Told::Right(um) => {
                self.is_seen[axis] = true;
                self.add(name, &asked, &format!("{um:+.1} um"), Verdict::Right, "");
            }
            Told::Nothing(why) => self.add(name, &asked, "", Verdict::NotChecked, &why),
            Told::Wrong(um) => {
                let cause = match um / by_um {
                    ratio if axis == 2 && ratio < -0.2 => self.reversed(),
                    ratio if ratio.abs() < 0.2 => {
                        "it hardly moves: check the power of the motors, the clutch of the focus drive and the steps/mm".to_owned()
                    }
                    ratio => format!(
                        "it goes {:.1} times as far as the controller counts: correct the steps/mm (${}) and the pixel size",
                        ratio.abs(),
                        100 + axis
                    ),
                };
                let reason = format!("{} by the picture: {cause}", NAMES[axis]);
                self.add(name, &asked, &format!("{um:+.1} um"), Verdict::Wrong, &reason);
                self.refuse(&reason);
            }
        }
    }

    /// That z runs the wrong way, and what to change.
    pub(super) fn reversed(&self) -> String {
        let mask = self.record.controller.settings.get("$3");
        let mask = mask.and_then(|mask| mask.parse::<f64>().ok());
        let setting = mask.map_or("bit 4 of $3 turned over".to_owned(), |mask| {
            format!("$3={}", mask as u32 ^ Z_BIT)
        });
        format!(
            "z runs the wrong way: send {setting} to the controller or turn the motor's plug round, raise the lens, begin again"
        )
    }

    pub(super) fn judge_apart(&mut self, seen: Seen<bool>) {
        const NAME: &str = "z up: direction by eye";
        match seen {
            Seen::Clearly(true) => self.add(NAME, "apart", "apart", Verdict::Right, ""),
            Seen::Clearly(false) => {
                let reason = self.reversed();
                self.add(NAME, "apart", "closer", Verdict::Wrong, &reason);
                self.refuse(&reason);
            }
            Seen::Nothing => {
                let reason = "z was not seen to move: check the power of the motors, the clutch of the focus drive and the steps/mm ($102)";
                self.add(NAME, "apart", "nothing", Verdict::Wrong, reason);
                self.refuse(reason);
            }
            Seen::Unknown if self.is_seen[2] => {
                let note = "the picture showed it";
                self.add(NAME, "apart", "", Verdict::NotChecked, note);
            }
            Seen::Unknown => {
                let reason = "nobody saw whether lens and slide move apart, so nothing more is tried: look from the side and begin again";
                self.add(NAME, "apart", "unknown", Verdict::Wrong, reason);
                self.refuse(reason);
            }
        }
    }

    pub(super) fn judge_direction(&mut self, axis: usize, seen: Seen<Direction>) {
        let name = ["x: by eye", "y: by eye"][axis];
        let other = self.record.directions[1 - axis];
        match seen {
            Seen::Clearly(direction) if other.is_some_and(|other| other.is_parallel(direction)) => {
                let reason = "x and y move the slide along one line: check which motor is plugged in where";
                self.add(name, "a direction", direction.name(), Verdict::Wrong, reason);
                self.refuse(reason);
            }
            Seen::Clearly(direction) => {
                self.record.directions[axis] = Some(direction);
                self.add(name, "a direction", direction.name(), Verdict::Right, "");
            }
            Seen::Unknown if self.is_seen[axis] => {
                let note = "the picture showed that it moves";
                self.add(name, "a direction", "", Verdict::NotChecked, note);
            }
            Seen::Nothing | Seen::Unknown => {
                let reason = format!(
                    "{} was not seen to move: check its motor and plug, or say that x and y have no motors, and begin again",
                    NAMES[axis]
                );
                self.add(name, "a direction", "none", Verdict::Wrong, &reason);
                self.refuse(&reason);
            }
        }
    }
}

pub(super) fn row_name(part: Part) -> &'static str {
    match part {
        Part::Contact => "controller",
        Part::Ask(question) => question.key(),
        Part::Look(_) => "picture",
        Part::Move(name, ..) => name,
        Part::Halt(..) => "stop",
        Part::Reference => "counting from here",
        Part::Lower(_) => "z down again: read-back",
    }
}

pub(super) fn asked(part: Part) -> &'static str {
    match part {
        Part::Move(..) | Part::Lower(_) => "a motion",
        Part::Halt(..) => "to stop",
        _ => "",
    }
}
