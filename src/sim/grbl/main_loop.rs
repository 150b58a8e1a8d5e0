//! The emulated main loop: lines and real-time requests, one after the other.

use std::time::Duration;

use super::{Emulator, Job, WindDown};
use crate::protocol::grbl::command::{Command, Distance, ErrorCode, Line, MAX_LINE, Mode, RX_BUFFER};
use crate::protocol::grbl::reply::{AlarmCode, MachineState, Reply, StatusReport};
use crate::sim::grbl::planner::Queued;
use crate::stage::Axis;

impl Emulator {
    pub(super) fn run_main_loop(&mut self) {
        if self.wind_down != WindDown::No {
            return;
        }
        match self.job {
            None => {}
            Some((_, Job::Wait(target, speed))) => {
                self.handle_flags();
                if !self.planner.is_full() && self.state != MachineState::Alarm {
                    self.job = None;
                    self.queue(target, speed);
                    self.say(&Reply::Ok);
                }
                return;
            }
            Some(_) => return,
        }
        self.handle_flags();
        while self.job.is_none() && !self.suspended && self.wind_down == WindDown::No {
            let Some(byte) = self.rx.pop_front() else { return };
            self.take_char(byte);
        }
    }

    pub(super) fn handle_flags(&mut self) {
        if std::mem::take(&mut self.flags.report) {
            self.report();
        }
        let cancel = std::mem::take(&mut self.flags.cancel);
        let hold = std::mem::take(&mut self.flags.hold);
        match self.state {
            MachineState::Jog if cancel || hold => self.braking = true,
            MachineState::Run if hold => {
                self.braking = true;
                self.state = MachineState::Hold(1);
            }
            MachineState::Idle if hold => {
                self.state = MachineState::Hold(0);
                self.suspended = true;
            }
            // Flagged while still Jog, executed when already Idle: suspended without showing it.
            MachineState::Idle if cancel => self.suspended = true,
            _ => {}
        }
        if std::mem::take(&mut self.flags.resume) && self.suspended {
            self.suspended = false;
            if self.state == MachineState::Hold(0) {
                self.state = if self.planner.is_empty() {
                    MachineState::Idle
                } else {
                    MachineState::Run
                };
                self.cut_segments();
            }
        }
    }

    /// Collects a line; blanks and control characters do not count.
    pub(super) fn take_char(&mut self, byte: u8) {
        if !matches!(byte, b'\n' | b'\r') {
            if byte > b' ' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                } else {
                    self.line_overflow = true;
                }
            }
            return;
        }
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.line_overflow) {
            self.say(&Reply::Error(ErrorCode::LINE_TOO_LONG));
            return;
        }
        let time = if line.is_empty() {
            Duration::ZERO
        } else {
            self.parse_time
        };
        self.job = Some((Some(self.time + time), Job::Execute(line)));
    }

    pub(super) fn execute(&mut self, line: &[u8]) {
        let command = std::str::from_utf8(line)
            .map_err(|_| ErrorCode::NO_LETTER)
            .and_then(Command::parse);
        let outcome = command.and_then(|command| {
            match command {
                Command::Nothing => Ok(()),
                Command::Jog(line) => return self.jog(&line),
                Command::Linear(line) => return self.linear(&line),
                Command::Settings => self.list_settings(),
                Command::Set { number, thousandths } => self.set(number, thousandths),
                Command::BuildInfo => self.build_info(),
                Command::Unlock => self.unlock(),
                Command::Home => return self.home(),
                Command::ParserState => self.parser_state(),
                Command::Mark(feed) => self.mark(feed),
            }
            .map(|()| true)
        });
        match outcome {
            Ok(true) => self.say(&Reply::Ok),
            Ok(false) => {}
            Err(code) => self.say(&Reply::Error(code)),
        }
    }

    pub(super) fn standing(&self) -> Result<(), ErrorCode> {
        match self.state {
            MachineState::Idle | MachineState::Alarm => Ok(()),
            _ => Err(ErrorCode::NOT_IDLE),
        }
    }

    pub(super) fn list_settings(&mut self) -> Result<(), ErrorCode> {
        self.standing()?;
        for (number, value) in self.settings.clone() {
            let value = Distance::from_um(value * 1000.0).unwrap_or_default();
            self.say(&Reply::Setting {
                number: u16::from(number),
                value,
            });
        }
        Ok(())
    }

    pub(super) fn set(&mut self, number: u8, thousandths: u32) -> Result<(), ErrorCode> {
        self.standing()?;
        let value = f64::from(thousandths) / 1000.0;
        if number == 20 && value != 0.0 && self.setting(22) == 0.0 {
            return Err(ErrorCode::SOFT_LIMIT_NEEDS_HOMING);
        }
        if (100..130).contains(&number) && value <= 0.0 {
            return Err(ErrorCode::NEGATIVE);
        }
        let counted_mm = self.machine_mm(self.time);
        self.write_setting(number, value)?;
        if number == 3 {
            // What turns over is the way that an axis goes from where it stands, not where it stands.
            for (axis, mm) in counted_mm.into_iter().enumerate() {
                self.count_from(axis, mm);
            }
        }
        if number == 22 && value == 0.0 {
            // Without homing there is no machine zero for soft limits to refer to.
            self.write_setting(20, 0.0)?;
        }
        if (100..103).contains(&number) {
            self.sync_planner();
        }
        Ok(())
    }

    fn write_setting(&mut self, number: u8, value: f64) -> Result<(), ErrorCode> {
        let entry = self
            .settings
            .iter_mut()
            .find(|(n, _)| *n == number)
            .ok_or(ErrorCode::BAD_SYSTEM_COMMAND)?;
        entry.1 = value;
        Ok(())
    }

    pub(super) fn build_info(&mut self) -> Result<(), ErrorCode> {
        self.standing()?;
        let version = format!("1.1h.20190830:{}", self.build);
        for (tag, text) in [("VER", version), ("OPT", "V,15,128".to_owned())] {
            self.say(&Reply::Message {
                tag: tag.to_owned(),
                text,
            });
        }
        Ok(())
    }

    fn parser_state(&mut self) -> Result<(), ErrorCode> {
        self.say(&Reply::Message {
            tag: "GC".to_owned(),
            text: format!("G0 G54 G17 G21 G90 G94 M5 M9 T0 F{} S0", self.modal_feed),
        });
        Ok(())
    }

    fn mark(&mut self, feed: u32) -> Result<(), ErrorCode> {
        if matches!(self.state, MachineState::Alarm | MachineState::Jog) {
            return Err(ErrorCode::LOCKED);
        }
        self.modal_feed = feed;
        Ok(())
    }

    pub(super) fn unlock(&mut self) -> Result<(), ErrorCode> {
        self.standing()?;
        if self.state == MachineState::Alarm {
            self.state = MachineState::Idle;
            self.say_message("Caution: Unlocked");
        }
        Ok(())
    }

    pub(super) fn jog(&mut self, line: &Line) -> Result<bool, ErrorCode> {
        if !matches!(self.state, MachineState::Idle | MachineState::Jog) {
            return Err(ErrorCode::NOT_IDLE);
        }
        let target = self.target(line);
        if self.beyond_travel(target) {
            return Err(ErrorCode::TRAVEL);
        }
        self.parser_mm = target;
        Ok(self.queue_or_wait(target.map(f64::from), line, MachineState::Jog))
    }

    pub(super) fn linear(&mut self, line: &Line) -> Result<bool, ErrorCode> {
        if matches!(self.state, MachineState::Alarm | MachineState::Jog) {
            return Err(ErrorCode::LOCKED);
        }
        let target = self.target(line);
        if self.beyond_travel(target) {
            self.halt(self.time);
            self.alarm(AlarmCode::SOFT_LIMIT, self.time);
            return Ok(false);
        }
        self.parser_mm = target;
        Ok(self.queue_or_wait(target.map(f64::from), line, MachineState::Run))
    }

    pub(super) fn target(&self, line: &Line) -> [f32; 3] {
        let mut target = self.parser_mm;
        for (target, distance) in target.iter_mut().zip(line.axes) {
            match (line.mode, distance) {
                (_, None) => {}
                (Mode::Relative, Some(distance)) => *target += distance.mm() as f32,
                (_, Some(distance)) => *target = distance.mm() as f32,
            }
        }
        target
    }

    pub(super) fn beyond_travel(&self, target: [f32; 3]) -> bool {
        self.setting(20) != 0.0
            && (0u8..3).any(|axis| {
                let target = f64::from(target[usize::from(axis)]);
                target > 0.0 || target < -self.setting(130 + axis)
            })
    }

    /// Whether the line can be acknowledged at once.
    pub(super) fn queue_or_wait(&mut self, target: [f64; 3], line: &Line, state: MachineState) -> bool {
        let speed = line.feed.map(|feed| feed.mm_per_s());
        if self.planner.is_full() {
            self.job = Some((None, Job::Wait(target, speed)));
            return false;
        }
        if self.state == MachineState::Idle {
            self.state = state;
        }
        self.queue(target, speed);
        true
    }

    pub(super) fn queue(&mut self, target: [f64; 3], speed: Option<f64>) {
        let limits = self.limits();
        let queued = self.planner.push(target, speed, &limits);
        if queued == Queued::Motion {
            self.cut_segments();
        }
        if self.segments.is_empty()
            && self.planner.is_empty()
            && matches!(self.state, MachineState::Jog | MachineState::Run)
        {
            self.state = MachineState::Idle;
        }
    }

    pub(super) fn report(&mut self) {
        let position = self
            .machine_mm(self.time)
            .map(|mm| Distance::from_um((mm * 1000.0).round()).unwrap_or_default());
        let mut report = StatusReport::new(self.state, position);
        let mask = self.setting(10) as u32;
        if mask & 2 != 0 {
            let free = RX_BUFFER - self.rx.len();
            report.buffer = Some((self.planner.free() as u16, free as u16));
        }
        let speed = if self.segments.is_empty() {
            0.0
        } else {
            self.planner.mm_per_s()
        };
        for axis in Axis::ALL {
            if self.is_limit_active(axis.index(), self.time) {
                report.pins.push(axis.letter());
            }
        }
        report.feed = Distance::from_um((speed * 60.0).round() * 1000.0);
        let (offset_every, override_every) = if self.segments.is_empty() {
            (9, 9)
        } else {
            (29, 19)
        };
        if self.offset_countdown == 0 {
            self.offset_countdown = offset_every;
            // The overrides have the next report to themselves.
            self.override_countdown = self.override_countdown.max(1);
            report.work_offset = Some([Distance::default(); 3]);
        } else {
            self.offset_countdown -= 1;
        }
        if self.override_countdown == 0 {
            self.override_countdown = override_every;
            report.overrides = Some([100; 3]);
        } else {
            self.override_countdown -= 1;
        }
        self.say(&Reply::Status(report));
    }
}
