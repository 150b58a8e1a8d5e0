"""`make demo` from outside: one run with its result and its pictures, bad settings, and the verdict by itself."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from hhnet.msg import FocusState
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))

from demo import HOLD_S, LAG_S, Record, Settings, Verdict, judge, live_line  # noqa: E402

NEEDED = {"focused", "confirmed", "start_offset_um", "final_error_um", "time_to_focus_s", "frames", "decision_ms_p50"}


def run_demo(folder, limit_s: float, **settings) -> tuple[subprocess.CompletedProcess, dict]:
    """The finished demo and the object on its last line."""
    environment = {key: value for key, value in os.environ.items() if key not in ("SEED", "OFFSET_UM", "OBJECTIVE")}
    environment |= {"DEMO_OUT": str(folder)} | settings
    command = [sys.executable, ROOT / "scripts" / "demo.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done, json.loads(done.stdout.splitlines()[-1])


def test_one_run_leaves_a_result_and_pictures(tmp_path):
    stale = tmp_path / "focused.png"
    stale.write_bytes(b"of an earlier run")
    done, result = run_demo(tmp_path, 150, SEED="11", OFFSET_UM="-20")
    assert done.returncode == 0 and result["focused"] is True, done.stderr
    assert NEEDED <= result.keys() and (result["seed"], result["start_offset_um"]) == (11, -20.0)
    assert abs(result["final_error_um"]) <= 1.0 and 0.0 < result["time_to_focus_s"] < 60.0
    assert result["frames"] > 0 and 0.0 < result["decision_ms_p50"] < 10_000.0
    assert result["z_min_um"] == pytest.approx(-100.0) and -25.0 < result["z_min_reached_um"] < 0.0
    for name in ("response_curve.png", "focused.png"):
        assert min(Image.open(tmp_path / name).size) > 400
        assert str(tmp_path / name) in done.stderr


@pytest.mark.parametrize(
    "settings, word",
    [({"SEED": "abc"}, "SEED"), ({"SEED": "-1"}, "SEED"), ({"OFFSET_UM": "abc"}, "OFFSET_UM"), ({"OFFSET_UM": "nan"}, "OFFSET_UM"),
     ({"OFFSET_UM": "61"}, "±60"), ({"OBJECTIVE": "41x"}, "40x0.65")],
)  # fmt: skip
def test_bad_settings_end_in_a_sentence_and_a_result(tmp_path, settings, word):
    picture = tmp_path / "response_curve.png"
    picture.write_bytes(b"of an earlier run")
    done, result = run_demo(tmp_path, 60, **settings)
    assert done.returncode == 1 and result["focused"] is False and NEEDED <= result.keys()
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ") and word in sentence
    assert not picture.exists()


def record(states: list, until: float, z_um: float = 0.0, confirmed: bool = True) -> Record:
    """What is heard of a stage that stands in focus while the controller says `states`."""
    truth = [(0.01 * tick, z_um, 0.1) for tick in range(round(100 * until) + 1)]
    return Record(truth=truth, states=states, estimates=[(1.0, 0, 0.9, True, 0.03)], z_min_um=-100.0, confirmed=confirmed)


def test_focus_counts_once_it_was_held():
    held, left = [(10.0, FocusState.IN_FOCUS, "")], [(10.0, FocusState.IN_FOCUS, ""), (10.3, FocusState.MOVING, "")]
    enough = 10.0 + HOLD_S + LAG_S + 0.1
    assert record(held, 10.4).in_focus_since() is None
    assert record(held, enough).in_focus_since() == 10.0
    assert record(left, enough).in_focus_since() is None
    again = [*left, (10.4, FocusState.IN_FOCUS, "")]
    assert record(again, enough).in_focus_since() is None
    assert record(again, enough + 0.5).in_focus_since() == 10.4


def test_the_live_line_says_the_state_of_the_moment_that_it_shows(capsys):
    late = record([(10.0, FocusState.MOVING, ""), (10.9, FocusState.IN_FOCUS, "")], 10.5, 30.0)
    live_line(late, 9.0)()
    assert "moving" in capsys.readouterr().err and late.state_at(11.0) == FocusState.IN_FOCUS
    assert late.state_at(9.5) == FocusState.DISABLED


def test_the_verdict_weighs_error_lower_limit_and_confirmation():
    settings = Settings(seed=1, offset_um=5.0, objective="40x0.65")

    def focused(verdict, z_um=0.0) -> bool:
        return judge(settings, record([], 11.0, z_um), verdict, 0.0, 0.0)["focused"]

    assert focused(Verdict(10.0, -0.99)) and not focused(Verdict(10.0, 1.01)) and not focused(None)
    assert focused(Verdict(10.0, 0.0), z_um=-99.9) and not focused(Verdict(10.0, 0.0), z_um=-100.1)
    unconfirmed = judge(settings, record([], 11.0, confirmed=False), Verdict(10.0, 0.0), 0.0, 0.0)
    assert not unconfirmed["focused"] and not unconfirmed["confirmed"]
    assert Settings(1, 5.0, "20x0.40").tolerance_um == pytest.approx(0.5 * 3.9)
