"""Measures this machine: rendering, deciding, the running graph, and the shipped model's scores on slides it never saw.

Progress goes to stderr, one JSON object to stdout and to out/bench/bench.json. MODEL chooses another model, SLIDES how many slides.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = str(ROOT / "scripts" / "run")
OUT = ROOT / "out" / "bench"


def hhnet(*arguments: object) -> dict:
    """One run of the command line; its report."""
    command = [RUN, "hhnet", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command[1:])} failed; its reason stands above")
    return json.loads(done.stdout) if done.stdout.strip() else {}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    model = os.environ.get("MODEL") or str(ROOT / "models" / "hhnet_fast.onnx")
    slides = int(os.environ.get("SLIDES") or 15)
    print("rendering", file=sys.stderr)
    report = {"rendering": hhnet("sim", "bench", "--json")}
    for threads in (1, 2):
        print(f"deciding, {threads} threads", file=sys.stderr)
        report[f"deciding_{threads}_threads"] = hhnet("bench", "--model", model, "--threads", threads, "--json")
    print("running the graph", file=sys.stderr)
    graph = subprocess.run([RUN, "python", str(ROOT / "scripts" / "bench_graph.py")], stdout=subprocess.PIPE)
    if graph.returncode != 0:
        sys.exit("error: the graph could not be measured; the reason stands above")
    report["graph"] = json.loads(graph.stdout)
    print(f"scoring on {slides} slides", file=sys.stderr)
    report["scores"] = hhnet("evaluate", "--model", model, "--slides", slides, "--json", "--report", OUT)
    text = json.dumps(report, indent=2)
    (OUT / "bench.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
