"""Managed nodes as ros2 lifecycle and an orchestrator see them, and what they say of themselves."""

import pytest
import rclpy
from conftest import Client, descending, seconds
from hhnet.action import MoveStage
from hhnet.msg import About, FocusState, NodeState, StageState
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NODES = ("camera", "classifier", "focus_controller", "stepper_bridge", "sim_microscope")


def state(client, node: str) -> int:
    return client.call(GetState, f"{node}/get_state", GetState.Request()).current_state.id


def change(client, node: str, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return client.call(ChangeState, f"{node}/change_state", request).success


def labels(client, name: str) -> list[str]:
    response = client.call(GetAvailableTransitions, name, GetAvailableTransitions.Request())
    return [description.transition.label for description in response.available_transitions]


def test_nodes_start_by_themselves_and_know_the_ways(graph, client):
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")
    for node in NODES:
        assert state(client, node) == State.PRIMARY_STATE_ACTIVE, node
    assert labels(client, "camera/get_available_transitions") == ["deactivate", "shutdown"]
    assert len(labels(client, "camera/get_transition_graph")) == 17
    known = client.call(GetAvailableStates, "camera/get_available_states", GetAvailableStates.Request()).available_states
    assert {State.PRIMARY_STATE_UNCONFIGURED, State.TRANSITION_STATE_ACTIVATING} <= {one.id for one in known}
    assert not change(client, "camera", Transition.TRANSITION_CONFIGURE), "an active node cannot be configured"


def test_a_camera_lives_through_every_state(graph, client):
    graph.start("autofocus")
    client.spin_until(lambda: client.estimates, 30, "estimates")
    events = []
    client.create_subscription(TransitionEvent, "camera/transition_event", events.append, 100)
    client.spin_for(0.5)
    assert change(client, "camera", Transition.TRANSITION_DEACTIVATE)
    client.spin_for(0.5)
    client.estimates.clear()
    client.spin_for(0.5)
    assert not client.estimates, "an inactive camera gives no frames"
    for transition, expected in [
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
    ]:
        assert change(client, "camera", transition)
        assert state(client, "camera") == expected
    client.spin_until(lambda: client.estimates, 10, "estimates of the active camera")
    assert change(client, "camera", Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state(client, "camera") == State.PRIMARY_STATE_FINALIZED
    assert not change(client, "camera", Transition.TRANSITION_CONFIGURE)
    client.spin_for(0.3)
    assert [event.goal_state.label for event in events][:2] == ["deactivating", "inactive"]
    assert events[-1].goal_state.label == "finalized"
    assert graph.stop("autofocus") == 0, graph.log("autofocus")


def test_deactivated_in_motion_the_stage_stands_first(graph, client):
    descending(graph, client)
    assert change(client, "stepper_bridge", Transition.TRANSITION_DEACTIVATE)
    # An inactive bridge follows no command.
    client.check_stands()
    mover = ActionClient(client, MoveStage, "move_stage")
    assert mover.wait_for_server(10.0)
    future = mover.send_goal_async(MoveStage.Goal(x=float("nan"), y=float("nan"), z=5e-6, relative=True))
    client.spin_until(future.done, 5.0, "the answer to a goal")
    assert not future.result().accepted
    assert change(client, "stepper_bridge", Transition.TRANSITION_CLEANUP)
    client.spin_until(lambda: client.stages[-1].state == StageState.DISCONNECTED, 5, "a closed port")
    assert "configure" in client.stages[-1].reason
    assert change(client, "stepper_bridge", Transition.TRANSITION_CONFIGURE)
    assert change(client, "stepper_bridge", Transition.TRANSITION_ACTIVATE)
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 20, "the stage again")


def test_an_inactive_controller_refuses_and_stands(graph, client):
    descending(graph, client)
    assert change(client, "focus_controller", Transition.TRANSITION_DEACTIVATE)
    client.check_stands()
    refused = client.enable()
    assert not refused.success and "change_state" in refused.message
    assert change(client, "focus_controller", Transition.TRANSITION_ACTIVATE)
    assert client.enable().success
    client.spin_until(lambda: client.states[-1].state == FocusState.IN_FOCUS, 40, "focus")


def test_without_autostart_nothing_is_held(graph, client):
    graph.start("sim_microscope_node")
    graph.start("stepper_bridge_node", stepper_bridge__autostart="false")
    client.spin_until(lambda: client.truth, 30, "the virtual microscope")
    assert state(client, "stepper_bridge") == State.PRIMARY_STATE_UNCONFIGURED
    assert not client.stages
    assert change(client, "stepper_bridge", Transition.TRANSITION_CONFIGURE)
    assert change(client, "stepper_bridge", Transition.TRANSITION_ACTIVATE)
    client.spin_until(client.is_up, 10, "the stage")


def test_a_configuration_that_fails_leaves_the_node_ready_to_try_again(graph, client):
    missing = graph.folder / "images"
    process = graph.start("camera_node", camera__autostart="false", camera__source="folder", camera__path=missing)
    assert not change(client, "camera", Transition.TRANSITION_CONFIGURE)
    assert state(client, "camera") == State.PRIMARY_STATE_UNCONFIGURED
    assert str(missing) in graph.log("camera_node")
    assert process.poll() is None


def test_state_and_about_are_latched(graph, client):
    graph.start("autofocus", sim_microscope__start_defocus=20e-6, stepper_bridge__power_up_z=20e-6)
    client.spin_until(lambda: client.is_up() and client.estimates, 30, "stage and estimates")
    abouts, states = {}, {node: [] for node in NODES}
    for node in NODES:
        client.create_subscription(About, f"{node}/about", lambda about, node=node: abouts.update({node: about}), LATCHED)
        client.create_subscription(NodeState, f"{node}/state", states[node].append, LATCHED)
    client.spin_until(lambda: len(abouts) == len(NODES) and all(states.values()), 10, "every node's state and description")
    assert len({about.version for about in abouts.values()}) == 1 and abouts["camera"].version
    assert "hhnet_fast" in abouts["classifier"].model
    assert "autofocus" in abouts["focus_controller"].capabilities
    client.spin_until(lambda: "GRBL" in abouts["stepper_bridge"].device.upper(), 10, "the firmware's identity")
    limits = {limit.key: float(limit.value) for limit in abouts["stepper_bridge"].limits}
    assert limits["z_min"] == pytest.approx(-1e-4)
    assert states["focus_controller"][-1].state == NodeState.IDLE
    client.enable()
    client.spin_until(lambda: states["focus_controller"][-1].state == NodeState.BUSY, 10, "a busy controller")
    client.spin_until(lambda: client.states[-1].state == FocusState.IN_FOCUS, 40, "focus")
    client.spin_until(lambda: states["focus_controller"][-1].state == NodeState.IDLE, 10, "an idle controller")
    assert NodeState.BUSY in {told.state for told in states["stepper_bridge"]}
    stamps = [seconds(told.header.stamp) for told in states["stepper_bridge"]]
    assert stamps == sorted(stamps)


def test_two_microscopes_share_nothing(graph, tmp_path):
    for name, defocus in (("left", 12e-6), ("right", -8e-6)):
        graph.start(
            "autofocus",
            namespace=name,
            sim_microscope__port=tmp_path / name,
            stepper_bridge__port=tmp_path / name,
            sim_microscope__start_defocus=defocus,
            sim_microscope__frame_rate=8.0,
            classifier__threads=1,
            stepper_bridge__power_up_z=defocus,
        )
    rclpy.init()
    left, right = Client("left"), Client("right")
    try:
        for client in (left, right):
            client.spin_until(lambda client=client: client.is_up() and client.estimates, 40, "stage and estimates")
        assert left.estimates[-1].distance_index > 0 > right.estimates[-1].distance_index
        stood, began = right.z_um_now(), left.z_um_now()
        left.enable()
        left.spin_until(lambda: left.z_um() < began - 2.0, 60, "motion of the left one")
        assert right.z_um_now() == pytest.approx(stood, abs=0.05), "the right one must not have moved"
        topics = {name for name, _ in left.get_topic_names_and_types()}
        shared = {"/rosout", "/parameter_events", "/diagnostics"}
        strangers = {name for name in topics if not name.startswith(("/left/", "/right/"))} - shared
        assert not strangers, strangers
        publishers = left.get_publishers_info_by_topic("/left/cmd_vel")
        assert {info.node_namespace for info in publishers} == {"/left"}
    finally:
        left.destroy_node()
        right.destroy_node()
        rclpy.try_shutdown()
