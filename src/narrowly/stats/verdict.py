"""Judge an effect against a margin fixed in advance: two one-sided tests, and one of four words.

EFFECT: the interval excludes 0 and is not inside the margin. TRIVIAL: it excludes 0 and lies inside. EQUIVALENT: it
includes 0, and the narrower interval of the two one-sided tests (90 % beside 95 %) lies inside (Schuirmann 1987,
J. Pharmacokinetics and Biopharmaceutics 15, 657-680). INDETERMINATE: all else, and no interval.
Where there is no effect, EFFECT or TRIVIAL come in 5 % at most. Where it is as large as the margin, TRIVIAL or
EQUIVALENT come in 5 % at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError, counted
from narrowly.stats.intervals import LEVEL, MIN_UNITS, check_level
from narrowly.stats.random_effects import CrossedMean


class Word(StrEnum):
    """The four verdicts of an effect."""

    EFFECT = "EFFECT"
    TRIVIAL = "TRIVIAL"
    EQUIVALENT = "EQUIVALENT"
    INDETERMINATE = "INDETERMINATE"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An effect judged against its margin.

    Attributes:
        word: one of the four.
        margin: largest effect that does not matter, in units of the estimate.
        interval: the interval that decides whether 0 is excluded; None where there is none.
        inner: the interval of the two one-sided tests, of level 1 - 2 (1 - level).
        p_effect: two-sided p value of no effect.
        p_equivalence: larger p value of the two one-sided tests that the effect is at least the margin.
        reason: why there is no interval; None where there is one.
    """

    word: Word
    margin: float
    interval: tuple[float, float] | None
    inner: tuple[float, float] | None
    p_effect: float | None
    p_equivalence: float | None
    reason: str | None = None


def tost(estimate: float, standard_error: float, df: float, margin: float) -> float:
    """Return the p value of equivalence by two one-sided t tests; small means that the effect is inside the margin.

    Args:
        estimate: the effect.
        standard_error: of the estimate, above 0.
        df: degrees of freedom of the standard error.
        margin: above 0; the effect is compared with -margin and +margin.

    Raises:
        SpecError: where the standard error, df or margin is not a finite number above 0.
    """
    for name, value in (("standard error", standard_error), ("df", df), ("margin", margin)):
        if not (value > 0 and math.isfinite(value)):
            raise SpecError(f"{name} of an equivalence test is {value}; accepted: a finite number above 0")
    above = _scipy_stats.t.sf((estimate + margin) / standard_error, df)
    below = _scipy_stats.t.cdf((estimate - margin) / standard_error, df)
    return float(max(above, below))


def judge(estimate: float, standard_error: float, df: float, margin: float, *, level: float = LEVEL) -> Verdict:
    """Return the verdict of an effect from its estimate, standard error and degrees of freedom.

    Args:
        estimate: the effect, in any unit.
        standard_error: of the estimate, above 0.
        df: degrees of freedom of the standard error.
        margin: largest effect that does not matter, fixed before the data were seen; above 0.
        level: of the interval that excludes 0 or not, in (0.5, 1).

    Raises:
        SpecError: where an argument is out of its range.
    """
    check_level(level)
    if level <= 0.5:
        raise SpecError(f"level of a verdict is {level}; accepted: above 0.5")
    p_equivalence = tost(estimate, standard_error, df, margin)
    half, inner_half = (float(_scipy_stats.t.ppf(share, df)) * standard_error for share in (0.5 + level / 2, level))
    interval, inner = (estimate - half, estimate + half), (estimate - inner_half, estimate + inner_half)
    p_effect = float(2 * _scipy_stats.t.sf(abs(estimate) / standard_error, df))
    if interval[0] > 0 or interval[1] < 0:
        word = Word.TRIVIAL if _inside(interval, margin) else Word.EFFECT
    else:
        word = Word.EQUIVALENT if _inside(inner, margin) else Word.INDETERMINATE
    return Verdict(word, margin, interval, inner, p_effect, p_equivalence)


def judge_mean(found: CrossedMean, margin: float, *, level: float = LEVEL, min_seeds: int = MIN_UNITS) -> Verdict:
    """Return the verdict of a contrast over seeds and questions; below five seeds it is INDETERMINATE, with the reason.

    Args:
        found: the crossed mean of the differences of two arms.
        margin: largest difference that does not matter, fixed before the data were seen; above 0.
        level: of the interval that excludes 0 or not, in (0.5, 1).
        min_seeds: fewest seeds for a verdict about other seeds.

    Raises:
        SpecError: where the margin or level is out of its range.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise SpecError(f"margin of a verdict is {margin}; accepted: a finite number above 0")
    if found.standard_error is None or found.df is None or found.interval.estimate is None:
        return Verdict(Word.INDETERMINATE, margin, None, None, None, None, found.interval.reason)
    if found.n_seeds < min_seeds:
        reason = f"{counted(found.n_seeds, 'seed')}; a verdict needs at least {min_seeds}"
        return Verdict(Word.INDETERMINATE, margin, None, None, None, None, reason)
    return judge(found.interval.estimate, found.standard_error, found.df, margin, level=level)


def _inside(interval: tuple[float, float], margin: float) -> bool:
    return -margin < interval[0] and interval[1] < margin
