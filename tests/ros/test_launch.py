"""The launch files, where the package launch is installed: which processes they start, with what."""

import importlib.util

import pytest
from conftest import ROOT

pytest.importorskip("launch_ros", reason="launch is not installed")

from launch import LaunchContext  # noqa: E402
from launch.actions import ExecuteProcess  # noqa: E402
from launch.launch_description_sources import get_launch_description_from_any_launch_file  # noqa: E402


def description(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "launch" / f"{name}.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def actions(name: str, function: str, **arguments: str) -> list:
    """What one part of a launch file starts for these arguments."""
    module = description(name)
    context = LaunchContext()
    for entity in module.generate_launch_description().entities:
        if hasattr(entity, "default_value"):
            default = "".join(part.perform(context) for part in entity.default_value or [])
            context.launch_configurations[entity.name] = default
    context.launch_configurations.update(arguments)
    return getattr(module, function)(context)


def executables(**arguments: str) -> list[str]:
    return [node.node_executable for node in actions("autofocus", "start", **arguments)]


def test_composed_or_one_process_for_each_node():
    assert executables() == ["autofocus"]
    assert executables(composed="false") == [
        f"{name}_node"
        for name in ("camera", "classifier", "focus_controller", "calibrator", "stepper_bridge", "sim_microscope")
    ]
    real = {"sim": "false", "camera_source": "folder", "serial_port": "/dev/ttyUSB0", "composed": "false"}
    assert "sim_microscope_node" not in executables(**real)


def parameters(**arguments: str) -> dict:
    """What the launch file itself sets."""
    module = description("autofocus")
    defaults = {argument.name: "".join(part.text for part in argument.default_value or []) for argument in module.ARGUMENTS}
    given = defaults | arguments
    return module.overrides(given, given["sim"] == "true")


def test_something_happens_in_simulation_and_nothing_with_hardware():
    real = {"sim": "false", "camera_source": "folder", "serial_port": "/dev/ttyUSB0"}
    first = parameters()
    assert first["focus_controller.enabled"] is True and first["sim_microscope.start_defocus"] > 1e-5
    assert "focus_controller.enabled" not in parameters(**real)
    assert parameters(**real, focus_at_start="true")["focus_controller.enabled"] is True
    assert parameters(focus_at_start="false") == {"focus_controller.enabled": False}
    assert parameters(params_file="mine.yaml") == {}


def test_only_separate_processes_get_the_profile(monkeypatch):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)

    def profiles(**arguments):
        nodes = actions("autofocus", "start", **arguments)
        return {"".join(p.text for p in value) for node in nodes for _, value in node.additional_env or []}

    assert profiles() == set()
    (profile,) = profiles(composed="false")
    assert profile.endswith("config/fastdds.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/mine.xml")
    assert profiles(composed="false") == set()


def test_half_real_hardware_is_refused():
    for arguments, words in [
        ({"sim": "false"}, "camera_source and serial_port"),
        ({"sim": "false", "camera_source": "sim"}, "choose folder or zstack"),
        ({"seed": "many"}, "not a whole number"),
        ({"params_file": "missing.yaml"}, "params_file:=missing.yaml cannot be read"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            executables(**arguments)


def test_a_recording_has_frames_parameters_and_every_topic(tmp_path):
    bag = tmp_path / "run1"
    started = actions("record", "record", namespace="/lab1/", bag=str(bag))
    assert all(type(action) is ExecuteProcess for action in started)
    commands = ["".join(p.perform(LaunchContext()) for part in a.cmd for p in [*part, Space()]) for a in started]
    recorder = commands[0].split()
    for topic in ("/lab1/focus", "/lab1/robot_description", "/lab1/stepper_bridge/state", "/tf", "/tf_static", "/rosout"):
        assert topic in recorder, topic
    assert any("ros2 param dump /lab1/classifier >" in command for command in commands)
    assert (bag / "parameters").is_dir()
    with pytest.raises(RuntimeError, match="exists already"):
        actions("record", "record", bag=str(bag))


class Space:
    def perform(self, _):
        return " "


@pytest.mark.parametrize("name", ["autofocus", "record"])
def test_every_argument_says_what_it_is(name):
    declared = get_launch_description_from_any_launch_file(str(ROOT / "launch" / f"{name}.launch.py")).get_launch_arguments()
    assert len(declared) >= 3
    for argument in declared:
        assert argument.description != "no description given", argument.name
