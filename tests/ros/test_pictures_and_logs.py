"""What people look at: small pictures, and a log that can be turned up and down."""

import io
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import CONFIG, RUN
from hhnet.action import Autofocus
from hhnet.msg import FocusEstimate
from PIL import Image as Pictures
from rcl_interfaces import srv as services
from rcl_interfaces.msg import Log, LoggerLevel
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from test_actions import Goal

# The log keeps its lines for late listeners.
ROSOUT = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FAR = {"sim_microscope__start_defocus": 58e-6, "stepper_bridge__power_up_z": 58e-6}


def test_pictures_are_small_and_marked(graph, client):
    graph.start("autofocus", sim_microscope__start_defocus=12e-6)
    plain, marked = [], []
    client.create_subscription(CompressedImage, "image_raw/compressed", plain.append, 1)
    client.create_subscription(CompressedImage, "focus/overlay/compressed", marked.append, 1)
    client.spin_until(lambda: len(plain) > 2 and len(marked) > 2, 30, "pictures")
    for message in (plain[-1], marked[-1]):
        assert message.header.frame_id == "camera_optical_frame"
        assert "jpeg" in message.format
        assert Pictures.open(io.BytesIO(message.data)).size == (512, 384)

    def coloured(message) -> int:
        """Pixels of the red that stands for too far."""
        r, g, b = np.moveaxis(np.asarray(Pictures.open(io.BytesIO(message.data)).convert("RGB")), 2, 0)
        return int(((r > 180) & (g < 110) & (b < 90)).sum())

    assert coloured(marked[-1]) > 2000 > coloured(plain[-1])


def test_levels_change_while_it_runs(graph, client):
    if not hasattr(services, "SetLoggerLevels"):
        pytest.skip("the rcl_interfaces of this ROS 2 have no logger services")
    lines = []
    client.create_subscription(Log, "/rosout", lines.append, ROSOUT)
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")
    names = ["camera", "classifier"]
    request = services.GetLoggerLevels.Request(names=names)
    levels = client.call(services.GetLoggerLevels, "camera/get_logger_levels", request).levels
    assert [level.level for level in levels] == [20, 20]
    wanted = [LoggerLevel(name="focus_controller", level=40), LoggerLevel(name="camera", level=7)]
    request = services.SetLoggerLevels.Request(levels=wanted)
    results = client.call(services.SetLoggerLevels, "camera/set_logger_levels", request).results
    assert [result.successful for result in results] == [True, False]
    assert "7" in results[1].reason

    def set_and_get(name: str, level: int, asked: str) -> int:
        request = services.SetLoggerLevels.Request(levels=[LoggerLevel(name=name, level=level)])
        assert client.call(services.SetLoggerLevels, "camera/set_logger_levels", request).results[0].successful
        request = services.GetLoggerLevels.Request(names=[asked])
        return client.call(services.GetLoggerLevels, "camera/get_logger_levels", request).levels[0].level

    # The root logger is the default of all that have none of their own; 0 takes a level back.
    assert set_and_get("", 30, "classifier") == 30
    assert set_and_get("classifier", 10, "classifier") == 10
    assert set_and_get("classifier", 0, "classifier") == 30
    assert set_and_get("", 0, "") == 20
    told = {line.name for line in lines}
    lines.clear()
    client.focus()
    client.spin_for(0.5)
    assert "camera" in told and "focus_controller" not in {line.name for line in lines}, (told, lines)


def test_the_log_has_the_quality_and_the_names_of_ros(graph, client):
    lines = []
    client.create_subscription(Log, "/rosout", lines.append, ROSOUT)
    # Somebody has to want estimates, or no frame is looked at.
    client.create_subscription(FocusEstimate, "/lab1/focus", lambda _: None, 1)
    images = client.create_publisher(Image, "/lab1/image_raw", 1)
    graph.start("classifier_node", namespace="lab1", classifier__model="none")
    image = Image(width=4, height=2, step=12, encoding="\x1b[2J\nrgb8", data=bytes(24))

    def refusals():
        return [line for line in lines if "frame refused" in line.msg]

    client.spin_until(refusals, 30, "a refused frame", lambda: images.publish(image))
    line = refusals()[0]
    assert (line.name, line.level) == ("lab1.classifier", 30)
    assert "'\\u{1b}[2J\\nrgb8'" in line.msg, line.msg
    assert line.file.startswith("src/nodes/classifier") and line.line > 0
    # What is repeated 50 times a second is told three times, and then counted, numbers or not.
    began, before = time.monotonic(), len(refusals())
    client.spin_for(2.0, lambda: images.publish(image))
    assert len(refusals()) - before <= 3 * (time.monotonic() - began + 2)

    def counted():
        return "were left out before it" in refusals()[-1].msg

    # Where the last few begin a new second nothing is left out after them: then once more.
    tries = iter(range(5))
    while not counted() and next(tries, None) is not None:
        client.spin_for(0.5, lambda: images.publish(image))
        client.spin_for(3.0)
    assert counted(), "the count of the last ones"
    console = graph.log("lab1classifier_node")
    assert "[lab1.classifier]: frame refused" in console and "\x1b" not in console

    def outlets():
        return [i for i in client.get_publishers_info_by_topic("/rosout") if i.node_name.startswith("_log_")]

    client.spin_until(outlets, 20, "the name of the node that publishes the log")
    (info,) = outlets()
    quality = info.qos_profile
    assert quality.durability == DurabilityPolicy.TRANSIENT_LOCAL and quality.reliability == ReliabilityPolicy.RELIABLE
    assert quality.lifespan.nanoseconds == 10_000_000_000


def test_what_ends_a_process_is_its_last_line_on_rosout(graph, client):
    lines = []
    client.create_subscription(Log, "/rosout", lines.append, ROSOUT)
    process = graph.start("classifier_node", classifier__model="/nowhere/model.onnx")
    client.spin_until(lambda: process.poll() is not None, 30, "the end of the process")
    fatal = int.from_bytes(Log.FATAL, "little") if isinstance(Log.FATAL, bytes) else Log.FATAL
    client.spin_until(lambda: lines and lines[-1].level == fatal, 20, "the reason")
    assert "/nowhere/model.onnx" in lines[-1].msg


def test_rosout_can_be_turned_off(graph, client):
    graph.start("classifier_node", extra=("--disable-rosout-logs",), classifier__model="none")
    client.spin_until(lambda: "model none" in graph.log("classifier_node"), 30, "the console")
    assert not [i for i in client.get_publishers_info_by_topic("/rosout") if i.node_name.startswith("_log_")]


def test_a_console_that_closes_ends_nothing(graph, client):
    """Started as by nohup: neither does the end of the session."""
    command = [str(RUN), "autofocus", "--ros-args", "--params-file", str(CONFIG)]
    for node in ("sim_microscope", "stepper_bridge"):
        command += ["-p", f"{node}.port:={graph.port}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    graph.processes.append(("autofocus", process))
    process.stderr.close()
    client.spin_until(client.is_up, 30, "the stage")
    process.send_signal(signal.SIGHUP)
    # A goal that is rejected is told to the log. Whoever waits for the second answer would wait for ever if that had ended the server.
    for _ in range(2):
        assert not Goal(client, Autofocus, "autofocus", Autofocus.Goal(timeout=-1.0)).accepted


@pytest.fixture
def hang_up_counts():
    """Tests started by nohup ignore it, and so would the nodes that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_counts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_motion_stops_the_stage_within_a_second(graph, client, number):
    graph.start("sim_microscope_node", **FAR)
    graph.start("camera_node", camera__source="sim")
    for executable in ("classifier_node", "focus_controller_node", "stepper_bridge_node"):
        graph.start(executable, **FAR)
    client.spin_until(lambda: client.is_up() and client.estimates, 60, "stage and estimates")
    start = client.z_um()
    client.enable()
    client.spin_until(lambda: client.z_um() < start - 2.0, 20, "motion")
    code, took_s = graph.stop_timed("stepper_bridge_node", number)
    assert code == 0, graph.log("stepper_bridge_node")
    assert took_s < 1.0
    client.check_stands()
    assert "unconfirmed" not in graph.log("stepper_bridge_node")
