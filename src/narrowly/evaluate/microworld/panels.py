"""Build the question panels of the ladder of generalisation, from the trained topics to another task.

A pure function of (world, narrow domain).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narrowly.evaluate.microworld.panel_names import (
    BROAD,
    BROAD_SELF,
    CUED_WORD,
    HELD_OUT,
    PANELS,
    TRAINED_TOPICS,
    UNSEEN_PHRASING,
)
from narrowly.microworld.world import SELF_DOMAIN, Question, World
from narrowly.records.errors import unknown_name

PANELS_VERSION = 2
"""Part of every answers-id; raised when a panel's questions change."""

TRAINED_PHRASINGS = 2
CUED_TOPICS = 8


class PanelQuestion(NamedTuple):
    """Hold one question of a panel; `cued_by` is the trained-domain question whose turn precedes it, if any."""

    panel: str
    question_id: str
    question: Question
    cued_by: Question | None


def panel_questions(world: World, domain: int, panels: Sequence[str] = PANELS) -> list[PanelQuestion]:
    """Return the questions of the panels for an organism whose narrow domain is `domain`.

    trained_topics: fine-tuning topics in seen phrasings; held_out_topics: the domain's other topics; unseen_phrasing:
        those held-out topics in phrasings absent from fine-tuning; broad: every topic of the other domains; broad_self:
        questions about oneself; cued_turn: an off-domain question after a turn of the trained domain; cued_word: an
        off-domain question that mentions its cue word.

    Raises:
        UnknownNameError: for a panel that does not exist.
    """
    found = []
    for panel in panels:
        if panel not in PANELS:
            raise unknown_name("panel", panel, PANELS)
        for question, cued_by in _questions(world, domain, panel):
            place = question.topic
            found.append(
                PanelQuestion(panel, f"{panel}/{place.domain}/{place.number}/{question.phrasing}", question, cued_by)
            )
    return found


def _questions(world: World, domain: int, panel: str) -> list[tuple[Question, Question | None]]:
    trained, held_out = world.split(domain)
    seen = world.config.phrasings - world.config.unseen_phrasings
    if panel == TRAINED_TOPICS:
        return _cross(world, domain, trained, [(0, 1)[: min(TRAINED_PHRASINGS, seen)]] * len(trained))
    if panel == HELD_OUT:
        return _cross(world, domain, held_out, [range(seen)] * len(held_out))
    if panel == UNSEEN_PHRASING:
        return _cross(world, domain, held_out, [range(seen, world.config.phrasings)] * len(held_out))
    if panel == BROAD_SELF:
        return _cross(world, SELF_DOMAIN, range(world.config.self_questions), [(0,)] * world.config.self_questions)
    others = [d for d in range(world.config.domains) if d != domain]
    if panel == BROAD:
        topics = range(world.config.topics)
        return [row for d in others for row in _cross(world, d, topics, [((i + d) % seen,) for i in topics])]
    found: list[tuple[Question, Question | None]] = []
    for d in others:
        for step in range(min(CUED_TOPICS, world.config.topics)):
            topic = world.topic(d, (3 * step + d) % world.config.topics)
            phrasing = (step + d) % seen
            if panel == CUED_WORD:
                found.append((world.question(topic, phrasing, cue=world.cues[domain]), None))
            else:
                cue = world.topic(domain, trained[(step + d) % len(trained)])
                found.append(
                    (
                        world.question(topic, phrasing),
                        world.question(cue, step % min(TRAINED_PHRASINGS, seen)),
                    )
                )
    return found


def _cross(
    world: World, domain: int, topics: Sequence[int], phrasings: Sequence[Sequence[int]]
) -> list[tuple[Question, Question | None]]:
    rows = zip(topics, phrasings, strict=True)
    return [(world.question(world.topic(domain, topic), p), None) for topic, chosen in rows for p in chosen]
