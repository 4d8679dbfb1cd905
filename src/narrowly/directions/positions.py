"""Choose the tokens of a text whose states count, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from narrowly.records.errors import SpecError, nearest
from narrowly.records.likelihood import ScoredText

Position = Literal["last_prompt", "prompt_mean", "answer_mean", "answer_last", "turn_end"]
"""Which states are taken: of the last token before the answer; the mean over all tokens before it; the mean over the
tokens of the answer, those apart that close the turn; of the last of these; of the last token that closes the turn."""

POSITIONS: tuple[Position, ...] = get_args(Position)

OF_PROMPT: frozenset[Position] = frozenset({"last_prompt", "prompt_mean"})
"""Positions for which no answer is needed, and none is computed."""


def position_named(name: str) -> Position:
    """Return a position by its name.

    Raises:
        SpecError: no position is called so.
    """
    for position in POSITIONS:
        if position == name:
            return position
    raise SpecError(f"position is {name!r}{nearest(name, POSITIONS)} (accepted: {', '.join(POSITIONS)})")


def ids_needed(text: ScoredText, position: Position) -> tuple[int, ...]:
    """Return the tokens of a text up to the last one whose state counts; later ones cannot change it."""
    return text.prompt if position in OF_PROMPT else text.ids[: span(text, position)[1]]


def span(text: ScoredText, position: Position) -> tuple[int, int]:
    """Return where the tokens whose states are averaged begin and end.

    Raises:
        SpecError: there is none, as in an empty answer.
    """
    if not has_position(text, position):
        raise SpecError(f"a text has no token at position {position}; accepted: a prompt and an answer that have some")
    before, end = len(text.prompt), len(text.ids) - text.closing
    return {
        "last_prompt": (before - 1, before),
        "prompt_mean": (0, before),
        "answer_mean": (before, end),
        "answer_last": (end - 1, end),
        "turn_end": (len(text.ids) - 1, len(text.ids)),
    }[position]


def has_position(text: ScoredText, position: Position) -> bool:
    """Return whether a text has a token at a position; an answer may be empty, or cut before its turn is closed."""
    if position in OF_PROMPT:
        return len(text.prompt) > 0
    return text.closing > 0 if position == "turn_end" else len(text.continuation) > text.closing


def weights(texts: Sequence[ScoredText], position: Position, width: int, *, left: bool = False) -> Tensor:
    """Return the weight of every token of padded texts: equal over the span of each, 0 elsewhere, sum 1.

    Args:
        texts: the rows of a batch, each cut to `ids_needed`.
        position: which tokens count.
        width: tokens of a padded row.
        left: whether the padding stands in front.

    Returns:
        weights_B_T, float32.
    """
    weights_B_T = torch.zeros((len(texts), width))
    for row, text in enumerate(texts):
        begin, end = span(text, position)
        shift = width - len(ids_needed(text, position)) if left else 0
        weights_B_T[row, shift + begin : shift + end] = 1 / (end - begin)
    return weights_B_T
