"""Managed nodes as ros2 lifecycle and an orchestrator see them, and what they say of themselves."""

import signal
import time

import pytest
import rclpy
from conftest import RIGID, Client, descending, seconds
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from hhnet.action import MoveStage
from hhnet.msg import About, FocusState, NodeState, StageState
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile

NAN = float("nan")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NODES = ("calibrator", "camera", "classifier", "focus_controller", "stepper_bridge", "sim_microscope")


def state(client, node: str) -> int:
    return client.call(GetState, f"{node}/get_state", GetState.Request()).current_state.id


def change(client, node: str, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return client.call(ChangeState, f"{node}/change_state", request).success


def diagnostics(client) -> dict[str, str]:
    """The newest message of every status, from here on."""
    heard = {}
    client.create_subscription(
        DiagnosticArray, "/diagnostics", lambda array: heard.update({one.name: one.message for one in array.status}), 100
    )
    return heard


def labels(client, name: str) -> list[str]:
    response = client.call(GetAvailableTransitions, name, GetAvailableTransitions.Request())
    return [description.transition.label for description in response.available_transitions]


def test_nodes_start_by_themselves_and_know_the_ways(graph, client):
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")
    for node in NODES:
        # Answered while a model is loaded, too.
        client.spin_until(lambda node=node: state(client, node) == State.PRIMARY_STATE_ACTIVE, 20, f"an active {node}")
    assert labels(client, "camera/get_available_transitions") == ["deactivate", "shutdown"]
    assert len(labels(client, "camera/get_transition_graph")) == 25
    known = client.call(GetAvailableStates, "camera/get_available_states", GetAvailableStates.Request()).available_states
    assert {one.id for one in known} == {0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15}
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
    client.spin_until(future.done, 20, "the answer to a goal")
    assert not future.result().accepted
    assert change(client, "stepper_bridge", Transition.TRANSITION_CLEANUP)
    client.spin_until(lambda: client.stages[-1].state == StageState.DISCONNECTED, 20, "a closed port")
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


def test_a_bridge_without_its_port_answers_and_forgets(graph, client):
    graph.start("sim_microscope_node", **RIGID)
    graph.start("stepper_bridge_node", stepper_bridge__autostart="false")
    client.spin_until(lambda: client.truth, 30, "the virtual microscope")
    statuses = diagnostics(client)

    def check_refuses(remedy: str) -> None:
        refusals = [client.trigger(f"stepper_bridge/{name}") for name in ("stop", "clear_fault", "home")]
        for refused in [*refusals, client.accept_position(z=0.0)]:
            assert not refused.success and remedy in refused.message, refused
        future = mover.send_goal_async(MoveStage.Goal(x=NAN, y=NAN, z=9e-6, relative=True))
        client.spin_until(future.done, 20, "the answer to a goal")
        assert not future.result().accepted

    mover = ActionClient(client, MoveStage, "move_stage")
    assert mover.wait_for_server(10.0)
    commands = client.create_publisher(TwistStamped, "cmd_vel", 1)
    command = TwistStamped()
    command.twist.linear.z = 1e-4
    command.header.stamp = client.get_clock().now().to_msg()
    check_refuses("change_state")
    client.spin_until(lambda: "unconfigured" in statuses.get("stepper_bridge: stage", ""), 20, "diagnostics")
    commands.publish(command)
    assert change(client, "stepper_bridge", Transition.TRANSITION_CONFIGURE)
    assert change(client, "stepper_bridge", Transition.TRANSITION_ACTIVATE)
    client.spin_until(client.is_up, 10, "the stage")
    assert client.check_stands() == pytest.approx(0.0, abs=0.5)
    assert change(client, "stepper_bridge", Transition.TRANSITION_INACTIVE_SHUTDOWN) is False
    assert change(client, "stepper_bridge", Transition.TRANSITION_ACTIVE_SHUTDOWN)
    check_refuses("change_state")


def test_a_bridge_that_waits_for_its_port_answers(graph, client):
    graph.start("stepper_bridge_node", stepper_bridge__open_timeout=8.0)
    refused = client.trigger("stepper_bridge/stop")
    assert not refused.success and "port" in refused.message
    assert state(client, "stepper_bridge") == State.TRANSITION_STATE_CONFIGURING


def test_a_stop_without_confirmation_is_a_fault(graph, client):
    graph.start("sim_microscope_node")
    graph.start("stepper_bridge_node")
    told, events = [], []
    client.create_subscription(NodeState, "stepper_bridge/state", told.append, LATCHED)
    client.create_subscription(TransitionEvent, "stepper_bridge/transition_event", events.append, 100)
    client.spin_until(client.is_up, 30, "the stage")
    assert graph.stop("sim_microscope_node") == 0
    client.spin_until(lambda: client.stages[-1].state == StageState.DISCONNECTED, 10, "a lost stage")
    assert not change(client, "stepper_bridge", Transition.TRANSITION_DEACTIVATE)
    assert state(client, "stepper_bridge") == State.PRIMARY_STATE_UNCONFIGURED
    client.spin_until(lambda: "not known to stand" in told[-1].reason, 20, "the reason")
    client.spin_until(lambda: [event.transition.id for event in events[-3:]] == [4, 42, 60], 20, "the ways of an error")
    assert told[-1].state == NodeState.FAULT


@pytest.mark.parametrize("executables", [("autofocus",), ("sim_microscope_node", "camera_node", "classifier_node")])
def test_an_activated_classifier_looks_at_what_is_there_then(graph, client, executables):
    for executable in executables:
        graph.start(executable, sim_microscope__frame_rate=8.0, classifier__threads=1)
    client.spin_until(lambda: client.estimates, 60, "estimates")
    for _ in range(2):
        assert change(client, "classifier", Transition.TRANSITION_DEACTIVATE)
        client.spin_for(2.0)
        client.estimates.clear()
        activated = time.time()
        assert change(client, "classifier", Transition.TRANSITION_ACTIVATE)
        client.spin_until(lambda: client.estimates, 20, "an estimate")
        assert seconds(client.estimates[0].header.stamp) > activated, "a frame from before the activation"


def test_a_classifier_that_was_held_up_skips_what_it_missed(graph, client):
    for executable in ("sim_microscope_node", "camera_node"):
        graph.start(executable, sim_microscope__frame_rate=4.0)
    slow = graph.start("classifier_node", classifier__threads=1)
    client.spin_until(lambda: len(client.estimates) > 2, 60, "estimates")
    slow.send_signal(signal.SIGSTOP)
    client.spin_for(0.5)
    began = time.time()
    client.spin_for(3.0)
    ended = time.time()
    slow.send_signal(signal.SIGCONT)
    client.spin_until(lambda: seconds(client.estimates[-1].header.stamp) > ended, 60, "an estimate of now")
    missed = [one for one in client.estimates if began < seconds(one.header.stamp) < ended - 0.5]
    assert len(missed) <= 2, "frames of the time it did not look"


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

        def of():
            return {info.node_namespace for info in left.get_publishers_info_by_topic("/left/cmd_vel")}

        left.spin_until(lambda: of() == {"/left"}, 20, "the one namespace that commands the left stage")
    finally:
        left.destroy_node()
        right.destroy_node()
        rclpy.try_shutdown()
