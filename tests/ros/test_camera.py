"""Recorded images as camera: a folder replayed at a rate, and a z-stack that follows the stage."""

import statistics

import numpy as np
import pytest
from conftest import seconds
from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image as Picture
from sensor_msgs.msg import Image, JointState


def flat(folder, name: str, grey: int) -> None:
    Picture.fromarray(np.full((310, 640, 3), grey, np.uint8)).save(folder / name)


@pytest.fixture
def shown(client):
    """What the camera shows, in order: width, height, grey value, stamp in s."""
    seen = []

    def on_image(image):
        seen.append((image.width, image.height, image.data[0], seconds(image.header.stamp)))

    client.create_subscription(Image, "image_raw", on_image, 10)
    return seen


def test_a_folder_is_replayed_in_order_at_its_rate(graph, client, shown, tmp_path):
    for name, grey in (("b.png", 20), ("a.png", 10), ("c.png", 30)):
        flat(tmp_path, name, grey)
    graph.start("camera_node", camera__source="folder", camera__path=tmp_path, camera__rate=20.0)
    client.spin_until(lambda: len(shown) >= 40, 30, "forty images")
    assert all((width, height) == (640, 310) for width, height, _, _ in shown)
    pairs = list(zip(shown, shown[1:]))
    # A depth of one may drop an image, the order stays.
    neighbours = [(before, after) for before, after in pairs if (after[2] - before[2]) % 30 == 10]
    assert len(neighbours) >= 30, [grey for _, _, grey, _ in shown]
    # By the camera's own stamps: when they reach this client depends on what else runs here.
    period_s = statistics.median(after[3] - before[3] for before, after in neighbours)
    assert period_s == pytest.approx(1 / 20, rel=0.15)


def test_a_stack_shows_the_plane_at_the_height_of_the_stage(graph, client, shown, tmp_path):
    rows = [("low.png", -10.0, 50), ("middle.png", 0.0, 100), ("high.png", 10.0, 150)]
    for name, _, grey in rows:
        flat(tmp_path, name, grey)
    (tmp_path / "manifest.csv").write_text("file,z_um\n" + "".join(f"{name},{z_um}\n" for name, z_um, _ in rows))
    joints = client.create_publisher(JointState, "joint_states", 10)
    graph.start("camera_node", camera__source="zstack", camera__path=tmp_path, camera__rate=20.0)
    for z_um, grey in ((9.0, 150), (-40.0, 50), (1.0, 100)):

        def hold(z_um=z_um):
            joints.publish(JointState(name=["x", "y", "z"], position=[0.0, 0.0, z_um * 1e-6]))

        client.spin_until(lambda grey=grey: shown and shown[-1][2] == grey, 20, f"the plane at {z_um} µm", hold)


def frames_per_second(client, name: str) -> list[int]:
    """What the diagnostics of a node say of its frames, now and from here on."""
    heard = []

    def on_diagnostics(message):
        for status in message.status:
            if status.name.startswith(f"{name}:"):
                heard.extend(int(value.value) for value in status.values if value.key == "frames_per_second")

    client.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 100)
    return heard


def test_nothing_is_rendered_for_a_camera_that_looks_elsewhere(graph, client, shown, tmp_path):
    flat(tmp_path, "a.png", 10)
    rendered, captured = frames_per_second(client, "sim_microscope"), frames_per_second(client, "camera")
    graph.start("autofocus", camera__source="folder", camera__path=tmp_path)
    client.spin_until(lambda: shown and client.truth and len(rendered) >= 3 and max(captured, default=0) > 0, 40, "diagnostics")
    assert set(rendered) == {0}, rendered
