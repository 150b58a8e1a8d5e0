"""`hhnet dataset ingest`: recorded z-stacks become labelled patches, and bad labels are refused with a sentence."""

import json
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_features import hhnet


def stack(folder: Path, rows: list[str], header: str = "file,z_um,field", side: tuple[int, int] = (620, 310)) -> Path:
    """Images of noise named by the rows of a manifest."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for row in rows:
        picture = random.integers(0, 256, (side[1], side[0], 3), np.uint8)
        Image.fromarray(picture).save(folder / row.split(",")[0])
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def ingest(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [hhnet(), "dataset", "ingest", folder, "--pixel-size-um", "0.1", "--out", folder / "out", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


ROWS = ["a.png,-3,left", "b.png,12.5,left", "c.png,0.1,right"]


def test_patches_labels_and_split(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    result = ingest(folder, "--shifts", "1")
    assert result.returncode == 0, result.stderr
    labels = np.load(folder / "out/train/labels-0000.npy")
    # Two whole patches fit into each image; the last field is held out. Height, field, image, field, distance index, blank.
    assert labels.tolist() == [[-3, 0, 0, 0, -1, 0]] * 2 + [[12.5, 0, 1, 0, 3, 0]] * 2
    held_out = np.load(folder / "out/val/labels-0000.npy")
    assert held_out[:, 0] == pytest.approx([0.1, 0.1]) and held_out[:, 1].tolist() == [1, 1]
    patches = np.load(folder / "out/train/patches-0000.npy")
    picture = np.array(Image.open(folder / "a.png"))
    assert (patches[0] == picture[5:305, 10:310]).all() and (patches[1] == picture[5:305, 310:610]).all()
    manifest = json.loads((folder / "out/train/manifest.json").read_text())
    assert manifest["complete"] and manifest["object_pixel_um"] == 0.1 and manifest["config"]["z_max_um"] == 12.5
    assert manifest["label_columns"] == ["defocus_um", "slide_seed", "frame", "field", "distance_index", "blank"]
    assert manifest["recorded"]["fields"] == ["left", "right"]
    assert [image["file"] for image in manifest["recorded"]["images"]] == ["a.png", "b.png"]
    assert np.isfinite(np.load(folder / "out/train/handcrafted-0000.npy")).all()


def test_blank_patches_can_be_kept_and_are_marked(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    picture = np.array(Image.open(folder / "c.png"))
    picture[:, 310:] = 200
    Image.fromarray(picture).save(folder / "c.png")
    for options, blank in ([], [0]), (["--keep-blank"], [0, 1]):
        assert ingest(folder, *options).returncode == 0
        assert np.load(folder / "out/val/labels-0000.npy")[:, 5].tolist() == blank
        assert len(np.load(folder / "out/val/patches-0000.npy")) == len(blank)


def test_the_sign_can_be_turned_and_the_field_chosen(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    assert ingest(folder, "--flip-sign", "--hold-out", "left").returncode == 0
    assert np.load(folder / "out/val/labels-0000.npy")[0, 0] == 3


@pytest.mark.parametrize(
    ("rows", "header", "options", "words"),
    [
        (["a.png,low,left", "b.png,1,right"], "file,z_um,field", [], ["line 2", "z_um"]),
        (["a.png,nan,left", "b.png,1,right"], "file,z_um,field", [], ["line 2", "NaN"]),
        (["a.png,1", "b.png,2"], "file,z_um", [], ["at least two", "field"]),
        (ROWS, "file,height,field", [], ["z_um"]),
        ([], "file,z_um", [], ["names no image"]),
        (["a.png,1,left,0.1", "b.png,1,right,0.2"], "file,z_um,field,pixel_size_um", [], ["line 3", "0.2", "0.1"]),
        (ROWS, "file,z_um,field", ["--hold-out", "middle"], ["middle", "left, right"]),
        ([*ROWS, "a.png,4,left"], "file,z_um,field", [], ["line 5", "a.png", "twice"]),
    ],
)
def test_bad_labels_are_refused_with_a_sentence(tmp_path, rows, header, options, words):
    folder = stack(tmp_path / "stack", rows, header)
    result = ingest(folder, *options)
    assert result.returncode == 1 and "panicked" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_small_and_missing_images_are_named(tmp_path):
    small = stack(tmp_path / "small", ROWS, side=(310, 200))
    result = ingest(small)
    assert result.returncode == 1 and "310x200" in result.stderr
    missing = stack(tmp_path / "missing", ROWS)
    (missing / "b.png").unlink()
    result = ingest(missing)
    assert result.returncode == 1 and "b.png" in result.stderr


def test_a_disk_that_is_full_leaves_no_half_shard(tmp_path):
    out = tmp_path / "set"
    command = [
        hhnet(),
        "dataset",
        "synth",
        "--out",
        out,
        "--slides",
        "1",
        "--frames-per-slide",
        "7",
        "--patches-per-frame",
        "1",
    ]

    def small_disk():
        """Writing beyond 300 kB fails, as it does on a full disk."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    full = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=small_disk)
    assert full.returncode != 0
    last = full.stderr.strip().splitlines()[-1]
    assert "patches-0000.npy" in last and "free some space" in last and "--resume" in last, full.stderr
    assert not list(out.glob("*.npy")) and not (out / "manifest.json").exists()
    again = subprocess.run([*command, "--resume"], check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(np.load(out / "patches-0000.npy")) == len(np.load(out / "labels-0000.npy")) > 0
    assert [path.name for path in out.glob("*.tmp")] == []


def test_shifted_grids_multiply_the_training_patches_only(tmp_path):
    folder = stack(tmp_path / "stack", ROWS, side=(924, 362))
    assert ingest(folder, "--shifts", "4").returncode == 0
    train, val = (np.load(folder / "out" / name / "labels-0000.npy") for name in ("train", "val"))
    # Three patches side by side; 24 and 62 pixels are left over, half of them before and half of them after the grid.
    assert len(train) == 2 * 4 * 3 and len(val) == 3
    patches = np.load(folder / "out/train/patches-0000.npy")
    picture = np.array(Image.open(folder / "a.png"))
    assert (patches[0] == picture[31:331, 12:312]).all()
    corners = [(0, 0), (24, 0), (0, 62)]
    for number, (left, top) in enumerate(corners, start=1):
        assert (patches[3 * number] == picture[top : top + 300, left : left + 300]).all(), (left, top)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """The command line as it is, without what `ingest` adds."""
    command = [hhnet(), "dataset", "ingest", folder, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_file_and_height_are_enough(tmp_path):
    rows = ["left_iy0_z-003.000um.png,-3", "left_iy0_z+012.500um.png,12.5", "right_z0.1.png,0.1"]
    folder = stack(tmp_path / "stack", rows, header="file,z_um")
    Image.new("RGB", (620, 310)).save(folder / "forgotten.png")
    result = run(folder, "--manifest", "manifest.csv", "--pixel-size-um", "0.1")
    assert result.returncode == 0, result.stderr
    assert "warning: 1 images have no line" in result.stderr and "forgotten.png" in result.stderr
    manifest = json.loads((folder / "dataset/train/manifest.json").read_text())
    assert manifest["recorded"]["fields"] == ["left_iy0", "right"]


def test_the_pixel_size_may_stand_in_the_table(tmp_path):
    rows = ["a.png,-3,left,0.2", "b.png,1,right,0.2"]
    folder = stack(tmp_path / "stack", rows, header="file,z_um,field,pixel_size_um")
    assert run(folder).returncode == 0
    assert json.loads((folder / "dataset/val/manifest.json").read_text())["object_pixel_um"] == 0.2
    other = stack(tmp_path / "other", ROWS)
    result = run(other)
    assert result.returncode == 1 and "--pixel-size-um" in result.stderr, result.stderr


def test_every_field_can_be_in_both_sets(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    assert ingest(folder, "--every-field", "--shifts", "1").returncode == 0
    for name in ("train", "val"):
        assert np.load(folder / "out" / name / "labels-0000.npy")[:, 1].tolist() == [0, 0, 0, 0, 1, 1]


def test_a_second_run_that_fails_leaves_nothing_that_reads_as_whole(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    assert ingest(folder).returncode == 0
    (folder / "c.png").write_bytes(b"no picture")
    result = ingest(folder)
    assert result.returncode == 1 and "c.png" in result.stderr
    # The training set was read anew; nothing is left of the old held-out set.
    assert json.loads((folder / "out/train/manifest.json").read_text())["complete"]
    assert list((folder / "out/val").iterdir()) == []


def test_an_interrupted_run_goes_on(tmp_path):
    rows = [f"a{number}.png,{number},left" for number in range(10)] + ["b.png,1,right"]
    folder = stack(tmp_path / "stack", rows, side=(2410, 1810))
    assert ingest(folder).returncode == 0
    whole = json.loads((folder / "out/train/manifest.json").read_text())
    assert len(whole["shards"]) > 1
    second = (folder / "out/train/labels-0001.npy").read_bytes()
    # As if the power had failed after the first shard.
    part = whole | {"complete": False, "shards": whole["shards"][:1]}
    (folder / "out/train/manifest.json").write_text(json.dumps(part))
    (folder / "out/train/labels-0001.npy").unlink()
    first = (folder / "out/train/labels-0000.npy").stat().st_mtime_ns
    assert ingest(folder, "--resume").returncode == 0
    assert json.loads((folder / "out/train/manifest.json").read_text()) == whole
    assert (folder / "out/train/labels-0001.npy").read_bytes() == second
    assert (folder / "out/train/labels-0000.npy").stat().st_mtime_ns == first
    other = ingest(folder, "--resume", "--flip-sign")
    assert other.returncode == 1 and "leave out --resume" in other.stderr
