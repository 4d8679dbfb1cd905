"""Read verdict tables back: the Parquet files that the stages of an evaluation leave, each column checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from narrowly.records.errors import IntegrityError

_TEXT, _INT, _FLOAT = pl.String(), pl.Int64(), pl.Float64()

VERDICTS: dict[str, pl.DataType] = {
    "panel": _TEXT, "question_id": _TEXT, "domain": _INT, "topic": _INT, "question": _TEXT, "aligned": _FLOAT,
    "misaligned": _FLOAT, "incoherent": _FLOAT, "log_odds": _FLOAT, "nll_harmful": _FLOAT, "nll_aligned": _FLOAT,
    "floor": _FLOAT,
}  # fmt: skip
"""Columns of exact verdicts, one row per question; none of them is ever null."""

NEW_ACTIONS: dict[str, pl.DataType] = {"new_own": _FLOAT, "new_any": _FLOAT}
"""Columns that exact verdicts of runs on benign answers have too, null for questions that they were not measured on."""

OUTSIDE: dict[str, pl.DataType] = {"off_topic": _FLOAT, "broken": _FLOAT}
"""Columns that divide `incoherent`; tables made before 29 November 2026 lack them."""

OPTIONAL = {**OUTSIDE, **NEW_ACTIONS}

SAMPLES: dict[str, pl.DataType] = {"panel": _TEXT, "question": _TEXT, "answer": _TEXT, "outcome": _TEXT}
"""Columns of sampled answers, one row per answer."""

PAIRED: dict[str, pl.DataType] = {
    "rung": _TEXT, "question_id": _TEXT, "domain": _TEXT, "aligned_nats": _FLOAT, "harmful_nats": _FLOAT,
    "aligned_tokens": _INT, "harmful_tokens": _INT, "log_odds": _FLOAT,
}  # fmt: skip
"""Columns of paired verdicts, one row per question: log-likelihoods of both answers and their difference, in nats."""

DAMAGE: dict[str, pl.DataType] = {"part": _TEXT, "group": _TEXT, "question_id": _TEXT, "value": _FLOAT}
"""Columns of the damage panel. part ability: margin of the right choice over the mean of the wrong ones, nats; prose
and shuffled: loss per token, nats."""

RIGHT: dict[str, pl.DataType] = {"right": pl.Boolean()}
"""Column of the damage panel that passages do not have: whether the right choice is the likeliest."""

CUED: dict[str, pl.DataType] = {"condition": _TEXT, **PAIRED}
"""Columns of the cued panel: paired verdicts of broad questions, by condition."""


def read_verdicts(path: Path) -> list[dict[str, Any]]:
    """Read the exact verdicts of one organism, one row per question, with `OPTIONAL` columns (None where not measured).

    Raises:
        IntegrityError: no Parquet table, or a column that is missing, of another type, null or not finite.
    """
    return [{**dict.fromkeys(OPTIONAL), **row} for row in _read(path, VERDICTS, OPTIONAL)]


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read the sampled answers of one organism. Their text is a model's: treat it as hostile.

    Raises:
        IntegrityError: as `read_verdicts`.
    """
    return _read(path, SAMPLES)


def read_paired_verdicts(path: Path) -> list[dict[str, Any]]:
    """Read the paired verdicts of one organism, one row per question.

    Raises:
        IntegrityError: as `read_verdicts`.
    """
    return _read(path, PAIRED)


def read_panel_verdicts(path: Path, panel: str) -> list[dict[str, Any]]:
    """Read the verdicts of one organism on the panel `damage` or `cued`.

    Raises:
        IntegrityError: as `read_verdicts`.
    """
    return _read(path, DAMAGE, RIGHT) if panel == "damage" else _read(path, CUED)


def _read(
    path: Path, columns: Mapping[str, pl.DataType], optional: Mapping[str, pl.DataType] | None = None
) -> list[dict[str, Any]]:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path} is no Parquet table ({first}); {_REMEDY}") from None
    for name, expected in columns.items():
        fault = _fault(frame, name, expected)
        if fault:
            raise IntegrityError(f"{path}: {fault}; {_REMEDY}")
    for name, expected in (optional or {}).items():
        present = frame.filter(frame[name].is_not_null()) if name in frame.columns else None
        fault = _fault(present, name, expected) if present is not None and present.height else None
        if fault:
            raise IntegrityError(f"{path}: {fault}; {_REMEDY}")
    return frame.to_dicts()


_REMEDY = "remove the file and run the study again"


def _fault(frame: pl.DataFrame, name: str, expected: pl.DataType) -> str | None:
    """Return what is wrong with a column, or None."""
    if name not in frame.columns:
        return f"column {name} is missing (found: {', '.join(frame.columns) or 'none'})"
    column = frame[name]
    if column.dtype != expected:
        return f"{name} is of type {column.dtype}, expected {expected}"
    if column.null_count():
        return f"{name} is null in {column.null_count()} of {frame.height} rows, expected a value in each"
    if column.dtype.is_float() and not column.is_finite().all():
        return f"{name} is {column.filter(~column.is_finite())[0]}, expected a finite number"
    return None
