"""Estimate a mean over seeds and questions of the paired bank, for one rung of the ladder or one domain.

The unit of a rung with at least five domains is the domain: its value is the mean over its questions, and domains count
alike. Elsewhere the unit is the question. From five seeds on the interval is that of random seeds and units; below it
is one over units, for these seeds only, and nothing is said of seeds in general.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy_stats

from narrowly.records.spec import Spec
from narrowly.stats.bootstrap import crossed_bootstrap
from narrowly.stats.intervals import LEVEL, MIN_UNITS, Interval
from narrowly.stats.power import minimum_detectable_effect, power_of
from narrowly.stats.random_effects import CrossedMean, crossed_mean, these_seeds_only
from narrowly.stats.verdict import Verdict, judge, judge_mean

Floats = NDArray[np.float64]
Unit = Literal["question", "domain"]


class Estimate(Spec):
    """A mean with its interval.

    Attributes:
        name: of the rung or domain.
        unit: what the interval is over.
        questions, domains, seeds: that it rests on.
        interval: the primary one; `method` says which.
        bootstrap: the crossed bootstrap of seeds and units; None below five seeds.
        per_seed: mean of each seed, in the order given.
        icc_seed, icc_unit, design_effect, effective_n, smallest_detectable: of the crossed random effects; None below
            five seeds, and where the variances cannot be told apart.
        verdict: EFFECT, TRIVIAL, EQUIVALENT or INDETERMINATE against `margin`; None where no margin was given.
        margin: largest mean that does not matter, in the unit of the values, fixed before.
    """

    name: str
    unit: Unit
    questions: int
    domains: int
    seeds: int
    interval: Interval
    bootstrap: Interval | None
    per_seed: tuple[float, ...]
    icc_seed: float | None
    icc_unit: float | None
    design_effect: float | None
    effective_n: float | None
    smallest_detectable: float | None
    verdict: str | None = None
    margin: float | None = None


def estimate(name: str, domains_Q: Sequence[str], values_S_Q: Floats, *, margin: float | None = None) -> Estimate:
    """Return the mean over seeds and units of a table of values, such as differences of log-odds.

    Args:
        name: of the rung or domain.
        domains_Q: domain of each question.
        values_S_Q: one row per seed, one column per question, no cell missing.
        margin: for a verdict; None gives none.

    Raises:
        SpecError: a margin that is not above 0.
    """
    names = list(dict.fromkeys(domains_Q))
    unit, values_S_U = _units(domains_Q, values_S_Q)
    seeds, questions = values_S_Q.shape
    crossed = crossed_mean(values_S_U)
    interval = crossed.interval if seeds >= MIN_UNITS else these_seeds_only(values_S_U, unit=unit)
    return Estimate(
        name=name,
        unit=unit,
        questions=questions,
        domains=len(names),
        seeds=seeds,
        interval=_told(interval, unit, len(names)),
        bootstrap=_told(crossed_bootstrap([values_S_U]), unit, len(names)) if seeds >= MIN_UNITS else None,
        per_seed=tuple(float(mean) for mean in values_S_U.mean(axis=1)),
        verdict=None if margin is None else judge_mean(crossed, margin).word.value,
        margin=margin,
        **_of_population(crossed),
    )


class Judged(NamedTuple):
    """Hold a mean judged against a margin.

    Attributes:
        verdict: one of the four words, with its intervals and p values.
        power: chance that the test finds a mean as large as the margin; None where there is no interval.
        smallest: mean that it finds with power .8; None as above.
    """

    verdict: Verdict
    power: float | None
    smallest: float | None


def judge_units(domains_Q: Sequence[str], values_S_Q: Floats, margin: float) -> Judged:
    """Judge the mean over seeds and units against a margin; below five seeds for these very seeds.

    Args:
        domains_Q: as `estimate` takes them.
        values_S_Q: likewise.
        margin: largest mean that does not matter, fixed before the data were seen; above 0.

    Raises:
        SpecError: a margin that is not above 0.
    """
    _, values_S_U = _units(domains_Q, values_S_Q)
    error, df = error_of(values_S_U)
    if error is None or df is None:
        return Judged(judge_mean(crossed_mean(values_S_U), margin, min_seeds=len(values_S_U) + 1), None, None)
    verdict = judge(float(values_S_U.mean()), error, df, margin)
    return Judged(verdict, power_of(margin, error, df), minimum_detectable_effect(error, df))


def error_of(values_S_U: Floats) -> tuple[float | None, float | None]:
    """Return the standard error of the mean over seeds and units, and its degrees of freedom.

    Below five seeds it is over units alone, for these very seeds.

    Args:
        values_S_U: one row per seed, one column per unit, no cell missing.

    Returns:
        Both None where there are fewer than five units and seeds, or nothing varies.
    """
    seeds, units = values_S_U.shape
    if seeds < MIN_UNITS:  # Student's t over units, as `these_seeds_only`
        mean_U = values_S_U.mean(axis=0)
        error, df = (float(mean_U.std(ddof=1)) / units**0.5, units - 1.0) if units >= MIN_UNITS else (None, None)
    else:
        crossed = crossed_mean(values_S_U)
        error, df = crossed.standard_error, crossed.df
    if error is None or df is None or not (error > 0 and df > 0):
        return None, None
    return error, df


def _units(domains_Q: Sequence[str], values_S_Q: Floats) -> tuple[Unit, Floats]:
    """Return what the unit of a mean is, and its values."""
    names = list(dict.fromkeys(domains_Q))
    if len(names) >= MIN_UNITS:
        return "domain", _domain_means(names, domains_Q, values_S_Q)
    return "question", values_S_Q


def _domain_means(names: Sequence[str], domains_Q: Sequence[str], values_S_Q: Floats) -> Floats:
    """Return the mean of every domain's questions, domains in the order of their names."""
    of_Q = np.array(domains_Q)
    return np.stack([values_S_Q[:, of_Q == name].mean(axis=1) for name in names], axis=1)


def _told(interval: Interval, unit: Unit, domains: int) -> Interval:
    """Return the interval with what its units are: those of the statistics are called questions."""
    method = interval.method
    if unit == "domain":
        method = method.replace("seeds and questions", "seeds and domains")
    elif domains > 1:
        method = f"{method}, these {domains} domains only"
    return Interval(interval.estimate, interval.low, interval.high, interval.n, method, interval.reason)


def _of_population(found: CrossedMean) -> dict[str, float | None]:
    """Return what is said of seeds in general; nothing below five of them."""
    parts = found.components if found.n_seeds >= MIN_UNITS else None
    return {
        "icc_seed": None if parts is None else parts.icc_seed,
        "icc_unit": None if parts is None else parts.icc_question,
        "design_effect": found.design_effect,
        "effective_n": found.effective_n,
        "smallest_detectable": found.smallest_detectable,
    }


def smallest_effect(found: Estimate) -> float | None:
    """Return the smallest mean that such a table finds with power .8; below five seeds, given these very seeds.

    From five seeds on it is `smallest_detectable`. Below, it follows from the interval over units, and says nothing of
    a seed that was not run; what older records hold there is not read.
    """
    if found.seeds >= MIN_UNITS:
        return found.smallest_detectable
    low, high, df = found.interval.low, found.interval.high, found.interval.n - 1
    if low is None or high is None or not high > low:
        return None
    deviation = (high - low) / 2 / float(_scipy_stats.t.ppf(0.5 + LEVEL / 2, df))
    return minimum_detectable_effect(deviation, df)
