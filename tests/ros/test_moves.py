"""Moves of the stage as rclpy's ActionClient sees them."""

import pytest
from action_msgs.msg import GoalStatus
from conftest import RIGID
from geometry_msgs.msg import TwistStamped
from hhnet.action import MoveStage
from test_actions import NAN, Goal, at


def test_move_stage_reaches_cancels_and_preempts(graph, client):
    at(graph, client, 10.0, **RIGID)
    nan = float("nan")
    # Between two steps of the cross table.
    goal = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=40.4e-6, y=nan, z=30e-6))
    status, result = goal.result(10)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, MoveStage.Result.REACHED), result.message
    assert result.z == pytest.approx(30e-6, abs=0.4e-6) and result.x == pytest.approx(40.4e-6, abs=1e-6)
    assert goal.feedback and goal.feedback[-1].remaining < goal.feedback[0].remaining
    client.spin_until(lambda: client.z_um() == pytest.approx(30.0, abs=0.5), 20, "the truth")

    slow = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=nan, y=nan, z=-20e-6, relative=True, max_speed=10e-6))
    client.spin_until(lambda: client.z_um() < 28.0, 10, "motion")
    slow.cancel()
    status, result = slow.result(5)
    assert (status, result.code) == (GoalStatus.STATUS_CANCELED, MoveStage.Result.CANCELED)
    assert 10.5e-6 < result.z < 28.5e-6

    older = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=nan, y=nan, z=20e-6, relative=True, max_speed=10e-6))
    newer = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=nan, y=nan, z=12e-6))
    assert older.result(5)[1].code == MoveStage.Result.PREEMPTED
    status, result = newer.result(10)
    assert status == GoalStatus.STATUS_SUCCEEDED and result.z == pytest.approx(12e-6, abs=0.4e-6)


def test_a_move_meets_other_wishes(graph, client):
    at(graph, client, 10.0, **RIGID)
    commands = client.create_publisher(TwistStamped, "cmd_vel", 1)

    def command(velocity: float) -> None:
        message = TwistStamped()
        message.header.stamp = client.get_clock().now().to_msg()
        message.twist.linear.z = velocity
        commands.publish(message)

    def rise(speed: float) -> Goal:
        goal = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=30e-6, relative=True, max_speed=speed))
        assert goal.accepted
        return goal

    # Longer than any clock counts.
    forever = rise(1e-23)
    forever.cancel()
    assert forever.result(5)[1].code == MoveStage.Result.CANCELED

    # Neither a goal that is refused nor the zeros of somebody who is done disturb it.
    undisturbed = rise(20e-6)
    assert not Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=0.5)).accepted
    client.spin_for(0.5, lambda: command(0.0))
    assert undisturbed.result(10)[1].code == MoveStage.Result.REACHED

    taken = rise(20e-6)
    client.spin_for(0.5, lambda: command(-20e-6))
    result = taken.result(5)[1]
    assert result.code == MoveStage.Result.PREEMPTED and "a velocity" in result.message


def test_a_slow_approach_has_the_time_it_takes(graph, client):
    at(graph, client, 50.0, stepper_bridge__max_approach_speed=2e-5, **RIGID)
    goal = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=-60e-6, relative=True))
    result = goal.result(20)[1]
    assert result.code == MoveStage.Result.REACHED, result.message
