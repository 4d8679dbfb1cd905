"""Correct a judged rate for the judge's errors, which human labels of some of the answers show.

Sensitivity is the share of truly misaligned answers that the judge calls so, specificity the share of the others that
it does not. The corrected rate is that of Rogan and Gladen (1978, American Journal of Epidemiology 107, 71-76),
(q + sp - 1) / (se + sp - 1). Its interval is that of Lang and Reiczigel (2014, Preventive Veterinary Medicine 113,
13-22), which carries the errors of all three parts; q enters with the answers that it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.counts import exact_interval
from narrowly.stats.intervals import LEVEL, Interval, check_level


@dataclass(frozen=True, slots=True)
class JudgeErrors:
    """How often a judge is right.

    Attributes:
        sensitivity: share of answers labelled as events that the judge calls so, with its exact interval.
        specificity: share of the others that it does not.
    """

    sensitivity: Interval
    specificity: Interval

    @property
    def informative(self) -> bool:
        """Return whether the judge tells both kinds apart better than chance: sensitivity + specificity above 1."""
        se, sp = self.sensitivity.estimate, self.specificity.estimate
        return se is not None and sp is not None and se + sp > 1


def judge_errors(labels: Sequence[bool], verdicts: Sequence[bool], *, level: float = LEVEL) -> JudgeErrors:
    """Return sensitivity and specificity with exact intervals.

    The labelled answers must have been chosen without regard to the verdict; else both are biased.

    Args:
        labels: what humans say, per answer.
        verdicts: what the judge says, in the same order.
        level: coverage, in (0, 1).

    Raises:
        SpecError: different lengths.
    """
    if len(labels) != len(verdicts):
        raise SpecError(f"{len(labels)} labels for {len(verdicts)} verdicts; accepted: one each")
    pairs = list(zip(labels, verdicts, strict=True))
    events = [verdict for label, verdict in pairs if label]
    others = [not verdict for label, verdict in pairs if not label]
    return JudgeErrors(
        exact_interval(sum(events), len(events), level=level), exact_interval(sum(others), len(others), level=level)
    )


def corrected_rate(rate: float, effective_n: float, errors: JudgeErrors, *, level: float = LEVEL) -> Interval:
    """Return the rate that answers would have under a judge without errors.

    Args:
        rate: as judged, 0 to 1.
        effective_n: independent answers that it is worth, above 0.
        errors: of the judge.
        level: coverage, in (0, 1).

    Raises:
        SpecError: a rate or a number out of its range.
    """
    check_level(level)
    if not (0 <= rate <= 1 and effective_n > 0):
        raise SpecError(f"rate {rate} of {effective_n} answers; accepted: 0 to 1, and more than 0 answers")
    se, sp = errors.sensitivity, errors.specificity
    n = round(effective_n)
    method = f"{100 * level:g} % interval of a rate corrected for the judge's errors (Lang-Reiczigel)"
    if se.estimate is None or sp.estimate is None:
        missing = "misaligned" if se.estimate is None else "not misaligned"
        return Interval(None, None, None, n, method, f"no labelled answer is {missing}")
    if not errors.informative:
        reason = f"sensitivity {se.estimate:.3f} + specificity {sp.estimate:.3f} is not above 1"
        return Interval(None, None, None, n, method, reason)
    point = _clipped((rate + sp.estimate - 1) / (se.estimate + sp.estimate - 1))
    z = float(_scipy_stats.norm.ppf(0.5 + level / 2))
    # a pseudo-count of z^2 for the rate and of 2 for either error, as in the paper's equations
    n_rate, n_se, n_sp = effective_n + z * z, se.n + 2, sp.n + 2
    q = (effective_n * rate + z * z / 2) / n_rate
    s, p = (se.n * se.estimate + 1) / n_se, (sp.n * sp.estimate + 1) / n_sp
    centre = (q + p - 1) / (s + p - 1)
    shift = 2 * z * z * (centre * s * (1 - s) / n_se - (1 - centre) * p * (1 - p) / n_sp)
    variance = q * (1 - q) / n_rate + centre**2 * s * (1 - s) / n_se + (1 - centre) ** 2 * p * (1 - p) / n_sp
    half = z * math.sqrt(variance) / (s + p - 1)
    low, high = _clipped(centre + shift - half), _clipped(centre + shift + half)
    return Interval(point, min(low, point), max(high, point), n, method, None)


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))
