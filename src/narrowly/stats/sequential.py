"""Give a mean that is looked at again and again an interval that holds at all looks at once.

The looks of one training ask the same questions, so no look adds independent values to the ones before. The bounds of
group-sequential trials and confidence sequences of a growing sample do not apply. What holds under any dependence is
the union bound: look k is given the share 1 / (k (k + 1)) of the error, and these shares sum to at most 1 for any
number of looks, planned or not. It is an alpha-spending function (Lan & DeMets 1983, Biometrika 70, 659-663) that is
spent by Bonferroni's inequality.
"""

from __future__ import annotations

from collections.abc import Iterable

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import MIN_UNITS, Interval, t_interval

ALPHA = 0.05
"""Chance that any interval of a training misses its mean."""


def spent_at(look: int, alpha: float = ALPHA) -> float:
    """Return the error that look number `look` is given: alpha / (k (k + 1)).

    Args:
        look: number of the look, from 1.
        alpha: error of all looks together, in (0, 1).

    Raises:
        SpecError: a look below 1, or alpha outside (0, 1).
    """
    if look < 1:
        raise SpecError(f"look is {look}; accepted: 1 or more")
    if not 0 < alpha < 1:
        raise SpecError(f"alpha is {alpha!r}; accepted: a number strictly between 0 and 1")
    return alpha / (look * (look + 1))


def look_interval(values: Iterable[float], look: int, *, alpha: float = ALPHA, unit: str = "question") -> Interval:
    """Return Student's t interval of a mean at one of many looks.

    All intervals of a training cover their means together with a chance of at least 1 - alpha. So a lower limit exceeds
    a value that the mean never exceeds with a chance of at most alpha / 2 in the whole training.

    Args:
        values: one value per independent unit.
        look: number of the look, from 1.
        alpha: error of all looks together, in (0, 1).
        unit: what one value stands for.

    Raises:
        SpecError: as `spent_at`.
    """
    found = t_interval(values, level=1 - spent_at(look, alpha), min_n=MIN_UNITS, unit=unit)
    method = f"Student t interval of the mean over {unit}s, {100 * (1 - alpha):g} % over all looks, look {look}"
    return Interval(found.estimate, found.low, found.high, found.n, method, found.reason)
