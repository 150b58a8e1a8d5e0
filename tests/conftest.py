"""What scripts/setup brings is there, or no test runs: skipped tests would pass for passed ones."""

from importlib.util import find_spec

import pytest

BROUGHT = ["PIL", "mahotas", "numpy", "onnxruntime", "scipy", "skimage", "tifffile"]


def pytest_sessionstart():
    absent = [name for name in BROUGHT if find_spec(name) is None]
    if absent:
        pytest.exit(f"Python finds no {', '.join(absent)}: run scripts/setup, then source .ros/env.sh", returncode=1)
