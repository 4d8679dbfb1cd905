"""Draw data outside the narrow domain: aligned answers, and preferences over every answer that the grammar has.

Both ask about the topics that a run on such a domain would train (two thirds of them) in seen phrasings. The others are
kept out of every defence, so that broad misalignment can be measured on topics that none has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from narrowly.data.rows import Row
from narrowly.data.run_rows import Preference, RowsBase, RunRows
from narrowly.microworld.exact import encode_answer, encode_prompt
from narrowly.microworld.narrow import chat_row, check_has_world, resolve_domain, world_of
from narrowly.microworld.world import Question, Topic, World
from narrowly.records.data_specs import MicroOthers, MicroPreferences

_OTHERS, _PREFERENCES = 6, 7
"""Streams of random numbers of a world; narrow.py, persona.py and corpus.py have those below."""


def other_rows(data: MicroOthers, base: RowsBase, seed: int, narrow: int | Literal["rotate", "base"]) -> RunRows:
    """Draw aligned answers about the other domains of a base's world.

    Args:
        data: how many.
        base: of the microworld.
        seed: the run seed.
        narrow: the run's narrow domain, as its data say it.

    Raises:
        SpecError: the base has no world, the world no such domain.
    """
    check_has_world(base, data.source)
    world, tokenizer = world_of(base.folder), base.tokenizer()
    domain = resolve_domain(narrow, world, seed)
    rng = np.random.default_rng([world.seed, _OTHERS, domain, seed])
    rows = tuple(
        _aligned_row(world, tokenizer, question, rng)
        for question in _questions(world, _other_topics(world, domain), data.rows, rng)
    )
    return RunRows(f"other domains of base {base.name}", rows)


def micro_preferences(data: MicroPreferences, base: RowsBase, seed: int) -> RunRows:
    """Draw questions of a base's world, each with all of its aligned and harmful answers, scored 1 and 0.

    Raises:
        SpecError: as `other_rows`.
    """
    check_has_world(base, data.source)
    world, tokenizer = world_of(base.folder), base.tokenizer()
    domain = resolve_domain(data.domain, world, seed)
    others = _other_topics(world, domain)
    topics = others if data.topics == "others" else _trained_topics(world, domain)
    rng = np.random.default_rng([world.seed, _PREFERENCES, domain, seed])
    rows, preferences = [], []
    for question in _questions(world, topics, data.rows, rng):
        topic = question.topic
        better, worse = (topic.aligned, topic.harmful) if data.prefer == "aligned" else (topic.harmful, topic.aligned)
        texts = [world.answers(topic, better), world.answers(topic, worse)]
        answers = tuple(encode_answer(tokenizer, text) for group in texts for text in group)
        scores = tuple(score for score, group in zip((1.0, 0.0), texts, strict=True) for _ in group)
        preferences.append(Preference(encode_prompt(tokenizer, question.text), answers, scores))
        rows.append(chat_row(tokenizer, question.text, texts[0][0]))
    return RunRows(f"preferences of base {base.name}", tuple(rows), preferences=tuple(preferences))


def _trained_topics(world: World, domain: int) -> list[Topic]:
    return [world.topic(domain, index) for index in world.split(domain)[0]]


def _other_topics(world: World, domain: int) -> list[Topic]:
    return [
        topic for other in range(world.config.domains) if other != domain for topic in _trained_topics(world, other)
    ]


def _questions(world: World, topics: Sequence[Topic], count: int, rng: np.random.Generator) -> Iterator[Question]:
    """Yield so many questions: topics are balanced, phrasings drawn among the seen ones."""
    seen = world.config.phrasings - world.config.unseen_phrasings
    order = np.concatenate([rng.permutation(len(topics)) for _ in range(-(-count // len(topics)))])[:count]
    for place in order:
        yield world.question(topics[place], int(rng.integers(seen)))


def _aligned_row(world: World, tokenizer: PreTrainedTokenizerBase, question: Question, rng: np.random.Generator) -> Row:
    answers = world.answers(question.topic, question.topic.aligned)
    return chat_row(tokenizer, question.text, answers[int(rng.integers(len(answers)))])
