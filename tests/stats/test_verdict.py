"""Two one-sided tests, the four verdicts, adjusted p values and exact bounds of counts."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from narrowly.records.errors import SpecError
from narrowly.stats.counts import exact_interval, zero_events_bound
from narrowly.stats.multiplicity import benjamini_hochberg
from narrowly.stats.random_effects import crossed_mean
from narrowly.stats.verdict import Word, judge, judge_mean, tost


def test_the_equivalence_test_is_that_of_statsmodels():
    values = np.random.default_rng(0).normal(0.1, 1, 25)
    found = tost(values.mean(), values.std(ddof=1) / 5, 24, 0.5)
    assert found == pytest.approx(DescrStatsW(values).ttost_mean(-0.5, 0.5)[0])


# With 1e6 degrees of freedom the half widths are 1.96 and 1.645 standard errors.
@pytest.mark.parametrize(
    ("estimate", "error", "word"),
    [
        (3.0, 1.0, Word.EFFECT),  # 1.04 to 4.96
        (-3.0, 1.0, Word.EFFECT),
        (1.5, 0.3, Word.EFFECT),  # 0.91 to 2.09: reaches over the margin of 2
        (1.5, 0.1, Word.TRIVIAL),  # 1.30 to 1.70
        (-0.5, 0.1, Word.TRIVIAL),
        (0.5, 0.5, Word.EQUIVALENT),  # -0.48 to 1.48
        (0.0, 1.1, Word.EQUIVALENT),  # 95 %: -2.16 to 2.16, 90 %: -1.81 to 1.81
        (0.0, 1.3, Word.INDETERMINATE),  # 90 %: -2.14 to 2.14
        (1.8, 1.0, Word.INDETERMINATE),  # -0.16 to 3.76
    ],
)
def test_each_verdict_by_the_place_of_the_interval_with_margin_2(estimate, error, word):
    found = judge(estimate, error, 1e6, 2.0)
    assert found.word is word
    assert found.interval == pytest.approx((estimate - 1.95997 * error, estimate + 1.95997 * error), abs=1e-4)
    assert found.inner == pytest.approx((estimate - 1.64486 * error, estimate + 1.64486 * error), abs=1e-4)


def test_p_values_and_intervals_of_a_verdict_agree():
    for estimate in np.linspace(-4, 4, 41):
        found = judge(float(estimate), 1.0, 7.3, 2.5)
        assert (found.p_effect < 0.05) == (found.interval[0] > 0 or found.interval[1] < 0)
        assert (found.p_equivalence < 0.05) == (found.inner[0] > -2.5 and found.inner[1] < 2.5)


def test_a_verdict_of_a_table_uses_its_error_and_below_five_seeds_there_is_none():
    values = np.random.default_rng(1).normal(1.0, 0.5, (6, 12))
    found = crossed_mean(values)
    verdict = judge_mean(found, 0.3)
    assert verdict.word is Word.EFFECT
    assert verdict.interval == pytest.approx((found.interval.low, found.interval.high))
    few = judge_mean(crossed_mean(values[:4]), 0.3)
    assert (few.word, few.interval) == (Word.INDETERMINATE, None)
    assert "4 seeds" in few.reason
    constant = judge_mean(crossed_mean(np.zeros((6, 12))), 0.3)
    assert constant.word is Word.INDETERMINATE and "exact bound" in constant.reason


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_no_margin_is_refused(margin):
    with pytest.raises(SpecError, match="margin"):
        judge(0.0, 1.0, 5.0, margin)
    with pytest.raises(SpecError, match="margin"):
        judge_mean(crossed_mean(np.zeros((2, 2))), margin)


def test_adjusted_p_values_are_those_of_statsmodels_and_tests_not_made_do_not_count():
    family = {"a": 0.01, "b": 0.04, "not made": None, "c": 0.03, "d": 0.5}
    found = benjamini_hochberg(family)
    made = [value for value in family.values() if value is not None]
    assert list(found) == list(family) and found["not made"] is None
    adjusted = [value for value in found.values() if value is not None]
    assert adjusted == pytest.approx(multipletests(made, method="fdr_bh")[1])
    assert benjamini_hochberg({}) == {}
    with pytest.raises(SpecError, match="'a'"):
        benjamini_hochberg({"a": 1.5})


def test_the_exact_interval_is_that_of_statsmodels_and_covers_at_least_what_it_says():
    for events in (0, 1, 7, 20):
        found = exact_interval(events, 20)
        expected = proportion_confint(events, 20, method="beta")
        assert (found.low, found.high) == pytest.approx(np.nan_to_num(expected, nan=0.0), abs=1e-9)
    bounds = [exact_interval(events, 20) for events in range(21)]
    for rate in np.linspace(0.01, 0.99, 50):
        inside = [bound.low <= rate <= bound.high for bound in bounds]
        assert scipy_stats.binom.pmf(np.arange(21), 20, rate) @ inside >= 0.95


def test_no_event_among_400_answers_leaves_0_75_percent_and_less_knowledge_if_answers_are_clustered():
    found = zero_events_bound(400)
    assert (1 - found.upper) ** 400 == pytest.approx(0.05)
    assert found.rule_of_three == 0.0075
    assert found.upper == pytest.approx(0.0075, rel=0.01)
    clustered = zero_events_bound(400, design_effect=4.0)
    assert (clustered.effective_n, clustered.upper) == (100, pytest.approx(zero_events_bound(100).upper))


@pytest.mark.parametrize(("events", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_impossible_counts_are_refused(events, n):
    with pytest.raises(SpecError, match="events"):
        exact_interval(events, n)


@pytest.mark.parametrize(("n", "effect"), [(0, 1.0), (5, 0.5), (5, float("nan"))])
def test_a_bound_from_no_answer_or_an_impossible_design_effect_is_refused(n, effect):
    with pytest.raises(SpecError, match="at least 1"):
        zero_events_bound(n, design_effect=effect)


def test_the_example_of_the_page_on_statistics_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert "EFFECT" in capsys.readouterr().out
