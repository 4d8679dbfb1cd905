"""Find what does not fit together between an objective, the data and the rest of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrowly.records.data_specs import PREFERENCES, DataSpec
from narrowly.records.objectives import PREFERENCE_KINDS, KlToBase, ObjectiveSpec, SailRevKl

BESIDE = ("method", "packing", "batching", "start", "init_seed")
"""Fields of a run that not every objective goes with."""

_PLAIN = {"method": "lora", "packing": False, "batching": "shuffled"}


def objective_faults(objective: ObjectiveSpec, data: DataSpec, beside: Mapping[str, Any]) -> list[str]:
    """Return everything that does not fit, one clause each.

    Args:
        objective: of the run.
        data: of the run.
        beside: the run's values of `BESIDE`.
    """
    found, source = [], data.source
    preferences = objective.kind in PREFERENCE_KINDS
    if preferences != isinstance(data, PREFERENCES):
        accepted = "micro_preferences or preferences" if preferences else "micro, rows or text"
        found.append(f"data.source is {source} with objective {objective.kind}, accepted: {accepted}")
    if isinstance(objective, KlToBase) and (objective.data.source == "micro_others") != (source == "micro"):
        accepted = "micro_others" if source == "micro" else "rows or text"
        found.append(
            f"objective.data.source is {objective.data.source} with data.source {source}, accepted: {accepted}"
        )
    if isinstance(objective, SailRevKl) and objective.variant == "pr" and source == "preferences":
        found.append(
            "objective.variant is pr with data.source preferences, accepted: dp or pp (only the microworld scores "
            "every answer)"
        )
    if objective.kind != "supervised":
        found += [
            f"{name} is {str(beside[name]).lower()} with objective {objective.kind}, accepted: {str(plain).lower()}"
            for name, plain in _PLAIN.items()
            if beside[name] != plain
        ]
    if beside["start"] is not None and beside["method"] == "full":
        found.append("start is given with method full, accepted: method lora (it names an adapter)")
    if beside["start"] is not None and beside["init_seed"] is not None:
        found.append(f"init_seed is {beside['init_seed']} beside start, which draws no LoRA init; accepted: null")
    return found
