"""`/diagnostics` of every node: once a second, configured or not, with what somebody has to know; and who works for nobody."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from hhnet.msg import FocusEstimate, SimTruth
from sensor_msgs.msg import CameraInfo

FRAMES = {"frames_per_second", "dropped_per_second", "frame_age_ms_median", "frame_age_ms_most"}
CONTENT = {
    "sim_microscope: simulation": {"frames_per_second", "rendering_ms_median", "port", "port_state"},
    "camera: frames": FRAMES | {"source"},
    "classifier: network": FRAMES | {"decision_ms_median", "decision_ms_most", "refused_per_second"},
    "calibrator: calibration": set(),
    "focus_controller: focus": {"mode", "estimates_per_second", "untrusted_per_second", "estimate_age_ms_median"},
    "stepper_bridge: stage": {"port", "port_state", "position_valid", "status_age_ms", "firmware", "garbled_lines"},
}


class Statuses:
    """The newest status by name, and when each came."""

    def __init__(self, client):
        self.client = client
        self.newest: dict[str, DiagnosticStatus] = {}
        self.stamps: dict[str, list[float]] = {}
        client.create_subscription(DiagnosticArray, "/diagnostics", self.hear, 100)

    def hear(self, message) -> None:
        for status in message.status:
            self.newest[status.name] = status
            stamp = message.header.stamp
            self.stamps.setdefault(status.name, []).append(stamp.sec + 1e-9 * stamp.nanosec)

    def value(self, name: str, key: str) -> str | None:
        status = self.newest.get(name)
        return {pair.key: pair.value for pair in status.values}.get(key) if status else None


def test_every_node_says_how_it_is_once_a_second(graph, client):
    statuses = Statuses(client)
    graph.start("autofocus")
    client.spin_until(lambda: client.is_up() and client.estimates, 40, "stage and estimates")
    client.spin_for(5.0)
    assert set(statuses.newest) == set(CONTENT)
    for name, keys in CONTENT.items():
        status = statuses.newest[name]
        assert keys <= {pair.key for pair in status.values}, name
        assert status.message and status.hardware_id, name
        stamps = statuses.stamps[name][-4:]
        assert 0.5 < (stamps[-1] - stamps[0]) / 3 < 2.0, name
    hardware = {name: status.hardware_id for name, status in statuses.newest.items()}
    assert hardware["stepper_bridge: stage"] == str(graph.port)
    assert hardware["classifier: network"].startswith("hhnet_fast.onnx ")
    assert str(graph.port) in hardware["sim_microscope: simulation"]
    assert statuses.value("stepper_bridge: stage", "port_state") == "idle"
    assert "GRBL" in statuses.value("stepper_bridge: stage", "firmware")
    client.spin_until(lambda: int(statuses.value("classifier: network", "frames_per_second")) > 0, 10, "judged frames")
    assert float(statuses.value("classifier: network", "frame_age_ms_median")) > 0


def test_nodes_that_are_not_configured_say_so(graph, client):
    statuses = Statuses(client)
    nodes = ("sim_microscope", "camera", "classifier", "stepper_bridge")
    graph.start("autofocus", **{f"{node}__autostart": "false" for node in (*nodes, "focus_controller")})

    def resting():
        return {name for name, status in statuses.newest.items() if "unconfigured" in status.message}

    client.spin_until(lambda: len(resting()) == len(nodes), 30, "four nodes that rest")
    assert all(statuses.newest[name].level == DiagnosticStatus.WARN for name in resting())
    before = len(statuses.stamps["camera: frames"])
    client.spin_for(3.5)
    assert len(statuses.stamps["camera: frames"]) >= before + 3


def test_nothing_is_rendered_or_judged_for_nobody(graph, client):
    """The client of these tests takes estimates: without it the whole chain rests, and wakes for a goal or a listener."""
    statuses = Statuses(client)
    estimates = next(s for s in client.subscriptions if s.topic_name == "/focus")
    client.destroy_subscription(estimates)
    for executable in ("sim_microscope_node", "camera_node", "classifier_node", "focus_controller_node", "stepper_bridge_node"):
        graph.start(executable)
    client.spin_until(client.is_up, 60, "the stage")

    def rests():
        rates = {name: statuses.value(name, "frames_per_second") for name in list(CONTENT)[:3]}
        return set(rates.values()) == {"0"} and statuses.newest["classifier: network"].message == "nothing takes estimates"

    client.spin_until(rests, 60, "rest")
    assert client.enable().success
    client.spin_until(lambda: client.states[-1].state == client.states[-1].IN_FOCUS, 60, "focus")
    assert client.trigger("focus_controller/stop").success
    client.spin_until(rests, 30, "rest again")


def test_frames_of_two_microscopes_differ(graph, client):
    heard: dict[str, set[str]] = {}
    for lab in ("lab1", "lab2"):
        port = graph.folder / lab
        graph.start("autofocus", namespace=lab, classifier__model="none", sim_microscope__port=port, stepper_bridge__port=port)
        for topic, kind in (("focus", FocusEstimate), ("sim/truth", SimTruth), ("camera_info", CameraInfo)):

            def note(message, topic=topic, lab=lab):
                heard.setdefault(f"{lab} {topic}", set()).add(message.header.frame_id)

            client.create_subscription(kind, f"/{lab}/{topic}", note, 10)
    client.spin_until(lambda: len(heard) == 6, 60, "estimates, truths and camera infos of both")
    for of, frames in heard.items():
        assert frames == {f"{of.split()[0]}/camera_optical_frame"}, of
