"""Cameras that are not this package's: their encodings, paddings, clocks, binnings, and what the classifier says when it cannot judge."""

import array
import math
import subprocess
import time

import numpy as np
import pytest
from conftest import ROOT, RUN, seconds
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from hhnet.msg import NodeState
from PIL import Image as Picture
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

Z_UM = 5.0
NANOS = 1_000_000_000


@pytest.fixture(scope="session")
def specimen(tmp_path_factory):
    """A field of the virtual slide, 5 µm too far."""
    file = tmp_path_factory.mktemp("specimen") / "frame.png"
    subprocess.run([RUN, "hhnet", "sim", "render", "--seed", "3", "--z-um", str(Z_UM), "--out", file], check=True, timeout=120)
    return np.asarray(Picture.open(file).convert("RGB"))[:1200, :1800]


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    bayer = np.empty(rgb.shape[:2], np.uint8)
    for at, colour in enumerate(pattern):
        row, column = divmod(at, 2)
        bayer[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return bayer


def yuv(rgb: np.ndarray) -> np.ndarray:
    """BT.601, luma from 16 to 235."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    return np.clip(np.rint(rgb @ matrix.T + [16, 128, 128]), 0, 255).astype(np.uint8)


def pairs(rgb: np.ndarray, places: tuple) -> np.ndarray:
    """Two pixels in four bytes: places of the first luma, of the second, of blue and of red."""
    luma, blue, red = np.moveaxis(yuv(rgb), 2, 0)
    out = np.empty((rgb.shape[0], rgb.shape[1] // 2, 4), np.uint8)
    for place, plane in zip(places, (luma[:, ::2], luma[:, 1::2], blue[:, ::2], red[:, ::2])):
        out[..., place] = plane
    return out


def planes(rgb: np.ndarray, order: tuple) -> np.ndarray:
    colours = yuv(rgb)
    halved = colours[::2, ::2][..., list(order)]
    return np.vstack([colours[..., 0], halved.reshape(halved.shape[0], -1)])


def words(pixels: np.ndarray, bits: int, order: str = "<") -> np.ndarray:
    return (pixels.astype(f"{order}u2") << (bits - 8)).astype(f"{order}u2")


# Encoding, whether words are big-endian, padding in bytes, the pixels, and how far the height may be from that of rgb8, µm.
FORMATS = {
    "padded": ("rgb8", 0, 16, lambda rgb: rgb, 0.01),
    "bgr8": ("bgr8", 0, 0, lambda rgb: rgb[..., ::-1], 0.01),
    "opencv": ("8UC3", 0, 4, lambda rgb: rgb[..., ::-1], 0.01),
    "rgba8": ("rgba8", 0, 0, lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]), 0.01),
    "12 bits": ("rgb16", 0, 0, lambda rgb: words(rgb, 12), 0.01),
    "16 bits, big-endian": ("bgr16", 1, 6, lambda rgb: words(rgb[..., ::-1], 16, ">"), 0.01),
    "bayer_rggb8": ("bayer_rggb8", 0, 0, lambda rgb: mosaic(rgb, "rggb"), 2.0),
    "bayer_gbrg16": ("bayer_gbrg16", 0, 0, lambda rgb: words(mosaic(rgb, "gbrg"), 12), 2.0),
    "uyvy": ("yuv422", 0, 0, lambda rgb: pairs(rgb, (1, 3, 0, 2)), 2.0),
    "yuyv": ("yuv422_yuy2", 0, 8, lambda rgb: pairs(rgb, (0, 2, 1, 3)), 2.0),
    "nv21": ("nv21", 0, 0, lambda rgb: planes(rgb, (2, 1)), 2.0),
}


class Camera:
    """A driver by somebody else."""

    def __init__(self, client):
        self.client = client
        self.images = client.create_publisher(Image, "image_raw", 1)
        self.infos = client.create_publisher(CameraInfo, "camera_info", 1)
        self.count = 0
        self.sent_s = 0.0
        self.offset_ns = None
        self.binning = 0
        self.changes = True
        self.image = Image(encoding="rgb8")
        self.pixels = np.zeros((1, 1), np.uint8)

    def show(self, encoding: str, pixels: np.ndarray, height: int = 0, pad: int = 0, big: int = 0) -> None:
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
        self.pixels = np.hstack([rows, np.zeros((rows.shape[0], pad), np.uint8)])
        per_pixel = {"yuv422": 2, "yuv422_yuy2": 2, "nv21": 1}.get(
            encoding, pixels.itemsize * (1 if pixels.ndim == 2 else pixels.shape[2])
        )
        width = rows.shape[1] // per_pixel
        self.image = Image(
            encoding=encoding, height=height or pixels.shape[0], width=width, step=self.pixels.shape[1], is_bigendian=big
        )

    def stamp_ns(self) -> int:
        now = time.time_ns()
        return now if self.offset_ns is None else self.offset_ns(now)

    def send(self) -> None:
        """Every tenth of a second, each frame with one byte that is new: a live picture."""
        if time.monotonic() < self.sent_s + 0.1:
            return
        self.sent_s = time.monotonic()
        self.count += self.changes
        self.pixels[0, 0] = self.count % 200
        stamp = self.stamp_ns()
        self.image.data = array.array("B", self.pixels.tobytes())
        info = CameraInfo(binning_x=self.binning, binning_y=self.binning)
        for message in (self.image, info):
            message.header.stamp.sec, message.header.stamp.nanosec = stamp // NANOS, stamp % NANOS
        self.images.publish(self.image)
        if self.binning:
            self.infos.publish(info)

    def next_estimate(self, accept=lambda estimate: True, what: str = "an estimate"):
        """The first estimate that fits, of a frame that is sent from now on."""
        began = len(self.client.estimates)

        def fitting():
            return next((estimate for estimate in self.client.estimates[began:] if accept(estimate)), None)

        self.client.spin_until(fitting, 30, what, self.send)
        return fitting()


def taken_since(began_s: float):
    """Whether an estimate is one of a frame from then on."""
    return lambda estimate: seconds(estimate.header.stamp) >= began_s


@pytest.fixture
def camera(graph, client, specimen):
    camera = Camera(client)
    camera.show("rgb8", specimen)
    return camera


@pytest.fixture
def states(client):
    heard = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.create_subscription(NodeState, "classifier/state", heard.append, latched)
    return heard


def test_every_encoding_is_judged_as_rgb_is(graph, client, camera, specimen):
    graph.start("classifier_node")
    plain = camera.next_estimate(lambda estimate: estimate.trusted)
    assert plain.reason == "" and 1e6 * plain.defocus == pytest.approx(Z_UM, abs=2.5)
    for name, (encoding, big, pad, convert, tolerance_um) in FORMATS.items():
        height = specimen.shape[0]
        camera.show(encoding, convert(specimen), height, pad, big)
        # What was sent before may still be under way.
        estimate = camera.next_estimate(taken_since(time.time()))
        assert 1e6 * estimate.defocus == pytest.approx(1e6 * plain.defocus, abs=tolerance_um), (name, estimate.reason)
        assert estimate.trusted, (name, estimate.reason)
    camera.show("mono8", specimen[..., 1])
    estimate = camera.next_estimate(taken_since(time.time()))
    assert not estimate.trusted
    assert "the image is grey, and this model tells the side of focus by colour" in estimate.reason
    assert math.isnan(estimate.defocus) and estimate.patches_used == 0


@pytest.mark.parametrize("stamp", ["zero", "uptime", "future"])
def test_stamps_of_another_clock_are_named(graph, client, camera, states, stamp):
    camera.offset_ns = {
        "zero": lambda now: 0,
        "uptime": lambda now: time.monotonic_ns(),
        "future": lambda now: now + 10 * NANOS,
    }[stamp]
    words = {"zero": "the images carry no time (stamp 0)", "uptime": "before they arrive", "future": "after they arrive"}[stamp]
    heard = []

    def on_diagnostics(message):
        heard.extend(status for status in message.status if status.name.startswith("classifier:"))

    client.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 100)
    graph.start("classifier_node", classifier__threads=1)
    estimate = camera.next_estimate()
    assert words in estimate.reason and "classifier.stamp" in estimate.reason
    assert (estimate.trusted, estimate.patches_used, estimate.certainty, estimate.distance_index) == (False, 0, 0.0, 0)
    assert math.isnan(estimate.defocus) and estimate.probabilities == pytest.approx([1 / 7] * 7)
    assert abs(seconds(estimate.header.stamp) - time.time()) < 5.0, "the time of arrival"

    def is_named():
        return any(words in state.reason and state.state == NodeState.FAULT for state in states)

    def is_counted():
        errors = [value for status in heard if status.level == DiagnosticStatus.ERROR for value in status.values]
        return any(int(value.value) > 0 for value in errors if value.key == "bad_stamps_per_second")

    client.spin_until(lambda: is_named() and is_counted(), 10, "state and diagnostics", camera.send)


def test_the_time_of_arrival_replaces_stamps_where_a_parameter_says_so(graph, client, camera):
    camera.offset_ns = lambda now: 0
    graph.start("classifier_node", classifier__stamp="arrival")
    estimate = camera.next_estimate(lambda estimate: estimate.trusted)
    age_s = time.time() - seconds(estimate.header.stamp)
    assert 0.0 < age_s < 5.0 and estimate.reason == ""


def test_a_frozen_camera_is_not_trusted(graph, client, camera, states):
    graph.start("classifier_node")
    camera.next_estimate(lambda estimate: estimate.trusted)
    camera.changes = False
    frozen = camera.next_estimate(lambda estimate: not estimate.trusted)
    assert "the picture does not change: is the camera frozen?" in frozen.reason
    assert frozen.patches_used > 0, "judged all the same"
    client.spin_until(
        lambda: states[-1].state == NodeState.FAULT and "frozen" in states[-1].reason, 10, "the state", camera.send
    )
    camera.changes = True
    camera.next_estimate(lambda estimate: estimate.trusted, "the end of it")


def test_identical_frames_may_be_allowed(graph, client, camera):
    camera.changes = False
    graph.start("classifier_node", classifier__identical_frames="allow")
    camera.next_estimate()
    assert all(camera.next_estimate().trusted for _ in range(3))


def test_binned_frames_are_brought_to_the_pixels_of_the_model(graph, client, camera, specimen):
    graph.start("classifier_node")
    plain = camera.next_estimate(lambda estimate: estimate.trusted)
    height, width, _ = specimen.shape
    binned = specimen.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)
    camera.binning = 2
    camera.show("rgb8", binned)
    client.spin_for(0.3)
    estimate = camera.next_estimate()
    assert 1e6 * estimate.defocus == pytest.approx(1e6 * plain.defocus, abs=2.0)
    assert abs(estimate.patches_used - plain.patches_used) <= 2, "as many patches as there were"
    camera.binning = 8
    refused = camera.next_estimate(lambda estimate: "a pixel of the image" in estimate.reason, "a pixel that is too large")
    assert "shows 0.690 µm of the slide and the model was trained for 0.086 µm" in refused.reason
    assert not refused.trusted and math.isnan(refused.defocus)


def test_long_texts_are_not_repeated(graph, client, camera):
    camera.image.encoding = "x" * 1_000_000
    graph.start("classifier_node", classifier__threads=1)
    estimate = camera.next_estimate()
    assert "images encoded as 'xxxx" in estimate.reason and len(estimate.reason) < 300
    lines = [line for line in graph.log("classifier_node").splitlines() if "frame refused" in line]
    assert lines and max(map(len, lines)) < 500


@pytest.fixture
def frames_in_memory(monkeypatch):
    """As docs/operating.md tells a lab: without the profile a whole frame travels in some hundred pieces, and one lost piece loses a frame
    that is sent with best effort."""
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))


def test_a_best_effort_camera_is_heard(frames_in_memory, graph, client, camera):
    client.destroy_publisher(camera.images)
    camera.images = client.create_publisher(Image, "image_raw", qos_profile_sensor_data)
    graph.start("classifier_node")
    estimate = camera.next_estimate(lambda estimate: estimate.trusted)
    assert 1e6 * estimate.defocus == pytest.approx(Z_UM, abs=2.5)
