"""Say how far two judges of the same answers agree: on scores by correlation, on verdicts by Cohen's kappa."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import LEVEL, Interval, check_level


def correlation(one: Sequence[float], other: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Return Pearson's r with Fisher's interval (scipy's `pearsonr`).

    Args:
        one: scores of the first judge.
        other: scores of the second one of the same answers, in the same order.
        level: coverage, in (0, 1).

    Raises:
        SpecError: different lengths.
    """
    check_level(level)
    n = _same_length(one, other)
    method = f"{100 * level:g} % interval of Pearson's r (Fisher's transformation)"
    if n < 4:
        return Interval(None, None, None, n, method, f"{n} answers with both scores; accepted: at least 4")
    if len(set(one)) == 1 or len(set(other)) == 1:
        return Interval(None, None, None, n, method, "one of the judges gave a single score")
    found = _scipy_stats.pearsonr(one, other)
    bounds = found.confidence_interval(level)
    return Interval(float(found.statistic), float(bounds.low), float(bounds.high), n, method, None)


def kappa(one: Sequence[Hashable], other: Sequence[Hashable], *, level: float = LEVEL) -> Interval:
    """Return Cohen's kappa (1960, Educational and Psychological Measurement 20, 37-46) with its normal interval.

    Args:
        one: classes of the first judge.
        other: classes of the second one of the same answers, in the same order.
        level: coverage, in (0, 1).

    Raises:
        SpecError: different lengths.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    check_level(level)
    n = _same_length(one, other)
    method = f"{100 * level:g} % interval of Cohen's kappa (normal, large samples)"
    if n == 0:
        return Interval(None, None, None, 0, method, "no answer was judged by both")
    names = list(dict.fromkeys([*one, *other]))
    if len(names) == 1:
        return Interval(None, None, None, n, method, "both judges gave a single class")
    table = np.zeros((len(names), len(names)))
    for a, b in zip(one, other, strict=True):
        table[names.index(a), names.index(b)] += 1
    with np.errstate(invalid="ignore", divide="ignore"):  # of a test against 0 that is not used
        found = cohens_kappa(table)
    half = float(_scipy_stats.norm.ppf(0.5 + level / 2)) * math.sqrt(max(0.0, float(found.var_kappa)))
    value = float(found.kappa)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), n, method, None)


def _same_length(one: Sequence[object], other: Sequence[object]) -> int:
    if len(one) != len(other):
        raise SpecError(f"{len(one)} and {len(other)} values are compared; accepted: as many of both judges")
    return len(one)
