"""Compare edits with plain scaling of the whole update where both leave the same misalignment on held-out topics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from narrowly.analysis.organisms import UNEDITED
from narrowly.records.errors import counted
from narrowly.report.kit import number, span
from narrowly.report.labels import edit_kind, edit_label, label
from narrowly.report.style import order
from narrowly.stats.intervals import Interval, t_interval


class Beside(NamedTuple):
    """How far an edit lies above the scaling curve: broad, points, mean over the bases where that is known."""

    arm: str
    edit: str
    difference: Interval


def beside_scaling(points: pl.DataFrame, before: pl.DataFrame) -> list[Beside]:
    """Return every edit beside the scaling curve of its base, linear between the scales that were evaluated.

    A base counts where its curve reaches the edit's misalignment on held-out topics.

    Args:
        points: one row per arm, base and edit: arm, base, edit, narrow, broad (joint rates, shares).
        before: bases before fine-tuning, the end of the curve at factor 0: base, narrow, broad.
    """
    rows = points.drop_nulls(["narrow", "broad"])
    ends = {base: (narrow, broad) for base, narrow, broad in before.select("base", "narrow", "broad").iter_rows()}
    found = []
    for arm in order(rows["arm"].to_list()):
        own = rows.filter(pl.col("arm") == arm)
        scaled = [edit for edit in own["edit"].unique().to_list() if edit == UNEDITED or edit_kind(edit)[0] == "scale"]
        for edit in sorted(set(own["edit"].to_list()) - set(scaled)):
            values = []
            for base, narrow, broad in (
                own.filter(pl.col("edit") == edit).sort("base").select("base", "narrow", "broad").iter_rows()
            ):
                mine = own.filter((pl.col("base") == base) & pl.col("edit").is_in(scaled))
                curve = sorted([*mine.select("narrow", "broad").iter_rows(), *([ends[base]] if base in ends else [])])
                if len(curve) >= 2 and curve[0][0] <= narrow <= curve[-1][0]:
                    x, y = np.array(curve, dtype=float).T
                    values.append(100 * (broad - float(np.interp(narrow, x, y))))
            found.append(Beside(arm, edit, t_interval(values)))
    return found


def in_words(found: list[Beside]) -> str:
    """Return how many edits leave the scaling curve, and by how much each lies above it; "" where none is known."""
    known = [one for one in found if one.difference.estimate is not None]
    judged = [one for one in known if one.difference.low is not None and one.difference.high is not None]
    if not known:
        return ""
    off = [one for one in judged if not (one.difference.low or 0) <= 0 <= (one.difference.high or 0)]
    told = "; ".join(
        f"{label(one.arm)}, {edit_label(one.edit)} {number(one.difference.estimate, 1, signed=True)}"
        + (f" {span(one.difference, 1, signed=True)}" if one in judged else "")
        + f" ({counted(one.difference.n, 'base')})"
        for one in known
    )
    lead = (
        "All edits lie on the scaling curve, as far as their 95 % intervals tell"
        if judged and not off
        else f"{len(off)} of {counted(len(judged), 'edit')} leave the scaling curve (95 % interval excludes 0)"
        if judged
        else "Too few bases to say which edits lie on the scaling curve"
    )
    return f"{lead}. Broad beside scaling at equal held-out misalignment, points: {told}."
