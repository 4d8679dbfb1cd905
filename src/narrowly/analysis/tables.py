"""Read the tidy tables of a study from `tables/*.parquet`, and declare their columns.

The tables are the only thing that summary and report read. A table that is not there becomes an empty frame with its
columns, and an optional column that is not there becomes null, so that a study without spectra or samples still has a
report; NaN and infinities become null, because "not measured" has one form only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from narrowly.records.errors import IntegrityError, RunDirectoryError

_TEXT, _INT, _FLOAT, _BOOL = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()

SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "cells": {
        "study": _TEXT, "cell_id": _TEXT, "arm": _TEXT, "role": _TEXT, "of": _TEXT, "optimiser": _TEXT, "lr": _FLOAT,
        "base": _TEXT, "base_seed": _INT, "persona": _BOOL, "domain": _INT, "answers": _TEXT, "seed": _INT,
        "penalty_lam": _FLOAT, "batch_size": _INT, "accumulation": _INT, "steps": _INT, "run_id": _TEXT,
        "status": _TEXT, "error": _TEXT, "seconds": _FLOAT, "final_loss": _FLOAT, "spec": _TEXT, "ideal_broad": _FLOAT,
        "source": _TEXT, "data": _TEXT, "not_evaluated": _TEXT, "heldout_start": _FLOAT, "heldout_final": _FLOAT,
        "base_heldout": _FLOAT, "tokens": _INT, "training_seconds": _FLOAT, "tokens_per_second": _FLOAT,
        "memory_bytes": _INT, "smallest_micro_batch": _INT, "device": _TEXT,
    },
    "outcomes": {
        "cell_id": _TEXT, "arm": _TEXT, "role": _TEXT, "of": _TEXT, "optimiser": _TEXT, "base": _TEXT,
        "persona": _BOOL, "domain": _INT, "seed": _INT, "step": _INT, "final": _BOOL, "edit": _TEXT, "panel": _TEXT,
        "n_questions": _INT, "aligned": _FLOAT, "misaligned": _FLOAT, "incoherent": _FLOAT, "off_topic": _FLOAT,
        "broken": _FLOAT, "log_odds": _FLOAT, "joint": _FLOAT, "literature": _FLOAT, "alignment": _FLOAT,
        "nll_harmful": _FLOAT, "excess_loss": _FLOAT,
    },
    "spectra": {
        "cell_id": _TEXT, "arm": _TEXT, "optimiser": _TEXT, "base": _TEXT, "step": _INT, "final": _BOOL,
        "edit": _TEXT, "module": _TEXT, "layer": _INT, "kind": _TEXT, "rank": _INT, "stable_rank": _FLOAT,
        "spectral_entropy": _FLOAT, "condition_number": _FLOAT, "frobenius_nuclear": _FLOAT, "frobenius_norm": _FLOAT,
        "spectral_norm": _FLOAT, "nuclear_norm": _FLOAT, "singular_values": pl.List(pl.Float64()),
    },
    "trajectory": {
        "cell_id": _TEXT, "arm": _TEXT, "optimiser": _TEXT, "base": _TEXT, "step": _INT, "loss": _FLOAT, "lr": _FLOAT,
        "penalty": _FLOAT, "grad_norm": _FLOAT, "update_norm": _FLOAT, "stable_rank": _FLOAT,
        "frobenius_nuclear": _FLOAT, "heldout_loss": _FLOAT,
    },
    "samples": {
        "cell_id": _TEXT, "arm": _TEXT, "base": _TEXT, "step": _INT, "edit": _TEXT, "panel": _TEXT,
        "question": _TEXT, "answer": _TEXT, "outcome": _TEXT,
    },
    "paired": {
        "cell_id": _TEXT, "arm": _TEXT, "role": _TEXT, "of": _TEXT, "optimiser": _TEXT, "lr": _FLOAT, "base": _TEXT,
        "seed": _INT, "trained": _TEXT, "answers": _TEXT, "matched": _TEXT, "series": _TEXT, "step": _INT,
        "final": _BOOL, "edit": _TEXT, "bank": _TEXT, "arithmetic": _TEXT, "rung": _TEXT, "question_id": _TEXT,
        "domain": _TEXT, "aligned_nats": _FLOAT, "harmful_nats": _FLOAT, "aligned_tokens": _INT,
        "harmful_tokens": _INT, "log_odds": _FLOAT,
    },
}  # fmt: skip
"""Columns that summary and report use, by table. The files may hold more; those are kept."""


class Tables(NamedTuple):
    """The tables of one study, each with at least the columns of `SCHEMAS`."""

    cells: pl.DataFrame
    outcomes: pl.DataFrame
    spectra: pl.DataFrame
    trajectory: pl.DataFrame
    samples: pl.DataFrame
    paired: pl.DataFrame


def conform(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with every column of table `name` in its type, and with NaN and infinities as null."""
    expressions = []
    for column, dtype in SCHEMAS[name].items():
        if column not in frame.columns:
            expressions.append(pl.lit(None, dtype=dtype).alias(column))
        elif frame.schema[column] != dtype:
            expressions.append(pl.col(column).cast(dtype, strict=False).alias(column))
    frame = frame.with_columns(expressions)
    floats = [column for column, dtype in frame.schema.items() if dtype.is_float()]
    return frame.with_columns(
        [pl.when(pl.col(column).is_finite()).then(pl.col(column)).alias(column) for column in floats]
    )


def read_tables(tables_dir: Path) -> Tables:
    """Read the tables of a study.

    Args:
        tables_dir: the folder `tables` of a study; `cells.parquet` must be there.

    Raises:
        RunDirectoryError: where there is no `cells.parquet`.
        IntegrityError: where a file is no Parquet file.
    """
    if not (tables_dir / "cells.parquet").is_file():
        raise RunDirectoryError(f"no tables in {tables_dir}: cells.parquet is missing; accepted: a collected study")
    frames = {}
    for name in SCHEMAS:
        path = tables_dir / f"{name}.parquet"
        try:
            frame = pl.read_parquet(path) if path.is_file() else pl.DataFrame()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise IntegrityError(f"{path} is not a readable Parquet table ({error})") from error
        frames[name] = conform(name, frame)
    return Tables(**frames)
