//! GRBL 1.1, controller to host: replies, status reports, and the splitter that finds them in a stream of bytes.
//!
//! After `doc/markdown/interface.md` of gnea/grbl 1.1h. Parsing is strict where a corrupted line could pass for a
//! position (a real one: `<Idle|MPos:-72.425,-25.634,0.000FS:0,0>`) and lenient where firmwares differ: a field that is not
//! known, or that holds what GRBL never wrote there, is skipped and the rest of the report counts.

use std::fmt::Write as _;

use super::command::{Distance, ErrorCode};

/// Longest line kept, bytes; anything longer is noise.
pub const MAX_REPLY: usize = 256;

/// Number of a GRBL alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmCode(pub u8);

impl AlarmCode {
    /// A limit switch stopped the machine.
    pub const HARD_LIMIT: Self = Self(1);
    /// A motion would have left the permitted travel.
    pub const SOFT_LIMIT: Self = Self(2);
    /// Reset while moving.
    pub const RESET_IN_MOTION: Self = Self(3);

    /// The manual's meaning, in a few words.
    pub const fn text(self) -> &'static str {
        match self.0 {
            1 => "a limit switch was hit; the position is lost",
            2 => "a motion would have left the permitted travel",
            3 => "reset while moving; the position is lost",
            4 | 5 => "probing failed",
            6 => "homing was interrupted by a reset",
            7 => "homing was interrupted by the safety door",
            8 => "homing could not clear the limit switch",
            9 => "homing did not find the limit switch",
            10 => "emergency stop",
            11 => "homing is required",
            12 => "a limit switch is engaged",
            14 => "spindle",
            17 => "motor fault",
            _ => "an alarm this host does not know",
        }
    }

    /// Whether the controller stays mute, even to `?`, until it is reset (alarms 1 and 2).
    pub const fn is_mute(self) -> bool {
        matches!(self.0, 1 | 2)
    }
}

/// State in a status report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// Standing still, ready.
    Idle,
    /// Executing G-code.
    Run,
    /// Held; the number says whether it still decelerates (1) or stands (0).
    Hold(u8),
    /// Jogging.
    Jog,
    /// Locked.
    Alarm,
    /// Door open; stages 0 to 3.
    Door(u8),
    /// G-code check mode.
    Check,
    /// Homing.
    Home,
    /// Asleep.
    Sleep,
}

impl MachineState {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Idle" => Self::Idle,
            "Run" => Self::Run,
            "Hold" | "Hold:0" => Self::Hold(0),
            "Hold:1" => Self::Hold(1),
            "Jog" => Self::Jog,
            "Alarm" => Self::Alarm,
            "Door" | "Door:0" => Self::Door(0),
            "Door:1" => Self::Door(1),
            "Door:2" => Self::Door(2),
            "Door:3" => Self::Door(3),
            "Check" => Self::Check,
            "Home" => Self::Home,
            "Sleep" => Self::Sleep,
            // grblHAL adds its alarm number.
            _ if text
                .strip_prefix("Alarm:")
                .is_some_and(|n| n.parse::<u8>().is_ok()) =>
            {
                Self::Alarm
            }
            _ => return None,
        })
    }

    fn emit(self) -> String {
        match self {
            Self::Hold(stage) => format!("Hold:{stage}"),
            Self::Door(stage) => format!("Door:{stage}"),
            other => format!("{other:?}"),
        }
    }
}

/// Which coordinates a report gives; `$10` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// `MPos`: from the machine's zero.
    Machine,
    /// `WPos`: machine position less the work offset.
    Work,
}

/// A `<...>` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// What the machine does.
    pub state: MachineState,
    /// Which coordinates `position` is in.
    pub coordinates: Coordinates,
    /// x, y, z.
    pub position: [Distance; 3],
    /// Decimals of the position, 1 to 6: GRBL writes three for millimetres and four for inches.
    pub decimals: u8,
    /// Feed along the path as text says it, mm/min, and spindle speed (`FS:` or `F:`).
    pub feed: Option<Distance>,
    /// Free planner blocks and free receive bytes (`Bf:`).
    pub buffer: Option<(u16, u16)>,
    /// Work coordinate offset (`WCO:`), in some reports only.
    pub work_offset: Option<[Distance; 3]>,
    /// Active input pins (`Pn:`), for example `XZ`; empty if none.
    pub pins: String,
    /// Overrides of feed, rapids and spindle, percent (`Ov:`).
    pub overrides: Option<[u16; 3]>,
}

impl StatusReport {
    /// A report with nothing but the mandatory fields.
    pub fn new(state: MachineState, position: [Distance; 3]) -> Self {
        Self {
            state,
            coordinates: Coordinates::Machine,
            position,
            decimals: 3,
            feed: None,
            buffer: None,
            work_offset: None,
            pins: String::new(),
            overrides: None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix('<')?.strip_suffix('>')?;
        // Two lines that ran into each other.
        if body.contains(['<', '>']) {
            return None;
        }
        let mut fields = body.split('|');
        let state = MachineState::parse(fields.next()?)?;
        let (name, values) = fields.next()?.split_once(':')?;
        let coordinates = match name {
            "MPos" => Coordinates::Machine,
            "WPos" => Coordinates::Work,
            _ => return None,
        };
        let (position, decimals) = parse_coordinates(values)?;
        let mut report = Self {
            coordinates,
            decimals,
            ..Self::new(state, position)
        };
        let mut seen: Vec<&str> = Vec::new();
        for (name, values) in fields.filter_map(|field| field.split_once(':')) {
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            report.take_field(name, values)?;
        }
        Some(report)
    }

    /// Takes what is understood of one field. `None` only where the position itself is in doubt.
    fn take_field(&mut self, name: &str, values: &str) -> Option<()> {
        match name {
            "MPos" | "WPos" => return None,
            "WCO" => self.work_offset = Some(parse_coordinates(values)?.0),
            "FS" | "F" => self.feed = values.split(',').next().and_then(Distance::parse_mm),
            "Bf" => self.buffer = whole_numbers(values).map(|[blocks, bytes]| (blocks, bytes)),
            "Ov" => self.overrides = whole_numbers(values),
            "Pn" => values.clone_into(&mut self.pins),
            _ => {}
        }
        Some(())
    }

    fn emit(&self) -> String {
        let name = match self.coordinates {
            Coordinates::Machine => "MPos",
            Coordinates::Work => "WPos",
        };
        let [x, y, z] = self.position;
        let mut text = format!("<{}|{name}:{x:.3},{y:.3},{z:.3}", self.state.emit());
        // Writing to a String cannot fail.
        if let Some((blocks, bytes)) = self.buffer {
            _ = write!(text, "|Bf:{blocks},{bytes}");
        }
        if let Some(feed) = self.feed {
            _ = write!(text, "|FS:{feed:.0},0");
        }
        if !self.pins.is_empty() {
            _ = write!(text, "|Pn:{}", self.pins);
        }
        if let Some([x, y, z]) = self.work_offset {
            _ = write!(text, "|WCO:{x:.3},{y:.3},{z:.3}");
        }
        if let Some([feed, rapids, spindle]) = self.overrides {
            _ = write!(text, "|Ov:{feed},{rapids},{spindle}");
        }
        text + ">"
    }
}

/// Three (or, on bigger machines, up to eight) coordinates, of which the first three count, and their decimals. All must have the
/// same number of decimals, or a digit got lost on the way.
fn parse_coordinates(values: &str) -> Option<([Distance; 3], u8)> {
    let parts: Vec<&str> = values.split(',').collect();
    if !(3..=8).contains(&parts.len()) {
        return None;
    }
    let decimals = parts[0].split_once('.')?.1.len();
    if !(1..=6).contains(&decimals) {
        return None;
    }
    for part in &parts {
        let (whole, fraction) = part.split_once('.')?;
        if fraction.len() != decimals || whole.trim_start_matches('-').is_empty() || part.starts_with('+') {
            return None;
        }
        Distance::parse_mm(part)?;
    }
    let position = [
        Distance::parse_mm(parts[0])?,
        Distance::parse_mm(parts[1])?,
        Distance::parse_mm(parts[2])?,
    ];
    Some((position, u8::try_from(decimals).ok()?))
}

fn whole_numbers<const N: usize>(values: &str) -> Option<[u16; N]> {
    let numbers: Vec<u16> = values.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

/// One line from the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `ok`: the oldest unacknowledged line was taken.
    Ok,
    /// `error:N`: it was refused.
    Error(ErrorCode),
    /// `ALARM:N`.
    Alarm(AlarmCode),
    /// `<...>`.
    Status(StatusReport),
    /// The welcome line, sent after every reset: firmware name and version, for example `Grbl 1.1h`.
    Welcome(String),
    /// `$n=value`.
    Setting {
        /// Number of the setting.
        number: u16,
        /// Its value.
        value: Distance,
    },
    /// `[TAG:text]`, for example `[VER:1.1h.20190830:]`.
    Message {
        /// `MSG`, `VER`, `OPT`, ...
        tag: String,
        /// The rest.
        text: String,
    },
    /// `>line:ok`: a startup line was run.
    Startup(String),
}

impl Reply {
    /// Understands one line without its line end; `None` for anything that is not exactly a reply.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_REPLY || !line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return None;
        }
        let text = std::str::from_utf8(line).ok()?;
        if text == "ok" {
            return Some(Self::Ok);
        }
        if let Some(code) = text.strip_prefix("error:") {
            return number(code).map(|code| Self::Error(ErrorCode(code)));
        }
        if let Some(code) = text.strip_prefix("ALARM:") {
            return number(code).map(|code| Self::Alarm(AlarmCode(code)));
        }
        match text.as_bytes().first()? {
            b'<' => StatusReport::parse(text).map(Self::Status),
            b'[' => parse_message(text),
            b'$' => parse_setting(text),
            b'>' => Some(Self::Startup(text[1..].to_owned())),
            b'G' => parse_welcome(text),
            _ => None,
        }
    }

    /// The line without its line end.
    pub fn emit(&self) -> String {
        match self {
            Self::Ok => "ok".to_owned(),
            Self::Error(code) => format!("error:{}", code.0),
            Self::Alarm(code) => format!("ALARM:{}", code.0),
            Self::Status(report) => report.emit(),
            Self::Welcome(version) => format!("{version} ['$' for help]"),
            // Settings 0 to 99 are whole numbers except the junction deviation, arc tolerance and homing rates.
            Self::Setting { number, value } if *number < 100 && !matches!(number, 11 | 12 | 24 | 25 | 27) => {
                format!("${number}={value:.0}")
            }
            Self::Setting { number, value } => format!("${number}={value:.3}"),
            Self::Message { tag, text } => format!("[{tag}:{text}]"),
            Self::Startup(text) => format!(">{text}"),
        }
    }
}

/// A decimal number without sign or leading blanks.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

fn parse_message(text: &str) -> Option<Reply> {
    let (tag, text) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    let known_shape = !tag.is_empty() && tag.bytes().all(|byte| byte.is_ascii_alphanumeric());
    known_shape.then(|| Reply::Message {
        tag: tag.to_owned(),
        text: text.to_owned(),
    })
}

fn parse_setting(text: &str) -> Option<Reply> {
    let (setting, value) = text.strip_prefix('$')?.split_once('=')?;
    Some(Reply::Setting {
        number: number(setting)?,
        value: Distance::parse_mm(value)?,
    })
}

/// `Grbl 1.1h ['$' for help]`; grblHAL says `GrblHAL 1.1f ['$' or '$HELP' for help]`.
fn parse_welcome(text: &str) -> Option<Reply> {
    let (version, help) = text.split_once(" [")?;
    let name = version.split(' ').next()?;
    let known = matches!(name, "Grbl" | "GrblHAL") && help.ends_with("for help]");
    known.then(|| Reply::Welcome(version.to_owned()))
}

/// Cuts a stream of bytes into lines of at most [`MAX_REPLY`] bytes.
#[derive(Clone, Debug, Default)]
pub struct LineSplitter {
    line: Vec<u8>,
    overlong: bool,
}

impl LineSplitter {
    /// Takes one byte; a line when it was the last of one. Empty lines are skipped; an overlong line comes back empty.
    pub fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        if !matches!(byte, b'\n' | b'\r') {
            if self.line.len() < MAX_REPLY {
                self.line.push(byte);
            } else {
                self.overlong = true;
            }
            return None;
        }
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.overlong) {
            return Some(Vec::new());
        }
        (!line.is_empty()).then_some(line)
    }

    /// Forgets a half-received line.
    pub fn clear(&mut self) {
        self.line.clear();
        self.overlong = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mm(text: &str) -> Distance {
        Distance::parse_mm(text).unwrap()
    }

    #[test]
    fn recorded_lines_are_understood_and_come_out_the_same() {
        for line in [
            "ok",
            "error:15",
            "ALARM:3",
            "Grbl 1.1h ['$' for help]",
            "[VER:1.1h.20190830:]",
            "[OPT:V,15,128]",
            "[MSG:'$H'|'$X' to unlock]",
            "[MSG:Caution: Unlocked]",
            "$1=25",
            "$11=0.010",
            "$110=500.000",
            ">G54:ok",
            "<Idle|MPos:0.000,0.000,0.000|FS:0,0|WCO:0.000,0.000,0.000>",
            "<Jog|MPos:0.000,0.000,2.508|FS:600,0|Ov:100,100,100>",
            "<Hold:0|WPos:-1.000,0.000,2.508|Bf:15,128|FS:600,0|Pn:XZ>",
        ] {
            let reply = Reply::parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(reply.emit(), line);
        }
    }

    #[test]
    fn foreign_firmware_is_understood() {
        for line in [
            "<Alarm:11|MPos:0.000,0.000,0.000,1.000|FS:0,0|A:SM|TLR:0|H:0|FW:grblHAL>",
            "GrblHAL 1.1f ['$' or '$HELP' for help]",
            "<Idle|MPos:0.0000,0.0000,0.0000|F:1.5>",
            "<Idle|MPos:0.00,0.00,0.00|FS:0,0>",
            "<Idle|MPos:0.000,0.000,0.000|FS:0,0|Pn:0>",
            "<Idle|MPos:0.000,0.000,0.000,0.000,0.000,0.000|FS:0,0|SD:12.5,/sd/a b.nc>",
            "<Idle|MPos:0.000,0.000,0.000|FS:,|Bf:a,b|Ov:1|new|x y:1>",
            "[AXS:3:XYZ]",
        ] {
            assert!(Reply::parse(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn corrupted_lines_are_rejected() {
        for line in [
            "<Idle|MPos:-72.425,-25.634,0.000FS:0,0>",
            "<Idle|MPos:-72.425,-25.64,0.000|FS:0,0>",
            "<Idle|MPos:-72.425,-25.634|FS:0,0>",
            "<Idle|MPos:-72.425,-25.634,0.000|FS:0,0",
            "<Idle|MPos:-72.425,-25.634,|FS:0,0>",
            "<Idle|MPos:-72.425,-25.634,0.000|FS:0,0<Idle>",
            "<Idle|MPos:1.000,1.000,1.000|MPos:2.000,2.000,2.000>",
            "<Idle|FS:0,0|MPos:1.000,1.000,1.000>",
            "<Idl|MPos:1.000,1.000,1.000>",
            "<Idle|MPos:1.000,.000,1.000>",
            "okok",
            "o",
            " ok",
            "error:",
            "error:-1",
            "error:999",
            "ALARM",
            "Grbl",
            "$1",
            "[MSG",
            "",
        ] {
            assert_eq!(Reply::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn lines_are_cut_and_capped() {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        let noise = [b'x'; 1000];
        for byte in b"ok\r\n\r\n<Id"
            .iter()
            .chain(b"le>\r\n")
            .chain(&noise)
            .chain(b"\r\nok\r\n")
        {
            lines.extend(splitter.push(*byte));
            assert!(splitter.line.len() <= MAX_REPLY);
        }
        assert_eq!(
            lines,
            [b"ok".to_vec(), b"<Idle>".to_vec(), Vec::new(), b"ok".to_vec()]
        );
    }

    fn coordinate() -> impl Strategy<Value = Distance> {
        (-9_999_999i64..=9_999_999).prop_map(|um| Distance::from_nm(um * 1000).unwrap())
    }

    fn state() -> impl Strategy<Value = MachineState> {
        use MachineState::{Alarm, Check, Door, Hold, Home, Idle, Jog, Run, Sleep};
        prop::sample::select(vec![
            Idle,
            Run,
            Hold(0),
            Hold(1),
            Jog,
            Alarm,
            Door(0),
            Door(3),
            Check,
            Home,
            Sleep,
        ])
    }

    prop_compose! {
        fn report()(
            state in state(),
            work: bool,
            position in prop::array::uniform3(coordinate()),
            feed in prop::option::of(0i64..100_000),
            buffer in prop::option::of(any::<(u16, u16)>()),
            work_offset in prop::option::of(prop::array::uniform3(coordinate())),
            pins in "[XYZPDHRS]{0,4}",
            overrides in prop::option::of(any::<[u16; 3]>()),
        ) -> StatusReport {
            let decimals = 3;
            let coordinates = if work { Coordinates::Work } else { Coordinates::Machine };
            let feed = feed.and_then(|feed| Distance::from_nm(feed * 1_000_000));
            StatusReport { state, coordinates, position, decimals, feed, buffer, work_offset, pins, overrides }
        }
    }

    proptest! {
        #[test]
        fn status_round_trips(report in report()) {
            let reply = Reply::Status(report);
            prop_assert_eq!(Reply::parse(reply.emit().as_bytes()), Some(reply));
        }

        #[test]
        fn other_replies_round_trip(code: u8, text in "[ -Z^-~]{0,60}", whole in 0i64..1000, number in 100u16..200) {
            for reply in [
                Reply::Error(ErrorCode(code)),
                Reply::Alarm(AlarmCode(code)),
                Reply::Message { tag: "MSG".to_owned(), text: text.clone() },
                Reply::Startup(text),
                Reply::Setting { number, value: Distance::from_nm(whole * 1000).unwrap() },
            ] {
                prop_assert_eq!(Reply::parse(reply.emit().as_bytes()), Some(reply));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut splitter = LineSplitter::default();
            for byte in bytes {
                if let Some(line) = splitter.push(byte) {
                    prop_assert!(line.len() <= MAX_REPLY);
                    let _ = Reply::parse(&line);
                }
            }
        }

        #[test]
        fn a_report_with_a_lost_byte_never_moves_the_position_far_from_the_comma_it_had(
            report in report(), lost in 0usize..200,
        ) {
            // Losing a separator or a decimal is always noticed; the oracle is the field count and the decimals.
            let text = Reply::Status(report.clone()).emit();
            let lost = lost % text.len();
            let byte = text.as_bytes()[lost];
            let mut bytes = text.into_bytes();
            bytes.remove(lost);
            if matches!(byte, b'<' | b'>' | b',' | b'.') && report.overrides.is_none() && report.buffer.is_none() {
                let parsed = Reply::parse(&bytes);
                if let Some(Reply::Status(parsed)) = parsed {
                    prop_assert_eq!(parsed.position, report.position);
                }
            }
        }
    }

    #[test]
    fn parsed_positions_are_exact() {
        let Some(Reply::Status(report)) = Reply::parse(b"<Idle|MPos:-0.001,12.345,124.960|FS:0,0>") else {
            panic!()
        };
        assert_eq!(report.position, [mm("-0.001"), mm("12.345"), mm("124.960")]);
    }
}
