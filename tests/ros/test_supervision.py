"""What happens to a moving stage when a process dies, or is asked to end."""

import signal
import time

import pytest
from conftest import Client
from hhnet.action import Autofocus, MoveStage
from hhnet.msg import FocusState, NodeState, StageState
from rclpy.qos import DurabilityPolicy, QoSProfile
from test_actions import Goal

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NODES = ("sim_microscope", "camera", "classifier", "focus_controller", "stepper_bridge")
NAN = float("nan")
START_Z = 58e-6
# Far above focus, and by the law that moves until it hears otherwise: nothing but the loss of a node ends the motion.
PARAMETERS = {
    "sim_microscope__start_defocus": START_Z,
    "sim_microscope__frame_rate": 6.0,
    "stepper_bridge__power_up_z": START_Z,
    "focus_controller__mode": "paper",
    "focus_controller__default_speed": 5e-5,
    "focus_controller__motion_timeout": 1.0,
    "focus_controller__alive_timeout": 0.7,
    "stepper_bridge__alive_timeout": 0.7,
    # On a busy computer few full frames come through between processes.
    "focus_controller__estimate_timeout": 10.0,
    "classifier__threads": 1,
}


# Where nobody waits for a node to be missed, a busy computer may keep one silent for a while.
PATIENT = PARAMETERS | {"focus_controller__alive_timeout": 3.0, "stepper_bridge__alive_timeout": 3.0}


def start_all(graph, parameters: dict = PARAMETERS) -> dict:
    return {node: graph.start(f"{node}_node", **parameters) for node in NODES}


def told(client: Client, node: str) -> list[NodeState]:
    heard = []
    client.create_subscription(NodeState, f"{node}/state", heard.append, LATCHED)
    return heard


def is_ready(states: list[NodeState]) -> bool:
    """Idle, and not for want of an activation."""
    return bool(states) and states[-1].state == NodeState.IDLE and not states[-1].reason


def goal_in_motion(client: Client, states: list[NodeState]) -> Goal:
    client.spin_until(lambda: client.is_up() and client.estimates and is_ready(states), 60, "stage, estimates and controller")
    start = client.stages[-1].z
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal())
    assert goal.accepted
    result = goal.handle.get_result_async()

    def is_on_its_way() -> bool:
        """Past the first steps, which have ends: from there on the paper's law moves until it hears otherwise."""
        return client.stages[-1].state == StageState.MOVING and client.stages[-1].z < start - 9e-6

    client.spin_until(lambda: result.done() or is_on_its_way(), 40, "motion")
    assert not result.done(), result.result()
    return goal


@pytest.mark.parametrize("victim", ["camera", "classifier", "stepper_bridge"])
def test_a_node_that_dies_in_motion_stops_the_stage_and_is_named(graph, client, victim):
    processes = start_all(graph)
    states = told(client, "focus_controller")
    goal = goal_in_motion(client, states)
    processes[victim].send_signal(signal.SIGKILL)
    client.check_stands(after_s=1.1)
    status, result = goal.result(5)
    sentence = f"the {victim} is gone"
    assert result.code == Autofocus.Result.NODE_GONE and sentence in result.message, result
    client.spin_until(lambda: sentence in client.states[-1].reason, 20, "the focus state")
    assert client.states[-1].state == FocusState.FAILED
    client.spin_until(lambda: states[-1].state == NodeState.FAULT and sentence in states[-1].reason, 20, "the node's state")
    refused = client.enable()
    assert not refused.success and sentence in refused.message
    # It comes back, and nothing moves before it is asked to.
    client.stages.clear()
    graph.start(f"{victim}_node", **PARAMETERS)
    if victim == "stepper_bridge":
        # It was killed in a motion whose end nobody saw: the controller's count is told, and an operator has to vouch for it.
        client.spin_until(client.is_up, 60, "the bridge")
        stage = client.stages[-1]
        assert not stage.position_valid and "accept_position" in stage.reason
        assert client.accept_position(x=0.0, y=0.0, z=stage.z).success
    client.spin_until(lambda: is_ready(states), 60, "a controller that can work again")
    client.check_stands(drift_um=0.1)


def test_a_controller_that_dies_in_motion_stops_the_stage_and_is_named(graph, client):
    processes = start_all(graph)
    states = told(client, "stepper_bridge")
    goal_in_motion(client, told(client, "focus_controller"))
    processes["focus_controller"].send_signal(signal.SIGKILL)
    client.check_stands(after_s=1.1)
    sentence = "the focus_controller is gone"
    client.spin_until(lambda: states[-1].state == NodeState.FAULT and sentence in states[-1].reason, 20, "the bridge's state")
    assert client.trigger("stepper_bridge/clear_fault").success
    client.spin_until(lambda: states[-1].state == NodeState.IDLE, 20, "an idle bridge")


def test_a_microscope_that_dies_is_named(graph, client):
    processes = start_all(graph)
    states = told(client, "focus_controller")
    goal = goal_in_motion(client, states)
    processes["sim_microscope"].send_signal(signal.SIGKILL)
    client.spin_until(lambda: client.stages[-1].state == StageState.DISCONNECTED, 20, "a lost stage")
    _, result = goal.result(5)
    assert result.code == Autofocus.Result.GAVE_UP and "stage" in result.message
    client.spin_until(lambda: states[-1].state == NodeState.FAULT, 20, "the controller's state")


def test_a_node_that_is_deactivated_in_motion_is_named(graph, client):
    from test_lifecycle import Transition, change

    start_all(graph)
    states = told(client, "focus_controller")
    goal = goal_in_motion(client, states)
    assert change(client, "classifier", Transition.TRANSITION_DEACTIVATE)
    client.check_stands(after_s=1.1)
    _, result = goal.result(5)
    assert result.code == Autofocus.Result.NODE_GONE and "the classifier is not active" in result.message


def end_s(process, number: int) -> float:
    """How long a process takes to end well after a signal."""
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == 0
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("action", ["autofocus", "move_stage"])
def test_a_composed_graph_ends_within_a_second_in_motion(graph, client, number, action):
    process = graph.start("autofocus", **PARAMETERS)
    if action == "autofocus":
        goal_in_motion(client, told(client, "focus_controller"))
    else:
        client.spin_until(client.is_up, 60, "the stage")
        start = client.z_um_now()
        goal = MoveStage.Goal(x=NAN, y=NAN, z=50e-6, relative=True, max_speed=10e-6)
        assert Goal(client, MoveStage, "move_stage", goal).accepted
        client.spin_until(lambda: client.z_um() > start + 2.0, 20, "motion")
    took = end_s(process, number)
    log = graph.log("autofocus")
    assert took < 1.0, log
    assert "not known to stand" not in log, "the stage has its port until it stands"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_node_ends_within_a_second_in_motion(graph, client, number):
    processes = start_all(graph, PATIENT)
    states = told(client, "focus_controller")
    for victim in ("camera", "classifier", "focus_controller", "stepper_bridge"):
        # Else a client that hears late of the motions before would find the lens in focus.
        client.spin_until(client.is_up, 60, "the stage")
        raised = Goal(client, MoveStage, "move_stage", MoveStage.Goal(x=NAN, y=NAN, z=START_Z))
        assert raised.result(20)[1].code == MoveStage.Result.REACHED
        goal_in_motion(client, states)
        took = end_s(processes[victim], number)
        client.check_stands(after_s=0.3, for_s=0.4)
        assert took < 1.0, f"{victim}: {took} s"
        assert "not known to stand" not in graph.log(f"{victim}_node")
        client.estimates.clear()
        client.stages.clear()
        states.clear()
        processes[victim] = graph.start(f"{victim}_node", **PATIENT)
    assert end_s(processes["sim_microscope"], number) < 1.0


def test_a_process_that_was_not_let_run_misses_nothing(graph, client):
    """What a throttled container or a suspended computer does: nobody ran, so nobody was silent."""
    process = graph.start("autofocus", classifier__model="none")
    client.spin_until(client.is_up, 40, "the stage")
    client.stages.clear()
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        heard = len(client.stages)
        client.spin_for(1.0)
        assert client.stages[heard:]
    assert {stage.state for stage in client.stages} == {StageState.IDLE} and client.stages[-1].position_valid
    assert "has stopped" not in graph.log("autofocus") and "stopped answering" not in graph.log("autofocus")
