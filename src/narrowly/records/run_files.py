"""Specs from files and `--set` overrides, with one-line errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from narrowly.records.errors import SpecError, nearest
from narrowly.records.explain import field_paths
from narrowly.records.run_spec import RunSpec
from narrowly.records.spec import validated
from narrowly.records.spec_files import merge, nested, parse_override, read_mapping

Model = TypeVar("Model", bound=BaseModel)

SHOWN = 8
"""Accepted fields named in an error; the rest are counted."""


def load_run_spec(path: Path, assignments: Iterable[str] = ()) -> RunSpec:
    """Read a RunSpec from YAML or JSON.

    Args:
        path: the file; dotted keys are accepted (`optimiser.lr: 1e-3`).
        assignments: `a.b=value` overrides, in order.

    Raises:
        SpecError: one line: file, field path, value found, what is expected, nearest match.
    """
    return with_assignments(RunSpec, read_mapping(path, "run spec"), assignments, str(path))


def with_assignments(model: type[Model], raw: Mapping[str, Any], assignments: Iterable[str], source: str) -> Model:
    """Build a spec from a mapping and `a.b=value` overrides.

    Args:
        model: the spec's class.
        raw: field values; dotted keys are accepted.
        assignments: overrides, in order.
        source: where `raw` comes from, for the message.

    Raises:
        SpecError: one line: source, field path, value found, what is expected, nearest match.
    """
    merged = nested(dict(raw))
    fields = field_paths(model)
    for assignment in assignments:
        field, value = parse_override(assignment)
        if field not in fields:
            names = sorted(fields)
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            accepted = f" (accepted: {', '.join(names[:SHOWN])}{more})"
            raise SpecError(f"--set {field}: unknown field{nearest(field, fields)}{accepted}")
        merged = merge(merged, nested({field: value}))
    spec: Model = validated(model, merged, source=source)
    return spec
