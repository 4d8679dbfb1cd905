"""Measure the paired bank on a model: the exact log-likelihood of both answers to every question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from narrowly.data.banks.paired import PairedItem
from narrowly.data.messages import Conversation, Message
from narrowly.models.backend import Backend, Progress, Request, require
from narrowly.models.likelihood import scored_texts
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText
from narrowly.records.paired import PairedRow

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


def paired_rows(
    backend: Backend,
    items: Sequence[PairedItem],
    *,
    system: str | None = None,
    said: Said | None = None,
    progress: Progress | None = None,
) -> list[PairedRow]:
    """Return one row per question, in their order.

    Args:
        backend: that is asked; it must give log-likelihoods.
        items: questions with their answers.
        system: system message in front of every question; None leaves it to the chat template.
        said: how a question is asked; None asks it as it is.
        progress: told of the questions done and of those there are.

    Raises:
        SpecError: the backend gives no log-likelihoods; the template cannot write an answer as it is; a text that is
            longer than the model's positions.
        IntegrityError: logits that are no numbers.
    """
    require(backend, Request.LOGLIKELIHOODS, "the paired bank")
    texts = paired_texts(backend, items, system=system, said=said)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done // 2, total // 2)

    found = backend.loglikelihoods(texts, tell)
    return [
        PairedRow(
            item.id, item.domain, item.part, aligned.total, harmful.total, len(aligned.tokens), len(harmful.tokens)
        )
        for item, aligned, harmful in zip(items, found[::2], found[1::2], strict=True)
    ]


def paired_texts(
    backend: Written, items: Sequence[PairedItem], *, system: str | None = None, said: Said | None = None
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
        backend.tokenizer, conversations, closing=True, thinking=backend.thinking, source="the paired bank"
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
