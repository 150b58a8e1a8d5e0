//! Closed loops in virtual time: a stage that follows at once, an estimator with latency.

use proptest::prelude::*;

use super::*;
use crate::classes::ClassEdges;
use crate::units::Micrometres;

/// A stage, a lens and a classifier with latency, stepped every 10 ms.
struct Loop {
    controller: FocusController,
    z_um: f64,
    lowest_um: f64,
    focus_um: f64,
    /// Beyond this depth the sign is not in the picture and everything looks too far.
    blind_below_um: f64,
    has_specimen: bool,
    /// Where the picture is sharpest, µm, if frames have a sharpness.
    sharpest_um: Option<f64>,
    reason: Arc<str>,
    latency: Duration,
    /// Dirt on the camera is taken for a specimen in focus until the lens was seen to have moved by 6 µm.
    dirt: Dirt,
    first_um: f64,
    /// How many ticks pass before the stage does what it is told, and what it was told meanwhile.
    hears_late: usize,
    unheard_of: Vec<Command>,
    /// How late the reports of the stage arrive.
    reports_late: Duration,
    unheard: Vec<StageReport>,
    now: Instant,
    pending: Vec<Observation>,
    last_exposure: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Dirt {
    None,
    Unknown,
    Known,
}

const TICK: Duration = Duration::from_millis(10);

impl Loop {
    fn new(law: Law, start_um: f64, latency_ms: u64) -> Self {
        let mut controller = FocusController::new(
            FocusConfig {
                law,
                ..FocusConfig::default()
            }
            .checked()
            .unwrap(),
        );
        let now = Instant::from_nanos(1_000_000_000);
        controller.enable(now);
        Self {
            controller,
            z_um: start_um,
            lowest_um: start_um,
            focus_um: 0.0,
            blind_below_um: 1e3,
            has_specimen: true,
            sharpest_um: None,
            reason: "".into(),
            latency: Duration::from_millis(latency_ms),
            dirt: Dirt::None,
            first_um: start_um,
            hears_late: 0,
            unheard_of: Vec::new(),
            reports_late: Duration::ZERO,
            unheard: Vec::new(),
            now,
            pending: Vec::new(),
            last_exposure: now,
        }
    }

    fn observe(&self, trusted: bool) -> Observation {
        let seen_um = match self.dirt {
            Dirt::Unknown => 0.3,
            Dirt::None | Dirt::Known => self.z_um - self.focus_um,
        };
        let defocus = Micrometres(seen_um);
        let seen = if defocus.0 < -self.blind_below_um {
            -defocus
        } else {
            defocus
        };
        let index = self.controller.config.edges.classify(seen);
        let other_side = if defocus.abs().0 > self.blind_below_um {
            0.4
        } else {
            0.0
        };
        Observation {
            index,
            defocus: Some(Defocus::from_um(seen.0)),
            other_side,
            trusted,
            reason: self.reason.clone(),
            stddev_um: None,
            sharpness: self
                .sharpest_um
                .map(|um| (-((self.z_um - um) / 2.0).powi(2)).exp()),
            has_specimen: self.has_specimen,
            left_out: if self.dirt == Dirt::Known { 21 } else { 0 },
            exposed: self.now,
        }
    }

    fn tick(&mut self, see: bool, trusted: bool) -> f64 {
        if self.dirt == Dirt::Unknown && (self.z_um - self.first_um).abs() >= 6.0 {
            self.dirt = Dirt::Known;
        }
        if see && self.now.since(self.last_exposure) >= Duration::from_millis(50) {
            self.pending.push(self.observe(trusted));
            self.last_exposure = self.now;
        }
        while self
            .pending
            .first()
            .is_some_and(|first| self.now.since(first.exposed) >= self.latency)
        {
            let observation = self.pending.remove(0);
            self.controller.handle_observation(observation, self.now);
        }
        self.unheard_of.push(self.controller.poll(self.now));
        let command = if self.unheard_of.len() > self.hears_late {
            self.unheard_of.remove(0)
        } else {
            Command::STAND
        };
        let velocity = match command {
            Command::Velocity(velocity) => velocity,
            // A drive without inertia.
            Command::Target(goal, um_per_s) => {
                let step_um = um_per_s * TICK.as_secs_f64();
                (goal.um() - self.z_um).clamp(-step_um, step_um) / TICK.as_secs_f64()
            }
        };
        let motion = if velocity == 0.0 {
            StageMotion::Still
        } else {
            StageMotion::Moving
        };
        self.z_um += velocity * TICK.as_secs_f64();
        self.lowest_um = self.lowest_um.min(self.z_um);
        self.now = self.now + TICK;
        self.unheard.push(StageReport {
            z: Some(StageHeight::from_um(self.z_um)),
            motion,
            at: self.now,
        });
        while self
            .unheard
            .first()
            .is_some_and(|first| self.now.since(first.at) >= self.reports_late)
        {
            let report = self.unheard.remove(0);
            self.controller.handle_stage(report);
        }
        velocity
    }

    /// Until the picture is known to follow and the law moves the lens.
    fn run_until_free(&mut self) {
        self.run(0.1);
        while self.controller.step.is_some() || !self.controller.follows.is_proven() {
            self.tick(true, true);
        }
        while self.tick(true, true) == 0.0 {}
        self.tick(true, true);
    }

    fn run(&mut self, seconds: f64) {
        self.controller.handle_stage(StageReport {
            z: Some(StageHeight::from_um(self.z_um)),
            motion: StageMotion::Still,
            at: self.now,
        });
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end && *self.controller.state() != RunState::InFocus {
            self.tick(true, true);
        }
    }
}

#[test]
fn algorithm_1_speeds() {
    let controller = FocusController::new(FocusConfig::default());
    let speeds = DistanceIndex::ALL.map(|index| controller.config.speed(index));
    for (speed, expected) in speeds
        .into_iter()
        .zip([223.7, 134.22, 89.48, 44.74, 0.0, -44.74, -89.48])
    {
        assert!((speed - expected).abs() < 1e-9, "{speed} {expected}");
    }
}

#[test]
fn the_verbatim_law_focuses_when_decisions_are_quick() {
    let mut fast = Loop::new(Law::Paper, 40.0, 0);
    fast.run(10.0);
    assert_eq!(*fast.controller.state(), RunState::InFocus);
    assert!(fast.z_um.abs() < 3.0, "{}", fast.z_um);
}

#[test]
fn the_verbatim_law_hunts_where_stepwise_settles() {
    let mut paper = Loop::new(Law::Paper, 40.0, 200);
    let mut crossings = 0;
    let mut before = 40.0_f64;
    paper.controller.handle_stage(StageReport {
        z: Some(StageHeight::from_um(40.0)),
        motion: StageMotion::Still,
        at: paper.now,
    });
    for _ in 0..1000 {
        paper.tick(true, true);
        crossings += usize::from(before.signum() != paper.z_um.signum());
        before = paper.z_um;
    }
    assert!(crossings > 5, "expected hunting, saw {crossings} crossings");

    let mut stepwise = Loop::new(Law::Stepwise, 40.0, 200);
    stepwise.run(10.0);
    assert_eq!(*stepwise.controller.state(), RunState::InFocus);
    assert!(stepwise.z_um.abs() < 0.5, "{}", stepwise.z_um);
}

#[test]
fn focus_is_refined_where_a_run_is_asked_for_it() {
    // Where it is sharpest, and where the run ends, how and by how much farther: with a peak that the looks do not reach the estimates count.
    for (sharpest_um, end_um, method, refined_um) in [
        (Some(0.25), 0.25, Method::Refined, Some(0.25)),
        (Some(-0.4), -0.4, Method::Refined, Some(-0.4)),
        (Some(4.0), 0.0, Method::Estimate, None),
        (None, 0.0, Method::Estimate, None),
    ] {
        for start_um in [-18.0, 0.1, 25.0] {
            let mut run = Loop::new(Law::Predictive, start_um, 50);
            run.sharpest_um = sharpest_um;
            run.controller.config.refines = true;
            run.run(15.0);
            let account = run.controller.account();
            let case = format!("{sharpest_um:?} from {start_um}: at {} {account:?}", run.z_um);
            assert_eq!(*run.controller.state(), RunState::InFocus, "{case}");
            assert!((run.z_um - end_um).abs() < 0.25, "{case}");
            assert_eq!(
                (account.method, account.refined_um.is_some()),
                (method, refined_um.is_some()),
                "{case}"
            );
            assert!(
                sharpest_um != Some(0.25) || (run.z_um - end_um).abs() < 0.02,
                "{case}"
            );
        }
    }
}

#[test]
fn dirt_that_was_told_from_the_specimen_is_forgotten() {
    for start_um in [-22.0, -15.0, -8.0, 6.5, 12.0, 18.0] {
        let mut run = Loop::new(Law::Predictive, start_um, 50);
        run.dirt = Dirt::Unknown;
        run.run(10.0);
        assert_eq!(*run.controller.state(), RunState::InFocus, "from {start_um} µm");
        assert!(run.z_um.abs() < 0.5, "from {start_um} µm: {}", run.z_um);
    }
}

#[test]
fn a_stage_that_hears_late_and_is_heard_late_is_not_accused() {
    for law in [Law::Paper, Law::Stepwise, Law::Predictive] {
        for (start_um, hears_late, reports_late_ms) in
            (-30..=30).map(|um| 2.0 * f64::from(um) + 0.3).flat_map(|um| {
                [
                    (um, 0, 0),
                    (um, 4, 0),
                    (um, 0, 40),
                    (um, 7, 0),
                    (um, 7, 30),
                    (um, 12, 0),
                    (um, 15, 0),
                ]
            })
        {
            let mut run = Loop::new(law, start_um, 0);
            run.hears_late = hears_late;
            run.reports_late = Duration::from_millis(reports_late_ms);
            run.run(6.0);
            let state = run.controller.state();
            assert!(
                !matches!(state, RunState::Failed(reason) if reason.starts_with("the picture")),
                "{law:?} from {start_um} µm, hears {hears_late} ticks late, heard {reports_late_ms} ms late: {state:?}"
            );
        }
    }
}

#[test]
fn no_motion_without_fresh_trusted_estimates() {
    for law in [Law::Paper, Law::Stepwise] {
        let mut blind = Loop::new(law, 40.0, 0);
        blind.controller.handle_stage(StageReport {
            z: Some(StageHeight::from_um(40.0)),
            motion: StageMotion::Still,
            at: blind.now,
        });
        assert!(
            (0..1000).all(|_| blind.tick(true, false) >= 0.0),
            "{law:?} moved towards the slide on untrusted estimates"
        );
        assert!(matches!(blind.controller.state(), RunState::Failed(_)));
        let mut empty = Loop::new(law, 40.0, 0);
        empty.has_specimen = false;
        assert!(
            (0..1000).all(|_| empty.tick(true, false) == 0.0),
            "{law:?} moved on pictures of nothing"
        );
        let mut silent = Loop::new(law, 40.0, 0);
        silent.controller.handle_stage(StageReport {
            z: Some(StageHeight::from_um(40.0)),
            motion: StageMotion::Still,
            at: silent.now,
        });
        for _ in 0..30 {
            silent.tick(true, true);
        }
        for _ in 0..150 {
            silent.tick(false, true);
        }
        assert_eq!(
            silent.tick(false, true),
            0.0,
            "{law:?} kept moving on stale estimates"
        );
        for _ in 0..600 {
            silent.tick(false, true);
        }
        assert!(
            matches!(silent.controller.state(), RunState::Failed(reason) if reason.contains("no estimate"))
        );
    }
}

#[test]
fn frames_exposed_in_motion_do_not_decide_the_next_step() {
    let mut run = Loop::new(Law::Stepwise, 40.0, 0);
    run.controller.handle_stage(StageReport {
        z: Some(StageHeight::from_um(40.0)),
        motion: StageMotion::Still,
        at: run.now,
    });
    while run.tick(true, true) == 0.0 {}
    let in_motion = run.observe(true);
    while run.tick(false, true) != 0.0 {}
    run.controller.handle_observation(in_motion, run.now);
    assert_eq!(run.controller.poll(run.now), Command::STAND);
}

#[test]
fn estimates_of_the_future_are_none() {
    let mut run = Loop::new(Law::Paper, 200.0, 0);
    run.run_until_free();
    assert_eq!(*run.controller.state(), RunState::Moving);
    let began = run.now;
    while !matches!(run.controller.state(), RunState::Failed(_)) {
        let exposed = run.now + Duration::from_secs(3600);
        let ahead = Observation {
            exposed,
            ..run.observe(true)
        };
        run.controller.handle_observation(ahead, run.now);
        let velocity = run.tick(false, true);
        let blind = run.now.since(began);
        assert!(
            velocity == 0.0 || blind <= Duration::from_millis(260),
            "moved {blind:?} without an estimate"
        );
        assert!(blind < Duration::from_secs(20), "never gave up");
    }
    assert!(matches!(run.controller.state(), RunState::Failed(reason) if reason.contains("clocks")));
}

#[test]
fn the_papers_law_stops_soon_after_the_last_estimate() {
    let mut run = Loop::new(Law::Paper, 200.0, 0);
    run.run_until_free();
    let last = run.now;
    while run.tick(false, true) != 0.0 {}
    let blind = run.now.since(last);
    assert!(
        blind <= Duration::from_millis(260),
        "moved {blind:?} without an estimate"
    );
}

#[test]
fn a_dead_stage_ends_the_run() {
    let mut run = Loop::new(Law::Stepwise, 40.0, 0);
    run.controller.handle_stage(StageReport {
        z: None,
        motion: StageMotion::Unavailable,
        at: run.now,
    });
    assert_eq!(run.controller.poll(run.now), Command::STAND);
    assert!(matches!(run.controller.state(), RunState::Failed(reason) if reason.contains("stage")));
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |config: FocusConfig, word: &str| {
        let message = config.checked().unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    check(
        FocusConfig {
            default_speed_um_per_s: f64::NAN,
            ..FocusConfig::default()
        },
        "default_speed",
    );
    check(
        FocusConfig {
            z_min: StageHeight::from_um(1.0),
            z_max: StageHeight::from_um(1.0),
            ..FocusConfig::default()
        },
        "z_min",
    );
    check(
        FocusConfig {
            z_max: StageHeight::from_um(f64::INFINITY),
            ..FocusConfig::default()
        },
        "z_max",
    );
}

proptest! {
    #[test]
    fn bounded_steps_focus_from_anywhere(start_um in -60.0..60.0_f64, latency_ms in 0_u64..400, predictive: bool) {
        let law = if predictive { Law::Predictive } else { Law::Stepwise };
        let mut run = Loop::new(law, start_um, latency_ms);
        run.run(20.0);
        prop_assert_eq!(run.controller.state(), &RunState::InFocus);
        prop_assert!(run.z_um.abs() < 0.72, "ended at {}", run.z_um);
        prop_assert!(run.lowest_um >= start_um.min(-1.0), "dipped to {} from {}", run.lowest_um, start_um);
    }

    #[test]
    fn bounded_steps_find_the_sign_where_the_picture_hides_it(start_um in -60.0..60.0_f64, latency_ms in 0_u64..400, predictive: bool) {
        let law = if predictive { Law::Predictive } else { Law::Stepwise };
        let mut run = Loop::new(law, start_um, latency_ms);
        run.blind_below_um = 25.0;
        run.run(25.0);
        prop_assert_eq!(run.controller.state(), &RunState::InFocus);
        prop_assert!(run.z_um.abs() < 0.72, "ended at {}", run.z_um);
        prop_assert!(run.lowest_um >= start_um.min(-1.0) - 1.0, "dipped to {} from {}", run.lowest_um, start_um);
    }

    #[test]
    fn lies_never_lead_past_the_limits(start_um in -99.0..299.0_f64, index in 0_usize..7, law in 0_usize..3) {
        let law = [Law::Predictive, Law::Stepwise, Law::Paper][law];
        let mut run = Loop::new(law, start_um, 0);
        run.controller.handle_stage(StageReport { z: Some(StageHeight::from_um(start_um)), motion: StageMotion::Still, at: run.now });
        for _ in 0..2000 {
            let lie = Observation { index: DistanceIndex::from_class(index), defocus: None, left_out: 0,
                other_side: 0.0, trusted: true, reason: "".into(), stddev_um: None, sharpness: None, has_specimen: true, exposed: run.now };
            run.controller.handle_observation(lie, run.now);
            run.tick(false, true);
            prop_assert!((-100.0..=300.0).contains(&run.z_um), "reached {}", run.z_um);
        }
    }
}

/// Looks in a row; the first mismatch, or whether the picture is known to follow.
fn follow(sights: &[Sight]) -> Result<bool, Mismatch> {
    let mut follows = Follows::default();
    for sight in sights {
        follows.handle_sight(*sight, &ClassEdges::default())?;
    }
    Ok(follows.is_proven())
}

#[test]
fn a_picture_follows_or_the_cause_is_named() {
    let check = |heights: &[(f64, f64)], expected: Result<bool, &str>| {
        let sights: Vec<_> = heights
            .iter()
            .map(|&(z, defocus)| Sight::clear(z, defocus))
            .collect();
        let found = follow(&sights).map_err(Mismatch::sentence);
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{heights:?}"),
            (Err(sentence), Err(word)) => assert!(sentence.contains(word), "{heights:?}: {sentence}"),
            _ => panic!("{heights:?}: {found:?}, not {expected:?}"),
        }
    };
    check(&[(0.0, 20.0)], Ok(false));
    check(&[(0.0, 20.0), (0.0, 20.6), (0.0, 19.4)], Ok(false));
    check(&[(0.0, 20.0), (-5.0, 15.0)], Ok(true));
    check(&[(0.0, 20.0), (-5.0, 17.5)], Ok(true));
    check(&[(0.0, -20.0), (5.0, -14.0)], Ok(true));
    // In the play of the drive.
    check(&[(0.0, 3.0), (-2.0, 3.0)], Ok(false));
    check(
        &[(0.0, 20.0), (-5.0, 25.0)],
        Err("moved up while it was sent down"),
    );
    check(
        &[(0.0, -20.0), (5.0, -25.0)],
        Err("moved down while it was sent up"),
    );
    check(
        &[(0.0, -8.0), (5.0, -8.0), (10.0, -8.0), (15.0, -8.0)],
        Err("does not change"),
    );
    check(&[(0.0, 40.0), (-0.4, 30.0)], Err("steps per millimetre"));
    check(&[(0.0, 68.0), (-0.4, 58.0)], Err("steps per millimetre"));
    check(&[(0.0, 68.0), (-0.4, 64.5)], Ok(false));
    // Stretched once may be an error of the model, and twice it is the stage.
    check(&[(0.0, 20.0), (-15.0, -7.0)], Ok(true));
    check(
        &[(0.0, 20.0), (-15.0, -7.0), (-8.0, 3.6)],
        Err("steps per millimetre"),
    );
}

#[test]
fn an_estimate_that_is_not_trusted_proves_but_never_accuses() {
    let doubted = |z, defocus| Sight {
        is_trusted: false,
        ..Sight::clear(z, defocus)
    };
    assert_eq!(follow(&[Sight::clear(0.0, 20.0), doubted(-5.0, 25.0)]), Ok(false));
    assert_eq!(follow(&[doubted(0.0, 28.0), doubted(20.0, 47.0)]), Ok(true));
    let sideless = |z, defocus| Sight {
        is_sided: false,
        ..Sight::clear(z, defocus)
    };
    assert_eq!(
        follow(&[sideless(0.0, 40.0), sideless(5.0, 35.0)]),
        Ok(true),
        "it changes"
    );
}

#[test]
fn the_lens_does_not_descend_twice_unseen() {
    let edges = ClassEdges::default();
    let mut follows = Follows::default();
    let frozen = |z_um| Sight::clear(z_um, 20.0);
    follows.handle_sight(frozen(0.0), &edges).unwrap();
    assert!(follows.leash_um(&frozen(0.0), &edges).is_some());
    follows.handle_sight(frozen(-5.1), &edges).unwrap();
    assert_eq!(follows.leash_um(&frozen(-5.1), &edges), None);
    follows.lift();
    for z_um in [0.0, 5.0] {
        follows.handle_sight(frozen(z_um), &edges).unwrap();
        assert_eq!(follows.leash_um(&frozen(z_um), &edges), None);
    }
    let mismatch = follows.handle_sight(frozen(9.0), &edges).unwrap_err();
    assert!(mismatch.sentence().contains("does not change"), "{mismatch:?}");
}

/// Runs on estimates that are not trusted; the sentence at the end.
fn sentence_of(law: Law, reason: &str) -> String {
    let mut run = Loop::new(law, 40.0, 0);
    run.reason = reason.into();
    run.controller.handle_stage(StageReport {
        z: Some(StageHeight::from_um(40.0)),
        motion: StageMotion::Still,
        at: run.now,
    });
    while *run.controller.state() != RunState::Disabled {
        run.tick(true, false);
        if let RunState::Failed(reason) = run.controller.state() {
            assert!(
                run.lowest_um >= 40.0 && run.z_um < 85.0,
                "one or two steps up, none down"
            );
            return reason.clone();
        }
    }
    String::new()
}

#[test]
fn giving_up_says_what_was_seen_and_where() {
    for law in [Law::Paper, Law::Stepwise] {
        let told = sentence_of(law, "28 of 30 patches disagree about the side");
        assert!(
            told.contains("28 of 30 patches") && told.contains("after a step of 24 µm up"),
            "{told}"
        );
        let untold = sentence_of(law, "");
        assert!(
            untold.contains("is there a stained slide in the light?"),
            "{untold}"
        );
    }
}

#[test]
fn estimates_of_long_ago_are_named() {
    let mut run = Loop::new(Law::Stepwise, 40.0, 0);
    run.now = Instant::from_nanos(5_000_000_000);
    run.controller.enable(run.now);
    for _ in 0..700 {
        let exposed = Instant::from_nanos(0);
        let behind = Observation {
            exposed,
            ..run.observe(true)
        };
        run.controller
            .handle_observation(behind, run.now + Duration::from_secs(1));
        run.tick(false, true);
    }
    assert!(
        matches!(run.controller.state(), RunState::Failed(reason) if reason.contains("stamps")),
        "{:?}",
        run.controller.state()
    );
}

#[test]
fn a_position_that_does_not_count_ends_the_run() {
    for law in [Law::Paper, Law::Stepwise] {
        let mut run = Loop::new(law, 40.0, 0);
        run.run(0.5);
        run.controller.handle_stage(StageReport {
            z: None,
            motion: StageMotion::Still,
            at: run.now,
        });
        assert_eq!(run.controller.poll(run.now), Command::STAND);
        assert_eq!(
            *run.controller.state(),
            RunState::Failed(POSITION_INVALID.to_owned())
        );
    }
}

#[test]
fn focus_that_is_passed_in_motion_is_not_reached() {
    let mut run = Loop::new(Law::Paper, 40.0, 0);
    run.run_until_free();
    run.controller.handle_stage(StageReport {
        z: Some(StageHeight::from_um(0.0)),
        motion: StageMotion::Moving,
        at: run.now,
    });
    let passing = Observation {
        index: DistanceIndex::IN_FOCUS,
        ..run.observe(true)
    };
    run.controller.handle_observation(passing, run.now);
    assert_eq!(run.controller.poll(run.now), Command::STAND);
    assert_ne!(*run.controller.state(), RunState::InFocus);
}

/// Without a goal a run goes on in focus, and follows what drifts.
#[test]
fn focus_is_held_for_longer_than_it_may_be_sought() {
    for law in [Law::Predictive, Law::Stepwise] {
        let mut run = Loop::new(law, 20.0, 40);
        run.run(10.0);
        for _ in 0..3 {
            assert_eq!(*run.controller.state(), RunState::InFocus, "{law:?}");
            for _ in 0..3500 {
                run.tick(true, true);
            }
            run.focus_um += 3.0;
            run.tick(true, true);
            while *run.controller.state() == RunState::InFocus {
                run.tick(true, true);
            }
            run.run(10.0);
        }
        assert_eq!(*run.controller.state(), RunState::InFocus, "{law:?}");
    }
}

/// Reports that are late tell of a time before the newest motion.
#[test]
fn what_the_stage_reported_before_a_motion_is_no_standstill() {
    for law in [Law::Predictive, Law::Stepwise] {
        let mut run = Loop::new(law, -40.0, 0);
        run.run(0.1);
        while !run.controller.poll(run.now).is_motion() {
            run.tick(true, true);
        }
        let before = StageReport {
            z: Some(StageHeight::from_um(run.z_um)),
            motion: StageMotion::Still,
            at: run.now,
        };
        // It rises by 3 µm, of which no report tells yet, and another run begins.
        (run.z_um, run.now) = (run.z_um + 3.0, run.now + Duration::from_millis(300));
        run.controller.enable(run.now);
        run.controller.handle_stage(before);
        for _ in 0..20 {
            run.now = run.now + TICK;
            let look = run.observe(true);
            run.controller.handle_observation(look, run.now);
            assert_eq!(run.controller.poll(run.now), Command::STAND, "{law:?}");
        }
    }
}
