"""Declare what a model may be asked, whatever computes it: three requests, and which of them a backend answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from narrowly.data.messages import Message
from narrowly.records.answers import FinishReason, Sampling
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import Likelihood, ScoredText

Progress = Callable[[int, int], None]
"""Called with the texts done and the texts there are."""


class Request(StrEnum):
    """What a backend can be asked. Who gives the whole distribution gives the likeliest tokens too."""

    LOGLIKELIHOODS = "log-likelihoods of given answers"
    DISTRIBUTION = "the whole distribution of the next token"
    TOP_TOKENS = "the likeliest next tokens"
    GENERATION = "generated answers"


class NextTokens(NamedTuple):
    """Hold the next token's distribution behind one prompt, the likeliest token first.

    Attributes:
        tokens: ids.
        logprobs: of each, in nats.
        whole: whether these are all tokens of the vocabulary.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    whole: bool

    @property
    def mass(self) -> float:
        """Return the probability of all tokens named, at most 1."""
        return min(1.0, math.fsum(map(math.exp, self.logprobs)))


class ChatPrompt(NamedTuple):
    """Hold what is said before an answer, and the number of the answer among those to it."""

    messages: tuple[Message, ...]
    sample: int = 0


class Generated(NamedTuple):
    """Hold a written answer without its end token, why it ended, and how many tokens it has, the end token included.

    A server that counts no tokens gives None.
    """

    text: str
    finish_reason: FinishReason
    tokens: int | None


class Backend(Protocol):
    """Declare a model that can be asked. A request that is not in `can` is never made (`require`)."""

    @property
    def name(self) -> str:
        """Return what it is called in messages: backend and model."""

    @property
    def can(self) -> frozenset[Request]:
        """Return the requests that it answers, as they were tried at the start."""

    @property
    def arithmetic(self) -> Arithmetic:
        """Return how it computes; part of every result."""

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer with the chat template of its prompts; None where only messages can be sent."""

    @property
    def thinking(self) -> bool | None:
        """Return the thinking mode of its prompts; None where the template has none."""

    def loglikelihoods(self, texts: Sequence[ScoredText], progress: Progress | None = None) -> list[Likelihood]:
        """Return the log-probability of every token of every continuation, in the order of the texts."""

    def next_tokens(self, prompts: Sequence[Sequence[int]], top: int | None = None) -> list[NextTokens]:
        """Return the next token's distribution behind prompts of token ids; `top` keeps the likeliest ones."""

    def generate(self, prompts: Sequence[ChatPrompt], sampling: Sampling) -> list[Generated]:
        """Return one answer to each prompt, in their order."""


def require(backend: Backend, request: Request, measure: str) -> None:
    """Refuse a measure that needs what a backend lacks, before the first request.

    Args:
        backend: that would be asked.
        request: that the measure makes.
        measure: in words that begin a sentence, such as "the paired bank".

    Raises:
        SpecError: naming the measure, the request, the backend and what it answers.
    """
    if request in backend.can:
        return
    answers = ", ".join(one.value for one in Request if one in backend.can) or "nothing"
    raise SpecError(f"{measure} needs {request.value}, and {backend.name} does not give them; it gives: {answers}")
