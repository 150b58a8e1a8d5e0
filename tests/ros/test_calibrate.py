"""`calibrate` BACKLASH, FOCUS_HEIGHT, PIXEL_SIZE and RESPONSE as rclpy's ActionClient sees them: what is measured is what the virtual microscope was made with."""

import json
import math
import subprocess

import pytest
from action_msgs.msg import GoalStatus
from conftest import RUN
from hhnet.action import Calibrate
from sensor_msgs.msg import Image
from test_actions import Goal

START_UM = 4.0
BACKLASH_UM = 3.0
PIXEL_UM = 3.45 / 40.0


@pytest.fixture
def card(graph, client, tmp_path):
    """A microscope near focus, and the file of its calibration."""
    path = tmp_path / "instrument.json"
    graph.start(
        "autofocus",
        sim_microscope__start_defocus=1e-6 * START_UM,
        sim_microscope__seed=11,
        sim_microscope__backlash=1e-6 * BACKLASH_UM,
        classifier__threads=1,
        calibrator__threads=1,
        stepper_bridge__power_up_z=1e-6 * START_UM,
        microscope__calibration=path,
        calibrator__stacks=tmp_path / "stacks",
        calibrator__settle=0.05,
    )
    client.spin_until(lambda: client.is_up() and client.estimates, 60, "stage and estimates")
    return path


def calibrate(client, what: int, **goal):
    return Goal(client, Calibrate, "calibrate", Calibrate.Goal(what=what, **goal))


def measured(client, what: int, limit_s: float, **goal):
    status, result = calibrate(client, what, **goal).result(limit_s)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, Calibrate.Result.CALIBRATED), result.message
    assert "(good)" in result.message, result.message
    return result


def rows(path) -> dict:
    card = json.loads(path.read_text())
    assert (card["format"], card["objective"]) == (1, "40x0.65")
    return card["rows"]


def test_play_and_focus_are_measured_and_the_controller_takes_the_play_up(graph, client, card):
    stood = client.z_um_now()
    result = measured(client, Calibrate.Goal.BACKLASH, 300)
    assert 1e6 * result.value == pytest.approx(BACKLASH_UM, abs=0.5), result.message
    assert 0 < 1e6 * result.stddev < 0.5
    # It came back, but for the play of the drive.
    assert client.z_um_now() == pytest.approx(stood, abs=BACKLASH_UM + 0.5)
    backlash = rows(card)["backlash"]
    assert backlash["verdict"] == "good" and backlash["value"] == pytest.approx(1e6 * result.value)
    client.spin_until(lambda: "calibration: focus_height, backlash" in graph.log("autofocus"), 20, "the nodes to read the file")

    result = measured(client, Calibrate.Goal.FOCUS_HEIGHT, 180)
    # At power-up the play is taken up as after a move up, and the count is the height above focus.
    assert 1e6 * result.value == pytest.approx(0.0, abs=0.9), result.message
    assert set(rows(card)) == {"backlash", "focus_height"}


def test_the_pixel_is_measured(client, card):
    result = measured(client, Calibrate.Goal.PIXEL_SIZE, 180)
    assert 1e6 * result.value == pytest.approx(PIXEL_UM, rel=0.01), result.message
    found = rows(card)
    assert found["camera_rotation"]["value"] == pytest.approx(0.0, abs=0.5)
    assert found["stage_aspect"]["value"] == pytest.approx(1.0, abs=0.02)


class LateCamera:
    """Stands between the virtual microscope and the rest, and stamps frames later than they were exposed."""

    def __init__(self, client, late_s: float):
        self.late_ns = round(1e9 * late_s)
        self.publisher = client.create_publisher(Image, "image_raw", 1)
        client.create_subscription(Image, "sim/image_raw", self.take, 1)

    def take(self, message: Image) -> None:
        stamp = message.header.stamp
        seconds, stamp.nanosec = divmod(stamp.nanosec + self.late_ns, 10**9)
        stamp.sec += seconds
        self.publisher.publish(message)


def test_late_stamps_are_measured_and_allowed_for(graph, client, tmp_path):
    path = tmp_path / "instrument.json"
    graph.start("sim_microscope_node", sim_microscope__start_defocus=1e-6 * START_UM, sim_microscope__seed=11)
    graph.start("stepper_bridge_node", stepper_bridge__power_up_z=1e-6 * START_UM)
    graph.start("focus_controller_node", microscope__calibration=path)
    graph.start("classifier_node", microscope__calibration=path, classifier__threads=1)
    graph.start("calibrator_node", microscope__calibration=path, calibrator__threads=1, calibrator__settle=0.1)
    client.camera = LateCamera(client, 0.04)
    client.spin_until(lambda: client.is_up() and client.estimates, 60, "stage and estimates")
    result = measured(client, Calibrate.Goal.LATENCY, 240)
    print(result.message)
    assert result.value == pytest.approx(0.04, abs=0.01), result.message
    found = rows(path)
    assert set(found) == {"latency"} and found["latency"]["unit"] == "ms"
    for node in ("focus_controller", "classifier"):
        client.spin_until(lambda node=node: "calibration: latency" in graph.log(f"{node}_node"), 20, f"{node} to read the file")
    client.focus()


def test_the_network_is_measured_and_its_frames_can_teach(client, card, tmp_path):
    result = measured(client, Calibrate.Goal.RESPONSE, 900, reach=9e-6)
    assert result.value == pytest.approx(1.0, abs=0.15), result.message
    found = rows(card)
    assert found["response_scale"]["model"] and found["condenser_na"]["value"] == pytest.approx(0.4, rel=0.2)
    assert found["backlash"]["value"] == pytest.approx(BACKLASH_UM, abs=0.5)

    (stack,) = (tmp_path / "stacks").iterdir()
    assert str(stack) in result.message and (stack / "manifest.csv").is_file()

    def hhnet(*arguments) -> str:
        done = subprocess.run([str(RUN), "hhnet", *map(str, arguments)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    hhnet("dataset", "ingest", stack, "--shifts", 1, "--out", tmp_path / "set")
    for part in ("train", "val"):
        manifest = json.loads((tmp_path / "set" / part / "manifest.json").read_text())
        assert manifest["complete"] and manifest["patches"] > 100
    again = json.loads(hhnet("calibrate", stack, "--json"))["rows"]
    assert again["response_scale"]["value"] == pytest.approx(found["response_scale"]["value"], abs=0.02)
    assert again["backlash"]["value"] == pytest.approx(found["backlash"]["value"], abs=0.1)


def test_what_cannot_be_measured_is_said_and_changes_nothing(client, card):
    def failed(words: str, what: int, **goal) -> None:
        status, result = calibrate(client, what, **goal).result(60)
        assert (status, result.code) == (GoalStatus.STATUS_ABORTED, Calibrate.Result.FAILED)
        assert words in result.message and math.isnan(result.value), result.message
        assert not card.exists()

    failed("what is 9, which names no property", 9)
    failed("reach is 0.000001 m", Calibrate.Goal.BACKLASH, reach=1e-6)
    failed("there is no place for the flat field", Calibrate.Goal.FLAT_FIELD)

    goal = calibrate(client, Calibrate.Goal.BACKLASH)
    client.spin_until(lambda: goal.feedback, 60, "the first frame")
    goal.cancel()
    status, result = goal.result(20)
    assert (status, result.code) == (GoalStatus.STATUS_CANCELED, Calibrate.Result.CANCELED), result.message
    assert not card.exists()
    client.check_stands()

    # A file of another objective stays as it is, and no frame is judged by it.
    card.write_text(json.dumps({"format": 1, "objective": "10x0.25", "rows": {}}))
    client.spin_until(lambda: client.estimates[-1].reason, 20, "a refusal")
    assert "10x0.25, not 40x0.65" in client.estimates[-1].reason
    status, result = calibrate(client, Calibrate.Goal.FOCUS_HEIGHT).result(60)
    assert status == GoalStatus.STATUS_ABORTED and "10x0.25, not 40x0.65" in result.message
