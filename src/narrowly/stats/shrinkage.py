"""Regress a shift on where it started: how much of it is shrinkage towards zero.

Fine-tuning on any answers of a new format pulls log-odds towards zero, so that a shift against the base is positive
where the base was far below zero, whatever was trained. Ordinary least squares of the shift on the base's values shows
it: slope -1 is a value that no longer depends on the base, the intercept the shift of a question at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import LEVEL, check_level


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """A line of shifts on starting values, with Student's t intervals that take questions as independent.

    Attributes:
        slope, intercept: of the line; None with a reason where there is none.
        slope_range, intercept_range: their intervals.
        r2: share of the variance of the shift that the line explains.
        n: questions.
        reason: why there is no line.
    """

    slope: float | None
    intercept: float | None
    slope_range: tuple[float, float] | None
    intercept_range: tuple[float, float] | None
    r2: float | None
    n: int
    reason: str | None = None


def shrinkage(start: Sequence[float], shift: Sequence[float], *, level: float = LEVEL) -> Shrinkage:
    """Return the line of shifts on the values that they started from.

    Args:
        start: one value per question, such as the base's log-odds.
        shift: of the same questions.
        level: coverage of the intervals, in (0, 1).

    Raises:
        SpecError: where the two differ in length, or `level` is not in (0, 1).
    """
    check_level(level)
    if len(start) != len(shift):
        raise SpecError(f"{len(start)} starting values and {len(shift)} shifts; accepted: one of each per question")
    n = len(start)
    if n < 3 or float(np.ptp(start)) == 0:
        return Shrinkage(None, None, None, None, None, n, "a line needs at least 3 questions of different log-odds")
    found = _scipy_stats.linregress(start, shift)
    factor = float(_scipy_stats.t.ppf(0.5 + level / 2, n - 2))
    slope, intercept = float(found.slope), float(found.intercept)
    about_slope, about_intercept = factor * float(found.stderr), factor * float(found.intercept_stderr)
    return Shrinkage(
        slope,
        intercept,
        (slope - about_slope, slope + about_slope),
        (intercept - about_intercept, intercept + about_intercept),
        float(found.rvalue) ** 2,
        n,
    )
