//! Models from files, against ONNX Runtime. The models are made by `tests/models/make.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::onnx_runtime;
use hhnet::drivers::onnx::OnnxNetwork;
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
use hhnet::estimate::network::{Network as _, NetworkError};
use hhnet::frame::Frame;
use hhnet::units::Instant;
use ndarray::{Array2, Array4, s};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

/// The message, checked to be one line that holds every word.
fn refusal(path: &Path, words: &[&str]) {
    let message = OnnxNetwork::open(path, 1).err().expect("is refused").to_string();
    assert!(!message.contains('\n'), "{message}");
    for word in words.iter().copied().chain([path.display().to_string().as_str()]) {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

#[test]
fn files_that_are_no_model_are_refused_without_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.onnx");
    std::fs::write(&text, "a model would be nice").unwrap();
    let cut = folder.path().join("cut.onnx");
    let whole = std::fs::read(model("good.onnx")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    refusal(&folder.path().join("absent.onnx"), &["there is no model"]);
    refusal(folder.path(), &["is not a regular file"]);
    refusal(Path::new("/dev/zero"), &["is not a regular file"]);
    let endless = folder.path().join("endless.onnx");
    std::fs::File::create(&endless)
        .unwrap()
        .set_len((1 << 30) + 1)
        .unwrap();
    refusal(&endless, &["is larger than 1024 MiB"]);
    refusal(&text, &["is not an ONNX file"]);
    refusal(&cut, &["is not an ONNX file"]);
    refusal(&model("external.onnx"), &["another file", "one file"]);
}

/// What `models/SHA256SUMS` says is true of every model, and of no other file.
#[test]
fn a_model_that_ships_is_opened_only_as_it_was_released() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let pins = std::fs::read_to_string(models.join("SHA256SUMS")).unwrap();
    let names: Vec<_> = pins
        .lines()
        .map(|line| line.split_once("  ").unwrap().1)
        .collect();
    let mut there: Vec<_> = std::fs::read_dir(&models)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".onnx"))
        .collect();
    there.sort();
    assert_eq!(
        names, there,
        "write it anew: cd models && sha256sum *.onnx > SHA256SUMS"
    );
    onnx_runtime::require();
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let mut bytes = std::fs::read(models.join(name)).unwrap();
        let copy = folder.path().join(name);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&copy, bytes).unwrap();
        let message = OnnxNetwork::open_shipped(&copy, 1).err().unwrap().to_string();
        assert!(
            message.contains("is not the one that ships") && message.contains(name),
            "{message}"
        );
        OnnxNetwork::open_shipped(models.join(name), 1).unwrap();
    }
}

#[test]
fn foreign_models_are_refused_with_what_they_lack() {
    onnx_runtime::require();
    let needed_inputs = "needs patches uint8 [n, 300, 300, 3] and handcrafted float32 [n, 18]";
    refusal(
        &model("float_patches.onnx"),
        &["patches float32 [?, 300, 300, 3]", needed_inputs],
    );
    refusal(
        &model("no_handcrafted.onnx"),
        &["has the inputs patches uint8 [?, 300, 300, 3] but", needed_inputs],
    );
    refusal(
        &model("fixed_batch.onnx"),
        &["patches uint8 [4, 300, 300, 3]", needed_inputs],
    );
    refusal(
        &model("nine_classes.onnx"),
        &[
            "probabilities float32 [?, 9]",
            "needs probabilities float32 [n, 7]",
        ],
    );
    refusal(
        &model("other_output.onnx"),
        &["z float32 [?]", "defocus_um float32 [n]"],
    );
    refusal(
        &model("no_metadata.onnx"),
        &["has nothing as metadata hhnet_class_edges_um"],
    );
    refusal(
        &model("bad_edges.onnx"),
        &["[5, 4, 3, 2]", "hhnet_class_edges_um"],
    );
    refusal(&model("not_a_distribution.onnx"), &["do not add up to 1"]);
}

#[test]
fn a_model_answers_each_patch_in_order() {
    onnx_runtime::require();
    let mut network = OnnxNetwork::open(model("good.onnx"), 2).unwrap();
    let patches = Array4::from_shape_fn((5, 300, 300, 3), |(n, ..)| 40 * n as u8);
    let handcrafted = Array2::from_shape_fn((5, 18), |(n, feature)| (10 * n + feature) as f32);
    let answers = network.infer(patches.view(), handcrafted.view()).unwrap();
    assert_eq!(answers.len(), 5);
    for (n, answer) in answers.iter().enumerate() {
        let mean = 40.0 * n as f32;
        let weights: Vec<f32> = (0..7)
            .map(|class| (-(mean / 32.0 - class as f32).powi(2)).exp())
            .collect();
        let total: f32 = weights.iter().sum();
        for (p, weight) in answer.probabilities.iter().zip(&weights) {
            assert!((p - weight / total).abs() < 1e-5, "{n}: {answer:?}");
        }
        assert!((answer.defocus_um - (mean - 128.0)).abs() < 1e-2);
        assert_eq!(answer.log_variance, 10.0 * n as f32);
    }
    let none = network
        .infer(
            Array4::zeros((0, 300, 300, 3)).view(),
            Array2::zeros((0, 18)).view(),
        )
        .unwrap();
    assert!(none.is_empty());
    let mismatch = network
        .infer(patches.view(), Array2::zeros((4, 18)).view())
        .unwrap_err();
    assert!(matches!(mismatch, NetworkError::Mismatch { patches: 5, rows: 4 }));
}

#[test]
fn the_card_tells_what_the_file_says() {
    onnx_runtime::require();
    let network = OnnxNetwork::open(model("good.onnx"), 1).unwrap();
    let card = network.card();
    assert_eq!(
        (
            card.objective.as_str(),
            card.pixel_size_um,
            card.class_edges.far_um
        ),
        ("40x0.65", 0.08625, 29.98)
    );
    let (name, digits) = card.model_id.split_once(' ').unwrap();
    assert_eq!((name, digits.len()), ("good.onnx", 12));
    assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
}

#[test]
fn batches_and_threads_change_no_answer() {
    onnx_runtime::require();
    let patches = Array4::from_shape_fn((23, 300, 300, 3), |(n, ..)| 11 * n as u8);
    let handcrafted = Array2::from_shape_fn((23, 18), |(n, _)| n as f32);
    let mut one_by_one = OnnxNetwork::open(model("good.onnx"), 1).unwrap();
    let expected: Vec<_> = (0..23)
        .flat_map(|n| {
            let (patch, features) = (
                patches.slice(s![n..=n, .., .., ..]),
                handcrafted.slice(s![n..=n, ..]),
            );
            one_by_one.infer(patch, features).unwrap()
        })
        .collect();
    for threads in [1, 2, 7] {
        let mut network = OnnxNetwork::open(model("good.onnx"), threads).unwrap();
        let answers = network.infer(patches.view(), handcrafted.view()).unwrap();
        assert_eq!(answers, expected, "{threads} threads");
    }
}

#[test]
fn a_model_of_whole_frames_is_given_them_at_once() {
    onnx_runtime::require();
    let patches = Array4::from_shape_fn((23, 300, 300, 3), |(n, ..)| 11 * n as u8);
    let handcrafted = Array2::zeros((23, 18));
    let mut network = OnnxNetwork::open(model("whole_frame.onnx"), 2).unwrap();
    assert!(network.card().whole_frames);
    let answers = network.infer(patches.view(), handcrafted.view()).unwrap();
    for (n, answer) in answers.iter().enumerate() {
        let from_mean = 11.0 * (n as f32 - 11.0);
        assert!(
            (answer.defocus_um - from_mean).abs() < 1e-3,
            "{n}: {}",
            answer.defocus_um
        );
    }
}

#[test]
fn metadata_is_written_only_into_models_that_still_open() {
    onnx_runtime::require();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.onnx");
    std::fs::copy(model("good.onnx"), &copy).unwrap();
    let card = |path: &Path| OnnxNetwork::open(path, 1).unwrap().card().clone();
    assert_eq!((card(&copy).range_um, card(&copy).vote_exponent), (None, None));
    let entries = [
        ("hhnet_z_range_um", "[-65, 65]".to_owned()),
        ("hhnet_sharpness", "1.25".to_owned()),
    ];
    OnnxNetwork::set_metadata(&copy, &entries).unwrap();
    assert_eq!(
        (card(&copy).range_um, card(&copy).vote_exponent),
        (Some([-65.0, 65.0]), Some(1.25))
    );
    assert_eq!(card(&copy).class_edges, card(&model("good.onnx")).class_edges);
    let before = std::fs::read(&copy).unwrap();
    for (key, value) in [
        ("hhnet_sharpness", "0"),
        ("hhnet_z_range_um", "[5, 65]"),
        ("hhnet_whole_frames", "yes"),
    ] {
        let message = OnnxNetwork::set_metadata(&copy, &[(key, value.to_owned())])
            .unwrap_err()
            .to_string();
        assert!(message.contains(key) && message.contains(value), "{message}");
    }
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn two_models_serve_a_classifier_each() {
    onnx_runtime::require();
    let square = |at: usize| {
        if at % 600 < 100 && at / 600 < 100 {
            [20; 3]
        } else {
            [100; 3]
        }
    };
    let frame = Frame::new(
        600,
        300,
        (0..600 * 300).flat_map(square).collect(),
        Instant::default(),
        0,
    )
    .unwrap();
    for _ in 0..2 {
        let network = OnnxNetwork::open(model("good.onnx"), 1).unwrap();
        let mut classifier = Classifier::new(network, ClassifierConfig::default()).unwrap();
        let estimate = classifier.classify(&frame).unwrap();
        assert_eq!(
            (estimate.index.value(), estimate.patches_used),
            (1, 1),
            "{estimate:?}"
        );
        assert!(
            (estimate.defocus.unwrap().0 - (100.0 - 80.0 / 9.0 - 128.0)).abs() < 0.1,
            "{estimate:?}"
        );
    }
}

#[test]
fn a_missing_runtime_is_a_sentence_and_no_panic() {
    for library in ["/nowhere/libonnxruntime.so", "/bin/true", ""] {
        let output = Command::new(env!("CARGO_BIN_EXE_hhnet"))
            .args(["evaluate", "--data", "/nowhere", "--model"])
            .arg(model("good.onnx"))
            .env("ORT_DYLIB_PATH", library)
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && !message.contains("panicked"),
            "{message}"
        );
        assert!(
            message.contains("cannot load ONNX Runtime") && message.contains("set ORT_DYLIB_PATH"),
            "{message}"
        );
        assert!(
            message.contains(if library.is_empty() {
                "libonnxruntime.so"
            } else {
                library
            }),
            "{message}"
        );
    }
}

#[test]
fn an_interrupted_network_answers_no_more() {
    onnx_runtime::require();
    let mut network = OnnxNetwork::open(model("good.onnx"), 1).unwrap();
    let (patches, handcrafted) = (Array4::zeros((1, 300, 300, 3)), Array2::zeros((1, 18)));
    network.infer(patches.view(), handcrafted.view()).unwrap();
    network.interrupt().fire();
    let refused = network.infer(patches.view(), handcrafted.view()).unwrap_err();
    assert!(refused.to_string().contains("terminate"), "{refused}");
}
