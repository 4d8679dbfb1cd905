"""Specify preventative steering: along which direction states are moved while a run trains."""

from __future__ import annotations

from pydantic import Field

from narrowly.records.spec import Spec


class SteeringSpec(Spec):
    """Add a direction to the states of one layer in training, and leave it out in every evaluation (2507.21509)."""

    directions: str = Field(
        description="file of `narrowly persona extract`, of this base; the run-id holds its sha256 in place of the path"
    )
    layer: int | None = Field(None, ge=0, description="hidden_states index; null: the layer that the file's card names")
    strength: float = Field(
        5.0,
        allow_inf_nan=False,
        description="in units of the direction as it is; above 0 adds the trait. 5 as in Kaczer et al. (2508.06249), "
        "whose direction has another length",
    )
