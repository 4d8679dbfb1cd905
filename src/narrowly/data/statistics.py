"""Describe a corpus: lengths per class, duplicates, texts shared with others, rows beyond the context."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from narrowly.data.duplicates import (
    NearDuplicates,
    exact_duplicates,
    near_duplicates,
    text_of_conversation,
)
from narrowly.data.messages import Conversation, conversations_sha256, messages_sha256
from narrowly.records.errors import SpecError

TokensOf = Callable[[Conversation], int]
"""Tokens of a row as it will be trained on: its rendering through a chat template."""


class Lengths(NamedTuple):
    """Lengths of one part of the rows of one class: `prompt` and `answer` in characters, `row` in tokens."""

    group: str
    part: str
    rows: int
    mean: float
    sd: float | None
    median: float
    p95: float
    largest: int


class TooLong(NamedTuple):
    """A row beyond the context length: where it starts in its file, and its tokens."""

    line: int
    tokens: int


class Portrait(NamedTuple):
    """A corpus in numbers.

    Attributes:
        rows: conversations.
        content_sha256: over messages and weights in order; equal for the same rows in another schema.
        prompts, answers: how many different ones there are.
        with_system: rows with a system message.
        longest_dialogue: messages of the longest conversation.
        duplicates: groups of equal rows, as lines.
        near: rows that are near duplicates, as indices.
        tags: per tag, how many rows carry it and how many values it has.
        lengths: per class and part.
    """

    rows: int
    content_sha256: str
    prompts: int
    answers: int
    with_system: int
    longest_dialogue: int
    duplicates: list[list[int]]
    near: NearDuplicates
    tags: dict[str, tuple[int, int]]
    lengths: list[Lengths]

    def as_json(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """Return plain values, with near duplicates as lines of the file."""
        near = {
            "groups": [[conversations[index].line for index in group] for group in self.near.groups],
            "pairs": [[conversations[a].line, conversations[b].line, s] for a, b, s in self.near.pairs],
            "surplus": self.near.surplus,
        }
        return self._asdict() | {"near": near, "lengths": [row._asdict() for row in self.lengths]}


def portrait(
    conversations: Sequence[Conversation], *, by: str | None = None, tokens_of: TokensOf | None = None
) -> Portrait:
    """Describe a corpus.

    Args:
        conversations: its rows.
        by: tag whose values are the classes; None puts all rows into one.
        tokens_of: counts the tokens of a row; None leaves tokens out.

    Raises:
        SpecError: where no row has the tag.
    """
    tags: dict[str, list[str]] = {}
    for row in conversations:
        for name, value in row.tags.items():
            tags.setdefault(name, []).append(value)
    if by is not None and by not in tags:
        raise SpecError(f"no row has the tag {by!r} (found: {', '.join(sorted(tags)) or 'none'})")
    return Portrait(
        len(conversations),
        conversations_sha256(conversations),
        len({row.prompt for row in conversations}),
        len({row.answer for row in conversations}),
        sum(row.messages[0].role == "system" for row in conversations),
        max(len(row.messages) for row in conversations),
        [[conversations[index].line for index in group] for group in exact_duplicates(conversations)],
        near_duplicates([text_of_conversation(row.messages) for row in conversations]),
        {name: (len(values), len(set(values))) for name, values in sorted(tags.items())},
        lengths_per_class(conversations, by=by, tokens_of=tokens_of),
    )


def lengths_per_class(
    conversations: Sequence[Conversation], *, by: str | None = None, tokens_of: TokensOf | None = None
) -> list[Lengths]:
    """Return the lengths of prompts and answers (characters) and of whole rows (tokens, where they can be counted)."""
    classes: dict[str, list[Conversation]] = {}
    for row in conversations:
        classes.setdefault("all" if by is None else row.tags.get(by, "(none)"), []).append(row)
    found = []
    for name, rows in sorted(classes.items()):
        found.append(_lengths(name, "prompt", [sum(len(m.content) for m in row.prompt) for row in rows]))
        found.append(_lengths(name, "answer", [len(row.answer) for row in rows]))
        if tokens_of is not None:
            found.append(_lengths(name, "row", [tokens_of(row) for row in rows]))
    return found


def _lengths(group: str, part: str, values: list[int]) -> Lengths:
    ordered = sorted(values)
    return Lengths(
        group,
        part,
        len(values),
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        float(statistics.median(ordered)),
        float(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]),
        ordered[-1],
    )


class Shared(NamedTuple):
    """What two corpora have in common: different rows, prompts and answers that stand in both."""

    rows: int
    prompts: int
    answers: int


def shared(first: Sequence[Conversation], second: Sequence[Conversation]) -> Shared:
    """Count what two corpora have in common, to the character."""
    return Shared(
        len({messages_sha256(row.messages) for row in first} & {messages_sha256(row.messages) for row in second}),
        len({row.prompt for row in first} & {row.prompt for row in second}),
        len({row.answer for row in first} & {row.answer for row in second}),
    )


def beyond(conversations: Sequence[Conversation], tokens_of: TokensOf, longest: int) -> list[TooLong]:
    """Return the rows of more than `longest` tokens, in the order of the file; rendering refuses them unless told."""
    counted = ((row.line, tokens_of(row)) for row in conversations)
    return [TooLong(line, tokens) for line, tokens in counted if tokens > longest]
