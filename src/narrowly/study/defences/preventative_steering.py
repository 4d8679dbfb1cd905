"""Add the direction of a trait to states in training, so that the adapter need not learn it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records.run_spec import RunSpec
from narrowly.records.steering import SteeringSpec
from narrowly.study.defences.protocol import Defence, Plan, changed


class PreventativeSteering(Defence):
    """Add a direction of the trait to the states of one layer in training, and leave it out afterwards."""

    stage = "during"
    source = "2507.21509, 2508.06249 (alpha 5, 97 % less); a strength means nothing without the direction's length"
    cost = "one addition per layer and pass, no further pass; the direction is extracted once"
    strength_field = "strength"

    kind: Literal["preventative_steering"] = "preventative_steering"
    directions: str = Field(description="file of `narrowly persona extract`, of the run's base")
    layer: int | None = Field(None, ge=0, description="hidden_states index; null: the layer that the file's card names")
    strength: float = Field(
        5.0, allow_inf_nan=False, description="in units of the direction; below 0 is the control. 0: none, bit for bit"
    )

    def _plan(self, run: RunSpec) -> Plan:
        fields = {name: getattr(self, name) for name in ("directions", "layer", "strength")}
        return Plan(changed(run, steering=SteeringSpec(**fields)))
