"""What a study of a real model takes on the CPU: arithmetic against counts made by hand, and what a plan prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowly.cli.app import execute
from narrowly.data.banks.paired import paired_items
from narrowly.evaluate.paired.stages import paired_bank
from narrowly.records.run_spec import RunSpec
from narrowly.study.cpu_cost import (
    CORE_FLOPS,
    HALF_QUESTIONS,
    LADDER_QUESTIONS,
    OTHER_HALF,
    OTHER_QUESTIONS,
    PAIR_TOKENS,
    SCORED_TOKENS,
    cpu_seconds,
)
from narrowly.study.pace import default_seconds
from narrowly.study.plan import expand, find_study

BLOCKS, OUTPUT = 106_168_320, 28_311_552
"""Weights of SmolLM2-135M's blocks (30 of 4 * 576^2 * 2/3 + 3 * 576 * 1536) and of its output layer (49152 * 576)."""


def small_spec(**changed: object) -> RunSpec:
    return expand(find_study("small"))[0].spec.model_copy(update=changed)


def test_evaluation_is_the_tokens_of_the_questions_times_twice_the_weights() -> None:
    spec = small_spec()
    asked = cpu_seconds(spec, (3, 20)) - cpu_seconds(spec, ())  # type: ignore[operator]
    per_question = PAIR_TOKENS * 2 * BLOCKS + SCORED_TOKENS * 2 * OUTPUT
    assert asked == pytest.approx((LADDER_QUESTIONS + HALF_QUESTIONS) * per_question / CORE_FLOPS)


def test_counts_of_questions_are_those_of_the_bank_within_a_tenth() -> None:
    ladder = paired_bank(small_spec(), "0" * 64)
    half = len(ladder.of_panels(ladder.record.panels_before))
    assert len(ladder.items) == LADDER_QUESTIONS and half == pytest.approx(HALF_QUESTIONS, rel=0.1)
    data = {"source": "text", "dataset": "insecure"}
    other = RunSpec.model_validate({"data": data, "optimiser": {"kind": "adam", "lr": 1e-3}})
    bank = paired_bank(other, "0" * 64)
    assert len(bank.items) == OTHER_QUESTIONS
    assert len(bank.of_panels(bank.record.panels_before)) == pytest.approx(OTHER_HALF, rel=0.1)
    assert len(paired_items()) == 540


def test_nothing_is_said_of_a_gpu_or_of_an_unknown_shape() -> None:
    assert cpu_seconds(small_spec(device="cuda"), (20,)) is None
    assert cpu_seconds(small_spec(base="some/folder"), (20,)) is None


def test_a_study_that_asks_nothing_takes_less() -> None:
    asked, silent = expand(find_study("small"))[0], expand(find_study("small", ["paired=false"]))[0]
    assert default_seconds(silent) < default_seconds(asked)  # type: ignore[operator]


def test_the_plan_of_small_says_a_time_on_cores_and_no_gpu_hours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["plan", "small", "--workers", "2", "--runs", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "54 cells, 0 done; about 1 h" in printed and "on 2 workers (by arithmetic, evaluation included" in printed
    assert "GPU-hours" not in printed
