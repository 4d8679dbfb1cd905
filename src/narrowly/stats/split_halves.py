"""Say how much noise a matching variable carries that is a mean over questions: split halves.

The questions are split at random into halves. Within a curve the two halves move together by what the points really
differ in, and apart by the noise of questions. With `d` the difference of the halves' values at a point, about its
mean over the curve, the noise of the whole has the variance var(d) / 4 where the halves are equal: a half has twice
the variance of the whole, and the difference of two halves twice that of one. What all points of a curve share is no
noise here: it shifts a curve and bends no comparison along it.

reliability = 1 - noise / spread, the share of the variance along a curve that is no noise (Spearman 1910 and Brown
1910, British Journal of Psychology 3, in its form of variances). At reliability r the slope of a line on the measured
values is r times that on the true ones: that is the attenuation. In a comparison at equal measured values it makes
two arms on one line differ, because each arm's points lie nearer to its own mean than they seem (Campbell & Kenny 1999,
"A primer on regression artifacts"): by b (1 - r) (mean of the first - mean of the second) for a true slope b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from narrowly.stats.matched_curves import Pair
from narrowly.stats.sampled_values import Values

SPLITS = 50
LEAST_RELIABLE = 0.85
"""Reliability below which nothing is said of a shift; simulated are .9 and .95 (experiments/results/matching.json)."""


@dataclass(frozen=True, slots=True)
class Attenuation:
    """Noise of a matching variable, in its own unit.

    Attributes:
        reliability: share of the variance along the curves that is no noise, at most 1; below 0 where noise is all.
        noise_sd: standard deviation of the noise of one point.
        spread_sd: of the points along their curves, noise included.
        curves: with at least two points.
        questions: behind one point, the fewest.
    """

    reliability: float
    noise_sd: float
    spread_sd: float
    curves: int
    questions: int


def attenuation(curves: Sequence[Values], *, splits: int = SPLITS, seed: int = 0) -> Attenuation | None:
    """Return the attenuation of the values of some curves.

    Args:
        curves: one per curve, its points in any order.
        splits: random splits that are averaged over.
        seed: of the splits.

    Returns:
        None where no curve has two points and two questions, or none of them spreads.
    """
    usable = [one for one in curves if one.asked is not None and len(one.plain_T) > 1 and len(one.asked.names) > 1]
    generator = np.random.default_rng(seed)
    noise = spread = 0.0
    free = 0
    for one in usable:
        assert one.asked is not None
        questions = len(one.asked.names)
        order_R_Q = generator.permuted(np.tile(np.arange(questions), (splits, 1)), axis=1)
        half = questions // 2
        half_R_Q = (order_R_Q < half).astype(np.float64)
        apart_R_T = one.asked.means(half_R_Q) - one.asked.means(1 - half_R_Q)
        noise += float(((apart_R_T - apart_R_T.mean(axis=1, keepdims=True)) ** 2).sum(axis=1).mean()) / (
            questions / half + questions / (questions - half)
        )
        spread += float(((one.plain_T - one.plain_T.mean()) ** 2).sum())
        free += len(one.plain_T) - 1
    if not spread > 0:
        return None
    fewest = min(len(one.asked.names) for one in usable if one.asked is not None)
    return Attenuation(1 - noise / spread, (noise / free) ** 0.5, (spread / free) ** 0.5, len(usable), fewest)


def shift_by_noise(pairs: Sequence[Pair], reliability: float) -> float | None:
    """Return by how much noise of the matching variable alone moves the mean distance of pairs of curves on one line.

    Args:
        pairs: that have a common support.
        reliability: of the matching variable, from `attenuation`.

    Returns:
        None below `LEAST_RELIABLE`, where the formula does not hold, and where no curve has a slope.
    """
    up = across = 0.0
    for pair in pairs:
        for one in (pair.first, pair.second):
            x_T, y_T = (values.plain_T - values.plain_T.mean() for values in one)
            up, across = up + float(x_T @ y_T), across + float(x_T @ x_T)
    if not (across > 0 and reliability >= LEAST_RELIABLE):
        return None
    apart = [pair.first.x.plain_T.mean() - pair.second.x.plain_T.mean() for pair in pairs]
    return up / across / reliability * (1 - reliability) * float(np.mean(apart))
