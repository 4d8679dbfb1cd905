"""What a matched comparison promises, by simulation: a fast form always, the full one from its committed results.

A share near .95 or .05 of n simulations has a standard error of sqrt(.0475 / n); the fast form allows four of them.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from narrowly.analysis.matching.compare import match_ladder
from shared.ladders import bases, ladder

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
FAST = 300
SLACK = 4 * (0.0475 / FAST) ** 0.5


def experiment() -> Any:
    spec = importlib.util.spec_from_file_location("matching_by_simulation", EXPERIMENTS / "matching_by_simulation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = experiment()
RECORD = json.loads((EXPERIMENTS / "results" / "matching.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("count", script.PROMISED)
def test_the_interval_covers_a_planted_difference_between_arms_of_other_ranges(count: int) -> None:
    row = script.coverage(count, 0.7, FAST)
    assert abs(row["covered"] - 0.95) < SLACK
    assert row["found"] == pytest.approx(0.7, abs=4 * script.SD_OF_BASES / (count * FAST) ** 0.5 + 0.01)
    assert row["raw"] < -1.5  # plain means have the sign of the ranges


@pytest.mark.parametrize("count", script.PROMISED)
def test_a_difference_as_large_as_the_margin_is_rarely_called_inside_it(count: int) -> None:
    assert script.coverage(count, script.MARGIN, FAST)["inside"] < 0.05 + SLACK


@pytest.mark.parametrize("reliability", [0.9, 0.95])
def test_split_halves_find_the_reliability_and_what_noise_does_to_a_difference(reliability: float) -> None:
    row = script.noisy(reliability, 30)
    assert row["found"] == pytest.approx(reliability, abs=0.01)
    assert row["bias"] < -0.05
    assert row["told"] == pytest.approx(row["bias"], abs=4 * row["error"] + 0.05)


def test_ranges_that_do_not_meet_are_never_compared() -> None:
    random = script.np.random.default_rng(2)
    for _ in range(10):
        top, bottom = -1.5 + 0.4 * random.random(), -0.9 + 0.4 * random.random()
        first, second = ladder("a", bases(8), (-4, top), script.line), ladder("b", bases(8), (bottom, 3), script.line)
        found = match_ladder(first, second).primary
        assert (found.verdict, found.compared) == ("not tested", 0)
        assert str(found.reason).startswith("not comparable")


def test_the_committed_results_keep_what_is_promised() -> None:
    assert RECORD["simulations"] == 2000
    page = (EXPERIMENTS.parent / "docs" / "matching.md").read_text(encoding="utf-8")
    assert "\n".join(script.table(RECORD["cases"])) in page
    assert [row["bases"] for row in RECORD["cases"]] == [count for count in script.BASES for _ in range(3)]
    for row in RECORD["cases"]:
        assert row["found"] == pytest.approx(row["difference"], abs=0.03)
        if row["bases"] in script.PROMISED:
            assert abs(row["covered"] - 0.95) < 0.02
            if row["difference"] == script.MARGIN:
                assert row["inside"] < 0.05
            if row["difference"] == 0:
                assert row["not_zero"] < 0.07
    for row in RECORD["noise"]:
        assert row["found"] == pytest.approx(row["planted"], abs=0.01)
        if row["told"] is not None:
            assert row["told"] == pytest.approx(row["bias"], abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("count", script.PROMISED)
@pytest.mark.parametrize("difference", [0.0, script.MARGIN, 0.7])
def test_every_case_keeps_its_promise_in_4000_simulations(count: int, difference: float) -> None:
    row = script.coverage(count, difference, 4000)
    assert abs(row["covered"] - 0.95) < 0.02
    assert difference != script.MARGIN or row["inside"] < 0.05 + 0.014
