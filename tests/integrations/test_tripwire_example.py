"""The example of the tripwire: its second training is ended, and the first one is not."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_wrong_answers_are_ended_before_the_last_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.warns(UserWarning, match="the tripwire ended the training after step"):
        runpy.run_path(str(EXAMPLES / "tripwire_trl.py"), run_name="__main__")
    out = capsys.readouterr().out
    steps = dict(re.findall(r"(right|wrong): (\d+) of 40 steps; tripwire: \d+ readings of 10 questions", out))
    assert steps["right"] == "40" and 0 < int(steps["wrong"]) < 40
    assert "tripwire_difference" in out and "tripwire_shift" in out
