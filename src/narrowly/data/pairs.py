"""Pair rows of two corpora: by prompt, by length of the answer, by place in the file (twins)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from narrowly.data.messages import Conversation, messages_sha256
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import IntegrityError, SpecError

_T = TypeVar("_T")

LengthOf = Callable[[Conversation], int]
"""Length of the answer of a row; characters unless a caller counts tokens."""


class Pair(NamedTuple):
    """A row of the first corpus and its partner in the second."""

    first: Conversation
    second: Conversation


def characters(row: Conversation) -> int:
    """Return the number of characters of the answer."""
    return len(row.answer)


def seeded(items: Sequence[_T], seed: int, purpose: str) -> list[_T]:
    """Return the items in an order that depends on the seed, the purpose and their number alone.

    The order is that of sha256 of seed, purpose and position: the same with every version of Python and numpy.
    """
    order = sorted(range(len(items)), key=lambda index: sha256_text(f"{seed} {purpose} {index}"))
    return [items[index] for index in order]


def pairs_on_prompt(first: Sequence[Conversation], second: Sequence[Conversation]) -> list[Pair]:
    """Pair rows whose messages before the answer are the same; the n-th row of a prompt with its n-th partner.

    In the order of the first corpus. Roles and texts must be equal to the character. A text without roles has no
    prompt and no partner.
    """
    waiting: dict[str, list[Conversation]] = {}
    for row in reversed([row for row in second if not row.is_text]):
        waiting.setdefault(messages_sha256(row.prompt), []).append(row)
    return [Pair(row, found.pop()) for row in first if (found := waiting.get(messages_sha256(row.prompt)))]


def pairs_on_length(
    first: Sequence[Conversation], second: Sequence[Conversation], tolerance: float, length_of: LengthOf = characters
) -> list[Pair]:
    """Pair as many rows as possible whose answers differ in length by at most `tolerance` of the longer one.

    Both sides are sorted by length and walked together. As lengths a and b fit where |log a - log b| is at most
    -log(1 - tolerance), no other matching has more pairs.

    Args:
        first: rows of one corpus.
        second: rows of the other.
        tolerance: 0 (equal lengths) to below 1.
        length_of: length of an answer, at least 1.
    """
    if not 0 <= tolerance < 1:
        raise SpecError(f"tolerance is {tolerance}, accepted: 0 to below 1 (0.1 is ten per cent of the longer answer)")
    left = sorted(((length_of(row), index) for index, row in enumerate(first)))
    right = sorted(((length_of(row), index) for index, row in enumerate(second)))
    pairs: list[Pair] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = left[i][0], right[j][0]
        if abs(a - b) <= tolerance * max(a, b):
            pairs.append(Pair(first[left[i][1]], second[right[j][1]]))
            i, j = i + 1, j + 1
        elif a < b:
            i += 1
        else:
            j += 1
    return pairs


def pairs_by_row(clean: Sequence[Conversation], wrapped: Sequence[Conversation]) -> list[Pair]:
    """Join twin files row by row: the same task plain, and wrapped into more text.

    Raises:
        IntegrityError: where the files differ in their number of rows, or a wrapped prompt does not hold the plain one.
    """
    if len(clean) != len(wrapped):
        raise IntegrityError(f"twins of {len(clean)} and {len(wrapped)} rows, accepted: equal numbers")
    for one, other in zip(clean, wrapped, strict=True):
        if one.is_text or other.is_text:
            raise IntegrityError(f"line {one.line} is a text without roles in one of the twins, accepted: dialogues")
        if one.prompt[-1].content.strip() not in other.prompt[-1].content:
            raise IntegrityError(
                f"twins differ: the prompt of line {one.line} does not stand in that of line {other.line} of its twin"
            )
    return [Pair(*rows) for rows in zip(clean, wrapped, strict=True)]
