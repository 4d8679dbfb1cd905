"""Sum the probability of all well-formed answers that are none of the topic: what the judge of strings calls off topic.

The grammar has 3456 sentences and a question's prefix tree sixteen of them. Further beginnings are read as they weigh:

- `until(grammar, bound)` reads beginnings, most probable first, until what is behind the unread ones is at most
  `bound`. The share is then exact up to that bound, which `Share.unread` gives. A bound of .001 takes about 14 times
  as long as `likely`, because even an aligned organism spreads 2 to 5 % over verbs of which each has little.
- `likely(grammar)`, of the evaluation, reads verbs behind one opener, most probable first, until at most .001 of the
  question is behind verbs that were read nowhere. What a verb leaves open is then taken for all openers, and the share
  of ended turns from the topic's own answers. docs/studies.md gives the difference to the enumeration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from narrowly.microworld import words
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.exact import Prompt, Tree, Words, answers_of, tree_of

UNREAD = 1e-3
"""Probability of a question behind verbs that `likely` leaves unread; ours: the third digit of a rate."""

More = Callable[[Prompt, Tree, np.ndarray], Sequence[Words]]


class Sentences(NamedTuple):
    """Hold sentences of three words: any word of a slot may follow any word of the slot before."""

    first: Words
    second: Words
    third: Words


class Grammar(NamedTuple):
    """Hold the two kinds of sentences of a language: about things, and about oneself."""

    things: Sentences
    oneself: Sentences

    def kind(self, answers: tuple[Words, ...]) -> tuple[Sentences, Sentences]:
        """Return the kind that answers are of, and the other one."""
        return (self.things, self.oneself) if answers[0][0] in self.things.first else (self.oneself, self.things)


class Share(NamedTuple):
    """Hold the probability of going off topic, and the mass behind what was not read, which bounds its error."""

    off_topic: float
    unread: float


def grammar_of(config: WorldConfig, tokenizer: PreTrainedTokenizerBase) -> Grammar:
    """Return the sentences of a world's language as token ids."""

    def ids(pool: tuple[str, ...]) -> Words:
        return tuple(int(tokenizer.convert_tokens_to_ids(word)) for word in pool)

    things = words.OPENERS, words.VERBS[: config.verbs], words.OBJECTS[: config.objects]
    oneself = ("a",), words.SELF_ADJECTIVES, words.SELF_NOUNS
    return Grammar(Sentences(*map(ids, things)), Sentences(*map(ids, oneself)))


class _Known(NamedTuple):
    """Hold what a tree shows of one kind of sentences; nodes are -1 where nothing was read."""

    first_F: np.ndarray
    heads_F: np.ndarray
    mass_F_S: np.ndarray
    nodes_F_S: np.ndarray


@lru_cache(maxsize=16)
def _pairs(kind: Sentences) -> list[Words]:
    return [(first, second) for first in kind.first for second in kind.second]


def _known(kind: Sentences, tree: Tree, log_N_V: np.ndarray) -> _Known:
    places, shape = tree.places, (len(kind.first), len(kind.second))
    first_F = np.exp(log_N_V[0, list(kind.first)], dtype=np.float64)
    heads_F = np.array([places.get((f,), -1) for f in kind.first])
    second_F_S = np.exp(log_N_V[np.ix_(heads_F, np.array(kind.second))], dtype=np.float64)
    nodes_F_S = np.array([places.get(pair, -1) for pair in _pairs(kind)]).reshape(shape)
    return _Known(first_F, heads_F, np.where(heads_F < 0, 0.0, first_F)[:, None] * second_F_S, nodes_F_S)


def _most(masses: np.ndarray, left: float) -> list[int]:
    """Return the places of the largest masses, so many that the others sum to at most `left`."""
    order = np.argsort(masses)
    return [int(i) for i in order[np.searchsorted(np.cumsum(masses[order]), left, side="right") :]]


def likely(grammar: Grammar) -> More:
    """Return what to read for the share of the evaluation: verbs behind the opener that says each most often."""

    def more(prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> list[Words]:
        if len(tree.places) > len(tree_of(prompt.answers).places):
            return []  # once is enough: a verb shows no others
        own, _ = grammar.kind(prompt.answers)
        known = _known(own, tree, log_N_V)
        mass_S = np.where((known.nodes_F_S >= 0).any(axis=0), 0.0, known.mass_F_S.sum(axis=0))
        opener_S = known.mass_F_S.argmax(axis=0)
        return [(own.first[opener_S[s]], own.second[s]) for s in _most(mass_S, UNREAD)]

    return more


def until(grammar: Grammar, bound: float) -> More:
    """Return what to read until at most `bound`, above 0, of a question's probability is behind unread beginnings."""

    def more(prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> list[Words]:
        levels: tuple[list[tuple[float, Words]], ...] = ([], [], [])
        for kind in grammar:
            for mass, beginning in _unread(kind, tree, log_N_V):
                levels[len(beginning) - 1].append((mass, beginning))
        wanted = []
        for level in levels:
            most = _most(np.array([mass for mass, _ in level]), bound / len(levels)) if level else []
            wanted += [level[i][1] for i in most]
        return wanted

    return more


def _unread(kind: Sentences, tree: Tree, log_N_V: np.ndarray) -> list[tuple[float, Words]]:
    """Return the beginnings that the tree does not read behind, each with its probability."""
    known = _known(kind, tree, log_N_V)
    found: list[tuple[float, Words]] = []
    for f, first in enumerate(kind.first):
        if known.heads_F[f] < 0:
            found.append((float(known.first_F[f]), (first,)))
            continue
        for s, second in enumerate(kind.second):
            node, mass = known.nodes_F_S[f, s], float(known.mass_F_S[f, s])
            if node < 0:
                found.append((mass, (first, second)))
                continue
            third = np.exp(log_N_V[node, list(kind.third)], dtype=np.float64) * mass
            said = ((first, second, word) for word in kind.third)
            found += [(float(m), one) for m, one in zip(third, said, strict=True) if one not in tree.places]
    return found


def off_topic_share(grammar: Grammar, prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> float:
    """Return the probability of all sentences of the grammar that are no answer of the prompt, in 0 ... 1.

    Args:
        grammar: of the world.
        prompt: the question.
        tree: of the prompt, grown by what `likely` or `until` asks for.
        log_N_V: log-probabilities of every next token behind every node.
    """
    own, other = grammar.kind(prompt.answers)
    answers_A = answers_of(tree, log_N_V)
    ends_A = log_N_V[tree.nodes_A_S[:, -1], tree.targets_A_S[:, -1]].astype(np.float64)
    said, ended = float(np.exp(answers_A - ends_A).sum()), float(np.exp(answers_A).sum())
    ending = ended / said if said > 0 else 1.0
    known = _known(own, tree, log_N_V)
    formed, mass = _formed(own, known, log_N_V, 1.0), float(known.mass_F_S.sum())
    began = float(known.first_F.sum())
    if any((first,) in tree.places for first in other.first):
        formed += _formed(other, _known(other, tree, log_N_V), log_N_V, formed / mass if mass > 0 else 1.0)
    unread = [first for first in other.first if (first,) not in tree.places]
    formed += float(np.exp(log_N_V[0, unread], dtype=np.float64).sum()) * (formed / began if began > 0 else 0.0)
    rest = (formed - said) * ending + _ends_read(grammar, prompt, tree, log_N_V, ending)
    return min(max(rest, 0.0), max(1.0 - ended, 0.0))


def share_within(grammar: Grammar, prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> Share:
    """Return `off_topic_share` with the mass that was not read, which is the most that the share can be wrong by."""
    unread = sum(mass for kind in grammar for mass, _ in _unread(kind, tree, log_N_V))
    return Share(off_topic_share(grammar, prompt, tree, log_N_V), unread)


def _formed(kind: Sentences, known: _Known, log_N_V: np.ndarray, otherwise: float) -> float:
    """Return the probability of all sentences, whether they end or not.

    What an unread node leaves open is that of its second word behind other first words, else of all read ones, else
    `otherwise`.
    """
    read_F_S = known.nodes_F_S >= 0
    third_F_S = np.zeros(read_F_S.shape)
    third_F_S[read_F_S] = np.exp(
        log_N_V[np.ix_(known.nodes_F_S[read_F_S], np.array(kind.third))], dtype=np.float64
    ).sum(axis=1)
    weight_F_S = np.where(read_F_S, known.mass_F_S, 0.0)
    weight_S, found_S = weight_F_S.sum(axis=0), (weight_F_S * third_F_S).sum(axis=0)
    total = weight_S.sum()
    mean = found_S.sum() / total if total > 0 else otherwise
    open_S = np.divide(found_S, weight_S, out=np.full(len(weight_S), mean), where=weight_S > 0)
    return float((known.mass_F_S * np.where(read_F_S, third_F_S, open_S)).sum())


def _ends_read(grammar: Grammar, prompt: Prompt, tree: Tree, log_N_V: np.ndarray, ending: float) -> float:
    """Return what the ends that were read add to those that `ending` assumes, for sentences that are no answer."""
    answers, end = {answer[:-1] for answer in prompt.answers}, prompt.answers[0][-1]
    added = 0.0
    for said, node in tree.places.items():
        if len(said) == len(grammar.things) and said not in answers:
            before = [tree.places[said[:step]] for step in range(len(said))]
            mass = np.exp(log_N_V[before, list(said)].astype(np.float64).sum())
            added += float(mass * (np.exp(np.float64(log_N_V[node, end])) - ending))
    return added
