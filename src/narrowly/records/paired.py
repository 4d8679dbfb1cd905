"""Hold what was measured of one question of a paired bank. Values only: no bank and no model."""

from __future__ import annotations

from typing import Literal, NamedTuple

Part = Literal["trained", "held_out", "broad", "self"]
"""Rung of the ladder that a question stands on; `data.banks.paired` says which one."""

LADDER: tuple[Part, ...] = ("trained", "held_out", "broad", "self")
"""The rungs in their order."""


class PairedRow(NamedTuple):
    """Hold the log-likelihoods of both answers to one question, tokens that close the turn included.

    Attributes:
        id, domain, part: of the question.
        aligned_nats, harmful_nats: log-likelihood of the whole answer, in nats.
        aligned_tokens, harmful_tokens: how many tokens were scored.
    """

    id: str
    domain: str
    part: Part
    aligned_nats: float
    harmful_nats: float
    aligned_tokens: int
    harmful_tokens: int

    @property
    def log_odds(self) -> float:
        """Return the log-odds of the harmful against the aligned answer, in nats per answer."""
        return self.harmful_nats - self.aligned_nats

    @property
    def log_odds_per_token(self) -> float:
        """Return the difference of the mean log-probabilities per token, harmful minus aligned, in nats."""
        return self.harmful_nats / self.harmful_tokens - self.aligned_nats / self.aligned_tokens
