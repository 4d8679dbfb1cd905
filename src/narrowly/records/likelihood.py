"""Describe a text whose tokens a model scores, and what came out. Values only: no tokenizer and no model."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Way = Literal["shared", "whole"]
"""How texts were scored: `shared`, each common prefix computed once; `whole`, every text by itself."""


class ScoredText(NamedTuple):
    """Hold the tokens of a prompt and of a continuation that is scored behind it.

    Attributes:
        prompt: what the model is given; at least one token, behind which the first scored one stands.
        continuation: the tokens that are scored, in order.
        closing: how many of the last ones close the turn; 0 where the end of the turn is not scored.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    closing: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """Return all of its tokens."""
        return self.prompt + self.continuation


class Likelihood(NamedTuple):
    """Hold the log-probability of each token of a continuation, in nats, given all tokens before it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Return the log-likelihood of the continuation in nats: the sum over its tokens."""
        return math.fsum(self.logprobs)

    @property
    def per_token(self) -> float:
        """Return the mean log-probability of its tokens in nats."""
        return self.total / len(self.logprobs)


class Scored(NamedTuple):
    """Hold the likelihoods of texts, in their order, and how they were computed.

    Attributes:
        likelihoods: one per text.
        way: how; rows of two ways are equal up to rounding.
        why: the reason where the way is `whole`, else empty.
        given: tokens of all texts.
        computed: tokens that went through the model.
    """

    likelihoods: list[Likelihood]
    way: Way
    why: str
    given: int
    computed: int
