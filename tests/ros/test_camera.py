"""Recorded images as camera: a folder replayed at a rate, and a z-stack that follows the stage."""

import time

import numpy as np
import pytest
from PIL import Image as Picture
from sensor_msgs.msg import Image, JointState


def flat(folder, name: str, grey: int) -> None:
    Picture.fromarray(np.full((310, 640, 3), grey, np.uint8)).save(folder / name)


@pytest.fixture
def greys(client):
    """What the camera shows, as the grey value of each image, in order."""
    seen = []
    client.create_subscription(Image, "image_raw", lambda image: seen.append((image.width, image.height, image.data[0])), 10)
    return seen


def test_a_folder_is_replayed_in_order_at_its_rate(graph, client, greys, tmp_path):
    for name, grey in (("b.png", 20), ("a.png", 10), ("c.png", 30)):
        flat(tmp_path, name, grey)
    graph.start("camera_node", camera__source="folder", camera__path=tmp_path, camera__rate=20.0)
    client.spin_until(lambda: greys, 20, "an image")
    del greys[:]
    started = time.monotonic()
    client.spin_until(lambda: len(greys) >= 30, 10, "thirty images")
    rate = 30 / (time.monotonic() - started)
    assert 12 < rate < 25, f"{rate} images a second"
    assert all((width, height) == (640, 310) for width, height, _ in greys)
    steps = [(after - before) % 30 for (_, _, before), (_, _, after) in zip(greys, greys[1:])]
    # A depth of one may drop an image, the order stays.
    assert steps.count(10) >= 25, greys


def test_a_stack_shows_the_plane_at_the_height_of_the_stage(graph, client, greys, tmp_path):
    rows = [("low.png", -10.0, 50), ("middle.png", 0.0, 100), ("high.png", 10.0, 150)]
    for name, _, grey in rows:
        flat(tmp_path, name, grey)
    (tmp_path / "manifest.csv").write_text("file,z_um\n" + "".join(f"{name},{z_um}\n" for name, z_um, _ in rows))
    joints = client.create_publisher(JointState, "joint_states", 10)
    graph.start("camera_node", camera__source="zstack", camera__path=tmp_path, camera__rate=20.0)
    for z_um, grey in ((9.0, 150), (-40.0, 50), (1.0, 100)):

        def hold(z_um=z_um):
            joints.publish(JointState(name=["x", "y", "z"], position=[0.0, 0.0, z_um * 1e-6]))

        client.spin_until(lambda grey=grey: greys and greys[-1][2] == grey, 20, f"the plane at {z_um} µm", hold)
