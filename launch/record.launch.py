"""Records what is needed to replay and judge a run: estimates, commands, stage, states, frames, log, diagnostics, parameters.

`ros2 launch hhnet record.launch.py` beside a running graph makes a folder with the bag in it (`run`) and, in `parameters`, a file
for each node with the values in force, which its executable takes by `--params-file`. Whole frames only with `images:=true`: they are 9.4 MB each, and
recording them makes the camera copy every one; otherwise the small pictures are recorded.
"""

import time
from pathlib import Path
from shlex import quote

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

# Inside the namespace of the microscope.
TOPICS = (
    "camera_info",
    "image_raw/compressed",
    "focus",
    "focus/overlay/compressed",
    "focus_state",
    "cmd_vel",
    "cmd_target",
    "joint_states",
    "robot_description",
    "stage_state",
    "sim/truth",
    "autofocus/_action/feedback",
    "autofocus/_action/status",
    "calibrate/_action/feedback",
    "calibrate/_action/status",
    "focus/flat_field",
    "move_stage/_action/feedback",
    "move_stage/_action/status",
)
NODES = ("camera", "classifier", "focus_controller", "calibrator", "stepper_bridge", "sim_microscope")
NODE_TOPICS = ("state", "about", "transition_event")
# The same for every graph of a domain.
SHARED = ("/rosout", "/diagnostics", "/parameter_events", "/tf", "/tf_static")


def generate_launch_description() -> LaunchDescription:
    """The arguments, then the recorder."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the microscope"),
            DeclareLaunchArgument("bag", default_value="", description="folder to make; empty: named after the time"),
            DeclareLaunchArgument(
                "images", default_value="false", choices=["true", "false"], description="record whole frames too"
            ),
            OpaqueFunction(function=record),
        ]
    )


def record(context: LaunchContext) -> list[ExecuteProcess]:
    """The recorder for the arguments as they were given, and the values of the parameters."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("namespace", "bag", "images")}
    own = [*TOPICS, *(f"{node}/{topic}" for node in NODES for topic in NODE_TOPICS)]
    if given["images"] == "true":
        own.append("image_raw")
    name = given["namespace"].strip("/")
    scope = f"/{name}" if name else ""
    folder = Path(given["bag"] or time.strftime("hhnet-%Y%m%d-%H%M%S"))
    if folder.exists():
        raise RuntimeError(f"{folder} exists already: give another folder by bag:=, or none")
    values = folder / "parameters"
    values.mkdir(parents=True)
    # The topics of an action are hidden; a topic that nobody publishes yet is recorded once somebody does.
    bag = ["ros2", "bag", "record", "--include-hidden-topics", "--include-unpublished-topics", "--output", str(folder / "run")]
    bag += [*(f"{scope}/{topic}" for topic in own), *SHARED]
    # A node that does not run is a line in the log, and no reason to end the recording.
    dumps = [
        ExecuteProcess(cmd=["sh", "-c", f"ros2 param dump {scope}/{node} > {quote(str(values / node))}.yaml"], output="screen")
        for node in NODES
    ]
    return [ExecuteProcess(cmd=bag, output="screen"), *dumps]
