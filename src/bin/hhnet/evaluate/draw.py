"""Draws the pictures of a report card in the folder given as its only argument."""

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

CLASSES = [4, 3, 2, 1, 0, -1, -2]


def save(figure, path: Path) -> None:
    """A picture that has its name is whole."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def confusion(folder: Path, report: dict) -> None:
    counts = np.array(report["confusion"])
    figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, count, ha="center", va="center", color="white" if row == column else "black")
    axes.set_xticks(range(7), CLASSES)
    axes.set_yticks(range(7), CLASSES)
    axes.set_xlabel("voted index")
    axes.set_ylabel("true index")
    save(figure, folder / "confusion.png")


def reliability(folder: Path, report: dict) -> None:
    bins = report["reliability"]
    figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], "--", color="grey")
    sizes = [20 + 200 * row["images"] / report["images"] for row in bins]
    axes.scatter([row["confidence"] for row in bins], [row["accuracy"] for row in bins], s=sizes)
    axes.set_xlabel("stated probability of the voted index")
    axes.set_ylabel("share of these images that are right")
    axes.set_title(f"expected calibration error {100 * report['ece']:.1f} %")
    axes.grid(alpha=0.3)
    save(figure, folder / "reliability.png")


def errors(folder: Path) -> None:
    with open(folder / "frames.csv") as table:
        rows = [(float(row["z_um"]), float(row["defocus_um"])) for row in csv.DictReader(table) if row["defocus_um"]]
    if not rows:
        return
    truth, found = np.array(rows).T
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    left.plot(truth, found, ".", alpha=0.5)
    left.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    left.set_xlabel("true defocus, µm")
    left.set_ylabel("estimate, µm")
    right.plot(truth, np.abs(found - truth) + 1e-3, ".", alpha=0.5)
    right.set_yscale("log")
    right.set_xscale("symlog", linthresh=1)
    right.set_xlabel("true defocus, µm")
    right.set_ylabel("|error|, µm")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, folder / "errors.png")


def main() -> None:
    folder = Path(sys.argv[1])
    report = json.loads((folder / "report.json").read_text())
    confusion(folder, report)
    reliability(folder, report)
    errors(folder)


main()
