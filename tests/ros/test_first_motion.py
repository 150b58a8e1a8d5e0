"""A controller that is not virtual moves nothing before `hhnet first-motion` was made with it, or waived."""

import json
import subprocess

import pytest
from action_msgs.msg import GoalStatus
from conftest import RIGID, RUN, RelayedPort
from geometry_msgs.msg import TwistStamped
from hhnet.action import MoveStage
from hhnet.msg import StageState
from test_actions import NAN, Goal

VIRTUAL = b"hhnet-virtual"


class RealPort(RelayedPort):
    """The controller of the other port, which does not say here that it is virtual."""

    def __init__(self, port):
        self.line = b""
        super().__init__(port)

    def replies(self, data: bytes) -> bytes:
        *lines, self.line = (self.line + data).split(b"\n")
        return b"".join(line.replace(VIRTUAL, b"LAB 7") + b"\n" for line in lines)


@pytest.fixture
def real(graph):
    real = RealPort(graph.port)
    yield real
    graph.stop_all()
    real.close()


def start(graph, client, real, **more) -> None:
    graph.start("sim_microscope_node", **RIGID)
    graph.start("stepper_bridge_node", stepper_bridge__port=real.path, **more)
    client.spin_until(lambda: client.stages and client.stages[-1].firmware and client.truth, 40, "the stage")


def test_nothing_moves_before_the_first_motion(graph, client, real):
    start(graph, client, real)
    client.spin_until(lambda: client.stages[-1].state == StageState.FAULT, 10, "the refusal")
    reason = client.stages[-1].reason
    assert "has not been made" in reason and "hhnet first-motion" in reason and "waived" in reason
    stood = client.z_um_now()
    goal = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=20e-6, relative=True))
    assert not goal.accepted
    velocities = client.create_publisher(TwistStamped, "cmd_vel", 1)

    def up() -> None:
        command = TwistStamped()
        command.header.stamp = client.get_clock().now().to_msg()
        command.twist.linear.z = 50e-6
        velocities.publish(command)

    client.spin_for(1.0, up)
    homed = client.trigger("stepper_bridge/home")
    assert not homed.success and "hhnet first-motion" in homed.message
    assert not client.trigger("stepper_bridge/clear_fault").success
    assert client.trigger("stepper_bridge/stop").success, "a stop is always obeyed"
    assert client.z_um_now() == pytest.approx(stood, abs=0.01)


def rises(client, by_um: float = 20.0) -> None:
    stood = client.z_um_now()
    goal = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=by_um * 1e-6, relative=True))
    status, result = goal.result(20)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.message
    assert client.z_um_now() == pytest.approx(stood + by_um, abs=0.5)


def test_who_answers_for_it_may_waive_it(graph, client, real):
    start(graph, client, real, stepper_bridge__first_motion="waived")
    client.spin_until(client.is_up, 20, "the stage")
    rises(client)


def test_a_record_of_this_controller_lets_it_be_driven(graph, client, real, tmp_path):
    """The record is that of a first motion on the virtual microscope, with the name of this controller."""
    made = subprocess.run(
        [RUN, "hhnet", "first-motion", "--virtual", "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    record = json.loads(made.stdout)
    record["controller"]["build"] = "LAB 7"
    name = "first-motion-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in real.path.lstrip("/")) + ".json"
    folder = tmp_path / "hhnet"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / name).write_text(json.dumps(record))
    start(graph, client, real)
    client.spin_until(client.is_up, 20, "the stage")
    rises(client)
