"""The parameters as `ros2 param`, rqt and rclpy see them: descriptors, vetoes with a reason, atomic sets, events, live changes."""

import csv

import pytest
import rclpy
import yaml
from conftest import CONFIG, ROOT
from hhnet.msg import About
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile


def double(name: str, value: float) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value))


def integer(name: str, value: int) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value))


def string(name: str, value: str) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value))


def values(client, node: str, *names: str) -> list[ParameterValue]:
    return client.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names)).values


def change(client, node: str, *parameters: Parameter) -> list:
    request = SetParameters.Request(parameters=parameters)
    return client.call(SetParameters, f"{node}/set_parameters", request).results


def test_what_there_is_and_what_it_means(graph, client):
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")
    names = client.call(ListParameters, "classifier/list_parameters", ListParameters.Request()).result.names
    shared = [
        "microscope.objective",
        "microscope.condenser_na",
        "microscope.pixel_size",
        "microscope.flat_field",
        "microscope.calibration",
    ]
    own = ["model", "threads", "min_certainty", "crop_seed", "stamp", "identical_frames", "overlay_rate", "autostart"]
    assert names == [*shared, *own, "use_sim_time"]
    request = DescribeParameters.Request(names=["threads", "min_certainty", "model", "absent"])
    threads, certainty, model, absent = client.call(DescribeParameters, "classifier/describe_parameters", request).descriptors
    assert threads.read_only and threads.type == ParameterType.PARAMETER_INTEGER
    assert (threads.integer_range[0].from_value, threads.integer_range[0].to_value) == (1, 64)
    assert not certainty.read_only and certainty.floating_point_range[0].to_value == 1.0
    assert threads.integer_range[0].step == 1
    assert "not trusted" in certainty.description and model.type == ParameterType.PARAMETER_STRING
    assert absent.type == ParameterType.PARAMETER_NOT_SET
    request = GetParameterTypes.Request(names=["frame_rate", "seed", "noise"])
    types = client.call(GetParameterTypes, "sim_microscope/get_parameter_types", request).types
    assert list(types) == [ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_BOOL]


def test_changes_are_vetoed_with_a_reason_or_told_to_all(graph, client):
    events = []
    client.create_subscription(ParameterEvent, "/parameter_events", events.append, 100)
    graph.start("autofocus")
    client.spin_until(client.is_up, 30, "the stage")
    node = "focus_controller"
    for parameter, word in [
        (double("settle", -1.0), "between 0 and 10"),
        (double("microscope.z_max", 0.0), "at start"),
        (double("z_max", 0.0), "said once, as 'microscope.z_max'"),
        (string("settle", "long"), "correct its type"),
        (double("setle", 0.1), "did you mean 'settle'"),
        (string("mode", "sideways"), "choose predictive, stepwise or paper"),
        (double("settle", float("nan")), "correct its type"),
        (Parameter(name="use_sim_time", value=ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True)), "real time"),
    ]:
        result = change(client, node, parameter)[0]
        assert not result.successful and word in result.reason, result.reason
    result = change(client, "classifier", double("microscope.condenser_na", 0.01))[0]
    assert not result.successful and "aperture" in result.reason, result.reason
    assert change(client, "classifier", double("microscope.condenser_na", 0.35))[0].successful
    # An integer serves as a number.
    assert change(client, node, integer("settle", 1))[0].successful
    assert values(client, node, "settle")[0].double_value == 1.0

    def heard():
        return [event for event in events if event.node == f"/{node}" and event.changed_parameters]

    client.spin_until(heard, 20, "the event")
    assert [parameter.name for parameter in heard()[0].changed_parameters] == ["settle"]

    request = SetParametersAtomically.Request(parameters=[double("settle", 0.5), double("run_timeout", -5.0)])
    result = client.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result
    assert not result.successful and "run_timeout" in result.reason
    assert values(client, node, "settle")[0].double_value == 1.0
    request.parameters[1] = double("run_timeout", 12.0)
    assert client.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result.successful
    settle, timeout = values(client, node, "settle", "run_timeout")
    assert (settle.double_value, timeout.double_value) == (0.5, 12.0)


def test_a_change_counts_from_the_next_frame(graph, client):
    graph.start("autofocus", sim_microscope__start_defocus=12e-6)
    client.spin_until(lambda: client.estimates and client.estimates[-1].trusted, 40, "a trusted estimate")
    assert change(client, "classifier", double("min_certainty", 1.0))[0].successful
    client.spin_for(0.3)
    client.estimates.clear()
    client.spin_until(lambda: len(client.estimates) >= 3, 20, "estimates")
    assert not any(estimate.trusted for estimate in client.estimates if estimate.certainty < 1.0)
    assert change(client, "classifier", double("min_certainty", 0.0))[0].successful
    client.spin_until(lambda: client.estimates[-1].trusted, 20, "trust again")


def test_lists_know_prefix_and_depth_and_services_their_quality(graph, client):
    graph.start("classifier_node", classifier__model="none")
    request = ListParameters.Request(prefixes=["model", "nothing"], depth=1)
    result = client.call(ListParameters, "classifier/list_parameters", request).result
    assert (result.names, result.prefixes) == (["model"], [])
    request = DescribeParameters.Request(names=["overlay_rate", "use_sim_time"])
    rate, sim_time = client.call(DescribeParameters, "classifier/describe_parameters", request).descriptors
    assert rate.additional_constraints == "unit: 1/s"
    assert sim_time.read_only and sim_time.type == ParameterType.PARAMETER_BOOL


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_nodes_get_what_a_shipped_file_says(graph, client, path):
    graph.start("autofocus", sim_microscope__frame_rate=None)
    client.spin_until(client.is_up, 40, "the stage")
    sections = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    shared = sections.pop("microscope", {})
    for node in sections:
        request = ListParameters.Request(prefixes=["microscope"])
        read = client.call(ListParameters, f"{node}/list_parameters", request).result.names
        wanted = {name: shared[name.removeprefix("microscope.")] for name in read if name.removeprefix("microscope.") in shared}
        assert dict(zip(wanted, map(parameter_value_to_python, values(client, node, *wanted)))) == wanted
    assert len(sections) == 5
    for node, wanted in sections.items():
        if path == CONFIG and node == "stepper_bridge":
            # The test has a port of its own.
            wanted.pop("port")
        got = dict(zip(wanted, map(parameter_value_to_python, values(client, node, *wanted))))
        assert got == wanted


REFUSED = {
    "simulated time": ("use_sim_time: true", "real time"),
    "simulated time of one node": ("camera: {use_sim_time: true}", "real time"),
    "two names": ("rate: 5.0\n    camera: {rate: 6.0}", "given twice"),
    "mistyped section": ("camrea: {rate: 6.0}", "did you mean 'camera'?"),
    "out of range": ("camera: {preview_rate: 600}", "between 0.1 and 60"),
    "no folder": ("camera: {source: folder}", "camera.path"),
    "stack too high": ("camera: {stack_zero: 5.0}", "between -0.1 and 0.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_with_a_mistake_is_refused(graph, tmp_path, case):
    text, word = REFUSED[case]
    path = tmp_path / "mistake.yaml"
    path.write_text(f"/**:\n  ros__parameters:\n    {text}\n")
    process = graph.start("camera_node", file=path)
    assert process.wait(20) == 1
    last = graph.log("camera_node").strip().splitlines()[-1]
    assert last.startswith("error: ") and word in last, last


def test_about_follows_a_change(graph, client):
    abouts = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.create_subscription(About, "classifier/about", abouts.append, latched)
    graph.start("classifier_node", classifier__model="none")

    def limit():
        return {pair.key: pair.value for pair in abouts[-1].limits}["min_certainty"] if abouts else None

    client.spin_until(lambda: limit() == "0.5", 20, "what the classifier is")
    assert change(client, "classifier", double("min_certainty", 0.75))[0].successful
    client.spin_until(lambda: limit() == "0.75", 20, "the new limit")


def rows(name: str) -> list[list[str]]:
    with open(ROOT / "tests" / "data" / name) as file:
        return list(csv.reader(file))


def rate_in_rclpy(arguments: list, namespace: str = "") -> int | None:
    """The rate that a node `camera` of rclpy gets."""
    remap = ["-r", f"__ns:={namespace}"] if namespace else []
    context = Context()
    rclpy.init(args=["--ros-args", *remap, *map(str, arguments)], context=context)
    try:
        node = Node("camera", context=context, automatically_declare_parameters_from_overrides=True)
        value = node.get_parameter("rate").value if node.has_parameter("rate") else None
        node.destroy_node()
        return value
    finally:
        rclpy.shutdown(context=context)


def section_file(path, section: str, rate: int):
    path.write_text(f'"{section}":\n  ros__parameters: {{rate: {rate}}}\n')
    return path


def test_the_table_of_sections_is_what_rclpy_does(graph, tmp_path):
    """The nodes are held against the same table, in src/ros/params/sections.rs."""
    header, *table = rows("parameter_sections.csv")
    for section, *expected in table:
        file = section_file(tmp_path / "section.yaml", section, 1)
        for node, matches in zip(header[1:], expected):
            rate = rate_in_rclpy(["--params-file", file], node.removesuffix("/camera"))
            assert (rate == 1) == (matches == "yes"), (section, node)


def test_the_table_of_precedence_is_what_rclpy_does(graph, tmp_path):
    for given, expected in rows("parameter_order.csv")[1:]:
        arguments = []
        for number, part in enumerate(given.split(" | ")):
            if part.startswith("-p "):
                arguments += part.split()
            else:
                section, rate = part.split("=")
                arguments += ["--params-file", section_file(tmp_path / f"{number}.yaml", section, int(rate))]
        assert rate_in_rclpy(arguments) == int(expected), given


SECTIONS = """
/**/stepper_bridge:
  ros__parameters: {microscope: {z_min: -5.0e-6}}
/lab1/*:
  ros__parameters: {camera: {preview_rate: 7.0}}
camera:
  ros__parameters: {preview_rate: 3.0}
/lab2/**:
  ros__parameters: {classifier: {min_certainty: 0.9}}
"""


def test_a_limit_under_a_pattern_is_in_force_and_a_stray_section_is_told(graph, client, tmp_path):
    path = tmp_path / "sections.yaml"
    path.write_text(SECTIONS)
    rule = ("-p", "classifier:min_certainty:=0.9")
    graph.start("autofocus", namespace="lab1", file=path, extra=rule)
    (z_min,) = values(client, "lab1/stepper_bridge", "microscope.z_min")
    assert z_min.double_value == -5.0e-6
    (rate,) = values(client, "lab1/camera", "preview_rate")
    assert rate.double_value == 7.0
    (certainty,) = values(client, "lab1/classifier", "min_certainty")
    assert certainty.double_value == 0.5

    def warnings():
        return [line for line in graph.log("lab1autofocus").splitlines() if "matches no node" in line]

    client.spin_until(lambda: len(warnings()) == 3, 20, "a warning about each section that matches none")
    told = "\n".join(warnings())
    for words in ("'camera' in", "'/lab2/**' in", "'classifier' in -p classifier:min_certainty:=0.9"):
        assert f"the section {words}" in told, told
    assert sum(str(path) in line for line in warnings()) == 2


def test_a_rule_for_one_node_reaches_it(graph, client):
    graph.start("autofocus", extra=("-p", "stepper_bridge:microscope.z_min:=-4.0e-6"))
    assert values(client, "stepper_bridge", "microscope.z_min")[0].double_value == -4.0e-6


def test_a_duplicate_key_is_refused_with_both_lines(graph, tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("/**:\n  ros__parameters:\n    microscope:\n      z_min: -1.0e-6\n      z_min: -9.0e-6\n")
    process = graph.start("stepper_bridge_node", file=path)
    assert process.wait(20) == 1
    last = graph.log("stepper_bridge_node").strip().splitlines()[-1]
    for word in ("twice.yaml", "'microscope.z_min' is given twice", "in line 4 and in line 5"):
        assert word in last, last
