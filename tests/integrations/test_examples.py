"""Every example runs, learns, and shows the penalty."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTS = {
    "plain_pytorch": "torch",
    "transformers_trainer": "transformers",
    "trl_sft": "trl",
    "lightning_module": "lightning",
    "llama_factory": "llamafactory",
}
"""Each example and the package it needs; axolotl.yaml is run by test_axolotl_plugin.py."""

TESTED_ELSEWHERE = {"tiny", "pretrain_small_base"}
"""What the examples share, and the base of tests/train/test_text_commands.py."""


def test_every_script_is_listed() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*HOSTS, *TESTED_ELSEWHERE}


@pytest.mark.parametrize("name", HOSTS)
def test_an_example_runs_and_shows_the_penalty(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(HOSTS[name]) is None:
        pytest.skip(f"{HOSTS[name]} is not installed")
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    # LLaMA-Factory 0.9.5 compares versions with its own list when it is imported
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"penalty\W+0\.\d", out), out
    losses = [float(found) for found in re.findall(r"\bloss\W+(\d+\.\d+)", out)]
    assert name == "lightning_module" or losses[-1] < losses[0]
