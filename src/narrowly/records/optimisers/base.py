"""Define what optimiser specs have in common: strictness, ranges, and what they do to the factors of an adapter."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, Field

from narrowly.records.added_later import ADDED_LATER, WithAdditions
from narrowly.records.spec import Spec

LearningRate = Annotated[float, Field(gt=0, lt=100)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
LoRAPlusRatio = Annotated[
    float | None,
    Field(
        gt=0,
        le=1000,
        description="LoRA+ (arXiv 2402.12354): lr of B over lr of A; every other parameter has A's. weight_decay is "
        "the same number for all, so decoupled decay follows each group's lr. Null, no ratio, is the same as 1",
    ),
    AfterValidator(lambda ratio: None if ratio == 1 else ratio),
    ADDED_LATER,
]
"""A ratio of 1 becomes None, so that one training has one run-id."""


class Acts(NamedTuple):
    """What an optimiser does, in words, to each kind of parameter; `family` groups optimisers in listings."""

    family: str
    A: str
    B: str
    other: str


class OptimiserBase(WithAdditions, Spec):
    """Base of the optimiser specs.

    A spec class has a `kind` (a Literal with its own name as default), an `lr`, and `acts`.
    """

    acts: ClassVar[Acts]
    no_decoupled_penalty: ClassVar[str | None] = None
    """Why a penalty in mode decoupled, which moves a factor by its group's lr, would be wrong; None: it is right."""

    factors_only: ClassVar[str | None] = None
    """Why this optimiser trains LoRA factors and nothing else; None: it trains any parameter."""

    def full_fault(self) -> str | None:
        """Return why this optimiser cannot train a whole model (method full), or None where it can."""
        kind, ratio = getattr(self, "kind", type(self).__name__), getattr(self, "lora_plus_ratio", None)
        if self.factors_only is not None:
            return f"optimiser {kind} with method full: {self.factors_only}; accepted: an optimiser of whole models"
        if ratio is not None:
            return f"lora_plus_ratio is {ratio:g} with method full, which has no factor B; accepted: leave it out"
        return None

    def schedule_fault(self, kind: str, warmup_steps: int) -> str | None:
        """Return why this optimiser cannot run under a learning-rate schedule, or None where it can.

        Args:
            kind: constant, linear or cosine.
            warmup_steps: steps of linear warm-up of the schedule.
        """
        return None
