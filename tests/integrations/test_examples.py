"""Every example runs, learns, and shows the penalty."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
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

TESTED_ELSEWHERE = {"tiny", "pretrain_small_base", "tripwire_trl"}
"""What the examples share, the base of tests/train/test_text_commands.py, and that of test_tripwire_example.py."""


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
    if name != "plain_pytorch":  # which shows what the penalty acts on, in the test below
        assert re.search(r"penalty\W+0\.\d", out), out
    losses = [float(found) for found in re.findall(r"\bloss\W+(\d+\.\d+)", out)]
    assert losses[-1] < losses[0]


def test_the_plain_loop_shows_a_flatter_spectrum_with_the_penalty_than_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    train = runpy.run_path(str(EXAMPLES / "plain_pytorch.py"), run_name="script")["train"]
    for (step, _, ratio), (step_without, _, ratio_without) in zip(train(0.1), train(0.0), strict=True):
        assert step == step_without
        assert ratio < ratio_without


@pytest.mark.parametrize("name", ["trl_sft", "lightning_module", "llama_factory"])
def test_an_example_whose_package_is_missing_says_so_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setitem(sys.modules, HOSTS[name], None)  # as where it is not installed
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="script")
    assert re.fullmatch(rf"\S+ is not installed; add it with: pip install {HOSTS[name]}", str(stopped.value))
