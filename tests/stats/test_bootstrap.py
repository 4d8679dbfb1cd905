"""The crossed bootstrap: independent resamples of seeds and questions, the same for every arm."""

import json
from pathlib import Path

import numpy as np
import pytest

from narrowly.records.errors import SpecError
from narrowly.stats.bootstrap import MEASURED_COVERAGE, crossed_bootstrap, difference

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "coverage.json"


def arm(seed, seeds=6, questions=9):
    return np.random.default_rng(seed).standard_normal((seeds, questions))


def test_the_interval_is_that_of_tables_rebuilt_row_by_row_and_column_by_column():
    values = arm(0)
    values[1, 3] = values[4, 4] = np.nan
    generator = np.random.default_rng(7)
    rows = generator.multinomial(6, np.full(6, 1 / 6), size=500)
    columns = generator.multinomial(9, np.full(9, 1 / 9), size=500)
    means = [
        np.nanmean(values[np.repeat(np.arange(6), row)][:, np.repeat(np.arange(9), column)])
        for row, column in zip(rows, columns, strict=True)
    ]
    found = crossed_bootstrap([values], draws=500, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert found.estimate == pytest.approx(np.nanmean(values))


def test_both_arms_see_the_same_draws():
    """Arms that differ by a constant differ by it in every draw; other draws for each arm would spread it."""
    values = arm(1)
    found = crossed_bootstrap([values + 0.25, values], difference, draws=200)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def test_a_ratio_of_means_is_combined_in_every_draw():
    misaligned, aligned = np.exp(arm(2)), np.exp(arm(3))

    def log_odds(means):
        return np.log(means[0] / means[1])

    found = crossed_bootstrap([misaligned, aligned], log_odds, draws=300)
    assert found.estimate == pytest.approx(np.log(misaligned.mean() / aligned.mean()))
    assert found.low < found.estimate < found.high


def test_draws_without_a_finite_value_leave_no_interval_and_say_so():
    aligned = np.zeros((5, 4))
    aligned[0] = 1.0
    found = crossed_bootstrap([np.ones((5, 4)), aligned], lambda means: means[0] / means[1], draws=200)
    assert found.low is None and "of 200 draws" in found.reason


def test_below_five_seeds_only_the_estimate_is_given():
    found = crossed_bootstrap([arm(4, seeds=4)])
    assert found.low is None and "4 seeds" in found.reason


@pytest.mark.parametrize(
    ("arms", "draws", "words"),
    [
        ([arm(0), arm(0, seeds=5)], 200, "shapes"),
        ([], 200, "shapes"),
        ([np.full((5, 3), np.nan)], 200, "no value"),
        ([arm(0)], 10, "draws"),
    ],
)
def test_arms_that_cannot_be_resampled_are_refused(arms, draws, words):
    with pytest.raises(SpecError, match=words):
        crossed_bootstrap(arms, draws=draws)


def test_the_coverage_that_is_printed_is_the_smallest_that_was_measured():
    cases = json.loads(RESULTS.read_text(encoding="utf-8"))["cases"]
    for seeds, printed in MEASURED_COVERAGE.items():
        assert printed == min(case["crossed"] for case in cases if case["seeds"] == seeds)
    assert (
        f"of 8 seeds it covered at least {MEASURED_COVERAGE[8]:.3f}"
        in crossed_bootstrap([arm(5, seeds=9)], draws=100).method
    )
    assert "covered" not in crossed_bootstrap([arm(5)], draws=100, level=0.9).method
