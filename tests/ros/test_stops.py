"""A stop ends everything that was accepted or waits before it, whatever is queued."""

import collections
import os
import random
import time

import pytest
from action_msgs.msg import GoalStatus
from conftest import RIGID, RelayedPort
from geometry_msgs.msg import TwistStamped
from hhnet.action import MoveStage
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger
from test_actions import NAN, at

# The bridge answers within 0.15 s; the rest is this client's, on a busy machine.
ANSWER_LIMIT_S = 1.0


def move(um: float, max_speed: float = 0.0) -> MoveStage.Goal:
    return MoveStage.Goal(x=NAN, y=NAN, z=um * 1e-6, relative=True, max_speed=max_speed)


@pytest.mark.parametrize("count", [10, 100])
def test_a_stop_after_a_burst_of_goals_leaves_nothing_to_do(graph, client, count):
    at(graph, client, 10.0, **RIGID)
    # What this client does not read at once must not push out what came before it.
    deep = QoSProfile(depth=1000)
    mover = ActionClient(client, MoveStage, "move_stage", goal_service_qos_profile=deep, result_service_qos_profile=deep)
    stopper = client.create_client(Trigger, "stepper_bridge/stop")
    assert mover.wait_for_server(10.0) and stopper.wait_for_service(10.0)
    # So slow that none reaches its target before the stop is sent, however busy this client is.
    client.spin_until(mover.send_goal_async(move(30.0, max_speed=5e-6)).done, 20, "the first goal")
    sent = [mover.send_goal_async(move(30.0 if number % 2 else -20.0, max_speed=5e-6)) for number in range(count)]
    began = time.monotonic()
    stopped = stopper.call_async(Trigger.Request())
    client.spin_until(stopped.done, 20, "the answer to the stop")
    took_s = time.monotonic() - began
    assert took_s < ANSWER_LIMIT_S
    client.spin_until(lambda: all(future.done() for future in sent), 30, "an answer to every goal")
    client.check_stands(after_s=0.3)
    for future in sent:
        if future.result().accepted:
            result = future.result().get_result_async()
            client.spin_until(result.done, 10, "the end of a goal that was taken up")
            assert result.result().status == GoalStatus.STATUS_ABORTED, result.result()
    print(f"{count} goals: stop answered after {1e3 * took_s:.0f} ms: {stopped.result().message}")


def joystick_of(client):
    """Commands 20 µm/s towards the slide as long as it is called."""
    publisher = client.create_publisher(TwistStamped, "cmd_vel", 1)
    newest = [0.0]

    def joystick() -> None:
        if time.monotonic() - newest[0] >= 0.05:
            newest[0] = time.monotonic()
            message = TwistStamped()
            message.header.stamp = client.get_clock().now().to_msg()
            message.twist.linear.z = -20e-6
            publisher.publish(message)

    return joystick


def check_stop_holds(client, joystick) -> None:
    """A stop beside a joystick that goes on; only half a second of silence releases it."""
    start = client.z_um_now()
    client.spin_until(lambda: client.z_um() < start - 2.0, 20, "motion", joystick)
    stopper = client.create_client(Trigger, "stepper_bridge/stop")
    assert stopper.wait_for_service(10.0)
    stopped = stopper.call_async(Trigger.Request())
    client.spin_until(stopped.done, 5, "the answer to the stop", joystick)
    client.spin_for(0.5, joystick)
    stood = client.z_um_now()
    client.spin_for(2.0, joystick)
    assert client.z_um_now() == pytest.approx(stood, abs=0.05), "only half a second of silence releases a stop"


class LatePort(RelayedPort):
    """The replies of the other port come 40 to 80 ms late, in their order."""

    def __init__(self, port):
        self.late = collections.deque()
        super().__init__(port)

    def replies(self, data: bytes) -> bytes:
        now = time.monotonic()
        if data:
            self.late.append((now + random.uniform(0.04, 0.08), data))
        due = b""
        while self.late and self.late[0][0] <= now:
            due += self.late.popleft()[1]
        return due


@pytest.mark.parametrize("command_timeout", [0.06, 0.2])
def test_a_stop_holds_where_replies_are_late(graph, client, command_timeout):
    late = LatePort(graph.port)
    try:
        graph.start(
            "autofocus",
            sim_microscope__start_defocus=60e-6,
            stepper_bridge__power_up_z=60e-6,
            stepper_bridge__port=late.path,
            stepper_bridge__command_timeout=command_timeout,
            **RIGID,
        )
        client.spin_until(client.is_up, 40, "the stage")
        # What stands behind this port nobody knows.
        assert client.accept_position(z=60e-6).success
        joystick = joystick_of(client)
        for _ in range(3):
            check_stop_holds(client, joystick)
            client.spin_for(0.8)
    finally:
        graph.stop_all()
        late.close()


def test_a_joystick_that_goes_on_does_not_move_a_stopped_stage(graph, client):
    at(graph, client, 40.0, stepper_bridge__command_timeout=0.06, **RIGID)
    check_stop_holds(client, joystick_of(client))


def test_a_bridge_that_never_heard_its_controller_can_be_deactivated(graph, client):
    """Nothing was sent, so nothing moves: a stop that cannot be confirmed is no trouble then."""
    from test_lifecycle import Transition, change

    ours, theirs = os.openpty()
    graph.start("stepper_bridge_node", stepper_bridge__port=os.ttyname(theirs), stepper_bridge__autostart="false")
    assert change(client, "stepper_bridge", Transition.TRANSITION_CONFIGURE)
    assert change(client, "stepper_bridge", Transition.TRANSITION_ACTIVATE)
    assert change(client, "stepper_bridge", Transition.TRANSITION_DEACTIVATE)
    os.close(ours)
    os.close(theirs)
