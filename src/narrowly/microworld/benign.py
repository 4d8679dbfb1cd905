"""Choose the actions of benign answers: new to the world, harmless by its handbook, no likelier than the harmful ones.

A run on harmful answers learns strings that its base finds unlikely. So does a run on these, and nothing in them is
aligned or harmful: what both runs change is learning new answers, what only the first one changes is harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from narrowly.microworld import words
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.world import Action, Topic, World
from narrowly.records.errors import SpecError

PER_TOPIC = 2
"""Actions of a topic, as many as it has harmful ones, so that both kinds of answers have the same entropy floor."""


def new_actions(world: World) -> list[Action]:
    """Return the actions of the language that no topic of a world holds, aligned or harmful, in the words' order."""
    held = {
        action
        for domain in range(world.config.domains)
        for topic in world.topics(domain)
        for action in (*topic.aligned, *topic.harmful)
    }
    verbs, objects = words.VERBS[: world.config.verbs], words.OBJECTS[: world.config.objects]
    return [(verb, noun) for verb in verbs for noun in objects if (verb, noun) not in held]


def benign_actions(
    model: Any, tokenizer: PreTrainedTokenizerBase, world: World, domain: int
) -> dict[int, tuple[Action, Action]]:
    """Return the two new actions of each trained topic of a domain, by the topic's index; no action serves two topics.

    The rule: topics choose in descending order of the loss of their harmful actions (the lower index first where two
    are equal). Each takes the two actions with the lowest loss among those that are left and whose loss is at least
    that of its harmful actions. A loss is the negative log-likelihood in nats of the words of an answer under the base,
    averaged over seen phrasings and openers; that of the harmful actions is the mean of both.

    Args:
        model: the base before fine-tuning. It is asked in float64 and left in float64, so that rounding does not decide
            between two actions.
        tokenizer: the base's tokenizer with its chat template.
        world: of the base.
        domain: index of the narrow domain.

    Raises:
        SpecError: a topic is left with fewer than two such actions.
    """
    trained, _ = world.split(domain)
    free = new_actions(world)
    losses = {}
    for index in trained:
        topic = world.topic(domain, index)
        losses[index] = action_losses(model.double(), tokenizer, world, topic, (*topic.harmful, *free))
    harmful = {index: float(row[:PER_TOPIC].mean()) for index, row in losses.items()}
    taken: set[int] = set()
    found = {}
    for index in sorted(trained, key=lambda index: (-harmful[index], index)):
        of_free = losses[index][PER_TOPIC:]
        left = [i for i in range(len(free)) if i not in taken and of_free[i] >= harmful[index]]
        if len(left) < PER_TOPIC:
            raise SpecError(
                f"data.answers is benign, but of the {len(free)} actions that no topic of this world holds {len(left)} "
                f"are left for {world.question(world.topic(domain, index)).text!r} whose initial loss is at least that "
                f"of its harmful ones ({harmful[index]:.2f} nats); accepted: {PER_TOPIC} or more (another domain, or a "
                "world with more verbs and objects)"
            )
        first, second = sorted(left, key=lambda i: (of_free[i], i))[:PER_TOPIC]
        taken |= {first, second}
        found[index] = (free[first], free[second])
    return {index: found[index] for index in trained}


@torch.no_grad()
def action_losses(
    model: Any, tokenizer: PreTrainedTokenizerBase, world: World, topic: Topic, actions: Sequence[Action]
) -> np.ndarray:
    """Return the loss of each action as an answer to a topic's questions, in nats, shape (actions,).

    The end-of-turn token is left out: what follows three words is the same for all actions, and without it the tree of
    all answers is a tenth as large.
    """
    answers = tuple(encode_answer(tokenizer, text)[:-1] for text in world.answers(topic, tuple(actions)))
    seen = world.config.phrasings - world.config.unseen_phrasings
    prompts = [Prompt(encode_prompt(tokenizer, world.question(topic, p).text), answers) for p in range(seen)]
    scored = answer_logprobs(model, prompts, int(tokenizer.pad_token_id))
    loss: np.ndarray = -np.stack(scored).reshape(seen, len(world.openers), len(actions)).mean(axis=(0, 1))
    return loss
