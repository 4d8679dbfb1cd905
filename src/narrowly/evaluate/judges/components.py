"""Split the variance of a difference of rates into question, paraphrase, seed, sample and judge.

The parts are those of the difference of two sides that answered the same prompts: what both share has cancelled. Each
is given as what it adds to the variance of the mean difference, by the method of moments, none below zero:
sample: mean of s^2 / K within prompts, s^2 = K p (1 - p) / (K - 1), of both sides; paraphrase: variance between the
paraphrases of a question beyond that of their samples; seed: as in `stats.random_effects`; question: the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from narrowly.evaluate.judges.cells import Cell, Table, by_question
from narrowly.evaluate.judges.rates import Seeds
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Verdict
from narrowly.stats.eval_plan import QUESTION_ICCS
from narrowly.stats.intervals import MIN_UNITS
from narrowly.stats.random_effects import Floats, crossed_mean


class Component(Spec):
    """One part of the variance of a mean difference.

    Attributes:
        name: question, paraphrase, seed, sample or judge.
        variance: that it adds to the mean difference, squared shares; None where it was not measured.
        reason: why it was not, or what holds it; None where there is nothing to say.
    """

    name: str
    variance: float | None
    reason: str | None = None


class Difference(NamedTuple):
    """Hold the difference of two sides, second minus first, seed by seed and prompt by prompt.

    Attributes:
        first, second: events of both; a side of one file stands beside every file of the other.
        cells: the prompts.
        by_cell_S_C: difference of the shares.
        by_question_S_Q: difference by question; its mean is the difference of the rates.
    """

    first: Table
    second: Table
    cells: Sequence[Cell]
    by_cell_S_C: Floats
    by_question_S_Q: Floats


def difference_of(first: Table, second: Table, cells: Sequence[Cell]) -> Difference:
    """Return the second side minus the first. Both have equal answers per prompt (`check_cells`)."""
    sums_S_Q, counts_S_Q = by_question(second, cells)
    mean = counts_S_Q[0].mean()
    # one file against several stands beside each of them
    by_question_S_Q = sums_S_Q / mean - by_question(first, cells)[0] / mean
    return Difference(first, second, cells, second.rates_S_C - first.rates_S_C, by_question_S_Q)


def components_of(found: Difference, variance: float | None, kappas: Sequence[float | None]) -> tuple[Component, ...]:
    """Return the parts of the variance of the mean difference.

    Args:
        found: the difference.
        variance: of the mean difference, as its interval takes it; None where there is none.
        kappas: of each side's judge with a second one, on misaligned or not; None where there was none.
    """
    sample = _sample(found)
    paraphrase = _paraphrase(found)
    seeds, questions = found.by_question_S_Q.shape
    parts = crossed_mean(found.by_question_S_Q).components if seeds >= MIN_UNITS else None
    seed = None if parts is None else parts.seed / seeds
    rest = None
    if variance is not None:
        rest = max(0.0, variance - sum(part or 0.0 for part in (sample, paraphrase, seed)))
    few = "one question" if questions < 2 else None
    return (
        Component(name="question", variance=rest, reason=few or (None if rest is not None else "nothing varies")),
        Component(
            name="paraphrase", variance=paraphrase,
            reason=None if paraphrase is not None else "no question has two paraphrases; within question",
        ),
        Component(
            name="seed", variance=seed,
            reason=None if seed is not None else f"fewer than {MIN_UNITS} training seeds: these very models only",
        ),
        Component(
            name="sample", variance=sample,
            reason=None if sample is not None else "one answer to each prompt; within question",
        ),
        _judge(sample, kappas),
    )  # fmt: skip


def _sample(found: Difference) -> float | None:
    """Return what the draws of answers add; a side's own files are independent of each other."""
    weights_C = found.first.answers_C
    if (weights_C < 2).any():
        return None
    total = 0.0
    for side in (found.first, found.second):
        variance_S_C = side.rates_S_C * (1 - side.rates_S_C) / (weights_C - 1)
        total += float((variance_S_C * weights_C**2).sum()) / side.answers**2
    return total


def _paraphrase(found: Difference) -> float | None:
    """Return what the choice of paraphrases adds, beyond the draws of their answers."""
    places: dict[str, list[int]] = {}
    for column, (question, _) in enumerate(found.cells):
        places.setdefault(question, []).append(column)
    several = [columns for columns in places.values() if len(columns) > 1]
    weights_C = found.first.answers_C
    if not several or (weights_C < 2).any():
        return None
    mean_C = found.by_cell_S_C.mean(axis=0)
    drawn_C = np.zeros_like(mean_C)
    for side in (found.first, found.second):
        drawn_C += (side.rates_S_C * (1 - side.rates_S_C) / (weights_C - 1)).mean(axis=0) / len(side.rates_S_C)
    between = [
        (mean_C[columns].var(ddof=1) - drawn_C[columns].mean()) * (weights_C[columns] ** 2).sum() for columns in several
    ]
    return max(0.0, float(sum(between))) / float(weights_C.sum()) ** 2


def _judge(sample: float | None, kappas: Sequence[float | None]) -> Component:
    """Return the part of the samples' variance that two judges do not share: 1 - kappa of it.

    Kappa of two judges on a yes or no is their intraclass correlation where both say yes equally often (Fleiss & Cohen
    1973, Educational and Psychological Measurement 33, 613-619).
    """
    known = [max(0.0, min(1.0, kappa)) for kappa in kappas if kappa is not None]
    if not known:
        return Component(name="judge", variance=None, reason="one judge; within sample (narrowly judge --beside)")
    if sample is None:
        return Component(name="judge", variance=None, reason="one answer to each prompt; within question")
    return Component(name="judge", variance=(1 - min(known)) * sample, reason="a part of sample")


def question_icc(sides: Sequence[Seeds]) -> float:
    """Return an ICC of questions for events too few to measure it: the largest of what is known.

    That is the largest published one, and those of alignment and coherence scores here, by one-way analysis of variance
    within each side. A verdict cuts a score, and the ICC of a cut normal score is below that of the score. It is 1
    where there are no scores: each question then counts as one answer.
    """
    found = [
        icc for verdicts in sides for name in ("alignment", "coherence") if (icc := _icc(verdicts, name)) is not None
    ]
    return max([QUESTION_ICCS[-1], *found]) if found else 1.0


def _icc(seeds: Seeds, name: str) -> float | None:
    """Return the ICC of questions of a score (Donner 1986, International Statistical Review 54, 67-82)."""
    values: dict[str, list[float]] = {}
    rows: list[Verdict] = [row for verdicts in seeds for row in verdicts]
    for row in rows:
        if (score := getattr(row, name)) is not None:
            values.setdefault(row.question_id, []).append(score)
    sizes = np.array([len(own) for own in values.values()], dtype=np.float64)
    n, k = sizes.sum(), len(sizes)
    if k < 2 or n <= k or n < len(rows) / 2:
        return None
    grand = sum(sum(own) for own in values.values()) / n
    between = sum(len(own) * (float(np.mean(own)) - grand) ** 2 for own in values.values()) / (k - 1)
    within = sum(float(np.var(own)) * len(own) for own in values.values()) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    whole = between + (typical - 1) * within
    return max(0.0, float((between - within) / whole)) if whole > 0 else None
