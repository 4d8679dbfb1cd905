"""Join the tables of one study whose cells were run in two parts, and write summary and figures of the whole.

    python experiments/join_halves.py results/small out/small results/small

The first folder has the whole study file and a row for every planned cell; done cells of the second one replace rows
of the first that are not done. Their code and their settings must be the same: what differs in `environment.json` or in
the specs of cells ends it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from narrowly.analysis.frames import read_frames
from narrowly.analysis.summary import summarise
from narrowly.records.files import read_json, write_json
from narrowly.records.mappings import read_mapping
from narrowly.report.write import write_report
from narrowly.runs.directory import ENVIRONMENT
from narrowly.study.layout import STUDY_FILE, SUMMARY_FILE, TABLES


def joined(first: Path, second: Path) -> dict[str, pl.DataFrame]:
    """Return the tables `cells` and `paired` of both folders together, cells in the order of the first one."""
    one, other = ({name: pl.read_parquet(folder / TABLES / f"{name}.parquet") for name in ("cells", "paired")}
                  for folder in (first, second))  # fmt: skip
    done = other["cells"].filter(pl.col("status") == "done")
    planned = dict(one["cells"].select("cell_id", "run_id").iter_rows())
    unknown = [cell for cell, run in done.select("cell_id", "run_id").iter_rows() if planned.get(cell) != run]
    twice = set(done["cell_id"]) & set(one["cells"].filter(pl.col("status") == "done")["cell_id"])
    if unknown or twice:
        raise SystemExit(f"not the other half: {[*unknown, *sorted(twice)][0]!r}")
    order = one["cells"].select("cell_id")
    cells = pl.concat([one["cells"].filter(~pl.col("cell_id").is_in(done["cell_id"].implode())), done])
    return {
        "cells": order.join(cells, on="cell_id", how="left", maintain_order="left").select(one["cells"].columns),
        "paired": pl.concat([one["paired"], other["paired"]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    versions = [read_json(folder / ENVIRONMENT)["versions"] for folder in (given.first, given.second)]
    if versions[0] != versions[1]:
        raise SystemExit(f"made by other versions: {versions[0]}, {versions[1]}")
    for name, frame in joined(given.first, given.second).items():
        frame.write_parquet(given.out / TABLES / f"{name}.parquet", compression="zstd", compression_level=19)
    study = read_mapping(given.out / STUDY_FILE, "study")
    summary = summarise(read_frames(given.out / TABLES), {**study, "seconds": None, "prereg_record": None})
    write_json(given.out / SUMMARY_FILE, summary.as_json())
    write_report(given.out)
    print(f"{summary.cells.done} of {summary.cells.planned} cells in {given.out}")


if __name__ == "__main__":
    main()
