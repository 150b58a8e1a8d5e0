"""Focuses the virtual microscope once, from outside: starts the graph, enables it, watches, and judges the result.

Settings come from the environment: SEED (slide), OFFSET_UM (start above focus, positive = too far), OBJECTIVE.
The last line on stdout is one JSON object; progress goes to stderr; pictures go to out/demo.
"""

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import rclpy
from hhnet.msg import FocusEstimate, FocusState, SimTruth, StageState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "demo"
RANGE_UM = 60.0
START_LIMIT_S = 30.0
RUN_LIMIT_S = 60.0
DEPTH_OF_FIELD_UM = {"10x0.25": 10.2, "20x0.40": 3.9, "40x0.65": 1.43, "60x0.85": 0.83}
STATE_NAMES = {0: "disabled", 1: "looking", 2: "moving", 3: "in focus", 4: "failed"}


@dataclass
class Settings:
    """What the user asked for, or chance."""

    seed: int
    offset_um: float
    objective: str

    @classmethod
    def from_environment(cls) -> "Settings":
        seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
        offset = os.environ.get("OFFSET_UM") or random.Random(seed).uniform(-RANGE_UM, RANGE_UM)
        objective = os.environ.get("OBJECTIVE") or "40x0.65"
        settings = cls(seed, float(offset), objective)
        if not abs(settings.offset_um) <= RANGE_UM:
            sys.exit(f"error: OFFSET_UM must lie within ±{RANGE_UM:.0f}, not {offset}")
        if objective not in DEPTH_OF_FIELD_UM:
            sys.exit(f"error: unknown OBJECTIVE '{objective}': choose one of {', '.join(DEPTH_OF_FIELD_UM)}")
        return settings


@dataclass
class Record:
    """Everything heard from the graph; times in seconds of the graph's clock."""

    truth: list = field(default_factory=list)  # (time, z_um, defocus_um)
    estimates: list = field(default_factory=list)  # (time, index, certainty, trusted, decision_s)
    state: int = FocusState.DISABLED
    reason: str = ""
    state_time: float = 0.0
    stage: int = StageState.DISCONNECTED
    stage_reason: str = ""


def seconds(stamp) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


class Watcher(Node):
    """An ordinary client of the graph."""

    def __init__(self):
        super().__init__("demo")
        # An executor of its own: the global one takes the node up anew for every message, and falls behind.
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)
        self.record = Record()
        self.image = None
        self.image_subscription = None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(SimTruth, "sim/truth", self.on_truth, 50)
        self.create_subscription(FocusEstimate, "focus", self.on_estimate, 50)
        self.create_subscription(FocusState, "focus_state", self.on_state, latched)
        self.create_subscription(StageState, "stage_state", self.on_stage, 10)
        self.enable_client = self.create_client(SetBool, "focus_controller/enable")

    def on_truth(self, message):
        self.record.truth.append((seconds(message.header.stamp), 1e6 * message.z, 1e6 * message.defocus))

    def on_estimate(self, message):
        row = (message.distance_index, message.certainty, message.trusted, message.decision_time)
        self.record.estimates.append((seconds(message.header.stamp), *row))

    def on_state(self, message):
        self.record.state, self.record.reason = message.state, message.reason
        self.record.state_time = seconds(message.header.stamp)

    def on_stage(self, message):
        self.record.stage, self.record.stage_reason = message.state, message.reason

    def on_image(self, message):
        self.image = message

    def spin_until(self, done, limit_s: float, each=None) -> bool:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.spinner.spin_once(timeout_sec=0.05)
            if each:
                each()
            if done():
                return True
        return False

    def grab(self, alive) -> np.ndarray | None:
        """One full frame; the graph publishes frames only while somebody listens."""
        self.image = None
        subscription = self.create_subscription(Image, "image_raw", self.on_image, 1)
        self.spin_until(lambda: self.image is not None or not alive(), 10.0)
        self.destroy_subscription(subscription)
        if self.image is None:
            return None
        return np.frombuffer(self.image.data, np.uint8).reshape(self.image.height, self.image.width, 3)

    def enable(self) -> None:
        future = self.enable_client.call_async(SetBool.Request(data=True))
        self.spin_until(future.done, 5.0)


def parameter_file(settings: Settings, folder: str) -> Path:
    path = Path(folder) / "demo.yaml"
    start = settings.offset_um * 1e-6
    port = f"{folder}/stage"
    path.write_text(
        "/**:\n  ros__parameters:\n"
        f"    classifier: {{objective: {settings.objective}}}\n"
        f"    focus_controller: {{objective: {settings.objective}}}\n"
        f"    stepper_bridge: {{port: {port}, power_up_z: {start:.9f}}}\n"
        f"    sim_microscope: {{objective: {settings.objective}, seed: {settings.seed}, "
        f"start_defocus: {start:.9f}, port: {port}}}\n"
    )
    return path


def start_graph(parameters: Path) -> subprocess.Popen:
    command = [str(ROOT / "scripts" / "run"), "autofocus", "--ros-args"]
    command += ["--params-file", str(ROOT / "config" / "autofocus.yaml"), "--params-file", str(parameters)]
    return subprocess.Popen(command, stdout=sys.stderr)


def live_line(record: Record, enabled: float):
    """Prints z, index and certainty: in place on a terminal, else twice a second."""
    terminal = sys.stderr.isatty()
    last = [0.0]

    def show():
        now = time.monotonic()
        if not record.truth or not record.estimates or now - last[0] < (0.1 if terminal else 0.5):
            return
        last[0] = now
        # One moment, of which both are known: on a busy machine one topic comes later than the other.
        at, z_um, defocus_um = record.truth[-1]
        judged = [row for row in record.estimates if row[0] <= at] or record.estimates[:1]
        _, index, certainty, trusted, _ = judged[-1]
        text = (
            f"{at - enabled:5.1f} s  z {z_um:+8.2f} µm  defocus {defocus_um:+8.2f} µm  index {index:+d}  "
            f"certainty {certainty:.2f}{'' if trusted else ' (not trusted)'}  {STATE_NAMES[record.state]}"
        )
        print(f"\r{text:<100}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


def plot_response(record: Record, enabled: float, settings: Settings) -> None:
    figure, (height, index, certainty) = plt.subplots(3, 1, sharex=True, figsize=(8, 7), layout="constrained")
    truth = np.array(record.truth)
    estimates = np.array([row[:3] for row in record.estimates], float)
    height.plot(truth[:, 0] - enabled, truth[:, 2], ".-", color="tab:blue")
    height.axhspan(-0.5 * DEPTH_OF_FIELD_UM[settings.objective], 0.5 * DEPTH_OF_FIELD_UM[settings.objective], alpha=0.3)
    height.set_ylabel("defocus, µm")
    height.set_yscale("symlog", linthresh=1.0)
    height.yaxis.set_major_formatter("{x:g}")
    index.step(estimates[:, 0] - enabled, estimates[:, 1], where="post", color="tab:orange")
    index.set_ylabel("distance index")
    index.set_yticks(range(-2, 5))
    certainty.plot(estimates[:, 0] - enabled, estimates[:, 2], ".-", color="tab:green")
    certainty.set_ylabel("certainty")
    certainty.set_ylim(0, 1.05)
    certainty.set_xlabel("time since enabled, s")
    for axes in (height, index, certainty):
        axes.grid(alpha=0.3)
        axes.axvline(0, color="grey", linewidth=0.8)
    height.set_title(f"Response, {settings.objective}, slide {settings.seed}, start {settings.offset_um:+.1f} µm")
    figure.savefig(OUT / "response_curve.png", dpi=120)
    plt.close(figure)


def plot_frames(first: np.ndarray, last: np.ndarray, settings: Settings, error_um: float) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(14, 5.6), layout="constrained")
    titles = (f"at the start, {settings.offset_um:+.1f} µm", f"focused, {error_um:+.2f} µm")
    for axes, picture, title in zip(panels, (first, last), titles, strict=True):
        axes.imshow(picture)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(OUT / "focused.png", dpi=120)
    plt.close(figure)


def run(settings: Settings, watcher: Watcher, graph: subprocess.Popen) -> dict | None:
    """Drives the graph to its end; None if it never got going."""
    record = watcher.record

    def alive() -> bool:
        return graph.poll() is None

    ready = watcher.spin_until(lambda: not alive() or (record.estimates and record.stage == StageState.IDLE), START_LIMIT_S)
    if not alive():
        print("error: the graph ended at its start, for the reason above", file=sys.stderr)
        return None
    if not ready:
        why = record.stage_reason or "camera, classifier and stage did not all report"
        print(f"error: the graph did not start within {START_LIMIT_S:.0f} s ({why})", file=sys.stderr)
        return None
    first = watcher.grab(alive)
    watcher.enable()
    enabled = time.time()
    show = live_line(record, enabled)
    finished = (FocusState.IN_FOCUS, FocusState.FAILED)
    watcher.spin_until(lambda: not alive() or record.state in finished, RUN_LIMIT_S, show)
    ended = record.state_time
    # The verdict needs an exposure made after the stage came to rest.
    watcher.spin_until(lambda: not alive() or (record.truth and record.truth[-1][0] > ended + 0.3), 5.0, show)
    last = watcher.grab(alive)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if record.state == FocusState.FAILED:
        print(f"the controller gave up: {record.reason}", file=sys.stderr)
    if not record.truth or not record.estimates:
        return None
    error_um = record.truth[-1][2]
    tolerance_um = max(1.0, 0.7 * DEPTH_OF_FIELD_UM[settings.objective])
    focused = record.state == FocusState.IN_FOCUS and abs(error_um) <= tolerance_um
    plot_response(record, enabled, settings)
    if first is not None and last is not None:
        plot_frames(first, last, settings, error_um)
    judged = [row for row in record.estimates if enabled <= row[0] <= ended]
    return {
        "focused": focused,
        "start_offset_um": round(settings.offset_um, 3),
        "final_error_um": round(error_um, 3),
        "time_to_focus_s": round(ended - enabled, 3) if focused else None,
        "frames": len(judged),
        "decision_ms_p50": round(1e3 * statistics.median(row[4] for row in record.estimates), 2),
        "z_min_reached_um": round(min(row[1] for row in record.truth), 3),
        "seed": settings.seed,
        "objective": settings.objective,
    }


def main() -> int:
    settings = Settings.from_environment()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"slide {settings.seed}, starting {settings.offset_um:+.2f} µm from focus, {settings.objective}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="hhnet-demo-") as folder:
        graph = start_graph(parameter_file(settings, folder))
        try:
            rclpy.init()
            result = run(settings, Watcher(), graph)
        finally:
            graph.send_signal(signal.SIGTERM)
            try:
                graph.wait(10)
            except subprocess.TimeoutExpired:
                graph.kill()
            rclpy.try_shutdown()
    if result is None:
        result = {"focused": False, "start_offset_um": round(settings.offset_um, 3), "final_error_um": None}
        result |= {"time_to_focus_s": None, "frames": 0, "decision_ms_p50": None}
    else:
        print(f"pictures: {OUT}/response_curve.png and focused.png", file=sys.stderr)
    assert result["final_error_um"] is None or math.isfinite(result["final_error_um"])
    print(json.dumps(result), flush=True)
    return 0 if result["focused"] else 1


if __name__ == "__main__":
    sys.exit(main())
