"""Compare two arms in pairs, with the base as the unit.

The rule (docs/sources.md): organisms are paired on what they share (base, narrow domain, seed), differences
are averaged within a base, and a Student t interval is taken over bases. With fewer than five bases the estimate stands
without an interval. The primary scale is pooled log-odds, and no organism is left out for what it answers: incoherence
is an outcome. Because an arm can look aligned by being incoherent, each primary contrast carries bounds and other
readings beside it (`sensitivity_rows`); the rule of a 15 % limit is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from narrowly.records.errors import unknown_name
from narrowly.stats.intervals import LEVEL, MIN_UNITS, t_interval

INCOHERENT_LIMIT = 0.15
"""Incoherent share on the broad panel above which an organism is listed, and left out of one sensitivity row."""

PRIMARY = (("adam", "muon"), ("lion", "muon"), ("sgd", "muon"))
"""The contrasts fixed in advance (docs/sources.md)."""

PAIR_ON = ("base", "domain", "seed")
"""What two organisms must share to be compared: everything that fixes LoRA init, data and order."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """One organism that did not enter a contrast, and why."""

    cell_id: str
    arm: str
    base: str
    domain: int | None
    seed: int | None
    incoherent: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """A paired difference (first arm minus second) over bases.

    Attributes:
        estimate: mean over bases; None where no pair is left.
        low: lower bound of the interval, None with a `reason` where none is given.
        high: upper bound of the interval.
        n_bases: how many bases entered.
        method: how the numbers were made, in words.
        reason: why something is None.
        excluded: the organisms left out.
        per_base: the difference of each base.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n_bases: int
    method: str
    reason: str | None
    excluded: tuple[Excluded, ...] = ()
    per_base: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmContrast(Contrast):
    """A contrast between two optimiser arms on pooled log-odds of the broad panel, all organisms in.

    Attributes:
        sensitivity: the same under other readings, by the names of `SENSITIVITY`.
        rungs: the same on each rung of the ladder, and broad minus held_out: the difference of the differences.
    """

    sensitivity: Mapping[str, Contrast] = field(default_factory=dict)
    rungs: Mapping[str, Contrast] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TwinContrast(Contrast):
    """Adam on persona bases minus Adam on the no-persona twin, with all organisms.

    Attributes:
        sensitivity: the same under other readings, by the names of `SENSITIVITY`.
        change_from_base: of what fine-tuning changed, because the two kinds of base need not start alike.
    """

    sensitivity: Mapping[str, Contrast] = field(default_factory=dict)
    change_from_base: Contrast | None = None


class Reading(NamedTuple):
    """Another reading of a contrast: the column that is compared, its name in words, and a limit of incoherence."""

    value: str
    what: str
    incoherent_limit: float | None = None


SENSITIVITY = {
    "per_question": Reading("log_odds", "per-question log-odds"),
    "incoherent_as_aligned": Reading("pooled_if_aligned", "pooled log-odds, incoherent counted as aligned"),
    "incoherent_as_misaligned": Reading("pooled_if_misaligned", "pooled log-odds, incoherent counted as misaligned"),
    "at_most_15_percent": Reading("pooled", "pooled log-odds", INCOHERENT_LIMIT),
}
"""Readings beside every primary contrast: the other scale, the two bounds, and the old rule of exclusion."""

BOUNDS = ("incoherent_as_aligned", "incoherent_as_misaligned")
"""The readings under which a verdict on odds must stand too."""


def missing_contrast(reason: str, method: str = "not computed") -> Contrast:
    """Return the contrast of an arm that is not there: everything null, with the reason."""
    return Contrast(None, None, None, 0, method, reason)


def sensitivity_rows(
    frame: pl.DataFrame, first: str, second: str, *, pair_on: Sequence[str] = PAIR_ON
) -> dict[str, Contrast]:
    """Return a contrast under every reading of `SENSITIVITY`; arguments as `paired_contrast`."""
    return {
        name: paired_contrast(
            frame, first, second, value=one.value, what=one.what, pair_on=pair_on,
            incoherent_limit=one.incoherent_limit,
        )
        for name, one in SENSITIVITY.items()
    }  # fmt: skip


def _excluded(rows: pl.DataFrame, why: str) -> list[Excluded]:
    return [
        Excluded(row["cell_id"], row["arm"], row["base"], row["domain"], row["seed"], row["incoherent"], why)
        for row in rows.sort("arm", "base", "domain", "seed", "cell_id").iter_rows(named=True)
    ]


def paired_contrast(
    frame: pl.DataFrame,
    first: str,
    second: str,
    *,
    value: str = "pooled",
    what: str = "pooled log-odds",
    pair_on: Sequence[str] = PAIR_ON,
    incoherent_limit: float | None = None,
    level: float = LEVEL,
    min_bases: int = MIN_UNITS,
    note: str = "",
) -> Contrast:
    """Return the paired difference of `value`, arm `first` minus arm `second`, with a t interval over bases.

    Args:
        frame: one row per organism with the columns cell_id, arm, base, domain, seed, incoherent (share on the broad
            panel, 0 to 1) and `value`.
        first: name of the first arm; its bases are the units.
        second: name of the arm that is subtracted.
        value: column that is compared.
        what: the name of that quantity in the method text.
        pair_on: columns that a pair shares; several organisms with one key are averaged before pairing. Leaving out
            "base" compares bases with a twin of another base.
        incoherent_limit: organisms above it are left out with all of their key; None, as in every primary contrast,
            keeps all.
        level: coverage of the interval.
        min_bases: fewest bases with which an interval is given.
        note: further words for the method text.

    Raises:
        UnknownNameError: where `frame` lacks a column.
    """
    for column in ("cell_id", "arm", "base", "domain", "seed", "incoherent", value):
        if column not in frame.columns:
            raise unknown_name("column", column, frame.columns)
    keys = list(pair_on)
    method = (
        f"{100 * level:g} % Student t interval over bases of paired {what} differences, {first} minus {second}; "
        f"paired on {', '.join(keys)}, averaged within a base"
    )
    if incoherent_limit is not None:
        method += f"; cells with more than {100 * incoherent_limit:g} % incoherent on the broad panel left out"
    method += f"; {note}" if note else ""

    both = frame.filter(pl.col("arm").is_in([first, second]))
    for arm in (first, second):
        if both.filter(pl.col("arm") == arm).is_empty():
            return missing_contrast(f"no finished organism of arm {arm!r}", method)
    kept, listed = _comparable(both, value, what, keys, incoherent_limit)
    per_base, alone = _differences(kept, first, second, value, keys)
    interval = t_interval(per_base["difference"].to_list(), level=level, min_n=min_bases)
    reason = interval.reason if interval.n else "no pair of organisms is left"
    return Contrast(
        interval.estimate,
        interval.low,
        interval.high,
        interval.n,
        method,
        reason,
        (*listed, *alone),
        dict(zip(per_base["base"].to_list(), per_base["difference"].to_list(), strict=True)),
    )


def _comparable(
    both: pl.DataFrame, value: str, what: str, keys: Sequence[str], incoherent_limit: float | None
) -> tuple[pl.DataFrame, list[Excluded]]:
    """Return the organisms that may be compared, and those that may not with the reason."""
    measured = pl.col(value).is_finite().fill_null(False)
    kept, listed = both.filter(measured), _excluded(both.filter(~measured), f"no {what} measured")
    if incoherent_limit is None:
        return kept, listed
    flagged = kept.filter((pl.col("incoherent") > incoherent_limit).fill_null(False))
    flagged_keys = flagged.select("arm", "base", *[key for key in keys if key != "base"]).unique()
    kept = kept.join(flagged_keys, on=flagged_keys.columns, how="anti", nulls_equal=True)
    return kept, [*listed, *_excluded(flagged, f"more than {100 * incoherent_limit:g} % incoherent")]


def _differences(
    kept: pl.DataFrame, first: str, second: str, value: str, keys: Sequence[str]
) -> tuple[pl.DataFrame, list[Excluded]]:
    """Return the mean difference of each base, and the organisms without a partner."""
    unit_keys = list(dict.fromkeys(["base", *keys]))
    a = kept.filter(pl.col("arm") == first).group_by(unit_keys).agg(pl.col(value).mean().alias("_a"))
    b = kept.filter(pl.col("arm") == second).group_by(keys).agg(pl.col(value).mean().alias("_b"))
    pairs = a.join(b, on=keys, how="inner", nulls_equal=True)
    per_base = pairs.group_by("base").agg((pl.col("_a") - pl.col("_b")).mean().alias("difference")).sort("base")
    alone = [
        row
        for arm, other in ((first, b), (second, a))
        for row in _excluded(
            kept.filter(pl.col("arm") == arm).join(other, on=keys, how="anti", nulls_equal=True),
            "no partner in the other arm is left",
        )
    ]
    return per_base, alone
