//! What only a person knows of a stand: questions, and answers that are checked as they are given.

use serde::{Deserialize, Serialize};

use crate::commissioning::plan::Plan;

/// Working distances that are believed, µm: those of an oil immersion lens and of a macro lens.
const WORKING_DISTANCES_UM: (f64, f64) = (100.0, 50_000.0);
/// Farthest height that is believed, µm.
const FARTHEST_UM: f64 = 1e6;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Free distance between lens and slide at focus.
    WorkingDistance,
    /// Whether the lens stands at focus or above.
    Standing,
    /// What the z motor moves.
    Mover,
    /// Whether x and y have motors.
    Sideways,
    /// Height of the lens now, in the coordinates of the limits.
    ZNow,
    /// Lowest permitted height.
    ZMin,
    /// Highest permitted height.
    ZMax,
    /// Whether lens and slide have moved apart.
    Apart,
    /// Where the slide went when x counted up.
    DirectionX,
    /// The same of y.
    DirectionY,
}

/// What is asked before anything moves, in this order.
pub const BEFORE: [Question; 7] = [
    Question::WorkingDistance,
    Question::Standing,
    Question::Mover,
    Question::Sideways,
    Question::ZNow,
    Question::ZMin,
    Question::ZMax,
];

/// What the z motor moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mover {
    /// The lens; z counts up when it rises.
    Lens,
    /// The table; z counts up when it sinks.
    Table,
}

/// Where the slide went, seen by the person who sits in front of the stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Towards the person.
    Near,
    /// Away from the person.
    Far,
}

impl Direction {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    /// Whether both lie on one line.
    pub fn is_parallel(self, other: Self) -> bool {
        let is_across = |direction| matches!(direction, Self::Left | Self::Right);
        is_across(self) == is_across(other)
    }
}

/// What a person saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// This.
    Clearly(T),
    /// Nothing that moved.
    Nothing,
    /// It could not be told, or there was nobody to look.
    Unknown,
}

/// Answers so far; lengths in µm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Free distance between lens and slide at focus.
    pub working_distance_um: Option<f64>,
    /// Said to stand at focus or above.
    pub stands_clear: Option<bool>,
    /// What the z motor moves.
    pub mover: Option<Mover>,
    /// Whether x and y have motors.
    pub sideways: Option<bool>,
    /// Height of the lens now.
    pub z_now_um: Option<f64>,
    /// Lowest permitted height.
    pub z_min_um: Option<f64>,
    /// Highest permitted height.
    pub z_max_um: Option<f64>,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::WorkingDistance,
        Self::Standing,
        Self::Mover,
        Self::Sideways,
        Self::ZNow,
        Self::ZMin,
        Self::ZMax,
        Self::Apart,
        Self::DirectionX,
        Self::DirectionY,
    ];

    /// Its name in a file of answers.
    pub const fn key(self) -> &'static str {
        match self {
            Self::WorkingDistance => "working_distance",
            Self::Standing => "at_focus_or_above",
            Self::Mover => "z_moves",
            Self::Sideways => "x_and_y",
            Self::ZNow => "z_now",
            Self::ZMin => "z_min",
            Self::ZMax => "z_max",
            Self::Apart => "apart",
            Self::DirectionX => "x_direction",
            Self::DirectionY => "y_direction",
        }
    }

    /// Whether only somebody who looked while the stage moved can answer.
    pub const fn is_by_eye(self) -> bool {
        matches!(self, Self::Apart | Self::DirectionX | Self::DirectionY)
    }

    /// What is taken if nothing is said.
    pub const fn usual(self) -> Option<&'static str> {
        match self {
            Self::ZNow => Some("0 um"),
            _ => None,
        }
    }

    /// The question, with the form of its answer.
    pub fn text(self, answers: &Answers) -> String {
        match self {
            Self::WorkingDistance => {
                "Working distance of the objective: the free distance to the slide at focus, as it stands on the barrel (for example 0.6 mm)"
                    .to_owned()
            }
            Self::Standing => "Does the lens stand at focus now, or farther from the slide? (yes/no)".to_owned(),
            Self::Mover => "What does the z motor move? (lens/table)".to_owned(),
            Self::Sideways => "Do x and y have motors on this controller? (yes/no)".to_owned(),
            Self::ZNow => "Height of the lens now, in the coordinates of z_min and z_max (for example 0 um)".to_owned(),
            Self::ZMin => format!(
                "Lowest permitted height z_min; the lens stands at {:.0} um now (for example -100 um)",
                answers.z_now_um.unwrap_or(0.0)
            ),
            Self::ZMax => "Highest permitted height z_max (for example 500 um)".to_owned(),
            Self::Apart => {
                let way = match answers.mover {
                    Some(Mover::Table) => "the table sink, away from the lens",
                    _ => "the lens rise, away from the slide",
                };
                format!("Did {way}? (apart/closer/nothing/unsure)")
            }
            Self::DirectionX => direction_text('x'),
            Self::DirectionY => direction_text('y'),
        }
    }
}

fn direction_text(axis: char) -> String {
    format!(
        "{axis} counted up: seen from where you sit, which way did the slide move? (left/right/near/far/nothing/unsure)"
    )
}

impl Answers {
    /// Takes the answer to one of the questions of [`BEFORE`]; those before it are answered.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it and what would be right.
    pub fn take(&mut self, question: Question, text: &str) -> Result<(), String> {
        let text = match (text.trim(), question.usual()) {
            ("", Some(usual)) => usual,
            (text, _) => text,
        };
        match question {
            Question::WorkingDistance => {
                let um = length_um(text)?;
                let (least_um, most_um) = WORKING_DISTANCES_UM;
                if !(least_um..=most_um).contains(&um) {
                    return Err(format!(
                        "a working distance of {um} um is none of an objective: give one from {least_um} um to {} mm",
                        most_um / 1000.0
                    ));
                }
                self.working_distance_um = Some(um);
            }
            Question::Standing => {
                if !yes(text)? {
                    return Err("raise the lens by hand until the slide is in focus or the lens is above that, then answer yes".to_owned());
                }
                self.stands_clear = Some(true);
            }
            Question::Mover => {
                self.mover = Some(one_of(text, &[("lens", Mover::Lens), ("table", Mover::Table)])?);
            }
            Question::Sideways => self.sideways = Some(yes(text)?),
            Question::ZNow => self.z_now_um = Some(height_um(text)?),
            Question::ZMin => self.z_min_um = Some(self.lowest_um(height_um(text)?)?),
            Question::ZMax => self.z_max_um = Some(self.highest_um(height_um(text)?)?),
            Question::Apart | Question::DirectionX | Question::DirectionY => {
                return Err(format!("{} is answered when it was seen", question.key()));
            }
        }
        Ok(())
    }

    fn lowest_um(&self, um: f64) -> Result<f64, String> {
        let (now_um, free_um) = (
            self.z_now_um.unwrap_or(f64::NAN),
            self.working_distance_um.unwrap_or(f64::NAN),
        );
        if um > now_um {
            return Err(format!(
                "the lens stands at {now_um} um, which a z_min of {um} um does not permit: give one of at most {now_um} um"
            ));
        }
        // Written so that NaN is refused.
        let is_clear = now_um - um < free_um;
        if !is_clear {
            return Err(format!(
                "a lens that goes down to {um} um touches the slide: it stands at {now_um} um and may have {free_um} um to go; give a z_min \
                 above {} um",
                now_um - free_um
            ));
        }
        Ok(um)
    }

    fn highest_um(&self, um: f64) -> Result<f64, String> {
        let (now_um, free_um) = (
            self.z_now_um.unwrap_or(f64::NAN),
            self.working_distance_um.unwrap_or(f64::NAN),
        );
        let rise_um = Plan::new(free_um).rise_um();
        if um - now_um >= rise_um {
            return Ok(um);
        }
        Err(format!(
            "the first motion rises by {rise_um:.0} um from {now_um} um, where the lens stands, and a z_max of {um} um does not permit that: \
             give one of at least {:.0} um, or wind the lens down to focus",
            (now_um + rise_um).ceil()
        ))
    }
}

/// What was seen of the direction of z: whether lens and slide moved apart.
///
/// # Errors
/// A word that is none of those asked for.
pub fn seen_apart(text: &str) -> Result<Seen<bool>, String> {
    one_of(
        text,
        &[
            ("apart", Seen::Clearly(true)),
            ("closer", Seen::Clearly(false)),
            ("nothing", Seen::Nothing),
            ("unsure", Seen::Unknown),
        ],
    )
}

/// What was seen of the direction of x or y.
///
/// # Errors
/// A word that is none of those asked for.
pub fn seen_direction(text: &str) -> Result<Seen<Direction>, String> {
    one_of(
        text,
        &[
            ("left", Seen::Clearly(Direction::Left)),
            ("right", Seen::Clearly(Direction::Right)),
            ("near", Seen::Clearly(Direction::Near)),
            ("far", Seen::Clearly(Direction::Far)),
            ("nothing", Seen::Nothing),
            ("unsure", Seen::Unknown),
        ],
    )
}

fn yes(text: &str) -> Result<bool, String> {
    one_of(text, &[("yes", true), ("no", false)])
}

fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let said = text.trim().to_lowercase();
    let found = words.iter().find(|(word, _)| *word == said);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!(
            "'{}' is none of the answers: say {}",
            said.chars().take(40).collect::<String>(),
            known.join(", ")
        )
    })
}

fn height_um(text: &str) -> Result<f64, String> {
    let um = length_um(text)?;
    if um.abs() > FARTHEST_UM {
        return Err(format!("{um} um is no height of a lens: give one within 1 m"));
    }
    Ok(um)
}

/// A length with its unit, µm.
fn length_um(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let shown = || text.chars().take(40).collect::<String>();
    let end = text
        .find(|letter: char| letter.is_alphabetic() && letter != 'e' && letter != 'E')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit.trim() {
        "um" | "µm" | "μm" => 1.0,
        "mm" => 1000.0,
        "" => {
            return Err(format!(
                "'{}' has no unit: write um or mm behind the number",
                shown()
            ));
        }
        other => return Err(format!("'{other}' is no unit of length: write um or mm")),
    };
    let number: f64 = number.trim().parse().unwrap_or(f64::NAN);
    if number.is_finite() {
        Ok(number * scale)
    } else {
        Err(format!("'{}' is no length: write for example 0.6 mm", shown()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(given: &[(Question, &str)]) -> Result<Answers, String> {
        let mut answers = Answers::default();
        for (question, text) in given {
            answers.take(*question, text)?;
        }
        Ok(answers)
    }

    #[test]
    fn lengths_have_units() {
        for (text, expected) in [
            ("0.6 mm", Some(600.0)),
            ("600um", Some(600.0)),
            ("-2e2 µm", Some(-200.0)),
            ("0.6", None),
            ("0.6 m", None),
            ("mm", None),
            ("nan um", None),
            ("inf um", None),
            ("", None),
        ] {
            assert_eq!(length_um(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn limits_that_lead_into_the_slide_are_refused() {
        use Question::{WorkingDistance, ZMax, ZMin, ZNow};
        let given =
            |now, min, max| answered(&[(WorkingDistance, "0.6 mm"), (ZNow, now), (ZMin, min), (ZMax, max)]);
        assert!(given("0 um", "-100 um", "0.5 mm").is_ok());
        assert_eq!(given("", "-100 um", "0.5 mm").unwrap().z_now_um, Some(0.0));
        for (now, min, max, named) in [
            ("0 um", "-600 um", "0.5 mm", "touches the slide"),
            ("500 um", "-101 um", "2 mm", "touches the slide"),
            ("0 um", "1 um", "500 um", "does not permit"),
            ("0 um", "-100 um", "100 um", "first motion rises"),
            ("0 um", "-2 m", "100 um", "no unit of length"),
            ("2000 mm", "-100 um", "100 um", "no height"),
        ] {
            let refused = given(now, min, max).unwrap_err();
            assert!(refused.contains(named), "{now} {min} {max}: {refused}");
        }
        for text in ["0.01 mm", "60 mm", "-1 mm"] {
            assert!(answered(&[(WorkingDistance, text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_those_asked_for() {
        assert_eq!(seen_apart(" Apart "), Ok(Seen::Clearly(true)));
        assert_eq!(seen_apart("nothing"), Ok(Seen::Nothing));
        for text in ["", "yes", "y", "apart!"] {
            assert!(seen_apart(text).is_err(), "{text}");
        }
        assert!(answered(&[(Question::Standing, "no")]).is_err());
        assert!(answered(&[(Question::Apart, "apart")]).is_err());
    }
}
