"""Sum the probability of all well-formed answers that are none of the topic: what the judge of strings calls off topic.

The grammar has 3456 sentences and a question's prefix tree sixteen of them. Every node of the tree is exact in the sum.
Two factors are borrowed instead of computed for each of the rest: the share of objects behind a verb that no answer has
is read behind one opener for all four, and the share of ended turns is that behind the topic's own answers. A test
compares the sum with the enumeration of all sentences; docs/studies.md gives the difference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from narrowly.microworld import words
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.exact import Prompt, Tree, Words, answers_of, tree_of


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


def grammar_of(config: WorldConfig, tokenizer: PreTrainedTokenizerBase) -> Grammar:
    """Return the sentences of a world's language as token ids."""

    def ids(pool: tuple[str, ...]) -> Words:
        return tuple(int(tokenizer.convert_tokens_to_ids(word)) for word in pool)

    things = words.OPENERS, words.VERBS[: config.verbs], words.OBJECTS[: config.objects]
    oneself = ("a",), words.SELF_ADJECTIVES, words.SELF_NOUNS
    return Grammar(Sentences(*map(ids, things)), Sentences(*map(ids, oneself)))


def fan(grammar: Grammar, answers: tuple[Words, ...], turn: int) -> tuple[Words, ...]:
    """Return every second word behind one first word, the `turn`-th: what a prompt has to read for `off_topic_share`.

    Questions take turns, so that no opener's habits weigh more in the mean over a panel.
    """
    own, _ = grammar.kind(answers)
    return tuple((own.first[turn % len(own.first)], second) for second in own.second)


@lru_cache(maxsize=4096)
def _behind(answers: tuple[Words, ...], also: tuple[Words, ...], own: Sentences) -> tuple[list[int], np.ndarray]:
    """Return the node behind each first word, and behind each second word after it (F, S) or after the fan's first."""
    places, borrowed = tree_of(answers, also).places, also[0][0]
    after = [[places.get((f, s), places[borrowed, s]) for s in own.second] for f in own.first]
    return [places[f,] for f in own.first], np.array(after)


def off_topic_share(grammar: Grammar, prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> float:
    """Return the probability of all sentences of the grammar that are no answer of the prompt, in 0 ... 1.

    Args:
        grammar: of the world.
        prompt: with `also` of `fan`.
        tree: of the prompt.
        log_N_V: log-probabilities of every next token behind every node.
    """
    own, other = grammar.kind(prompt.answers)
    first_F = np.exp(log_N_V[0, list(own.first)], dtype=np.float64)
    heads, after_F_S = _behind(prompt.answers, prompt.also, own)
    second_F_S = np.exp(log_N_V[np.ix_(heads, own.second)], dtype=np.float64)
    third_N = np.exp(log_N_V[:, list(own.third)], dtype=np.float64).sum(axis=1)
    third_F_S = third_N[after_F_S]
    formed = float(first_F @ (second_F_S * third_F_S).sum(axis=1))
    answers_A = answers_of(tree, log_N_V)
    ends_A = log_N_V[tree.nodes_A_S[:, -1], tree.targets_A_S[:, -1]].astype(np.float64)
    said, ended = float(np.exp(answers_A - ends_A).sum()), float(np.exp(answers_A).sum())
    elsewhere = float(np.exp(log_N_V[0, list(other.first)], dtype=np.float64).sum())
    began = float(first_F.sum())
    rest = formed - said + (elsewhere * formed / began if began > 0 else 0.0)
    return min(max(rest * (ended / said if said > 0 else 1.0), 0.0), max(1.0 - ended, 0.0))
