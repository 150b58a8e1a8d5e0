"""Records what is needed to replay and judge a run: estimates, commands, stage, states, log and diagnostics in a bag.

`ros2 launch hhnet record.launch.py` beside a running graph. Whole frames only with `images:=true`: they are 9.4 MB each, and
recording them makes the camera copy every one; otherwise the small pictures are recorded.
"""

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
    "joint_states",
    "stage_state",
    "sim/truth",
    "autofocus/_action/feedback",
    "autofocus/_action/status",
    "move_stage/_action/feedback",
    "move_stage/_action/status",
)
NODES = ("camera", "classifier", "focus_controller", "stepper_bridge", "sim_microscope")
NODE_TOPICS = ("state", "about", "transition_event")
# The same for every graph of a domain.
SHARED = ("/rosout", "/diagnostics", "/parameter_events")


def generate_launch_description() -> LaunchDescription:
    """The arguments, then the recorder."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the microscope"),
            DeclareLaunchArgument("bag", default_value="", description="folder of the bag; empty: named after the time"),
            DeclareLaunchArgument(
                "images", default_value="false", choices=["true", "false"], description="record whole frames too"
            ),
            OpaqueFunction(function=record),
        ]
    )


def record(context: LaunchContext) -> list[ExecuteProcess]:
    """The recorder for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("namespace", "bag", "images")}
    own = [*TOPICS, *(f"{node}/{topic}" for node in NODES for topic in NODE_TOPICS)]
    if given["images"] == "true":
        own.append("image_raw")
    scope = "/" + given["namespace"].strip("/") if given["namespace"].strip("/") else ""
    # The topics of an action are hidden.
    command = ["ros2", "bag", "record", "--include-hidden-topics"]
    if given["bag"]:
        command += ["--output", given["bag"]]
    return [ExecuteProcess(cmd=[*command, *(f"{scope}/{topic}" for topic in own), *SHARED], output="screen")]
