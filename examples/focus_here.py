"""Bring the specimen into focus, print how it goes, and end with 0 when it is: the shortest client of a lab cell.

python3 examples/focus_here.py            # ROS 2 sourced and the graph running; scripts/run python without ROS 2
"""

import sys

import rclpy
from action_msgs.msg import GoalStatus
from hhnet.action import Autofocus
from rclpy.action import ActionClient


def main() -> int:
    rclpy.init()
    node = rclpy.create_node("focus_here")
    autofocus = ActionClient(node, Autofocus, "autofocus")
    if not autofocus.wait_for_server(timeout_sec=10.0):
        print("nobody serves the action autofocus: is the graph running in this ROS domain?", file=sys.stderr)
        return 1

    def show(message) -> None:
        print(f"index {message.feedback.distance_index:+d}, about {1e6 * message.feedback.defocus:+.1f} µm to go")

    goal = autofocus.send_goal_async(Autofocus.Goal(timeout=30.0), feedback_callback=show)
    rclpy.spin_until_future_complete(node, goal)
    if not goal.result().accepted:
        print("the goal was rejected: the reason is in the log of focus_controller", file=sys.stderr)
        return 1
    outcome = goal.result().get_result_async()
    rclpy.spin_until_future_complete(node, outcome)
    status, result = outcome.result().status, outcome.result().result
    print(f"{result.message} after {result.duration:.1f} s, z = {1e6 * result.z:.2f} µm")
    return 0 if status == GoalStatus.STATUS_SUCCEEDED and result.code == Autofocus.Result.IN_FOCUS else 1


if __name__ == "__main__":
    sys.exit(main())
