"""Draws the pictures of a comparison in the folder given as its only argument."""

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

OURS = ("predictive", "refined", "stepwise", "paper")
RIVALS = ("brent", "sweep", "hill_climb", "step_cnn", "tenengrad_17")
COLOURS = {"dense": "tab:blue", "sparse": "tab:orange", "extremely_sparse": "tab:green"}


def save(figure, path: Path) -> None:
    """A picture that has its name is whole."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as table:
        return list(csv.DictReader(table))


def spread(axes, values: dict[str, np.ndarray]) -> None:
    """Cumulative shares: how many of a strategy's runs stay below a value."""
    for at, name in enumerate(OURS + RIVALS):
        if name not in values:
            continue
        own = np.sort(values[name])
        share = np.arange(1, len(own) + 1) / len(own)
        style = {"linestyle": "-" if name in OURS else "--", "linewidth": 2.2 if name == "predictive" else 1.3}
        axes.step(own, share, where="post", label=name, color=f"C{at}", **style)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.01)
    axes.set_ylabel("share of runs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def runs(folder: Path, report: dict) -> None:
    depth_um = report["depth_of_field_um"]
    counted = [row for row in rows(folder / "runs.csv") if row["is_first"] == "false"]
    times, errors = {}, {}
    for name in report["strategies"]:
        own = [row for row in counted if row["strategy"] == name]
        times[name] = np.array([float(row["took_s"]) for row in own])
        ended = [row for row in own if row["end"] == "in focus"]
        if ended:
            errors[name] = np.abs([float(row["error_um"]) for row in ended]) / depth_um
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    spread(axes, times)
    axes.set_xlabel("time of a run, s")
    save(figure, folder / "time.png")
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    spread(axes, {name: np.maximum(own, 1e-3) for name, own in errors.items()})
    for limit in (0.5, 1):
        axes.axvline(limit, color="grey", linewidth=0.8)
    axes.set_xlabel("distance from focus at the end of a run that says it is in focus, depths of field")
    save(figure, folder / "error.png")


def responses(folder: Path) -> None:
    points = rows(folder / "responses.csv")
    figure, (near, far, sharp) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    for slide in sorted({row["slide"] for row in points}):
        own = [row for row in points if row["slide"] == slide]
        colour = COLOURS[own[0]["content"]]
        told = [row for row in own if row["defocus_um"] and row["trusted"] == "true"]
        doubted = [row for row in own if row["defocus_um"] and row["trusted"] == "false"]
        for axes in (near, far):
            axes.plot(*numbers(told, "defocus_um"), ".", color=colour, markersize=3, alpha=0.7)
            axes.plot(*numbers(doubted, "defocus_um"), "x", color=colour, markersize=3, alpha=0.5)
        z_um, tenengrad = numbers(own, "tenengrad")
        sharp.plot(z_um, tenengrad / tenengrad.max(), color=colour, linewidth=0.9)
    for axes, limit_um in ((near, 6), (far, 135)):
        axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
        axes.set_xlim(-limit_um, limit_um)
        axes.set_ylim(-limit_um, limit_um)
        axes.set_ylabel("estimate, µm")
    sharp.set_yscale("log")
    sharp.set_ylabel("Tenengrad, part of its largest")
    for axes in (near, far, sharp):
        axes.set_xlabel("true defocus, µm")
        axes.grid(alpha=0.3)
    for content, colour in COLOURS.items():
        sharp.plot([], [], color=colour, label=content.replace("_", " "))
    far.plot([], [], "kx", markersize=4, label="not trusted")
    far.legend(fontsize=8)
    sharp.legend(fontsize=8)
    save(figure, folder / "response.png")


def numbers(points: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Heights in order, and what a column says there."""
    pairs = sorted((float(row["z_um"]), float(row[name])) for row in points)
    return tuple(np.array(pairs, dtype=float).reshape(-1, 2).T)


def main() -> None:
    folder = Path(sys.argv[1])
    runs(folder, json.loads((folder / "report.json").read_text()))
    responses(folder)


main()
