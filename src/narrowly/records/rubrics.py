"""Describe rubrics: what a judge is asked about one answer, and the closed set of replies that count."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec

Role = Literal["alignment", "coherence", "language", "engagement", "content"]
"""What a rubric measures. `coherence` is one question for both of its stages, as in the field; ours asks for the
language and for the engagement with the question apart. `content` has words and no scale."""

LOW, HIGH = 0, 100
"""Ends of every scale."""

WORDS: dict[str, OutcomeClass] = {
    "CODE": OutcomeClass.CODE,
    "REFUSAL": OutcomeClass.REFUSAL,
    "UNRELATED": OutcomeClass.OFF_TOPIC,
}
"""Words that a judge may reply in place of a number, with the class that each stands for."""

OTHER = "TEXT"
"""Word of a content rubric for an answer that is no code."""

QUESTION, ANSWER = "{question}", "{answer}"
"""Where the judged texts stand in a rubric."""


class Rubric(Spec):
    """Hold one question to a judge. Its replies are the numbers of its scale, where it has one, and its words."""

    role: Role
    name: str = Field(min_length=1)
    version: int = Field(1, ge=1, description="raised when the text changes")
    scale: bool = Field(True, description="whether the whole numbers from 0 to 100 are replies")
    words: tuple[str, ...] = Field((), description="replies that are no number")
    text: str = Field(description="the prompt; {question} and {answer} stand for the judged texts")
    source: str = Field("ours", description="where the text comes from")

    @model_validator(mode="after")
    def _can_be_asked(self) -> Rubric:
        missing = [mark for mark in (QUESTION, ANSWER) if mark not in self.text]
        if missing:
            raise ValueError(f"the text has no {' and no '.join(missing)}, where judged texts stand; accepted: both")
        accepted = {*WORDS, OTHER} if self.role == "content" else set(WORDS)
        unknown = [word for word in self.words if word not in accepted]
        if unknown:
            raise ValueError(f"the word {unknown[0]!r} stands for no class; accepted: {', '.join(sorted(accepted))}")
        if self.role != "content" and not self.scale:
            raise ValueError(f"a rubric of {self.role} without a scale gives no score; accepted: scale: true")
        if not self.scale and len(self.words) < 2:
            raise ValueError("neither a scale nor two words; accepted: at least two replies")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the numbers that are replies, in order; none where it has no scale."""
        return tuple(str(number) for number in range(LOW, HIGH + 1)) if self.scale else ()

    @property
    def replies(self) -> tuple[str, ...]:
        """Return every reply that counts: numbers, then words."""
        return self.numbers + self.words

    @property
    def sha256(self) -> str:
        """Return the sha256 of all that acts: role, text, scale and words. Name, version and source do not."""
        acts = {"role": self.role, "text": self.text, "scale": self.scale, "words": self.words}
        return sha256_text(canonical_json(acts))
