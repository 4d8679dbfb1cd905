"""Select sets of organisms: by the name of an arm, by an optimiser, by fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from narrowly.analysis.organisms import UNEDITED
from narrowly.records.errors import SpecError, nearest, unknown_name
from narrowly.records.mappings import leaves

RATE = "lr"
STEP = "step"
_SPEC_OF_RATE = "optimiser.lr"
_APART = ("base", "seed", "data.domain", "data.sha256", "data.dataset")
"""Fields of a run that its base, domain and seed stand for."""


class Asked(NamedTuple):
    """A set as it was asked for: `muon`, `optimiser=adam`, `muon+batch_size=32`.

    Attributes:
        text: all of it.
        name: an arm or an optimiser; None where only fields are given.
        fields: field -> value, as text.
    """

    text: str
    name: str | None
    fields: dict[str, str]


def parse_set(text: str) -> Asked:
    """Parse how a set was asked for: a name and `field=value`, joined by `+`.

    Raises:
        SpecError: nothing, two names, or a field without a value.
    """
    name, fields = None, {}
    for part in (one.strip() for one in text.split("+")):
        field, equals, value = (one.strip() for one in part.partition("="))
        if not part or (equals and not (field and value)) or (not equals and name is not None):
            raise SpecError(
                f"set {text!r}: {part!r} is not understood; accepted: an arm, an optimiser, field=value, with +"
            )
        if equals:
            fields[field] = value
        else:
            name = part
    return Asked(text.strip(), name, fields)


def select(rows: pl.DataFrame, asked: Asked, dial: str | None) -> pl.DataFrame:
    """Return the organisms of a set: unedited last ones, unless an edit, a step or the dial says otherwise.

    Args:
        rows: of one study: columns of the ladder, and `spec` as JSON.
        asked: which ones.
        dial: `step` takes every evaluated step.

    Raises:
        UnknownNameError: an arm or field that is not there; the nearest one is named.
        SpecError: no organism is left.
    """
    found = rows
    if asked.name is not None:
        arms, kinds = (rows[column].drop_nulls().unique().to_list() for column in ("arm", "optimiser"))
        if asked.name not in (*arms, *kinds):
            raise unknown_name("arm", asked.name, {*arms, *kinds})
        found = found.filter(pl.col("arm" if asked.name in arms else "optimiser") == asked.name)
    for field, value in asked.fields.items():
        found = _filtered(found, field, value)
        if found.is_empty():
            raise SpecError(f"{asked.text}: no organism with {field}={value} is left{_values(rows, field)}")
    if "edit" not in asked.fields:
        found = found.filter(pl.col("edit") == UNEDITED)
    if "step" not in asked.fields and dial != STEP:
        found = found.filter(pl.col("final"))
    return found


def _filtered(rows: pl.DataFrame, field: str, value: str) -> pl.DataFrame:
    values = field_values(rows, field)
    return rows.filter(pl.Series([_same(one, value) for one in values], dtype=pl.Boolean))


def _same(found: Any, asked: str) -> bool:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return str(found).lower() == asked.lower()
    try:
        return float(found) == float(asked)
    except ValueError:
        return False


def _values(rows: pl.DataFrame, field: str) -> str:
    found = sorted({str(value) for value in field_values(rows, field)})
    return f"; found: {', '.join(found[:8])}" + ", ..." * (len(found) > 8)


def field_values(rows: pl.DataFrame, field: str) -> list[Any]:
    """Return a field of every row: a column of the ladder, or a field of the run's spec, as `adapter.r`.

    Raises:
        UnknownNameError: a field that no row has.
    """
    columns = [name for name in rows.columns if name != "spec"]
    if field in columns and rows[field].null_count() < rows.height:
        return rows[field].to_list()
    specs = [_leaves(spec) for spec in rows["spec"].to_list()] if "spec" in rows.columns else []
    known = {name for spec in specs for name in spec}
    if field not in known:
        near = nearest(field, [*columns, *known])
        raise unknown_name("field", field, _short(columns)) if not near else SpecError(f"unknown field {field!r}{near}")
    return [spec.get(field) for spec in specs]


def _short(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if not name.endswith(("_pooled", "_per_question", "_aligned", "_misaligned"))]


def _leaves(spec: str | None) -> dict[str, Any]:
    return dict(leaves(json.loads(spec or "{}")))


def choose_dial(sets: Sequence[pl.DataFrame], at: str) -> str:
    """Return what orders the points of the curves where it was not said: the learning rate, or the training step.

    It is the step where steps are matched, and where no set has two rates in a unit but runs have several steps.
    """
    if at == STEP:
        return STEP
    later = [rows.filter(pl.col("step") > 0) for rows in sets]
    units = [rows.group_by("base", "domain", "seed").agg(pl.col("lr", "step").n_unique()) for rows in later]
    several_rates = any((one["lr"] > 1).any() for one in units)
    several_steps = any((one["step"] > 1).any() for one in units)
    return STEP if several_steps and not several_rates else RATE


def check_one_series(rows: pl.DataFrame, name: str, dial: str) -> None:
    """Refuse a set whose runs of one base, domain and seed differ in more than the dial.

    Raises:
        SpecError: names the fields and their values.
    """
    moved = {dial, _SPEC_OF_RATE if dial == RATE else dial, *_APART}
    for unit, own in rows.unique("cell_id", maintain_order=True).group_by(
        "base", "domain", "seed", maintain_order=True
    ):
        different = dict(_different([_leaves(spec) for spec in own["spec"].to_list()], moved))
        if different:
            field, values = next(iter(different.items()))
            raise SpecError(
                f"{name}: runs on {unit[0]} differ in {field} ({', '.join(values)}) beside {dial}; accepted: one "
                f"value, as {name}+{field}={values[0]}"
            )


def _different(specs: Sequence[Mapping[str, Any]], moved: set[str]) -> Iterator[tuple[str, list[str]]]:
    for field in sorted({name for spec in specs for name in spec} - moved):
        values = list(dict.fromkeys(str(spec.get(field)) for spec in specs))
        if len(values) > 1:
            yield field, values
