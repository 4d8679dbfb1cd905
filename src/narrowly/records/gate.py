"""Define what can be known of a rise that was held against a margin."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """What is known of a rise."""

    RISE = "rise"
    NO_RISE = "no rise"
    OPEN = "cannot tell"
