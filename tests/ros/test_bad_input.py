"""Mistakes of an operator: one sentence that names the thing, status 1, nothing left running."""

import os
import subprocess

import pytest
from conftest import ROOT, RUN
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
        {"microscope__objective": "20x0.40", "classifier__model": ROOT / "models/hhnet_fast.onnx"},
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
    "empty range": ("focus_controller_node", {"microscope__z_min": 0.9}, ["z_min"]),
    "a limit where it once was": ("stepper_bridge_node", {"stepper_bridge__z_min": 0.0}, ["said once", "microscope.z_min"]),
    "a mistyped limit": ("stepper_bridge_node", {"microscope__z_mn": 0.0}, ["microscope", "did you mean 'z_min'"]),
    "unknown objective": ("sim_microscope_node", {"microscope__objective": "41x"}, ["41x", "40x0.65"]),
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


NODES = (
    "autofocus",
    "calibrator_node",
    "camera_node",
    "classifier_node",
    "focus_controller_node",
    "sim_microscope_node",
    "stepper_bridge_node",
)


def run(executable: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """An executable that has to end by itself."""
    command = [str(RUN), executable, *arguments]
    return subprocess.run(
        command, capture_output=True, timeout=LIMIT_S, errors="replace", env={**os.environ, **environment}, check=False
    )


def sentence(result: subprocess.CompletedProcess) -> str:
    """What a process says that refuses to start."""
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert "panicked" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), result.stderr
    return last


@pytest.mark.parametrize("executable", NODES)
def test_help_is_told_and_a_mistyped_argument_refused(graph, executable):
    told = run(executable, "--help")
    assert told.returncode == 0 and told.stdout.startswith(f"Usage: {executable} "), told
    assert "'--hlep'" in sentence(run(executable, "--hlep"))
    assert "missing.yaml" in sentence(run(executable, "--ros-args", "--params-file", "missing.yaml"))


ARGUMENTS = [
    (["rate:=5"], "rate:=5"),
    ([""], "unknown argument ''"),
    ([b"\xff"], "UTF-8"),
    (["--ros-args", "--foo"], "--foo"),
    (["--ros-args", "--params-file"], "--params-file is the last argument"),
    (["--ros-args", "--params-file", "/"], "not a plain file"),
    (["--ros-args", "--params-file", "/dev/zero"], "not a plain file"),
    (["--ros-args", "--params-file", b"\xff.yaml"], "UTF-8"),
    (["--ros-args", "-r", "__ns:=lab1"], "'lab1' is no namespace"),
    (["--ros-args", "-r", "__ns:=/1a"], "'/1a' is no namespace"),
    (["--ros-args", "-r", "__node:=a b"], "'a b' is no node's name"),
    (["--ros-args", "-r", "__node:=" + 300 * "a"], "aaa"),
    (["--ros-args", "-r", "__ns:=/" + 300 * "a"], "aaa"),
    (["--ros-args", "-r", "cmd_vel"], "-r cmd_vel"),
    (["--ros-args", "-r", "/**/a:=b"], "/**/a:=b"),
    (["--ros-args", "-p", "x"], "-p x"),
    (["--ros-args", "-p", "rate:=[1, a]"], "one type"),
    (["--ros-args", "-p", "rate:=nan"], "rate"),
    (["--ros-args", "--log-level", "loud"], "loud"),
    (["--ros-args", "--enclave", "a"], "--enclave a"),
    (["--ros-args", "--log-config-file", "/nowhere"], "/nowhere"),
]


@pytest.mark.parametrize(("arguments", "word"), ARGUMENTS)
def test_arguments_that_ros_cannot_read(graph, arguments, word):
    assert word in sentence(run("camera_node", *arguments))


FILES = {
    "not YAML": b"/**: [",
    "binary": bytes(range(256)),
    "a tab": b"/**:\n\tros__parameters: {}\n",
    "an alias": b"a:\n  ros__parameters: &a {x: 1}\nb:\n  ros__parameters: *a\n",
    "no section": b"rate: 5\n",
    "no value": b"/**:\n  ros__parameters:\n    rate:\n",
    "another YAML": b"%YAML 1.2\n---\n/**:\n  ros__parameters: {}\n",
    "deep": b"{a: " * 3000,
    "long": b"#" * (2 << 20),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_parameter_file(graph, tmp_path, case):
    path = tmp_path / "broken.yaml"
    path.write_bytes(FILES[case])
    assert "broken.yaml" in sentence(run("camera_node", "--ros-args", "--params-file", path))


def test_a_fifo_as_parameter_file_is_not_waited_for(graph, tmp_path):
    path = tmp_path / "fifo.yaml"
    os.mkfifo(path)
    assert "fifo.yaml" in sentence(run("camera_node", "--ros-args", "--params-file", path))


@pytest.mark.parametrize("domain", ["many", "-1", "233", "99999"])
def test_a_bad_domain_is_one_sentence(graph, domain):
    assert f"ROS_DOMAIN_ID is '{domain}'" in sentence(run("camera_node", ROS_DOMAIN_ID=domain))


def test_a_folder_that_somebody_else_could_have_laid_is_refused(graph, tmp_path):
    runtime, elsewhere = tmp_path / "runtime", tmp_path / "elsewhere"
    runtime.mkdir(mode=0o700)
    elsewhere.mkdir()
    (runtime / "hhnet").symlink_to(elsewhere)
    for executable in ("sim_microscope_node", "stepper_bridge_node"):
        assert "is not a folder" in sentence(run(executable, XDG_RUNTIME_DIR=str(runtime)))
    assert not list(elsewhere.iterdir())
    (runtime / "hhnet").unlink()
    (runtime / "hhnet").mkdir()
    (runtime / "hhnet").chmod(0o777)
    assert "chmod 700" in sentence(run("sim_microscope_node", XDG_RUNTIME_DIR=str(runtime)))


def test_a_device_is_no_name_for_a_virtual_port(graph):
    assert "/dev/null" in sentence(run("sim_microscope_node", "--ros-args", "-p", "port:=/dev/null"))
    assert not os.path.exists("/dev/null.lock")


def test_the_virtual_port_is_in_a_folder_of_this_user_alone(graph, client, tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    process = subprocess.Popen([str(RUN), "autofocus"], env=environment)
    graph.processes.append(("autofocus", process))
    client.spin_until(client.is_up, 30, "the stage")
    folder = runtime / "hhnet"
    assert folder.stat().st_mode & 0o777 == 0o700
    link = folder / f"{os.environ['ROS_DOMAIN_ID']}-stage"
    assert os.readlink(link).startswith("/dev/pts/")
