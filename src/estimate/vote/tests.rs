//! Voting on distributions made by hand, and on any.

use proptest::prelude::*;

use super::*;

const ALL: [Voting; 3] = [Voting::Hard, Voting::Linear, Voting::CertaintyWeighted];
const NAN: Probabilities = [f32::NAN; CLASSES];

/// A row with probability `p` at `class`, the rest spread evenly.
fn row(class: usize, p: f32) -> Probabilities {
    let mut row = [(1.0 - p) / 6.0; CLASSES];
    row[class] = p;
    row
}

#[test]
fn one_voice_is_heard_unchanged() {
    for voting in [Voting::Linear, Voting::CertaintyWeighted] {
        let vote = voting.count_votes(&[row(3, 0.7)]).unwrap();
        assert_eq!((vote.index.value(), vote.voters), (1, 1));
        assert!((vote.probabilities[3] - 0.7).abs() < 1e-6);
        assert!((vote.certainty - certainty(&row(3, 0.7))).abs() < 1e-6);
    }
    assert_eq!(
        Voting::Hard.count_votes(&[row(3, 0.7)]).unwrap().probabilities,
        row(3, 1.0)
    );
}

#[test]
fn certainty_runs_from_ignorance_to_knowledge() {
    assert!(certainty(&[1.0 / 7.0; CLASSES]) < 1e-6);
    assert_eq!(certainty(&row(2, 1.0)), 1.0);
    assert!((certainty(&[0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]) - (1.0 - 2f32.ln() / 7f32.ln())).abs() < 1e-6);
    assert_eq!(certainty(&NAN), 0.0);
}

#[test]
fn voting_methods_differ_where_they_should() {
    // Three doubtful patches for class 1, two convinced ones for class 5.
    let rows = [row(1, 0.3), row(1, 0.3), row(1, 0.3), row(5, 0.95), row(5, 0.95)];
    let index = |voting: Voting| voting.count_votes(&rows).unwrap().index.class();
    assert_eq!(
        (
            index(Voting::Hard),
            index(Voting::Linear),
            index(Voting::CertaintyWeighted)
        ),
        (1, 5, 5)
    );
    let convinced = |voting: Voting| voting.count_votes(&rows).unwrap().probabilities[5];
    assert!(convinced(Voting::CertaintyWeighted) > convinced(Voting::Linear) + 0.3);
}

#[test]
fn ties_never_choose_the_way_to_the_slide() {
    for voting in ALL {
        assert_eq!(
            voting
                .count_votes(&[row(0, 1.0), row(6, 1.0)])
                .unwrap()
                .index
                .value(),
            -2
        );
        assert_eq!(
            voting
                .count_votes(&[row(3, 1.0), row(4, 1.0)])
                .unwrap()
                .index
                .value(),
            0
        );
    }
}

#[test]
fn invalid_rows_have_no_vote() {
    let bad = [
        NAN,
        [0.0; CLASSES],
        [2.0; CLASSES],
        [f32::INFINITY; CLASSES],
        [-1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ];
    for voting in ALL {
        assert_eq!(voting.count_votes(&bad), None);
        assert_eq!(voting.count_votes(&[]), None);
        let mixed: Vec<_> = bad.iter().copied().chain([row(4, 0.9)]).collect();
        assert_eq!(voting.count_votes(&mixed), voting.count_votes(&[row(4, 0.9)]));
        assert!(decide(&bad[1]).is_none());
    }
}

fn distribution() -> impl Strategy<Value = Probabilities> {
    proptest::array::uniform7(1e-6f32..1.0).prop_map(|row| row.map(|p| p / row.iter().sum::<f32>()))
}

proptest! {
    #[test]
    fn a_vote_is_a_distribution_between_the_voices(rows in proptest::collection::vec(distribution(), 1..40)) {
        for voting in ALL {
            let vote = voting.count_votes(&rows).unwrap();
            prop_assert!((vote.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            prop_assert!((0.0..=1.0).contains(&vote.certainty));
            prop_assert_eq!(vote.voters, rows.len());
            prop_assert!(vote.probabilities.iter().all(|&p| p <= vote.probabilities[vote.index.class()] + 1e-6));
            if voting != Voting::Hard {
                for class in 0..CLASSES {
                    let voices = || rows.iter().map(|row| row[class]);
                    let (least, most) = (voices().fold(1.0, f32::min), voices().fold(0.0, f32::max));
                    prop_assert!((least - 1e-5..=most + 1e-5).contains(&vote.probabilities[class]));
                }
            }
        }
    }

    #[test]
    fn order_does_not_matter(mut rows in proptest::collection::vec(distribution(), 1..40), turn in 0usize..40) {
        for voting in ALL {
            let before = voting.count_votes(&rows).unwrap();
            let by = turn % rows.len();
            rows.rotate_left(by);
            let after = voting.count_votes(&rows).unwrap();
            prop_assert!(before.probabilities.iter().zip(after.probabilities).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn poll_survives_any_numbers(rows in proptest::collection::vec(proptest::array::uniform7(any::<f32>()), 0..9)) {
        for voting in ALL {
            if let Some(vote) = voting.count_votes(&rows) {
                prop_assert!(vote.probabilities.iter().all(|p| p.is_finite()) && vote.certainty.is_finite());
            }
        }
    }

    #[test]
    fn a_minority_of_outliers_moves_nothing(
        good in proptest::collection::vec(-0.5f64..0.5, 16),
        wild in proptest::collection::vec((-1e6f64..1e6, 1e-6f64..10.0), 0..15),
        centre in -50.0f64..50.0,
    ) {
        let clean: Vec<_> = good.iter().map(|z| Measurement { defocus_um: centre + z, variance_um2: 0.1 }).collect();
        let wild = wild.iter().map(|&(defocus_um, variance_um2)| Measurement { defocus_um, variance_um2 });
        let all: Vec<_> = clean.iter().copied().chain(wild).collect();
        let fusion = fuse(&all, 0.2).unwrap();
        // The bulk is 1 µm wide: neither its scale nor 3 of the widest outlier's sigmas reach farther.
        prop_assert!((fusion.defocus_um - centre).abs() < 0.5 + 3.0 * 10f64.sqrt() + 1.0, "{fusion:?}");
    }

    #[test]
    fn fusion_is_finite_or_absent(
        pairs in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..9),
        correlation in 0.0f64..=1.0,
    ) {
        let measurements: Vec<_> =
            pairs.iter().map(|&(defocus_um, variance_um2)| Measurement { defocus_um, variance_um2 }).collect();
        if let Some(fusion) = fuse(&measurements, correlation) {
            prop_assert!(fusion.defocus_um.is_finite() && fusion.stddev_um.is_finite());
        }
    }
}

#[test]
fn equal_patches_average_as_statistics_says() {
    let patches = vec![
        Measurement {
            defocus_um: 3.0,
            variance_um2: 4.0
        };
        25
    ];
    let check = |correlation: f64, stddev_um: f64| {
        let fusion = fuse(&patches, correlation).unwrap();
        assert!(
            (fusion.defocus_um - 3.0).abs() < 1e-12 && (fusion.stddev_um - stddev_um).abs() < 1e-12,
            "{fusion:?}"
        );
    };
    check(0.0, 0.4);
    check(1.0, 2.0);
    check(0.2, (0.8 * 0.16 + 0.2 * 4.0f64).sqrt());
}

#[test]
fn disagreement_widens_the_answer() {
    let at = |defocus_um| Measurement {
        defocus_um,
        variance_um2: 0.01,
    };
    let fusion = fuse(&[at(-1.0), at(0.0), at(1.0), at(2.0)], 0.0).unwrap();
    assert!(fusion.stddev_um > 0.5, "{fusion:?}");
    assert_eq!(
        fuse(
            &[Measurement {
                defocus_um: f64::NAN,
                variance_um2: 1.0
            }],
            0.0
        ),
        None
    );
    assert_eq!(fuse(&[], 0.0), None);
}
