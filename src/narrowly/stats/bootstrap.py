"""Resample seeds and questions independently: the crossed bootstrap, also of contrasts and of ratios.

Each draw takes as many seeds and as many questions as there are, with replacement and independently of each other; a
cell counts as often as its seed times its question (McCullagh 2000, Bernoulli 6, 285-301; Owen 2007, Annals of Applied
Statistics 1, 386-411). Every arm of a contrast sees the same draws. The interval is that of percentiles. It shows a
skewed distribution that Student's t cannot, and it stands beside the primary interval, because with few seeds
percentiles are too narrow: `MEASURED_COVERAGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from narrowly.records.errors import SpecError, counted
from narrowly.stats.intervals import LEVEL, MIN_UNITS, Interval, check_level

Floats = NDArray[np.float64]

MEASURED_COVERAGE = {5: 0.87625, 8: 0.90975, 16: 0.931}
"""Smallest measured coverage of the 95 % interval by number of seeds (experiments/results/coverage.json)."""


def mean_of_first(means: Sequence[Floats]) -> Floats:
    """Return the mean of the only arm."""
    return means[0]


def difference(means: Sequence[Floats]) -> Floats:
    """Return the first arm minus the second."""
    return means[0] - means[1]


def crossed_bootstrap(
    arms_S_Q: Sequence[Floats],
    combine: Callable[[Sequence[Floats]], Floats] = mean_of_first,
    *,
    draws: int = 4000,
    seed: int = 0,
    level: float = LEVEL,
    min_seeds: int = MIN_UNITS,
) -> Interval:
    """Return the percentile interval of a function of arms' means over seeds x questions.

    Args:
        arms_S_Q: one table per arm, all of one shape; row i is the same seed and column j the same question in every
            arm. NaN marks missing cells.
        combine: takes one array of means per arm (one element per draw) and returns one element per draw; for the
            pooled log-odds, arms are the two classes and this is the logarithm of their ratio.
        draws: number of resamples.
        seed: of the resampling.
        level: coverage asked for, in (0, 1); what it really is stands in `method`.
        min_seeds: with fewer seeds only the estimate is returned.

    Raises:
        SpecError: where arms differ in shape, have no value, or `level` or `draws` cannot be used.
    """
    check_level(level)
    tables = [np.asarray(arm, dtype=np.float64) for arm in arms_S_Q]
    shapes = sorted({table.shape for table in tables})
    if len(shapes) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise SpecError(f"arms of a bootstrap have shapes {shapes}; accepted: one shape, seeds x questions")
    if draws < 100:
        raise SpecError(f"draws is {draws}; accepted: at least 100")
    seeds, questions = shapes[0]
    estimate = float(combine([np.array([_finite_mean(table)]) for table in tables])[0])
    method = (
        f"{100 * level:g} % percentile interval, seeds and questions resampled, {draws} draws{_coverage(seeds, level)}"
    )
    if seeds < min_seeds:
        reason = f"{counted(seeds, 'seed')}; a population interval needs at least {min_seeds}"
        return Interval(estimate, None, None, seeds, method, reason)
    generator = np.random.default_rng(seed)
    seed_counts_D_S = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(np.float64)
    question_counts_D_Q = generator.multinomial(questions, np.full(questions, 1 / questions), size=draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        found_D = combine([_weighted_means(table, seed_counts_D_S, question_counts_D_Q) for table in tables])
    if not np.isfinite(found_D).all():
        reason = f"{int((~np.isfinite(found_D)).sum())} of {draws} draws have no finite value"
        return Interval(estimate, None, None, seeds, method, reason)
    low, high = np.quantile(found_D, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(estimate, float(low), float(high), seeds, method, None)


def _finite_mean(table_S_Q: Floats) -> float:
    if np.isnan(table_S_Q).all():
        raise SpecError("an arm of a bootstrap has no value at all")
    return float(np.nanmean(table_S_Q))


def _weighted_means(table_S_Q: Floats, seed_counts_D_S: Floats, question_counts_D_Q: NDArray[np.int64]) -> Floats:
    """Return the mean of every draw: cells weigh the count of their seed times the count of their question."""
    present_S_Q = ~np.isnan(table_S_Q)
    sums_D = ((seed_counts_D_S @ np.where(present_S_Q, table_S_Q, 0.0)) * question_counts_D_Q).sum(axis=1)
    counts_D = ((seed_counts_D_S @ present_S_Q.astype(np.float64)) * question_counts_D_Q).sum(axis=1)
    means: Floats = sums_D / counts_D
    return means


def _coverage(seeds: int, level: float) -> str:
    measured = [count for count in MEASURED_COVERAGE if count <= seeds]
    if level != LEVEL or not measured:
        return ""
    nearest = max(measured)
    return f"; in simulations of {nearest} seeds it covered at least {MEASURED_COVERAGE[nearest]:.3f}"
