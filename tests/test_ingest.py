"""`hhnet dataset ingest`: recorded z-stacks become labelled patches, and bad labels are refused with a sentence."""

import json
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
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


def limited(command: list, most_bytes: int) -> subprocess.CompletedProcess:
    """Writing beyond some bytes of a file fails, as it does on a full disk."""

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=small_disk)


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

    full = limited(command, 300_000)
    assert full.returncode != 0
    last = full.stderr.strip().splitlines()[-1]
    assert "patches-0000.npy" in last and "free some space" in last and "--resume" in last, full.stderr
    assert not list(out.glob("*.npy")) and not (out / "manifest.json").exists()
    again = subprocess.run([*command, "--resume"], check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(np.load(out / "patches-0000.npy")) == len(np.load(out / "labels-0000.npy")) > 0
    assert [path.name for path in out.glob("*.partial")] == []


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
    # All images are looked at before the first is cut; nothing is left of the old sets.
    assert list((folder / "out/train").iterdir()) == list((folder / "out/val").iterdir()) == []


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


def test_a_name_with_letters_of_two_bytes_is_read(tmp_path):
    """`a_z+0µm.png` once ended in a panic."""
    folder = stack(tmp_path / "stack", ["a_z+0µm.png,0", "a_z-3µm.png,-3", "b_z+1µm.png,1"], header="file,z_um")
    result = ingest(folder)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "out/train/manifest.json").read_text())["recorded"]["fields"] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "File;z (µm);Field\r\na.png;-3,0;left\r\nb.png;12,5;left\r\nc.png;0,1;right\r\n",
        "file, z, field\na.png, -3 µm, left\nb.png, 12.5um, left\nc.png, 100 nm, right\n",
        "\ufefffile\tz_um\tfield\na.png\t-3\tleft\nb.png\t12.5\tleft\nc.png\t0.1\tright\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_tables_as_people_write_them(tmp_path, text, encoding):
    folder = stack(tmp_path / "stack", ROWS)
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    if text.startswith("\ufeff") and encoding == "utf-16":
        return  # Two marks of the byte order, which no program writes.
    result = ingest(folder, "--shifts", "1")
    assert result.returncode == 0, result.stderr
    images = json.loads((folder / "out/train/manifest.json").read_text())["recorded"]["images"]
    assert [(image["file"], image["z_um"]) for image in images] == [("a.png", -3), ("b.png", 12.5)]


def levels(seed: int, bits: int = 8, side: tuple[int, int] = (620, 310)) -> np.ndarray:
    """A grey picture of blocks that uses all levels of its depth."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 1 << bits, (side[1] // 10 + 1, side[0] // 10 + 1))
    return np.kron(blocks, np.ones((10, 10), int))[: side[1], : side[0]].astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colours", [1, 3])
def test_16_bit_files_are_read_by_the_bits_they_use(tmp_path, bits, colours):
    folder = stack(tmp_path / "stack", ROWS)
    pictures = {}
    for seed, row in enumerate(ROWS):
        picture = levels(seed, bits)
        # One image alone does not use all bits: the whole set counts.
        picture = picture // 8 if seed == 0 else picture
        pictures[row[0]] = np.stack([picture] * 3, 2) if colours == 3 else picture
        (folder / f"{row[0]}.png").unlink()
        tifffile.imwrite(folder / f"{row[0]}.tif", pictures[row[0]], photometric="rgb" if colours == 3 else "minisblack")
    (folder / "manifest.csv").write_text("file,z_um,field\n" + "\n".join(ROWS).replace("png", "tif") + "\n")
    result = ingest(folder, "--shifts", "1")
    assert result.returncode == 0, result.stderr
    assert f"{bits} bits are taken for used" in result.stderr
    patch = np.load(folder / "out/train/patches-0000.npy")[0]
    exact = 255.0 * pictures["a"][5:305, 10:310] / (2**bits - 1)
    exact = exact if colours == 3 else np.stack([exact] * 3, 2)
    assert np.abs(patch - exact).max() <= 0.5 + 1e-9
    assert len(np.unique(patch)) > 25
    assert json.loads((folder / "out/train/manifest.json").read_text())["recorded"]["bits"] == bits
    known = ingest(folder, "--bits", "8")
    assert bits == 8 or (known.returncode == 1 and "give a larger --bits" in known.stderr)


def three_pages(path: Path, description: str) -> None:
    pages = np.stack([levels(seed).astype(np.uint8) for seed in (1, 2, 3)])
    if description == "imagej":
        tifffile.imwrite(path, pages, imagej=True, metadata={"axes": "ZYX", "spacing": 2.5, "unit": "um"})
    elif description == "ome":
        planes = {"PositionZ": [100.0, 102.5, 105.0], "PositionZUnit": ["µm"] * 3}
        tifffile.imwrite(path, pages, ome=True, metadata={"axes": "ZYX", "Plane": planes})
    elif description == "ome spacing":
        metadata = {"axes": "ZYX", "PhysicalSizeZ": 2500, "PhysicalSizeZUnit": "nm"}
        tifffile.imwrite(path, pages, ome=True, metadata=metadata)
    else:
        tifffile.imwrite(path, pages, photometric="minisblack", metadata=None)


@pytest.mark.parametrize("description", ["imagej", "ome", "ome spacing", "column"])
@pytest.mark.parametrize("flip", [False, True])
def test_pages_of_a_tiff_are_the_heights_they_are(tmp_path, description, flip):
    folder = tmp_path / "stack"
    folder.mkdir()
    three_pages(folder / "s.tif", description)
    Image.fromarray(levels(9).astype(np.uint8)).save(folder / "c.png")
    lines = ["s.tif,-2.5,left,", "c.png,1,right,"]
    if description == "column":
        lines = ["s.tif,2.5,left,3", "s.tif,-2.5,left,1", "s.tif,0,left,2", "c.png,1,right,"]
    (folder / "manifest.csv").write_text("\n".join(["file,z_um,field,page", *lines]) + "\n")
    result = ingest(folder, "--shifts", "1", *(["--flip-sign"] if flip else []))
    assert result.returncode == 0, result.stderr
    images = json.loads((folder / "out/train/manifest.json").read_text())["recorded"]["images"]
    heights = {image["page"]: image["z_um"] for image in images}
    assert heights == {page: pytest.approx((page - 2) * (-2.5 if flip else 2.5)) for page in (1, 2, 3)}
    patches = np.load(folder / "out/train/patches-0000.npy")
    for at, image in enumerate(images):
        picture = levels(image["page"]).astype(np.uint8)
        assert (patches[2 * at] == picture[5:305, 10:310, None]).all(), image


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["s.tif,0,left,"], ["s.tif holds 3 pages", "does not say", "column page"]),
        (["s.tif,0,left,4"], ["no page 4", "holds 3"]),
        (["s.tif,0,left,1", "s.tif,1,left,1"], ["line 3", "named twice"]),
        (["s.tif,0,left,0"], ["line 2", "counted from 1"]),
    ],
)
def test_pages_without_heights_are_refused_by_name(tmp_path, lines, words):
    folder = tmp_path / "stack"
    folder.mkdir()
    three_pages(folder / "s.tif", "none")
    Image.fromarray(levels(9).astype(np.uint8)).save(folder / "c.png")
    (folder / "manifest.csv").write_text("\n".join(["file,z_um,field,page", *lines, "c.png,1,right,"]) + "\n")
    result = ingest(folder)
    assert result.returncode == 1 and all(word in result.stderr for word in words), result.stderr


def test_pages_without_a_line_are_said(tmp_path):
    folder = tmp_path / "stack"
    folder.mkdir()
    three_pages(folder / "s.tif", "none")
    Image.fromarray(levels(9).astype(np.uint8)).save(folder / "c.png")
    (folder / "manifest.csv").write_text("file,z_um,field,page\ns.tif,0,left,2\nc.png,1,right,\n")
    result = ingest(folder)
    assert result.returncode == 0 and "2 of the 3 pages of s.tif have no line" in result.stderr, result.stderr


def float_picture(folder: Path) -> None:
    tifffile.imwrite(folder / "a.tif", levels(1).astype(np.float32))


def signed_picture(folder: Path) -> None:
    tifffile.imwrite(folder / "a.tif", levels(1).astype(np.int16))


def text_picture(folder: Path) -> None:
    (folder / "a.tif").write_text("no picture")


@pytest.mark.parametrize(
    ("write", "words"),
    [(float_picture, "whole numbers"), (signed_picture, "whole numbers"), (text_picture, "not a PNG, JPEG or TIFF")],
)
def test_other_values_are_refused_by_name(tmp_path, write, words):
    folder = stack(tmp_path / "stack", ROWS)
    write(folder)
    (folder / "manifest.csv").write_text("file,z_um,field\na.tif,1,left\nb.png,2,left\nc.png,0,right\n")
    result = ingest(folder)
    assert result.returncode == 1 and words in result.stderr and "a.tif" in result.stderr, result.stderr


def test_a_picture_is_told_by_its_content(tmp_path):
    folder = stack(tmp_path / "stack", ["a.png,-3,left", "b.png,12.5,left", "c.png,0.1,right"])
    (folder / "a.png").rename(folder / "a.dat")
    table = (folder / "manifest.csv").read_text().replace("a.png", "a.dat")
    (folder / "manifest.csv").write_text(table)
    (folder / "._b.png").write_bytes(b"\0\5\26\7 of another system")
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    Image.fromarray(levels(1).astype(np.uint8)).save(folder / "forgotten", format="png")
    result = ingest(folder)
    assert result.returncode == 0 and "1 images have no line" in result.stderr and "forgotten" in result.stderr, result.stderr


def paint(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)
    return folder


def test_sets_that_teach_nothing_are_refused_with_the_figures(tmp_path):
    grey = levels(1).astype(np.uint8)
    rows = [
        ({"a.png": grey // 20, "b.png": grey // 18}, "2 of 3 images are nearly black"),
        ({"a.png": np.where(grey > 90, 255, grey).astype(np.uint8), "b.png": grey | 255}, "2 of 3 images are clipped"),
        ({"a.png": grey, "b.png": grey}, "1 of 3 images are equal to another one, a.png (-3 µm) and b.png (12.5 µm)"),
    ]
    for number, (pictures, words) in enumerate(rows):
        folder = paint(stack(tmp_path / str(number), ROWS), pictures)
        result = ingest(folder)
        assert result.returncode == 1 and words in result.stderr, result.stderr
        assert not (folder / "out/train/manifest.json").exists()


def test_a_blank_field_is_left_out_while_two_are_left(tmp_path):
    rows = [*ROWS, "d.png,1,middle", "e.png,-1,middle"]
    blank = np.full((310, 620, 3), 200, np.uint8)
    folder = paint(stack(tmp_path / "stack", rows), {"d.png": blank, "e.png": blank})
    result = ingest(folder, "--every-field", "--keep-blank")
    assert result.returncode == 0 and "field middle is left out: all its patches are blank" in result.stderr, result.stderr
    assert json.loads((folder / "out/train/manifest.json").read_text())["recorded"]["fields"] == ["left", "right"]
    paint(folder, {"c.png": blank})
    result = ingest(folder)
    assert result.returncode == 1 and "1 field of view is left" in result.stderr, result.stderr
    named = ingest(folder, "--hold-out", "right")
    assert named.returncode == 1 and "field right cannot be held out" in named.stderr, named.stderr


def test_low_contrast_is_said(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    faint = (levels(1) // 42 + 120).astype(np.uint8)
    result = ingest(paint(folder, {"c.png": faint}))
    assert result.returncode == 0 and "field right has low contrast" in result.stderr, result.stderr


def test_an_image_of_100_megapixels_is_read(tmp_path):
    folder = stack(tmp_path / "stack", ROWS)
    large = np.tile(levels(1).astype(np.uint8), (33, 17))[:10010, :10010, None].repeat(3, 2)
    tifffile.imwrite(folder / "a.tif", large, photometric="rgb")
    command = [hhnet(), "features", folder / "a.tif", "--json"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["width"] == 10010
    three_pages(folder / "s.tif", "imagej")
    result = subprocess.run([hhnet(), "features", folder / "s.tif"], check=False, capture_output=True, text=True)
    assert result.returncode == 1 and "holds 3 pages" in result.stderr, result.stderr
    text = (folder / "a.tif").read_bytes()[:4000]
    (folder / "cut.tif").write_bytes(text)
    result = subprocess.run([hhnet(), "features", folder / "cut.tif"], check=False, capture_output=True, text=True)
    assert result.returncode == 1 and "panicked" not in result.stderr and "cannot be decoded" in result.stderr, result.stderr


def test_a_disk_that_is_full_leaves_no_torn_picture(tmp_path):
    stack = [hhnet(), "sim", "stack", "--width", "320", "--height", "320", "--z-um=0,3", "--out", tmp_path]
    full = limited(stack, 20_000)
    assert full.returncode == 1 and "z000_+0.000um.png" in full.stderr and "free some space" in full.stderr, full.stderr
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(stack, check=False).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    # What stood there stays whole.
    assert limited(stack, 20_000).returncode == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
