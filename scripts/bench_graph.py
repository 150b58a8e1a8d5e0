"""Measures the running graph as a client feels it: goals, parameters, age of a decision, and what idle nodes cost.

One process per node, so that each node's share of a core can be told; the composed graph's age of a decision stands beside it. One
JSON object to stdout.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from hhnet.action import MoveStage
from hhnet.msg import FocusEstimate
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node

ROOT = Path(__file__).resolve().parent.parent
NODES = ("sim_microscope", "camera", "classifier", "focus_controller", "stepper_bridge")
GOALS = 300
IDLE_S = 20.0
LIMIT_S = 60.0
NAN = float("nan")


class Graph:
    """Executables in a domain that nobody else hears."""

    def __init__(self, *executables: str):
        common = ["--ros-args", "--params-file", str(ROOT / "config" / "autofocus.yaml"), "--log-level", "warn"]
        run = str(ROOT / "scripts" / "run")
        self.processes = {name: subprocess.Popen([run, name, *common]) for name in executables}

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


def percentiles(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {f"p{share}": round(values[min(len(values) - 1, len(values) * share // 100)], 3) for share in (50, 99)}


def wait(node: Node, done, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > end:
            sys.exit(f"error: waited {LIMIT_S:.0f} s in vain for {what}")
        rclpy.spin_once(node, timeout_sec=0.02)


def decision_ages(node: Node, count: int) -> list[float]:
    """From the middle of an exposure to the estimate in this process, ms."""
    ages: list[float] = []

    def heard(estimate: FocusEstimate) -> None:
        stamp = estimate.header.stamp
        ages.append(1e3 * (time.time() - stamp.sec - 1e-9 * stamp.nanosec))

    subscription = node.create_subscription(FocusEstimate, "focus", heard, 1)
    wait(node, lambda: len(ages) >= count, "estimates")
    node.destroy_subscription(subscription)
    return ages[count // 4 :]


def goal_times(node: Node) -> list[float]:
    """From sending a goal to its acceptance, ms; every goal is a move to where the stage stands."""
    mover = ActionClient(node, MoveStage, "move_stage")
    if not mover.wait_for_server(LIMIT_S):
        sys.exit("error: no move_stage action appeared")
    times = []
    for _ in range(GOALS):
        began = time.perf_counter()
        future = mover.send_goal_async(MoveStage.Goal(x=NAN, y=NAN, z=NAN, relative=True))
        rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT_S)
        if future.result() is None or not future.result().accepted:
            time.sleep(0.1)
            continue
        times.append(1e3 * (time.perf_counter() - began))
        rclpy.spin_until_future_complete(node, future.result().get_result_async(), timeout_sec=LIMIT_S)
    mover.destroy()
    return times


def parameter_times(node: Node, owner: str, name: str) -> list[float]:
    """From the call to the answer of a set parameter, ms."""
    client = node.create_client(SetParameters, f"{owner}/set_parameters")
    client.wait_for_service(LIMIT_S)
    times = []
    for value in range(100):
        number = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        began = time.perf_counter()
        future = client.call_async(SetParameters.Request(parameters=[Parameter(name=name, value=number)]))
        rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT_S)
        times.append(1e3 * (time.perf_counter() - began))
    node.destroy_client(client)
    return times


def idle_shares(node: Node, graph: Graph) -> dict[str, float]:
    """Percent of a core that each process uses while nobody asks for anything."""
    time.sleep(5.0)
    before, began = graph.cpu_s(), time.monotonic()
    time.sleep(IDLE_S)
    elapsed = time.monotonic() - began
    return {name: round(100 * (used - before[name]) / elapsed, 2) for name, used in graph.cpu_s().items()}


def main() -> None:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    rclpy.init()
    node = Node("bench")
    report = {}
    with Graph("autofocus"):
        report["composed_decision_age_ms"] = percentiles(decision_ages(node, 200))
        report["goal_accepted_ms"] = percentiles(goal_times(node))
        report["parameter_set_ms"] = percentiles(parameter_times(node, "classifier", "crop_seed"))
    with Graph(*(f"{name}_node" for name in NODES)):
        report["separate_decision_age_ms"] = percentiles(decision_ages(node, 100))
    # Without a classifier the camera alone looks through the virtual microscope, which goes on rendering for it.
    with Graph("sim_microscope_node", "camera_node", "focus_controller_node", "stepper_bridge_node") as graph:
        report["goal_accepted_without_classifier_ms"] = percentiles(goal_times(node))
        report["idle_percent_of_a_core"] = idle_shares(node, graph)
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
