"""Intervals that are looked at again and again, against runs in which nothing happens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import t_interval
from narrowly.stats.sequential import ALPHA, look_interval, spent_at

RUNS, LOOKS, QUESTIONS = 300, 12, 40


def test_no_number_of_looks_spends_more_than_alpha() -> None:
    spent = [spent_at(look) for look in range(1, 5000)]
    assert math.fsum(spent) == pytest.approx(ALPHA * (1 - 1 / 5000), rel=1e-12)
    assert spent == sorted(spent, reverse=True)


def test_a_look_is_students_interval_at_what_it_is_given() -> None:
    values = [0.1 * one**2 - 1 for one in range(20)]
    found, plain = look_interval(values, 4), t_interval(values, level=1 - ALPHA / 20)
    assert (found.estimate, found.low, found.high, found.n) == (plain.estimate, plain.low, plain.high, plain.n)
    assert "95 % over all looks, look 4" in found.method
    assert look_interval(values, 1, alpha=0.2).low > found.low
    assert look_interval([1.0, 2.0], 1).low is None


def test_runs_without_a_difference_are_alarmed_rarely_and_by_plain_intervals_often() -> None:
    """Looks of one run ask the same questions of a model that drifts: they depend on each other, as real ones do."""
    rng = np.random.default_rng(20261129)
    ours = plain = 0
    for _ in range(RUNS):
        drift_L_Q = rng.standard_normal((LOOKS, QUESTIONS)).cumsum(axis=0)
        ours += any((look_interval(row, look).low or 0) > 0 for look, row in enumerate(drift_L_Q, start=1))
        plain += any((t_interval(row).low or 0) > 0 for row in drift_L_Q)
    assert ours / RUNS <= ALPHA / 2
    assert plain / RUNS > ALPHA  # the test can fail: uncorrected looks do


@pytest.mark.parametrize(("look", "alpha"), [(0, 0.05), (-1, 0.05), (1, 0.0), (1, 1.0), (1, float("nan"))])
def test_a_look_or_an_error_that_cannot_be_is_refused(look: int, alpha: float) -> None:
    with pytest.raises(SpecError, match="accepted"):
        spent_at(look, alpha)
