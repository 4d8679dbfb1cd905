"""The line of a shift on its start: exact lines, an interval that covers, and what has no line."""

from __future__ import annotations

import numpy as np
import pytest

from narrowly.records.errors import SpecError
from narrowly.stats.shrinkage import shrinkage


def test_an_exact_line_is_found_and_the_pull_to_zero_has_slope_minus_one() -> None:
    start = [-9.0, -5.0, -2.0, 1.0]
    found = shrinkage(start, [-value for value in start])
    assert (found.slope, found.intercept, found.r2, found.n) == pytest.approx((-1, 0, 1, 4), abs=1e-12)
    found = shrinkage(start, [2 - value / 2 for value in start])
    assert (found.slope, found.intercept) == pytest.approx((-0.5, 2))


def test_the_interval_of_the_slope_covers_it_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        start = rng.normal(-5, 3, 20)
        found = shrinkage(start.tolist(), (1 - 0.3 * start + rng.normal(0, 2, 20)).tolist())
        assert found.slope_range is not None
        covered += found.slope_range[0] <= -0.3 <= found.slope_range[1]
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_no_line_has_its_reason_and_unequal_lengths_are_refused() -> None:
    for start in ([-1.0, -2.0], [-1.0, -1.0, -1.0]):
        found = shrinkage(start, start)
        assert found.slope is None and "at least 3 questions" in str(found.reason)
    with pytest.raises(SpecError, match="2 starting values and 1 shifts"):
        shrinkage([1.0, 2.0], [1.0])
