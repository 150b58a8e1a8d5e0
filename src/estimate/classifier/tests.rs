//! The classifier around a network whose answers are known.

use ndarray::{ArrayView2, ArrayView4};
use proptest::prelude::*;

use super::*;
use crate::estimate::network::NoNetwork;
use crate::units::Instant;

/// Answers every patch with a fixed prediction and remembers what it was shown.
struct Parrot {
    card: ModelCard,
    answer: PatchPrediction,
    answers: Option<usize>,
    shown: Vec<usize>,
    features: Vec<f32>,
}

impl Network for Parrot {
    fn infer(
        &mut self,
        patches: ArrayView4<'_, u8>,
        handcrafted: ArrayView2<'_, f32>,
    ) -> Result<Vec<PatchPrediction>, NetworkError> {
        assert_eq!((patches.len_of(ndarray::Axis(0)), FEATURES), handcrafted.dim());
        self.shown.push(handcrafted.nrows());
        self.features = handcrafted.iter().copied().collect();
        Ok(vec![self.answer; self.answers.unwrap_or(handcrafted.nrows())])
    }

    fn card(&self) -> &ModelCard {
        &self.card
    }
}

fn sure(class: usize, defocus_um: f32) -> PatchPrediction {
    let mut probabilities = [0.01; CLASSES];
    probabilities[class] = 0.94;
    PatchPrediction {
        probabilities,
        defocus_um,
        log_variance: -2.0,
    }
}

fn classifier(answer: PatchPrediction) -> Classifier<Parrot> {
    let card = ModelCard {
        model_id: "parrot".into(),
        class_edges: ClassEdges::default(),
        objective: "40x0.65".to_owned(),
        pixel_size_um: 0.08625,
        training_set: String::new(),
        scores: String::new(),
        range_um: None,
        vote_exponent: None,
        condenser: None,
        needs_colour: false,
        whole_frames: false,
    };
    let parrot = Parrot {
        card,
        answer,
        answers: None,
        shown: Vec::new(),
        features: Vec::new(),
    };
    Classifier::new(parrot, ClassifierConfig::default()).unwrap()
}

/// Bright glass with a dark square in the patches chosen by column.
fn frame(width: usize, height: usize, ground: u8, stained: impl Fn(usize) -> bool) -> Frame {
    let pixel = |at: usize| {
        let (x, y) = (at % width, at / width);
        if stained(x / 300) && x % 300 < 100 && y % 300 < 100 {
            [ground / 2; 3]
        } else {
            [ground; 3]
        }
    };
    Frame::new(
        width,
        height,
        (0..width * height).flat_map(pixel).collect(),
        Instant::default(),
        0,
    )
    .unwrap()
}

#[test]
fn stained_patches_vote() {
    let mut classifier = classifier(sure(3, 2.5));
    let picture = frame(900, 600, 220, |column| column != 1);
    let estimate = classifier.classify(&picture).unwrap();
    assert_eq!(
        (estimate.index.value(), estimate.patches_used, estimate.trusted),
        (1, 4, true)
    );
    assert!((estimate.defocus.unwrap().0 - 2.5).abs() < 1e-9);
    assert!(estimate.defocus_stddev.unwrap().0 > 0.0);
    assert_eq!(
        classifier.network().features[..FEATURES],
        Handcrafted::of(&picture, 0).values
    );
    assert_eq!(
        classifier.network().features[..FEATURES],
        classifier.network().features[3 * FEATURES..]
    );
}

/// "I do not know" of a frame of this sharpness.
fn seen(doubt: Doubt, sharpness: f64) -> Estimate {
    Estimate {
        sharpness: Some(sharpness),
        ..Estimate::unknown(doubt)
    }
}

#[test]
fn a_model_of_whole_frames_sees_blank_patches_which_have_no_vote() {
    let mut classifier = classifier(sure(3, 2.5));
    classifier.network.card.whole_frames = true;
    let estimate = classifier.classify(&frame(900, 600, 220, |column| column != 1));
    assert_eq!(estimate.unwrap().patches_used, 4);
    let nothing = classifier.classify(&frame(900, 600, 220, |_| false)).unwrap();
    assert_eq!(nothing, seen(Doubt::Blank { of: 6 }, 0.0));
    assert_eq!(classifier.network().shown, [6]);
    classifier.network.answers = Some(4);
    let message = classifier.classify(&frame(900, 600, 220, |_| true)).unwrap_err();
    assert!(
        message
            .to_string()
            .contains("answered 4 predictions for 6 patches"),
        "{message}"
    );
}

#[test]
fn without_a_network_nothing_is_ever_trusted() {
    let config = ClassifierConfig {
        min_certainty: 0.0,
        ..ClassifierConfig::default()
    };
    let mut classifier = Classifier::new(NoNetwork::new("40x0.65", config.edges), config).unwrap();
    let estimate = classifier.classify(&frame(900, 600, 220, |_| true)).unwrap();
    assert_eq!(estimate, Estimate::unknown(Doubt::NoModel));
}

#[test]
fn a_vote_that_its_own_defocus_contradicts_is_not_trusted() {
    let check = |class: usize, defocus_um: f32, expected: bool| {
        let estimate = Estimate::from_patches(&[sure(class, defocus_um); 8], &ClassifierConfig::default());
        assert_eq!(estimate.trusted, expected, "class {class}, {defocus_um} µm");
    };
    check(0, 40.0, true);
    check(0, 29.0, true);
    check(0, 2.4, false);
    check(4, 1.0, true);
    check(4, 8.0, false);
    check(6, 3.0, false);
}

#[test]
fn patches_that_fall_apart_over_the_side_are_not_trusted() {
    let check = |opposed: usize, defocus_um: f32, expected: bool| {
        let mut patches = vec![sure(0, 59.0); 30];
        patches[..opposed].fill(sure(6, defocus_um));
        let estimate = Estimate::from_patches(&patches, &ClassifierConfig::default());
        assert_eq!(estimate.trusted, expected, "{opposed} patches at {defocus_um} µm");
        assert_eq!(estimate.index.value(), 4);
    };
    check(0, 0.0, true);
    check(1, -55.0, true);
    check(2, -55.0, false);
    // A patch that may be in focus takes no side.
    check(2, -1.0, true);
}

#[test]
fn far_answers_need_more_than_a_few_patches() {
    let check = |class: usize, defocus_um: f32, count: usize, expected: bool| {
        let estimate = Estimate::from_patches(
            &vec![sure(class, defocus_um); count],
            &ClassifierConfig::default(),
        );
        assert_eq!(estimate.trusted, expected, "{count} patches at {defocus_um} µm");
    };
    check(0, 59.0, 4, false);
    check(0, 59.0, 5, true);
    check(6, -55.0, 2, false);
    check(3, 2.0, 1, true);
    // A small frame that has no more.
    let mut small = classifier(sure(0, 40.0));
    assert!(small.classify(&frame(600, 300, 220, |_| true)).unwrap().trusted);
    assert!(
        !small
            .classify(&frame(1800, 300, 220, |column| column < 2))
            .unwrap()
            .trusted
    );
}

#[test]
fn heights_beyond_the_range_are_not_trusted() {
    let config = ClassifierConfig {
        range_um: Some([-65.0, 65.0]),
        ..ClassifierConfig::default()
    };
    for (class, defocus_um, expected) in [
        (0, 64.0, true),
        (0, 66.0, false),
        (6, -64.0, true),
        (6, -66.0, false),
    ] {
        let estimate = Estimate::from_patches(&[sure(class, defocus_um); 8], &config);
        assert_eq!(estimate.trusted, expected, "{defocus_um} µm");
    }
}

#[test]
fn a_model_brings_its_range_and_vote_exponent() {
    let mut card = classifier(sure(0, 40.0)).network.card;
    assert_eq!(ClassifierConfig::for_model(&card), ClassifierConfig::default());
    card.range_um = Some([-65.0, 65.0]);
    card.vote_exponent = Some(2.0);
    let config = ClassifierConfig::for_model(&card);
    assert_eq!(
        (config.range_um, config.vote_exponent),
        (Some([-65.0, 65.0]), 2.0)
    );
    let stated = |config| Estimate::from_patches(&[sure(0, 40.0)], &config).probabilities[0];
    assert!((stated(ClassifierConfig::default()) - 0.94).abs() < 1e-3);
    assert!(stated(config) > 0.99);
}

#[test]
fn frames_that_show_nothing_are_unknown_and_never_reach_the_network() {
    let mut classifier = classifier(sure(0, 60.0));
    for (ground, expected) in [
        (0, Estimate::unknown(Doubt::Dark { mean: 0.0 })),
        (200, seen(Doubt::Blank { of: 4 }, 0.0)),
        (255, Estimate::unknown(Doubt::Clipped { mean: 255.0 })),
    ] {
        assert_eq!(
            classifier.classify(&frame(600, 600, ground, |_| false)).unwrap(),
            expected
        );
    }
    assert!(classifier.network().shown.is_empty());
}

#[test]
fn sizes_may_change_between_frames() {
    let mut classifier = classifier(sure(4, 0.0));
    for (width, height, patches) in [(900, 600, 6), (300, 300, 1), (650, 320, 2), (900, 600, 6)] {
        assert_eq!(
            classifier
                .classify(&frame(width, height, 220, |_| true))
                .unwrap()
                .patches_used,
            patches
        );
    }
    // A dark one is no exception.
    for small in [frame(299, 400, 220, |_| true), frame(299, 400, 0, |_| false)] {
        assert!(matches!(
            classifier.classify(&small),
            Err(ClassifyError::TooSmall(_))
        ));
    }
}

#[test]
fn doubt_is_not_trusted() {
    let vague = PatchPrediction {
        probabilities: [1.0 / 7.0; CLASSES],
        defocus_um: f32::NAN,
        log_variance: f32::NAN,
    };
    let estimate = classifier(vague)
        .classify(&frame(600, 600, 220, |_| true))
        .unwrap();
    assert_eq!(
        (estimate.trusted, estimate.defocus, estimate.patches_used),
        (false, None, 4)
    );
    let broken = PatchPrediction {
        probabilities: [f32::NAN; CLASSES],
        ..sure(0, 1.0)
    };
    let estimate = classifier(broken)
        .classify(&frame(600, 600, 220, |_| true))
        .unwrap();
    assert_eq!(estimate, seen(Doubt::NoAnswer, estimate.sharpness.unwrap()));
    let elsewhere = estimate.doubted(Doubt::NoAnswer);
    assert_eq!(
        elsewhere,
        Estimate::UNKNOWN,
        "its sharpness is not that of the specimen"
    );
}

#[test]
fn a_miscounting_network_is_an_error() {
    let mut classifier = classifier(sure(4, 0.0));
    classifier.network.answers = Some(3);
    let error = classifier
        .classify(&frame(600, 600, 220, |_| true))
        .unwrap_err()
        .to_string();
    assert!(error.contains("3 predictions for 4 patches"), "{error}");
}

#[test]
fn settings_are_checked_and_named() {
    let check = |config: ClassifierConfig, name: &str| {
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    };
    let default = ClassifierConfig::default();
    check(
        ClassifierConfig {
            min_certainty: 1.1,
            ..default
        },
        "min_certainty",
    );
    check(
        ClassifierConfig {
            min_certainty: f32::NAN,
            ..default
        },
        "min_certainty",
    );
    check(
        ClassifierConfig {
            min_contrast: -1.0,
            ..default
        },
        "min_contrast",
    );
    check(
        ClassifierConfig {
            min_patches: 0,
            ..default
        },
        "min_patches",
    );
    check(
        ClassifierConfig {
            patch_correlation: 2.0,
            ..default
        },
        "patch_correlation",
    );
}

proptest! {
    #[test]
    fn estimates_are_sane_whatever_the_network_says(
        rows in proptest::collection::vec((proptest::array::uniform7(any::<f32>()), any::<f32>(), any::<f32>()), 0..40),
        good in 0usize..3,
    ) {
        let wild = rows.iter().map(|&(probabilities, defocus_um, log_variance)| {
            PatchPrediction { probabilities, defocus_um, log_variance }
        });
        let predictions: Vec<_> = wild.chain(std::iter::repeat_n(sure(4, 0.1), good)).collect();
        let estimate = Estimate::from_patches(&predictions, &ClassifierConfig::default());
        prop_assert!((0.0..=1.0).contains(&estimate.certainty));
        prop_assert!((estimate.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        prop_assert!(estimate.defocus.is_none_or(|z| z.0.is_finite()));
        prop_assert!(!estimate.trusted || estimate.patches_used > 0);
    }
}

#[test]
fn heights_are_corrected_for_a_condenser_that_is_known() {
    let law = CondenserLaw {
        na: 0.4,
        exponents: [-0.5, -1.0],
    };
    let stated = |condenser, condenser_na, defocus_um| {
        let config = ClassifierConfig {
            condenser,
            condenser_na,
            ..ClassifierConfig::default()
        };
        let estimate = Estimate::from_patches(&[sure(0, defocus_um); 8], &config);
        (estimate.defocus.unwrap().0, estimate.defocus_stddev.unwrap().0)
    };
    let (as_it_is, spread) = stated(None, None, 40.0);
    for (condenser, na, defocus_um, expected) in [
        (Some(law), None, 40.0, 40.0),
        (None, Some(0.8), 40.0, 40.0),
        (Some(law), Some(0.4), 40.0, 40.0),
        (Some(law), Some(1.6), 40.0, 20.0),
        (Some(law), Some(0.8), -40.0, -20.0),
    ] {
        let (found, found_spread) = stated(condenser, na, defocus_um);
        assert!((found - expected).abs() < 1e-4, "{found} instead of {expected}");
        assert!((found_spread / spread - (expected / as_it_is).abs()).abs() < 1e-6);
    }
    let config = ClassifierConfig {
        condenser_na: Some(0.0),
        ..ClassifierConfig::default()
    };
    assert!(classifier(sure(3, 2.5)).set_config(config).is_err());
}

#[test]
fn a_grey_frame_is_not_judged_by_a_model_that_needs_colour() {
    let mut classifier = classifier(sure(3, 2.5));
    let grey = frame(600, 600, 220, |_| true);
    assert!(classifier.classify(&grey).unwrap().trusted);
    let config = ClassifierConfig {
        needs_colour: true,
        ..ClassifierConfig::default()
    };
    classifier.set_config(config).unwrap();
    assert_eq!(
        classifier.classify(&grey).unwrap(),
        seen(Doubt::Grey, tenengrad(&grey))
    );
    let mut rgb = grey.into_rgb();
    rgb.chunks_exact_mut(3).step_by(7).for_each(|pixel| pixel[0] += 1);
    let coloured = Frame::new(600, 600, rgb, Instant::default(), 0).unwrap();
    assert!(classifier.classify(&coloured).unwrap().trusted);
}

#[test]
fn every_doubt_says_what_was_seen() {
    let check = |patches: &[PatchPrediction], range_um: Option<[f64; 2]>, expected: &str| {
        let config = ClassifierConfig {
            range_um,
            ..ClassifierConfig::default()
        };
        let estimate = Estimate::from_patches(patches, &config);
        let said = estimate.doubt.map_or_else(String::new, |doubt| doubt.to_string());
        assert_eq!(
            (estimate.trusted, said.contains(expected)),
            (false, true),
            "{said}"
        );
    };
    let sides: Vec<_> = (0..30)
        .map(|at| sure(0, if at < 28 { 59.0 } else { -55.0 }))
        .collect();
    check(&sides, None, "2 of 30 patches disagree about the side of focus");
    check(
        &[sure(0, 59.0); 3],
        None,
        "too few patches with a specimen: 3, an answer this far from focus takes 5",
    );
    check(
        &[sure(0, 70.0); 8],
        Some([-65.0, 65.0]),
        "the defocus of 70.0 µm is outside the range of the model, -65 to 65 µm",
    );
    check(
        &[sure(0, 2.4); 8],
        None,
        "vote for index 4 and state a defocus of 2.4 µm",
    );
    let vague = PatchPrediction {
        log_variance: 8.0,
        ..sure(3, 2.0)
    };
    check(&[vague; 8], None, "the defocus of 2.0 µm is uncertain by");
    let doubtful = PatchPrediction {
        probabilities: [0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1],
        ..sure(3, 2.0)
    };
    check(&[doubtful; 8], None, "is below min_certainty 0.50");
    check(&[], None, "no patch has an answer");
    assert_eq!(
        Estimate::from_patches(&[sure(3, 2.0); 8], &ClassifierConfig::default()).doubt,
        None
    );
}
