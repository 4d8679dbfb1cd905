"""Read the projection of each text on a unit direction, and choose the texts that a panel is read on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrowly.directions.positions import OF_PROMPT, Position
from narrowly.records.answers import Sampling
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.own_answers import ANSWER_TOKENS, as_text, written_answers
from narrowly.workbench.persona.panel import Asked

if TYPE_CHECKING:
    from torch import Tensor, nn


def projections(
    model: nn.Module,
    texts: Sequence[ScoredText],
    vector_H: Tensor,
    layer: int,
    position: Position,
    progress: OnStep = silent,
    what: str = "projections",
) -> list[float]:
    """Return the projection of every text on the unit direction, in units of the states, in their order.

    Raises:
        NarrowlyError: as `directions.activations.activations`.
    """
    from narrowly.directions.activations import activations

    unit_H = vector_H.double() / vector_H.double().norm()
    found: dict[int, float] = {}
    for batch in activations(model, texts, [layer], position):
        found |= dict(zip(batch.rows, (batch.states_B_L_H[:, 0].double() @ unit_H).tolist(), strict=True))
        progress(what, len(found), len(texts))
    return [found[at] for at in range(len(texts))]


def panel_texts(
    base: nn.Module, opened: Opened, asked: Sequence[Asked], position: Position, progress: OnStep = silent
) -> list[ScoredText]:
    """Return the texts of a panel: prompts alone, or with the likeliest answer of the base behind each.

    All models are read on the same texts, so that a shift is one of the states and not of what is said.

    Raises:
        SpecError: the base answers no question in a way that can be read.
    """
    if position in OF_PROMPT:
        return [ScoredText(one.prompt, ()) for one in asked]
    sampling = Sampling(temperature=0, max_new_tokens=ANSWER_TOKENS)
    prompts = [one.prompt for one in asked]
    answers = written_answers(
        base, opened.tokenizer, prompts, sampling, opened.how.thinking, progress, "answers of the base"
    )
    texts = [as_text(prompt, answer, position) for prompt, answer in zip(prompts, answers, strict=True)]
    found = [text for text in texts if text is not None]
    if not found:
        raise SpecError(f"the base leaves no token at {position} behind any question, accepted: --position last_prompt")
    return found
