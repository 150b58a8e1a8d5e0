"""Runs many demos, each on another slide and from another height, and judges them together.

Settings come from the environment: N (number of demos), SEED (of the first slide; the others follow), OBJECTIVE. The heights
cover ±60 µm evenly, in an order that is mixed by SEED. All must end in focus, as demo.py defines it, and none below z_min.
Leaves out/demos/demos.json, final_error.png and the pictures of each demo in a folder of its seed; the last line on stdout is
one JSON object, without the single runs.
"""

import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from demo import RANGE_UM, Refused, Settings, number
from whole_file import whole

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "demos"
RESULTS = "demos.json"
PICTURE = "final_error.png"
RUN_LIMIT_S = 180.0
MOST = 1000


def run_demo(seed: int, offset_um: float) -> dict:
    """One demo in a process of its own; its result."""
    own = {"SEED": str(seed), "OFFSET_UM": f"{offset_um:.3f}", "DEMO_OUT": str(OUT / str(seed))}
    asked = {"seed": seed, "start_offset_um": round(offset_um, 3)}
    result = {"focused": False, "final_error_um": None, "errors": []}
    command = [sys.executable, ROOT / "scripts" / "demo.py"]
    with subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            told, progress = process.communicate(timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            # It has a graph to end, which takes it ten seconds at most.
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
            return result | asked | {"errors": [f"no result within {RUN_LIMIT_S:.0f} s"]}
    try:
        result |= json.loads(told.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return result | asked | {"errors": ["no result", *progress.splitlines()[-1:]]}
    return result | asked | {"errors": errors(progress)}


def errors(text: str) -> list[str]:
    """What the demo itself had to complain of."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def row(run: dict) -> str:
    """A row of the table."""
    text = f"{run['seed']:8d}  {run['start_offset_um']:+9.2f}  "
    if run["final_error_um"] is not None:
        seconds = "     -" if run["time_to_focus_s"] is None else f"{run['time_to_focus_s']:6.2f}"
        text += f"{run['final_error_um']:+8.3f}  {seconds}  {run['frames']:6d}  {run['decision_ms_p50']:8.1f}  "
        text += f"{run['z_min_reached_um']:+8.2f}  "
    return text + ("in focus" if run["focused"] else f"NOT IN FOCUS {' '.join(run['errors'])}")


def plot(runs: list[dict], tolerance_um: float, objective: str) -> None:
    """Final error against start offset."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for focused, colour, label in ((True, "tab:blue", "in focus"), (False, "tab:red", "not in focus")):
        some = [run for run in runs if run["focused"] is focused and run["final_error_um"] is not None]
        if some:
            x, y = zip(*((run["start_offset_um"], run["final_error_um"]) for run in some), strict=True)
            axes.plot(x, y, "o", color=colour, label=f"{label}: {len(some)}")
    axes.axhspan(-tolerance_um, tolerance_um, alpha=0.15, label=f"±{tolerance_um:g} µm")
    axes.set_xlabel("start, µm above focus")
    axes.set_ylabel("true error in the end, µm")
    axes.set_title(f"{len(runs)} demos, {objective}, each on another slide")
    axes.grid(alpha=0.3)
    axes.legend()
    with whole(OUT / PICTURE) as partial:
        figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)


def summary(runs: list[dict]) -> dict:
    """All runs in a few numbers."""
    final = [abs(run["final_error_um"]) for run in runs if run["final_error_um"] is not None]
    times = [run["time_to_focus_s"] for run in runs if run["focused"]]
    lowest = [run["z_min_reached_um"] for run in runs if "z_min_reached_um" in run]
    return {
        "demos": len(runs),
        "in_focus": sum(run["focused"] for run in runs),
        "largest_final_error_um": max(final, default=None),
        "below_z_min": sum(run["z_min_reached_um"] < run["z_min_um"] for run in runs if "z_min_um" in run),
        "lowest_z_um": min(lowest, default=None),
        "time_to_focus_s_p50": round(statistics.median(times), 3) if times else None,
        "time_to_focus_s_max": max(times, default=None),
    }


def main() -> int:
    try:
        count = number(int, "N", 20, f"a whole number from 1 to {MOST}")
        if not 1 <= count <= MOST:
            raise Refused(f"N must be a whole number from 1 to {MOST}, not {count}")
        os.environ["SEED"] = os.environ.get("SEED") or "1"
        settings = Settings.from_environment()
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        print(json.dumps({"demos": 0, "in_focus": 0}))
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, PICTURE):
        (OUT / name).unlink(missing_ok=True)
    offsets_um = [RANGE_UM * ((2 * k + 1) / count - 1) for k in range(count)]
    random.Random(settings.seed).shuffle(offsets_um)
    print("   slide   start µm  error µm  time s  frames  decide ms  lowest z µm", file=sys.stderr)
    runs = []
    for seed, offset_um in enumerate(offsets_um, settings.seed):
        runs.append(run_demo(seed, offset_um))
        print(row(runs[-1]), file=sys.stderr, flush=True)
    told = summary(runs)
    with whole(OUT / RESULTS) as partial:
        partial.write_text(json.dumps(told | {"objective": settings.objective, "runs": runs}, indent=1) + "\n")
    plot(runs, settings.tolerance_um, settings.objective)
    print(f"results: {OUT / RESULTS}, picture: {OUT / PICTURE}", file=sys.stderr)
    print(json.dumps(told), flush=True)
    return 0 if told["in_focus"] == count and told["below_z_min"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
