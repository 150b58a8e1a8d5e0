"""The focus controller against a stage and a classifier that this test plays: axes that run the wrong way, pictures that stand still,
positions that do not count, estimates that say why they are not trusted, stops."""

import time

import pytest
from conftest import RIGID, descending, seconds
from geometry_msgs.msg import TwistStamped
from hhnet.action import Autofocus
from hhnet.msg import FocusEstimate, FocusState, StageState, StageTarget
from PIL import Image as Picture
from std_srvs.srv import SetBool, Trigger
from test_actions import Goal

REPORT_S, FRAME_S, COMMAND_S = 0.02, 0.05, 0.2
# Class edges of the 40x0.65, in µm of defocus.
EDGES = ((30.12, 4), (11.48, 3), (5.02, 2), (0.717, 1), (-0.717, 0), (-5.02, -1))


class World:
    """Stage and classifier: the lens moves `scale` µm for each that the stage counts; the picture may be frozen."""

    def __init__(self, node, defocus_um: float, scale: float = 1.0, is_frozen: bool = False):
        self.node, self.scale, self.is_frozen = node, scale, is_frozen
        self.z_um, self.start_um, self.lowest_um = 0.0, defocus_um, 0.0
        self.trusted, self.reason, self.position_valid, self.state = True, "", True, None
        self.velocity, self.commanded, self.goal_um = 0.0, 0.0, None
        self.reported = self.exposed = self.stepped = time.time()
        self.stages = node.create_publisher(StageState, "stage_state", 10)
        self.estimates = node.create_publisher(FocusEstimate, "focus", 10)
        node.create_subscription(TwistStamped, "cmd_vel", self.on_command, 1)
        node.create_subscription(StageTarget, "cmd_target", self.on_target, 1)

    def on_command(self, message):
        self.velocity, self.commanded, self.goal_um = 1e6 * message.twist.linear.z, time.time(), None

    def on_target(self, message):
        self.goal_um, self.commanded = 1e6 * message.z, time.time()
        way_um = self.goal_um - self.z_um
        self.velocity = 0.0 if way_um == 0.0 else 1e6 * message.max_speed * (1 if way_um > 0.0 else -1)

    def step(self):
        """What has become due; the lens obeys for as long as the command is fresh."""
        now = time.time()
        if now - self.commanded > COMMAND_S:
            self.velocity = 0.0
        way_um = self.velocity * min(now - self.stepped, REPORT_S)
        if self.goal_um is not None and abs(self.goal_um - self.z_um) <= abs(way_um):
            way_um, self.velocity = self.goal_um - self.z_um, 0.0
        self.z_um += way_um
        self.lowest_um = min(self.lowest_um, self.scale * self.z_um)
        self.stepped = now
        stamp = self.node.get_clock().now().to_msg()
        if now - self.reported >= REPORT_S:
            self.reported = now
            moving = StageState.MOVING if self.velocity else StageState.IDLE
            state = moving if self.state is None else self.state
            report = StageState(state=state, z=1e-6 * self.z_um, position_valid=self.position_valid)
            report.header.stamp = stamp
            self.stages.publish(report)
        if now - self.exposed >= FRAME_S:
            self.exposed = now
            defocus = self.start_um + (0.0 if self.is_frozen else self.scale * self.z_um)
            index = next((index for edge, index in EDGES if defocus > edge), -2)
            estimate = FocusEstimate(distance_index=index, defocus=1e-6 * defocus, trusted=self.trusted)
            estimate.header.stamp = stamp
            estimate.reason, estimate.patches_used = self.reason, 30
            self.estimates.publish(estimate)


def play(graph, client, defocus_um: float, mode: str = "predictive", **world) -> World:
    """A controller that hears of a stage."""
    graph.start("focus_controller_node", focus_controller__needs='[""]', focus_controller__mode=mode)
    world = World(client, defocus_um, **world)
    connected = lambda: world.stages.get_subscription_count() >= 2 and world.estimates.get_subscription_count() >= 1  # noqa: E731
    client.spin_until(connected, 30, "the controller", world.step)
    client.spin_for(0.5, world.step)
    return world


def call(client, world: World, kind, name: str, request):
    """The answer of a service while the world goes on."""
    service = client.create_client(kind, f"focus_controller/{name}")
    client.spin_until(service.service_is_ready, 20, "the service", world.step)
    future = service.call_async(request)
    client.spin_until(future.done, 20, f"the answer of {name}", world.step)
    return future.result()


def end(client, world: World) -> FocusState:
    """The state in which a run ends."""
    client.states.clear()
    answer = call(client, world, SetBool, "enable", SetBool.Request(data=True))
    assert answer.success, answer.message
    over = (FocusState.IN_FOCUS, FocusState.FAILED)
    client.spin_until(lambda: client.states and client.states[-1].state in over, 40, "the end of the run", world.step)
    return client.states[-1]


@pytest.mark.parametrize("mode", ["predictive", "stepwise", "paper"])
@pytest.mark.parametrize("start_um", [-8.0, 30.0])
@pytest.mark.parametrize(
    "world, cause, depth_um",
    [({"scale": -1.0}, "z runs the wrong way", 15.0), ({"is_frozen": True}, "the picture does not change", 12.0),
     ({"scale": 25.4}, "steps per millimetre", 60.0)],
)  # fmt: skip
def test_a_picture_that_does_not_follow_ends_the_run(graph, client, mode, start_um, world, cause, depth_um):
    world = play(graph, client, start_um, mode, **world)
    state = end(client, world)
    assert state.state == FocusState.FAILED and cause in state.reason, state.reason
    assert world.lowest_um > -depth_um


@pytest.mark.parametrize("mode", ["predictive", "stepwise"])
def test_the_world_of_this_test_is_one_that_focuses(graph, client, mode):
    world = play(graph, client, 20.0, mode)
    assert end(client, world).state == FocusState.IN_FOCUS
    assert abs(world.start_um + world.z_um) < 1.0


@pytest.mark.parametrize("mode", ["predictive", "stepwise"])
def test_what_the_estimates_say_is_what_the_run_says(graph, client, mode):
    world = play(graph, client, 20.0, mode)
    world.trusted, world.reason = False, "28 of 30 patches disagree about the side"
    state = end(client, world)
    assert state.state == FocusState.FAILED and world.reason in state.reason and "in a row" in state.reason, state.reason
    # Two steps of 24 µm, for the picture follows.
    assert world.lowest_um > -0.1 and 10.0 < world.z_um < 50.0, "two steps up, none down"


def test_a_position_that_does_not_count_moves_nothing(graph, client):
    world = play(graph, client, 20.0)
    world.position_valid = False
    client.spin_for(0.3, world.step)
    answer = call(client, world, SetBool, "enable", SetBool.Request(data=True))
    assert not answer.success and "accept_position" in answer.message
    world.position_valid = True
    client.spin_for(0.3, world.step)
    client.states.clear()
    assert call(client, world, SetBool, "enable", SetBool.Request(data=True)).success
    client.spin_until(lambda: world.z_um < -0.2, 20, "motion", world.step)
    world.position_valid = False
    client.spin_until(lambda: client.states[-1].state == FocusState.FAILED, 20, "the end", world.step)
    assert "position of the stage is not valid" in client.states[-1].reason


def test_stop_says_when_the_stage_does_not_stand(graph, client):
    world = play(graph, client, 20.0)
    assert call(client, world, Trigger, "stop", Trigger.Request()).success
    world.state = StageState.MOVING
    client.spin_for(0.2, world.step)
    answer = call(client, world, Trigger, "stop", Trigger.Request())
    assert not answer.success and "still moves" in answer.message
    world.state = StageState.DISCONNECTED
    client.spin_for(0.2, world.step)
    answer = call(client, world, Trigger, "stop", Trigger.Request())
    assert not answer.success and "stage_state" in answer.message


def test_stop_answers_when_the_stage_stands(graph, client):
    descending(graph, client)
    # Several at once: each gets its answer.
    service = client.create_client(Trigger, "focus_controller/stop")
    assert service.wait_for_service(10.0)
    futures = [service.call_async(Trigger.Request()) for _ in range(3)]
    client.spin_until(lambda: all(future.done() for future in futures), 20, "three answers")
    answered = time.time()
    assert all(future.result().success for future in futures), futures[0].result().message
    # But for the ringing of the lens on its drive.
    client.spin_for(0.5)
    after = [1e6 * truth.z for truth in client.truth if seconds(truth.header.stamp) > answered]
    assert max(after) - min(after) < 0.5, after


def test_the_papers_law_is_in_focus_at_rest_or_not_at_all(graph, client):
    graph.start(
        "autofocus", sim_microscope__start_defocus=20e-6, stepper_bridge__power_up_z=20e-6, focus_controller__mode="paper",
        focus_controller__run_timeout=8.0, **RIGID,
    )  # fmt: skip
    client.spin_until(lambda: client.is_up() and client.estimates, 40, "stage and estimates")
    goal = Goal(client, Autofocus, "autofocus", Autofocus.Goal())
    _, result = goal.result(30)
    ended = time.time()
    client.spin_for(0.5)
    after = [1e6 * truth.z for truth in client.truth if seconds(truth.header.stamp) > ended]
    assert max(after) - min(after) < 0.3, "the stage stands when a goal ends"
    if result.code == Autofocus.Result.IN_FOCUS:
        assert abs(1e6 * client.truth[-1].defocus) < 1.2
    else:
        assert "no focus within 8 s" in result.message


def test_recorded_images_move_nothing(graph, client, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Picture.effect_noise((640, 480), 50).convert("RGB").save(folder / name)
    graph.start("autofocus", camera__source="folder", camera__path=folder)
    client.spin_until(lambda: bool(client.stages) and client.stages[-1].state == StageState.IDLE, 40, "the stage")
    answers = []
    asked = lambda: answers.append(client.enable()) or "recorded images" in answers[-1].message  # noqa: E731
    client.spin_until(asked, 30, "the refusal")
    assert not any(answer.success for answer in answers)
    assert not Goal(client, Autofocus, "autofocus", Autofocus.Goal()).accepted
    assert "recorded_frames_may_move" in graph.log("autofocus")


def test_recorded_images_move_the_stage_where_that_is_asked_for(graph, client, tmp_path):
    Picture.effect_noise((640, 480), 50).convert("RGB").save(tmp_path / "a.png")
    parameters = {"camera__source": "folder", "camera__path": tmp_path, "focus_controller__recorded_frames_may_move": "true"}
    graph.start("autofocus", **parameters)
    client.spin_until(lambda: bool(client.stages) and client.stages[-1].state == StageState.IDLE, 40, "the stage")
    client.spin_until(lambda: client.enable().success, 30, "a controller that begins")
