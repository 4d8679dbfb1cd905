"""Estimate the mean vertical distance of pairs of curves over the levels that both pass, with its uncertainty.

Each pair belongs to a unit (a base) and gives one distance; units are independent. Beside Student's t over units
stands a crossed bootstrap: units and questions are drawn independently of each other (McCullagh 2000, Bernoulli 6,
285-301; Owen 2007, Annals of Applied Statistics 1, 386-411), and every draw interpolates anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from narrowly.records.errors import counted
from narrowly.stats.first_passage import EVERYWHERE, common_support, mean_weights
from narrowly.stats.intervals import LEVEL, MIN_UNITS, Interval
from narrowly.stats.sampled_values import Values, draw_questions

Floats = NDArray[np.float64]

DRAWS = 2000
LEAST_FINITE = 0.95
"""Share of draws in which some pair must have a support in common; below it there is no interval."""


class Curve(NamedTuple):
    """A branch of a curve, in the order in which it passes its points: what is matched and what is compared."""

    x: Values
    y: Values


class Pair(NamedTuple):
    """Two curves to compare, over levels of x in `between` only."""

    first: Curve
    second: Curve
    between: tuple[float, float] = EVERYWHERE


class Distance(NamedTuple):
    """How far the first curve lies above the second, on average over the levels from low to high."""

    low: float
    high: float
    value: float


def distance(pair: Pair) -> Distance | None:
    """Return the distance of a pair; None where no level is common."""
    first, second = ((curve.x.plain_T[None], curve.y.plain_T[None]) for curve in (pair.first, pair.second))
    low_D, high_D = common_support(first[0], second[0], pair.between)
    if low_D[0] > high_D[0]:
        return None
    return Distance(float(low_D[0]), float(high_D[0]), float(_distances(pair.between, *first, *second)[0]))


def _distances(between: tuple[float, float], x1_D_T: Floats, y1_D_T: Floats, x2_D_T: Floats, y2_D_T: Floats) -> Floats:
    """Return the distance of many pairs; NaN where there is none."""
    low_D, high_D = common_support(x1_D_T, x2_D_T, between)
    first_D = (mean_weights(x1_D_T, low_D, high_D) * y1_D_T).sum(axis=1)
    return np.asarray(first_D - (mean_weights(x2_D_T, low_D, high_D) * y2_D_T).sum(axis=1))


def unit_means(values: Sequence[float | None]) -> float | None:
    """Return the mean of the distances of one unit; None where none of its pairs has one."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def bootstrap_distance(
    units: Sequence[Sequence[Pair]], *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Return the percentile interval of the mean distance over units, units and questions drawn anew.

    Args:
        units: the pairs of each unit, those without a common level too.
        draws: number of resamples.
        seed: of the resampling.
        level: coverage asked for.
    """
    plain = [unit_means([None if (found := distance(pair)) is None else found.value for pair in unit])
             for unit in units]  # fmt: skip
    own = [value for value in plain if value is not None]
    curves = [curve for unit in units for pair in unit for curve in (pair.first, pair.second)]
    asked = any(values.asked for curve in curves for values in curve)
    what = "units and questions" if asked else "units"
    method = f"{100 * level:g} % percentile interval, {what} resampled, {draws} draws"
    estimate = float(np.mean(own)) if own else None
    if len(own) < MIN_UNITS:
        reason = f"{counted(len(own), 'unit')}; a population interval needs at least {MIN_UNITS}"
        return Interval(estimate, None, None, len(own), method, reason)
    generator = np.random.default_rng(seed)
    unit_counts_D_U = generator.multinomial(len(units), np.full(len(units), 1 / len(units)), size=draws)
    of_x = draw_questions([curve.x for curve in curves], draws, generator)
    of_y = draw_questions([curve.y for curve in curves], draws, generator)
    found_D_U = np.stack([_unit_draws(unit, of_x, of_y, draws) for unit in units], axis=1)
    there_D_U = np.isfinite(found_D_U)
    counts_D = (unit_counts_D_U * there_D_U).sum(axis=1)
    there_D = counts_D > 0
    if there_D.mean() < LEAST_FINITE:
        reason = f"{int((~there_D).sum())} of {draws} draws have no level in common"
        return Interval(estimate, None, None, len(own), method, reason)
    sums_D = (unit_counts_D_U * np.where(there_D_U, found_D_U, 0.0)).sum(axis=1)
    low, high = np.quantile(sums_D[there_D] / counts_D[there_D], [0.5 - level / 2, 0.5 + level / 2])
    return Interval(estimate, float(low), float(high), len(own), method, None)


def _unit_draws(unit: Sequence[Pair], of_x: Mapping[str, Floats], of_y: Mapping[str, Floats], draws: int) -> Floats:
    """Return the mean distance of a unit's pairs in every draw; NaN where none has a level in common."""
    found_D_P = np.stack([_pair_draws(pair, of_x, of_y, draws) for pair in unit], axis=1)
    there_D_P = np.isfinite(found_D_P)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there_D_P, found_D_P, 0.0).sum(axis=1) / there_D_P.sum(axis=1))


def _pair_draws(pair: Pair, of_x: Mapping[str, Floats], of_y: Mapping[str, Floats], draws: int) -> Floats:
    """Return the distance of a pair in every draw; NaN where no level is common."""
    first, second = ((curve.x.drawn(of_x, draws), curve.y.drawn(of_y, draws)) for curve in (pair.first, pair.second))
    return _distances(pair.between, *first, *second)
