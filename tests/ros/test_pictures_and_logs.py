"""What people look at: small pictures, and a log that can be turned up and down."""

import io
import signal

import numpy as np
import pytest
from PIL import Image as Pictures
from rcl_interfaces import srv as services
from rcl_interfaces.msg import Log, LoggerLevel
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

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
    client.enable()
    client.spin_until(lambda: client.states[-1].state == client.states[-1].IN_FOCUS, 40, "focus")
    client.spin_for(0.5)
    told = {line.name for line in lines}
    assert "focus_controller" not in told and "camera" in told, told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
