"""Write the verdicts of one organism: a Parquet table, whole or not at all, without a number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.records.errors import TrainingError
from narrowly.records.files import atomic_path


def check_finite(rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """Refuse verdicts without rows, or with a number that is not finite.

    Raises:
        TrainingError: naming the organism and the question.
    """
    if not rows:
        raise TrainingError(f"{what}: the evaluation has no rows")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(f"{what}: {name} is {value} for {row.get('question_id', row.get('question'))!r}")


def write_verdicts(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as a Parquet table."""
    import polars as pl

    with atomic_path(path) as temporary:
        pl.DataFrame([dict(row) for row in rows], infer_schema_length=None).write_parquet(temporary)
