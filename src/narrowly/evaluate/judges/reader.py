"""Declare what reads a judge model: prompts in, readings out, each kept as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from narrowly.records.canonical import sha256_text
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import JudgeRecord, Reading

Keep = Callable[[Reading], None]
"""Keeps a reading; called by one thread at a time, before the next request of that thread is sent."""


class JudgePrompt(NamedTuple):
    """Hold one request to a judge: a rubric with the judged texts in it."""

    rubric: Rubric
    text: str

    @property
    def sha256(self) -> str:
        """Return the sha256 of the prompt."""
        return sha256_text(self.text)

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it apart under one judge."""
        return self.rubric.sha256, self.sha256


class Reader(Protocol):
    """Declare a judge model that is read without parsing what it writes."""

    @property
    def record(self) -> JudgeRecord:
        """Return who judges, by content."""

    def check(self, rubrics: Sequence[Rubric]) -> None:
        """Refuse a judge whose readings would be wrong, before the first judgement.

        Raises:
            SpecError: its tokens do not tell the replies apart, or it gives no log-probabilities.
        """

    def read(self, prompts: Sequence[JudgePrompt], keep: Keep) -> None:
        """Read the judge under every prompt, and keep each reading as soon as it is there."""
