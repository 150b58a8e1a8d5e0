"""`hhnet evaluate` on data sets whose scores are known by hand.

The model is `tests/models/good.onnx`: a patch of mean byte m has class round(m / 32) and defocus m - 128 µm.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from test_features import ROOT, hhnet

MODEL = ROOT / "tests/models/good.onnx"
EDGES = {"in_focus_um": 0.714, "near_um": 5.0, "middle_um": 11.42, "far_um": 29.98}


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """The ONNX Runtime of the environment, else that of the Python package."""
    if "ORT_DYLIB_PATH" not in os.environ:
        package = Path(onnxruntime.__file__).parent
        monkeypatch.setenv("ORT_DYLIB_PATH", str(next(package.glob("capi/libonnxruntime.so.*"))))


def write(folder: Path, rows: list[tuple[int, float, int, int]], shard: int = 0, **changes) -> Path:
    """A shard of flat patches from (grey, z in µm, slide, frame)."""
    folder.mkdir(exist_ok=True)
    grey = np.array([row[0] for row in rows], np.uint8)
    np.save(folder / f"patches-{shard:04}.npy", np.broadcast_to(grey[:, None, None, None], (len(rows), 300, 300, 3)))
    np.save(folder / f"handcrafted-{shard:04}.npy", np.zeros((len(rows), 18), np.float32))
    np.save(folder / f"labels-{shard:04}.npy", np.array([row[1:] for row in rows], np.float64))
    path = folder / "manifest.json"
    listed = json.loads(path.read_text())["shards"] if path.exists() else []
    manifest = {"complete": True, "class_edges": EDGES, "label_columns": ["defocus_um", "slide_seed", "frame"]}
    manifest["shards"] = [*listed, {"number": shard, "patches": len(rows)}]
    path.write_text(json.dumps(manifest | changes))
    return folder


def evaluate(folder: Path, *options) -> subprocess.CompletedProcess:
    command = [hhnet(), "evaluate", "--model", MODEL, "--data", folder, "--json", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_scores_by_hand(tmp_path):
    # Classes 0..6 are the indices 4..-2; greys 0, 32, 64 … are their middles.
    write(tmp_path / "set", [(128, 0.0, 1, 0), (128, 0.2, 1, 1), (96, 2.0, 1, 2), (160, 2.0, 1, 3)])
    write(tmp_path / "set", [(160, -32.0, 1, 4), (160, -32.0, 2, 4), (192, -32.0, 2, 4), (192, -32.0, 3, 0)], shard=1)
    result = evaluate(tmp_path / "set")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    # Frames: in focus twice, right at index 1, wrong side (true 1, said -1), true -2 said -1, true -2 whose two patches
    # say -1 and -2 (a tie goes to -2), true -2 said -2.
    assert (scores["patches"], scores["images"]) == (8, 7)
    assert scores["patch_accuracy"] == pytest.approx(5 / 8)
    assert scores["wrong_direction_rate"] == pytest.approx(1 / 5)
    assert scores["image_accuracy"]["hard"] == pytest.approx(5 / 7)
    assert scores["image_accuracy"]["certainty"] == pytest.approx(5 / 7)
    # Wrong side by 2 (1 as -1), else by 1 at most.
    assert scores["off_by_more_than_one"] == pytest.approx(1 / 7)
    # |estimate - truth| of the frames near focus: 0, 0.2, 34, 30. Farther away relative to 32: 64, 80 (mean of 32 and 64
    # against -32) and 96.
    assert scores["abs_error_um"]["median"] == pytest.approx(30, abs=1e-3)
    assert scores["abs_error_um"]["p95"] == pytest.approx(34, abs=1e-3)
    assert scores["relative_error_farther"]["median"] == pytest.approx(80 / 32, abs=1e-3)
    assert sum(map(sum, scores["confusion"])) == 7 and scores["confusion"][3][5] == 1
    low, high = scores["patch_accuracy_ci95"]
    assert low < 5 / 8 < high
    assert scores["model"].startswith("good.onnx ")


#: What the issue asks the JSON to name.
KEYS = {
    "protocol",
    "images",
    "patches",
    "patch_accuracy",
    "image_accuracy",
    "off_by_more_than_one",
    "wrong_direction_rate",
    "abs_error_um",
    "abs_error_dof",
    "ece",
    "untrusted_share",
    "seconds_per_image",
}


def test_the_report_says_what_the_json_says(tmp_path):
    rows = [(128, 0.0, 1, 0), (128, 0.2, 1, 1), (96, 2.0, 2, 2), (160, 2.0, 2, 3), (160, -32.0, 3, 4)]
    folder = write(tmp_path / "set", rows)
    result = evaluate(folder, "--protocol", "paper", "--report", tmp_path / "card")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert scores.keys() >= KEYS and scores["protocol"] == "paper" and scores["shifted"] is False
    assert scores["image_accuracy"].keys() == {"hard", "linear", "certainty"}
    assert scores["abs_error_um"].keys() == scores["abs_error_dof"].keys() == {"median", "p95"}
    assert json.loads((tmp_path / "card/report.json").read_text()) == scores
    card = (tmp_path / "card/report.md").read_text()
    for name in ("hard", "linear", "certainty"):
        low, high = scores["image_accuracy_ci95"][name]
        us = scores["voting_us"][name]
        assert f"| {name} | {scores['image_accuracy'][name]:.5f} | {low:.5f} to {high:.5f} | {us:.5f} |" in card
    frames = (tmp_path / "card/frames.csv").read_text().splitlines()
    assert len(frames) == 1 + scores["images"] and frames[1].startswith("0.0000,0,")
    # Estimates of the frames out of focus: -32, 32, 32 µm against 2, 2, -32.
    assert scores["wrong_sign_rate"] == pytest.approx(2 / 3)
    assert scores["wrong_direction_rate"] == pytest.approx(1 / 3)


def test_intervals_know_that_frames_of_a_slide_err_together(tmp_path):
    """Ten slides of ten frames: the same share of errors, once spread evenly, once all on two slides."""

    def interval(name: str, wrong) -> list[float]:
        rows = [(96 if wrong(n) else 128, 0.0, n // 10, n) for n in range(100)]
        return json.loads(evaluate(write(tmp_path / name, rows)).stdout)["image_accuracy_ci95"]["certainty"]

    even, clustered = interval("even", lambda n: n % 5 == 0), interval("clustered", lambda n: n < 20)
    assert even == pytest.approx([0.7112, 0.8667], abs=1e-3)
    assert clustered[1] - clustered[0] > 2 * (even[1] - even[0]), (even, clustered)


def test_what_the_manifest_does_not_list_is_not_read(tmp_path):
    folder = write(tmp_path / "set", [(128, 0.0, 1, 0)])
    manifest = (folder / "manifest.json").read_text()
    write(folder, [(96, 0.0, 1, 1)], shard=1)
    (folder / "manifest.json").write_text(manifest)
    assert json.loads(evaluate(folder).stdout)["images"] == 1


def change(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "labels-0000.npy").unlink(), "labels-0000.npy"),
        (lambda folder: (folder / "patches-0000.npy").unlink(), "patches-0000.npy"),
        (lambda folder: np.save(folder / "labels-0000.npy", np.zeros((1, 3), np.float32)), "right type"),
        (lambda folder: np.save(folder / "labels-0000.npy", np.zeros((2, 3))), "[1, 3]"),
        (lambda folder: change(folder, class_edges=[1, 5.0, 11.42, 29.98]), "in_focus_um"),
        (lambda folder: change(folder, class_edges={}), "in_focus_um"),
        (lambda folder: change(folder, label_columns=["z", "slide", "frame"]), "defocus_um"),
        (lambda folder: change(folder, object_pixel_um=0.1), "is for pixels of 0.08625 µm, those of"),
        (lambda folder: change(folder, complete=False), "not complete: run its build again with --resume"),
        (lambda folder: change(folder, shards=[]), "lists no shards"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "not the manifest of a data set"),
    ],
)
def test_a_spoilt_set_is_refused_by_name(tmp_path, spoil, words):
    folder = write(tmp_path / "set", [(128, 0.0, 1, 0)])
    spoil(folder)
    result = evaluate(folder)
    assert result.returncode != 0 and words in result.stderr and "panicked" not in result.stderr, result.stderr


def test_patches_of_a_frame_are_judged_together_and_blank_ones_have_no_vote(tmp_path):
    """A model of whole frames compares each patch with the mean of its frame's."""
    folder = write(tmp_path / "set", [(136, 8.0, 1, 0), (120, 8.0, 1, 0), (60, -8.0, 1, 1), (76, -8.0, 1, 1)])
    labels = np.load(folder / "labels-0000.npy")
    np.save(folder / "labels-0000.npy", np.column_stack([labels, [0, 1, 0, 1]]))
    change(folder, label_columns=["defocus_um", "slide_seed", "frame", "blank"])
    model = MODEL.with_name("whole_frame.onnx")
    command = [hhnet(), "evaluate", "--model", model, "--data", folder, "--json"]
    scores = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # The patches that vote are 8 levels from the mean of their frame, on the side of its height: no error.
    assert (scores["patches"], scores["images"]) == (2, 2)
    assert scores["abs_error_um"]["p95"] == pytest.approx(0, abs=1e-3)


def test_what_is_fitted_is_stored_in_the_model(tmp_path):
    """A data set does not tell the condensers of its instruments, and a model that knows nothing of them cannot be told."""
    model = tmp_path / "model.onnx"
    shutil.copy(MODEL, model)
    for option in ("--tell-condenser", "--measure-condenser"):
        command = [hhnet(), "evaluate", "--model", model, option]
        refused = subprocess.run(command, check=False, capture_output=True, text=True)
        assert refused.returncode == 1 and "does not say how its heights depend on the condenser" in refused.stderr
    folder = write(tmp_path / "set", [(128, 0.0, 1, 0), (96, 2.0, 1, 1), (160, -2.0, 2, 0)])
    command = [hhnet(), "evaluate", "--model", model, "--data", folder, "--fit"]
    fitted = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "law of the condenser not fitted" in fitted.stdout
    entries = json.loads(subprocess.run([hhnet(), "metadata", "--model", model], check=True, capture_output=True).stdout)
    assert entries["hhnet_sharpness"] in fitted.stdout and "hhnet_condenser" not in entries


def test_a_condenser_that_is_measured_serves_as_well_as_one_that_is_told():
    """Eight instruments, seven known heights each: the aperture is measured on six of them and used on the seventh."""

    def scores(*options: str) -> dict:
        command = [
            hhnet(),
            "evaluate",
            "--model",
            ROOT / "models/hhnet_fast.onnx",
            "--slides",
            "8",
            "--seed",
            "7100000",
            "--json",
        ]
        return json.loads(subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout)

    unknown, told, measured = scores(), scores("--tell-condenser"), scores("--measure-condenser")
    assert unknown["condenser_na_measured"] is None and told["condenser_told"]
    apertures = measured["condenser_na_measured"]
    # Of 0.32 to 0.48, give or take what seven heights cannot tell.
    assert 0.28 < apertures["least"] < apertures["median"] < apertures["most"] < 0.52
    error = [found["abs_error_dof"]["p95"] for found in (unknown, told, measured)]
    assert max(error[1:]) < 0.6 * error[0], error
