//! Who is answered, how and when: rows of what happens, in virtual time.

use super::*;
use crate::classes::DistanceIndex;
use crate::focus::Law;
use crate::units::Defocus;

/// A goal of this number, cancelled or not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plain {
    number: u32,
    accepted: Instant,
    is_cancelling: bool,
}

impl Goal for Plain {
    fn accepted(&self) -> Instant {
        self.accepted
    }

    fn is_cancelling(&self) -> bool {
        self.is_cancelling
    }
}

type Sut = Session<Plain, &'static str, &'static str>;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(5_000_000_000 + ms * 1_000_000)
}

fn goal(number: u32, ms: u64) -> Plain {
    Plain {
        number,
        accepted: at(ms),
        is_cancelling: false,
    }
}

fn news(motion: StageMotion, ms: u64) -> StageNews {
    StageNews {
        report: StageReport {
            z: Some(StageHeight::from_um(0.0)),
            motion,
            at: at(ms),
        },
        reason: String::new(),
        stops: 0,
    }
}

/// 20 µm too far, seen clearly.
fn far(ms: u64) -> Observation {
    Observation {
        index: DistanceIndex::from_class(1),
        defocus: Some(Defocus::from_um(20.0)),
        other_side: 0.0,
        trusted: true,
        reason: "".into(),
        stddev_um: None,
        sharpness: None,
        has_specimen: true,
        left_out: 0,
        exposed: at(ms),
    }
}

/// Of a law that commands velocities.
fn stepwise() -> FocusConfig {
    FocusConfig {
        law: Law::Stepwise,
        ..FocusConfig::default()
    }
}

/// An active session with a stage that stands.
fn ready() -> Sut {
    let mut session = Sut::new(stepwise(), false);
    session.activate();
    session.handle_stage(news(StageMotion::Still, 0), at(0));
    session
}

/// Polls every 20 ms; the stage does as it is told and estimates say what they said.
fn run_until(session: &mut Sut, from_ms: u64, until_ms: u64) -> f64 {
    let mut velocity = 0.0;
    for ms in (from_ms..until_ms).step_by(20) {
        session.handle_estimate(far(ms), at(ms));
        velocity = match session.poll(at(ms)) {
            Some(Command::Velocity(velocity)) => velocity,
            Some(target) => panic!("{target:?}"),
            None => 0.0,
        };
        let motion = if velocity == 0.0 {
            StageMotion::Still
        } else {
            StageMotion::Moving
        };
        session.handle_stage(news(motion, ms + 10), at(ms + 10));
    }
    velocity
}

/// A session whose goal 1 moves the stage, and the time.
fn moving() -> (Sut, u64) {
    let mut session = ready();
    session.begin(goal(1, 0), Wanted::default(), at(0));
    for ms in (20..3000).step_by(20) {
        if run_until(&mut session, ms, ms + 20) != 0.0 {
            return (session, ms + 20);
        }
    }
    panic!("nothing moves: {:?}", session.controller().state());
}

/// The end of the only goal that was answered, and its sentence.
fn ended(session: &mut Sut) -> Option<(u32, End, String)> {
    let mut answers = session.answers();
    assert!(answers.len() <= 1, "{answers:?}");
    match answers.pop()? {
        Answer::Goal {
            goal, end, message, ..
        } => Some((goal.number, end, message)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_hinders_a_run_is_said() {
    let missing = || Surroundings {
        missing: Some("the classifier is silent".to_owned()),
        ..Surroundings::default()
    };
    let unfit = || Surroundings {
        unfit: Some("recorded"),
        ..Surroundings::default()
    };
    let lost = StageNews {
        report: StageReport {
            z: None,
            ..news(StageMotion::Still, 0).report
        },
        ..news(StageMotion::Still, 0)
    };
    let faulty = StageNews {
        reason: "the port is closed".to_owned(),
        ..news(StageMotion::Unavailable, 0)
    };
    for (is_active, stage, around, of_goal, of_enable) in [
        (
            false,
            Some(news(StageMotion::Still, 0)),
            Surroundings::default(),
            Some("not active"),
            Some("not active"),
        ),
        (
            true,
            Some(news(StageMotion::Still, 0)),
            Surroundings::default(),
            None,
            None,
        ),
        (
            true,
            Some(news(StageMotion::Still, 0)),
            missing(),
            Some("silent"),
            Some("silent"),
        ),
        (
            true,
            Some(news(StageMotion::Still, 0)),
            unfit(),
            Some("recorded"),
            Some("recorded"),
        ),
        (
            true,
            Some(lost),
            Surroundings::default(),
            Some("not valid"),
            Some("not valid"),
        ),
        (
            true,
            Some(faulty),
            Surroundings::default(),
            Some("the port is closed"),
            Some("the port is closed"),
        ),
        // Enabled before the stage is heard of, the law waits for it; a goal would not know what it waits for.
        (true, None, Surroundings::default(), Some("not ready"), None),
    ] {
        let mut session = Sut::new(stepwise(), false);
        if is_active {
            session.activate();
        }
        if let Some(stage) = stage.clone() {
            session.handle_stage(stage, at(0));
        }
        session.handle_surroundings(around.clone(), at(0));
        let refused = session.check_goal().err();
        assert_eq!(
            refused.is_some(),
            of_goal.is_some(),
            "{stage:?} {around:?}: {refused:?}"
        );
        assert!(refused.unwrap_or_default().contains(of_goal.unwrap_or_default()));
        session.enable("enable", at(0));
        let answer = session.answers().pop().unwrap();
        match (answer, of_enable) {
            (Answer::Call("enable", Ok("focusing")), None) => {}
            (Answer::Call("enable", Err(reason)), Some(word)) => assert!(reason.contains(word), "{reason}"),
            (answer, expected) => panic!("{answer:?}, not {expected:?}"),
        }
    }
    assert_eq!(ready().check_goal(), Ok(()));
}

#[test]
fn a_goal_ends_when_the_stage_stands() {
    type Cause = fn(&mut Sut, Instant);
    let cases: [(Cause, End, &str); 5] = [
        (
            |session, now| session.stop("stop", now),
            End::Preempted,
            "~/stop was called",
        ),
        (
            |session, now| session.disable("off", now),
            End::Preempted,
            "~/enable was called",
        ),
        (
            |session, now| session.deactivate("leave", now),
            End::Preempted,
            "deactivated",
        ),
        (
            |session, now| {
                let missing = Some("the camera is silent".to_owned());
                session.handle_surroundings(
                    Surroundings {
                        missing,
                        ..Surroundings::default()
                    },
                    now,
                );
            },
            End::NodeGone,
            "the camera is silent",
        ),
        (
            |session, now| {
                session.handle_stage(
                    StageNews {
                        stops: 1,
                        ..news(StageMotion::Moving, 3000)
                    },
                    now,
                )
            },
            End::Preempted,
            "of the stepper bridge",
        ),
    ];
    for (cause, end, word) in cases {
        let (mut session, ms) = moving();
        cause(&mut session, at(ms));
        assert_eq!(
            session.poll(at(ms)),
            Some(Command::STAND),
            "{word}: a zero is sent at once"
        );
        assert!(session.answers().is_empty(), "{word}: it still moves");
        session.handle_stage(
            StageNews {
                stops: 1,
                ..news(StageMotion::Still, 4000)
            },
            at(ms + 200),
        );
        session.poll(at(ms + 200));
        let answers = session.answers();
        let of_goal = answers.iter().find_map(|answer| match answer {
            Answer::Goal {
                goal, end, message, ..
            } => Some((goal.number, *end, message.clone())),
            _ => None,
        });
        let (number, found, message) = of_goal.unwrap_or_else(|| panic!("{word}: {answers:?}"));
        assert_eq!((number, found), (1, end), "{message}");
        assert!(message.contains(word), "{message}");
        for answer in answers {
            match answer {
                Answer::Call(_, outcome) => assert!(outcome.is_ok()),
                Answer::Left(_, outcome) => assert_eq!(outcome, Ok(())),
                Answer::Goal { .. } => {}
            }
        }
    }
}

#[test]
fn zeros_are_repeated_after_a_motion() {
    let (mut session, ms) = moving();
    session.disable("off", at(ms));
    session.handle_stage(news(StageMotion::Still, 4000), at(ms));
    let sent: Vec<_> = (0..8).map(|tick| session.poll(at(ms + 20 * tick))).collect();
    assert_eq!(sent[..5], [Some(Command::STAND); 5]);
    assert_eq!(sent[5..], [None; 3]);
    assert!(!session.is_busy());
}

#[test]
fn a_newer_goal_takes_over_at_once_and_a_cancel_waits_for_the_stage() {
    let (mut session, ms) = moving();
    session.begin(goal(2, ms), Wanted::default(), at(ms));
    let (number, end, _) = ended(&mut session).unwrap();
    assert_eq!((number, end), (1, End::Preempted));
    assert_eq!(session.goal().map(|goal| goal.number), Some(2));

    let mut session = ready();
    session.begin(
        Plain {
            is_cancelling: true,
            ..goal(3, 0)
        },
        Wanted::default(),
        at(0),
    );
    session.handle_stage(news(StageMotion::Moving, 200), at(200));
    session.poll(at(200));
    assert_eq!(ended(&mut session), None);
    session.handle_stage(news(StageMotion::Still, 400), at(400));
    session.poll(at(400));
    assert_eq!(
        ended(&mut session),
        Some((3, End::Cancelled, "stopped as asked".to_owned()))
    );
}

#[test]
fn a_stage_that_falls_silent_leaves_no_one_waiting() {
    let (mut session, ms) = moving();
    session.stop("stop", at(ms));
    session.deactivate("leave", at(ms));
    for later in (0..2000).step_by(20) {
        session.poll(at(ms + later));
    }
    let answers = session.answers();
    assert_eq!(answers.len(), 3, "{answers:?}");
    for answer in answers {
        match answer {
            Answer::Goal { end, message, .. } => {
                assert_eq!(end, End::Preempted);
                assert!(message.contains("has not been heard of since"), "{message}");
            }
            Answer::Call(_, outcome) => assert!(outcome.unwrap_err().contains("still moves")),
            Answer::Left(_, outcome) => assert!(outcome.unwrap_err().contains("standstill")),
        }
    }
    // And a success that cannot be seen is none.
    let mut session = ready();
    session.begin(
        Plain {
            is_cancelling: true,
            ..goal(4, 0)
        },
        Wanted::default(),
        at(0),
    );
    session.handle_stage(news(StageMotion::Moving, 100), at(100));
    for ms in (100..2000).step_by(20) {
        session.poll(at(ms));
    }
    let (_, end, message) = ended(&mut session).unwrap();
    assert_eq!(end, End::GaveUp, "{message}");
}

#[test]
fn a_goal_has_its_own_time() {
    let mut session = ready();
    session.begin(
        goal(1, 0),
        Wanted {
            limit: Some(Duration::from_millis(500)),
            ..Wanted::default()
        },
        at(0),
    );
    for ms in (0..1200).step_by(20) {
        session.poll(at(ms));
        session.handle_stage(news(StageMotion::Still, ms + 10), at(ms + 10));
    }
    let (_, end, message) = ended(&mut session).unwrap();
    assert_eq!(end, End::GaveUp);
    assert!(message.contains("timeout"), "{message}");
    assert_eq!(*session.controller().state(), RunState::Disabled);
}

#[test]
fn a_goal_that_holds_ends_by_others_only() {
    let limit = Some(Duration::from_millis(500));
    let gone = RunState::Failed("gone".to_owned());
    let rows = [
        // Holds, what the law is doing, whether it was in focus, time, whether it is cancelled, and the end.
        (false, &RunState::InFocus, true, 100, false, Some(End::InFocus)),
        (true, &RunState::InFocus, true, 100, false, None),
        (true, &RunState::InFocus, true, 9000, false, None),
        (true, &RunState::InFocus, true, 9000, true, Some(End::Cancelled)),
        (true, &RunState::Looking, true, 9000, false, None),
        (true, &RunState::Looking, false, 100, false, None),
        (true, &RunState::Looking, false, 9000, false, Some(End::GaveUp)),
        (true, &gone, false, 100, false, Some(End::GaveUp)),
    ];
    for (holds, state, is_confirmed, ms, is_cancelling, expected) in rows {
        let run = Run {
            goal: Plain {
                is_cancelling,
                ..goal(1, 0)
            },
            wanted: Wanted {
                holds,
                limit,
                ..Wanted::default()
            },
            from: None,
            ending: None,
        };
        let account = Account {
            is_confirmed,
            ..Account::default()
        };
        let found = verdict(&run, state, account, at(ms)).map(|(end, ..)| end);
        assert_eq!(
            found, expected,
            "{holds} {state:?} {is_confirmed} {ms} {is_cancelling}"
        );
    }
}

#[test]
fn what_a_goal_asks_for_holds_for_the_goal_only_and_never_widens_the_limits() {
    let mut session = ready();
    let shipped = session.controller().config().clone();
    session.begin(
        goal(1, 0),
        Wanted {
            law: Some(Law::Predictive),
            reach_um: Some(150.0),
            tolerance_depths: Some(0.4),
            ..Wanted::default()
        },
        at(0),
    );
    let z_um = 0.0;
    let narrowed = session.controller().config().clone();
    assert_eq!((narrowed.law, narrowed.tolerance_depths), (Law::Predictive, 0.4));
    assert_eq!(narrowed.z_min, shipped.z_min, "the limit is nearer");
    assert_eq!(narrowed.z_max, StageHeight::from_um(z_um + 150.0));
    // Other settings in the middle of it.
    let settle = Duration::from_millis(70);
    session.set_config(FocusConfig {
        settle,
        ..shipped.clone()
    });
    assert_eq!(*session.controller().config(), FocusConfig { settle, ..narrowed });
    session.begin(goal(2, 20), Wanted::default(), at(20));
    assert_eq!(*session.controller().config(), FocusConfig { settle, ..shipped });
}

#[test]
fn a_run_begins_by_itself_once_nothing_hinders_it() {
    let begin = || Sut::new(stepwise(), true);
    let mut session = begin();
    session.handle_stage(news(StageMotion::Still, 0), at(0));
    assert_eq!(*session.controller().state(), RunState::Disabled, "not active");
    session.activate();
    session.handle_stage(news(StageMotion::Unavailable, 100), at(100));
    assert_eq!(*session.controller().state(), RunState::Disabled, "no stage");
    session.handle_stage(news(StageMotion::Still, 200), at(200));
    assert_eq!(*session.controller().state(), RunState::Looking);
    // Not again after a stop, and not at all if someone wanted something else first.
    session.stop("stop", at(300));
    session.handle_stage(news(StageMotion::Still, 400), at(400));
    assert_eq!(*session.controller().state(), RunState::Disabled);
    let mut session = begin();
    session.activate();
    session.handle_request();
    session.handle_stage(news(StageMotion::Still, 200), at(200));
    assert_eq!(*session.controller().state(), RunState::Disabled);
}

#[test]
fn nothing_resumes_when_a_missing_node_is_back() {
    let (mut session, ms) = moving();
    let missing = Some("the camera is silent".to_owned());
    let around = Surroundings {
        missing,
        ..Surroundings::default()
    };
    session.handle_surroundings(around.clone(), at(ms));
    assert!(session.check_able().unwrap_err().contains("silent"));
    session.handle_surroundings(Surroundings::default(), at(ms + 500));
    assert_eq!(*session.controller().state(), RunState::Disabled);
    assert_eq!(session.check_able(), Ok(()));
    // In a process that ends the others end first, which is no news.
    let (mut session, ms) = moving();
    session.handle_surroundings(
        Surroundings {
            is_ending: true,
            ..around
        },
        at(ms),
    );
    assert!(!matches!(session.controller().state(), RunState::Failed(_)));
}

#[test]
fn everyone_is_answered_at_the_end_and_a_crowd_at_once() {
    let (mut session, ms) = moving();
    for _ in 0..101 {
        session.stop("stop", at(ms));
    }
    session.poll(at(ms));
    assert_eq!(session.answers().len(), 101, "more than wait");
    session.stop("stop", at(ms));
    session.close();
    assert_eq!(session.answers().len(), 2, "the goal and the call");
}
