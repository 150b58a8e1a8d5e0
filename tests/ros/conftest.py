"""A running graph and an independent rclpy client for each test."""

import itertools
import os
import select
import signal
import subprocess
import threading
import time
import tty
from pathlib import Path

import pytest
import rclpy
from hhnet.msg import FocusEstimate, FocusState, SimTruth, StageState
from hhnet.srv import AcceptPosition
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import SetBool, Trigger

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "scripts" / "run"
CONFIG = ROOT / "config" / "autofocus.yaml"
# A stage whose lens is exactly where its motor is, for tests that compare the two or want perfect standstill.
RIGID = {f"sim_microscope__{name}": 0.0 for name in ("backlash", "settling_frequency", "drift", "drift_swing")}
# Frames of a virtual microscope that a test does not ask for otherwise, 1/s: with all that it can render the machine has no time for the test.
FRAME_RATE = 10.0
# From signal to exit; nodes promise one second, and a busy machine is slow.
EXIT_LIMIT_S = 10.0
# ROS has 101 domains on Linux; each process that runs tests has a range of its own.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
DOMAINS = itertools.cycle(range(1 + WORKER * (100 // WORKERS), 1 + (WORKER + 1) * (100 // WORKERS)))


def seconds(stamp) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


class Graph:
    """Executables of the package in a ROS domain of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = folder / "stage"
        self.processes: list[tuple[str, subprocess.Popen]] = []

    def start(
        self, executable: str, namespace: str = "", file: Path | None = None, extra: tuple = (), **parameters
    ) -> subprocess.Popen:
        """Starts an executable once more; parameters are given as section__name=value (None: as the shipped file has it), or in a further
        parameter file; `extra` are other ROS arguments."""
        ours = {"sim_microscope__port": self.port, "stepper_bridge__port": self.port, "sim_microscope__frame_rate": FRAME_RATE}
        parameters = {name: value for name, value in (ours | parameters).items() if value is not None}
        command = [str(RUN), executable, "--ros-args", "--params-file", str(CONFIG), *extra]
        if file:
            command += ["--params-file", str(file)]
        if namespace:
            command += ["-r", f"__ns:=/{namespace}"]
        for name, value in parameters.items():
            command += ["-p", f"{name.replace('__', '.')}:={value}"]
        with open(self.folder / f"{namespace}{executable}.log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append((executable, process))
        return process

    def log(self, executable: str) -> str:
        return (self.folder / f"{executable}.log").read_text()

    def stop(self, executable: str, number: int = signal.SIGTERM) -> int:
        """Signals the newest process of that name; its exit status."""
        return self.stop_timed(executable, number)[0]

    def stop_timed(self, executable: str, number: int) -> tuple[int, float]:
        """The same, and the seconds from signal to exit: the kernel wakes this process at once, without polling."""
        at = max(index for index, (name, _) in enumerate(self.processes) if name == executable)
        _, process = self.processes.pop(at)
        poller = select.poll()
        handle = os.pidfd_open(process.pid)
        try:
            poller.register(handle, select.POLLIN)
            began = time.monotonic()
            process.send_signal(number)
            poller.poll(1e3 * EXIT_LIMIT_S)
            took_s = time.monotonic() - began
        finally:
            os.close(handle)
        return ended(process, executable, 0.5), took_s

    def stop_all(self) -> None:
        for _, process in self.processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + EXIT_LIMIT_S
        hung = []
        for name, process in self.processes:
            try:
                ended(process, name, max(0.1, deadline - time.monotonic()))
            except AssertionError as error:
                hung.append(str(error))
        self.processes.clear()
        assert not hung, hung


def ended(process: subprocess.Popen, name: str, limit_s: float) -> int:
    """The exit status of a process that has been told to end; it is killed if it does not."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{name} still ran {EXIT_LIMIT_S} s after it was told to end, and was killed") from None


class RelayedPort:
    """A port of its own, `path`, to the controller behind another one; what comes back is what `replies` makes of it."""

    def __init__(self, port: Path):
        self.port = port
        self.ours, self.kept = os.openpty()
        tty.setraw(self.kept)
        self.path = os.ttyname(self.kept)
        self.ends = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def replies(self, data: bytes) -> bytes:
        """What is passed on now, of this and of what came before; `data` is empty where nothing new has come."""
        return data

    def run(self) -> None:
        while not self.port.exists():
            if self.ends:
                return
            time.sleep(0.02)
        device = os.open(self.port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(device)
        while not self.ends:
            ready = select.select([device, self.ours], [], [], 0.002)[0]
            if self.ours in ready:
                os.write(device, os.read(self.ours, 4096))
            due = self.replies(os.read(device, 4096) if device in ready else b"")
            if due:
                os.write(self.ours, due)
        os.close(device)

    def close(self) -> None:
        self.ends = True
        self.thread.join()
        os.close(self.ours)
        os.close(self.kept)


class Client(Node):
    """Hears everything small, commands what a lab would."""

    def __init__(self, namespace: str = ""):
        super().__init__("test_client", namespace=namespace)
        self.truth: list[SimTruth] = []
        self.estimates: list[FocusEstimate] = []
        self.states: list[FocusState] = []
        self.stages: list[StageState] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(SimTruth, "sim/truth", self.truth.append, 100)
        self.create_subscription(FocusEstimate, "focus", self.estimates.append, 100)
        self.create_subscription(FocusState, "focus_state", self.states.append, latched)
        self.create_subscription(StageState, "stage_state", self.stages.append, 100)

    def spin_until(self, done, limit_s: float, what: str, each=lambda: None) -> None:
        end = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < end, f"waited {limit_s} s in vain for {what}"
            rclpy.spin_once(self, timeout_sec=0.02)
            each()

    def spin_for(self, duration_s: float, each=lambda: None) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.02)
            each()

    def call(self, kind, name: str, request):
        client = self.create_client(kind, name)
        assert client.wait_for_service(10.0), f"no service {name}"
        future = client.call_async(request)
        self.spin_until(future.done, 20, f"the answer of {name}")
        self.destroy_client(client)
        return future.result()

    def enable(self, value: bool = True):
        return self.call(SetBool, "focus_controller/enable", SetBool.Request(data=value))

    def trigger(self, name: str):
        return self.call(Trigger, name, Trigger.Request())

    def accept_position(self, **metres: float):
        """Says where the stage stands: accept_position(z=0.0)."""
        request = AcceptPosition.Request(axes=list(metres), position=list(metres.values()))
        return self.call(AcceptPosition, "stepper_bridge/accept_position", request)

    def focus(self, limit_s: float = 40.0) -> None:
        """Enables the controller and waits for focus; a run that fails says why."""
        # Before the model is read a run is refused.
        self.spin_until(lambda: bool(self.estimates), 60, "an estimate")
        began = len(self.states)
        answer = self.enable()
        assert answer.success, answer.message
        ends = (FocusState.IN_FOCUS, FocusState.FAILED)
        self.spin_until(lambda: self.states[began:] and self.states[-1].state in ends, limit_s, "the end of the run")
        assert self.states[-1].state == FocusState.IN_FOCUS, self.states[-1]

    def is_up(self) -> bool:
        return bool(self.stages) and self.stages[-1].state == StageState.IDLE and bool(self.truth)

    def z_um(self) -> float:
        return 1e6 * self.truth[-1].z

    def z_um_now(self) -> float:
        """The true height at an exposure that has yet to come: what a slow client hears first is of the past."""
        called = time.time()
        self.spin_until(lambda: self.truth and seconds(self.truth[-1].header.stamp) > called, 20, "an exposure")
        return self.z_um()

    def check_stands(self, after_s: float = 0.15, for_s: float = 1.0, drift_um: float = 0.05) -> float:
        """The height at which the lens stands from `after_s` on, by which the carriage has rung out; the stand drifts by some nm in a second."""
        self.spin_for(after_s)
        stood = self.z_um_now()
        self.spin_for(for_s)
        assert self.z_um_now() == pytest.approx(stood, abs=drift_um), "the motor still turns"
        return stood


def descending(graph, client) -> None:
    """A graph on its way down from far above focus."""
    graph.start("autofocus", sim_microscope__start_defocus=58e-6, stepper_bridge__power_up_z=58e-6)
    client.spin_until(lambda: client.is_up() and client.estimates, 30, "stage and estimates")
    start = client.z_um()
    client.enable()
    client.spin_until(lambda: client.z_um() < start - 2.0, 20, "motion")


# What takes longest comes first: at the end only one of the processes that run tests would be at work.
LONG = ("test_calibrate.py", "test_flat_field.py", "test_actions.py", "test_supervision.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def domain(tmp_path, monkeypatch):
    """What a test starts is heard by nobody else and remembers nothing of other tests."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS)))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def graph(tmp_path):
    graph = Graph(tmp_path)
    yield graph
    graph.stop_all()


@pytest.fixture
def client(graph):
    rclpy.init()
    client = Client()
    yield client
    client.destroy_node()
    rclpy.try_shutdown()
