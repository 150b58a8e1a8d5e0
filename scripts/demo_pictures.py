"""The pictures `make demo` leaves: the response curve (the paper's Fig. 6) and the focused frame beside the first."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from whole_file import whole

RESPONSE = "response_curve.png"
FRAMES = "focused.png"
DEPTH_OF_FIELD_UM = {"10x0.25": 10.2, "20x0.40": 3.9, "40x0.65": 1.43, "60x0.85": 0.83}


def plot_response(folder: Path, record, enabled: float, to_stage_um: float, title: str, objective: str) -> None:
    """Height, defocus, index and certainty over time; `to_stage_um` turns true heights into the stage's."""
    figure, (height, defocus, index, certainty) = plt.subplots(4, 1, sharex=True, figsize=(8, 9), layout="constrained")
    truth = np.array(record.truth)
    estimates = np.array([row[:3] for row in record.estimates], float)
    height.plot(truth[:, 0] - enabled, truth[:, 1] + to_stage_um, ".-", color="tab:purple")
    height.set_ylabel("z of the lens, µm")
    half_depth_um = 0.5 * DEPTH_OF_FIELD_UM[objective]
    defocus.plot(truth[:, 0] - enabled, truth[:, 2], ".-", color="tab:blue")
    defocus.axhspan(-half_depth_um, half_depth_um, alpha=0.3, label="in focus")
    defocus.legend(loc="upper right")
    defocus.set_ylabel("defocus, µm")
    defocus.set_yscale("symlog", linthresh=1.0)
    defocus.yaxis.set_major_formatter("{x:g}")
    index.step(estimates[:, 0] - enabled, estimates[:, 1], where="post", color="tab:orange")
    index.set_ylabel("distance index")
    index.set_yticks(range(-2, 5))
    index.set_ylim(-2.3, 4.3)
    certainty.plot(estimates[:, 0] - enabled, estimates[:, 2], ".-", color="tab:green")
    certainty.set_ylabel("certainty")
    certainty.set_ylim(0, 1.05)
    certainty.set_xlabel("time since enabled, s")
    for axes in (height, defocus, index, certainty):
        axes.grid(alpha=0.3)
        axes.axvline(0, color="grey", linewidth=0.8)
    height.set_title(title)
    with whole(folder / RESPONSE) as partial:
        figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)


def plot_frames(folder: Path, frames: list[tuple[np.ndarray, float]]) -> None:
    """The first and the last frame with their true defocus in µm."""
    figure, panels = plt.subplots(1, 2, figsize=(14, 5.6), layout="constrained")
    for axes, when, (picture, defocus_um) in zip(panels, ("at the start", "at the end"), frames, strict=True):
        axes.imshow(picture)
        axes.set_title(f"{when}, {defocus_um:+.2f} µm from focus")
        axes.axis("off")
    with whole(folder / FRAMES) as partial:
        figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
