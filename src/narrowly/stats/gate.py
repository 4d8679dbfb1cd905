"""Hold a rise against a margin that was fixed before: shown, excluded, or neither.

A rise is excluded where its one-sided 95 % upper bound lies below the margin: a true rise of exactly the margin is then
missed in 5 % of such comparisons. It is shown where it is not excluded and the two-sided 95 % interval lies above zero.
"""

from __future__ import annotations

from typing import NamedTuple

from scipy import stats as _scipy_stats

from narrowly.records.gate import Word
from narrowly.stats.intervals import LEVEL


class Bounds(NamedTuple):
    """Hold the bounds of a rise, in its own unit.

    Attributes:
        low, high: of the two-sided 95 % interval.
        upper: one-sided 95 % upper bound.
    """

    low: float
    high: float
    upper: float


def bounds(rise: float, standard_error: float, df: float) -> Bounds:
    """Return the bounds of a rise by Student's t.

    Args:
        rise: the estimate.
        standard_error: of the rise, above 0.
        df: degrees of freedom of the standard error.
    """
    half = float(_scipy_stats.t.ppf(0.5 + LEVEL / 2, df)) * standard_error
    return Bounds(rise - half, rise + half, rise + float(_scipy_stats.t.ppf(LEVEL, df)) * standard_error)


def held(is_shown: bool, upper: float | None, margin: float) -> Word:
    """Return what is known of a rise.

    Args:
        is_shown: whether it is above zero beyond chance, by a two-sided test at 5 %.
        upper: its one-sided upper bound; None where there is none.
        margin: largest rise that does not matter, in the same unit.
    """
    if upper is not None and upper < margin:
        return Word.NO_RISE
    return Word.RISE if is_shown else Word.OPEN
