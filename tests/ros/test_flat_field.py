"""`calibrate` FLAT_FIELD as rclpy's ActionClient sees it, with dirt between the virtual microscope and the classifier."""

import math

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from hhnet.action import Autofocus, Calibrate
from PIL import Image as Picture
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
from test_actions import Goal

HEIGHT, WIDTH = 1536, 2048
START_UM = -14.0


def dirt(specks: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The light that passes, in 256ths, and where a speck lets nothing pass."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    passing = np.ones((HEIGHT, WIDTH))
    ring = np.hypot(x - 900, y - 1000) - 900
    passing *= np.where(y < 1100, 1 - 0.4 * np.exp(-((ring / 3) ** 2)), 1)
    opaque = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(specks):
        left, top, radius = random.uniform(0, WIDTH), random.uniform(0, HEIGHT), random.uniform(3, 14)
        rows = slice(max(0, int(top) - 16), int(top) + 17)
        columns = slice(max(0, int(left) - 16), int(left) + 17)
        opaque[rows, columns] |= np.hypot(x[rows, columns] - left, y[rows, columns] - top) < radius
    return np.round(256 * passing).astype(np.uint16)[..., None], opaque


class DirtyCamera:
    """Stands between the virtual microscope and the classifier."""

    def __init__(self, client, specks: int):
        self.passing, self.opaque = dirt(specks)
        self.publisher = client.create_publisher(Image, "image_raw", 1)
        client.create_subscription(Image, "sim/image_raw", self.take, 1)
        self.crop = None

    def take(self, message: Image) -> None:
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        pixels = (pixels * self.passing >> 8).astype(np.uint8)
        pixels[self.opaque] = 50
        if self.crop:
            pixels = np.ascontiguousarray(pixels[: self.crop[1], : self.crop[0]])
        height, width = pixels.shape[:2]
        image = Image(header=message.header, height=height, width=width, encoding="rgb8", step=3 * width)
        image.data = pixels.tobytes()
        self.publisher.publish(image)


@pytest.fixture
def bench(graph, client, tmp_path):
    """A dirty microscope that looks at a specimen, and the file of its flat field."""
    path = tmp_path / "flat.png"
    start = START_UM * 1e-6
    graph.start(
        "sim_microscope_node",
        sim_microscope__start_defocus=start,
        sim_microscope__seed=11,
        sim_microscope__drift=0.0,
    )
    graph.start("stepper_bridge_node", stepper_bridge__power_up_z=start)
    graph.start("focus_controller_node")
    graph.start("classifier_node", microscope__flat_field=path, classifier__threads=1)
    graph.start("calibrator_node", microscope__flat_field=path)
    client.camera = DirtyCamera(client, specks=120)
    client.spin_until(lambda: client.is_up() and client.estimates, 60, "stage and estimates")
    return path


def calibrate(client, what: int = Calibrate.Goal.FLAT_FIELD, **goal):
    return Goal(client, Calibrate, "calibrate", Calibrate.Goal(what=what, **goal))


def focus(client):
    status, result = Goal(client, Autofocus, "autofocus", Autofocus.Goal(timeout=25.0)).result(60)
    client.z_um_now()
    return result, 1e6 * client.truth[-1].defocus


def test_dirt_is_calibrated_away(graph, client, bench):
    in_force = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.create_subscription(String, "focus/flat_field", lambda message: in_force.append(message.data), qos)
    client.spin_until(lambda: in_force == [""], 20, "the word that there is no flat field")
    # With the dirt a run may fail, and never says in focus where it is not.
    result, defocus_um = focus(client)
    assert result.code != Autofocus.Result.IN_FOCUS or abs(defocus_um) <= 1.5, (result, defocus_um)

    stood = client.z_um_now()
    goal = calibrate(client)
    status, result = goal.result(240)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, Calibrate.Result.CALIBRATED), result.message
    assert "(in force)" in result.message and math.isnan(result.value)
    assert goal.feedback[-1].progress == pytest.approx(0.9)
    assert max(feedback.z for feedback in goal.feedback) > 55e-6 + 1e-6 * stood
    client.spin_until(lambda: in_force[-1].endswith("Z"), 20, "the word that it is in force")
    # It came back, but for the play of the drive.
    assert client.z_um_now() == pytest.approx(stood, abs=3.5)
    with Picture.open(bench) as picture:
        assert picture.size == (WIDTH, HEIGHT) and in_force[-1] in picture.text["hhnet flat field"]
    with Picture.open(bench.with_suffix(".picture.png")) as picture:
        assert picture.size == (WIDTH // 4, HEIGHT // 4)

    result, defocus_um = focus(client)
    assert result.code == Autofocus.Result.IN_FOCUS, result.message
    assert abs(defocus_um) <= 1.0

    # Frames of another size are refused by name, not judged as they are.
    client.camera.crop = (1200, 900)
    client.spin_until(lambda: client.estimates[-1].reason, 20, "a refusal")
    estimate = client.estimates[-1]
    assert not estimate.trusted and "1200x900 pixels and the flat field 2048x1536" in estimate.reason
    said = []
    client.create_subscription(DiagnosticArray, "/diagnostics", lambda message: said.extend(message.status), 10)
    client.spin_until(
        lambda: any("classifier" in s.name and b"\x02" == s.level for s in said), 20, "an error in the diagnostics"
    )


def test_what_cannot_be_calibrated_is_said_and_changes_nothing(graph, client, bench):
    stood = client.z_um_now()

    def failed(words: str, **goal) -> None:
        status, result = calibrate(client, **goal).result(60)
        assert (status, result.code) == (GoalStatus.STATUS_ABORTED, Calibrate.Result.FAILED)
        assert words in result.message, result.message
        assert not bench.exists()

    failed("there is no place for what is measured", what=Calibrate.Goal.BACKLASH)
    failed("reach is -1 m", reach=-1.0)
    # A hundredth of a frame: the specimen would stay where it is.
    failed("reach is 0.000002 m: give 0.000200 to 0.1", reach=2e-6)
    assert client.z_um_now() == pytest.approx(stood, abs=3.5)

    goal = calibrate(client)
    client.spin_until(lambda: goal.feedback, 30, "the first frame")
    goal.cancel()
    status, result = goal.result(20)
    assert (status, result.code) == (GoalStatus.STATUS_CANCELED, Calibrate.Result.CANCELED), result.message
    assert client.z_um_now() > stood + 40.0 and not bench.exists()
