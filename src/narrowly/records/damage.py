"""Hold what was measured of a model's abilities: log-likelihoods of easy items and of prose. Values only, no model."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from narrowly.records.arithmetic import Arithmetic
from narrowly.records.spec import Spec

NOT_MEASURED = "not measured"
"""What stands in place of a panel that was not measured."""


class AbilityRow(Spec):
    """One four-way item: the log-likelihood of each choice behind the question, in nats."""

    id: str
    field: str
    right: int = Field(ge=0, description="index of the right choice")
    nats: tuple[float, ...]

    @model_validator(mode="after")
    def _has_its_right_choice(self) -> AbilityRow:
        if len(self.nats) < 2 or self.right >= len(self.nats):
            raise ValueError(f"right is {self.right} of {len(self.nats)} choices")
        return self

    @property
    def wrong(self) -> tuple[float, ...]:
        """Return the log-likelihoods of the wrong choices."""
        return self.nats[: self.right] + self.nats[self.right + 1 :]

    @property
    def is_right(self) -> bool:
        """Return whether the right choice is likelier than every other one; a tie is wrong."""
        return self.over_best > 0

    @property
    def over_best(self) -> float:
        """Return the margin over the likeliest wrong choice, in nats."""
        return self.nats[self.right] - max(self.wrong)

    @property
    def over_mean(self) -> float:
        """Return the margin over the mean of the wrong choices, in nats; it is smooth where the other one is not."""
        return self.nats[self.right] - math.fsum(self.wrong) / len(self.wrong)


class PassageRow(Spec):
    """One passage: log-likelihood in nats of all tokens but the first, as prose and with its words shuffled."""

    id: str
    topic: str
    natural_nats: float
    natural_tokens: int = Field(ge=1)
    shuffled_nats: float
    shuffled_tokens: int = Field(ge=1)

    @property
    def natural_loss(self) -> float:
        """Return the mean loss per token of the prose, in nats."""
        return -self.natural_nats / self.natural_tokens

    @property
    def shuffled_loss(self) -> float:
        """Return the mean loss per token of the shuffled words, in nats."""
        return -self.shuffled_nats / self.shuffled_tokens


class DamagePanel(Spec):
    """Hold the rows of one model, the hashes of both banks, and how it was computed."""

    abilities_sha256: str
    passages_sha256: str
    arithmetic: Arithmetic
    abilities: tuple[AbilityRow, ...] = Field(min_length=1)
    passages: tuple[PassageRow, ...] = Field(min_length=1)

    @property
    def banks(self) -> str:
        """Return both hashes as one text, for `one_bank`."""
        return f"{self.abilities_sha256}+{self.passages_sha256}"

    @property
    def perplexity(self) -> float:
        """Return the perplexity of prose: exp of the mean loss over the tokens of all passages."""
        tokens = sum(row.natural_tokens for row in self.passages)
        return math.exp(-math.fsum(row.natural_nats for row in self.passages) / tokens)

    @property
    def shuffled_perplexity(self) -> float:
        """Return the perplexity of the same words in another order."""
        tokens = sum(row.shuffled_tokens for row in self.passages)
        return math.exp(-math.fsum(row.shuffled_nats for row in self.passages) / tokens)
