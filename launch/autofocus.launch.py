"""Starts the autofocus graph: camera, classifier, focus controller, calibrator, stepper bridge and, by default, the virtual microscope.

`ros2 launch hhnet autofocus.launch.py --show-args` is the manual of the arguments. An argument that is not given leaves the
parameter file, and below it the default of the code, in force.
"""

import os
import tempfile
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

PACKAGE = "hhnet"
SHARE = Path(get_package_share_directory(PACKAGE))
CONFIG = str(SHARE / "config" / "autofocus.yaml")
FASTDDS = str(SHARE / "config" / "fastdds.xml")
# Where the virtual lens starts, so that there is something to see: within what the network was trained for, and anywhere around there.
START = {"sim_microscope.start_defocus": 21e-6, "sim_microscope.start_spread": 6e-6}
NODES = ("camera", "classifier", "focus_controller", "calibrator", "stepper_bridge")
SWITCH = ("true", "false")

# Argument, the parameter it sets (section and name), and how its text becomes that parameter's type.
OVERRIDES = (
    ("camera_source", "camera.source", str),
    ("camera_path", "camera.path", str),
    ("model", "classifier.model", str),
    ("serial_port", "stepper_bridge.port", str),
    ("objective", "microscope.objective", str),
    ("flat_field", "microscope.flat_field", str),
    ("calibration", "microscope.calibration", str),
    ("seed", "sim_microscope.seed", int),
)


def argument(name: str, description: str, default: str = "", choices: tuple[str, ...] | None = None) -> DeclareLaunchArgument:
    """An argument of the launch file."""
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


ARGUMENTS = (
    argument("namespace", "namespace of every topic, service and node: one for each microscope"),
    argument("params_file", "parameter file; see config/autofocus.yaml for its form", CONFIG),
    argument("sim", "true: the virtual microscope is camera and stage; false: real hardware", "true", SWITCH),
    argument("composed", "true: all nodes in one process, without copying images; false: one process each", "true", SWITCH),
    argument("camera_source", "where frames come from; empty: as in params_file", "", ("", "sim", "folder", "zstack")),
    argument("camera_path", "folder of images, or of a z-stack with its manifest.csv; empty: as in params_file"),
    argument("serial_port", "port of the stage, best its name in /dev/serial/by-id; empty: as in params_file"),
    argument("model", "ONNX model of the classifier; empty: as in params_file, else the one that ships"),
    argument("objective", "objective in use, for example 40x0.65; empty: as in params_file"),
    argument("flat_field", "file of the flat field, which calibrate writes; empty: as in params_file"),
    argument("calibration", "file of what calibrate measured of the instrument; empty: as in params_file"),
    argument(
        "focus_at_start",
        "true: begin to focus as soon as the stage is ready; empty: true with the virtual microscope, out of focus then, false with hardware",
        "",
        ("", *SWITCH),
    ),
    argument("seed", "seed of the virtual slide, a whole number; empty: as in params_file"),
    argument("description", "true: publish the model of the stage and its frames (robot_state_publisher)", "true", SWITCH),
    argument("rviz", "true: open rviz with config/hhnet.rviz", "false", SWITCH),
    argument("log_level", "what is logged", "info", ("debug", "info", "warn", "error", "fatal")),
    argument("use_sim_time", "hhnet works in real time: anything but false is refused at start", "false", SWITCH),
    argument("respawn", "start a process again 2 s after it has ended", "false", SWITCH),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, then the nodes inside their namespace."""
    # A group keeps the namespace from leaking into a launch file that includes this one.
    parts = [OpaqueFunction(function=function) for function in (start, describe, show)]
    graph = GroupAction([PushRosNamespace(LaunchConfiguration("namespace")), *parts])
    return LaunchDescription([*ARGUMENTS, graph])


def arguments(context: LaunchContext) -> dict[str, str]:
    """The arguments as they were given."""
    return {declared.name: LaunchConfiguration(declared.name).perform(context) for declared in ARGUMENTS}


def start(context: LaunchContext) -> list[Node]:
    """The processes of the graph."""
    given = arguments(context)
    sim = given["sim"] == "true"
    refuse_half_real_hardware(given, sim)
    refuse_absent_file(given["params_file"])
    parameters = [given["params_file"], overrides(given, sim)]
    if given["composed"] == "true":
        return [process("autofocus", parameters, given)]
    names = (*NODES, "sim_microscope") if sim else NODES
    # Frames travel between the processes; a profile of the user's own has its reasons.
    profile = {} if "FASTRTPS_DEFAULT_PROFILES_FILE" in os.environ else {"FASTRTPS_DEFAULT_PROFILES_FILE": FASTDDS}
    return [process(f"{name}_node", parameters, given, profile) for name in names]


def describe(context: LaunchContext) -> list[Node | LogInfo]:
    """The model of the stage for whoever draws it; the loop does not need it."""
    given = arguments(context)
    if given["description"] != "true":
        return []
    if not is_installed("robot_state_publisher"):
        return [LogInfo(msg="robot_state_publisher is not installed: the stage is not drawn, and there are no frames on /tf")]
    model = {"robot_description": (SHARE / "urdf" / "hhnet.urdf").read_text(), "frame_prefix": scope(given, "/")}
    return [Node(package="robot_state_publisher", executable="robot_state_publisher", parameters=[model])]


def show(context: LaunchContext) -> list[Node]:
    """rviz, in the namespace of the microscope and with its frames."""
    given = arguments(context)
    if given["rviz"] != "true":
        return []
    if not is_installed("rviz2"):
        raise RuntimeError("rviz:=true needs rviz2: install the package rviz2 of this ROS distribution, or leave rviz false")
    view = (SHARE / "config" / "hhnet.rviz").read_text()
    if scope(given):
        view = view.replace("Fixed Frame: microscope_base", f"Fixed Frame: {scope(given, '/')}microscope_base")
        view = view.replace('TF Prefix: ""', f"TF Prefix: {scope(given)}")
    with tempfile.NamedTemporaryFile("w", prefix="hhnet-", suffix=".rviz", delete=False) as file:
        file.write(view)
    return [Node(package="rviz2", executable="rviz2", arguments=["-d", file.name])]


def scope(given: dict[str, str], end: str = "") -> str:
    """The namespace without its leading slash, followed by `end`; empty for none."""
    name = given["namespace"].strip("/")
    return name and name + end


def is_installed(package: str) -> bool:
    """Whether this ROS 2 has a package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def refuse_half_real_hardware(given: dict[str, str], sim: bool) -> None:
    """The shipped parameter file describes the virtual microscope: real hardware needs its camera and its stage named."""
    if sim:
        return
    if given["camera_source"] == "sim":
        raise RuntimeError("camera_source:=sim is the virtual microscope's camera: choose folder or zstack, or sim:=true")
    if given["params_file"] == CONFIG and not (given["camera_source"] and given["serial_port"]):
        raise RuntimeError("sim:=false needs camera_source and serial_port, or a params_file that names them")


def refuse_absent_file(path: str) -> None:
    """Every process would refuse it on its own, after it has started."""
    if not (Path(path).is_file() and os.access(path, os.R_OK)):
        raise RuntimeError(f"params_file:={path} cannot be read: name a parameter file, or leave it out for the one that ships")


def overrides(given: dict[str, str], sim: bool) -> dict[str, object]:
    """Parameters that were given as arguments; each carries its node's section, so that one process can hold all nodes."""
    parameters = {}
    for name, parameter, convert in OVERRIDES:
        if given[name]:
            try:
                parameters[parameter] = convert(given[name])
            except ValueError:
                raise RuntimeError(f"{name}:={given[name]} is not a whole number") from None
    if not sim:
        parameters["sim_microscope.enabled"] = False
    # A parameter file of the user's own says itself how it begins.
    elif not given["focus_at_start"] and given["params_file"] == CONFIG:
        parameters["focus_controller.enabled"] = True
        # Of another objective these heights are beyond what its network was trained for, or in focus.
        parameters |= {} if given["objective"] else START
    if given["focus_at_start"]:
        parameters["focus_controller.enabled"] = given["focus_at_start"] == "true"
    return parameters


def process(executable: str, parameters: list, given: dict[str, str], environment: dict[str, str] | None = None) -> Node:
    """One process; if it ends for good, so does the graph, because none of its nodes is of use without the others.

    It gets no name: that would rename every node of the process, the one that writes the log included.
    """
    respawn = given["respawn"] == "true"
    ros_arguments = ["--log-level", given["log_level"]]
    if given["use_sim_time"] == "true":
        ros_arguments += ["-p", "use_sim_time:=true"]
    return Node(
        package=PACKAGE,
        executable=executable,
        parameters=parameters,
        ros_arguments=ros_arguments,
        additional_env=environment or {},
        output="both",
        emulate_tty=True,
        respawn=respawn,
        respawn_delay=2.0,
        on_exit=None if respawn else Shutdown(reason=f"{executable} ended"),
    )
