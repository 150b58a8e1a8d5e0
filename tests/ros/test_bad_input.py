"""Mistakes of an operator: one sentence that names the thing, status 1, nothing left running."""

import pytest
from conftest import ROOT
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from PIL import Image as Picture
from sensor_msgs.msg import Image

LIMIT_S = 20

CASES = {
    "missing model": ("classifier_node", {"classifier__model": "/nowhere/model.onnx"}, ["/nowhere/model.onnx"]),
    "model is no model": ("classifier_node", {"classifier__model": ROOT / "README.md"}, ["README.md"]),
    "model of something else": (
        "classifier_node",
        {"classifier__model": ROOT / "tests/models/no_handcrafted.onnx"},
        ["no_handcrafted.onnx", "needs patches uint8", "handcrafted float32"],
    ),
    "model with another output": (
        "classifier_node",
        {"classifier__model": ROOT / "tests/models/other_output.onnx"},
        ["other_output.onnx", "probabilities"],
    ),
    "model for another lens": (
        "classifier_node",
        {"classifier__objective": "20x0.40", "classifier__model": ROOT / "models/hhnet_fast.onnx"},
        ["20x0.40", "40x0.65", "hhnet_fast"],
    ),
    "unknown parameter": ("camera_node", {"camera__rat": 5.0}, ["rat", "did you mean 'rate'"]),
    "unknown section": ("camera_node", {"camra__rate": 5.0}, ["camra.rate"]),
    "wrong type": ("camera_node", {"camera__rate": "fast"}, ["rate", "fast"]),
    "unknown source": ("camera_node", {"camera__source": "webcam"}, ["webcam", "folder"]),
    "absent folder": ("camera_node", {"camera__source": "folder", "camera__path": "/nowhere"}, ["/nowhere"]),
    "absent port": ("stepper_bridge_node", {"stepper_bridge__port": "/dev/nowhere"}, ["/dev/nowhere"]),
    "port is a file": ("stepper_bridge_node", {"stepper_bridge__port": ROOT / "README.md"}, ["README.md"]),
    "unknown mode": ("focus_controller_node", {"focus_controller__mode": "magic"}, ["magic", "paper"]),
    "empty range": ("focus_controller_node", {"focus_controller__z_min": 1.0}, ["z_min"]),
    "unknown objective": ("sim_microscope_node", {"sim_microscope__objective": "41x"}, ["41x", "40x0.65"]),
    "camera without its microscope": (
        "autofocus",
        {"camera__source": "sim", "sim_microscope__enabled": "false"},
        ["camera source is 'sim'", "sim_microscope.enabled is false"],
    ),
    "in composition": ("autofocus", {"classifier__model": "/nowhere/model.onnx"}, ["/nowhere/model.onnx"]),
}


def refused(graph, process, executable: str) -> str:
    """The sentence with which a process ended."""
    assert process.wait(LIMIT_S) == 1, graph.log(executable)
    last = graph.log(executable).strip().splitlines()[-1]
    assert last.startswith("error: "), last
    return last


@pytest.mark.parametrize("case", CASES)
def test_refused_with_a_sentence(graph, case):
    executable, parameters, words = CASES[case]
    process = graph.start(executable, **parameters)
    last = refused(graph, process, executable)
    for word in words:
        assert word in last, last


@pytest.mark.parametrize("executable", ["camera_node", "autofocus"])
def test_an_unknown_key_in_a_file_is_refused(graph, tmp_path, executable):
    file = tmp_path / "mistyped.yaml"
    file.write_text("/**:\n  ros__parameters:\n    camera: {source: sim, rat: 5.0}\n")
    last = refused(graph, graph.start(executable, file=file), executable)
    assert "rat" in last and "did you mean 'rate'" in last, last


def test_small_images_from_a_topic_are_refused_with_one_line(graph, client):
    graph.start("classifier_node")
    publisher = client.create_publisher(Image, "image_raw", 1)
    heard = []

    def on_diagnostics(message):
        heard.extend(status for status in message.status if status.name.startswith("classifier:"))

    client.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 100)
    small = Image(width=200, height=150, encoding="rgb8", step=600, data=bytes(200 * 150 * 3))

    def refusals():
        return [status for status in heard if status.level == DiagnosticStatus.ERROR]

    def refused_frames() -> int:
        return sum(int(value.value) for status in refusals() for value in status.values if value.key == "refused_per_second")

    def publish():
        small.header.stamp = client.get_clock().now().to_msg()
        publisher.publish(small)

    client.spin_until(lambda: refused_frames() >= 50, 30, "fifty refused frames", publish)
    lines = [line for line in graph.log("classifier_node").splitlines() if "frame refused" in line]
    assert "200x150" in refusals()[0].message and "300x300" in refusals()[0].message
    assert lines and "200x150" in lines[0], lines
    # The same line is told at most three times a second.
    assert len(lines) <= 3 * (len(refusals()) + 2), lines
    assert len(lines) < refused_frames()


def test_broken_and_small_images_are_named(graph, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    Picture.new("RGB", (200, 200)).save(small / "tiny.png")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nrest is missing")
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("a.png", "b.png"):
        Picture.effect_noise((400, 400), 50).convert("RGB").save(cut / name)
    whole = (cut / "b.png").read_bytes()
    (cut / "b.png").write_bytes(whole[: len(whole) // 2])
    for folder, word in ((small, "tiny.png"), (broken, "torn.png"), (cut, "b.png")):
        process = graph.start("camera_node", camera__source="folder", camera__path=folder)
        assert word in refused(graph, process, "camera_node")


def test_a_port_that_is_taken(graph, client):
    graph.start("sim_microscope_node")
    graph.start("stepper_bridge_node")
    client.spin_until(client.is_up, 30, "the stage")
    second = graph.start("stepper_bridge_node")
    last = refused(graph, second, "stepper_bridge_node")
    assert str(graph.port) in last, last
