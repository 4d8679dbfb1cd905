"""Compare two sets of runs at equal values of a matching variable, within base, domain and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from narrowly.analysis.matching.curves import Unit, Whole
from narrowly.analysis.matching.measures import Measure
from narrowly.analysis.matching.schema import NOT_TESTED, Branch, Contrast, Line
from narrowly.records.errors import counted
from narrowly.stats.intervals import MIN_UNITS, Interval, t_interval
from narrowly.stats.matched_curves import Pair, bootstrap_distance, distance, unit_means
from narrowly.stats.verdict import Word, judge

LEAST_SHARE = 10 / 16
"""Share of the bases that must have a common support for a verdict (issue "Evidence": 10 of 16)."""

BRANCHES: tuple[Branch, ...] = ("rising", "falling")
Over = Literal["base", "seed"]
Curves = Mapping[Unit, Whole]


def bases_needed(bases: int) -> int:
    """Return how many of so many bases must have a common support."""
    return math.ceil(LEAST_SHARE * bases)


class Terms(NamedTuple):
    """On what terms two sets are compared.

    Attributes:
        at: what they are matched on.
        margin: largest difference that does not matter.
        over: what the interval is over.
        between: levels of `at` that count, as `Measure.along` gives them.
        unmeasured: units that both sets ran on and of which one set measured nothing; they count as bases.
    """

    at: Measure
    margin: float
    over: Over
    between: tuple[float, float]
    unmeasured: tuple[Unit, ...] = ()


def contrasts(first: Curves, second: Curves, terms: Terms) -> list[Contrast]:
    """Return the contrast of both rising branches, then every pair of branches that some unit has.

    Args:
        first: curves of the first set.
        second: of the second, with at least one unit of the first.
        terms: of the comparison.
    """
    shared = [unit for unit in first if unit in second]
    both = product(BRANCHES, repeat=2)
    found = [_contrast(first, second, shared, (one, other), terms) for one, other in both]
    return [
        one for one in found if one is found[0] or any(line.first_range and line.second_range for line in one.lines)
    ]


def rising_pairs(first: Curves, second: Curves, terms: Terms) -> list[Pair]:
    """Return both rising branches of every unit that has a common support."""
    compared = [
        _compare(unit, whole, second[unit], ("rising", "rising"), terms)
        for unit, whole in first.items()
        if unit in second
    ]
    return [one.pair for one in compared if one.pair is not None and one.line.difference is not None]


class _Compared(NamedTuple):
    line: Line
    pair: Pair | None


def _contrast(
    first: Curves, second: Curves, units: Sequence[Unit], branches: tuple[Branch, Branch], terms: Terms
) -> Contrast:
    over = terms.over
    compared = {unit: _compare(unit, first[unit], second[unit], branches, terms) for unit in units}
    compared |= {unit: _Compared(_silent(unit), None) for unit in terms.unmeasured}
    groups: dict[str, list[_Compared]] = {}
    for unit, one in compared.items():
        groups.setdefault(unit.base if over == "base" else f"seed {unit.seed}", []).append(one)
    means = {name: unit_means([one.line.difference for one in own]) for name, own in groups.items()}
    per_base = {name: value for name, value in means.items() if value is not None}
    pairs = [[one.pair for one in own if one.pair is not None] for own in groups.values()]
    decided = _decide(per_base, len(groups), [own for own in pairs if own], terms.margin, over)
    return Contrast(
        first_branch=branches[0],
        second_branch=branches[1],
        bases=len(groups),
        compared=len(per_base),
        per_base=per_base,
        lines=tuple(one.line for one in compared.values()),
        **decided,
    )


def _silent(unit: Unit) -> Line:
    return Line(
        **unit._asdict(), first_range=None, second_range=None, support=None, difference=None,
        reason="nothing measured of one set",
    )  # fmt: skip


def _compare(unit: Unit, first: Whole, second: Whole, branches: tuple[Branch, Branch], terms: Terms) -> _Compared:
    at = terms.at
    curves = [whole.branch(branch) for whole, branch in zip((first, second), branches, strict=True)]
    ranges = [
        None if curve is None else at.back(float(curve.x.plain_T[0]), float(curve.x.plain_T.max())) for curve in curves
    ]
    line: dict[str, Any] = {**unit._asdict(), "first_range": ranges[0], "second_range": ranges[1]}
    if curves[0] is None or curves[1] is None:
        which = " and ".join(
            f"{name} set" for name, one in zip(("first", "second"), curves, strict=True) if one is None
        )
        return _Compared(Line(**line, support=None, difference=None, reason=f"no such branch: {which}"), None)
    pair = Pair(curves[0], curves[1], terms.between)
    found = distance(pair)
    if found is None:
        return _Compared(Line(**line, support=None, difference=None, reason="not comparable: no level in common"), pair)
    return _Compared(Line(**line, support=at.back(found.low, found.high), difference=found.value), pair)


def _decide(
    per_base: Mapping[str, float], bases: int, pairs: Sequence[Sequence[Pair]], margin: float, over: Over
) -> dict[str, Any]:
    """Return interval, bootstrap, tests and verdict of a contrast."""
    values = list(per_base.values())
    interval = t_interval(values, unit=over)
    nothing = {"bootstrap": None, "inner": None, "p_effect": None, "p_equivalence": None}
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    reason = None
    if len(values) < bases_needed(bases):
        few = f"{len(values)} of {counted(bases, over)} with a common support, and {bases_needed(bases)} are needed"
        reason = few if values else f"not comparable: {few}"
    elif len(values) > 1 and spread <= 1e-12 * max(1.0, abs(float(np.mean(values)))):
        reason = f"every {over} gives the same difference, as copies do: there is no spread to judge it by"
    if reason is not None:
        without = Interval(interval.estimate, None, None, interval.n, interval.method, reason)
        return {"interval": without, **nothing, "verdict": NOT_TESTED, "reason": reason}
    if len(values) < MIN_UNITS:
        return {"interval": interval, **nothing, "verdict": Word.INDETERMINATE.value, "reason": interval.reason}
    found = judge(float(np.mean(values)), spread / math.sqrt(len(values)), len(values) - 1, margin)
    drawn = bootstrap_distance(pairs)
    return {
        "interval": interval,
        "bootstrap": replace(drawn, method=drawn.method.replace("unit", over)),
        "inner": found.inner,
        "p_effect": found.p_effect,
        "p_equivalence": found.p_equivalence,
        "verdict": found.word.value,
        "reason": None,
    }
