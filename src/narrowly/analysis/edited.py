"""Summarise edits after training: what is left on held-out topics and broad, and what plain scaling leaves instead.

Edits take away different amounts of an update. Each is compared with plain scaling at the energy that it removes, where
energy is the squared Frobenius norm over all modules: scaling by f removes 1 - f^2.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import UNEDITED, interval_over_bases, on_panel
from narrowly.analysis.summary_schema import EditRow
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT

_SCALE = r"^scale-([0-9.]+)$"


def edits_of(frames: Frames) -> dict[str, dict[str, EditRow]]:
    """Return narrow (held-out topics) and broad misalignment of every edit, over the organisms of its own cells."""
    final, energy = frames.outcomes.filter(pl.col("final")), _removed(frames)
    edited = final.filter(pl.col("edit") != UNEDITED)
    result = {}
    for arm in sorted(edited["arm"].unique().to_list()):
        mine = final.join(edited.filter(pl.col("arm") == arm).select("cell_id").unique(), on="cell_id", how="semi")
        names = sorted(mine["edit"].unique().to_list())
        result[arm] = {
            name: _edit(mine.filter(pl.col("edit") == name), energy.filter(pl.col("edit") == name)) for name in names
        }
    return result


def _edit(rows: pl.DataFrame, energy: pl.DataFrame) -> EditRow:
    narrow, broad = on_panel(rows, HELD_OUT), on_panel(rows, BROAD)
    scaled = rows.select("cell_id", "base").unique().join(energy, on="cell_id")
    intervals = {
        "narrow": interval_over_bases(narrow, "misaligned"),
        "broad": interval_over_bases(broad, "joint"),
        "broad_literature": interval_over_bases(broad, "literature"),
        "incoherent": interval_over_bases(broad, "incoherent"),
        "excess_loss": interval_over_bases(narrow, "excess_loss"),
        "removed_energy": interval_over_bases(scaled, "removed_energy"),
        "scaled_narrow": interval_over_bases(scaled, "scaled_narrow"),
        "scaled_broad": interval_over_bases(scaled, "scaled_broad"),
    }
    estimates = {name: found.estimate for name, found in intervals.items()}
    return EditRow(**estimates, n_bases=rows["base"].n_unique(), intervals=intervals)


def _removed(frames: Frames) -> pl.DataFrame:
    """Return per edited organism the energy removed, and what scaling leaves at it: cell_id, edit and three shares.

    Between two evaluated scales the misaligned share is taken as linear in the energy removed; with all of it removed
    the base is left. Outside what was evaluated, and where fewer than two scales were, it is null.
    """
    ends = frames.ladder.filter(pl.col("final"))
    whole = ends.filter(pl.col("edit") == UNEDITED).select("cell_id", pl.col("update_norm").alias("_whole"))
    kept = (pl.col("update_norm") / pl.col("_whole")) ** 2
    organisms = (
        ends.join(whole, on="cell_id")
        .with_columns(pl.col("edit").str.extract(_SCALE).cast(pl.Float64).alias("_scale"))
        .with_columns(
            # what rounding leaves of a whole update is none of it removed
            (1 - pl.coalesce(pl.col("_scale") ** 2, kept)).clip(0, 1).alias("removed_energy")
        )
    )
    before = frames.ladder.filter((pl.col("step") == 0) & (pl.col("edit") == UNEDITED)).unique(
        ["base", "domain"], keep="first"
    )
    base = {
        (row["base"], row["domain"]): (row["held_out_misaligned"], row["broad_misaligned"])
        for row in before.iter_rows(named=True)
    }
    rows = []
    for (cell,), own in organisms.group_by("cell_id", maintain_order=True):
        path = own.filter(pl.col("_scale").is_not_null() | (pl.col("edit") == UNEDITED))
        start = base.get((own["base"][0], own["domain"][0]))
        for edit, removed in own.select("edit", "removed_energy").iter_rows():
            rows.append({
                "cell_id": cell, "edit": edit, "removed_energy": removed,
                "scaled_narrow": _on_curve(path, "held_out_misaligned", removed, start and start[0]),
                "scaled_broad": _on_curve(path, "broad_misaligned", removed, start and start[1]),
            })  # fmt: skip
    schema = {name: pl.Float64() for name in ("removed_energy", "scaled_narrow", "scaled_broad")}
    return pl.DataFrame(rows, schema={"cell_id": pl.String(), "edit": pl.String(), **schema})


def _on_curve(path: pl.DataFrame, column: str, removed: float | None, base: float | None) -> float | None:
    points = path.select("removed_energy", column).drop_nulls().sort("removed_energy")
    x, y = points["removed_energy"].to_list(), points[column].to_list()
    if base is not None:
        x, y = [*x, 1.0], [*y, base]
    if removed is None or len(points) < 3 or not x[0] <= removed <= x[-1]:
        return None
    return float(np.interp(removed, x, y))
