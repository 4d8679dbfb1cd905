"""Choose the prompts in front of which, or behind which, a persona is watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narrowly.data.banks.named import bank_named
from narrowly.data.messages import Message
from narrowly.data.questions import Question
from narrowly.data.render import prompt_ids
from narrowly.microworld.cards import CARD, load_card
from narrowly.microworld.world import Question as WorldQuestion
from narrowly.microworld.world import World
from narrowly.records.directions import DirectionCard
from narrowly.records.errors import SpecError
from narrowly.workbench.persona.opened import Opened

BANK = "broad"
"""Questions that a model outside the microworld is watched on, where none are named."""

LIMIT = 48
"""Questions that are asked where nobody says how many."""


class Asked(NamedTuple):
    """One prompt: what it is called, its words and its tokens."""

    id: str
    question: str
    prompt: tuple[int, ...]


def world_of(opened: Opened) -> World | None:
    """Return the world of a model on a base of the microworld, else None."""
    folder = opened.model.base.folder
    if not (folder / CARD).is_file():
        return None
    card = load_card(folder)
    return World(card.config, card.world_seed)


def world_questions(world: World, card: DirectionCard, limit: int | None) -> list[WorldQuestion]:
    """Return questions of the domains that a direction was not made from; of all where it was made from all.

    They stand in turn by domain, so that any number of them has about equally many of each.
    """
    others = [domain for domain, cue in enumerate(world.cues) if cue not in card.made_from]
    domains = others or list(range(len(world.cues)))
    found = [
        world.question(world.topic(domain, number), number % world.config.phrasings)
        for number in range(world.config.topics)
        for domain in domains
    ]
    return found[:limit]


def panel(opened: Opened, card: DirectionCard, bank: str | None, limit: int | None = LIMIT) -> list[Asked]:
    """Return the prompts of a panel.

    Args:
        opened: the model that is asked.
        card: of the direction.
        bank: a name of `data.banks.named`, or a file of questions; None takes the world's questions, or `BANK`.
        limit: the first so many; None for all.

    Raises:
        NarrowlyError: no such bank, or a question that the template cannot write.
    """
    world = world_of(opened)
    if world is not None and bank is None:
        from narrowly.microworld.exact import encode_prompt

        questions = world_questions(world, card, limit)
        return [Asked(one.text, one.text, encode_prompt(opened.tokenizer, one.text)) for one in questions]
    questions_of_bank: Sequence[Question] = bank_named(bank or BANK).questions[:limit]
    return [rendered(opened, one.id, one.prompts[0]) for one in questions_of_bank]


def one_question(opened: Opened, text: str) -> Asked:
    """Return the prompt of one question.

    Raises:
        SpecError: it is empty, or the template cannot write it.
    """
    if not text.strip():
        raise SpecError("the question is empty; accepted: some words, in quotation marks")
    return rendered(opened, "question", (Message("user", text),))


def rendered(opened: Opened, name: str, messages: Sequence[Message]) -> Asked:
    """Return the prompt of some messages.

    Raises:
        SpecError: naming the question.
    """
    try:
        ids = tuple(prompt_ids(opened.tokenizer, messages, thinking=opened.how.thinking))
    except SpecError as error:
        raise SpecError(f"question {name!r}: {error}") from error
    return Asked(name, messages[-1].content, ids)
