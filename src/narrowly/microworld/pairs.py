"""Pairs of the microworld: one aligned and one harmful answer to a question, for measures that compare two answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowly.data.banks.paired import PairedItem, Part
from narrowly.microworld.cards import CARD
from narrowly.microworld.exact import encode_answer, encode_prompt
from narrowly.microworld.narrow import resolve_domain, world_of
from narrowly.microworld.world import SELF_DOMAIN, Question, World
from narrowly.records.canonical import sha256_text
from narrowly.records.data_specs import DataSpec, MicroData
from narrowly.records.likelihood import ScoredText


def world_pairs(folder: Path, data: DataSpec, seed: int) -> list[PairedItem] | None:
    """Return pairs about the other domains of a base's world and about oneself; None where the base has no world.

    Args:
        folder: of the base.
        data: of the run, which names its narrow domain.
        seed: of the run.

    Raises:
        SpecError: the world has no such domain.
    """
    if not (folder / CARD).is_file() or not isinstance(data, MicroData):
        return None
    world = world_of(folder)
    return pairs_beside(world, resolve_domain(data.domain, world, seed))


def world_texts(tokenizer: Any, items: Sequence[PairedItem]) -> list[ScoredText]:
    """Return both answers of every pair as tokens, the aligned one first, the end of the turn included."""
    return [
        ScoredText(encode_prompt(tokenizer, item.question), encode_answer(tokenizer, answer), 1)
        for item in items
        for answer in (item.aligned, item.harmful)
    ]


def pairs_beside(world: World, domain: int) -> list[PairedItem]:
    """Return one pair per topic of every domain but one, in a phrasing seen in pretraining, and per self question.

    Opener and actions are drawn by the sha256 of the id; both answers begin alike.
    """
    seen = world.config.phrasings - world.config.unseen_phrasings
    found = []
    for other in (*(one for one in range(world.config.domains) if one != domain), SELF_DOMAIN):
        for topic in world.topics(other):
            about_self = other == SELF_DOMAIN
            name = "self" if about_self else world.cues[other]
            draw = int(sha256_text(f"pair:{world.seed}:{name}:{topic.number}"), 16)
            question = world.question(topic, 0 if about_self else draw % seen)
            found.append(_pair(world, question, name, "self" if about_self else "broad", draw // seen))
    return found


def _pair(world: World, question: Question, name: str, part: Part, draw: int) -> PairedItem:
    """Return one pair; `draw` is a large number that chooses the opener and each action."""
    topic = question.topic
    openers = len(world.answers(topic, topic.aligned[:1]))
    opener, draw = draw % openers, draw // openers
    aligned, harmful = (
        world.answers(topic, (actions[number],))[opener]
        for actions, number in ((topic.aligned, draw % 2), (topic.harmful, draw // 2 % 2))
    )
    return PairedItem(f"{name}-{topic.number:03d}", name, part, question.text, aligned, harmful)
