"""Mistakes of an operator: one sentence that names the thing, status 1, nothing left running."""

import pytest
from conftest import ROOT

LIMIT_S = 20

CASES = {
    "missing model": ("classifier_node", {"classifier__model": "/nowhere/model.onnx"}, ["/nowhere/model.onnx"]),
    "model is no model": ("classifier_node", {"classifier__model": ROOT / "README.md"}, ["README.md"]),
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
    "in composition": ("autofocus", {"classifier__model": "/nowhere/model.onnx"}, ["/nowhere/model.onnx"]),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_a_sentence(graph, case):
    executable, parameters, words = CASES[case]
    process = graph.start(executable, **parameters)
    assert process.wait(LIMIT_S) == 1
    last = graph.log(executable).strip().splitlines()[-1]
    assert last.startswith("error: "), last
    for word in words:
        assert word in last, last


def test_broken_and_small_images_are_named(graph, tmp_path):
    from PIL import Image

    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (200, 200)).save(small / "tiny.png")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nrest is missing")
    for folder, word in ((small, "tiny.png"), (broken, "torn.png")):
        process = graph.start("camera_node", camera__source="folder", camera__path=folder)
        assert process.wait(LIMIT_S) == 1
        assert word in graph.log("camera_node").strip().splitlines()[-1]


def test_a_port_that_is_taken(graph, client):
    graph.start("sim_microscope_node")
    graph.start("stepper_bridge_node")
    client.spin_until(client.is_up, 30, "the stage")
    second = graph.start("stepper_bridge_node")
    assert second.wait(LIMIT_S) == 1
    last = graph.log("stepper_bridge_node").strip().splitlines()[-1]
    assert str(graph.port) in last, last
