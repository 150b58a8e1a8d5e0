"""The stage in processes of its own: who may die in motion, and what then."""

import math
import signal
import statistics
import time

import pytest
from conftest import RIGID, seconds
from geometry_msgs.msg import TwistStamped
from hhnet.msg import StageState, StageTarget

SPEED = -20e-6  # m/s, towards the slide
# From the death of a node to standstill.
DEATH_LIMIT_S = 0.6


@pytest.fixture
def stage(graph, client):
    graph.start("sim_microscope_node", sim_microscope__start_defocus=50e-6, **RIGID)
    graph.start("stepper_bridge_node", stepper_bridge__power_up_z=50e-6)
    client.spin_until(client.is_up, 30, "the stage")
    return graph


@pytest.fixture
def drive(client):
    publisher = client.create_publisher(TwistStamped, "cmd_vel", 1)

    def drive(velocity):
        message = TwistStamped()
        message.header.stamp = client.get_clock().now().to_msg()
        message.twist.linear.z = velocity
        publisher.publish(message)

    return drive


def get_moving(client, drive, speed=SPEED):
    start = client.z_um()
    client.spin_until(lambda: abs(client.z_um() - start) > 2.0, 10, "motion", lambda: drive(speed))


def check_stands(client):
    """What is queued on the far side of the wire runs out in less than 0.35 s."""
    client.check_stands(after_s=0.35, drift_um=0.0)


def test_velocity_moves_and_is_reported(stage, client, drive):
    get_moving(client, drive)
    began = len(client.truth)
    client.spin_for(2.0, lambda: drive(SPEED))
    told = [(seconds(truth.header.stamp), truth.z) for truth in client.truth[began:]]
    # Over a tenth of a second each, by the exposures' own stamps: a client that comes too late to command makes pauses.
    ahead = [next((later for later in told if later[0] >= at + 0.1), None) for at, _ in told]
    speeds = [(later[1] - z) / (later[0] - at) for (at, z), later in zip(told, ahead) if later]
    assert len(speeds) > 5
    assert statistics.median(speeds) == pytest.approx(SPEED, rel=0.1)
    check_stands(client)
    # What a slow client hears first may be of a pause on the way.
    asked = time.time()
    client.spin_until(lambda: seconds(client.stages[-1].header.stamp) > asked, 20, "a report of now")
    assert client.stages[-1].state == StageState.IDLE
    # Silence cancels what is queued, and where that ends GRBL tells in whole micrometres.
    assert 1e6 * client.stages[-1].z == pytest.approx(client.z_um() - (1e6 * client.truth[0].z - 50.0), abs=0.6)


def test_silence_stops_the_stage(stage, client, drive):
    get_moving(client, drive)
    check_stands(client)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_bridge_killed_in_motion_stops_the_motor(stage, client, drive, number):
    get_moving(client, drive)
    code = stage.stop("stepper_bridge_node", number)
    assert code == (-9 if number == signal.SIGKILL else 0), stage.log("stepper_bridge_node")
    check_stands(client)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("victim", ["classifier_node", "focus_controller_node"])
def test_without_eyes_or_head_the_stage_stands(graph, client, victim, number):
    """The limit holds from the death on: what it takes to find a message stale, and the queue on the far side of the wire."""
    far = {"sim_microscope__start_defocus": 58e-6, "stepper_bridge__power_up_z": 58e-6}
    for executable in ("sim_microscope_node", "stepper_bridge_node", "camera_node", "classifier_node", "focus_controller_node"):
        graph.start(executable, **far, **RIGID)
    client.spin_until(lambda: client.is_up() and client.estimates, 60, "stage and estimates")
    start = client.z_um()
    client.enable()
    client.spin_until(lambda: client.z_um() < start - 2.0, 20, "motion")
    code = graph.stop(victim, number)
    assert code == (-9 if number == signal.SIGKILL else 0), graph.log(victim)
    client.check_stands(after_s=DEATH_LIMIT_S)


def test_a_new_bridge_does_not_resume(stage, client, drive):
    get_moving(client, drive)
    stage.stop("stepper_bridge_node", signal.SIGKILL)
    check_stands(client)
    z = client.z_um_now()
    client.stages.clear()
    stage.start("stepper_bridge_node", stepper_bridge__power_up_z=50e-6)
    client.spin_until(client.is_up, 30, "the stage again")
    client.spin_for(1.0)
    assert client.z_um_now() == z


def test_limits_hold_against_any_command(stage, client, drive):
    client.spin_for(5.0, lambda: drive(-1.0))
    assert 1e6 * client.stages[-1].z >= -100.0
    check_stands(client)
    assert min(1e6 * stage.z for stage in client.stages if stage.position_valid) >= -100.0


@pytest.fixture
def aim(client):
    publisher = client.create_publisher(StageTarget, "cmd_target", 1)

    def aim(z_um, max_speed=200e-6):
        message = StageTarget(z=1e-6 * z_um, max_speed=max_speed)
        message.header.stamp = client.get_clock().now().to_msg()
        publisher.publish(message)

    return aim


def told_z_um(client):
    return 1e6 * client.stages[-1].z


def test_the_stage_lands_at_a_height_and_only_while_it_is_asked_to(stage, client, aim):
    start = client.z_um_now() - 50.0
    for z_um in (60.0, 45.0):
        client.spin_until(
            lambda z_um=z_um: abs(client.z_um() - start - z_um) < 0.2, 20, f"{z_um} µm", lambda z_um=z_um: aim(z_um)
        )
        client.check_stands(after_s=0.3, drift_um=0.0)
        assert told_z_um(client) == pytest.approx(z_um, abs=0.6)
    # Without a next command it ends early.
    client.spin_until(lambda: client.z_um() - start < 43.0, 20, "motion", lambda: aim(-50.0, 20e-6))
    client.check_stands(after_s=0.5, drift_um=0.0)
    assert client.z_um() - start > 20.0
    # A stop holds against it.
    client.spin_until(lambda: client.z_um() - start < 20.0, 20, "motion", lambda: aim(-50.0, 20e-6))
    assert client.trigger("stepper_bridge/stop").success
    stood = client.z_um_now()
    client.spin_for(1.0, lambda: aim(-50.0))
    assert client.z_um_now() == pytest.approx(stood, abs=0.05)


def test_a_height_beyond_the_limits_is_refused(stage, client, aim):
    stood = client.z_um_now()
    for z_um in (-150.0, 400.0, float("nan"), float("inf")):
        client.spin_for(0.3, lambda z_um=z_um: aim(z_um))
    assert client.z_um_now() == stood
    assert "permitted are" in stage.log("stepper_bridge_node")


def test_commands_that_are_no_numbers_do_nothing(stage, client, drive):
    z = client.z_um_now()
    for velocity in (float("nan"), float("inf"), -float("inf")):
        client.spin_for(0.3, lambda velocity=velocity: drive(velocity))
    assert client.z_um_now() == z


def test_lost_cable_is_declared_and_found_again(stage, client):
    stage.stop("sim_microscope_node", signal.SIGKILL)
    client.spin_until(lambda: client.stages[-1].state == StageState.DISCONNECTED, 10, "the loss to be noticed")
    assert client.stages[-1].reason
    stage.start("sim_microscope_node", sim_microscope__start_defocus=50e-6, **RIGID)
    client.spin_until(lambda: client.stages[-1].state == StageState.FAULT, 15, "the reconnection")
    assert client.trigger("stepper_bridge/clear_fault").success
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 15, "readiness")
    assert not client.stages[-1].position_valid, "nobody has said yet that the height is right"
    # The new stage has counted from another place, and nobody has measured where this one stands.
    assert math.isnan(client.stages[-1].z)
    answer = client.accept_position(z=50e-6)
    assert answer.success and "50.00" in answer.message
    client.spin_until(lambda: client.stages[-1].position_valid, 20, "a valid position")


def test_stop_service_answers_and_holds(stage, client, drive):
    get_moving(client, drive)
    client.spin_for(0.3, lambda: drive(SPEED))
    assert client.trigger("stepper_bridge/stop").success
    stood = client.z_um_now()
    client.spin_for(1.0, lambda: drive(SPEED))
    assert client.z_um_now() == stood, "the joystick has to be released first"
    client.spin_for(0.2, lambda: drive(0.0))
    client.spin_for(0.3, lambda: drive(SPEED))
    assert client.z_um_now() == stood, "a zero may be another commander's"
    client.spin_for(1.0)
    get_moving(client, drive)


def test_homing_without_switches_says_so(stage, client):
    assert client.trigger("stepper_bridge/home").success
    client.spin_until(lambda: "home" in client.stages[-1].reason, 10, "the controller's refusal")
    client.spin_until(lambda: client.stages[-1].state == StageState.IDLE, 10, "readiness")


def test_a_second_virtual_stage_does_not_steal_the_port(stage, client):
    second = stage.start("sim_microscope_node")
    assert second.wait(20) != 0
    assert "another virtual stage" in stage.log("sim_microscope_node")
    client.stages.clear()
    client.spin_until(lambda: len(client.stages) > 20, 10, "the first one to go on")
    assert {state.state for state in client.stages} == {StageState.IDLE}
