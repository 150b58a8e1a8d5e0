"""The scripts' own judgement: what a missing network looks like, and what an interrupted installation left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "line, without",
    [
        # As the tools put it where there is no network.
        ("  [6] Could not resolve hostname (Could not resolve host: index.crates.io)", True),
        ("  [7] Could not connect to server (Failed to connect to 127.0.0.1 port 9 after 0 ms)", True),
        ("E: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'", True),
        ("NameResolutionError(\"Failed to resolve 'pypi.org'\")", True),
        ("error[E0433]: failed to resolve: use of undeclared type `Frame`", False),
        ("E: Unable to locate package libclang-dev", False),
        ("CMake Error: Could not find a package configuration file", False),
    ],
)
def test_a_missing_network_is_told_from_other_trouble(tmp_path, line, without):
    log = tmp_path / "log"
    log.write_text(f"some progress\n{line}\n")
    done = subprocess.run(["bash", "-c", 'source "$1" && without_network "$2"', "-", ROOT / "scripts" / "shell.bash", log])
    assert (done.returncode == 0) is without


def package(folder: Path, name: str, record: str | None) -> Path:
    """An installed package, with the RECORD it may have."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (folder / f"{name}.py").write_text("")
    for file in ("METADATA", "INSTALLER"):
        (info / file).write_text("")
    if record is not None:
        (info / "RECORD").write_text(record.format(info=info.name))
    return info


def test_what_pip_did_not_finish_is_forgotten(tmp_path):
    whole = package(tmp_path, "whole", "whole.py,,0\n{info}/METADATA,,0\n{info}/INSTALLER,,4\n{info}/RECORD,,\n")
    # As the wheel brought it: pip writes the final one, which names the installer, last.
    unfinished = package(tmp_path, "unfinished", "unfinished.py,,0\n{info}/METADATA,,0\n{info}/RECORD,,\n")
    bare = package(tmp_path, "bare", None)
    gone = package(tmp_path, "gone", "gone.py,,0\n{info}/INSTALLER,,4\n")
    (tmp_path / "gone.py").unlink()
    subprocess.run([sys.executable, ROOT / "scripts" / "half_installed.py", tmp_path], check=True, timeout=30)
    assert [info.exists() for info in (whole, unfinished, bare, gone)] == [True, False, False, False]


def test_this_environment_is_whole():
    """What pip really writes passes the same judgement."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from half_installed import is_whole

    packages = list(Path(pytest.__file__).parents[1].glob("*.dist-info"))
    assert packages and all(is_whole(package) for package in packages)
