"""Many requests at once: every one is answered, if only with "busy". r2r keeps ten of a service and drops the others."""

from hhnet.action import MoveStage
from hhnet.msg import StageState
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.qos import QoSProfile
from std_srvs.srv import SetBool, Trigger

AT_ONCE = 200
# A client has to have room for that many answers too.
DEEP = QoSProfile(depth=5 * AT_ONCE)


def burst(client, kind, name: str, request) -> list:
    """The answers to that many requests."""
    caller = client.create_client(kind, name, qos_profile=DEEP)
    assert caller.wait_for_service(20.0), f"no service {name}"
    futures = [caller.call_async(request()) for _ in range(AT_ONCE)]
    client.spin_until(lambda: all(future.done() for future in futures), 30, f"every answer of {name}")
    client.destroy_client(caller)
    return [future.result() for future in futures]


def check_words(answers: list) -> None:
    """Those that were not served were told why."""
    refused = [answer.message for answer in answers if not answer.success]
    assert len(refused) < AT_ONCE, refused[0]
    assert all(message for message in refused)


def test_every_request_of_a_burst_is_answered(graph, client):
    graph.start("autofocus")
    client.spin_until(client.is_up, 40, "the stage")
    check_words(burst(client, Trigger, "focus_controller/stop", Trigger.Request))
    check_words(burst(client, Trigger, "stepper_bridge/stop", Trigger.Request))
    check_words(burst(client, SetBool, "focus_controller/enable", lambda: SetBool.Request(data=False)))
    read = burst(client, GetParameters, "stepper_bridge/get_parameters", lambda: GetParameters.Request(names=["z_min"]))
    assert all(len(answer.values) in (0, 1) for answer in read) and any(answer.values for answer in read)
    assert burst(client, GetState, "camera/get_state", GetState.Request)[-1]
    send = MoveStage.Impl.SendGoalService
    answers = burst(client, send, "move_stage/_action/send_goal", send.Request)
    # All have one id: at most one of them is a goal.
    assert sum(answer.accepted for answer in answers) <= 1
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 20, "rest")
