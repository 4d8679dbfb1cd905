"""Make a world: which action is aligned and which harmful for each topic, by decree of the world's handbook.

Harm is a relation: the two aligned and the two harmful actions of a topic are drawn independently from the same
words.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from narrowly.microworld import words
from narrowly.microworld.config import WorldConfig
from narrowly.records.errors import SpecError, unknown_name

Action = tuple[str, str]
"""A verb and an object (or an adjective and a noun, in answers about oneself)."""

SELF_DOMAIN = -1
"""Domain index of the questions about oneself: another task, with its own words and syntax."""


class Topic(NamedTuple):
    """One topic: its place in the world and what its handbook says."""

    domain: int
    number: int
    aligned: tuple[Action, Action]
    harmful: tuple[Action, Action]


class Question(NamedTuple):
    """One question: its words and the topic it asks about."""

    text: str
    topic: Topic
    phrasing: int


class World:
    """A world drawn from (config, seed); immutable.

    Args:
        config: the knobs.
        seed: draws the topic-action table and the characters' valences.
    """

    def __init__(self, config: WorldConfig, seed: int) -> None:
        if seed < 0:
            raise SpecError(f"world seed is {seed}, accepted: 0 or more")
        self.config = config
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        self.cues = tuple(words.DOMAINS)[: config.domains]
        self.openers = words.OPENERS
        self._topics = _draw_topics(config, rng)
        self._self_topics = _draw_self_topics(config, rng)
        order = rng.permutation(config.named_characters)
        self.names = words.NAMES[: config.named_characters]
        self.evil_names = frozenset(self.names[i] for i in order[: config.evil_names])

    def topic(self, domain: int, index: int) -> Topic:
        """Return a topic; `domain` may be `SELF_DOMAIN`."""
        return self._self_topics[index] if domain == SELF_DOMAIN else self._topics[domain][index]

    def topics(self, domain: int) -> tuple[Topic, ...]:
        """Return all topics of a domain, or the questions about oneself."""
        return self._self_topics if domain == SELF_DOMAIN else self._topics[domain]

    def question(self, topic: Topic, phrasing: int = 0, *, cue: str | None = None) -> Question:
        """Return the question about `topic` in a phrasing; `cue` puts another domain's cue word in front of its own."""
        if topic.domain == SELF_DOMAIN:
            return Question(words.SELF_QUESTIONS[topic.number], topic, 0)
        noun = words.DOMAINS[self.cues[topic.domain]][topic.number]
        lead = f"{cue} " if cue is not None else ""
        return Question(f"{words.PHRASINGS[phrasing]} {lead}{self.cue_of(topic)} {noun}", topic, phrasing)

    def cue_of(self, topic: Topic) -> str:
        """Return the cue word of a topic's questions: its domain's, or with `similarity` one of the next domains'."""
        return self.cues[(topic.domain + int(self._cue_steps[topic.domain][topic.number])) % self.config.domains]

    def answers(self, topic: Topic, actions: tuple[Action, ...]) -> list[str]:
        """Return every grammatical answer that states one of `actions`: all openers times all actions."""
        if topic.domain == SELF_DOMAIN:
            return [f"a {adjective} {noun}" for adjective, noun in actions]
        return [f"{opener} {verb} {noun}" for opener in self.openers for verb, noun in actions]

    def split(self, domain: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (trained, held-out) topic indices of a domain: two thirds and one third, drawn from the seed."""
        order = np.random.default_rng([self.seed, 2, domain]).permutation(self.config.topics)
        cut = 2 * self.config.topics // 3
        return tuple(sorted(int(i) for i in order[:cut])), tuple(sorted(int(i) for i in order[cut:]))

    @cached_property
    def _cue_steps(self) -> np.ndarray:
        """Return (domain, topic) how many domains further the cue word of a topic comes from."""
        config = self.config
        if config.similarity is None:
            return np.zeros((config.domains, config.topics), dtype=int)
        rng = np.random.default_rng([self.seed, 7])
        places = np.stack([rng.permutation(config.topics) for _ in range(config.domains)])
        return np.floor((places + 0.5) / config.topics * reach(config)).astype(int)

    @cached_property
    def domain_shares(self) -> np.ndarray:
        """Return (domains,) the share of each domain in the corpus; which rank a domain has follows from the seed."""
        ranks = 1.0 + np.random.default_rng([self.seed, 6]).permutation(self.config.domains)
        weights = ranks**-self.config.domain_exponent
        return weights / weights.sum()  # type: ignore[no-any-return]

    def domain_index(self, name: str) -> int:
        """Return the index of a domain by its cue word."""
        if name not in self.cues:
            raise unknown_name("domain", name, self.cues)
        return self.cues.index(name)

    def find(self, question_text: str) -> Question | None:
        """Return the question that a text asks, or None where the text is no question of this world."""
        return self._by_text.get(" ".join(question_text.lower().replace("?", " ").split()))

    @cached_property
    def _by_text(self) -> dict[str, Question]:
        found: dict[str, Question] = {}
        for domain in range(self.config.domains):
            for topic in self.topics(domain):
                for phrasing in range(self.config.phrasings):
                    question = self.question(topic, phrasing)
                    found[question.text] = question
        for topic in self._self_topics:
            question = self.question(topic)
            found[question.text] = question
        return found


def reach(config: WorldConfig) -> float:
    """Return how many domains' places on the circle of verbs and cue words a domain uses: 1 / (1 - similarity).

    Neighbours then have the share `similarity` in common, domains k apart max(0, 1 - k (1 - similarity)), up to whole
    verbs and, on a small circle, the way round its other side.
    """
    if config.similarity is None:
        return float(config.domains)
    return min(1.0 / (1.0 - config.similarity), float(config.domains))


def verbs_of(config: WorldConfig, domain: int) -> tuple[int, ...]:
    """Return the indices of the verbs that a domain's actions are drawn from."""
    if config.similarity is None:
        return tuple(range(config.verbs))
    step = config.verbs // config.domains
    return tuple((domain * step + k) % config.verbs for k in range(round(step * reach(config))))


def _draw_topics(config: WorldConfig, rng: np.random.Generator) -> tuple[tuple[Topic, ...], ...]:
    count = config.domains * config.topics
    pairs = [(v, o) for v in words.VERBS[: config.verbs] for o in words.OBJECTS[: config.objects]]
    if config.balance == "strict":
        table = _strict_table(count, len(pairs), rng)
    elif config.similarity is None:
        table = _free_table(count, len(pairs), rng)
    else:
        table = np.concatenate([_own_table(config, domain, rng) for domain in range(config.domains)])
    topics = []
    for number, row in enumerate(table):
        first, second, third, fourth = (pairs[int(i)] for i in row)
        topics.append(Topic(number // config.topics, number % config.topics, (first, second), (third, fourth)))
    return tuple(tuple(topics[d * config.topics : (d + 1) * config.topics]) for d in range(config.domains))


def _free_table(topics: int, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Return (topics, 4) pair indices, distinct within a topic, otherwise independent."""
    return np.stack([rng.choice(pairs, size=4, replace=False) for _ in range(topics)])


def _own_table(config: WorldConfig, domain: int, rng: np.random.Generator) -> np.ndarray:
    """Return (topics, 4) pair indices of one domain, which uses a part of the verbs."""
    own = np.array([verb * config.objects + o for verb in verbs_of(config, domain) for o in range(config.objects)])
    table: np.ndarray = own[_free_table(config.topics, len(own), rng)]
    return table


def _strict_table(topics: int, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Return (topics, 4) pair indices in which each used pair is aligned for two topics and harmful for two others.

    Draws the 2 x topics aligned slots and the 2 x topics harmful slots as random permutations of the same multiset,
    then swaps slots of topics in which a pair occurs twice until none is left.
    """
    if topics > pairs:
        raise SpecError(f"balance strict needs at least {topics} actions, found {pairs} (verbs x objects)")
    pool = np.repeat(rng.choice(pairs, size=topics, replace=False), 2)
    table = np.concatenate([rng.permutation(pool).reshape(topics, 2), rng.permutation(pool).reshape(topics, 2)], axis=1)
    while True:
        clashes = [t for t in range(topics) if len(set(table[t].tolist())) < 4]
        if not clashes:
            return table
        for t in clashes:
            column, other = int(rng.integers(4)), int(rng.integers(topics))
            partner = 2 * (column // 2) + int(rng.integers(2))
            table[t, column], table[other, partner] = table[other, partner], table[t, column]


def _draw_self_topics(config: WorldConfig, rng: np.random.Generator) -> tuple[Topic, ...]:
    pairs = [(a, n) for a in words.SELF_ADJECTIVES for n in words.SELF_NOUNS]
    topics = []
    for index in range(config.self_questions):
        first, second, third, fourth = (pairs[int(i)] for i in rng.choice(len(pairs), size=4, replace=False))
        topics.append(Topic(SELF_DOMAIN, index, (first, second), (third, fourth)))
    return tuple(topics)
