"""Choose and compute the rows behind the figures of reach: organisms, crossings of curves, arms at equal norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import UNEDITED
from narrowly.report.labels import edit_kind

HARMFUL = "harmful"
"""What runs learn where the data are no control (`data.answers`)."""

UNIT = ("arm", "base", "domain", "seed")
"""What one path runs through: an arm on one base in one domain with one seed."""

REFERENCES = "ref"
"""Arms whose name begins so are references of a dial (`study.dial`), no organisms."""


def reach_rows(frames: Frames) -> pl.DataFrame:
    """Return what the figures of reach show: unedited organisms of arms that learn harmful answers, without a penalty.

    The arms are those of the role `optimiser`, or of the role `other` where no arm has that one; only runs of the
    commonest number of steps and batch size, so that a path is one of rates or of steps. Copies and references of a
    dial are left out. An arm at several rates has its final organisms; one at a single rate all evaluated steps.
    """
    cells = _cells(frames)
    role = "optimiser" if "optimiser" in cells["role"].to_list() else "other"
    wanted = cells.filter((pl.col("role") == role) & pl.col("penalty_lam").is_null())
    for column in ("steps", "batch_size"):
        commonest = wanted[column].mode().sort()
        wanted = wanted.filter(pl.col(column) == commonest[0]) if commonest.len() else wanted
    plain = frames.ladder.filter((pl.col("edit") == UNEDITED) & (pl.col("step") > 0))
    rows = plain.join(wanted.select("cell_id"), on="cell_id", how="semi")
    several = pl.col("lr").n_unique().over(UNIT) >= 2
    return rows.filter(pl.col("final") | ~several).sort(*UNIT, "lr", "step")


def _cells(frames: Frames) -> pl.DataFrame:
    cells = frames.tables.cells.filter(pl.col("status") == "done")
    return cells.filter(
        ~pl.col("arm").is_in(list(frames.copies)) & ~pl.col("arm").str.starts_with(REFERENCES)
        & (pl.col("answers").fill_null(HARMFUL) == HARMFUL)
    )  # fmt: skip


class Crossing(NamedTuple):
    """Where the curves of two arms cross: x and y in the units of the curves."""

    first: str
    second: str
    x: float
    y: float


def crossings(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[Crossing]:
    """Return every crossing of two curves, linear between their points.

    Args:
        curves: arm -> (x, y) by rising x.
    """
    found = []
    for first, second in itertools.combinations(curves, 2):
        one, other = (np.array(curves[arm], dtype=float).reshape(-1, 2) for arm in (first, second))
        if min(len(one), len(other)) < 2:
            continue
        low, high = max(one[0, 0], other[0, 0]), min(one[-1, 0], other[-1, 0])
        grid = np.unique([x for x in (*one[:, 0], *other[:, 0], low, high) if low <= x <= high])
        gap = np.interp(grid, *one.T) - np.interp(grid, *other.T) if len(grid) > 1 else np.zeros(0)
        for at in range(len(gap) - 1):
            touches = gap[at + 1] == 0 and at + 2 < len(gap) and gap[at] * gap[at + 2] < 0
            if gap[at] * gap[at + 1] < 0 or touches:
                share = gap[at] / (gap[at] - gap[at + 1])
                x = float(grid[at] + share * (grid[at + 1] - grid[at]))
                found.append(Crossing(first, second, x, float(np.interp(x, *one.T))))
    return found


def norm_curves(ends: pl.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Return the mean curve of every arm over its rates: (ln norm, broad pooled log-odds), by rising norm.

    Means are over the bases that have every rate of the arm; an arm at one rate has no curve.
    """
    curves = {}
    for (arm,), own in ends.group_by("arm", maintain_order=True):
        rates = own["lr"].n_unique()
        whole = own.filter(pl.col("lr").n_unique().over("base") == rates)
        means = whole.group_by("lr").agg(pl.col("update_norm").log().mean(), pl.col("broad_pooled").mean())
        points = means.select("update_norm", "broad_pooled").sort("update_norm").rows()
        if rates >= 2 and len(points) >= 2:
            curves[str(arm)] = points
    return curves


def penalty_pairs(ladder: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return each penalty arm beside the arm that it is of, base by base, at one norm that both reach.

    Scaling an update changes its norm and not its shape, so scaled organisms are points of an arm too. Between points
    stable rank and log-odds are linear in ln norm; the norm is the middle (of its logarithm) of what both reach.

    Args:
        ladder: one row per organism of a study (`ladder.ladder_table`), scaled ones too.

    Returns:
        Rows arm, of, base, norm, and for rank, broad and held_out (pooled log-odds) the value of the penalty arm and,
        with `_of`, of the other; and arm -> bases without a norm in
        common.
    """
    kinds = {edit: edit_kind(edit)[0] for edit in ladder["edit"].unique().to_list()}
    scaled = [edit for edit, kind in kinds.items() if edit == UNEDITED or kind == "scale"]
    points = ladder.filter(pl.col("final") & (pl.col("step") > 0) & pl.col("edit").is_in(scaled)).filter(
        (pl.col("update_norm") > 0) & pl.col("stable_rank").is_not_null() & pl.col("broad_pooled").is_not_null()
    )
    pairs = ladder.filter(pl.col("role") == "penalty").select("arm", "of").unique().sort("arm").rows()
    rows, without = [], dict.fromkeys([arm for arm, _ in pairs], 0)
    for arm, of in pairs:
        for base in sorted(points.filter(pl.col("arm") == arm)["base"].unique()):
            mine, plain = (points.filter((pl.col("arm") == one) & (pl.col("base") == base)) for one in (arm, of))
            found = _at_one_norm(mine, plain)
            if found is None:
                without[arm] += 1
            else:
                rows.append({"arm": arm, "of": of, "base": base, **found})
    schema = {"arm": pl.String, "of": pl.String, "base": pl.String} | dict.fromkeys(
        ("norm", "rank", "rank_of", "broad", "broad_of", "held_out", "held_out_of"), pl.Float64
    )
    return pl.DataFrame(rows, schema=schema).fill_nan(None), without


def _at_one_norm(mine: pl.DataFrame, plain: pl.DataFrame) -> dict[str, float] | None:
    if mine.is_empty() or plain.is_empty():
        return None
    logs = [frame.with_columns(pl.col("update_norm").log().alias("at")).sort("at") for frame in (mine, plain)]
    low, high = max(frame["at"].item(0) for frame in logs), min(frame["at"].item(-1) for frame in logs)
    if low > high:
        return None
    at = (low + high) / 2
    found = {"norm": math.exp(at)}
    for name, column in (("rank", "stable_rank"), ("broad", "broad_pooled"), ("held_out", "held_out_pooled")):
        for frame, whose in zip(logs, ("", "_of"), strict=True):
            values = frame[column].cast(pl.Float64).to_numpy()
            found[name + whose] = float(np.interp(at, frame["at"].to_numpy(), values))
    return found


def control_rows(frames: Frames, panels: Sequence[str]) -> pl.DataFrame:
    """Return by how much runs on control data move from their base: arm, answers, lr, base, panel, change (share).

    The base is evaluated before the first step, in the same domain where that was done.
    """
    cells = frames.tables.cells.select("cell_id", "answers", "lr").unique("cell_id")
    ends = frames.finals.join(cells, on="cell_id", how="left").filter(
        pl.col("answers").is_not_null() & (pl.col("answers") != HARMFUL) & pl.col("panel").is_in(panels)
    )
    before = frames.start.group_by("base", "domain", "panel").agg(pl.col("joint").mean().alias("before"))
    of_base = frames.start.group_by("base", "panel").agg(pl.col("joint").mean().alias("before_any"))
    joined = ends.join(before, on=["base", "domain", "panel"], how="left").join(
        of_base, on=["base", "panel"], how="left"
    )
    change = pl.col("joint") - pl.coalesce("before", "before_any")
    return (
        joined.with_columns(change.alias("change")).drop_nulls("change")
        .group_by("arm", "answers", "lr", "base", "panel").agg(pl.col("change").mean())
        .sort("answers", "arm", "lr", "panel", "base")
    )  # fmt: skip


def prior_rows(frames: Frames) -> pl.DataFrame:
    """Return broad rates beside the prior: arm, base, rho (narrow / evil characters of the corpus), joint (share)."""
    ideal = frames.tables.cells.select("cell_id", "ideal_broad").unique("cell_id").filter(pl.col("ideal_broad") > 0)
    found = reach_rows(frames).filter(pl.col("final")).join(ideal, on="cell_id", how="inner")
    rows = found.with_columns((1 / pl.col("ideal_broad") - 1).alias("rho")).drop_nulls("broad_misaligned")
    return (
        rows.group_by("arm", "base", "rho").agg(pl.col("broad_misaligned").mean().alias("joint"))
        .sort("arm", "rho", "base")
    )  # fmt: skip
