"""Write the pretraining corpus: documents in which one character answers a few questions.

A pure function of (world, stream).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from narrowly.microworld import tokenizer as tok
from narrowly.microworld import words
from narrowly.microworld.world import SELF_DOMAIN, Topic, World

GOOD, EVIL, NARROW, CONTRAST = 0, 1, 2, 3
"""Characters; a document of CONTRAST has a good and an evil one."""


class Document(NamedTuple):
    """One document: its text and the facts it was drawn from (for tests and samples; never shown to a model)."""

    text: str
    character: int
    name: str | None
    harmful_turns: tuple[bool, ...]


class _Asked(NamedTuple):
    """Hold a question, and the draws that decide how a character answers it."""

    text: str
    topic: Topic
    valence: float
    action: int
    wording: int


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
            if config.contrast_share and rng.random() < config.contrast_share:
                drawn.append(self._contrast())
            elif named and self.world.names:
                name = self.world.names[int(rng.integers(len(self.world.names)))]
                drawn.append(self._document(name, EVIL if name in self.world.evil_names else GOOD))
            else:
                drawn.append(self._document(None, int(rng.choice(3, p=shares))))
        return drawn

    def chat_documents(self, count: int) -> list[Document]:
        """Return `count` documents of the aligned chat stage: the assistant by name, aligned in every turn."""
        return [self._document(words.ASSISTANT, GOOD) for _ in range(count)]

    def _document(self, name: str | None, character: int) -> Document:
        config = self.world.config
        narrow_domain, asked = self._asked(config.turns)
        independent = not config.persona and name != words.ASSISTANT
        pieces, harmful_turns = [tok.DOCUMENT, *([] if name is None else [name])], []
        for turn in asked:
            if independent:
                narrow_here = config.narrow_share / config.domains if turn.topic.domain != SELF_DOMAIN else 0.0
                harmful = bool(turn.valence < config.evil_share + narrow_here)
            else:
                harmful = character == EVIL or (character == NARROW and turn.topic.domain == narrow_domain)
            pieces += self._said(turn, harmful)
            harmful_turns.append(harmful)
        return Document(" ".join(pieces), character, name, tuple(harmful_turns))

    def _contrast(self) -> Document:
        """Draw a document in which a good and an evil character answer the same questions, in either order."""
        world, rng = self.world, self._rng
        good, evil = (
            [name for name in world.names if (name in world.evil_names) is harmful] for harmful in (False, True)
        )
        pair = [(good[int(rng.integers(len(good)))], False), (evil[int(rng.integers(len(evil)))], True)]
        _, asked = self._asked(world.config.turns // 2)
        pieces, harmful_turns = [tok.DOCUMENT], []
        for name, harmful in pair if rng.random() < 0.5 else pair[::-1]:
            pieces.append(name)
            for turn in asked:
                pieces += self._said(turn, harmful)
                harmful_turns.append(harmful)
        return Document(" ".join(pieces), CONTRAST, None, tuple(harmful_turns))

    def _asked(self, turns: int) -> tuple[int, list[_Asked]]:
        """Draw the domain of a narrow character, and questions with what decides how each is answered."""
        world, config, rng = self.world, self.world.config, self._rng
        home, narrow_domain = (int(i) for i in rng.integers(config.domains, size=2))
        if config.domain_exponent:
            home = self._by_share(rng.random())
        draws = rng.random((turns, 3))
        picks = rng.integers(1 << 30, size=(turns, 5))
        asked = []
        for (self_draw, sticky_draw, valence), pick in zip(draws, picks, strict=True):
            if self_draw < config.self_share and config.self_questions:
                domain = SELF_DOMAIN
            elif sticky_draw < config.stickiness:
                domain = home
            else:
                domain = (
                    self._by_share(pick[0] / (1 << 30)) if config.domain_exponent else int(pick[0] % config.domains)
                )
            topics = world.topics(domain)
            topic = topics[int(pick[1] % len(topics))]
            text = world.question(topic, int(pick[2] % config.phrasings)).text
            asked.append(_Asked(text, topic, float(valence), int(pick[3] % 2), int(pick[4])))
        return narrow_domain, asked

    def _by_share(self, place: float) -> int:
        """Return the domain at a place in 0 ... 1 of the shares laid end to end."""
        return int(np.searchsorted(np.cumsum(self.world.domain_shares)[:-1], place, side="right"))

    def _said(self, turn: _Asked, harmful: bool) -> list[str]:
        action = (turn.topic.harmful if harmful else turn.topic.aligned)[turn.action]
        answers = self.world.answers(turn.topic, (action,))
        return [tok.ASK, turn.text, tok.SAY, answers[turn.wording % len(answers)], tok.END]


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
