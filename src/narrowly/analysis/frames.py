"""Build the tidy frames that summary, figures and page start from, once, from the tables of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from narrowly.analysis.design import copies
from narrowly.analysis.ladder import RUNGS, ladder_table
from narrowly.analysis.organisms import (
    UNEDITED,
    before_training,
    final_organisms,
    finals,
    on_panel,
    organism_spectra,
    outcomes_of_done,
)
from narrowly.analysis.tables import Tables, read_tables
from narrowly.analysis.training import finished_runs
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT


class Frames(NamedTuple):
    """Frames of one study.

    Attributes:
        tables: as collected, every planned cell in them.
        outcomes: one row per organism of a finished cell and panel.
        finals: those of final unedited organisms.
        organisms: one row per final unedited organism: rates on the broad panel, losses, means of its spectra, and
            pooled log-odds of the other rungs.
        start: rates before training, one row per base, domain and panel.
        checkpoints: the way of runs of optimiser arms through training, unedited.
        spectra: one row per module of a final unedited organism whose update is not zero.
        runs: one row per finished run, evaluated or not: losses, cost and means of its spectra.
        ladder: one row per organism (`ladder.ladder_table`).
        copies: optimiser arm -> the arm whose runs it repeats; such arms are in no frame of optimiser arms.
    """

    tables: Tables
    outcomes: pl.DataFrame
    finals: pl.DataFrame
    organisms: pl.DataFrame
    start: pl.DataFrame
    checkpoints: pl.DataFrame
    spectra: pl.DataFrame
    runs: pl.DataFrame
    ladder: pl.DataFrame
    copies: Mapping[str, str]

    @property
    def optimiser_organisms(self) -> pl.DataFrame:
        """Return the final organisms of optimiser arms."""
        return self.organisms.filter(self._of_optimisers)

    @property
    def optimiser_finals(self) -> pl.DataFrame:
        """Return the rows by panel of the final organisms of optimiser arms."""
        return self.finals.filter(self._of_optimisers)

    @property
    def _of_optimisers(self) -> pl.Expr:
        return (pl.col("role") == "optimiser") & ~pl.col("arm").is_in(list(self.copies))


def gather_frames(tables: Tables) -> Frames:
    """Build the frames of a study from its tables."""
    outcomes, spectra, ladder = outcomes_of_done(tables), organism_spectra(tables), ladder_table(tables)
    repeated = copies(tables.cells)
    rungs = [f"{rung}_pooled" for rung in RUNGS if RUNGS[rung] != BROAD]
    ends = ladder.filter(pl.col("final") & (pl.col("edit") == UNEDITED)).select("cell_id", *rungs)
    final = (pl.col("final").fill_null(False)) & (pl.col("edit").fill_null(UNEDITED) == UNEDITED)
    return Frames(
        tables=tables,
        outcomes=outcomes,
        finals=finals(outcomes),
        organisms=final_organisms(outcomes)
        .join(spectra, on="cell_id", how="left")
        .join(ends, on="cell_id", how="left")
        .with_columns(
            (pl.col("pooled") - pl.col("held_out_pooled")).alias("broad_minus_held_out"),
            pl.when(pl.col("update_norm") > 0).then(pl.col("update_norm").log()).alias("log_norm"),
        ),
        start=before_training(outcomes),
        checkpoints=_checkpoints(outcomes.filter(~pl.col("arm").is_in(list(repeated)))),
        spectra=tables.spectra.filter(final & (pl.col("singular_values").list.sum() > 0)),
        runs=finished_runs(tables.cells, spectra),
        ladder=ladder,
        copies=repeated,
    )


def read_frames(tables_dir: Path) -> Frames:
    """Read the tables of a study and build its frames.

    Raises:
        RunDirectoryError: where there is no `cells.parquet`.
        IntegrityError: where a table cannot be read.
    """
    return gather_frames(read_tables(tables_dir))


def _checkpoints(outcomes: pl.DataFrame) -> pl.DataFrame:
    keys = ["cell_id", "arm", "base", "step"]
    plain = outcomes.filter((pl.col("role") == "optimiser") & (pl.col("edit") == UNEDITED))
    broad = on_panel(plain, BROAD).select(*keys, "final", "literature", pl.col("joint").alias("broad"))
    held = on_panel(plain, HELD_OUT).select(*keys, "excess_loss", pl.col("joint").alias("held_out"))
    return ways(broad.join(held, on=keys, how="inner").sort(keys))


def ways(path: pl.DataFrame) -> pl.DataFrame:
    """Return the checkpoints from step 0 on, for runs that were evaluated in between.

    The base is evaluated once, under one arm, and stands for all: without this one arm alone would seem to have a way,
    a straight line from the base to its end. Runs without a checkpoint in between keep their end as a point.
    """
    between = path.filter((pl.col("step") > 0) & ~pl.col("final"))
    found = between.select("cell_id").unique()
    shown = path.filter((pl.col("step") > 0) | pl.col("cell_id").is_in(found["cell_id"].implode()))
    start = path.filter(pl.col("step") == 0).unique("base", keep="first", maintain_order=True)
    missing = (
        between.unique("cell_id", keep="first", maintain_order=True)
        .join(path.filter(pl.col("step") == 0).select("cell_id"), on="cell_id", how="anti")
        .select("cell_id", "arm", "base")
        .join(start.drop("cell_id", "arm"), on="base", how="inner")
        .select(path.columns)
    )
    return pl.concat([shown, missing]).sort("arm", "base", "cell_id", "step")
