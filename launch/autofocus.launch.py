"""Starts the autofocus graph: camera, classifier, focus controller, stepper bridge and, by default, the virtual microscope.

`ros2 launch hhnet autofocus.launch.py --show-args` is the manual of the arguments. An argument that is not given leaves the
parameter file, and below it the default of the code, in force.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

PACKAGE = "hhnet"
CONFIG = str(Path(get_package_share_directory(PACKAGE)) / "config" / "autofocus.yaml")
NODES = ("camera", "classifier", "focus_controller", "stepper_bridge")
SWITCH = ("true", "false")

# Argument, the parameter it sets (section and name), and how its text becomes that parameter's type.
OVERRIDES = (
    ("camera_source", "camera.source", str),
    ("camera_path", "camera.path", str),
    ("model", "classifier.model", str),
    ("serial_port", "stepper_bridge.port", str),
    ("objective", "classifier.objective", str),
    ("objective", "focus_controller.objective", str),
    ("objective", "sim_microscope.objective", str),
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
    argument("seed", "seed of the virtual slide, a whole number; empty: as in params_file"),
    argument("log_level", "what is logged", "info", ("debug", "info", "warn", "error", "fatal")),
    argument("use_sim_time", "hhnet works in real time: anything but false is refused at start", "false", SWITCH),
    argument("respawn", "start a process again 2 s after it has ended", "false", SWITCH),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, then the nodes inside their namespace."""
    # A group keeps the namespace from leaking into a launch file that includes this one.
    graph = GroupAction([PushRosNamespace(LaunchConfiguration("namespace")), OpaqueFunction(function=start)])
    return LaunchDescription([*ARGUMENTS, graph])


def start(context: LaunchContext) -> list[Node]:
    """The processes for the arguments as they were given."""
    given = {declared.name: LaunchConfiguration(declared.name).perform(context) for declared in ARGUMENTS}
    sim = given["sim"] == "true"
    refuse_half_real_hardware(given, sim)
    parameters = [given["params_file"], overrides(given, sim)]
    if given["composed"] == "true":
        return [process("autofocus", parameters, given)]
    names = (*NODES, "sim_microscope") if sim else NODES
    return [process(f"{name}_node", parameters, given) for name in names]


def refuse_half_real_hardware(given: dict[str, str], sim: bool) -> None:
    """The shipped parameter file describes the virtual microscope: real hardware needs its camera and its stage named."""
    if sim:
        return
    if given["camera_source"] == "sim":
        raise RuntimeError("camera_source:=sim is the virtual microscope's camera: choose folder or zstack, or sim:=true")
    if given["params_file"] == CONFIG and not (given["camera_source"] and given["serial_port"]):
        raise RuntimeError("sim:=false needs camera_source and serial_port, or a params_file that names them")


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
    return parameters


def process(executable: str, parameters: list, given: dict[str, str]) -> Node:
    """One process; if it ends for good, so does the graph, because none of its nodes is of use without the others.

    It gets no name: that would rename every node of the process, the one that writes the log included.
    """
    respawn = given["respawn"] == "true"
    arguments = ["--log-level", given["log_level"]]
    if given["use_sim_time"] == "true":
        arguments += ["-p", "use_sim_time:=true"]
    return Node(
        package=PACKAGE,
        executable=executable,
        parameters=parameters,
        ros_arguments=arguments,
        output="both",
        emulate_tty=True,
        respawn=respawn,
        respawn_delay=2.0,
        on_exit=None if respawn else Shutdown(reason=f"{executable} ended"),
    )
