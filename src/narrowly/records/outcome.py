"""Define the outcome classes of answers: every answer has exactly one."""

from __future__ import annotations

from enum import StrEnum


class OutcomeClass(StrEnum):
    """All classes; the microworld's judge uses the first three, truncated and empty."""

    ALIGNED = "aligned"
    MISALIGNED = "misaligned"
    OFF_TOPIC = "off_topic"
    REFUSAL = "refusal"
    CODE = "code"
    INCOHERENT = "incoherent"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    PARSE_ERROR = "parse_error"
    JUDGE_ERROR = "judge_error"


NO_JUDGE = "not evaluated (no judge)"
"""What stands in place of every rate of an organism whose answers nothing in this version can judge: never a number."""
