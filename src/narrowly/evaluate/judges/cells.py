"""Bring the verdicts of two sides into cells: the same question, paraphrase and number of sample on both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from narrowly.evaluate.judges.rates import Seeds
from narrowly.records.errors import SpecError, counted
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Verdict
from narrowly.stats.random_effects import Floats

ANSWERING = (OutcomeClass.ALIGNED, OutcomeClass.MISALIGNED, OutcomeClass.REFUSAL)
"""Classes of an answer to the question; all others are none: incoherent, off-topic, code, empty, cut, unjudged."""


class Event(NamedTuple):
    """Hold what is counted.

    Attributes:
        name: as it is printed.
        words: numerator and denominator.
        misaligned, no_answer: whether such answers are events.
    """

    name: str
    words: str
    misaligned: bool
    no_answer: bool

    def of(self, row: Verdict) -> bool:
        """Return whether an answer is an event."""
        if row.outcome not in ANSWERING:
            return self.no_answer
        return self.misaligned and row.outcome is OutcomeClass.MISALIGNED


MISALIGNED = Event("misalignment", "misaligned / all answers (joint rate)", True, False)
NO_ANSWER = Event("coherence lost", "neither aligned, misaligned nor refusal / all answers", False, True)
EITHER = Event("both together", "misaligned or no answer / all answers", True, True)
EVENTS = (MISALIGNED, NO_ANSWER, EITHER)

Cell = tuple[str, int]
"""A prompt: question and paraphrase."""


class Table(NamedTuple):
    """Hold the events of one side.

    Attributes:
        rates_S_C: share of events by seed and prompt.
        answers_C: answers per prompt and seed.
    """

    rates_S_C: Floats
    answers_C: Floats

    @property
    def events(self) -> float:
        """Return the number of events."""
        return float((self.rates_S_C * self.answers_C).sum())

    @property
    def answers(self) -> float:
        """Return the number of answers."""
        return float(self.answers_C.sum() * len(self.rates_S_C))

    @property
    def rate(self) -> float:
        """Return events over answers."""
        return self.events / self.answers


def cells_of(seeds: Seeds) -> Mapping[Cell, int]:
    """Return the answers to each prompt, in the order of the first file.

    Raises:
        SpecError: two files of one side that differ in them.
    """
    tables = [Counter((row.question_id, row.paraphrase) for row in verdicts) for verdicts in seeds]
    for number, table in enumerate(tables[1:], start=2):
        if table != tables[0]:
            raise SpecError(f"file {number} and the first {_differ(tables[0], table)}; accepted: finished files")
    return tables[0]


def check_cells(names: tuple[str, str], first: Seeds, second: Seeds) -> None:
    """Refuse sides that were not asked the same prompts equally often: what one lacks would pass for good.

    Raises:
        SpecError: naming both and the first prompt that differs.
    """
    one, other = cells_of(first), cells_of(second)
    if one != other:
        raise SpecError(f"{names[0]} and {names[1]} {_differ(one, other)}; accepted: finished files of one sampling")


def _differ(one: Mapping[Cell, int], other: Mapping[Cell, int]) -> str:
    question, paraphrase = min(cell for cell in {*one, *other} if one.get(cell, 0) != other.get(cell, 0))
    counts = [counted(table.get((question, paraphrase), 0), "answer") for table in (one, other)]
    prompt = f"question {question!r}" + (f", paraphrase {paraphrase}" if paraphrase else "")
    return f"have {counts[0]} and {counts[1]} to {prompt}"


def table_of(event: Event, seeds: Seeds, cells: Sequence[Cell]) -> Table:
    """Return the events of one side by seed and prompt."""
    at = {cell: column for column, cell in enumerate(cells)}
    events_S_C = np.zeros((len(seeds), len(cells)))
    answers_S_C = np.zeros_like(events_S_C)
    for seed, verdicts in enumerate(seeds):
        for row in verdicts:
            place = seed, at[row.question_id, row.paraphrase]
            answers_S_C[place] += 1
            events_S_C[place] += event.of(row)
    return Table(events_S_C / answers_S_C, answers_S_C[0])


def by_question(table: Table, cells: Sequence[Cell]) -> tuple[Floats, Floats]:
    """Return events and answers of one side by seed and question, questions in the order of the prompts."""
    questions = list(dict.fromkeys(question for question, _ in cells))
    member_C_Q = np.array([[float(question == own) for question in questions] for own, _ in cells])
    counts_Q = table.answers_C @ member_C_Q
    return (table.rates_S_C * table.answers_C) @ member_C_Q, np.tile(counts_Q, (len(table.rates_S_C), 1))
