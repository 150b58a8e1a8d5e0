"""The views for rviz, rqt and Foxglove ask for nothing that the graph does not offer, in the type they can show."""

import ast
import json
import xml.etree.ElementTree as xml

import pytest
import yaml
from conftest import ROOT

IMAGE = "sensor_msgs/msg/CompressedImage"
# Of the scan: what the node that will offer them publishes. Of robot_state_publisher: what it makes of urdf/hhnet.urdf.
OFFERED_ELSEWHERE = {
    "/scan/path": "nav_msgs/msg/Path",
    "/scan/tiles": "visualization_msgs/msg/MarkerArray",
    "/scan/focus_surface": "sensor_msgs/msg/PointCloud2",
    "/robot_description": "std_msgs/msg/String",
}
RVIZ = {
    "Image": IMAGE,
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "Path": "nav_msgs/msg/Path",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "RobotModel": "std_msgs/msg/String",
}


def links() -> set[str]:
    return {link.get("name") for link in xml.parse(ROOT / "urdf" / "hhnet.urdf").getroot().findall("link")}


def of_rviz() -> list[tuple[str, str | None]]:
    """Topics, each with its type."""
    view = yaml.safe_load((ROOT / "config" / "hhnet.rviz").read_text())["Visualization Manager"]
    assert view["Global Options"]["Fixed Frame"] in links()
    asked = []
    for display in view["Displays"]:
        kind = display["Class"].removeprefix("rviz_default_plugins/")
        topic = display.get("Topic") or display.get("Description Topic")
        if topic:
            asked.append(("/" + topic["Value"], RVIZ[kind]))
    assert {kind for _, kind in asked} == set(RVIZ.values())
    return asked


def of_rqt() -> list[tuple[str, str | None]]:
    """Topics of pictures with their type, and of plots with their field."""
    manager = json.loads((ROOT / "config" / "hhnet.perspective").read_text())["groups"]["pluginmanager"]
    running = ast.literal_eval(manager["keys"]["running-plugins"]["repr"])
    names = {plugin.partition("/")[0] for plugin in running}
    assert names == {"rqt_image_view", "rqt_plot", "rqt_runtime_monitor", "rqt_reconfigure", "rqt_console"}
    opened = {f"plugin__{name.replace('/', '__')}__{number}" for name, numbers in running.items() for number in numbers}
    assert opened == set(manager["groups"])
    asked = []
    for group in manager["groups"].values():
        keys = group["groups"].get("plugin", {}).get("keys", {})
        values = {name: ast.literal_eval(value["repr"]) for name, value in keys.items()}
        if "topic" in values:
            # The transport stands behind a space.
            asked.append((values["topic"].replace(" ", "/"), IMAGE))
        asked += [(topic, None) for topic in values.get("topics", [])]
    return asked


def of_foxglove() -> list[tuple[str, str | None]]:
    """Topics of pictures and of the scene with their type, and paths of plots."""
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    assert leaves(layout["layout"]) == set(panels), "every panel has its place"
    asked = []
    for panel in panels.values():
        if "imageMode" in panel:
            asked.append((panel["imageMode"]["imageTopic"], IMAGE))
        asked += [(topic, OFFERED_ELSEWHERE[topic]) for topic in panel.get("topics", {})]
        asked += [(layer["topic"], "std_msgs/msg/String") for layer in panel.get("layers", {}).values()]
        asked += [(path["value"].replace(".", "/"), None) for path in panel.get("paths", [])]
        if "topicToRender" in panel:
            kind = {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray", "/rosout": "rcl_interfaces/msg/Log"}
            asked.append((panel["topicToRender"], kind[panel["topicToRender"]]))
    return asked


def leaves(tree) -> set[str]:
    return {tree} if isinstance(tree, str) else leaves(tree["first"]) | leaves(tree["second"])


def services() -> set[str]:
    panels = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())["configById"]
    return {panel["serviceName"] for panel in panels.values() if "serviceName" in panel}


def field_type(message: str, field: str) -> str:
    """The type of a field of a message, for example of hhnet/msg/FocusEstimate."""
    package, _, name = message.split("/")
    kind = getattr(__import__(f"{package}.msg", fromlist=[name]), name)
    return kind.get_fields_and_field_types()[field]


@pytest.mark.parametrize("view", [of_rviz, of_rqt, of_foxglove])
def test_views_ask_for_what_there_is(graph, client, view):
    graph.start("autofocus")
    client.spin_until(client.is_up, 40, "the stage")
    asked = view()
    assert len(asked) >= 4

    def topics():
        return {name: kinds[0] for name, kinds in client.get_topic_names_and_types()} | OFFERED_ELSEWHERE

    wanted = {topic if kind is not None else topic.rpartition("/")[0] for topic, kind in asked}
    client.spin_until(lambda: wanted <= topics().keys(), 20, f"all of {wanted}")
    offered = topics()
    for topic, kind in asked:
        if kind is not None:
            assert offered.get(topic) == kind, topic
            continue
        # A plot: the last part is a field, and a number.
        topic, _, field = topic.rpartition("/")
        assert field_type(offered[topic], field) in ("double", "float", "int8", "uint8"), f"{topic} {field}"
    names = services()
    client.spin_until(lambda: names <= {name for name, _ in client.get_service_names_and_types()}, 20, f"all of {names}")


def test_the_model_of_the_stage_has_what_the_graph_names(graph, client):
    root = xml.parse(ROOT / "urdf" / "hhnet.urdf").getroot()
    joints = {joint.get("name"): joint for joint in root.findall("joint")}
    moving = {name for name, joint in joints.items() if joint.get("type") == "prismatic"}
    assert moving == {"x", "y", "z"}
    for joint in joints.values():
        assert {joint.find("parent").get("link"), joint.find("child").get("link")} <= links()
    for link in ("microscope_base", "x", "y", "z", "objective"):
        assert root.find(f"link[@name='{link}']/visual/geometry") is not None, f"{link} has no shape"
    assert {"camera_optical_frame", "z"} <= links()
