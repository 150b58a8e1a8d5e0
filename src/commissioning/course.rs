//! The course of a first motion: what is asked, commanded and expected, one after the other, until everything was right or something was not.
//!
//! The owner of a [`Course`] calls [`Course::poll`] with what is known of the stage, does what it says, and reports what came of it by the
//! `handle_*` functions. The host is to be one that has never been told where the stage stands, so that by itself it moves nothing but up, and
//! slowly, until the course has told it. In this order:
//!
//! 1. The controller says which one it is, and how it is set.
//! 2. A person says what only a person knows ([`BEFORE`]).
//! 3. z rises, first by little, then so far that it can be seen; each time the read-back is compared, and the picture if there is one.
//!    A person says whether lens and slide moved apart.
//! 4. A slow rise is stopped on the way: how far it goes on is compared with what its deceleration allows.
//! 5. x and y move, one after the other, and back.
//!
//! Nothing is ever sent below the height at which the lens stood when it began. What went wrong or stays unknown ends the course.

mod verdicts;

use std::time::Duration;

use self::verdicts::{asked, row_name};

use super::plan::Plan;
use super::questions::{Answers, BEFORE, Question, Seen, seen_apart, seen_direction};
use super::record::{Record, Verdict};
use super::sight::{self, Sight, Told};
use crate::objective::Objective;
use crate::stage::guard::NAMES;
use crate::stage::host::StageConfig;
use crate::stage::identity::Identity;
use crate::stage::status::{StageState, StageStatus};
use crate::units::Instant;

/// Time in which a controller that boots, or is reset because it does not answer, has to be in touch.
const CONTACT_LIMIT: Duration = Duration::from_secs(15);
/// Time beyond twice the planned one that a motion may take.
const SPARE: Duration = Duration::from_secs(5);
/// Time after a motion in which what hangs on the drive comes to rest.
const SETTLE: Duration = Duration::from_millis(400);
/// What reports of one place may differ by, µm, and by which part of a way.
const READ_BACK: (f64, f64) = (1.5, 0.01);
/// Part of a rise after which it is stopped.
const STOPPED_AT: f64 = 0.3;
/// Part of the first rise that the lens stands above where it began while x and y are looked at.
const LOOKED_AT: f64 = 0.25;
/// Greatest speed of x and y, µm/s.
const ASIDE_UM_PER_S: f64 = 500.0;
/// Bit of z in the direction mask.
const Z_BIT: u32 = 4;

/// The camera, if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optics {
    /// Depth of field, µm.
    pub depth_of_field_um: f64,
    /// Smaller side of the field of view, µm.
    pub field_um: f64,
}

impl Optics {
    /// Of an objective before a camera of so many pixels.
    pub fn new(objective: &Objective, [width, height]: [usize; 2]) -> Self {
        Self {
            depth_of_field_um: objective.depth_of_field_um(),
            field_um: width.min(height) as f64 * objective.object_pixel_um(),
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: come back when the status has changed, or after some hundredths of a second.
    Wait,
    /// Ask a person, and report by [`Course::handle_answer`].
    Ask(Question),
    /// Take a picture of the stage as it stands, and report by [`Course::handle_sight`].
    Look,
    /// Move x, y, z by so much, µm, at a speed, µm/s.
    Move {
        /// How far.
        by_um: [f64; 3],
        /// How fast.
        um_per_s: f64,
    },
    /// Stop the stage.
    Stop,
    /// Tell the host that the stage stands here, x, y, z, µm.
    Reference([f64; 3]),
    /// It is over: stop the stage and let go of it; [`Course::record`] says what was found.
    End,
}

/// What is known of the stage.
pub struct Known<'a> {
    /// Its status.
    pub status: &'a StageStatus,
    /// Which controller it is.
    pub identity: Option<&'a Identity>,
    /// How far it may go on after a stop at a speed, µm of µm/s.
    pub stopping_um: &'a dyn Fn(f64) -> f64,
}

/// What a picture is compared for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compared {
    /// Nothing comes before it.
    First,
    /// The first rise, µm.
    Direction(f64),
    /// The second rise, µm.
    Rise(f64),
    /// A move along x or y, µm.
    Aside(usize, f64),
}

/// Part of a course.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Contact,
    Ask(Question),
    Look(Compared),
    /// A move along one axis by so much, µm, at a speed, µm/s; with the name of its row.
    Move(&'static str, usize, f64, f64),
    /// A rise that is stopped on the way.
    Halt(f64, f64),
    Reference,
    /// Down again to this height above where it began, µm.
    Lower(f64),
}

/// A motion under way.
#[derive(Clone, Copy, Debug)]
struct Motion {
    from_um: [f64; 3],
    by_um: [f64; 3],
    began: Instant,
    deadline: Instant,
    /// Height at which the stop was told.
    stopped_um: Option<f64>,
}

/// The course of one first motion.
#[derive(Clone, Debug)]
pub struct Course {
    optics: Option<Optics>,
    answers: Answers,
    record: Record,
    parts: Vec<Part>,
    at: usize,
    began: Option<Instant>,
    motion: Option<Motion>,
    /// Since when the stage has stood for a picture.
    stood: Option<Instant>,
    /// Height at which the lens began, µm as the controller counts.
    z_began_um: f64,
    is_told: bool,
    /// The picture before the last motion.
    before: Option<Sight>,
    /// Whether the picture has shown that z rises, that x and that y go.
    is_seen: [bool; 3],
    is_over: bool,
}

impl Course {
    /// Limits for the host that drives a first motion: not below where the lens stands, and no farther aside than is needed.
    pub fn stage_config() -> StageConfig {
        StageConfig {
            x_range_um: (-2000.0, 2000.0),
            y_range_um: (-2000.0, 2000.0),
            // A host keeps 1 µm from its limits.
            z_range_um: (-1.0, 2000.0),
            max_um_per_s: 500.0,
            max_down_um_per_s: 100.0,
            command_timeout_ms: 200,
        }
    }

    /// A course that has not begun, with a camera or without.
    pub fn new(optics: Option<Optics>) -> Self {
        let questions = BEFORE.map(Part::Ask);
        Self {
            optics,
            answers: Answers::default(),
            record: Record::new(&Answers::default()),
            parts: [&[Part::Contact][..], &questions].concat(),
            at: 0,
            began: None,
            motion: None,
            stood: None,
            z_began_um: f64::NAN,
            is_told: false,
            before: None,
            is_seen: [false; 3],
            is_over: false,
        }
    }

    /// What was found so far; its date and port are the owner's to fill in.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Answers so far, for the texts of questions.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// What happens now, a few words; nothing while something is asked, which says it itself.
    pub fn told(&self) -> String {
        match self.parts.get(self.at) {
            Some(Part::Contact) => "waiting for the controller".to_owned(),
            Some(Part::Ask(_)) => String::new(),
            Some(Part::Look(_)) => "taking a picture".to_owned(),
            Some(Part::Move(_, axis, um, _)) => format!("{} goes {um:+.0} um", NAMES[*axis]),
            Some(Part::Halt(um, _)) => format!("z rises by up to {um:.0} um and is stopped on the way"),
            Some(Part::Reference) => "counting from here".to_owned(),
            Some(Part::Lower(um)) => format!("z goes back to {um:.0} um above where it began"),
            None => "done".to_owned(),
        }
    }

    /// What to do now.
    pub fn poll(&mut self, known: &Known, now: Instant) -> Step {
        if self.is_over {
            return Step::End;
        }
        let Some(part) = self.parts.get(self.at).copied() else {
            self.pass();
            return Step::End;
        };
        if part == Part::Contact {
            self.poll_contact(known, now);
            return self.wait();
        }
        if let Some(trouble) = self.trouble(known) {
            self.add(
                row_name(part),
                asked(part),
                "no answer to it",
                Verdict::Wrong,
                &trouble,
            );
            self.refuse(&trouble);
            return Step::End;
        }
        match part {
            Part::Contact => Step::Wait,
            Part::Ask(question) => Step::Ask(question),
            Part::Look(_) => {
                let stood = *self.stood.get_or_insert(now);
                if now.since(stood) < SETTLE {
                    return Step::Wait;
                }
                Step::Look
            }
            Part::Move(name, axis, um, um_per_s) => self.poll_move(name, axis, um, um_per_s, known, now),
            Part::Lower(height_um) => {
                let um = height_um - (known.status.z_um() - self.z_began_um);
                match self.motion {
                    // What it stands at is no lower already.
                    None if um >= 0.0 => {
                        self.at += 1;
                        Step::Wait
                    }
                    None => self.begin(2, um, 80.0, known, now),
                    Some(motion) => {
                        self.poll_move("z down again: read-back", 2, motion.by_um[2], 80.0, known, now)
                    }
                }
            }
            Part::Halt(um, um_per_s) => self.poll_halt(um, um_per_s, known, now),
            Part::Reference => self.poll_reference(known),
        }
    }

    /// A person, or a file, answered; None where there is nobody to ask.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the answer; the question stands.
    pub fn handle_answer(&mut self, question: Question, answer: Option<&str>) -> Result<(), String> {
        if self.is_over || self.parts.get(self.at) != Some(&Part::Ask(question)) {
            return Ok(());
        }
        match (question, answer) {
            (Question::Apart, _) => {
                let seen = answer.map_or(Ok(Seen::Unknown), seen_apart)?;
                self.at += 1;
                self.judge_apart(seen);
            }
            (Question::DirectionX | Question::DirectionY, _) => {
                let axis = usize::from(question == Question::DirectionY);
                let seen = answer.map_or(Ok(Seen::Unknown), seen_direction)?;
                self.at += 1;
                self.judge_direction(axis, seen);
            }
            (_, None) => self.refuse(&format!(
                "'{}' is not answered, and what is not known is not tried",
                question.key()
            )),
            (_, Some(text)) => {
                self.answers.take(question, text)?;
                self.at += 1;
                if Some(&question) == BEFORE.last() {
                    self.lay_out();
                }
            }
        }
        Ok(())
    }

    /// A picture was taken, or could not be.
    pub fn handle_sight(&mut self, sight: Option<Sight>) {
        let Some(Part::Look(compared)) = self.parts.get(self.at).copied() else {
            return;
        };
        self.at += 1;
        self.stood = None;
        let before = std::mem::replace(&mut self.before, sight);
        let pair = before.as_ref().zip(self.before.as_ref());
        let missing = || Told::Nothing("there was no picture".to_owned());
        match compared {
            Compared::First => {}
            Compared::Direction(by_um) => {
                let told = pair.map_or_else(missing, |(a, b)| sight::direction(a, b, by_um));
                self.judge_picture("z up: direction by the picture", 2, by_um, told);
            }
            Compared::Rise(by_um) => {
                let told = pair.map_or_else(missing, |(a, b)| sight::rise(a, b, by_um));
                self.judge_picture("z up: scale by the picture", 2, by_um, told);
            }
            Compared::Aside(axis, by_um) => {
                let (told, um) = pair.map_or_else(|| (missing(), None), |(a, b)| sight::aside(a, b, by_um));
                self.record.in_picture[axis] = um.map(|um| um.map(|um| um / by_um));
                let name = ["x: by the picture", "y: by the picture"][axis];
                self.judge_picture(name, axis, by_um, told);
                if let [Some(x), Some(y)] = self.record.in_picture
                    && axis == 1
                    && !self.is_over
                    && sight::is_one_line(x, y)
                {
                    self.refuse(
                        "x and y move the picture along one line: check which motor is plugged in where",
                    );
                }
            }
        }
    }

    /// The stage refused what it was told, for this reason.
    pub fn handle_refusal(&mut self, reason: &str) {
        if let Some(part) = self.parts.get(self.at).copied() {
            self.add(row_name(part), asked(part), "refused", Verdict::Wrong, reason);
        }
        self.refuse(reason);
    }

    /// Somebody, or the system, wants it to end.
    pub fn handle_interrupt(&mut self, reason: &str) {
        self.refuse(reason);
    }
}

/// One part after the other.
impl Course {
    fn wait(&self) -> Step {
        if self.is_over { Step::End } else { Step::Wait }
    }

    fn poll_contact(&mut self, known: &Known, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let status = known.status;
        match (status.state, known.identity) {
            (StageState::Idle, Some(identity)) if status.z_um().is_finite() => {
                self.z_began_um = status.z_um();
                self.record.controller = identity.clone();
                let told = identity.to_string();
                self.add("controller", "which one it is", &told, Verdict::Right, "");
                self.at += 1;
            }
            (StageState::Fault, _) => self.refuse(&format!("the controller has a fault: {}", status.reason)),
            _ if now.since(began) < CONTACT_LIMIT => {}
            (StageState::Idle, None) => self.refuse(
                "the controller does not say which one it is ($I), so that nothing can be written down of it: install GRBL 1.1 on it",
            ),
            _ => self.refuse(&format!("the controller is not in touch: {}", status.reason)),
        }
        if self.is_over {
            let measured = status.state.name();
            let reason = self.record.reason.clone();
            self.add("controller", "which one it is", measured, Verdict::Wrong, &reason);
        }
    }

    /// Why nothing more can be tried.
    fn trouble(&self, known: &Known) -> Option<String> {
        let status = known.status;
        match status.state {
            StageState::Fault => return Some(status.reason.clone()),
            StageState::Disconnected => {
                return Some(format!("contact with the controller was lost: {}", status.reason));
            }
            StageState::Idle | StageState::Moving => {}
        }
        let difference = match known.identity {
            Some(identity) => identity.difference(&self.record.controller),
            None => Some("it does not say which one it is".to_owned()),
        };
        difference
            .map(|difference| format!("the controller became another one, because {difference}: begin again"))
    }

    /// Everything is answered: what is tried now.
    fn lay_out(&mut self) {
        let answers = &self.answers;
        let free_um = answers.working_distance_um.unwrap_or(f64::NAN);
        let plan = Plan::new(free_um);
        let plan = match self.optics {
            Some(optics) => plan.with_pictures(free_um, optics.depth_of_field_um, optics.field_um),
            None => plan,
        };
        let limits = format!(
            "z from {:.0} to {:.0} um, {:.0} um now",
            answers.z_min_um.unwrap_or(f64::NAN),
            answers.z_max_um.unwrap_or(f64::NAN),
            answers.z_now_um.unwrap_or(f64::NAN)
        );
        let free = format!("{free_um:.0} um to the slide");
        let fresh = Record::new(answers);
        self.record = Record {
            controller: std::mem::take(&mut self.record.controller),
            checks: std::mem::take(&mut self.record.checks),
            ..fresh
        };
        self.add("limits", &limits, &free, Verdict::Right, "as a person says");
        let look = |compared| self.optics.map(|_| Part::Look(compared));
        let rise = |name, um| Some(Part::Move(name, 2, um, plan.um_per_s));
        let upright = [
            look(Compared::First),
            rise("z up, first: read-back", plan.short_um),
            look(Compared::Direction(plan.short_um)),
            rise("z up, again: read-back", plan.second_um),
            look(Compared::Rise(plan.second_um)),
            rise("z up, farther: read-back", plan.visible_um),
            Some(Part::Ask(Question::Apart)),
            Some(Part::Halt(plan.stopped_um, plan.stopped_um_per_s)),
        ];
        let mut parts: Vec<Part> = upright.into_iter().flatten().collect();
        if self.answers.sideways == Some(true) {
            parts.push(Part::Reference);
            if self.optics.is_some() {
                // Higher up there is nothing to be seen.
                parts.push(Part::Lower(LOOKED_AT * plan.short_um));
            }
            for (axis, question) in [(0, Question::DirectionX), (1, Question::DirectionY)] {
                let go = |name: [&'static str; 2], um| Some(Part::Move(name[axis], axis, um, ASIDE_UM_PER_S));
                let aside_um = plan.aside_um;
                let sideways = [
                    go(["x, run-up: read-back", "y, run-up: read-back"], plan.run_up_um),
                    look(Compared::First),
                    go(["x: read-back", "y: read-back"], aside_um),
                    look(Compared::Aside(axis, aside_um)),
                    Some(Part::Ask(question)),
                    go(
                        ["x back: read-back", "y back: read-back"],
                        -(aside_um + plan.run_up_um),
                    ),
                ];
                parts.extend(sideways.into_iter().flatten());
            }
        } else {
            self.add("x and y", "", "", Verdict::NotChecked, "they have no motors");
        }
        (self.parts, self.at) = (parts, 0);
    }

    fn begin(&mut self, axis: usize, um: f64, um_per_s: f64, known: &Known, now: Instant) -> Step {
        let mut by_um = [0.0; 3];
        by_um[axis] = um;
        let planned = Duration::try_from_secs_f64(um.abs() / um_per_s).unwrap_or(SPARE);
        self.motion = Some(Motion {
            from_um: known.status.position_um,
            by_um,
            began: now,
            deadline: now + 2 * planned + SPARE,
            stopped_um: None,
        });
        Step::Move { by_um, um_per_s }
    }

    fn poll_move(
        &mut self,
        name: &str,
        axis: usize,
        um: f64,
        um_per_s: f64,
        known: &Known,
        now: Instant,
    ) -> Step {
        let Some(motion) = self.motion else {
            return match known.status.state {
                StageState::Idle => self.begin(axis, um, um_per_s, known, now),
                _ => Step::Wait,
            };
        };
        let is_standing = known.status.state == StageState::Idle && now > motion.began;
        if !is_standing {
            return self.check_time(name, motion, now);
        }
        self.motion = None;
        self.at += 1;
        let went_um: [f64; 3] =
            std::array::from_fn(|axis| known.status.position_um[axis] - motion.from_um[axis]);
        let is_right = (0..3).all(|axis| {
            let by_um = motion.by_um[axis];
            (went_um[axis] - by_um).abs() <= READ_BACK.0 + READ_BACK.1 * by_um.abs()
        });
        let (asked, measured) = (format!("{um:+.1} um"), format!("{:+.1} um", went_um[axis]));
        if is_right {
            self.add(name, &asked, &measured, Verdict::Right, "");
            return Step::Wait;
        }
        let reason = format!(
            "told to go {asked} {} went {measured} by the controller's own count: check its settings with $$",
            NAMES[axis]
        );
        self.add(name, &asked, &measured, Verdict::Wrong, &reason);
        self.refuse(&reason);
        Step::End
    }

    fn check_time(&mut self, name: &str, motion: Motion, now: Instant) -> Step {
        if now < motion.deadline {
            return Step::Wait;
        }
        let reason =
            "the motion did not end in twice its time: check that the controller answers and the motors turn";
        self.add(name, "to end", "still moving", Verdict::Wrong, reason);
        self.refuse(reason);
        Step::End
    }

    /// A rise that is stopped on the way.
    fn poll_halt(&mut self, um: f64, um_per_s: f64, known: &Known, now: Instant) -> Step {
        const NAME: &str = "stop";
        let status = known.status;
        let Some(motion) = self.motion else {
            return match status.state {
                StageState::Idle => self.begin(2, um, um_per_s, known, now),
                _ => Step::Wait,
            };
        };
        let is_standing = status.state == StageState::Idle && now > motion.began;
        let rose_um = status.z_um() - motion.from_um[2];
        let Some(stopped_um) = motion.stopped_um else {
            if is_standing {
                let reason =
                    "the rise ended before it was stopped: check the controller's speed and steps/mm";
                self.add(
                    NAME,
                    "to stop",
                    &format!("{rose_um:+.1} um"),
                    Verdict::Wrong,
                    reason,
                );
                self.refuse(reason);
                return Step::End;
            }
            if rose_um < STOPPED_AT * um {
                return self.check_time(NAME, motion, now);
            }
            self.motion = Some(Motion {
                stopped_um: Some(status.z_um()),
                ..motion
            });
            return Step::Stop;
        };
        if !is_standing {
            return self.check_time(NAME, motion, now);
        }
        self.motion = None;
        self.at += 1;
        let went_on_um = status.z_um() - stopped_um;
        let allowed_um = (known.stopping_um)(um_per_s);
        let asked = format!("at most {allowed_um:.1} um at {um_per_s:.0} um/s");
        let measured = format!("{went_on_um:.1} um");
        // Written so that NaN is wrong.
        let is_right = went_on_um.abs() <= allowed_um && rose_um < um - READ_BACK.0;
        if is_right {
            self.add(NAME, &asked, &measured, Verdict::Right, "");
            return Step::Wait;
        }
        let reason = format!(
            "the stage went on for {measured} after it was told to stop, {asked} allowed: if this computer was not busy, the firmware does not \
             cancel jogs; install GRBL 1.1 on it"
        );
        self.add(NAME, &asked, &measured, Verdict::Wrong, &reason);
        self.refuse(&reason);
        Step::End
    }

    /// From here on the host knows where it stands, and so may move aside.
    fn poll_reference(&mut self, known: &Known) -> Step {
        if known.status.position_valid && known.status.xy_valid && self.is_told {
            self.at += 1;
            return Step::Wait;
        }
        if std::mem::replace(&mut self.is_told, true) {
            return Step::Wait;
        }
        let risen_um = known.status.z_um() - self.z_began_um;
        self.z_began_um = 0.0;
        Step::Reference([0.0, 0.0, risen_um])
    }
}
