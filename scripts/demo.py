"""Focuses the virtual microscope once, from outside: starts the graph, enables it, watches, and judges the result.

Settings come from the environment: SEED (slide), OFFSET_UM (start above focus, positive = too far), OBJECTIVE.
The last line on stdout is one JSON object; progress goes to stderr; pictures go to out/demo, or to DEMO_OUT.

Focused means: the controller said "in focus", confirmed by motion, and kept to it for half a second, at the end of which the true defocus was at most
1.0 µm under the 40x0.65, half the depth of field under the others; and the lens was never below z_min.
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

import numpy as np
import rclpy
from demo_pictures import DEPTH_OF_FIELD_UM, FRAMES, RESPONSE, plot_frames, plot_response
from hhnet.msg import About, FocusEstimate, FocusState, SimTruth, StageState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("DEMO_OUT") or ROOT / "out" / "demo")
RANGE_UM = 60.0
MOST_SEED = 2**63 - 1
START_LIMIT_S = 30.0
RUN_LIMIT_S = 60.0
HOLD_S = 0.5
# What a topic may come later than another on a busy machine.
LAG_S = 0.3
STATE_NAMES = {0: "disabled", 1: "looking", 2: "moving", 3: "in focus", 4: "failed", 5: "searching"}


class Refused(Exception):
    """The demo cannot run, or not to its end; the sentence says why."""


@dataclass
class Settings:
    """What the user asked for, or chance."""

    seed: int
    offset_um: float
    objective: str

    @classmethod
    def from_environment(cls) -> "Settings":
        chance = random.SystemRandom().randrange(1_000_000)
        seed = number(int, "SEED", chance, f"a whole number from 0 to {MOST_SEED}")
        if not 0 <= seed <= MOST_SEED:
            raise Refused(f"SEED must be a whole number from 0 to {MOST_SEED}, not {seed}")
        offset_um = number(float, "OFFSET_UM", random.Random(seed).uniform(-RANGE_UM, RANGE_UM), "a number of µm")
        if not abs(offset_um) <= RANGE_UM:
            raise Refused(f"OFFSET_UM must lie within ±{RANGE_UM:.0f}, not {offset_um}")
        objective = os.environ.get("OBJECTIVE") or "40x0.65"
        if objective not in DEPTH_OF_FIELD_UM:
            raise Refused(f"unknown OBJECTIVE '{objective}': choose one of {', '.join(DEPTH_OF_FIELD_UM)}")
        return cls(seed, offset_um, objective)

    @property
    def tolerance_um(self) -> float:
        """Largest defocus that counts as in focus."""
        return 1.0 if self.objective == "40x0.65" else 0.5 * DEPTH_OF_FIELD_UM[self.objective]


def number(kind, name: str, default, what: str):
    """A setting as a number; unset and empty mean the default."""
    text = os.environ.get(name)
    try:
        return kind(text) if text else default
    except ValueError:
        raise Refused(f"{name} must be {what}, not '{text}'") from None


@dataclass
class Record:
    """Everything heard from the graph; times in seconds of the graph's clock."""

    truth: list = field(default_factory=list)  # (time, z_um, defocus_um), z above the slide's nominal plane
    estimates: list = field(default_factory=list)  # (time, index, certainty, trusted, decision_s)
    states: list = field(default_factory=list)  # (time, state, reason), each change
    confirmed: bool = False  # by the newest state: what is in focus was seen to follow the lens
    stage: int = StageState.DISCONNECTED
    stage_reason: str = ""
    stage_z_um: float = math.nan
    z_min_um: float | None = None  # that the bridge enforces

    @property
    def state(self) -> int:
        return self.states[-1][1] if self.states else FocusState.DISABLED

    def state_at(self, time_s: float) -> int:
        """The state at a time: topics come at different speeds."""
        return next((state for since, state, _ in reversed(self.states) if since <= time_s), FocusState.DISABLED)

    def in_focus_since(self) -> float | None:
        """Since when focus is held, once everything up to the end of the hold has been heard."""
        if self.state != FocusState.IN_FOCUS or not self.truth:
            return None
        since = self.states[-1][0]
        return since if self.truth[-1][0] > since + HOLD_S + LAG_S else None

    def truth_at(self, time_s: float) -> tuple:
        """The exposure nearest to a time."""
        return min(self.truth, key=lambda row: abs(row[0] - time_s))


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
        self.create_subscription(About, "stepper_bridge/about", self.on_about, latched)
        self.enable_client = self.create_client(SetBool, "focus_controller/enable")

    def on_truth(self, message):
        self.record.truth.append((seconds(message.header.stamp), 1e6 * message.z, 1e6 * message.defocus))

    def on_estimate(self, message):
        row = (message.distance_index, message.certainty, message.trusted, message.decision_time)
        self.record.estimates.append((seconds(message.header.stamp), *row))

    def on_state(self, message):
        self.record.states.append((seconds(message.header.stamp), message.state, message.reason))
        self.record.confirmed = message.confirmed

    def on_stage(self, message):
        self.record.stage, self.record.stage_reason = message.state, message.reason
        self.record.stage_z_um = 1e6 * message.z

    def on_about(self, message):
        limits = {limit.key: float(limit.value) for limit in message.limits}
        if "z_min" in limits:
            self.record.z_min_um = 1e6 * limits["z_min"]

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

    def grab(self, alive) -> tuple | None:
        """One full frame and when it was exposed; the graph publishes frames only while somebody listens."""
        self.image = None
        subscription = self.create_subscription(Image, "image_raw", self.on_image, 1)
        self.spin_until(lambda: self.image is not None or not alive(), 10.0)
        self.destroy_subscription(subscription)
        if self.image is None:
            return None
        pixels = np.frombuffer(self.image.data, np.uint8).reshape(self.image.height, self.image.width, 3)
        return seconds(self.image.header.stamp), pixels

    def enable(self) -> None:
        future = self.enable_client.call_async(SetBool.Request(data=True))
        self.spin_until(future.done, 5.0)
        if not future.done():
            raise Refused("the focus controller did not answer ~/enable within 5 s: run this again on a less busy machine")
        if not future.result().success:
            raise Refused(f"the focus controller refused to start: {future.result().message}")


def parameter_file(settings: Settings, folder: str) -> Path:
    path = Path(folder) / "demo.yaml"
    start = settings.offset_um * 1e-6
    port = f"{folder}/stage"
    path.write_text(
        "/**:\n  ros__parameters:\n"
        f"    microscope: {{objective: {settings.objective}}}\n"
        # Up is up on the virtual stage.
        "    focus_controller: {sweep: always}\n"
        f"    stepper_bridge: {{port: {port}, power_up_z: {start:.9f}}}\n"
        f"    sim_microscope: {{seed: {settings.seed}, "
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
    # When the line was shown last, and of which moment.
    last = [0.0, 0.0]

    def show(is_end: bool = False):
        now = time.monotonic()
        if not record.truth or not record.estimates or (now - last[0] < (0.1 if terminal else 0.5) and not is_end):
            return
        # One moment, of which all is known: on a busy machine one topic comes later than the other.
        at, z_um, defocus_um = record.truth[-1]
        if at == last[1]:
            return
        last[:] = now, at
        judged = [row for row in record.estimates if row[0] <= at] or record.estimates[:1]
        _, index, certainty, trusted, _ = judged[-1]
        text = (
            f"{at - enabled:5.1f} s  z {z_um:+8.2f} µm  defocus {defocus_um:+8.2f} µm  index {index:+d}  "
            f"certainty {certainty:.2f}{'' if trusted else ' (not trusted)'}  {STATE_NAMES[record.state_at(at)]}"
        )
        print(f"\r{text:<100}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


@dataclass
class Verdict:
    """Focus was held from `since` on; the true error is that at the end of the hold."""

    since: float  # in focus
    error_um: float


def watch(watcher: Watcher, alive, show) -> Verdict | None:
    """Waits until focus is held; None if it never was."""
    record = watcher.record

    def over() -> bool:
        return not alive() or record.state == FocusState.FAILED or record.in_focus_since() is not None

    watcher.spin_until(over, RUN_LIMIT_S, show)
    if not alive():
        raise Refused("the graph ended before it was in focus, for the reason above")
    since = record.in_focus_since()
    if since is None:
        return None
    return Verdict(since, record.truth_at(since + HOLD_S)[2])


def run(settings: Settings, watcher: Watcher, graph: subprocess.Popen) -> dict:
    """Drives the graph to its end."""
    record = watcher.record

    def alive() -> bool:
        return graph.poll() is None

    def ready() -> bool:
        return bool(record.estimates and record.truth and record.z_min_um is not None and record.stage == StageState.IDLE)

    watcher.spin_until(lambda: not alive() or ready(), START_LIMIT_S)
    if not alive():
        raise Refused("the graph ended at its start, for the reason above")
    if not ready():
        why = record.stage_reason or "camera, classifier and stage did not all report"
        raise Refused(f"the graph did not start within {START_LIMIT_S:.0f} s ({why})")
    first = watcher.grab(alive)
    # The stage counts from another zero than the slide; here both stand still.
    to_stage_um = record.stage_z_um - record.truth[-1][1]
    enabled = time.time()
    watcher.enable()
    show = live_line(record, enabled)
    verdict = watch(watcher, alive, show)
    last = watcher.grab(alive)
    show(is_end=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    draw(settings, record, enabled, to_stage_um, (first, last))
    return judge(settings, record, verdict, enabled, to_stage_um)


def judge(settings: Settings, record: Record, verdict: Verdict | None, enabled: float, to_stage_um: float) -> dict:
    """The result; says what is wrong with it."""
    error_um = verdict.error_um if verdict else record.truth[-1][2]
    lowest_um = min(row[1] for row in record.truth) + to_stage_um
    faults = []
    if verdict is None:
        reason = record.states[-1][2] if record.state == FocusState.FAILED else "the controller never stayed in focus"
        faults.append(f"not in focus: {reason or 'the controller gave up'}")
    elif not abs(error_um) <= settings.tolerance_um:
        faults.append(f"in focus said the controller, but the true error is {error_um:+.2f} µm")
    if verdict and not record.confirmed:
        faults.append("in focus said the controller, without having seen the picture follow the lens")
    if not lowest_um >= record.z_min_um:
        faults.append(f"the lens was at {lowest_um:.1f} µm, below z_min at {record.z_min_um:.1f} µm")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    until = verdict.since if verdict else math.inf
    return {
        "focused": not faults,
        "confirmed": verdict is not None and record.confirmed,
        "start_offset_um": round(settings.offset_um, 3),
        "final_error_um": round(error_um, 3),
        "time_to_focus_s": None if faults else round(verdict.since - enabled, 3),
        "frames": sum(enabled <= row[0] <= until for row in record.estimates),
        "decision_ms_p50": round(1e3 * statistics.median(row[4] for row in record.estimates), 2),
        "tolerance_um": round(settings.tolerance_um, 3),
        "z_min_reached_um": round(lowest_um, 3),
        "z_min_um": round(record.z_min_um, 3),
        "seed": settings.seed,
        "objective": settings.objective,
    }


def draw(settings: Settings, record: Record, enabled: float, to_stage_um: float, frames: tuple) -> None:
    """Leaves the pictures and says which."""
    title = f"Response, {settings.objective}, slide {settings.seed}, start {settings.offset_um:+.1f} µm"
    plot_response(OUT, record, enabled, to_stage_um, title, settings.objective)
    pictures = [RESPONSE]
    if None in frames:
        print(f"{FRAMES} is missing: the camera gave no frame within 10 s", file=sys.stderr)
    else:
        # Each frame is labelled with the error of its own exposure.
        plot_frames(OUT, [(pixels, record.truth_at(stamp)[2]) for stamp, pixels in frames])
        pictures.append(FRAMES)
    print(f"pictures: {', '.join(str(OUT / name) for name in pictures)}", file=sys.stderr)


def demo() -> dict:
    """One run from settings to result."""
    settings = Settings.from_environment()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    print(f"slide {settings.seed}, starting {settings.offset_um:+.2f} µm from focus, {settings.objective}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="hhnet-demo-") as folder:
        graph = start_graph(parameter_file(settings, folder))
        try:
            rclpy.init()
            return run(settings, Watcher(), graph)
        except (KeyboardInterrupt, ExternalShutdownException):
            raise Refused("interrupted") from None
        finally:
            graph.send_signal(signal.SIGTERM)
            try:
                graph.wait(10)
            except subprocess.TimeoutExpired:
                graph.kill()
                graph.wait()
            rclpy.try_shutdown()


def main() -> int:
    # Pictures of an earlier run must not pass for those of this one.
    OUT.mkdir(parents=True, exist_ok=True)
    for name in (RESPONSE, FRAMES):
        (OUT / name).unlink(missing_ok=True)
    try:
        result = demo()
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        result = {
            "focused": False,
            "confirmed": False,
            "start_offset_um": None,
            "final_error_um": None,
            "time_to_focus_s": None,
        }
        result |= {"frames": 0, "decision_ms_p50": None}
    print(json.dumps(result), flush=True)
    return 0 if result["focused"] else 1


if __name__ == "__main__":
    sys.exit(main())
