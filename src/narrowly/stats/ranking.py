"""Judge a ranking: the area under the ROC curve, precision and recall, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import LEVEL, MIN_UNITS, Interval, check_level, share_interval


class PrecisionRecall(NamedTuple):
    """Precision and recall where the rows with the largest scores are taken, one point per score that occurs.

    Attributes:
        taken: rows taken, growing; rows of one score are taken together.
        precision: share of them that are positive.
        recall: share of all positives that are among them.
    """

    taken: list[int]
    precision: list[float]
    recall: list[float]

    def at_recall(self, recall: float) -> float:
        """Return the precision where at least this share of the positives (0 to 1) has been taken."""
        return next(p for p, r in zip(self.precision, self.recall, strict=True) if r >= recall)

    @property
    def average(self) -> float:
        """Return the average precision: the sum of precision times the growth of recall (no interpolation)."""
        before, total = 0.0, 0.0
        for precision, recall in zip(self.precision, self.recall, strict=True):
            total += precision * (recall - before)
            before = recall
        return total


def auc(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> float:
    """Return P(score of a positive > score of a negative), ties counted half: Mann and Whitney's U over its maximum.

    Raises:
        SpecError: a side is empty, or a score is no number.
    """
    values, truth = _checked(scores, positive)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise SpecError(f"{positives} positive and {negatives} negative scores; accepted: at least one of each")
    ranks = rankdata(values)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_over_groups(
    scores: Sequence[float] | np.ndarray,
    positive: Sequence[bool] | np.ndarray,
    groups: Sequence[str],
    *,
    level: float = LEVEL,
    min_n: int = MIN_UNITS,
    unit: str = "group",
) -> Interval:
    """Return the mean over groups of the AUC inside each, with an interval over groups (`share_interval`).

    A group is the independent unit: rows of one domain share its words. Only rows of one group are compared.

    Raises:
        SpecError: as `auc`.
    """
    values, truth = _checked(scores, positive)
    names = np.array(groups)
    found = [auc(values[names == name], truth[names == name]) for name in dict.fromkeys(groups)]
    return share_interval(found, level=level, min_n=min_n, unit=unit)


TINY = 1e-9
"""How far inside of 0 and 1 the limits of a perfect ranking are looked for."""


def auc_interval(
    scores: Sequence[float] | np.ndarray,
    positive: Sequence[bool] | np.ndarray,
    *,
    units: tuple[int, int] | None = None,
    level: float = LEVEL,
    unit: str = "run",
) -> Interval:
    """Return the AUC with an interval that is none of length 0 where every positive ranks above every negative.

    Its limits are the areas whose own standard error just reaches the one found: Hanley & McNeil's variance (1982,
    Radiology 143, 29-36) at the limit, both group sizes replaced by their mean (Newcombe 2006, Statistics in Medicine
    25, 559-573, method 5).

    Args:
        scores: one per row.
        positive: of each row.
        units: independent positives and negatives, where rows depend on each other; None counts every row.
        level: coverage, in (0, 1).
        unit: what is independent, for the text.

    Raises:
        SpecError: as `auc`, fewer than one unit, or a level outside (0, 1).
    """
    check_level(level)
    found = auc(scores, positive)
    truth = np.asarray(positive, dtype=bool)
    above, below = units or (int(truth.sum()), int((~truth).sum()))
    if min(above, below) < 1:
        raise SpecError(f"{above} and {below} units; accepted: at least one of each")
    z, size = float(norm.ppf(0.5 + level / 2)), (above + below) / 2 - 1

    def beyond(area: float) -> float:
        """Return how far an area is from the one found, beyond its own standard error."""
        spread = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - found) ** 2 - z**2 * area * (1 - area) * spread / (above * below)

    # an area of 0 or 1 has no error of its own and would be taken for its own limit
    low = 0.0 if found == 0 else float(brentq(beyond, 0.0, min(found, 1 - TINY)))
    high = 1.0 if found == 1 else float(brentq(beyond, max(found, TINY), 1.0))
    method = f"{100 * level:g} % Newcombe interval of the AUC, {above} positive and {below} negative {unit}s"
    return Interval(found, low, high, above + below, method, None)


def precision_recall(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> PrecisionRecall:
    """Return the precision-recall curve of a ranking from the largest score down.

    Raises:
        SpecError: no positive, or a score that is no number.
    """
    values, truth = _checked(scores, positive)
    if not truth.any():
        raise SpecError(f"0 of {len(truth)} rows are positive; accepted: at least one")
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    hits = np.cumsum(truth[order])[ends]
    taken = ends + 1
    return PrecisionRecall(taken.tolist(), (hits / taken).tolist(), (hits / truth.sum()).tolist())


def _checked(
    scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.shape != truth.shape or values.ndim != 1 or not len(values):
        raise SpecError(f"{values.size} scores and {truth.size} truths; accepted: as many, at least one")
    if not np.isfinite(values).all():
        raise SpecError("a score is no finite number; accepted: finite ones")
    return values, truth
