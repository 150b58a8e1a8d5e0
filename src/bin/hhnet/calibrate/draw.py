"""Draws the pictures of a report card in the folder given as its first argument; the second is the depth of field in µm."""

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

STYLES = {
    "from_below": ("tab:blue", "^", "reached from below"),
    "from_above": ("tab:red", "v", "reached from above"),
    "": ("tab:green", "o", "frames"),
}


def save(figure, path: Path) -> None:
    """A picture that has its name is whole."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def number(cell: str) -> float:
    return float(cell) if cell else np.nan


def passes(folder: Path) -> list[dict]:
    """The frames of each pass, heights in order."""
    with open(folder / "looks.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    found = []
    for name in sorted({int(row["pass"]) for row in rows}):
        own = sorted((row for row in rows if int(row["pass"]) == name), key=lambda row: float(row["z_um"]))
        columns = {key: np.array([number(row[key]) for row in own]) for key in ("z_um", "sharpness", "estimate_um")}
        found.append(columns | {"focus_um": number(own[0]["focus_um"]), "approach": own[0]["approach"]})
    return found


def labelled(axes, found: list[dict]) -> None:
    for approach in {columns["approach"] for columns in found}:
        colour, marker, label = STYLES[approach]
        axes.plot([], [], marker, color=colour, markersize=4, label=label)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def response(folder: Path, found: list[dict], card: dict, depth_um: float) -> None:
    figure, (far, near) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    limit_um = max([np.nanmax(np.abs(columns["z_um"] - columns["focus_um"])) for columns in found] + [depth_um])
    fit = {name: card["rows"].get(f"response_{name}", {}).get("value") for name in ("scale", "offset")}
    for axes, reach_um in ((far, limit_um), (near, min(limit_um, 4 * depth_um))):
        for columns in found:
            colour, marker, _ = STYLES[columns["approach"]]
            height_um = columns["z_um"] - columns["focus_um"]
            axes.plot(height_um, columns["estimate_um"], marker, color=colour, markersize=4, alpha=0.7)
            doubted = np.isnan(columns["estimate_um"])
            axes.plot(height_um[doubted], np.zeros(doubted.sum()), "x", color="grey", markersize=4)
        axes.axline((0, 0), slope=1, color="grey", linewidth=0.8, label="as the stage")
        if fit["scale"] is not None:
            line = axes.axline((0, fit["offset"]), slope=fit["scale"], color="black", linewidth=1.2)
            line.set_label(f"{fit['scale']:.3f} · height {fit['offset']:+.2f} µm")
        axes.plot([], [], "x", color="grey", markersize=4, label="not trusted")
        axes.axvspan(-0.5 * depth_um, 0.5 * depth_um, color="tab:green", alpha=0.15, label="depth of field")
        axes.set_xlim(-1.05 * reach_um, 1.05 * reach_um)
        axes.set_ylim(-1.3 * reach_um, 1.3 * reach_um)
        axes.set_xlabel("height above focus by the stage, µm")
        axes.set_ylabel("height by the network, µm")
        labelled(axes, found)
    save(figure, folder / "response.png")


def sharpness(folder: Path, found: list[dict], depth_um: float) -> None:
    figure, (whole, near) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    peaks = [columns["focus_um"] for columns in found if not np.isnan(columns["focus_um"])]
    for axes in (whole, near):
        for columns in found:
            colour, marker, _ = STYLES[columns["approach"]]
            axes.plot(columns["z_um"], columns["sharpness"], marker + "-", color=colour, markersize=3, linewidth=0.7, alpha=0.7)
        for columns in found:
            if not np.isnan(columns["focus_um"]):
                axes.axvline(columns["focus_um"], color=STYLES[columns["approach"]][0], linewidth=0.8, linestyle="--")
        axes.set_xlabel("height of the stage, µm")
        axes.set_ylabel("sharpness (Tenengrad)")
        axes.set_ylim(0, None)
        labelled(axes, found)
    if peaks:
        near.set_xlim(min(peaks) - 3 * depth_um, max(peaks) + 3 * depth_um)
    save(figure, folder / "sharpness.png")


def main() -> None:
    folder, depth_um = Path(sys.argv[1]), float(sys.argv[2])
    found = passes(folder)
    if not found:
        return
    sharpness(folder, found, depth_um)
    shown = [columns for columns in found if not np.isnan(columns["focus_um"])]
    if shown:
        response(folder, shown, json.loads((folder / "card.json").read_text()), depth_um)


main()
