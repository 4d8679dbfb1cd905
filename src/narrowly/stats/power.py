"""Say what a design of seeds, questions and samples can detect, and which design detects a given effect.

Every answer (or exact value) has a variance that splits into seed, question and the rest. Samples thin the rest only,
questions thin all but the seeds' part, seeds all but the questions'. Formulas and their limits: docs/statistics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import optimize as _scipy_optimize
from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError, counted
from narrowly.stats.intervals import MIN_UNITS

ALPHA = 0.05
"""Two-sided level, that of the 95 % intervals."""
POWER = 0.8
"""The usual convention (Cohen 1988, "Statistical power analysis", ch. 2)."""


@dataclass(frozen=True, slots=True)
class Variation:
    """How the values of a contrast vary.

    Attributes:
        sd: standard deviation of one value of one arm: sqrt(p (1 - p)) of an answer counted at rate p.
        icc_seed: share of that variance between seeds.
        icc_question: share of that variance between questions.
        arms: 2 for a difference of two arms, 1 for the mean of one. What two arms share would cancel; nothing is
            taken to be shared, which is cautious.
    """

    sd: float
    icc_seed: float
    icc_question: float
    arms: int = 2

    def __post_init__(self) -> None:
        if not (self.sd > 0 and math.isfinite(self.sd)):
            raise SpecError(f"standard deviation is {self.sd}; accepted: a finite number above 0")
        shares = (self.icc_seed, self.icc_question)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise SpecError(
                f"ICC of seed and question are {shares[0]} and {shares[1]}; accepted: at least 0, sum at most 1"
            )
        if self.arms not in (1, 2):
            raise SpecError(f"arms is {self.arms}; accepted: 1 or 2")


@dataclass(frozen=True, slots=True)
class Design:
    """A full table: so many seeds, questions, and samples per question and seed; each at least 1."""

    seeds: int
    questions: int
    samples: int = 1

    @property
    def answers(self) -> int:
        """Return how many answers one arm has."""
        return self.seeds * self.questions * self.samples


def design_effect(design: Design, variation: Variation) -> float:
    """Return the variance of the mean over that of as many independent answers: 1 + (QK - 1) r_s + (SK - 1) r_q.

    S seeds, Q questions, K samples; for one seed it is Kish's 1 + (K - 1) r_q (1965, "Survey sampling") if r_s is 0.
    """
    per_seed, per_question = design.questions * design.samples, design.seeds * design.samples
    return 1 + (per_seed - 1) * variation.icc_seed + (per_question - 1) * variation.icc_question


def effective_n(design: Design, variation: Variation) -> float:
    """Return how many independent answers the answers of one arm are worth."""
    return design.answers / design_effect(design, variation)


def standard_error(design: Design, variation: Variation) -> float:
    """Return the standard error of the mean, or of the difference of two arms, in units of `variation.sd`."""
    return variation.sd * math.sqrt(variation.arms / effective_n(design, variation))


def satterthwaite_df(design: Design, variation: Variation) -> float:
    """Return the degrees of freedom that the primary interval will have on average, from expected mean squares.

    Raises:
        SpecError: where there are fewer than two seeds or questions.
    """
    if min(design.seeds, design.questions) < 2:
        size = f"{counted(design.seeds, 'seed')} x {counted(design.questions, 'question')}"
        raise SpecError(f"{size}; accepted: at least two of each")
    rest = (1 - variation.icc_seed - variation.icc_question) / design.samples
    by_seed, by_question = rest + design.questions * variation.icc_seed, rest + design.seeds * variation.icc_question
    free_s, free_q = design.seeds - 1, design.questions - 1
    spread = by_seed**2 / free_s + by_question**2 / free_q + rest**2 / (free_s * free_q)
    return (by_seed + by_question - rest) ** 2 / spread


def power_of(effect: float, standard_error: float, df: float, *, alpha: float = ALPHA) -> float:
    """Return the chance that a two-sided t test at `alpha` finds an effect (noncentral t).

    Args:
        effect: the true effect, in units of the standard error's.
        standard_error: above 0.
        df: degrees of freedom of the standard error.
        alpha: two-sided level of the test.
    """
    limit, shift = _scipy_stats.t.ppf(1 - alpha / 2, df), abs(effect) / standard_error
    # The lower tail is the upper one of the mirrored shift: nct.cdf of scipy 1.17 is NaN far out, nct.sf is not.
    return float(_scipy_stats.nct.sf(limit, df, shift) + _scipy_stats.nct.sf(limit, df, -shift))


def minimum_detectable_effect(standard_error: float, df: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest effect that a two-sided t test finds with the given power.

    Args:
        standard_error: above 0.
        df: degrees of freedom of the standard error.
        alpha: two-sided level of the test, in (0, 1).
        power: chance to find it, above alpha and below 1.

    Raises:
        SpecError: where an argument is out of its range.
    """
    if not (standard_error > 0 and df > 0 and math.isfinite(standard_error)):
        raise SpecError(f"standard error {standard_error} with {df} degrees of freedom; accepted: above 0 each")
    if not 0 < alpha < power < 1:
        raise SpecError(f"alpha {alpha} and power {power}; accepted: 0 < alpha < power < 1")
    limit = float(_scipy_stats.t.ppf(1 - alpha / 2, df))
    highest = limit + float(_scipy_stats.t.ppf(power, df)) + 1.0
    while power_of(highest, 1.0, df, alpha=alpha) < power:
        highest *= 1.5
    return standard_error * float(
        _scipy_optimize.brentq(lambda shift: power_of(shift, 1.0, df, alpha=alpha) - power, 0.0, highest)
    )


def detectable(design: Design, variation: Variation, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest effect that a design detects, in units of `variation.sd`."""
    df = satterthwaite_df(design, variation)
    return minimum_detectable_effect(standard_error(design, variation), df, alpha=alpha, power=power)


def questions_needed(
    effect: float,
    seeds: int,
    samples: int,
    variation: Variation,
    *,
    most: int,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    """Return the fewest questions with which a design detects an effect; None where `most` do not suffice.

    Raises:
        SpecError: where the effect is not above 0, or an argument is out of its range.
    """
    if not (effect > 0 and math.isfinite(effect)):
        raise SpecError(f"effect to detect is {effect}; accepted: a finite number above 0")
    if min(seeds, most) < 2 or samples < 1:
        raise SpecError(f"{seeds} seeds, {samples} samples, at most {most} questions; accepted: at least 2, 1 and 2")
    if not 0 < alpha < power < 1:
        raise SpecError(f"alpha {alpha} and power {power}; accepted: 0 < alpha < power < 1")
    # A t test is never stronger than the z test of the same standard error, so nothing below `least` can suffice. From
    # there every number is tried: more questions can cost degrees of freedom, so halving might step over the first.
    largest_error = effect / float(_scipy_stats.norm.ppf(1 - alpha / 2) + _scipy_stats.norm.ppf(power))
    by_seeds = variation.icc_seed / seeds
    spare = largest_error**2 / (variation.arms * variation.sd**2) - by_seeds
    if spare <= 0:
        return None
    rest = (1 - variation.icc_seed - variation.icc_question) / samples
    least = max(2, math.floor((variation.icc_question + rest / seeds) / spare))
    for questions in range(least, most + 1):
        design = Design(seeds, questions, samples)
        found = power_of(effect, standard_error(design, variation), satterthwaite_df(design, variation), alpha=alpha)
        if found >= power:
            return questions
    return None


def smallest_design(
    effect: float,
    samples: int,
    variation: Variation,
    *,
    most_questions: int,
    most_seeds: int = 1000,
    alpha: float = ALPHA,
    power: float = POWER,
) -> Design | None:
    """Return the design with the fewest seeds, then the fewest questions, that detects an effect; None where none does.

    No design has fewer than five seeds, since fewer give no population interval.

    Raises:
        SpecError: where the effect is not above 0, or an argument is out of its range.
    """
    for seeds in range(MIN_UNITS, most_seeds + 1):
        questions = questions_needed(effect, seeds, samples, variation, most=most_questions, alpha=alpha, power=power)
        if questions is not None:
            return Design(seeds, questions, samples)
    return None
