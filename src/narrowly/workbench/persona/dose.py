"""Measure exactly what steering does in the microworld: shares of aligned and harmful answers by strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.world import World
from narrowly.records.directions import DirectionCard
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.panel import world_questions
from narrowly.workbench.persona.steer import Treatment, treated

if TYPE_CHECKING:
    from torch import Tensor


class Dose(NamedTuple):
    """Mean shares of answers under one treatment.

    Attributes:
        treatment: of the states.
        aligned, misaligned: mean probability over questions; what is missing to 1 is off topic or broken.
        log_odds: ln(misaligned / aligned), pooled.
        questions: that the means are over.
    """

    treatment: Treatment
    aligned: float
    misaligned: float
    log_odds: float
    questions: int


def doses(
    opened: Opened,
    world: World,
    card: DirectionCard,
    vector_H: Tensor,
    layer: int,
    under: Sequence[Treatment],
    limit: int | None = None,
    progress: OnStep = silent,
) -> list[Dose]:
    """Return the dose-response on questions of the domains that the direction was not made from.

    Raises:
        NarrowlyError: the model cannot be loaded, or the layer or vector do not fit it.
    """
    model: Any = opened.load().model
    prompts = []
    for question in world_questions(world, card, limit):
        said = [*world.answers(question.topic, question.topic.harmful)]
        said += world.answers(question.topic, question.topic.aligned)
        ids = encode_prompt(opened.tokenizer, question.text)
        prompts.append(Prompt(ids, tuple(encode_answer(opened.tokenizer, answer) for answer in said)))
    found = []
    for done, treatment in enumerate(under, start=1):
        with treated(model, layer, vector_H, treatment):
            scored = [np.exp(row) for row in answer_logprobs(model, prompts, int(opened.tokenizer.pad_token_id))]
        harmful = float(np.mean([row[: len(row) // 2].sum() for row in scored]))
        aligned = float(np.mean([row[len(row) // 2 :].sum() for row in scored]))
        odds = math.log(harmful / aligned) if harmful > 0 and aligned > 0 else math.nan
        found.append(Dose(treatment, aligned, harmful, odds, len(prompts)))
        progress("doses", done, len(under))
    return found
