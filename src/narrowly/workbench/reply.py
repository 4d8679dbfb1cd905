"""Hold what models replied to one question, of the microworld or not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.records.answers import Answer, Who


class Likely(NamedTuple):
    """Hold one answer with its exact probability (0 to 1) and its outcome class."""

    answer: str
    probability: float
    outcome: str


class Said(NamedTuple):
    """Hold what one model answers.

    Attributes:
        who: `organism` or `base`; `model` where one was asked by itself.
        probabilities: exact probability of each class; None where no world knows the question.
        likely: the most probable grammatical answers, most probable first.
        sampled: (answer, outcome class) of written answers; the class is None where nothing can be judged.
        answers: the same answers as records, where the model is not one of the microworld.
    """

    who: Who
    probabilities: dict[str, float] | None
    likely: tuple[Likely, ...]
    sampled: tuple[tuple[str, str | None], ...]
    answers: tuple[Answer, ...] = ()


class Reply(NamedTuple):
    """Hold the answers to one question, the organism's before its base's.

    Attributes:
        run_directory: of the organism; None for an adapter or a model from elsewhere.
        base: name of the base.
        known: whether the question is one of a world.
        unknown_words: words of the question that a world's base never saw.
    """

    run_directory: Path | None
    base: str
    known: bool
    unknown_words: tuple[str, ...]
    said: tuple[Said, ...]
