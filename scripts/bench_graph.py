"""Measures the running graph as a client feels it: from frame to estimate, goals, parameters, what idle nodes cost, and a soak.

python scripts/bench_graph.py [PART ...]     # the parts are the functions of PARTS; all of them without any

SOAK_MIN is the length of the soak in minutes; a growth per hour is judged from 30 on. SOAK_REST_S is how long the stage rests between two
runs. Progress goes to stderr, one JSON object to stdout. Times of messages are those of the middleware, which this process's own
speed does not touch; those of goals and parameters are a Python client's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from hhnet.action import Autofocus, MoveStage
from hhnet.msg import FocusEstimate, NodeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

ROOT = Path(__file__).resolve().parent.parent
NODES = ("sim_microscope", "camera", "classifier", "focus_controller", "stepper_bridge")
FASTDDS = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml")}
NO_NETWORK = {"classifier.model": "none"}
# Frames that are timed; between processes a busy machine passes few.
COMPOSED_FRAMES = 600
SEPARATE_FRAMES = 200
GOALS = 300
CHANGES = 30
IDLE_S = 20.0
LIMIT_S = 120.0
NAN = float("nan")
# Allocators and caches fill in steps for the first hundreds of runs; a slope over the beginning of a soak would be theirs.
WARM_UP = 0.5


class Graph:
    """Executables in a domain that nobody else hears."""

    def __init__(self, *executables: str, parameters: dict | None = None, environment: dict | None = None):
        common = ["--ros-args", "--params-file", str(ROOT / "config" / "autofocus.yaml"), "--log-level", "warn"]
        for name, value in (parameters or {}).items():
            common += ["-p", f"{name}:={value}"]
        run = str(ROOT / "scripts" / "run")
        self.processes = {
            name: subprocess.Popen([run, name, *common], env=os.environ | (environment or {})) for name in executables
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(10)

    def cpu_s(self) -> dict[str, float]:
        """Processor time each process has used."""
        tick = os.sysconf("SC_CLK_TCK")
        times = {}
        for name, process in self.processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            times[name] = (int(fields[11]) + int(fields[12])) / tick
        return times

    def memory_mb(self, executable: str, field: str) -> float:
        """A line of /proc/PID/status: VmRSS is in use now, VmHWM at most so far."""
        status = Path(f"/proc/{self.processes[executable].pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024


def separate(**options) -> Graph:
    """One process for each node."""
    return Graph(*(f"{name}_node" for name in NODES), **options)


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 99)} | {"count": len(values)}


def wait(node: Node, done, what: str) -> None:
    """Spins until it is done. Not rclpy.spin_until_future_complete, which leaves a task behind for every time it woke: they delay
    what is awaited next, and are counted in its time."""
    end = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > end:
            sys.exit(f"error: waited {LIMIT_S:.0f} s in vain for {what}")
        rclpy.spin_once(node, timeout_sec=0.02)


def key(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def frame_to_focus(node: Node, count: int) -> dict[str, float]:
    """From a frame's hand-over (its camera_info) to the arrival of its estimate, ms."""
    sent: dict[tuple, int] = {}
    arrived: dict[tuple, int] = {}

    def on_info(info: CameraInfo, about: dict) -> None:
        sent[key(info)] = about["source_timestamp"]

    def on_estimate(estimate: FocusEstimate, about: dict) -> None:
        arrived[key(estimate)] = about["received_timestamp"]

    handles = [
        node.create_subscription(CameraInfo, "camera_info", on_info, 100),
        node.create_subscription(FocusEstimate, "focus", on_estimate, 100),
    ]
    wait(node, lambda: len(sent.keys() & arrived.keys()) >= count, "estimates")
    for handle in handles:
        node.destroy_subscription(handle)
    # The first frames find caches cold and connections being made.
    stamps = sorted(sent.keys() & arrived.keys())[count // 4 :]
    frames = sum(stamps[0] <= stamp <= stamps[-1] for stamp in sent)
    times = percentiles([1e-6 * (arrived[stamp] - sent[stamp]) for stamp in stamps])
    return times | {"frames_without_estimate": frames - len(stamps)}


def latency(node: Node) -> dict:
    """The network replaced by none: what everything else costs, in one process, in five, and in five with the shipped profile."""
    report = {}
    with Graph("autofocus", parameters=NO_NETWORK):
        report["composed"] = frame_to_focus(node, COMPOSED_FRAMES)
    with separate(parameters=NO_NETWORK):
        report["separate"] = frame_to_focus(node, SEPARATE_FRAMES)
    with separate(parameters=NO_NETWORK, environment=FASTDDS):
        report["separate_with_profile"] = frame_to_focus(node, SEPARATE_FRAMES)
    return report


def goals(node: Node) -> dict:
    """From sending a goal to its acceptance, ms; every goal is a move to where the stage stands."""
    with Graph("autofocus"):
        mover = ActionClient(node, MoveStage, "move_stage")
        wait_for_stage(node)
        if not mover.wait_for_server(LIMIT_S):
            sys.exit("error: no move_stage action appeared")
        times, rejected = [], 0
        for _ in range(GOALS):
            began = time.perf_counter()
            future = mover.send_goal_async(MoveStage.Goal(x=NAN, y=NAN, z=NAN, relative=True))
            wait(node, future.done, "an answer")
            times.append(1e3 * (time.perf_counter() - began))
            if not future.result().accepted:
                rejected += 1
                continue
            result = future.result().get_result_async()
            wait(node, result.done, "a result")
        mover.destroy()
    return percentiles(times) | {"rejected": rejected}


def wait_for_stage(node: Node) -> None:
    """Until the stepper bridge says that it can be given work."""
    states: list[NodeState] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    handle = node.create_subscription(NodeState, "stepper_bridge/state", states.append, latched)
    wait(node, lambda: states and states[-1].state == NodeState.IDLE and not states[-1].reason, "the stage")
    node.destroy_subscription(handle)


def parameters(node: Node) -> dict:
    """Estimates that still come after the answer to a changed `min_certainty` as if nothing had changed; the answer's time, ms."""
    estimates: list[tuple[int, bool]] = []
    with Graph("autofocus", parameters={"sim_microscope.start_defocus": 12e-6}):
        handle = node.create_subscription(
            FocusEstimate, "focus", lambda m, about: estimates.append((about["source_timestamp"], m.trusted)), 100
        )
        client = node.create_client(SetParameters, "classifier/set_parameters")
        wait(node, lambda: estimates and estimates[-1][1], "a trusted estimate")
        late, times = [], []
        for change in range(CHANGES):
            is_trusted = change % 2 == 1
            value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.0 if is_trusted else 1.0)
            request = SetParameters.Request(parameters=[Parameter(name="min_certainty", value=value)])
            began = time.perf_counter()
            future = client.call_async(request)
            wait(node, future.done, "an answer")
            times.append(1e3 * (time.perf_counter() - began))
            if not future.result().results[0].successful:
                sys.exit(f"error: min_certainty could not be set: {future.result().results[0].reason}")
            answered = time.time_ns()

            def since(answered=answered):
                return [trusted for stamp, trusted in estimates if stamp > answered]

            wait(node, lambda wanted=is_trusted: wanted in since(), "an estimate that shows the change")
            late.append(since().index(is_trusted))
        node.destroy_client(client)
        node.destroy_subscription(handle)
    return {"frames_late_most": max(late), "changes": CHANGES, "answer_ms": percentiles(times)}


def idle(node: Node) -> dict:
    """Percent of a core that each process uses while nobody asks for anything."""
    with separate() as graph:
        wait_for_stage(node)
        time.sleep(8.0)
        before, began = graph.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        elapsed = time.monotonic() - began
        return {name: round(100 * (used - before[name]) / elapsed, 2) for name, used in graph.cpu_s().items()}


def soak(node: Node) -> dict:
    """Memory of the composed graph while it focuses again and again from another height."""
    minutes, rest_s = (float(os.environ.get(name) or default) for name, default in (("SOAK_MIN", 2), ("SOAK_REST_S", 0)))
    samples: list[tuple[float, float]] = []
    runs = failures = 0
    with Graph("autofocus") as graph:
        wait_for_stage(node)
        focuser, mover = ActionClient(node, Autofocus, "autofocus"), ActionClient(node, MoveStage, "move_stage")
        if not (focuser.wait_for_server(LIMIT_S) and mover.wait_for_server(LIMIT_S)):
            sys.exit("error: no actions appeared")
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < 60 * minutes:
            samples.append((elapsed / 3600, graph.memory_mb("autofocus", "VmRSS")))
            away = MoveStage.Goal(x=NAN, y=NAN, z=(20e-6, -8e-6, 35e-6)[runs % 3], relative=True)
            for client, goal in ((mover, away), (focuser, Autofocus.Goal(timeout=30.0))):
                failures += not succeeds(node, client, goal)
            runs += 1
            rested = time.monotonic() + rest_s
            wait(node, lambda end=rested: time.monotonic() >= end, "rest")
        samples.append((elapsed / 3600, graph.memory_mb("autofocus", "VmRSS")))
        peak = graph.memory_mb("autofocus", "VmHWM")
        focuser.destroy()
        mover.destroy()
    hours, megabytes = np.array(samples[int(WARM_UP * len(samples)) :]).T
    slope = float(np.polyfit(hours, megabytes, 1)[0])
    return {
        "minutes": minutes,
        "runs": runs,
        "failures": failures,
        "rss_mb_per_hour": round(slope, 2),
        "rss_peak_mb": round(peak, 1),
        "rss_mb_every_twentieth": [round(sample[1], 2) for sample in samples[:: max(1, len(samples) // 20)]],
    }


def succeeds(node: Node, client: ActionClient, goal) -> bool:
    sent = client.send_goal_async(goal)
    wait(node, sent.done, "an answer")
    if not sent.result().accepted:
        return False
    ended = sent.result().get_result_async()
    wait(node, ended.done, "a result")
    return ended.result().status == GoalStatus.STATUS_SUCCEEDED


PARTS = {part.__name__: part for part in (latency, goals, parameters, idle, soak)}


def main() -> None:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - PARTS.keys():
        sys.exit(f"error: no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    rclpy.init()
    node = Node("bench")
    report = {}
    for name in wanted:
        print(f"graph: {name}", file=sys.stderr)
        report[name] = PARTS[name](node)
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
