"""The 18 handcrafted features against implementations written by others: scipy, scikit-image and mahotas."""

import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

import mahotas.features as mahotas_features
import numpy as np
import PIL.Image as image_module
import pytest
import skimage.filters as skimage_filters
import skimage.measure as skimage_measure
from scipy import spatial, stats
from skimage.feature import graycomatrix

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "mean",
    "variance",
    "skewness",
    "kurtosis",
    "sum_entropy",
    "sum_average",
    "difference_variance",
    "difference_entropy",
    "convexity",
    "compactness",
    "aspect_ratio",
    "area_ratio",
    "correlation_12",
    "correlation_13",
    "correlation_14",
    "correlation_23",
    "correlation_24",
    "correlation_34",
]


def hhnet() -> Path:
    """The newest built command line."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for profile in ("release", "debug") if (path := target / profile / "hhnet").exists()]
    if "HHNET" in os.environ:
        return Path(os.environ["HHNET"])
    if not built:
        pytest.fail("hhnet is not built: run `cargo build --release`")
    return max(built, key=lambda path: path.stat().st_mtime)


def measure(rgb: np.ndarray, folder: Path, seed: int = 0) -> dict[str, float]:
    """What `hhnet features` says about an image."""
    path = folder / "image.png"
    image_module.fromarray(rgb).save(path)
    command = [hhnet(), "features", path, "--json", "--crop-seed", str(seed)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (report["width"], report["height"]) == (rgb.shape[1], rgb.shape[0])
    assert sorted(report["features"]) == sorted(NAMES)
    return report["features"]


# Pictures, each a function of a random generator.


def smooth_noise(random, height: int, width: int, scale: int) -> np.ndarray:
    """Noise in 0..1 that varies over about `scale` pixels."""
    coarse = random.random((height // scale + 2, width // scale + 2))
    grown = np.array(image_module.fromarray(coarse.astype(np.float32)).resize((width, height), image_module.BICUBIC))
    return np.clip(grown, 0, 1)


def smear(random, height=760, width=1010, cells=40, shades=6.0) -> np.ndarray:
    """Stained cells with nuclei on a bright ground, uneven light and noise; some cells are cut by the border."""
    y, x = np.mgrid[:height, :width]
    light = 232 - 18 * smooth_noise(random, height, width, 400)
    picture = np.repeat(light[..., None], 3, axis=2)
    for _ in range(cells):
        centre = random.random(2) * (height, width)
        axes = random.uniform(18, 60, 2)
        angle = random.uniform(0, math.pi)
        u = (x - centre[1]) * math.cos(angle) + (y - centre[0]) * math.sin(angle)
        v = -(x - centre[1]) * math.sin(angle) + (y - centre[0]) * math.cos(angle)
        distance = (u / axes[0]) ** 2 + (v / axes[1]) ** 2
        picture[distance < 1] *= (0.85, 0.6, 0.75)
        picture[distance < 0.3] *= (0.5, 0.4, 0.7)
    return np.clip(picture + random.normal(0, shades, picture.shape), 0, 255).astype(np.uint8)


def ramp(_random) -> np.ndarray:
    y, x = np.mgrid[:300, :400]
    return np.stack([x * 255 // 399, y * 255 // 299, (x + y) * 255 // 698], axis=2).astype(np.uint8)


def rendered(_random) -> np.ndarray:
    """A frame of the virtual microscope, 3 µm out of focus."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.png"
        command = [hhnet(), "sim", "render", "--seed", "5", "--z-um", "3", "--out", path]
        subprocess.run(command, check=True, capture_output=True)
        return np.array(image_module.open(path).convert("RGB"))


def empty_glass(_random) -> np.ndarray:
    """Rendered without a specimen: uneven light and noise alone."""
    with tempfile.TemporaryDirectory() as folder:
        counts = ["--slides", "1", "--frames-per-slide", "1", "--patches-per-frame", "1"]
        command = [hhnet(), "dataset", "synth", "--empty", *counts, "--first-seed", "5", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(Path(folder) / "patches-0000.npy")[0]


def border_cell(random) -> np.ndarray:
    """A bright field with one cell, cut by the left border."""
    picture = np.full((480, 640, 3), 231.0)
    y, x = np.mgrid[:480, :640]
    picture[(x - 8) ** 2 + (y - 240) ** 2 < 60**2] = (140, 70, 150)
    return np.clip(picture + random.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


PICTURES = {
    "rendered": rendered,
    "empty glass": empty_glass,
    "real": lambda _random: np.array(image_module.open(ROOT / "tests" / "data" / "wafer.png").convert("RGB")),
    "border cell": border_cell,
    "half saturated": lambda random: np.minimum(smear(random, 480, 640, 30).astype(np.int32) * 3 // 2, 255).astype(np.uint8),
    "nearly black": lambda random: (random.random((300, 400, 3)) < 0.01).astype(np.uint8),
    "smear": smear,
    "odd size": lambda random: smear(random, 471, 333, 12),
    "camera": lambda random: smear(random, 1536, 2048, 60),
    "crowded": lambda random: smear(random, 600, 600, 220),
    "one cell": lambda random: smear(random, 480, 640, 1, 2.0),
    "noise": lambda random: random.integers(0, 256, (301, 305, 3), dtype=np.uint8),
    "blurred": lambda random: np.repeat((255 * smooth_noise(random, 500, 700, 60)).astype(np.uint8)[..., None], 3, axis=2),
    "two levels": lambda random: np.where(random.random((200, 200, 1)) < 0.3, 40, 41).astype(np.uint8).repeat(3, axis=2),
    "ramp": ramp,
    "smaller than a crop": lambda random: random.integers(0, 99, (40, 61, 3), dtype=np.uint8),
}


@pytest.fixture(params=PICTURES, scope="module")
def picture(request) -> np.ndarray:
    return PICTURES[request.param](np.random.default_rng(sum(request.param.encode())))


def luminance(rgb: np.ndarray) -> np.ndarray:
    return ((rgb.astype(np.uint32) @ np.array([77, 150, 29], np.uint32) + 128) >> 8).astype(np.uint8)


def lattice(rgb: np.ndarray) -> np.ndarray:
    return luminance(rgb)[::2, ::2]


def check(found: dict[str, float], expected: dict[str, float], tolerance: float = 2e-6) -> None:
    for name, value in expected.items():
        assert math.isfinite(found[name])
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_statistics_are_those_of_scipy(picture, tmp_path):
    grey = lattice(picture).astype(np.float64).ravel()
    check(
        measure(picture, tmp_path),
        {
            "mean": grey.mean(),
            "variance": grey.var(),
            "skewness": stats.skew(grey),
            "kurtosis": stats.kurtosis(grey, fisher=False),
        },
    )


def test_cooccurrence_is_that_of_mahotas(picture, tmp_path):
    haralick = mahotas_features.haralick(lattice(picture), return_mean=True, use_x_minus_y_variance=True)
    check(
        measure(picture, tmp_path),
        {
            "sum_average": haralick[5],
            "sum_entropy": haralick[7],
            "difference_variance": haralick[9],
            "difference_entropy": haralick[10],
        },
    )


def test_cooccurrence_is_that_of_scikit_image(picture, tmp_path):
    angles = [0, math.pi / 4, math.pi / 2, 3 * math.pi / 4]
    matrices = graycomatrix(lattice(picture), [1], angles, levels=256, symmetric=True, normed=True)[:, :, 0]
    x, y = np.mgrid[:256, :256]
    features = []
    for matrix in np.moveaxis(matrices, 2, 0):
        sums = np.bincount((x + y).ravel(), matrix.ravel())
        differences = np.bincount(abs(x - y).ravel(), matrix.ravel())
        spread = np.average((np.arange(256) - np.average(np.arange(256), weights=differences)) ** 2, weights=differences)
        features.append(
            (
                stats.entropy(sums, base=2),
                np.average(np.arange(511), weights=sums),
                spread,
                stats.entropy(differences, base=2),
            )
        )
    check(measure(picture, tmp_path), dict(zip(NAMES[4:8], np.mean(features, axis=0), strict=True)))


def stained(rgb: np.ndarray) -> np.ndarray:
    """The stained blocks, by scikit-image's Otsu threshold."""
    grey = lattice(rgb)
    height, width = grey.shape[0] // 4, grey.shape[1] // 4
    sums = grey[: 4 * height, : 4 * width].reshape(height, 4, width, 4).sum(axis=(1, 3), dtype=np.uint32)
    blocks = ((sums + 8) // 16).astype(np.uint8)
    if blocks.min() == blocks.max():
        return np.zeros(blocks.shape, bool)
    dark = blocks <= skimage_filters.threshold_otsu(blocks)
    return dark if blocks[~dark].mean() - blocks[dark].mean() >= 4 else np.zeros(blocks.shape, bool)


def hull_area(blocks: np.ndarray) -> float:
    """Area of the convex hull of unit squares at integer places."""
    corners = np.concatenate([blocks + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return spatial.ConvexHull(corners).volume


def test_shape_is_that_of_scikit_image(picture, tmp_path):
    mask = stained(picture)
    objects = [
        region for region in skimage_measure.regionprops(skimage_measure.label(mask, connectivity=2)) if region.area >= 16
    ]
    expected = {"area_ratio": mask.mean(), "convexity": 0.0, "compactness": 0.0, "aspect_ratio": 0.0}
    if objects:
        shapes = []
        for region in objects:
            short, long = sorted(value + 1 / 12 for value in region.inertia_tensor_eigvals)
            perimeter = skimage_measure.perimeter(region.image, neighborhood=4)
            compactness = 1.0 if perimeter == 0 else min(1.0, 4 * math.pi * region.area / perimeter**2)
            shapes.append((region.area / hull_area(region.coords), compactness, math.sqrt(short / long)))
        weights = [region.area for region in objects]
        expected.update(zip(NAMES[8:11], np.average(shapes, axis=0, weights=weights), strict=True))
    check(measure(picture, tmp_path), expected)


def crop_places(width: int, height: int, seed: int) -> list[tuple[int, int]]:
    """Places by SplitMix64, written from its definition."""
    side, state, numbers = min(100, width, height), seed, []
    for _ in range(8):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        bits = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        numbers.append(bits ^ bits >> 31)
    return [
        (x * (width - side + 1) >> 64, y * (height - side + 1) >> 64) for x, y in zip(numbers[::2], numbers[1::2], strict=True)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_correlations_are_those_of_scipy(picture, tmp_path, seed):
    height, width = picture.shape[:2]
    side = min(100, width, height)
    grey = luminance(picture).astype(np.float64)
    crops = [grey[y : y + side, x : x + side].ravel() for x, y in crop_places(width, height, seed)]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return 0.0 if min(np.ptp(a), np.ptp(b)) == 0 else stats.pearsonr(a, b)[0]

    expected = [correlation(crops[a], crops[b]) for a, b in pairs]
    check(measure(picture, tmp_path, seed), dict(zip(NAMES[12:], expected, strict=True)))


@pytest.mark.parametrize("grey", [0, 127, 255])
@pytest.mark.parametrize("size", [(480, 640), (1, 1), (1, 9), (100, 100), (7, 5)])
def test_one_colour_has_defined_values(grey, size, tmp_path):
    found = measure(np.full((*size, 3), grey, np.uint8), tmp_path)
    expected = dict.fromkeys(NAMES, 0.0) | {"mean": grey, "kurtosis": 3.0, "sum_average": found["sum_average"]}
    check(found, expected)


def test_a_missing_image_is_named(tmp_path):
    result = subprocess.run([hhnet(), "features", tmp_path / "absent.png"], check=False, capture_output=True, text=True)
    assert result.returncode != 0 and "absent.png" in result.stderr
