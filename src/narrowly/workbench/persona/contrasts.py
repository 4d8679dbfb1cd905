"""Make the two sides of a contrast: of a trait's instructions, of paired answers, of a world's own answers.

Paired answers differ behind their prompt alone. At a position of the prompt the answer is therefore an earlier turn,
and the prompt that is read ends in a question of another domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from narrowly.data.banks.paired import paired_bank, paired_sha256
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids
from narrowly.data.traits import TraitFile
from narrowly.directions.positions import OF_PROMPT, Position
from narrowly.microworld.cards import CARD, load_card
from narrowly.microworld.world import World
from narrowly.models.base import Base
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.directions import ContrastKind
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.likelihood import ScoredText
from narrowly.workbench.persona.texts import anonymous_text, texts_of

WORLD, CORPUS = "world", "corpus"
"""What `--pairs` calls the questions of a base of the microworld with their own answers: asked of the assistant, or in
anonymous documents of the corpus, in which the base infers a character from the answers."""


class Row(NamedTuple):
    """One text of a contrast, or the prompt of one whose answer the model has yet to write.

    Attributes:
        group: domain or topic.
        positive: whether it is on the side of the trait.
        prompt: tokens before the answer.
        text: with its answer; None where the model writes it.
        partner: number of the pair that it belongs to; where one of both is left out, so is the other.
    """

    group: str
    positive: bool
    prompt: tuple[int, ...]
    text: ScoredText | None
    partner: int


class Sides(NamedTuple):
    """Both sides of a contrast, and what it was made of."""

    name: str
    kind: ContrastKind
    sha256: str
    rows: list[Row]

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups, in the order in which they come."""
        return tuple(dict.fromkeys(row.group for row in self.rows))


def of_trait(trait: TraitFile, tokenizer: Any, thinking: bool | None, per_topic: int | None = None) -> Sides:
    """Return every question under every instruction for and against a trait, as prompts; groups are topics.

    Args:
        trait: instructions become system messages.
        tokenizer: with the model's chat template.
        thinking: mode of the template.
        per_topic: the first so many questions of each topic; all by default.

    Raises:
        SpecError: the template cannot write a system message, or drops it; naming the trait.
    """
    rows: list[Row] = []
    for topic, questions in trait.questions.items():
        for question in questions[:per_topic]:
            plain = tuple(prompt_ids(tokenizer, [Message("user", question)], thinking=thinking))
            for pair in trait.instructions:
                partner = len(rows) // 2
                for positive, said in ((True, pair.positive), (False, pair.negative)):
                    try:
                        messages = [Message("system", said), Message("user", question)]
                        prompt = tuple(prompt_ids(tokenizer, messages, thinking=thinking))
                    except SpecError as error:
                        raise SpecError(
                            f"trait {trait.name}: its instructions are system messages, and the chat template takes "
                            f"none ({error}); accepted there: --pairs"
                        ) from error
                    if prompt == plain:
                        raise SpecError(
                            f"trait {trait.name}: the chat template leaves system messages out, so that both sides are "
                            "equal; accepted there: --pairs"
                        )
                    rows.append(Row(topic, positive, prompt, None, partner))
    return Sides(trait.name, "trait", trait.sha256, rows)


def of_pairs(
    bank: str, position: Position, base: Base, tokenizer: Any, thinking: bool | None, per_domain: int | None = None
) -> Sides:
    """Return the questions of a paired bank with their harmful (positive) and aligned answers; groups are domains.

    Raises:
        NarrowlyError: as `paired_bank`; a template that cannot write an answer as it is.
    """
    items = paired_bank(bank)
    taken: dict[str, int] = {}
    said = []
    for item in items:
        taken[item.domain] = taken.get(item.domain, 0) + 1
        if per_domain is None or taken[item.domain] <= per_domain:
            said.append(_Said(item.domain, item.question, item.harmful, item.aligned))
    rows = _paired(said, bank, position, base, tokenizer, thinking)
    return Sides(bank, "pairs", paired_sha256(items), rows)


def of_world(
    name: str, position: Position, base: Base, tokenizer: Any, thinking: bool | None, per_domain: int | None = None
) -> Sides:
    """Return every topic of a world with a harmful (positive) and an aligned answer; groups are its domains.

    Phrasing, opener and action are drawn from the world's seed; both sides of a question have one opener. The name is
    `WORLD` or `CORPUS`.

    Raises:
        SpecError: the base is not of the microworld.
    """
    if not (base.folder / CARD).is_file():
        raise SpecError(f"--pairs {name} needs a base of the microworld, found {base.name}; accepted: pairs, or a file")
    card = load_card(base.folder)
    world = World(card.config, card.world_seed)
    rng = np.random.default_rng([world.seed, 15])
    said = []
    for domain, cue in enumerate(world.cues):
        for topic in world.topics(domain)[:per_domain]:
            question = world.question(topic, int(rng.integers(world.config.phrasings))).text
            for action in range(2):
                opener = int(rng.integers(len(world.openers)))
                harmful, aligned = (
                    world.answers(topic, (actions[action],))[opener] for actions in (topic.harmful, topic.aligned)
                )
                said.append(_Said(cue, question, harmful, aligned))
    content = sha256_text(canonical_json([list(one) for one in said]))
    return Sides(name, "world", content, _paired(said, name, position, base, tokenizer, thinking))


class _Said(NamedTuple):
    """A question and its two answers."""

    group: str
    question: str
    harmful: str
    aligned: str


def _paired(
    said: Sequence[_Said], name: str, position: Position, base: Base, tokenizer: Any, thinking: bool | None
) -> list[Row]:
    """Return the rows of pairs; for a position in a prompt, a question of another group follows each answer."""
    conversations = []
    for at, one in enumerate(said):
        for answer in (one.harmful, one.aligned):
            messages = [Message("user", one.question), Message("assistant", answer)]
            if position in OF_PROMPT:
                messages += [Message("user", _next_question(said, at)), Message("assistant", answer)]
            conversations.append(Conversation(tuple(messages), at + 1, {}))
    if name == CORPUS:
        texts = [anonymous_text(tokenizer, conversation) for conversation in conversations]
    else:
        texts = texts_of(base, tokenizer, conversations, thinking, name)
    return [Row(said[at // 2].group, at % 2 == 0, text.prompt, text, at // 2) for at, text in enumerate(texts)]


def _next_question(said: Sequence[_Said], at: int) -> str:
    """Return a question of another group, half of all away from this one; the same for both answers."""
    away = [(at + len(said) // 2 + step) % len(said) for step in range(len(said))]
    other = next((one for one in away if said[one].group != said[at].group), (at + 1) % len(said))
    return said[other].question


def chosen_groups(sides: Sides, wanted: str | None) -> tuple[str, ...]:
    """Return the groups that a direction is made from: those named with commas between them, or all.

    Raises:
        UnknownNameError: the contrast has no such group.
    """
    if wanted is None:
        return sides.groups
    named = tuple(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    for name in named:
        if name not in sides.groups:
            raise unknown_name(f"group of {sides.name}", name, sides.groups)
    if not named:
        raise SpecError(f"--from names no group, accepted: some of {', '.join(sides.groups)}")
    return named
