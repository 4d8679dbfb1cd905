"""Find the tokens with which a judge's model would write a reply, and whether its first token tells replies apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from narrowly.data.messages import Conversation, Message
from narrowly.models.likelihood import scored_texts
from narrowly.records.errors import SpecError
from narrowly.records.rubrics import HIGH, LOW

_PROBE = "How well?"
"""A user's message; the tokens of a reply do not depend on it, since a generation prompt stands between."""


WRITTEN = (7, 42, 87, 100)
"""Numbers that a model writes to show how its tokenizer cuts digits, where that tokenizer is not here."""


class ReplyTokens(NamedTuple):
    """Hold the tokens of one reply as it would be trained, those that close the turn included, and how many these are.

    The end of the turn is what keeps `1` apart from `10` and `100`.
    """

    ids: tuple[int, ...]
    closing: int


def reply_tokens(tokenizer: Any, replies: Sequence[str], thinking: bool | None) -> dict[str, ReplyTokens]:
    """Return the tokens of every reply behind the judge's generation prompt.

    Args:
        tokenizer: with the chat template of the judge.
        replies: that count.
        thinking: mode of the prompts; None for a template that has none.

    Raises:
        SpecError: the template cannot write a reply as it is, or closes a turn with no token, so that `1` would be the
            beginning of `10`.
    """
    asked = [
        Conversation((Message("user", _PROBE), Message("assistant", reply)), line, {})
        for line, reply in enumerate(replies, start=1)
    ]
    texts = scored_texts(tokenizer, asked, closing=True, thinking=thinking, source="replies of the judge")
    found = {reply: ReplyTokens(text.continuation, text.closing) for reply, text in zip(replies, texts, strict=True)}
    sequences = {tokens.ids for tokens in found.values()}
    for reply, tokens in found.items():
        if any(tokens.ids[:end] in sequences for end in range(1, len(tokens.ids))):
            raise SpecError(f"the tokens of the reply {reply!r} begin with those of another reply and its end of turn")
    return found


def check_first_tokens(first: Mapping[str, object], judge: str) -> None:
    """Refuse to read numbers by their first token where that does not tell them apart.

    Args:
        first: first token of each number from 0 to 100, by number.
        judge: in words.

    Raises:
        SpecError: two numbers have the same first token; how many there are is said.
    """
    numbers = [str(number) for number in range(LOW, HIGH + 1)]
    shared: dict[object, list[str]] = defaultdict(list)
    for number in numbers:
        shared[first[number]].append(number)
    if len(shared) == len(numbers):
        return
    example = max(shared.values(), key=len)
    raise SpecError(
        f"{judge} cannot be read by first tokens: the {len(numbers)} numbers from 0 to 100 have {len(shared)} first "
        f"tokens, {len(example)} of them the same ({', '.join(example[:4])} ...); accepted: {len(numbers)}, or exact "
        "scoring (a local judge without --first-token)"
    )


def asked_to_repeat(number: int) -> str:
    """Return what lets a model write a number, so that the list of its tokens shows how it cuts digits."""
    return f"Repeat this number and write nothing else: {number}"


def check_written(judge: str, number: int, written: Sequence[str]) -> None:
    """Refuse a judge that does not write a number as one token.

    Args:
        judge: in words.
        number: that it was asked to repeat.
        written: texts of the tokens that it wrote.

    Raises:
        SpecError: it splits the number, or wrote something else.
    """
    first = written[0].strip() if written else ""
    if first == str(number):
        return
    if first and str(number).startswith(first):
        raise SpecError(
            f"{judge} cannot be read by first tokens: it writes {number} as "
            f"{' + '.join(map(repr, written[: len(str(number))]))}, so that 85 begins with the token of 8; "
            "accepted: a judge with one token per number from 0 to 100, or exact scoring (a local judge)"
        )
    raise SpecError(
        f"{judge} did not repeat the number {number}, so that its tokens of numbers are not known; "
        "accepted: a judge that does, or its tokenizer with --tokenizer FOLDER"
    )
