"""The example of the tripwire: both trainings are read, the second beside the first, from which it departs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_wrong_answers_depart_from_the_right_ones_at_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "tripwire_trl.py"), run_name="__main__")
    out = capsys.readouterr().out
    told = re.findall(r"(right|wrong): 40 of 40 steps; tripwire: 11 readings of 10 questions", out)
    assert told == ["right", "wrong"]
    shifts, differences = (re.findall(rf"'tripwire_{name}': '([-\d.e]+)'", out) for name in ("shift", "difference"))
    assert len(shifts) == len(differences) == 10 and float(differences[-1]) > 0
