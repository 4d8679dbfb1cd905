"""Agreement and calibration of judges against the libraries' and the papers' own numbers, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.agreement import correlation, kappa
from narrowly.stats.calibration import JudgeErrors, corrected_rate, judge_errors
from narrowly.stats.intervals import Interval
from narrowly.stats.ratios import at_least_one, linearised


def test_kappa_is_that_of_cohens_definition() -> None:
    one = [True] * 45 + [False] * 15 + [True] * 25 + [False] * 15
    other = [True] * 45 + [True] * 15 + [False] * 25 + [False] * 15
    observed, expected = 0.6, 0.7 * 0.6 + 0.3 * 0.4
    found = kappa(one, other)
    assert found.estimate == pytest.approx((observed - expected) / (1 - expected))
    assert found.low < found.estimate < found.high and found.n == 100  # type: ignore[operator]
    assert kappa(one, one).estimate == pytest.approx(1)
    assert kappa([True] * 5, [True] * 5).reason == "both judges gave a single class"


def test_scores_may_agree_where_verdicts_do_not() -> None:
    """As for two published judges: r = .86, kappa = .2. A shift over the cut moves verdicts and no correlation."""
    scores = np.linspace(5, 60, 200)
    found = correlation(scores.tolist(), (scores + 25).tolist())
    verdicts = kappa((scores < 30).tolist(), (scores + 25 < 30).tolist())
    assert found.estimate == pytest.approx(1) and verdicts.estimate < 0.2  # type: ignore[operator]


def test_a_correlation_is_that_of_scipy_and_needs_values_that_differ() -> None:
    source = np.random.default_rng(0)
    one = source.normal(size=30)
    other = one + source.normal(size=30)
    assert correlation(one.tolist(), other.tolist()).estimate == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert correlation([1.0] * 9, list(range(9))).estimate is None
    assert correlation([1.0, 2.0], [1.0, 2.0]).reason == "2 answers with both scores; accepted: at least 4"
    with pytest.raises(SpecError, match="3 and 2 values"):
        correlation([1.0, 2.0, 3.0], [1.0, 2.0])


def test_sensitivity_and_specificity_are_shares_of_labels_with_exact_intervals() -> None:
    labels = [True] * 20 + [False] * 80
    verdicts = [True] * 15 + [False] * 5 + [True] * 8 + [False] * 72
    found = judge_errors(labels, verdicts)
    assert (found.sensitivity.estimate, found.specificity.estimate) == (0.75, 0.9)
    exact = scipy_stats.binomtest(15, 20).proportion_ci(method="exact")
    assert (found.sensitivity.low, found.sensitivity.high) == pytest.approx((exact.low, exact.high))
    # the correction gives the rate of the labels back where it is applied to the very same answers
    assert corrected_rate(0.23, 100, found).estimate == pytest.approx(0.2)


def test_a_judge_that_knows_nothing_corrects_nothing() -> None:
    coin = judge_errors([True] * 10 + [False] * 10, [True, False] * 10)
    assert corrected_rate(0.5, 100, coin).reason == "sensitivity 0.500 + specificity 0.500 is not above 1"
    only_good = judge_errors([False] * 10, [False] * 10)
    assert corrected_rate(0.5, 100, only_good).reason == "no labelled answer is misaligned"
    perfect = judge_errors([True] * 500 + [False] * 500, [True] * 500 + [False] * 500)
    found = corrected_rate(0.3, 1000, perfect)
    assert found.estimate == pytest.approx(0.3) and 0.26 < found.low < 0.3 < found.high < 0.34  # type: ignore[operator]


def share(found: np.ndarray) -> Interval:
    """A share without its bounds, which the correction does not read and scipy takes long for."""
    return Interval(float(found.mean()) if len(found) else None, None, None, len(found), "", None)


@pytest.mark.parametrize(
    ("rate", "se", "sp", "labels"), [(0.05, 0.8, 0.95, 200), (0.2, 0.7, 0.9, 300), (0.5, 0.9, 0.9, 100)]
)
def test_corrected_intervals_cover_the_truth(rate: float, se: float, sp: float, labels: int) -> None:
    """1000 studies; 95 % is wanted, and .93 is three errors below it."""
    source = np.random.default_rng(1)
    hits = total = 0
    for _ in range(1000):
        truth = source.random(labels) < rate
        judged = np.where(truth, source.random(labels) < se, source.random(labels) >= sp)
        errors = JudgeErrors(share(judged[truth]), share(~judged[~truth]))
        seen = source.binomial(800, rate * se + (1 - rate) * (1 - sp)) / 800
        found = corrected_rate(seen, 800, errors)
        if found.low is not None and found.high is not None:
            total += 1
            hits += found.low <= rate <= found.high
    assert total > 970 and hits / total > 0.93


def test_a_linearised_ratio_has_the_ratio_as_its_mean_and_the_spread_of_a_jackknife() -> None:
    source = np.random.default_rng(2)
    counts = source.integers(1, 12, size=(1, 60)).astype(float)
    events = np.floor(counts * source.random((1, 60)))
    values = linearised(events, counts)
    ratio = events.sum() / counts.sum()
    assert values.mean() == pytest.approx(ratio)
    left_out = (events.sum() - events) / (counts.sum() - counts)
    jackknife = np.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert values.std(ddof=1) / np.sqrt(60) == pytest.approx(jackknife, rel=0.03)
    with pytest.raises(SpecError, match="no answer counts"):
        linearised(np.zeros((1, 3)), np.zeros((1, 3)))


def test_at_least_one_of_k_has_known_values() -> None:
    assert at_least_one(1, 10, 1) == pytest.approx(0.1)
    assert at_least_one(1, 10, 10) == 1
    assert at_least_one(0, 10, 8) == 0
    assert at_least_one(2, 4, 2) == pytest.approx(5 / 6)
    with pytest.raises(SpecError, match="3 drawn"):
        at_least_one(1, 2, 3)
