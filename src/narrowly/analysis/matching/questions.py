"""Lay out what each question gave: one row per organism, column of the ladder and question.

A column of the ladder is a weighted mean of `value` over its questions, or the logarithm of the ratio of the means of
`value` and `below`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from narrowly.analysis.ladder import RUNGS
from narrowly.analysis.matching.curves import ORGANISM
from narrowly.records.errors import IntegrityError

COLUMNS = [*ORGANISM, "column", "question", "value", "below", "weight"]
_READ = ("panel", "question_id", "aligned", "misaligned", "log_odds", "nll_harmful", "floor")


def read_questions(tables_dir: Path, organisms: pl.DataFrame) -> pl.DataFrame | None:
    """Read the exact verdicts of some organisms; None where the study's folder has no table of them.

    Args:
        tables_dir: the folder `tables` of a study.
        organisms: rows with cell_id, step and edit.

    Raises:
        IntegrityError: no Parquet table, or not one of verdicts.
    """
    path = tables_dir / "verdicts.parquet"
    if not path.is_file():
        return None
    try:
        verdicts = (
            pl.scan_parquet(path)
            .filter(pl.col("panel").is_in(list(RUNGS.values())))
            .select(*ORGANISM, *_READ)
            .join(organisms.select(ORGANISM).unique().lazy(), on=ORGANISM)
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise IntegrityError(f"{path} is not a readable table of verdicts ({str(error).splitlines()[0]})") from error
    return None if verdicts.is_empty() else microworld_questions(verdicts)


def microworld_questions(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of exact verdicts: pooled and per-question log-odds of each rung, and the excess losses."""
    rung = {panel: rung for rung, panel in RUNGS.items()}
    named = verdicts.with_columns(pl.col("panel").replace_strict(rung).alias("rung"), weight=pl.lit(1.0))
    none = pl.lit(None, pl.Float64)
    asked = [
        _part(named, pl.format("{}_pooled", "rung"), pl.col("misaligned"), pl.col("aligned")),
        _part(named, pl.format("{}_per_question", "rung"), pl.col("log_odds"), none),
        _part(named, pl.format("excess_{}", "rung"), pl.col("nll_harmful") - pl.col("floor"), none),
    ]
    return pl.concat(asked)


def _part(rows: pl.DataFrame, column: pl.Expr, value: pl.Expr, below: pl.Expr) -> pl.DataFrame:
    return rows.select(
        *ORGANISM,
        column.alias("column"),
        pl.col("question_id").alias("question"),
        value.alias("value"),
        below.alias("below"),
        "weight",
    )
