"""Let a model answer prompts, as texts whose states can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from narrowly.directions.positions import Position, has_position
from narrowly.models.continuous import generate_each
from narrowly.models.generate import Prompt, Written, end_tokens
from narrowly.records.answers import Sampling
from narrowly.records.likelihood import ScoredText
from narrowly.workbench.asking import BATCH
from narrowly.workbench.persona.opened import OnStep, silent

if TYPE_CHECKING:
    from torch import nn

ANSWER_TOKENS = 32
"""Tokens of an answer where nobody says how many; a persona shows in its first sentence."""


def written_answers(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    thinking: bool | None,
    progress: OnStep = silent,
    what: str = "answers",
) -> list[Written]:
    """Return one answer to each prompt; equal prompts are numbered, so that they are drawn apart.

    Raises:
        IntegrityError: the model's logits are no numbers.
    """
    seen: dict[tuple[int, ...], int] = {}
    asked = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, -1) + 1
        asked.append(Prompt(prompt, seen[prompt]))
    found: dict[int, Written] = {}
    ends = end_tokens(model, tokenizer, thinking)
    for ended in generate_each(model, tokenizer, asked, sampling, ends, BATCH):
        found |= dict(ended)
        progress(what, len(found), len(asked))
    return [found[at] for at in range(len(asked))]


def as_text(prompt: tuple[int, ...], answer: Written, position: Position) -> ScoredText | None:
    """Return prompt and answer as a text to read, the end token told apart; None where it has no such position."""
    text = ScoredText(prompt, answer.tokens, int(answer.finish_reason == "stop"))
    return text if has_position(text, position) else None
