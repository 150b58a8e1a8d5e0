//! GRBL 1.1, host to controller: the lines and real-time bytes, and the numbers they may hold.
//!
//! After `doc/markdown/{interface,jogging,commands}.md` of gnea/grbl 1.1h. A [`Command`] can only hold what a controller
//! accepts and is formatted from checked numbers alone, so no caller's text ever reaches the wire. The same type parses
//! lines for the emulated controller; the error is then the number a real one answers with.

use std::fmt;

use crate::stage::Axis;

/// Longest line a controller accepts, characters without the line feed.
pub const MAX_LINE: usize = 79;

/// Bytes a controller buffers; never have more than one less than this unacknowledged.
pub const RX_BUFFER: usize = 128;

/// Bytes taken in the receive interrupt, outside any line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealTime {
    /// `?`: send a status report.
    Status,
    /// `!`: decelerate and hold.
    FeedHold,
    /// `~`: resume.
    Resume,
    /// 0x18: reset at once, losing the position if in motion.
    Reset,
    /// 0x85: end the jog; honoured only while the state already is Jog.
    JogCancel,
    /// A byte above 0x7F this controller does not use here; dropped.
    Other,
}

impl RealTime {
    /// The byte on the wire; `Other` is 0x80, which GRBL drops.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Status => b'?',
            Self::FeedHold => b'!',
            Self::Resume => b'~',
            Self::Reset => 0x18,
            Self::JogCancel => 0x85,
            Self::Other => 0x80,
        }
    }

    /// What `byte` means, or `None` if it belongs to a line.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'?' => Some(Self::Status),
            b'!' => Some(Self::FeedHold),
            b'~' => Some(Self::Resume),
            0x18 => Some(Self::Reset),
            0x85 => Some(Self::JogCancel),
            0x80.. => Some(Self::Other),
            _ => None,
        }
    }
}

/// A number on the wire, usually a length: whole nanometres (millionths), at most ±1 km.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance(i64);

impl Distance {
    /// Nanometres in the finest step the host sends: four decimals of a millimetre.
    pub const WIRE_STEP_NM: i64 = 100;
    const LIMIT_NM: i64 = 1_000_000_000_000;

    /// From nanometres; `None` beyond ±1 km.
    pub const fn from_nm(nm: i64) -> Option<Self> {
        if nm >= -Self::LIMIT_NM && nm <= Self::LIMIT_NM {
            Some(Self(nm))
        } else {
            None
        }
    }

    /// From micrometres, rounded to the four decimals of a millimetre sent; `None` if not finite or beyond ±1 km.
    pub fn from_um(um: f64) -> Option<Self> {
        let steps = (um * 1000.0 / Self::WIRE_STEP_NM as f64).round();
        if !steps.is_finite() || steps.abs() > (Self::LIMIT_NM / Self::WIRE_STEP_NM) as f64 {
            return None;
        }
        Self::from_nm(steps as i64 * Self::WIRE_STEP_NM)
    }

    /// In nanometres.
    pub const fn nm(self) -> i64 {
        self.0
    }

    /// In micrometres.
    pub fn um(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// In millimetres.
    pub fn mm(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Exact decimal text to distance; digits beyond a nanometre are rounded away.
    pub fn parse_mm(text: &str) -> Option<Self> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty())
            || !all_digits(whole)
            || !all_digits(fraction)
            || whole.len() > 6
        {
            return None;
        }
        let mut nm = whole
            .bytes()
            .fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        for place in 0..6 {
            nm = nm * 10
                + fraction
                    .as_bytes()
                    .get(place)
                    .map_or(0, |digit| i64::from(digit - b'0'));
        }
        nm += i64::from(fraction.as_bytes().get(6).is_some_and(|digit| *digit >= b'5'));
        Self::from_nm(if negative { -nm } else { nm })
    }
}

impl fmt::Display for Distance {
    /// Millimetres without trailing zeros; with a precision, exactly that many decimals (of at most six).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(6).min(6);
        let unit = 10i64.pow(6 - decimals as u32);
        let rounded = (self.0.abs() + unit / 2) / unit;
        let sign = if self.0 < 0 && rounded != 0 { "-" } else { "" };
        let scale = 10i64.pow(decimals as u32);
        let (whole, fraction) = (rounded / scale, rounded % scale);
        if decimals == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{fraction:0decimals$}");
        if f.precision().is_some() {
            return write!(f, "{sign}{whole}.{fraction}");
        }
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            kept => write!(f, "{sign}{whole}.{kept}"),
        }
    }
}

/// A feed rate on the wire: thousandths of mm/min, above zero and at most 1 m/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feed(u32);

impl Feed {
    const LIMIT: u32 = 60_000_000;

    /// From thousandths of a millimetre per minute; `None` if zero or above 1 m/s.
    pub const fn from_um_per_min(um_per_min: u32) -> Option<Self> {
        if um_per_min > 0 && um_per_min <= Self::LIMIT {
            Some(Self(um_per_min))
        } else {
            None
        }
    }

    /// From µm/s, sign ignored, rounded up; `None` if zero, not finite or above 1 m/s.
    pub fn from_um_per_s(um_per_s: f64) -> Option<Self> {
        let um_per_min = (um_per_s.abs() * 60.0).ceil();
        if um_per_min.is_finite() && um_per_min <= f64::from(Self::LIMIT) {
            Self::from_um_per_min(um_per_min as u32)
        } else {
            None
        }
    }

    /// In mm/s.
    pub fn mm_per_s(self) -> f64 {
        f64::from(self.0) / 60_000.0
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Distance(i64::from(self.0) * 1000))
    }
}

/// Whether distances are relative, and if not, to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// G91: from the last programmed position.
    Relative,
    /// G90: in work coordinates.
    Absolute,
    /// G53: in machine coordinates.
    Machine,
}

/// A straight motion: where each named axis goes, and how fast. Millimetres on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What the distances refer to.
    pub mode: Mode,
    /// x, y, z; at least one.
    pub axes: [Option<Distance>; 3],
    /// Speed along the path; `None` for a rapid G0, which jogs do not have.
    pub feed: Option<Feed>,
}

/// One line from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An empty line: acknowledged, does nothing.
    Nothing,
    /// `$J=`: a jog, always with a feed.
    Jog(Line),
    /// `G0` or `G1`.
    Linear(Line),
    /// `$$`: list the settings.
    Settings,
    /// `$n=value`: write a setting (to EEPROM). The value is in thousandths.
    Set {
        /// Number of the setting, 0 to 255.
        number: u8,
        /// New value, thousandths; at most 999 999 999.
        thousandths: u32,
    },
    /// `$I`: firmware version and options.
    BuildInfo,
    /// `$X`: leave the alarm state without homing.
    Unlock,
    /// `$H`: home; acknowledged only when done.
    Home,
    /// `$G`: the parser's modal state, told as `[GC:...]`; possible in any state, a jog included.
    ParserState,
    /// `F` alone: the modal feed, mm/min. It moves nothing, jogs do not use it, and a reset makes it 0: what was written there
    /// is a mark by which a controller that was not reset can be told. At most 9 999 999.
    Mark(u32),
}

/// Number of a GRBL error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u8);

impl ErrorCode {
    /// A G-code word has no letter.
    pub const NO_LETTER: Self = Self(1);
    /// A number is missing or malformed.
    pub const BAD_NUMBER: Self = Self(2);
    /// Not a `$` command.
    pub const BAD_SYSTEM_COMMAND: Self = Self(3);
    /// A value must not be negative.
    pub const NEGATIVE: Self = Self(4);
    /// Homing is not enabled.
    pub const NO_HOMING: Self = Self(5);
    /// Only while idle.
    pub const NOT_IDLE: Self = Self(8);
    /// Locked by an alarm or a jog.
    pub const LOCKED: Self = Self(9);
    /// Soft limits need homing.
    pub const SOFT_LIMIT_NEEDS_HOMING: Self = Self(10);
    /// Line too long.
    pub const LINE_TOO_LONG: Self = Self(11);
    /// The jog would leave the permitted travel.
    pub const TRAVEL: Self = Self(15);
    /// A jog without `=` or with a forbidden word.
    pub const BAD_JOG: Self = Self(16);
    /// A word or command that is not supported.
    pub const UNSUPPORTED: Self = Self(20);
    /// No feed rate.
    pub const NO_FEED: Self = Self(22);
    /// A word appears twice.
    pub const REPEATED: Self = Self(25);
    /// No axis words.
    pub const NO_AXIS: Self = Self(26);

    /// The manual's meaning, in a few words.
    pub const fn text(self) -> &'static str {
        match self.0 {
            1 => "a word without a letter",
            2 => "a missing or malformed number",
            3 => "an unknown $ command",
            4 => "a negative value where none may be",
            5 => "homing is not enabled",
            6 => "the step pulse is too short",
            7 => "settings could not be read and were restored",
            8 => "only possible while idle",
            9 => "locked by an alarm or a jog",
            10 => "soft limits need homing to be enabled",
            11 => "the line is too long",
            12 => "the step rate is too high",
            13 => "the safety door is open",
            14 => "the startup line or build info is too long",
            15 => "the jog would leave the permitted travel",
            16 => "a malformed jog",
            17 => "laser mode needs a PWM output",
            20 => "an unsupported word",
            21 => "two words of one modal group",
            22 => "no feed rate",
            23 => "a number that must be whole",
            24 => "two words that both need the axes",
            25 => "a word given twice",
            26 => "no axis words",
            27 => "a bad line number",
            28 => "a missing value word",
            29 => "an unsupported work coordinate system",
            30 => "G53 needs G0 or G1",
            31 => "unused axis words",
            32 => "an arc without axis words",
            33 => "an invalid target",
            34 => "an arc that cannot be computed",
            35 => "an arc without offsets",
            36 => "unused words",
            37 => "tool length offset on a wrong axis",
            38 => "a tool number that is too high",
            45 => "a limit switch is engaged",
            46 => "homing is required",
            50 => "the emergency stop is engaged",
            _ => "an error this host does not know",
        }
    }
}

impl Command {
    /// The line for the wire, with its line feed.
    pub fn emit(&self) -> String {
        match self {
            Self::Nothing => "\n".to_owned(),
            Self::Jog(line) => format!("$J=G21{}\n", Words(line)),
            Self::Linear(line) => {
                let motion = if line.feed.is_some() { "G1" } else { "G0" };
                format!("{motion}G21{}\n", Words(line))
            }
            Self::Settings => "$$\n".to_owned(),
            Self::Set { number, thousandths } => {
                format!(
                    "${number}={}\n",
                    Distance(i64::from(*thousandths).min(999_999_999) * 1000)
                )
            }
            Self::BuildInfo => "$I\n".to_owned(),
            Self::Unlock => "$X\n".to_owned(),
            Self::Home => "$H\n".to_owned(),
            Self::ParserState => "$G\n".to_owned(),
            Self::Mark(feed) => format!("F{feed}\n"),
        }
    }

    /// Understands one line (without its line feed) as a controller does: blanks do not count, nor does case.
    ///
    /// # Errors
    /// The number a controller answers with.
    pub fn parse(line: &str) -> Result<Self, ErrorCode> {
        let line: String = line
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let Some(system) = line.strip_prefix('$') else {
            return if line.is_empty() {
                Ok(Self::Nothing)
            } else if let Some(feed) = line.strip_prefix('F').and_then(parse_mark) {
                Ok(Self::Mark(feed))
            } else {
                parse_linear(&line)
            };
        };
        match system {
            "$" => Ok(Self::Settings),
            "I" => Ok(Self::BuildInfo),
            "X" => Ok(Self::Unlock),
            "H" => Ok(Self::Home),
            "G" => Ok(Self::ParserState),
            _ if system.starts_with('J') => {
                parse_jog(system.strip_prefix("J=").ok_or(ErrorCode::BAD_JOG)?).map(Self::Jog)
            }
            _ => parse_set(system),
        }
    }
}

/// The words of a motion after its units.
struct Words<'a>(&'a Line);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.mode {
            Mode::Relative => "G91",
            Mode::Absolute => "G90",
            Mode::Machine => "G53",
        })?;
        for axis in Axis::ALL {
            if let Some(distance) = self.0.axes[axis.index()] {
                write!(f, "{}{distance}", axis.letter())?;
            }
        }
        self.0.feed.map_or(Ok(()), |feed| write!(f, "F{feed}"))
    }
}

/// A whole modal feed.
fn parse_mark(digits: &str) -> Option<u32> {
    let is_whole = (1..=7).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole { digits.parse().ok() } else { None }
}

fn parse_set(system: &str) -> Result<Command, ErrorCode> {
    let (number, value) = system.split_once('=').ok_or(ErrorCode::BAD_SYSTEM_COMMAND)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ErrorCode::BAD_SYSTEM_COMMAND);
    }
    let number = number.parse().map_err(|_| ErrorCode::BAD_SYSTEM_COMMAND)?;
    let value = Distance::parse_mm(value).ok_or(ErrorCode::BAD_NUMBER)?;
    if value.nm() < 0 {
        return Err(ErrorCode::NEGATIVE);
    }
    let thousandths = u32::try_from(value.nm() / 1000).map_err(|_| ErrorCode::BAD_NUMBER)?;
    Ok(Command::Set { number, thousandths })
}

/// What the words of a line said, before it is known whether they make sense together.
#[derive(Default)]
struct Heard {
    inches: bool,
    mode: Option<Mode>,
    rapid: bool,
    axes: [Option<Distance>; 3],
    feed: Option<Distance>,
    seen: Vec<(char, i64)>,
}

/// Reads letter and number pairs.
fn hear(mut words: &str, allow_motion: bool) -> Result<Heard, ErrorCode> {
    let mut heard = Heard::default();
    while let Some(letter) = words.chars().next() {
        if !letter.is_ascii_uppercase() {
            return Err(ErrorCode::NO_LETTER);
        }
        let rest = &words[1..];
        let end = rest
            .find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+'))
            .unwrap_or(rest.len());
        let number = Distance::parse_mm(&rest[..end]).ok_or(ErrorCode::BAD_NUMBER)?;
        words = &rest[end..];
        let key = (letter, if letter == 'G' { number.nm() } else { 0 });
        if heard.seen.contains(&key) {
            return Err(ErrorCode::REPEATED);
        }
        heard.seen.push(key);
        hear_word(&mut heard, letter, number, allow_motion)?;
    }
    Ok(heard)
}

fn hear_word(heard: &mut Heard, letter: char, number: Distance, allow_motion: bool) -> Result<(), ErrorCode> {
    let unexpected = if allow_motion {
        ErrorCode::UNSUPPORTED
    } else {
        ErrorCode::BAD_JOG
    };
    match letter {
        'X' => heard.axes[0] = Some(number),
        'Y' => heard.axes[1] = Some(number),
        'Z' => heard.axes[2] = Some(number),
        'F' => heard.feed = Some(number),
        'G' => match number.nm() / 1_000_000 {
            0 | 1 if allow_motion => heard.rapid = number.nm() == 0,
            20 => heard.inches = true,
            21 => heard.inches = false,
            90 => heard.mode = heard.mode.or(Some(Mode::Absolute)),
            91 => heard.mode = heard.mode.or(Some(Mode::Relative)),
            53 => heard.mode = Some(Mode::Machine),
            _ => return Err(unexpected),
        },
        _ => return Err(ErrorCode::UNSUPPORTED),
    }
    Ok(())
}

fn finish(heard: &Heard) -> Result<Line, ErrorCode> {
    if heard.axes.iter().all(Option::is_none) {
        return Err(ErrorCode::NO_AXIS);
    }
    let scale = |distance: Distance| {
        let nm = if heard.inches {
            distance.nm() * 254 / 10
        } else {
            distance.nm()
        };
        Distance::from_nm(nm).ok_or(ErrorCode::BAD_NUMBER)
    };
    let feed = match (heard.rapid, heard.feed) {
        (true, _) => None,
        (false, None) => return Err(ErrorCode::NO_FEED),
        (false, Some(feed)) if feed.nm() < 0 => return Err(ErrorCode::NEGATIVE),
        (false, Some(feed)) => {
            let um_per_min = u32::try_from(scale(feed)?.nm() / 1000).map_err(|_| ErrorCode::BAD_NUMBER)?;
            Some(Feed::from_um_per_min(um_per_min).ok_or(ErrorCode::NO_FEED)?)
        }
    };
    let mut axes = [None; 3];
    for (to, from) in axes.iter_mut().zip(heard.axes) {
        *to = from.map(scale).transpose()?;
    }
    Ok(Line {
        mode: heard.mode.unwrap_or(Mode::Absolute),
        axes,
        feed,
    })
}

fn parse_jog(words: &str) -> Result<Line, ErrorCode> {
    finish(&hear(words, false)?)
}

fn parse_linear(words: &str) -> Result<Command, ErrorCode> {
    finish(&hear(words, true)?).map(Command::Linear)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn z(mode: Mode, um: f64, um_per_min: u32) -> Line {
        Line {
            mode,
            axes: [None, None, Distance::from_um(um)],
            feed: Feed::from_um_per_min(um_per_min),
        }
    }

    #[test]
    fn lines_on_the_wire() {
        for (command, expected) in [
            (Command::Nothing, "\n"),
            (
                Command::Jog(z(Mode::Relative, 5.6, 13_422)),
                "$J=G21G91Z0.0056F13.422\n",
            ),
            (
                Command::Jog(z(Mode::Machine, -1000.0, 600_000)),
                "$J=G21G53Z-1F600\n",
            ),
            (
                Command::Linear(Line {
                    feed: None,
                    ..z(Mode::Absolute, 1.0, 1)
                }),
                "G0G21G90Z0.001\n",
            ),
            (
                Command::Set {
                    number: 1,
                    thousandths: 255_000,
                },
                "$1=255\n",
            ),
            (Command::Unlock, "$X\n"),
            (Command::ParserState, "$G\n"),
            (Command::Mark(471_100), "F471100\n"),
        ] {
            assert_eq!(command.emit(), expected);
            assert_eq!(Command::parse(expected.trim_end()), Ok(command));
        }
    }

    #[test]
    fn what_a_controller_reads() {
        for (line, expected) in [
            (
                "$J=G91 Z10 F600",
                Ok(Command::Jog(z(Mode::Relative, 10_000.0, 600_000))),
            ),
            ("$j=z-.5f60", Ok(Command::Jog(z(Mode::Absolute, -500.0, 60_000)))),
            (
                "$J=G20G91Z1F1",
                Ok(Command::Jog(z(Mode::Relative, 25_400.0, 25_400))),
            ),
            ("$J=G91 Z1 $J=G91 Z1 F600", Err(ErrorCode::NO_LETTER)),
            ("$J=G91Z1", Err(ErrorCode::NO_FEED)),
            ("$J=G91F600", Err(ErrorCode::NO_AXIS)),
            ("$J=G91Z1Z2F600", Err(ErrorCode::REPEATED)),
            ("$J=G1Z1F600", Err(ErrorCode::BAD_JOG)),
            ("$JZ1", Err(ErrorCode::BAD_JOG)),
            ("$J=G91ZF600", Err(ErrorCode::BAD_NUMBER)),
            ("$J=G91Z1.2.3F600", Err(ErrorCode::BAD_NUMBER)),
            ("$Q", Err(ErrorCode::BAD_SYSTEM_COMMAND)),
            ("$1=-3", Err(ErrorCode::NEGATIVE)),
            ("$300=1", Err(ErrorCode::BAD_SYSTEM_COMMAND)),
            ("M3", Err(ErrorCode::UNSUPPORTED)),
            ("Z\u{b5}", Err(ErrorCode::BAD_NUMBER)),
        ] {
            assert_eq!(Command::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_sent_do_not_exist() {
        for um in [f64::NAN, f64::INFINITY, 1e300, 1.1e9] {
            assert_eq!(Distance::from_um(um), None);
        }
        assert_eq!(
            Distance::from_um(-0.0).map(|d| d.to_string()).as_deref(),
            Some("0")
        );
        for um_per_s in [0.0, f64::NAN, f64::INFINITY, 1.1e6] {
            assert_eq!(Feed::from_um_per_s(um_per_s), None);
        }
    }

    fn distance() -> impl Strategy<Value = Distance> {
        (-999_999_999_999i64..=999_999_999_999).prop_map(|nm| Distance::from_nm(nm).unwrap())
    }

    fn line() -> impl Strategy<Value = Line> {
        let mode = prop_oneof![Just(Mode::Relative), Just(Mode::Absolute), Just(Mode::Machine)];
        let axes = prop::array::uniform3(prop::option::of(distance()))
            .prop_filter("an axis", |a| a.iter().any(Option::is_some));
        (mode, axes, 1u32..=60_000_000).prop_map(|(mode, axes, feed)| Line {
            mode,
            axes,
            feed: Feed::from_um_per_min(feed),
        })
    }

    proptest! {
        #[test]
        fn motions_round_trip(line in line()) {
            let command = Command::Jog(line);
            prop_assert!(command.emit().len() <= MAX_LINE);
            prop_assert_eq!(Command::parse(command.emit().trim_end()), Ok(command));
            let command = Command::Linear(line);
            prop_assert_eq!(Command::parse(command.emit().trim_end()), Ok(command));
        }

        #[test]
        fn settings_round_trip(number: u8, thousandths in 0u32..=999_999_999) {
            let command = Command::Set { number, thousandths };
            prop_assert_eq!(Command::parse(command.emit().trim_end()), Ok(command));
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC*", near in "[$JXYZGF=0-9.+-]{0,40}") {
            for line in [text, near] {
                if let Ok(command) = Command::parse(&line) {
                    prop_assert!(Command::parse(command.emit().trim_end()).is_ok());
                }
            }
        }
    }
}
