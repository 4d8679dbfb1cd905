"""`narrowly plan-eval`: what it prints, its JSON, and errors in one line."""

from __future__ import annotations

import json

import pytest

from narrowly.cli.app import execute
from narrowly.stats.power import Design, Variation, detectable


def test_a_plan_states_its_assumptions_with_sources_and_names_a_design(capsys):
    assert execute(["plan-eval", "--detect", "0.05"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "difference of 0.05", "rates near 0.05", "power 0.8", "alpha 0.05", "0.049, 0.211: median and largest",
        "seeds 0.01", "assumed, none is published", "Fewest runs", "Below five seeds",
    ):  # fmt: skip
        assert words in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_the_json_of_a_plan_holds_a_design_that_detects_the_effect(capsys):
    assert execute(["plan-eval", "--detect", "2", "--sd", "8", "--icc-question", "0.1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rate"] is None and plan["samples"] == [1]
    assert plan["sources"]["icc_question"] == "yours"
    ((icc, smallest),) = plan["smallest"]
    assert detectable(Design(**smallest), Variation(8.0, plan["icc_seed"], icc)) <= 2


def test_where_no_design_suffices_the_plan_says_so(capsys):
    assert execute(["plan-eval", "--detect", "0.001", "--icc-question", "0.2"]) == 0
    assert "ICC 0.2: 200 seeds with 400 questions do not suffice." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--detect", "0"], "effect to detect is 0.0"),
        (["--detect", "-0.02"], "effect to detect is -0.02"),
        (["--detect", "0.97"], "rates of the two arms are 0.05 and 1.02"),
        (["--detect", "0.02", "--sd", "2", "--rate", "0.1"], "--sd is for exact values"),
        (["--detect", "0.02", "--icc-seed", "2"], "sum at most 1"),
        (["--detect", "0.02", "--power", "1"], "alpha 0.05 and power 1.0"),
        ([], "'--detect'"),
    ],
)
def test_impossible_plans_are_one_line_and_exit_code_2(arguments, words, capsys):
    assert execute(["plan-eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
