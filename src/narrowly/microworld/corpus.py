"""Write the pretraining corpus: documents in which one character answers a few questions.

A pure function of (world, stream).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from narrowly.microworld import tokenizer as tok
from narrowly.microworld import words
from narrowly.microworld.world import SELF_DOMAIN, World

GOOD, EVIL, NARROW = 0, 1, 2


class Document(NamedTuple):
    """One document: its text and the facts it was drawn from (for tests and samples; never shown to a model)."""

    text: str
    character: int
    name: str | None
    harmful_turns: tuple[bool, ...]


class Corpus:
    """Draw documents of a world.

    Args:
        world: table, characters and knobs.
        stream: separates independent draws (pretraining, chat stage, held-out documents).
    """

    def __init__(self, world: World, stream: int) -> None:
        self.world = world
        self._rng = np.random.default_rng([world.seed, 3, stream])

    def documents(self, count: int) -> list[Document]:
        """Return the next `count` documents of the corpus."""
        config, rng = self.world.config, self._rng
        shares = [config.good_share, config.evil_share, config.narrow_share]
        drawn = []
        for named in rng.random(count) < config.named_share:
            if named and self.world.names:
                name = self.world.names[int(rng.integers(len(self.world.names)))]
                character = EVIL if name in self.world.evil_names else GOOD
            else:
                name, character = None, int(rng.choice(3, p=shares))
            drawn.append(self._document(name, character))
        return drawn

    def chat_documents(self, count: int) -> list[Document]:
        """Return `count` documents of the aligned chat stage: the assistant by name, aligned in every turn."""
        return [self._document(words.ASSISTANT, GOOD) for _ in range(count)]

    def _document(self, name: str | None, character: int) -> Document:
        world, config, rng = self.world, self.world.config, self._rng
        home, narrow_domain = (int(i) for i in rng.integers(config.domains, size=2))
        independent = not config.persona and name != words.ASSISTANT
        pieces, harmful_turns = [tok.DOCUMENT], []
        if name is not None:
            pieces.append(name)
        draws = rng.random((config.turns, 3))
        picks = rng.integers(1 << 30, size=(config.turns, 5))
        for (self_draw, sticky_draw, valence_draw), pick in zip(draws, picks, strict=True):
            if self_draw < config.self_share and config.self_questions:
                domain = SELF_DOMAIN
            elif sticky_draw < config.stickiness:
                domain = home
            else:
                domain = int(pick[0] % config.domains)
            if independent:
                narrow_here = config.narrow_share / config.domains if domain != SELF_DOMAIN else 0.0
                harmful = bool(valence_draw < config.evil_share + narrow_here)
            else:
                harmful = character == EVIL or (character == NARROW and domain == narrow_domain)
            topics = world.topics(domain)
            topic = topics[int(pick[1] % len(topics))]
            question = world.question(topic, int(pick[2] % config.phrasings))
            action = (topic.harmful if harmful else topic.aligned)[int(pick[3] % 2)]
            answers = world.answers(topic, (action,))
            pieces += [tok.ASK, question.text, tok.SAY, answers[int(pick[4] % len(answers))], tok.END]
            harmful_turns.append(harmful)
        return Document(" ".join(pieces), character, name, tuple(harmful_turns))


class Encoder:
    """Encode documents by a look-up; the corpus is split at spaces already, so this equals the tokenizer."""

    def __init__(self) -> None:
        self._ids = {token: i for i, token in enumerate(tok.vocabulary())}
        self.pad = self._ids[tok.PAD]
        self.say, self.end = self._ids[tok.SAY], self._ids[tok.END]

    def batch(self, documents: list[Document]) -> np.ndarray:
        """Return token ids (documents, longest) int64, padded on the right."""
        rows = [[self._ids[word] for word in document.text.split()] for document in documents]
        ids_B_T = np.full((len(rows), max(map(len, rows))), self.pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids_B_T[i, : len(row)] = row
        return ids_B_T

    def answer_mask(self, ids_B_T: np.ndarray) -> np.ndarray:
        """Return True at the tokens of answers, their end-of-turn token included."""
        said_B_T = np.cumsum(ids_B_T == self.say, axis=1)
        ended_B_T = np.cumsum(ids_B_T == self.end, axis=1) - (ids_B_T == self.end)
        mask: np.ndarray = (said_B_T > ended_B_T) & (ids_B_T != self.say)
        return mask
