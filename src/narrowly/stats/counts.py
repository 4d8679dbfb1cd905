"""Bound a rate from counted events exactly, zero events included.

Exact means Clopper & Pearson (1934, Biometrika 26, 404-413), by scipy. It holds for independent answers. For answers
that share questions or seeds pass their design effect: the bound then rests on n / design effect, an approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import LEVEL, Interval, check_counts, check_level


@dataclass(frozen=True, slots=True)
class ZeroEvents:
    """What no event among n answers still allows.

    Attributes:
        upper: exact one-sided upper bound of the rate, 1 - (1 - level)^(1 / n).
        rule_of_three: 3 / n, its well-known approximation at 95 % (Hanley & Lippman-Hand 1983, JAMA 249, 1743-1745).
        effective_n: how many independent answers the bound rests on.
        level: of the bound.
    """

    upper: float
    rule_of_three: float
    effective_n: float
    level: float


def exact_interval(events: int, n: int, *, level: float = LEVEL) -> Interval:
    """Return Clopper and Pearson's interval of a rate; it covers at least `level` for independent answers.

    Args:
        events: how many of the answers fell in the class, 0 to n.
        n: how many independent answers there are.
        level: coverage, in (0, 1).

    Raises:
        SpecError: where `events` is not in 0..n, or `level` not in (0, 1).
    """
    check_level(level)
    check_counts(events, n)
    method = f"{100 * level:g} % exact (Clopper-Pearson) interval of a share of answers"
    if n == 0:
        return Interval(None, None, None, 0, method, "no answer was counted")
    bounds = _scipy_stats.binomtest(events, n).proportion_ci(level, method="exact")
    return Interval(events / n, float(bounds.low), float(bounds.high), n, method, None)


def zero_events_bound(n: int, *, design_effect: float = 1.0, level: float = LEVEL) -> ZeroEvents:
    """Return the upper bound of a rate of which no event was seen.

    Args:
        n: answers without an event, at least 1.
        design_effect: variance of the mean over that of independent answers, at least 1.
        level: of the one-sided bound, in (0, 1).

    Raises:
        SpecError: where an argument is out of its range.
    """
    check_level(level)
    if n < 1 or not (design_effect >= 1 and math.isfinite(design_effect)):
        raise SpecError(f"{n} answers with design effect {design_effect}; accepted: at least 1 each")
    worth = n / design_effect
    return ZeroEvents(-math.expm1(math.log1p(-level) / worth), min(1.0, 3 / worth), worth, level)
