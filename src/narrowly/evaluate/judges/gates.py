"""Hold the rates of one side against those of another: rise, upper bound, margin, and the chance to see such a rise.

Three rises are held against margins: of misaligned answers, of answers that are none (coherence lost), and of both
together. The third is why gibberish never passes: an answer that turns from misaligned to incoherent leaves it as it
is, and one that turns from aligned to incoherent raises it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize as _scipy_optimize
from scipy import stats as _scipy_stats

from narrowly.evaluate.judges.cells import Event
from narrowly.evaluate.judges.components import Difference
from narrowly.evaluate.paired.estimates import error_of
from narrowly.records.gate import Word
from narrowly.records.spec import Spec
from narrowly.stats.gate import bounds, held
from narrowly.stats.intervals import LEVEL
from narrowly.stats.power import ALPHA, minimum_detectable_effect, power_of

FEW = 10
"""Events of both sides below which the variance of their difference is not measured from them. Ours."""


class Gate(Spec):
    """One rise, held against its margin. Rises, bounds and margins are shares of all answers.

    Attributes:
        name, definition: what is counted.
        first, second: rates of both sides.
        events: of both sides.
        rise: second minus first.
        low, high: two-sided 95 % interval; None where the events are too few for one.
        upper: one-sided 95 % upper bound; None where there is none.
        margin: largest rise that does not matter.
        power: chance that this design shows a rise of exactly the margin; None where that cannot be said.
        smallest: rise that it shows with power .8; None as above.
        word: rise, no rise, or cannot tell.
        method: how the bounds were made.
        effective_answers: independent answers of a side that the design is worth for such an event; None as above.
    """

    name: str
    definition: str
    first: float
    second: float
    events: tuple[int, int]
    rise: float
    low: float | None
    high: float | None
    upper: float | None
    margin: float
    power: float | None
    smallest: float | None
    word: Word
    method: str
    effective_answers: float | None


class Spread(NamedTuple):
    """Hold the variance of a measured rise and the degrees of freedom of its root; None where nothing varies."""

    error: float | None
    df: float | None

    @property
    def variance(self) -> float | None:
        """Return the variance of the rise."""
        return None if self.error is None else self.error**2


def spread_of(found: Difference) -> Spread:
    """Return the spread of a difference: over seeds and questions from five seeds on, over questions below."""
    return Spread(*error_of(found.by_question_S_Q))


def gate_of(event: Event, found: Difference, margin: float, icc: float) -> Gate:
    """Hold the rise of an event against its margin.

    Args:
        event: that is counted.
        found: second side minus first.
        margin: largest rise that does not matter, a share above 0 and below 1.
        icc: of questions, where there are too few events to measure it.
    """
    first, second = found.first, found.second
    rise = float(found.by_question_S_Q.mean())
    measured = spread_of(found)
    events = round(first.events), round(second.events)
    others = [side.answers - side.events for side in (first, second)]
    is_rare = min(sum(events), sum(others)) < FEW
    if is_rare or measured.error is None or measured.df is None:
        exact = _exact(found, icc, margin, is_rare=is_rare)
        low, high, upper, is_shown = None, None, exact.upper, exact.is_shown
        error, df, method = exact.error, exact.df, exact.method
    else:
        low, high, _ = bounds(rise, measured.error, measured.df)
        upper = _score_bound(first.rate, second.rate, rise, measured.error, measured.df)
        is_shown = low > 0
        error, df = _at_margin(first.rate, second.rate, measured.error, margin), measured.df
        method = _words(found)
    known = error > 0 and df > 0
    variance = first.rate * (1 - first.rate) + _shifted(first.rate, margin)
    return Gate(
        name=event.name,
        definition=event.words,
        first=first.rate,
        second=second.rate,
        events=events,
        rise=rise,
        low=low,
        high=high,
        upper=upper,
        margin=margin,
        power=power_of(margin, error, df) if known else None,
        smallest=minimum_detectable_effect(error, df) if known else None,
        word=held(is_shown, upper, margin),
        method=method,
        effective_answers=variance / error**2 if known else None,
    )


def _shifted(rate: float, margin: float) -> float:
    """Return the variance of an answer whose rate has risen by the margin, as far as a rate can."""
    other = min(1.0, rate + margin)
    return other * (1 - other)


def _at_margin(first: float, second: float, error: float, margin: float) -> float:
    """Return the standard error that a rise of exactly the margin would have.

    The variance of an answer counted at rate p is p (1 - p). All components are taken to keep their shares of it.
    """
    now = first * (1 - first) + second * (1 - second)
    then = first * (1 - first) + _shifted(first, margin)
    return error * math.sqrt(then / now) if now > 0 else error


def _score_bound(first: float, second: float, rise: float, error: float, df: float) -> float:
    """Return the largest rise that is no more than t standard errors above the measured one, each at its own rate.

    The variance at the measured rate is too small where chance left events out, and the plain bound then passes a rise
    of the margin in up to 11 % instead of 5 % (LOG.md). This inverts the score test, as Wilson (1927) did for a rate.
    """
    limit = float(_scipy_stats.t.ppf(LEVEL, df))

    def above(upper: float) -> float:
        return rise + limit * _at_margin(first, second, error, upper) - upper

    if above(1.0) >= 0:
        return 1.0
    return float(_scipy_optimize.brentq(above, rise, 1.0))


def _words(found: Difference) -> str:
    seeds, questions = found.by_question_S_Q.shape
    if seeds >= 5:
        return f"Student's t of {seeds} random seeds and {questions} questions, Satterthwaite's df"
    return f"Student's t over {questions} questions, these very models only"


class Exact(NamedTuple):
    """Hold what is known of a rise where its variance cannot be measured.

    Attributes:
        is_shown: by the sign test.
        upper: one-sided 95 % upper bound.
        error, df: that the rise would have, were it the margin.
        method: in words.
    """

    is_shown: bool
    upper: float
    error: float
    df: float
    method: str


def _exact(found: Difference, icc: float, margin: float, *, is_rare: bool) -> Exact:
    """Return exact bounds of a rise.

    Few events: the rise is at most the second side's rate, since the first is at least zero. Answers to one question
    count as n / (1 + (n - 1) icc) independent ones (Kish 1965). More events, none of whose questions differ: it is at
    most the share of questions that rise. It is shown where the questions with more events on the second side outnumber
    those on the first beyond chance (exact sign test).
    """
    side = found.second
    questions = found.by_question_S_Q.shape[1]
    worth = side.answers / (1 + (side.answers / questions - 1) * icc)
    signs = Counter(np.sign(np.round(found.by_question_S_Q.sum(axis=0), 12)).astype(int).tolist())
    more, fewer = signs[1], signs[-1]
    if is_rare:
        upper = _upper(side.rate * worth, worth)
        method = (
            f"fewer than {FEW} events: exact bound of the second side's rate over {worth:.0f} independent answers "
            f"(ICC of questions {icc:.2f})"
        )
    else:
        upper = _upper(more, questions)
        method = f"nothing that varies between {questions} questions: exact bound of the share of questions that rise"
    variance = found.first.rate * (1 - found.first.rate) + _shifted(found.first.rate, margin)
    return Exact(
        more > fewer and float(_scipy_stats.binomtest(more, more + fewer).pvalue) < ALPHA,
        upper,
        math.sqrt(variance / worth),
        questions - 1.0,
        method,
    )


def _upper(events: float, n: float) -> float:
    """Return Clopper and Pearson's one-sided upper bound of a rate; numbers need not be whole."""
    return 1.0 if events >= n else float(_scipy_stats.beta.ppf(LEVEL, events + 1, n - events))


def worst_of(gates: Sequence[Gate]) -> Word:
    """Return what is known of all rises together: one that is shown counts more than one that is open."""
    words = [gate.word for gate in gates]
    return next((word for word in (Word.RISE, Word.OPEN) if word in words), Word.NO_RISE)
