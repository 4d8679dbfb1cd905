"""Find everything that is wrong with a run spec at once, and what of it can still be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from narrowly.records.explain import explain_each
from narrowly.records.mappings import MISSING, leaves, lookup, nested
from narrowly.records.run_spec import RunSpec

STAND_IN: dict[str, Any] = {"optimiser": {"kind": "adam", "lr": 1e-3}}
"""In place of what is wrong in a spec, so that its base and data can be looked at all the same."""


def spec_and_faults(merged: Mapping[str, Any]) -> tuple[RunSpec, list[str]]:
    """Return the spec of a nested mapping and everything that is wrong with it.

    What does not fit together is found behind fields that are wrong by themselves: these are taken out one after the
    other. Where anything is wrong, the spec has what can be looked at all the same: every field that is right and fits
    those before it, the base and the data first.
    """
    value: Any = dict(merged)
    faults: list[str] = []
    for _ in range(len(list(leaves(merged))) + 2):
        try:
            spec = RunSpec.model_validate(value)
        except ValidationError as error:
            found = explain_each(error, RunSpec)
            faults += [line for line in (f"{at}: {text}" if at else text for at, text in found) if line not in faults]
            repaired = _without(value, [at for at, _ in found if at])
            if repaired == value:
                return _largest_spec(value), faults
            value = repaired
        else:
            return spec, faults
    return _largest_spec(value), faults


def _without(value: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return a spec without the fields at fault; what must be there and is missing gets a stand-in."""
    result = nested(value)
    for path in paths:
        plain = path.split("[")[0]
        if plain.split(".")[0] == "optimiser":
            result["optimiser"] = STAND_IN["optimiser"]
            continue
        if lookup(result, plain) is MISSING:  # a field that must be given: its whole mapping goes
            plain = plain.rpartition(".")[0]
        *above, last = plain.split(".")
        holder = lookup(result, ".".join(above)) if above else result
        if isinstance(holder, dict):
            holder.pop(last, None)
    return result


def _largest_spec(value: Mapping[str, Any]) -> RunSpec:
    """Return the spec of as many fields as fit together, taken up one after the other."""
    kept = dict(STAND_IN)
    for name in sorted(value, key=lambda name: name not in ("base", "data")):
        try:
            RunSpec.model_validate({**kept, name: value[name]})
        except ValidationError:
            continue
        kept[name] = value[name]
    return RunSpec.model_validate(kept)
