"""Plan an evaluation: how many seeds, questions and samples a difference of two arms needs, and on what assumptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from narrowly.records.errors import SpecError
from narrowly.stats.power import ALPHA, POWER, Design, Variation, detectable, questions_needed, smallest_design

QUESTION_ICCS = (0.049, 0.211)
"""Median and largest ICC of questions in the one published measurement (docs/statistics.md)."""
SEED_ICC = 0.01
"""Assumed: nobody has published one. At a rate of 5 % seeds then differ with a standard deviation of 2.2 points."""
SEEDS = (5, 8, 12, 16, 24, 32, 48, 64)
SAMPLES = (1, 4, 10)
MOST_QUESTIONS = 400
"""Questions of the largest bank that is thought of, unless the caller says otherwise."""
MOST_SEEDS = 200
"""Seeds beyond which nothing is looked for."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What one number of seeds needs.

    Attributes:
        icc_question: the assumed ICC of questions.
        seeds: runs of each arm.
        questions: fewest questions for each number of samples; None where the most do not suffice.
        answers: fewest answers of one arm among these designs; None where there is none.
        at_best: smallest effect that this many seeds detect, with the most questions and the most samples.
    """

    icc_question: float
    seeds: int
    questions: tuple[int | None, ...]
    answers: int | None
    at_best: float


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """Designs that detect an effect.

    Attributes:
        detect: the effect, in the unit of the measure.
        sd: assumed standard deviation of one value of one arm.
        icc_seed: assumed ICC of seeds.
        samples: numbers of samples per question and seed, in the order of `PlanRow.questions`.
        most_questions: no design has more.
        most_seeds: nor more of these.
        alpha: two-sided level.
        power: chance to find the effect.
        rows: one per ICC of questions and number of seeds.
        smallest: for each ICC of questions the design with the fewest seeds, then the fewest answers; None for none.
    """

    detect: float
    sd: float
    icc_seed: float
    samples: tuple[int, ...]
    most_questions: int
    most_seeds: int
    alpha: float
    power: float
    rows: tuple[PlanRow, ...]
    smallest: tuple[tuple[float, Design | None], ...]


def sd_of_rate(rate: float, difference: float) -> float:
    """Return the standard deviation of a counted answer, from the mean variance of arms at rate and rate + difference.

    Raises:
        SpecError: where the rates of both arms are not in (0, 1).
    """
    other = rate + difference
    if not (0 < rate < 1 and 0 < other < 1):
        raise SpecError(f"rates of the two arms are {rate:g} and {other:g}; accepted: both above 0 and below 1")
    return math.sqrt((rate * (1 - rate) + other * (1 - other)) / 2)


def plan_evaluation(
    detect: float,
    sd: float,
    *,
    question_iccs: Sequence[float] = QUESTION_ICCS,
    icc_seed: float = SEED_ICC,
    samples: Sequence[int] = SAMPLES,
    most_questions: int = MOST_QUESTIONS,
    alpha: float = ALPHA,
    power: float = POWER,
) -> EvalPlan:
    """Return which designs detect a difference of two arms.

    Args:
        detect: the difference, above 0, in units of `sd`.
        sd: standard deviation of one value of one arm.
        question_iccs: ICCs of questions to plan for.
        icc_seed: ICC of seeds.
        samples: numbers of samples per question and seed; (1,) for exact values, which have no sampling.
        most_questions: the largest bank to think of.
        alpha: two-sided level.
        power: chance to find the difference.

    Raises:
        SpecError: where an argument is out of its range.
    """
    if not samples or min(samples) < 1:
        raise SpecError(f"samples are {list(samples)}; accepted: whole numbers of at least 1")
    rows, smallest = [], []
    for icc in question_iccs:
        variation = Variation(sd, icc_seed, icc)
        found: list[Design] = []
        for count in samples:
            design = smallest_design(
                detect, count, variation, most_questions=most_questions, most_seeds=MOST_SEEDS, alpha=alpha, power=power
            )
            found += [design] if design else []
        smallest.append((icc, min(found, key=lambda design: (design.seeds, design.answers), default=None)))
        for seeds in SEEDS:
            questions = tuple(
                questions_needed(detect, seeds, count, variation, most=most_questions, alpha=alpha, power=power)
                for count in samples
            )
            answers = [
                Design(seeds, needed, count).answers
                for needed, count in zip(questions, samples, strict=True)
                if needed is not None
            ]
            largest = Design(seeds, most_questions, max(samples))
            at_best = detectable(largest, variation, alpha=alpha, power=power)
            rows.append(PlanRow(icc, seeds, questions, min(answers, default=None), at_best))
    return EvalPlan(
        detect, sd, icc_seed, tuple(samples), most_questions, MOST_SEEDS, alpha, power, tuple(rows), tuple(smallest)
    )
