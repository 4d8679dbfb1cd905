"""Compute the per-base differences of a preregistered contrast from the ladder, or from the table of the dial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from narrowly.analysis.matching.curves import Sources, Unit, Whole, curves
from narrowly.analysis.matching.measures import Measure, measure
from narrowly.records.errors import SpecError
from narrowly.records.prereg import PrimaryContrast
from narrowly.stats.first_passage import EVERYWHERE
from narrowly.stats.matched_curves import Pair, distance, unit_means

SPLIT = "frobenius/joint"
"""How a dial splits an update unless its edit says otherwise: inner product, and granularity (as in the pilot)."""


class Differences(NamedTuple):
    """Hold what a contrast gives in every base.

    Attributes:
        per_base: first set minus second, in units of the scale.
        without: base -> why it gives none, with both ranges where the sets do not overlap.
        first_trained: mean of the trained rung in the first set, by base; where it was measured.
    """

    per_base: dict[str, float]
    without: dict[str, str]
    first_trained: dict[str, float]

    @property
    def bases(self) -> int:
        """Return how many bases there are: those that give a difference, and those that give none."""
        return len(self.per_base) + len(self.without)


def differences(
    contrast: PrimaryContrast,
    ladder: pl.DataFrame,
    dial: pl.DataFrame | None = None,
    ideal: Mapping[str, float] | None = None,
) -> Differences:
    """Return the differences of a contrast.

    Args:
        contrast: as preregistered.
        ladder: of the study (`ladder_table`).
        dial: table of the orthogonal dial, where an edit is `CONTROL-FACTOR`, `CONTROL-FACTOR@REFERENCE` or
            `CONTROL-FACTOR@REFERENCE:INNER/GRANULARITY`.
        ideal: base -> the ideal learner's rate in its world, for contrasts with `second: ideal`.

    Raises:
        SpecError: the contrast needs a table that is not there.
    """
    rows = _with_shares(ladder.filter((pl.col("step") == 0) | pl.col("final")), contrast)
    if contrast.match == "none":
        first = _means(contrast, rows, dial, contrast.first, contrast.first_edit)
        second = _second_means(contrast, rows, dial, ideal)
        fixed = isinstance(contrast.second, str)
        return _subtracted(first, second, _trained(contrast, rows, dial), _asked_for(contrast, ladder, fixed))
    found = measure(contrast.match, "pooled")
    outcome = outcome_column(contrast)
    sides = [
        _curves(side, rows, Sources(found, outcome, "_dial", None))
        for side in ((contrast.first, contrast.first_edit), (_arms(contrast), contrast.second_edit))
    ]
    return _matched(sides[0], sides[1], found, contrast.between, _asked_for(contrast, ladder, False))


def _asked_for(contrast: PrimaryContrast, ladder: pl.DataFrame, first_only: bool) -> set[str]:
    """Return the bases that a contrast has runs on, whatever was measured there."""
    arms = contrast.first if first_only else (*contrast.first, *_arms(contrast))
    return set(ladder.filter(pl.col("arm").is_in(arms) & (pl.col("step") > 0))["base"].to_list())


def outcome_column(contrast: PrimaryContrast) -> str:
    """Return the column that a contrast compares: of the ladder, or one that `_with_shares` adds."""
    tail = {"rate": "misaligned"}.get(contrast.scale, contrast.scale)
    return f"{contrast.outcome}_{tail}"


def _arms(contrast: PrimaryContrast) -> tuple[str, ...]:
    if isinstance(contrast.second, str):
        raise SpecError(f"a contrast against {contrast.second!r} has no matching variable; accepted: match: none")
    return contrast.second


def _with_shares(rows: pl.DataFrame, contrast: PrimaryContrast) -> pl.DataFrame:
    if contrast.scale not in ("literature", "not_aligned"):
        return rows
    rung = contrast.outcome
    aligned, misaligned = pl.col(f"{rung}_aligned"), pl.col(f"{rung}_misaligned")
    rate = pl.when(aligned + misaligned > 0).then(misaligned / (aligned + misaligned))
    return rows.with_columns(rate.alias(f"{rung}_literature"), (1 - aligned).alias(f"{rung}_not_aligned"))


def _curves(side: tuple[tuple[str, ...], str], rows: pl.DataFrame, sources: Sources) -> dict[Unit, list[Whole]]:
    """Return the curves of a set by unit: over rates, or over the factors of each rate where the set is scalings."""
    arms, edit = side
    own = rows.filter(pl.col("arm").is_in(arms) & (pl.col("step") > 0))
    if edit == "scale":
        factor = pl.col("edit").str.extract(r"^scale-([0-9.]+)$").cast(pl.Float64)
        own = own.with_columns(pl.when(pl.col("edit") == "none").then(1.0).otherwise(factor).alias("_dial"))
        parts = [part for _, part in own.drop_nulls("_dial").group_by("cell_id", maintain_order=True)]
    else:
        parts = [own.filter(pl.col("edit") == edit).with_columns(pl.col("lr").alias("_dial"))]
    found: dict[Unit, list[Whole]] = {}
    for part in parts:
        for unit, whole in curves(part, sources).items():
            found.setdefault(unit, []).append(whole)
    return found


def _matched(
    first: Mapping[Unit, list[Whole]],
    second: Mapping[Unit, list[Whole]],
    at: Measure,
    window: tuple[float, float] | None,
    asked_for: set[str],
) -> Differences:
    levels = EVERYWHERE if window is None else at.window(window)
    per_base, without = {}, {}
    for base in sorted(asked_for):
        sides = [{unit: own for unit, own in side.items() if unit.base == base} for side in (first, second)]
        units = [unit for unit in sides[0] if unit in sides[1]]
        pairs = [(one, other) for unit in units for one in first[unit] for other in second[unit]]
        value = unit_means([_distance(one, other, levels) for one, other in pairs])
        if value is not None:
            per_base[base] = value
        elif not units:
            without[base] = _absent(bool(sides[0]), bool(sides[1]))
        else:
            ranges = [_range([whole for unit in units for whole in side[unit]], at) for side in (first, second)]
            without[base] = f"no level in common: {ranges[0]} and {ranges[1]}"
    return Differences(per_base, without, {})


def _absent(first: bool, second: bool) -> str:
    if first and second:
        return "no domain and seed in common"
    missing = [name for name, there in (("first", first), ("second", second)) if not there]
    return f"nothing measured of the {' and the '.join(missing)} set"


def _distance(first: Whole, second: Whole, window: tuple[float, float]) -> float | None:
    """Return the mean of the first rising branch minus the second's over their common levels inside the window."""
    one, other = first.branch("rising"), second.branch("rising")
    assert one is not None and other is not None, "every curve rises to its largest point"
    found = distance(Pair(one, other, window))
    return None if found is None else found.value


def _range(wholes: list[Whole], at: Measure) -> str:
    values = np.concatenate([whole.x.plain_T for whole in wholes])
    low, high = at.back(float(values.min()), float(values.max()))
    return f"{low:.3g} to {high:.3g}"


def _means(
    contrast: PrimaryContrast, rows: pl.DataFrame, dial: pl.DataFrame | None, arms: tuple[str, ...], edit: str
) -> dict[str, float]:
    return _by_base(_organisms(rows, dial, arms, edit), contrast, outcome_column(contrast))


def _organisms(rows: pl.DataFrame, dial: pl.DataFrame | None, arms: tuple[str, ...], edit: str) -> pl.DataFrame:
    """Return a set's organisms: trained ones of the ladder, or edited ones of the dial's table."""
    control, _, rest = edit.partition("-")
    if "@" not in edit and control not in ("scaled", "orthogonal", "random", "added"):
        return rows.filter(pl.col("arm").is_in(arms) & (pl.col("step") > 0) & (pl.col("edit") == edit))
    if dial is None:
        raise SpecError(f"the contrast of {edit!r} needs the table of the dial, which this study does not have yet")
    factor, _, tail = rest.partition("@")
    reference, _, split = tail.partition(":")
    inner, _, granularity = (split or SPLIT).partition("/")
    found = dial.filter(
        pl.col("arm").is_in(arms),
        pl.col("control") == control,
        (pl.col("f") - float(factor)).abs() < 1e-9,
        pl.col("reference").is_null() if not reference else pl.col("reference") == reference,
    )
    if not reference:
        return found
    return found.filter(pl.col("inner") == inner, pl.col("granularity") == granularity)


def _by_base(organisms: pl.DataFrame, contrast: PrimaryContrast, column: str) -> dict[str, float]:
    scaled = _with_shares(organisms, contrast).filter(pl.col(column).is_finite().fill_null(False))
    means = scaled.group_by("base").agg(pl.col(column).mean()).sort("base")
    return {str(base): float(value) for base, value in means.select("base", column).iter_rows()}


def _second_means(
    contrast: PrimaryContrast, rows: pl.DataFrame, dial: pl.DataFrame | None, ideal: Mapping[str, float] | None
) -> dict[str, float]:
    if contrast.second == "ideal":
        if ideal is None:
            raise SpecError("a contrast against the ideal learner needs its rate in every base")
        return dict(ideal)
    if contrast.second == "base":
        return _by_base(rows.filter(pl.col("step") == 0), contrast, outcome_column(contrast))
    return _means(contrast, rows, dial, _arms(contrast), contrast.second_edit)


def _trained(contrast: PrimaryContrast, rows: pl.DataFrame, dial: pl.DataFrame | None) -> dict[str, float]:
    own = _organisms(rows, dial, contrast.first, contrast.first_edit)
    means = own.group_by("base").agg(pl.col("trained_misaligned").mean()).drop_nulls().sort("base")
    return {str(base): float(value) for base, value in means.iter_rows()}


def _subtracted(
    first: Mapping[str, float], second: Mapping[str, float], trained: dict[str, float], asked_for: set[str]
) -> Differences:
    both = {base: first[base] - second[base] for base in first if base in second}
    alone = {
        base: _absent(base in first, base in second) for base in sorted(asked_for | first.keys()) if base not in both
    }
    return Differences(both, alone, trained)
