"""Makes the pictures of docs/virtual-microscope.md, and prints the numbers that its text quotes.

Renders stacks with `hhnet sim stack`, noise off where a curve is measured. Takes a few minutes; progress goes to stderr.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DEPTH_UM = 1.434  # 40x/0.65, total depth of field
SEEDS = range(1, 9)
#: Tenengrad of recorded stacks, mean of many, planes -3 to 3 around the sharpest; the distance of the planes is not published.
RECORDED = {
    "sputum": [0.08, 0.14, 0.34, 1.0, 0.33, 0.13, 0.07],
    "thick film": [0.13, 0.32, 0.70, 1.0, 0.66, 0.23, 0.10],
    "bone marrow": [0.19, 0.47, 0.77, 1.0, 0.71, 0.38, 0.22],
    "white cells": [0.18, 0.42, 0.82, 1.0, 0.88, 0.64, 0.40],
}


def stack(heights_um, *options: object) -> list[np.ndarray]:
    """RGB frames at heights above focus, µm."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ROOT / "scripts" / "run"), "hhnet", "sim", "stack", "--out", folder]
        command += ["--z-um=" + ",".join(f"{z:.4f}" for z in heights_um), *map(str, options)]
        subprocess.run(command, check=True)
        with open(Path(folder) / "manifest.csv") as manifest:
            return [np.array(Image.open(Path(folder) / row["file"])) for row in csv.DictReader(manifest)]


def tenengrad(grey: np.ndarray) -> float:
    return float(np.mean(ndimage.sobel(grey, 0) ** 2 + ndimage.sobel(grey, 1) ** 2))


def brenner(grey: np.ndarray) -> float:
    return float(np.mean((grey[:, 2:] - grey[:, :-2]) ** 2))


def laplacian_variance(grey: np.ndarray) -> float:
    """Of squares of 2x2 pixels: between single pixels, rounding to 8 bits is louder than the picture."""
    squares = grey.reshape(grey.shape[0] // 2, 2, -1, 2).mean((1, 3))
    return float(np.var(ndimage.laplace(squares)))


def band_energy(channel: np.ndarray) -> float:
    """Energy between 1 and 4 pixels."""
    return float(np.var(ndimage.gaussian_filter(channel, 1.0) - ndimage.gaussian_filter(channel, 4.0)))


def save(figure, name: str) -> None:
    figure.savefig(DOCS / name, dpi=110)
    plt.close(figure)
    print(f"  docs/{name}", file=sys.stderr)


def montage() -> None:
    """The same cells from too close to too far."""
    heights = [-30, -10, -5, -2.5, -1.2, 0, 1.2, 2.5, 5, 10, 30]
    frames = stack(heights, "--seed", 3, "--width", 512, "--height", 384, "--x-um", 45, "--y-um", -35)
    figure, rows = plt.subplots(2, 6, figsize=(13, 4.7), layout="constrained")
    order = [5, 4, 3, 2, 1, 0, 5, 6, 7, 8, 9, 10]
    for axes, place in zip(rows.flat, order):
        axes.imshow(frames[place][40:340, 100:400])
        axes.set_title(f"{heights[place]:+g} µm" if heights[place] else "in focus")
        axes.axis("off")
    save(figure, "through_focus.png")


def objectives() -> None:
    """One place of one slide through every objective."""
    names = ["10x0.25", "20x0.40", "40x0.65", "60x0.85"]
    figure, row = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    for axes, name in zip(row, names):
        axes.imshow(stack([0.0], "--seed", 5, "--objective", name)[0])
        axes.set_title(name)
        axes.axis("off")
    save(figure, "objectives.png")


def focus_curves() -> dict:
    """Sharpness over height beside recorded curves."""
    heights = np.arange(-3.0, 3.01, 0.25) * DEPTH_UM
    curves = {measure: [] for measure in (tenengrad, brenner, laplacian_variance)}
    for seed in SEEDS:
        frames = stack(heights, "--seed", seed, "--width", 1024, "--height", 768, "--noise", "off")
        for measure, rows in curves.items():
            values = np.array([measure(frame[:, :, 1].astype(float)) for frame in frames])
            rows.append(values / values.max())
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    depths = heights / DEPTH_UM
    for measure, rows in curves.items():
        left.plot(depths, np.median(rows, 0), label=measure.__name__.replace("_", " "))
        left.fill_between(depths, np.min(rows, 0), np.max(rows, 0), alpha=0.2)
    left.set_title(f"green channel, {len(SEEDS)} slides: median and range")
    right.fill_between(depths, np.min(curves[tenengrad], 0), np.max(curves[tenengrad], 0), alpha=0.3, label="virtual, range")
    for name, values in RECORDED.items():
        right.plot(range(-3, 4), values, ".--", label=name)
    right.set_title("Tenengrad; recorded planes drawn one depth of field apart")
    for axes in (left, right):
        axes.set_xlabel("height above focus, depths of field (1.43 µm)")
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, "focus_curves.png")
    peaks = {measure.__name__: float(np.max(np.abs(depths[np.argmax(rows, 1)]))) for measure, rows in curves.items()}
    planes = np.median(np.array(curves[tenengrad])[:, ::4], 0)
    return {"farthest_peak_depths": peaks, "tenengrad_at_planes": [round(float(v), 3) for v in planes]}


def sign() -> dict:
    """How much the pictures at +z and -z differ."""
    heights = np.array([0.33, 0.65, 1.3, 2.6, 5.2, 10.4, 20.8])
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    found = {}
    for label, options in (("phase and aberration", []), ("without phase", ["--no-phase"])):
        rows = []
        for seed in SEEDS:
            both = np.concatenate([heights, -heights])
            frames = stack(both, "--seed", seed, "--width", 768, "--height", 768, "--noise", "off", *options)
            greens = np.array([frame[:, :, 1].astype(float) for frame in frames])
            far, close = greens[: len(heights)], greens[len(heights) :]
            rows.append(100 * (far - close).std((1, 2)) / far.std((1, 2)))
        axes.plot(heights, np.median(rows, 0), ".-", label=label)
        axes.fill_between(heights, np.min(rows, 0), np.max(rows, 0), alpha=0.2)
        found[label] = dict(zip(heights.tolist(), np.median(rows, 0).round(1).tolist()))
    axes.set_xscale("log")
    axes.set_xticks(heights, [f"{z:g}" for z in heights])
    axes.set_xlabel("|height|, µm")
    axes.set_ylabel("difference of +z and -z, % of the picture's deviation")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, "sign.png")
    return found


def colour() -> dict:
    """Balance of red and green sharpness over height."""
    heights = np.arange(-6.0, 6.01, 0.5)
    rows = []
    for seed in SEEDS:
        frames = stack(heights, "--seed", seed, "--width", 768, "--height", 768, "--noise", "off")
        energies = np.array([[band_energy(frame[:, :, c].astype(float)) for c in (0, 1)] for frame in frames])
        rows.append((energies[:, 0] - energies[:, 1]) / energies.sum(1))
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for seed, row in zip(SEEDS, rows):
        axes.plot(heights, row, alpha=0.6, label=f"slide {seed}")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("height above focus, µm")
    axes.set_ylabel("(R - G) / (R + G) of the energy between 1 and 4 pixels")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    save(figure, "colour_ratio.png")
    rises = np.array(rows)[:, heights == 2.5] - np.array(rows)[:, heights == -2.5]
    return {"rise_from_minus_to_plus_2.5_um": [round(float(v), 3) for v in rises[:, 0]]}


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    montage()
    objectives()
    numbers = {"focus_curves": focus_curves(), "difference_percent": sign(), "colour": colour()}
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
