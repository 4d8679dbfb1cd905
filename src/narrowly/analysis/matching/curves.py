"""Turn rows of the ladder into curves: one per base, domain and seed, its points in the order of the dial."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from narrowly.analysis.matching.measures import Measure
from narrowly.analysis.matching.schema import Branch
from narrowly.stats.first_passage import falling, rising
from narrowly.stats.matched_curves import Curve
from narrowly.stats.sampled_values import Asked, Values

Floats = NDArray[np.float64]

ORGANISM = ["cell_id", "step", "edit"]
"""Columns that tell an organism from all others of a study."""


ITSELF = "at"
"""In place of a dial: points are ordered by what is matched on, so that no curve turns back."""


class Unit(NamedTuple):
    """What the curves of both sets share: interpolation stays within it."""

    base: str
    domain: str | None
    seed: int | None


class Whole(NamedTuple):
    """All points of one set in one unit, in the order of the dial.

    Attributes:
        settings_T: of the dial.
        x: what is matched on; larger is further in training.
        y: the outcome.
    """

    settings_T: Floats
    x: Values
    y: Values

    def points(self, branch: Branch) -> NDArray[np.intp]:
        """Return the points of a branch in the order in which it passes them; none where there is no such branch."""
        return rising(self.x.plain_T) if branch == "rising" else falling(self.x.plain_T)

    def branch(self, branch: Branch) -> Curve | None:
        """Return a branch; None where the curve has none."""
        points = self.points(branch)
        return Curve(self.x.at(points), self.y.at(points)) if len(points) else None


class Sources(NamedTuple):
    """Where the values of both sets come from.

    Attributes:
        at: what is matched on.
        outcome: column that is compared.
        dial: column that orders the points of a curve; `ITSELF` orders them by what is matched on.
        questions: per organism and question what it gave, as `questions.py` lays it out; None where not at hand.
    """

    at: Measure
    outcome: str
    dial: str
    questions: pl.DataFrame | None


def curves(rows: pl.DataFrame, sources: Sources) -> dict[Unit, Whole]:
    """Return the curve of a set in every unit.

    Points with the same setting of the dial are one point, their mean.

    Args:
        rows: of the ladder, with columns base, domain, seed, the dial, what is matched on and the outcome.
        sources: which of these they are.
    """
    at, outcome, dial = sources.at, sources.outcome, sources.dial
    along = at.along(pl.col(at.column))
    order = along if dial == ITSELF else pl.col(dial).cast(pl.Float64)
    placed = rows.with_columns(along.alias("_x"), pl.col(outcome).alias("_y"), order.alias("_t")).filter(
        pl.all_horizontal(pl.col("_x", "_y", "_t").is_finite().fill_null(False))
    )
    found = {}
    for (base, domain, seed), own in placed.group_by("base", "domain", "seed", maintain_order=True):
        points = own.group_by("_t").agg(pl.col("_x", "_y").mean()).sort("_t")
        x, y = (
            Values(points[name].to_numpy(), _asked(own, column, sources.questions, sign))
            for name, column, sign in (("_x", at.column, at.direction), ("_y", outcome, 1))
        )
        found[unit_of(base, domain, seed)] = Whole(points["_t"].to_numpy(), x, y)
    return dict(sorted(found.items(), key=lambda item: (item[0].base, str(item[0].domain), str(item[0].seed))))


def unit_of(base: Any, domain: Any, seed: Any) -> Unit:
    """Return the unit of a row."""
    return Unit(str(base), None if domain is None else str(domain), None if seed is None else int(seed))


def _asked(own: pl.DataFrame, column: str, questions: pl.DataFrame | None, sign: int) -> Asked | None:
    """Return what the questions behind a column gave at each point; None where some point lacks some of them."""
    if questions is None:
        return None
    behind = questions.filter(pl.col("column") == column).join(own.select(*ORGANISM, "_t"), on=ORGANISM)
    if behind.is_empty():
        return None
    points = own["_t"].unique().sort()
    means = behind.group_by("question", "_t").agg(pl.col("value", "below", "weight").mean()).sort("question", "_t")
    names = means["question"].unique().sort().to_list()
    if means.height != len(names) * len(points) or means["value"].null_count():
        return None
    shape = (len(names), len(points))
    value_Q_T, weight_Q_T = (means[name].to_numpy().reshape(shape) for name in ("value", "weight"))
    ratio = means["below"].null_count() == 0
    below_T_Q = means["below"].to_numpy().reshape(shape).T if ratio else None
    return Asked(tuple(f"{column}/{name}" for name in names), weight_Q_T[:, 0], sign * value_Q_T.T, below_T_Q)
