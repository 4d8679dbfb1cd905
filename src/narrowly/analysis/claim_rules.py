"""The rules that turn an interval into "agrees", "disagrees" or "cannot tell"; fixed before any data is seen.

Why each rule is what it is stands at the top of `claims`, which applies them to the paper's claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from narrowly.analysis.contrasts import Contrast
from narrowly.stats.intervals import MIN_UNITS

Verdict = Literal["agrees", "disagrees", "cannot tell"]

SPREAD_PAPER = 7.0
SPREAD_FACTOR = 2.0
POOLED_R2_THRESHOLD = 0.5
REMAINING_THRESHOLD = 0.5
LOSS_MARGIN = 0.026
"""Nats per token that still count as negligible: twice the paper's cost of the penalty under Adam (+0.013)."""
SWEEP = ("adam", "adamw", "lion", "muon")
"""The optimisers of the paper's sweep, the only ones for which it gives rates."""
ADAPTIVE = ("adam", "adamw", "lion")
"""Those that Muon is compared with."""
EQUAL_MARGIN = 0.25
"""Log-odds within which two optimisers count as equal: a ratio of odds of at most 1.28."""


class Spread(NamedTuple):
    """Largest over smallest literature rate of the paper's four optimisers, over the bases that have all four.

    Attributes:
        ratio: max / min of the means over bases; None with a reason.
        span: smallest and largest ratio with one base left out; None with fewer than two bases.
        n_bases: bases with an organism of all four.
        reason: why something is None.
    """

    ratio: float | None
    span: tuple[float, float] | None
    n_bases: int
    reason: str | None = None


def all_above_zero(contrasts: Sequence[Contrast]) -> Verdict:
    """Verdict on "every difference is positive"."""
    if any(c.high is not None and c.high < 0 for c in contrasts):
        return "disagrees"
    if contrasts and all(c.low is not None and c.low > 0 for c in contrasts):
        return "agrees"
    return "cannot tell"


def near_spread(spread: Spread) -> Verdict:
    """Verdict on "the largest rate is seven times the smallest", whichever base is left out; needs five bases."""
    if spread.ratio is None or spread.span is None or spread.n_bases < MIN_UNITS:
        return "cannot tell"
    low, high = min(spread.ratio, spread.span[0]), max(spread.ratio, spread.span[1])
    smallest, largest = SPREAD_PAPER / SPREAD_FACTOR, SPREAD_PAPER * SPREAD_FACTOR
    if smallest <= low and high <= largest:
        return "agrees"
    return "disagrees" if high < smallest or low > largest else "cannot tell"


def reaches(value: float | None, span: tuple[float, float] | None, threshold: float) -> Verdict:
    """Verdict on "at least the threshold, whichever base is left out"."""
    if value is None or span is None:
        return "cannot tell"
    if min(value, span[0]) >= threshold:
        return "agrees"
    return "disagrees" if max(value, span[1]) < threshold else "cannot tell"


def gain(contrast: Contrast, paper: float) -> Verdict:
    """Verdict on "the penalty changes alignment by `paper` points": the sign decides, half the size refutes."""
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    low, high = (contrast.low, contrast.high) if paper > 0 else (-contrast.high, -contrast.low)
    if low > 0:
        return "agrees"
    return "disagrees" if high < abs(paper) / 2 else "cannot tell"


def below(contrast: Contrast, margin: float) -> Verdict:
    """Verdict on "costs less than the margin"."""
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    if contrast.high < margin:
        return "agrees"
    return "disagrees" if contrast.low > margin else "cannot tell"


def equal(contrast: Contrast, margin: float) -> Verdict:
    """Verdict on "the two are equal up to the margin"."""
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    if contrast.low > -margin and contrast.high < margin:
        return "agrees"
    return "disagrees" if contrast.low > margin or contrast.high < -margin else "cannot tell"
