"""The interval of an area under the ROC curve against its definition and a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from narrowly.records.errors import SpecError
from narrowly.stats.ranking import auc, auc_interval


def test_its_limits_are_areas_as_far_from_the_one_found_as_their_own_error_allows() -> None:
    scores, positive = [3.0, 2.0, 1.0, 2.5, 0.5, 0.0, -1.0], [True, True, True, False, False, False, False]
    found = auc_interval(scores, positive)
    assert found.estimate == auc(scores, positive) == pytest.approx(10 / 12)
    for limit in (found.low, found.high):
        assert limit is not None
        m, n = 2.5, 2.5  # both sizes less one, replaced by their mean
        q1, q2 = limit / (2 - limit), 2 * limit**2 / (1 + limit)
        variance = (limit * (1 - limit) + m * (q1 - limit**2) + n * (q2 - limit**2)) / 12
        assert (limit - found.estimate) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_perfect_ranking_has_an_interval_too_and_one_of_few_units_is_wide(swapped: bool) -> None:
    positive = np.array([True] * 8 + [False] * 8)
    scores = np.where(positive != swapped, 1.0, 0.0) + np.linspace(0, 0.1, 16)
    found, few = auc_interval(scores, positive), auc_interval(scores, positive, units=(3, 3))
    limits = [(one.high if swapped else one.low) for one in (found, few)]
    away = [abs(limit - (0.0 if swapped else 1.0)) for limit in limits]
    assert 0.1 < away[0] < away[1] < 0.7
    assert (found.low if swapped else found.high) == (0.0 if swapped else 1.0)


def test_it_covers_the_area_of_two_shifted_normals_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    from scipy.stats import norm

    shift, size, draws = 1.2, 12, 400
    area = float(norm.cdf(shift / 2**0.5))
    positive = np.array([True] * size + [False] * size)
    covered = 0
    for _ in range(draws):
        found = auc_interval(rng.standard_normal(2 * size) + shift * positive, positive)
        covered += found.low <= area <= found.high
    assert 0.92 <= covered / draws <= 0.99


def test_no_units_and_a_level_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="0 and 1 units"):
        auc_interval([1.0, 0.0], [True, False], units=(0, 1))
    with pytest.raises(SpecError, match="level"):
        auc_interval([1.0, 0.0], [True, False], level=1.0)
