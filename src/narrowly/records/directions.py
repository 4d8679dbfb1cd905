"""Describe the directions of a model: what they were made from, at which layers, and how well they hold elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records.answers import AskedModel, Sampling
from narrowly.records.spec import Spec

CARD_ENDING = ".card.json"
"""Ending of the card beside a file of directions, in place of `.safetensors`; a trait may be called NAME.json."""

SIGN = "positive minus negative: adding the direction with a strength above 0 adds the trait"
"""The sign of every direction, as its card says it."""

STEERING_WARNING = (
    "Steering adds a vector to the states of a model while it answers. It is for inference on research models; it "
    "writes no weights and says nothing about whether a model is safe."
)
"""What every command that steers prints (design law 10)."""

DEPTH = 0.55
"""Depth of the layer that is used where none is named: the share at which persona vectors steer best, stable over
generations of models by a follow-up of arXiv 2507.21509. It is fixed beforehand; the best of all layers by
separability would look better than it is."""

ContrastKind = Literal["trait", "pairs", "world"]
"""What a direction was made from: instructions for and against a trait; a bank of paired answers; the questions of a
base of the microworld with their aligned and harmful answers."""


def default_layer(top: int) -> int:
    """Return the layer nearest to `DEPTH` of a model of `top` blocks, with blocks before and behind it where it can."""
    return min(max(1, round(DEPTH * top)), max(1, top - 1))


class Separability(Spec):
    """Say how well the two sides are told apart at a layer, by directions that were made without the group they judge.

    Attributes are those of `stats.intervals.Interval`, over groups.
    """

    layer: int
    auc: float | None = Field(description="mean over groups of P(projection of a positive > that of a negative)")
    low: float | None
    high: float | None
    groups: int
    method: str
    reason: str | None = None


class DirectionCard(Spec):
    """Hold everything that a direction depends on, without paths and without texts."""

    schema_version: Literal[1] = 1
    name: str = Field(description="of the trait, or of the bank of pairs")
    kind: ContrastKind
    contrast_sha256: str = Field(description="of the trait's content, or of the content of the pairs")
    model: AskedModel = Field(description="whose states were read, by content")
    hidden: int = Field(ge=1)
    top: int = Field(ge=1, description="number of blocks; layer `top` has passed the final norm")
    layers: tuple[int, ...] = Field(min_length=1, description="`hidden_states` indices that the file has")
    layer: int = Field(description="that is used where none is named")
    position: str
    sampling: Sampling | None = Field(None, description="of the answers that the model wrote; None where it wrote none")
    made_from: tuple[str, ...] = Field(description="groups: domains, topics or pairs of instructions")
    held_out: tuple[str, ...] = Field(description="groups that took no part and were only judged")
    positive: int = Field(ge=1, description="texts on the side of the trait, of the groups it was made from")
    negative: int = Field(ge=1)
    norms: tuple[float, ...] = Field(description="of the direction, one per layer")
    rms: tuple[float, ...] = Field(description="root mean square of an element of the states, one per layer")
    separability: tuple[Separability, ...]
    sign: str = SIGN
    warning: str = STEERING_WARNING
    sha256: str = Field(description="of the safetensors file")
