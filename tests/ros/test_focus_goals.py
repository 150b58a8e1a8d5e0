"""What a goal of `autofocus` may ask for beyond the parameters, and what is done where no estimate can be trusted."""

import pytest
from action_msgs.msg import GoalStatus
from conftest import RIGID
from hhnet.action import Autofocus
from hhnet.msg import FocusState
from test_actions import Goal, at

# The lens rises by 1 µm/s in its mount: faster than any stand warms up.
DRIFTING = {"sim_microscope__drift": 1e-4, "sim_microscope__drift_time": 100.0}


@pytest.mark.parametrize(
    "field, value", [("mode", 9), ("timeout", -1.0), ("reach", -1e-6), ("reach", float("nan")), ("tolerance", 0.6)]
)
def test_a_goal_that_makes_no_sense_is_refused(graph, client, field, value):
    at(graph, client, 20.0)
    assert not Goal(client, Autofocus, "autofocus", Autofocus.Goal(**{field: value})).accepted
    client.check_stands(after_s=0.1)


def test_the_lens_stays_within_the_reach_of_a_goal(graph, client):
    at(graph, client, 58.0, **RIGID)
    start = client.z_um_now()
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal(reach=12e-6))
    status, result = goal.result(20)
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, Autofocus.Result.GAVE_UP), result.message
    assert not result.confirmed and result.method == Autofocus.Result.METHOD_NONE
    assert min(1e6 * truth.z for truth in client.truth) > start - 13.0
    # For that goal only.
    assert Goal(client, Autofocus, "autofocus", Autofocus.Goal()).result(20)[1].code == Autofocus.Result.IN_FOCUS


def test_a_law_for_one_goal(graph, client):
    at(graph, client, 12.0)
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal(mode=Autofocus.Goal.MODE_STEPWISE))
    assert goal.result(30)[1].code == Autofocus.Result.IN_FOCUS


def test_focus_is_refined_by_sharpness(graph, client):
    at(graph, client, 12.0)
    status, result = Goal(client, Autofocus, "autofocus", Autofocus.Goal(refine=True)).result(40)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, Autofocus.Result.IN_FOCUS), result.message
    error = 1e6 * client.truth[-1].defocus
    by_um, expected_um = 1e6 * result.refined_by, 1e6 * result.expected_error
    print(f"refined by {by_um:+.2f} µm, expected error {expected_um:.3f} µm, true error {error:+.3f} µm")
    assert result.method == Autofocus.Result.METHOD_REFINED and abs(by_um) < 1.5 and 0.0 < expected_um < 0.5
    assert abs(error) < 0.5


def test_focus_is_held_until_the_goal_is_cancelled(graph, client):
    at(graph, client, 12.0, **DRIFTING)
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal(hold=True))
    client.spin_until(lambda: goal.feedback and goal.feedback[-1].state == FocusState.IN_FOCUS, 30, "focus")
    began, start = len(client.truth), 1e6 * client.stages[-1].z
    client.spin_for(8.0)
    errors = sorted(abs(1e6 * truth.defocus) for truth in client.truth[began:])
    # The lens stays where focus is; what has to move for that is the motor.
    way = 1e6 * client.stages[-1].z - start
    print(f"|defocus| {errors[len(errors) // 2]:.2f} µm median, {errors[-1]:.2f} µm at most, over {way:+.1f} µm")
    assert abs(way) > 4.0, "the stand drifts"
    assert errors[int(0.95 * len(errors))] < 0.72 and errors[-1] < 1.5
    goal.cancel()
    assert goal.result(5)[0] == GoalStatus.STATUS_CANCELED


def test_a_lens_far_from_focus_finds_it(graph, client):
    at(graph, client, 115.0, focus_controller__sweep="always")
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal())
    status, result = goal.result(60)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, Autofocus.Result.IN_FOCUS), result.message
    assert result.confirmed
    client.z_um_now()
    assert abs(1e6 * client.truth[-1].defocus) <= 1.0
