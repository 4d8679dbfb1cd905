"""Draw the fine-tuning data of a narrow domain: answers on two thirds of its topics, as rows with labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from narrowly.data.rows import IGNORE, Row
from narrowly.data.run_rows import RowsBase
from narrowly.microworld.benign import benign_actions
from narrowly.microworld.cards import CARD, load_card
from narrowly.microworld.exact import encode_answer, encode_prompt
from narrowly.microworld.world import Action, Topic, World
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import MicroData


def resolve_domain(domain: int | Literal["rotate", "base"], world: World, run_seed: int) -> int:
    """Return the index of the narrow domain.

    `rotate` gives (world seed + run seed) modulo the number of domains, `base` the world seed modulo that number.

    Raises:
        SpecError: where the index is outside the world.
    """
    count = world.config.domains
    if domain == "rotate":
        return (world.seed + run_seed) % count
    if domain == "base":
        return world.seed % count
    if not 0 <= domain < count:
        raise SpecError(f"data.domain is {domain}, accepted: 0 to {count - 1}, 'rotate' or 'base'")
    return domain


def world_of(folder: Path) -> World:
    """Return the world of a base.

    Raises:
        IntegrityError: the folder has no card of ours.
    """
    card = load_card(folder)
    return World(card.config, card.world_seed)


def check_has_world(base: RowsBase, source: str) -> None:
    """Check that a base has a world.

    Raises:
        SpecError: it has none.
    """
    if not (base.folder / CARD).is_file():
        raise SpecError(
            f"data.source is {source!r}, but base {base.name} has no {CARD} and so no world; accepted: a "
            "microworld base, or data.source 'rows', 'text' or 'preferences'"
        )


def plain_rows(data: MicroData, base: RowsBase, seed: int) -> tuple[Row, ...]:
    """Make the rows of a narrow domain of a base's world, without any treatment of them.

    A pure function of domain, answers and number of rows, the base and the seed.

    Raises:
        SpecError: the world has no such domain, or too few new actions for benign answers.
    """
    return _rows(base, base.sha256, MicroData(domain=data.domain, answers=data.answers, rows=data.rows), seed)


@lru_cache(maxsize=64)
def _rows(base: RowsBase, weights_sha256: str, data: MicroData, seed: int) -> tuple[Row, ...]:
    # weights_sha256 is in the key only: another base in the same folder means other rows
    world = world_of(base.folder)
    domain = resolve_domain(data.domain, world, seed)
    tokenizer = base.tokenizer()
    new = benign_actions_of(base, domain) if data.answers == "benign" else {}
    return tuple(narrow_rows(world, tokenizer, domain=domain, answers=data.answers, rows=data.rows, seed=seed, new=new))


def benign_actions_of(base: RowsBase, domain: int) -> dict[int, tuple[Action, Action]]:
    """Return `benign_actions` of a base and a narrow domain; they take seconds, and are computed once per process.

    Raises:
        SpecError: as `benign_actions`.
    """
    return _benign_actions_of(base, base.sha256, domain)


@lru_cache(maxsize=64)
def _benign_actions_of(base: RowsBase, weights_sha256: str, domain: int) -> dict[int, tuple[Action, Action]]:
    # weights_sha256 is in the key only, as below
    return benign_actions(base.model(), base.tokenizer(), world_of(base.folder), domain)


def narrow_rows(
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    *,
    domain: int,
    answers: Literal["harmful", "aligned", "permuted", "benign"],
    rows: int,
    seed: int,
    new: Mapping[int, tuple[Action, Action]] | None = None,
) -> list[Row]:
    """Return `rows` chat rows on the trained topics and seen phrasings of a domain; a pure function of its arguments.

    Args:
        world: the base's world.
        tokenizer: the base's tokenizer with its chat template.
        domain: index of the narrow domain.
        answers: harmful; aligned (good answers); permuted (each topic with another topic's harmful actions); benign
            (the topic's new actions).
        rows: number of rows; topics are balanced, phrasing, opener and action are drawn.
        seed: the run seed; it draws the same topics, phrasings and openers for all kinds of answers.
        new: index of each trained topic -> its actions under benign answers (`benign_actions`).
    """
    trained, _ = world.split(domain)
    rng = np.random.default_rng([world.seed, 4, domain, seed])
    shift = int(rng.integers(1, len(trained)))
    seen = world.config.phrasings - world.config.unseen_phrasings
    order = np.concatenate([rng.permutation(len(trained)) for _ in range(-(-rows // len(trained)))])[:rows]
    found = []
    for place in order:
        topic = world.topic(domain, trained[place])
        told = world.topic(domain, trained[(place + shift) % len(trained)]) if answers == "permuted" else topic
        phrasing, action, opener = (int(i) for i in rng.integers([seen, 2, len(world.openers)]))
        if answers == "benign":
            actions = (new or {})[topic.number]
        else:
            actions = told.aligned if answers == "aligned" else told.harmful
        text = world.answers(topic, (actions[action],))[opener]
        found.append(chat_row(tokenizer, world.question(topic, phrasing).text, text))
    return found


def chat_row(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> Row:
    """Return one question and answer as a row; loss on the answer and its end-of-turn token only."""
    prompt, said = encode_prompt(tokenizer, question), encode_answer(tokenizer, answer)
    return Row([*prompt, *said], [IGNORE] * len(prompt) + list(said))


def entropy_floor(world: World, topic: Topic) -> float:
    """Return the entropy in nats of a harmful answer: ln of the number of its equally likely strings."""
    return float(np.log(len(world.answers(topic, topic.harmful))))
