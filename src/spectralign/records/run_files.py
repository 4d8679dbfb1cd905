"""Run specs from files, with overrides and one-line errors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from spectralign.records.errors import SpecError, nearest
from spectralign.records.explain import explain, field_paths
from spectralign.records.run_spec import RunSpec
from spectralign.records.spec_files import merge, nested, parse_override, read_mapping


def load_run_spec(path: Path, assignments: Iterable[str] = ()) -> RunSpec:
    """Read a RunSpec from YAML or JSON.

    Args:
        path: the file; dotted keys are accepted (`optimiser.lr: 1e-3`).
        assignments: `a.b=value` overrides, in order.

    Raises:
        SpecError: one line: file, field path, value found, what is expected, nearest match.
    """
    raw = nested(read_mapping(path, "run spec"))
    fields = field_paths(RunSpec)
    for assignment in assignments:
        field, value = parse_override(assignment)
        if field not in fields:
            raise SpecError(
                f"--set {field}: unknown field{nearest(field, fields) or '; accepted is for instance optimiser.lr'}"
            )
        raw = merge(raw, nested({field: value}))
    try:
        return RunSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error, RunSpec)}") from None
