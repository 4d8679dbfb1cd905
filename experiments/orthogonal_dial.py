"""Run a study and dial its organisms along its references: python experiments/orthogonal_dial.py STUDY --runs OUT.

Arms whose name begins with `ref` are references (docs/dial.md). Both parts go on where they were stopped. The rows are
in OUT/NAME/tables/dial.parquet, a summary of them is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import polars as pl

from narrowly.records.errors import NarrowlyError
from narrowly.runs.directory import runs_folder
from narrowly.study.dial import dial_study
from narrowly.study.execution import StudyObserver
from narrowly.study.results import collect
from narrowly.study.run import run_study


class Lines(StudyObserver):
    """Print one line per finished cell."""

    def __init__(self) -> None:
        self.left = 0

    def planned(self, total: int, done: int, estimate: float | None, workers: int) -> None:
        """Note how many cells are left."""
        self.left = total - done

    def finished(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        """Print a cell and how many are left."""
        self.left -= 1
        print(f"{cell_id}: {error or 'trained and evaluated'}; {self.left} cells left", file=sys.stderr, flush=True)


def main() -> int:
    """Run the study where it is not done, then the dial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="a study file")
    parser.add_argument("--runs", default="out", help="folder of runs and studies")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    given = parser.parse_args()
    try:
        done = run_study(given.study, given.runs, workers=given.workers, observer=Lines())
        if done.failed or done.done < done.planned:
            print(f"{done.done} of {done.planned} cells done; the same command goes on", file=sys.stderr)
            return 1
        collect(done.study_dir, runs_folder(Path(given.runs)))
        table = dial_study(done.study_dir, runs_folder(Path(given.runs)), workers=given.workers, on_step=_say)
    except NarrowlyError as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(pl.read_parquet(table)))
    print(f"rows: {table}")
    return 0


def _say(done: int, total: int, what: str) -> None:
    print(f"[{done}/{total}] organisms dialled {what}", file=sys.stderr, flush=True)


def summary(rows: pl.DataFrame) -> str:
    """Return mean rates over bases at f = .5, by arm, reference, inner product, granularity and control, as text."""
    half = rows.filter((pl.col("f") == 0.5) | ((pl.col("control") == "scaled") & (pl.col("f") == 1.0)))
    keys = ["arm", "reference", "inner", "granularity", "control", "f"]
    rates = [f"{rung}_misaligned" for rung in ("trained", "held_out", "broad", "self")]
    table = (
        half.group_by(keys).agg(pl.col("base").n_unique().alias("bases"), pl.col("cosine", *rates).mean()).sort(keys)
    )
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=160, tbl_hide_dataframe_shape=True):
        return str(table)


if __name__ == "__main__":
    sys.exit(main())
