"""Give a ratio of sums over questions its interval, and the chance that one of several answers is an event."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from narrowly.records.errors import SpecError

Floats = NDArray[np.float64]


def linearised(numerators_S_Q: Floats, denominators_S_Q: Floats) -> Floats:
    """Return one value per seed and question whose mean is the ratio of both sums, and whose spread is its own.

    R + (a - R b) / mean(b): Taylor's first order, as for ratio estimators in cluster samples (Cochran 1977, "Sampling
    Techniques", 3rd edition, section 6.3).

    Args:
        numerators_S_Q: sums of events over the answers of a cell.
        denominators_S_Q: sums of answers that count.

    Raises:
        SpecError: other shapes, or no answer that counts.
    """
    if numerators_S_Q.shape != denominators_S_Q.shape:
        raise SpecError(f"tables of shapes {numerators_S_Q.shape} and {denominators_S_Q.shape}; accepted: one shape")
    total = float(denominators_S_Q.sum())
    if total <= 0:
        raise SpecError("no answer counts towards this rate")
    ratio = float(numerators_S_Q.sum()) / total
    return ratio + (numerators_S_Q - ratio * denominators_S_Q) / (total / denominators_S_Q.size)


def at_least_one(events: int, n: int, k: int) -> float:
    """Return the chance that at least one of k answers is an event, without bias from n answers of which some are.

    1 - C(n - events, k) / C(n, k), the share of all subsets of size k with an event (as pass@k of Chen et al. 2021,
    arXiv 2107.03374, equation 1).

    Args:
        events: of n.
        n: answers, at least k.
        k: answers that are drawn.

    Raises:
        SpecError: fewer answers than k, or more events than answers.
    """
    if not 0 <= events <= n or not 1 <= k <= n:
        raise SpecError(f"{events} events of {n} answers, {k} drawn; accepted: at least as many answers as are drawn")
    return 1.0 - math.comb(n - events, k) / math.comb(n, k)
