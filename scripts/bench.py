"""Measures this machine: rendering, deciding, the running graph, and the shipped model's scores on slides it never saw.

Progress goes to stderr; one table of figures, targets and what was measured to stdout as Markdown, and with every detail to
out/bench/bench.json. MODEL chooses another model, SLIDES how many slides, SOAK_MIN how many minutes the graph is watched.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from whole_file import whole

ROOT = Path(__file__).resolve().parent.parent
RUN = str(ROOT / "scripts" / "run")
OUT = ROOT / "out" / "bench"
# Shorter soaks say more about what a process needs at first than about what it loses.
JUDGED_SOAK_MIN = 30


@dataclass
class Row:
    """One figure; without a target it is only told."""

    figure: str
    target: str
    measured: str
    passed: bool | None = None

    def to_markdown(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.passed]
        return f"| {self.figure} | {self.target} | {self.measured} | {verdict} |"


def hhnet(*arguments: object) -> dict:
    """One run of the command line; its report."""
    return report(["hhnet", *map(str, arguments)])


def report(command: list[str]) -> dict:
    """The JSON object a command of this package ends with."""
    done = subprocess.run([RUN, *command], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed; its reason stands above")
    return json.loads(done.stdout) if done.stdout.strip() else {}


def graph_rows(graph: dict) -> list[Row]:
    """What the running graph was measured for."""
    latency, goals, parameters = graph["latency"], graph["goals"], graph["parameters"]
    composed = latency["composed"]
    rows = [
        Row(
            "newest frame to `focus` without a network, one process, p50", "<= 1 ms", ms(composed["p50"]), composed["p50"] <= 1
        ),
        Row("the same, p99", "<= 5 ms", ms(composed["p99"]), composed["p99"] <= 5),
    ]
    for name, label in (("separate", "one process a node"), ("separate_with_profile", "the same with config/fastdds.xml")):
        times = latency[name]
        share = times["frames_without_estimate"] / (times["count"] + times["frames_without_estimate"])
        rows.append(
            Row(
                f"newest frame to `focus`, {label}, p50 / p99",
                "",
                f"{ms(times['p50'])} / {ms(times['p99'])}, {share:.0%} skipped",
            )
        )
    accepted = goals["p99"] <= 20 and goals["rejected"] == 0
    measured = f"{ms(goals['p99'])}, {goals['rejected']} of {goals['count']} rejected"
    rows.append(Row("goal to accepted, p99", "<= 20 ms, none rejected", measured, accepted))
    late = parameters["frames_late_most"]
    rows.append(Row("parameter set to effective, most", "<= 1 frame", f"{late} frames", late <= 1))
    for node, share in graph["idle"].items():
        rows.append(Row(f"idle {node}", "< 2 % of a core", f"{share} %", share < 2))
    soak = graph["soak"]
    is_judged = soak["minutes"] >= JUDGED_SOAK_MIN
    length = f"over {soak['minutes']:g} min, {soak['runs']} runs" + ("" if is_judged else ": too short to judge")
    slope, peak = soak["rss_mb_per_hour"], soak["rss_peak_mb"]
    rows.append(Row("growth of `autofocus`", "< 1 MB/h", f"{slope} MB/h {length}", slope < 1 if is_judged else None))
    rows.append(Row("most memory of `autofocus`", "< 1500 MB", f"{peak} MB", peak < 1500))
    rows.append(Row("goals that failed in the soak", "0", str(soak["failures"]), soak["failures"] == 0))
    return rows


def ms(value: float) -> str:
    return f"{value:.2f} ms"


def other_rows(details: dict) -> list[Row]:
    """What the programs without ROS report: rendering, deciding, and the model's scores on slides it never saw."""
    rendering, scores = details["rendering"], details["scores"]
    rate = rendering["realtime_fps"]
    rows = [Row("rendering, one core, a warm field", ">= 40 frames/s", f"{rate:.0f} frames/s", rate >= 40)]
    for threads in (1, 2):
        times = details[f"deciding_{threads}_threads"]
        decision, features = times["decision_ms"]["p50"], times["features_ms"]["p50"]
        most = {1: 10, 2: 6}[threads]
        aim = {1: "", 2: "<= 25 ms"}[threads]
        rows.append(Row(f"a decision, {threads} threads, p50", aim, ms(decision), decision <= 25 if aim else None))
        rows.append(Row(f"18 features of a frame, {threads} threads, p50", f"<= {most} ms", ms(features), features <= most))
    images, wrong = scores["images"], scores["wrong_direction_rate"]
    rows.append(Row(f"images right, certainty-weighted, of {images}", "", f"{scores['image_accuracy']['certainty']:.1%}"))
    rows.append(Row("wrong direction", "<= 0.1 %", f"{wrong:.2%}", wrong <= 0.001))
    for share, most in (("median", 0.15), ("p95", 0.5)):
        error = scores["abs_error_dof"][share]
        rows.append(Row(f"error within 8 depths of field, {share}", f"<= {most} depths", f"{error:.3f} depths", error <= most))
    return rows


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    model = os.environ.get("MODEL") or str(ROOT / "models" / "hhnet_fast.onnx")
    slides = int(os.environ.get("SLIDES") or 15)
    print("rendering", file=sys.stderr)
    details = {"rendering": hhnet("sim", "bench", "--json")}
    for threads in (1, 2):
        print(f"deciding, {threads} threads", file=sys.stderr)
        details[f"deciding_{threads}_threads"] = hhnet("bench", "--model", model, "--threads", threads, "--json")
    print("running the graph", file=sys.stderr)
    details["graph"] = report(["python", str(ROOT / "scripts" / "bench_graph.py")])
    print(f"scoring on {slides} slides", file=sys.stderr)
    details["scores"] = hhnet("evaluate", "--model", model, "--slides", slides, "--json", "--report", OUT)
    rows = graph_rows(details["graph"]) + other_rows(details)
    text = json.dumps({"rows": [asdict(row) for row in rows], "details": details}, indent=2)
    with whole(OUT / "bench.json") as partial:
        partial.write_text(text + "\n")
    print("| figure | target | measured | pass |\n|---|---|---|---|")
    for row in rows:
        print(row.to_markdown())


if __name__ == "__main__":
    main()
