"""What the intervals and verdicts promise, by simulation: a few cases always, all of them in the slow test.

A share near .05 or .95 of n simulations has a standard error of sqrt(.0475 / n); limits are four of them, or the two
points that are promised with 4,000 simulations.
"""

import importlib.util
import json
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def experiment():
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", EXPERIMENTS / "coverage_of_intervals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = experiment()
PROMISED = [case for case in script.CASES if case.promised]


def check(row, slack):
    assert abs(row["primary"] - 0.95) < slack
    assert script.wrong_at_zero(row) < 0.05 + slack
    assert script.wrong_at_margin(row) < 0.05 + slack
    true = (row["icc_seed"], row["icc_question"], 1 - row["icc_seed"] - row["icc_question"])
    for found, error, expected in zip(row["components"], row["components_error"], true, strict=True):
        # Components cannot be below 0, which lifts the smallest a little: .003 at 8 seeds and 40 questions.
        assert abs(found - expected) < 4 * error + 0.004


@pytest.mark.parametrize(
    "case", [script.Case(8, 80, 0.05, 0.2, "full", True), script.Case(8, 40, 0.2, 0.05, "graded", True)]
)
def test_the_primary_interval_and_the_verdicts_keep_their_rates(case):
    check(script.measure(case, 1000, with_bootstrap=False), slack=4 * (0.0475 / 1000) ** 0.5)


def test_the_nested_bootstrap_covers_less_than_the_crossed_one():
    """Paired by simulation, so that few of them tell the two apart."""
    row = script.measure(script.Case(8, 24, 0.01, 0.2, "full", False), 400)
    assert row["nested"] < row["crossed"] - 0.05


def test_the_committed_results_are_of_these_cases_and_keep_the_promise():
    record = json.loads((EXPERIMENTS / "results" / "coverage.json").read_text(encoding="utf-8"))
    assert record["simulations"] == 4000
    assert [[row[name] for name in script.Case._fields] for row in record["cases"]] == [
        list(case) for case in script.CASES
    ]
    for row in record["cases"]:
        if row["promised"]:
            check(row, slack=0.02)
            assert row["nested"] < row["crossed"]
    page = (EXPERIMENTS.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert "\n".join(script.summary(record["cases"])) in page


@pytest.mark.slow
@pytest.mark.parametrize("case", PROMISED, ids=str)
def test_every_case_keeps_its_promise_in_4000_simulations(case):
    check(script.measure(case, 4000, with_bootstrap=False), slack=0.02)
