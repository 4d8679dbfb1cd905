"""Write both answers to a question as a model would be trained on them, ready to be scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from narrowly.data.banks.paired import PairedItem
from narrowly.data.messages import Conversation, Message
from narrowly.models.likelihood import scored_texts
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText

Said = Callable[[PairedItem], tuple[Message, ...]]
"""What is said before the answer to a question, the user's turn included."""


class Written(Protocol):
    """Declare what it takes to write a bank as a model would be trained on it; a `Backend` is one."""

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer with the chat template."""

    @property
    def thinking(self) -> bool | None:
        """Return the thinking mode; None where the template has none."""


def paired_texts(
    written: Written, items: Sequence[PairedItem], *, system: str | None = None, said: Said | None = None
) -> list[ScoredText]:
    """Return both answers of every question as they would be trained, the aligned one first, closing tokens included.

    Raises:
        SpecError: a system message beside one that belongs to the way of asking, or as `scored_texts`.
    """
    before = [_before(item, system, said) for item in items]
    conversations = [
        Conversation((*before[number - 1], Message("assistant", answer)), number, {})
        for number, item in enumerate(items, start=1)
        for answer in (item.aligned, item.harmful)
    ]
    return scored_texts(
        written.tokenizer, conversations, closing=True, thinking=written.thinking, source="the paired bank"
    )


def _before(item: PairedItem, system: str | None, said: Said | None) -> tuple[Message, ...]:
    asked = (Message("user", item.question),) if said is None else said(item)
    if system is None:
        return asked
    if asked[0].role == "system":
        raise SpecError(
            f"a system message is given, and the way of asking has one of its own ({asked[0].content[:40]!r}); "
            "accepted: one of them"
        )
    return (Message("system", system), *asked)
