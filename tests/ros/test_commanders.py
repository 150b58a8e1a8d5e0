"""Who commands: where two could, nothing moves, and both are named."""

import signal
import time

import pytest
import rclpy
from conftest import RIGID, Client
from geometry_msgs.msg import TwistStamped
from hhnet.action import Autofocus, MoveStage
from hhnet.msg import StageState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from test_actions import NAN, Goal, at

# From the first message of a second commander, or the start of a second graph that works, to the fault.
NOTICED_S = 1.0


class Joystick:
    """A node of its own that commands a speed all the time, from when it is made."""

    def __init__(self, name: str, um_per_s: float, topic: str = "cmd_vel", qos=1):
        self.node = rclpy.create_node(name)
        self.publisher = self.node.create_publisher(TwistStamped, topic, qos)
        self.um_per_s = um_per_s
        self.sent = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self.sent >= 0.05:
            self.sent = time.monotonic()
            message = TwistStamped()
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.twist.linear.z = 1e-6 * self.um_per_s
            self.publisher.publish(message)


def in_dispute(client, *words: str) -> bool:
    newest = client.stages[-1]
    return newest.state == StageState.FAULT and all(word in newest.reason for word in words)


@pytest.mark.parametrize("topic", ["cmd_vel", "velocity"])
def test_two_joysticks_stop_the_stage_and_one_may_go_on(graph, client, topic):
    at(graph, client, 40.0, extra=("-r", f"cmd_vel:={topic}"), **RIGID)
    left = Joystick("left", 20.0, topic)
    start = client.z_um()
    client.spin_until(lambda: client.z_um() > start + 2.0, 20, "motion by one", left)
    right = Joystick("right", -20.0, topic)
    began = time.monotonic()

    def both() -> None:
        left()
        right()

    client.spin_until(lambda: in_dispute(client, "/left", "/right"), 10, "the dispute", both)
    took_s = time.monotonic() - began
    print(f"noticed after {took_s:.2f} s: {client.stages[-1].reason}")
    assert took_s < NOTICED_S
    client.spin_for(0.3, both)
    stood = client.z_um_now()
    client.spin_for(1.0, both)
    assert client.z_um_now() == pytest.approx(stood, abs=0.05), "nobody is obeyed"
    refused = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=5e-6, relative=True))
    assert not refused.accepted
    for service in ("home", "clear_fault"):
        answer = client.trigger(f"stepper_bridge/{service}")
        assert not answer.success and "/left and /right" in answer.message, answer

    right.node.destroy_node()
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 10, "the end of the dispute", left)
    stood = client.z_um_now()
    client.spin_for(1.0, left)
    assert client.z_um_now() == pytest.approx(stood, abs=0.05), "a stop holds until there was silence"
    client.spin_for(0.7)
    client.spin_until(lambda: client.z_um() > stood + 2.0, 10, "motion by the one that is left", left)
    left.node.destroy_node()


def test_a_joystick_that_comes_into_a_run_ends_it(graph, client):
    at(graph, client, 58.0)
    start = client.z_um()
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal())
    client.spin_until(lambda: client.z_um() < start - 2.0, 20, "motion")
    joystick = Joystick("joystick", -20.0)
    _, result = goal.result()
    assert result.code != Autofocus.Result.IN_FOCUS
    assert "/focus_controller and /joystick" in result.message, result.message
    joystick.node.destroy_node()
    client.check_stands(after_s=1.0)


def test_two_graphs_in_one_namespace_move_nothing(graph, client, tmp_path):
    at(graph, client, 40.0, **RIGID)
    other = tmp_path / "other"
    graph.start("autofocus", sim_microscope__port=other, stepper_bridge__port=other)
    client.spin_until(lambda: in_dispute(client, "two nodes named", "/stepper_bridge"), 40, "the dispute")

    def is_settled() -> bool:
        """Both bridges report, the one that started later too, and neither is ready."""
        return all(stage.state == StageState.FAULT for stage in client.stages[-20:])

    client.spin_until(is_settled, 40, "the dispute of both")
    reasons = {stage.reason for stage in client.stages[-20:]}
    print(reasons)
    stood = client.z_um_now()
    client.enable()
    client.spin_for(2.0)
    # The truth of both graphs comes on one topic: each lens stands where it stood.
    heights = {round(1e6 * truth.z, 1) for truth in client.truth[-20:]}
    assert len(heights) <= 2 and any(height == pytest.approx(stood, abs=0.1) for height in heights), heights
    assert is_settled()


def test_another_that_reports_a_stage_is_noticed(graph, client):
    at(graph, client, 40.0, **RIGID)
    node = rclpy.create_node("other_bridge")
    began = time.monotonic()
    node.create_publisher(StageState, "stage_state", 1)
    client.spin_until(lambda: in_dispute(client, "/other_bridge"), 10, "the dispute")
    assert time.monotonic() - began < NOTICED_S
    node.destroy_node()
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 10, "the end of the dispute")


def test_those_who_only_listen_are_no_dispute(graph, client):
    at(graph, client, 40.0, **RIGID)
    listener = Client()
    listener.create_subscription(TwistStamped, "cmd_vel", lambda _: None, 1)
    joystick = Joystick("joystick", 20.0)
    start = client.z_um()
    client.spin_until(lambda: client.z_um() > start + 10.0, 20, "motion by one beside a resting controller", joystick)
    assert all(stage.state != StageState.FAULT for stage in client.stages)
    listener.destroy_node()
    joystick.node.destroy_node()


def test_a_best_effort_joystick_is_obeyed(graph, client):
    at(graph, client, 40.0, **RIGID)
    joystick = Joystick("joystick", 20.0, qos=QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    start = client.z_um()
    client.spin_until(lambda: client.z_um() > start + 5.0, 20, "motion", joystick)
    joystick.node.destroy_node()


def test_a_controller_started_anew_is_no_dispute(graph, client):
    """The middleware lists a process that was killed for a while."""
    at(graph, client, 20.0, **RIGID)
    graph.stop("autofocus", signal.SIGKILL)
    client.stages.clear()
    client.spin_for(0.5)
    graph.start("autofocus", sim_microscope__start_defocus=20e-6, stepper_bridge__power_up_z=20e-6, **RIGID)
    client.spin_until(lambda: client.stages and client.stages[-1].state == StageState.IDLE, 40, "the stage")
    client.spin_for(3.0)
    assert all("two nodes" not in stage.reason and "velocities" not in stage.reason for stage in client.stages)
