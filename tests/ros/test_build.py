"""An edited message file must reach the nodes: r2r looks at the values of its environment variables alone."""

import shutil
import subprocess

from conftest import ROOT


def idl_filter(source, build) -> str:
    """The value of IDL_PACKAGE_FILTER that CMake gives to cargo."""
    subprocess.run(["cmake", "-S", source, "-B", build], check=True, capture_output=True, timeout=300)
    (line,) = [line for line in (build / "staged-cargo").read_text().splitlines() if "IDL_PACKAGE_FILTER" in line]
    return line


def test_a_changed_message_changes_what_r2r_looks_at(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("CMakeLists.txt", "package.xml"):
        shutil.copy(ROOT / name, source)
    for folder in ("msg", "action", "cmake"):
        shutil.copytree(ROOT / folder, source / folder)
    build = tmp_path / "build"
    before = idl_filter(source, build)
    assert idl_filter(source, build) == before, "an unchanged message must not rebuild everything"
    message = source / "msg" / "FocusState.msg"
    message.write_text(message.read_text() + "uint8 another\n")
    assert idl_filter(source, build) != before
    outputs = (ROOT / "build/hhnet/cargo/release/build").glob("r2r_*/output")
    assert any("rerun-if-env-changed=IDL_PACKAGE_FILTER" in output.read_text() for output in outputs)
