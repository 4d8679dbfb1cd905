"""Find everything that is wrong with a run spec at once, and what of it can still be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from narrowly.records.data_specs import DataSpec
from narrowly.records.explain import explain_each
from narrowly.records.mappings import MISSING, leaves, lookup, nested
from narrowly.records.run_spec import RunSpec

STAND_IN: dict[str, Any] = {"optimiser": {"kind": "adam", "lr": 1e-3}}
"""In place of what is wrong in a spec, so that its base and data can be looked at all the same."""


def spec_and_faults(merged: Mapping[str, Any]) -> tuple[RunSpec | None, list[str]]:
    """Return the spec of a nested mapping, or None and everything that is wrong with it.

    What does not fit together is found behind fields that are wrong by themselves: these are taken out one after the
    other.
    """
    value: Any = dict(merged)
    seen: list[str] = []
    for _ in range(len(list(leaves(merged))) + 2):
        try:
            spec = RunSpec.model_validate(value)
        except ValidationError as error:
            found = explain_each(error, RunSpec)
            seen += [line for line in (f"{at}: {text}" if at else text for at, text in found) if line not in seen]
            repaired = _without(value, [at for at, _ in found if at])
            if repaired == value:
                break
            value = repaired
            continue
        return (None, seen) if seen else (spec, [])
    return None, seen


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


def base_and_data(merged: Mapping[str, Any]) -> RunSpec | None:
    """Return a spec with the base, the data and the seed of one that is wrong elsewhere; None where these are, too."""
    fields = {name: merged[name] for name in ("base", "seed") if name in merged}
    for name, value in list(fields.items()):
        try:
            RunSpec.model_validate({**STAND_IN, name: value})
        except ValidationError:
            del fields[name]
    data = merged.get("data")
    try:
        given = {} if data is None else {"data": TypeAdapter(DataSpec).validate_python(data)}
        return RunSpec.model_validate({**STAND_IN, **fields, **given})
    except ValidationError:
        return None if "base" not in fields else RunSpec.model_validate({**STAND_IN, **fields})
