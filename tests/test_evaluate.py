"""`hhnet evaluate` on data sets whose scores are known by hand.

The model is `tests/models/good.onnx`: a patch of mean byte m has class round(m / 32) and defocus m - 128 µm.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_features import ROOT, hhnet

MODEL = ROOT / "tests/models/good.onnx"
EDGES = {"in_focus_um": 0.714, "near_um": 5.0, "middle_um": 11.42, "far_um": 29.98}


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """The ONNX Runtime of the environment, else that of the Python package."""
    if "ORT_DYLIB_PATH" not in os.environ:
        package = Path(pytest.importorskip("onnxruntime").__file__).parent
        monkeypatch.setenv("ORT_DYLIB_PATH", str(next(package.glob("capi/libonnxruntime.so.*"))))


def write(folder: Path, rows: list[tuple[int, float, int, int]], shard: int = 0, manifest=None) -> Path:
    """A shard of flat patches from (grey, z in µm, slide, frame)."""
    folder.mkdir(exist_ok=True)
    grey = np.array([row[0] for row in rows], np.uint8)
    np.save(folder / f"patches-{shard:04}.npy", np.broadcast_to(grey[:, None, None, None], (len(rows), 300, 300, 3)))
    np.save(folder / f"handcrafted-{shard:04}.npy", np.zeros((len(rows), 18), np.float32))
    np.save(folder / f"labels-{shard:04}.npy", np.array([row[1:] for row in rows], np.float32))
    (folder / "manifest.json").write_text(json.dumps({"class_edges": EDGES} if manifest is None else manifest))
    return folder


def evaluate(folder: Path) -> subprocess.CompletedProcess:
    command = [hhnet(), "evaluate", "--model", MODEL, "--data", folder, "--json"]
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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "labels-0000.npy").unlink(), "labels-0000.npy"),
        (lambda folder: (folder / "patches-0000.npy").unlink(), "patches-NNNN.npy"),
        (lambda folder: np.save(folder / "labels-0000.npy", np.zeros((2, 3))), "right type"),
        (lambda folder: np.save(folder / "labels-0000.npy", np.zeros((2, 3), np.float32)), "[n, 3]"),
        (lambda folder: (folder / "manifest.json").write_text('{"class_edges_um": [1, 5.0, 11.42, 29.98]}'), "in_focus_um"),
    ],
)
def test_a_spoilt_set_is_refused_by_name(tmp_path, spoil, words):
    folder = write(tmp_path / "set", [(128, 0.0, 1, 0)])
    spoil(folder)
    result = evaluate(folder)
    assert result.returncode != 0 and words in result.stderr and "panicked" not in result.stderr, result.stderr
