"""Compare two arms that answered the same questions: the difference of their rates, also at equal length of answers.

Longer answers have more room for everything that a judge minds. So the difference is given a second time within classes
of length, and a third time from a regression with the length in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy import stats as _scipy_stats

from narrowly.evaluate.judges.groups import groups_of
from narrowly.evaluate.judges.rates import DEFINITIONS, Seeds, questions_of, sums
from narrowly.evaluate.judges.surface import same_sign, surface
from narrowly.evaluate.paired.estimates import estimate
from narrowly.records.errors import SpecError
from narrowly.records.one_bank import one_bank
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Cuts, Verdict
from narrowly.stats.intervals import LEVEL, Interval
from narrowly.stats.random_effects import Floats
from narrowly.stats.ratios import linearised

BINS = 5
"""Classes of length: fifths of the answers of both arms."""

DRAWS = 2000
"""Resamples of questions."""

ALPHA = 0.01
"""Level of the test that arms differ in what the judge could not judge (D8 of our catalogue)."""


class Difference(Spec):
    """The difference of two arms, first minus second.

    Attributes:
        first, second: names of the arms.
        joint, literature: differences of the rates, over questions that both answered.
        at_equal_length: difference of joint rates within classes of length, weighted by the answers of both arms.
        shared_length: share of the answers that stand in a class with answers of both.
        adjusted: difference of joint rates from a linear regression with the logarithm of the length.
        same_sign: share of the grid of cuts at which the difference of joint rates has its sign.
        by_group: difference of joint rates by part of the bank and by rung.
        unjudged_p: of Fisher's exact test that both arms have the same share of parse and judge errors.
    """

    first: str
    second: str
    joint: Interval
    literature: Interval
    at_equal_length: Interval
    shared_length: float
    adjusted: Interval
    same_sign: float
    unjudged_p: float
    by_group: dict[str, Interval] = Field(default_factory=dict)

    @property
    def unequally_judged(self) -> bool:
        """Return whether the judge failed on one arm more than on the other, so that their rates do not compare."""
        return self.unjudged_p < ALPHA


def difference(
    names: tuple[str, str], first: Seeds, second: Seeds, cuts: Cuts, trained: Sequence[str] = ()
) -> Difference:
    """Return how two arms differ.

    Args:
        names: of the arms.
        first: verdicts of the first arm, seed by seed.
        second: verdicts of the second, in the same order of seeds.
        cuts: between the classes.
        trained: topics of the broad bank that the first arm was trained on; none gives no rungs.

    Raises:
        SpecError: two banks, different questions, or different numbers of files.
    """
    flat = [[row for verdicts in seeds for row in verdicts] for seeds in (first, second)]
    one_bank(
        (f"{name}, question {row.question_id}", row.bank_sha256)
        for name, rows in zip(names, flat, strict=True)
        for row in {one.bank_sha256: one for one in rows}.values()
    )
    if len(first) != len(second) or set(questions_of(first)) != set(questions_of(second)):
        raise SpecError(
            f"{names[0]} and {names[1]} did not answer the same questions; accepted: finished files of both"
        )
    joint, literature = (_of_rates(at, first, second, cuts) for at in (0, 1))
    at_length, shared = at_equal_length(*flat)
    return Difference(
        first=names[0],
        second=names[1],
        joint=joint,
        literature=literature,
        at_equal_length=at_length,
        shared_length=shared,
        adjusted=adjusted_for_length(*flat),
        same_sign=same_sign(surface(flat[0]), surface(flat[1]), joint.estimate or 0.0),
        unjudged_p=unequal_errors(*flat),
        by_group={
            group: _of_rates(0, own, groups_of(second, trained)[group], cuts)
            for group, own in groups_of(first, trained).items()
        },
    )


def _of_rates(which: int, first: Seeds, second: Seeds, cuts: Cuts) -> Interval:
    """Return the difference of one rate, questions matched."""
    order = questions_of(first)
    tables = []
    for seeds in (first, second):
        columns = [questions_of(seeds).index(question) for question in order]
        sums_S_Q, counts_S_Q = sums(DEFINITIONS[which], seeds, cuts)
        if not counts_S_Q.sum():
            return Interval(None, None, None, len(order), "difference of rates", "an arm has no answer that counts")
        tables.append(linearised(sums_S_Q[:, columns], counts_S_Q[:, columns]))
    values_S_Q: Floats = tables[0] - tables[1]
    return estimate(DEFINITIONS[which].name, ["all"] * len(order), values_S_Q).interval


def at_equal_length(
    first: Sequence[Verdict], second: Sequence[Verdict], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Interval, float]:
    """Return the difference of joint rates within classes of length, and the share of answers in shared classes.

    Classes are fifths of the answers of both arms by characters. Each class with answers of both counts by its answers.
    The interval resamples questions, the same draws for both arms.
    """
    lengths = np.array([row.characters for rows in (first, second) for row in rows], dtype=np.float64)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)[1:-1]))
    questions = list(dict.fromkeys(row.question_id for rows in (first, second) for row in rows))
    at = {question: number for number, question in enumerate(questions)}
    events_A_Q_B = np.zeros((2, len(questions), len(edges) + 1))
    counts_A_Q_B = np.zeros_like(events_A_Q_B)
    for arm, rows in enumerate((first, second)):
        for row in rows:
            place = arm, at[row.question_id], int(np.searchsorted(edges, row.characters, side="right"))
            counts_A_Q_B[place] += 1
            events_A_Q_B[place] += row.outcome is OutcomeClass.MISALIGNED
    whole_1_Q = np.ones((1, len(questions)))
    value, shared = _stratified(whole_1_Q, events_A_Q_B, counts_A_Q_B)
    method = f"{100 * LEVEL:g} % percentile interval, questions resampled, {draws} draws; {BINS} classes of length"
    if len(questions) < 5 or not np.isfinite(value[0]):
        reason = "no class of length has answers of both" if len(questions) >= 5 else "fewer than 5 questions"
        estimate_ = float(value[0]) if np.isfinite(value[0]) else None
        return Interval(estimate_, None, None, len(questions), method, reason), float(shared[0])
    generator = np.random.default_rng(seed)
    weights_D_Q = generator.multinomial(len(questions), np.full(len(questions), 1 / len(questions)), size=draws)
    found_D, _ = _stratified(weights_D_Q.astype(np.float64), events_A_Q_B, counts_A_Q_B)
    low, high = np.nanquantile(found_D, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(float(value[0]), float(low), float(high), len(questions), method, None), float(shared[0])


def _stratified(weights_D_Q: Floats, events_A_Q_B: Floats, counts_A_Q_B: Floats) -> tuple[Floats, Floats]:
    """Return the weighted difference of every draw, and the share of its answers in classes with both arms."""
    events_A_D_B, counts_A_D_B = weights_D_Q @ events_A_Q_B, weights_D_Q @ counts_A_Q_B
    both_D_B = (counts_A_D_B > 0).all(axis=0)
    answers_D_B = counts_A_D_B.sum(axis=0) * both_D_B
    with np.errstate(divide="ignore", invalid="ignore"):
        rates_A_D_B = np.where(both_D_B, events_A_D_B / counts_A_D_B, 0.0)
        found_D = ((rates_A_D_B[0] - rates_A_D_B[1]) * answers_D_B).sum(axis=1) / answers_D_B.sum(axis=1)
    return found_D, answers_D_B.sum(axis=1) / counts_A_D_B.sum(axis=(0, 2))


def adjusted_for_length(first: Sequence[Verdict], second: Sequence[Verdict]) -> Interval:
    """Return the difference of joint rates at equal logarithm of the length, by least squares, errors by question."""
    import statsmodels.api as sm

    rows = [*first, *second]
    arm_N = np.array([1.0] * len(first) + [0.0] * len(second))
    length_N = np.log1p([row.characters for row in rows])
    event_N = np.array([float(row.outcome is OutcomeClass.MISALIGNED) for row in rows])
    questions = {row.question_id for row in rows}
    method = f"{100 * LEVEL:g} % interval of a linear regression with log length, errors clustered by question"
    if len(questions) < 5 or event_N.std() == 0:
        reason = "fewer than 5 questions" if len(questions) < 5 else "no answer differs from another"
        return Interval(None, None, None, len(questions), method, reason)
    design_N_3 = np.column_stack([np.ones(len(rows)), arm_N, length_N])
    groups = np.unique([row.question_id for row in rows], return_inverse=True)[1]
    if np.linalg.matrix_rank(design_N_3) < 3:
        return Interval(None, None, None, len(questions), method, "all answers of an arm have the same length")
    fitted = sm.OLS(event_N, design_N_3).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fitted.conf_int(alpha=1 - LEVEL)[1]
    return Interval(float(fitted.params[1]), float(low), float(high), len(questions), method, None)


def unequal_errors(first: Sequence[Verdict], second: Sequence[Verdict]) -> float:
    """Return the p value of Fisher's exact test that parse and judge errors are as frequent in both arms."""
    failed = [
        sum(row.outcome in (OutcomeClass.PARSE_ERROR, OutcomeClass.JUDGE_ERROR) for row in rows)
        for rows in (first, second)
    ]
    table = [[count, len(rows) - count] for count, rows in zip(failed, (first, second), strict=True)]
    return float(_scipy_stats.fisher_exact(table).pvalue)
