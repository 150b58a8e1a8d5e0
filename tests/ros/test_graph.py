"""The graph as a client sees it: types, stamps, frame ids, QoS, and the closed loop."""

import signal

import pytest
from conftest import descending, seconds
from hhnet.msg import FocusState
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState


def test_images_and_estimates_agree(graph, client):
    graph.start("autofocus", sim_microscope__start_defocus=12e-6)
    images, infos, joints = [], [], []
    client.create_subscription(CameraInfo, "camera_info", infos.append, 100)
    client.create_subscription(JointState, "joint_states", joints.append, 100)
    subscription = client.create_subscription(Image, "image_raw", images.append, 1)

    # A slow client may lose messages of any topic, so the frames are those of which it heard everything.
    def stamps(messages):
        return {seconds(message.header.stamp) for message in messages}

    def told():
        return stamps(infos) | stamps(client.truth) | stamps(client.estimates)

    client.spin_until(lambda: stamps(images) & told(), 30, "an image that bears the stamp of its other messages")
    image = images[0]
    client.destroy_subscription(subscription)
    assert (image.width, image.height, image.encoding, image.step) == (2048, 1536, "rgb8", 6144)
    assert len(image.data) == 2048 * 1536 * 3
    assert image.header.frame_id == "camera_optical_frame"

    def complete():
        whole = stamps(infos) & stamps(client.truth)
        return [estimate for estimate in client.estimates if seconds(estimate.header.stamp) in whole]

    client.spin_until(
        lambda: len(complete()) >= 5 and joints, 30, "five estimates that bear the stamp of a camera_info and of a truth"
    )
    assert "z" in joints[0].name
    for estimate in complete():
        assert estimate.header.frame_id == "camera_optical_frame"
        assert sum(estimate.probabilities) == pytest.approx(1.0, abs=1e-3)
        assert 0.0 <= estimate.certainty <= 1.0
        assert estimate.patches_used <= 30
        assert estimate.distance_index > 0, "12 µm above focus is too far"
    heard = [seconds(info.header.stamp) for info in infos]
    assert sorted(set(heard)) == heard, "stamps must not run backwards"


def test_quality_of_service(graph, client):
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")

    # Endpoints are discovered before the names of their nodes, and both when the middleware gets to it.
    def publishers(topic, nodes):
        def known():
            return {info.node_name for info in client.get_publishers_info_by_topic(topic)} == nodes

        client.spin_until(known, 20, f"the publishers of {topic}: {nodes}")
        return client.get_publishers_info_by_topic(topic)

    for topic, kind, node in [
        ("/image_raw", "sensor_msgs/msg/Image", "camera"),
        ("/camera_info", "sensor_msgs/msg/CameraInfo", "camera"),
        ("/focus", "hhnet/msg/FocusEstimate", "classifier"),
        ("/cmd_vel", "geometry_msgs/msg/TwistStamped", "focus_controller"),
        ("/joint_states", "sensor_msgs/msg/JointState", "stepper_bridge"),
        ("/stage_state", "hhnet/msg/StageState", "stepper_bridge"),
        ("/focus_state", "hhnet/msg/FocusState", "focus_controller"),
    ]:
        (info,) = publishers(topic, {node})
        assert info.topic_type == kind
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
    (state,) = publishers("/focus_state", {"focus_controller"})
    assert state.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    publishers("/diagnostics", {"calibrator", "camera", "classifier", "focus_controller", "stepper_bridge", "sim_microscope"})


@pytest.mark.parametrize("start_um", [38.0, -22.0])
def test_enable_focuses_and_the_loop_ends_clean(graph, client, start_um):
    graph.start(
        "autofocus",
        sim_microscope__start_defocus=start_um * 1e-6,
        stepper_bridge__power_up_z=start_um * 1e-6,
        sim_microscope__seed=4242,
    )
    client.spin_until(lambda: client.is_up() and client.estimates, 30, "stage and estimates")
    # Nothing may move before ~/enable.
    client.check_stands(for_s=0.5)
    assert client.enable().success
    client.spin_until(lambda: client.states[-1].state == FocusState.IN_FOCUS, 40, "focus")
    client.z_um_now()
    assert abs(1e6 * client.truth[-1].defocus) <= 1.0
    assert min(1e6 * truth.z for truth in client.truth) > -100.0
    assert graph.stop("autofocus") == 0, graph.log("autofocus")


def test_enabled_from_the_start_waits_for_the_stage(graph, client):
    graph.start(
        "autofocus", sim_microscope__start_defocus=8e-6, stepper_bridge__power_up_z=8e-6, focus_controller__enabled="true"
    )
    client.spin_until(lambda: client.states and client.states[-1].state == FocusState.IN_FOCUS, 40, "focus")
    assert FocusState.FAILED not in {state.state for state in client.states}
    client.z_um_now()
    assert abs(1e6 * client.truth[-1].defocus) <= 1.0


@pytest.mark.parametrize("node", ["focus_controller", "stepper_bridge"])
def test_stop_stands_at_once(graph, client, node):
    descending(graph, client)
    assert client.trigger(f"{node}/stop").success
    client.check_stands(after_s=0.3)
    assert client.states[-1].state == FocusState.DISABLED


def test_interrupt_in_motion_ends_clean(graph, client):
    descending(graph, client)
    assert graph.stop("autofocus", signal.SIGINT) == 0, graph.log("autofocus")
