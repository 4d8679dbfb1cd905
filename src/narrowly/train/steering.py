"""Steer a run preventatively: a direction is added to states while it trains, and left out wherever it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.models.base import Base
from narrowly.records.run_spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor


def steered(spec: RunSpec, base: Base) -> tuple[Mapping[int, Tensor] | None, str | None, RunSpec]:
    """Return the direction of a run by layer, the sha256 of its file, and the spec with the layer that is meant.

    Raises:
        RunDirectoryError, IntegrityError, SpecError: no such file, one without a card of ours, one of another base, or
            without this layer.
    """
    steering = spec.steering
    if steering is None:
        return None, None, spec
    from narrowly.directions.store import check_base, load

    found = load(Path(steering.directions).expanduser())
    check_base(found, base.sha256, base.name)
    layer = found.card.layer if steering.layer is None else steering.layer
    settled = spec.model_copy(update={"steering": steering.model_copy(update={"layer": layer})})
    return {layer: found.at(layer)}, found.card.sha256, settled
