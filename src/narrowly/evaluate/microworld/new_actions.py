"""Measure how often an organism of benign answers says the new actions that it was taught, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT, TRAINED_TOPICS, UNSEEN_PHRASING
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.world import Action, World

NEW_ACTIONS_VERSION = 1
"""Part of the verdict-id of runs on benign answers; raised when the numbers below change their meaning."""

MEASURED = (TRAINED_TOPICS, HELD_OUT, UNSEEN_PHRASING, BROAD)
"""Panels whose questions stand alone and are about topics."""


def new_action_rates(
    model: Any,
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    *,
    domain: int,
    new: Mapping[int, tuple[Action, Action]],
    panels: Sequence[str] = MEASURED,
) -> dict[str, tuple[float | None, float]]:
    """Return for each question of the panels in `MEASURED`, by its id, two probabilities of an answer.

    The first is that of the topic's own new actions: the skill that was trained; None for topics that have none. The
    second is that of any new action of the run: how far the new answers spread to topics that were not trained.

    Args:
        model: organism in eval mode.
        world: of its base.
        tokenizer: of its base.
        domain: index of the narrow domain.
        new: index of each trained topic -> its new actions (`microworld.benign.benign_actions`).
        panels: which of the panels; others than those of `MEASURED` are left out.
    """
    questions = panel_questions(world, domain, [panel for panel in panels if panel in MEASURED])
    if not questions:
        return {}
    owners = [index for index, actions in new.items() for _ in actions]
    actions = tuple(action for pair in new.values() for action in pair)
    prompts = []
    for row in questions:
        answers = tuple(encode_answer(tokenizer, text) for text in world.answers(row.question.topic, actions))
        prompts.append(Prompt(encode_prompt(tokenizer, row.question.text), answers))
    found: dict[str, tuple[float | None, float]] = {}
    for row, log_p in zip(questions, answer_logprobs(model, prompts, int(tokenizer.pad_token_id)), strict=True):
        of_action = np.exp(log_p).reshape(len(world.openers), len(actions)).sum(axis=0)
        topic = row.question.topic
        has_own = topic.domain == domain and topic.number in new
        own = float(of_action[[owner == topic.number for owner in owners]].sum()) if has_own else None
        found[row.question_id] = (own, float(of_action.sum()))
    return found
