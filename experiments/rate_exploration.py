"""How far the learning rate alone moves misalignment: the last table of LOG.md, from the tables of `micro-lr`.

Exploration after the fact: `micro-lr` chose rates by in-domain loss, and this reads its broad misalignment only
afterwards.

    python experiments/rate_exploration.py out/micro-lr [MORE_STUDY_FOLDERS ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

LEAST_IN_DOMAIN, MOST_INCOHERENT = 0.80, 0.25


def organisms(folder: Path) -> pl.DataFrame:
    """Return one row per final organism of a study folder."""
    tables = folder / "tables"
    outcomes = pl.read_parquet(tables / "outcomes.parquet").filter(pl.col("final") & (pl.col("edit") == "none"))

    def panel(name: str, **columns: str) -> pl.DataFrame:
        chosen = [pl.col(old).alias(new) for new, old in columns.items()]
        return outcomes.filter(pl.col("panel") == name).select("cell_id", *chosen)

    norms = (
        pl.read_parquet(tables / "spectra.parquet")
        .filter(pl.col("final") & (pl.col("edit") == "none"))
        .group_by("cell_id")
        .agg((pl.col("frobenius_norm") ** 2).sum().sqrt().alias("norm"))
    )
    cells = pl.read_parquet(tables / "cells.parquet").select("cell_id", "arm", "lr")
    return (
        cells.join(panel("broad", joint="joint", literature="literature", incoherent="incoherent"), on="cell_id")
        .join(panel("held_out_topics", held_out="misaligned", excess="excess_loss"), on="cell_id")
        .join(panel("trained_topics", in_domain="misaligned"), on="cell_id")
        .join(norms, on="cell_id")
    )


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    rows = pl.concat([organisms(Path(folder)) for folder in sys.argv[1:]])
    means = rows.group_by("arm", "lr").agg(pl.col(pl.Float64).mean(), pl.len().alias("n")).sort("arm", "lr")
    kept = means.filter((pl.col("in_domain") >= LEAST_IN_DOMAIN) & (pl.col("incoherent") <= MOST_INCOHERENT))
    print("| arm | lr | in-domain | held-out | joint / literature | incoherent | excess loss | norm | n |")
    for row in kept.iter_rows(named=True):
        shares = (row["in_domain"], row["held_out"], row["joint"], row["literature"], row["incoherent"])
        one, two, three, four, five = (f"{share:.3f}" for share in shares)
        tail = f"{row['excess']:.2f} | {row['norm']:.1f} | {row['n']}"
        print(f"| {row['arm']} | {row['lr']:g} | {one} | {two} | {three} / {four} | {five} | {tail} |")


if __name__ == "__main__":
    main()
