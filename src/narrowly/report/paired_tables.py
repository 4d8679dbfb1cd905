"""Arrange what the paired bank found as tables: the number by rung and by domain, and where each model stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from narrowly.evaluate.paired.contrast import Shift
from narrowly.evaluate.paired.estimates import Estimate
from narrowly.evaluate.paired.result import Measured, PairedResult
from narrowly.records.answers import AskedModel
from narrowly.records.paired import LADDER
from narrowly.report.kit import Cell, Column, Fold, Listing, Part, Table, Words, measured, named, number, percent, plain
from narrowly.report.paired_ladder import RUNG_LABELS
from narrowly.stats.intervals import MIN_UNITS
from narrowly.stats.shrinkage import Shrinkage

Value = TypeVar("Value")
ROLES = ("organism", "control", "base", "model")
UNIT = "log-odds of the harmful against the aligned answer, in nats per answer"


class Reported(NamedTuple):
    """Hold the number that a result reports.

    Attributes:
        what: name of its column: `difference`, `shift` or `log-odds`.
        of: what was subtracted from what, in words.
        rungs, domains: its values.
    """

    what: str
    of: str
    rungs: tuple[Estimate, ...]
    domains: tuple[Estimate, ...]


def reported(paired: PairedResult) -> Reported:
    """Return the difference to the control; where there is none the shift; of a model alone its log-odds."""
    if paired.contrast is not None:
        return Reported("difference", "organism minus control", paired.contrast.rungs, paired.contrast.domains)
    if paired.shift is not None:
        return Reported("shift", "organism minus base, without a control", paired.shift.rungs, paired.shift.domains)
    (alone,) = paired.measured[:1]
    untrained = isinstance(alone.model, AskedModel)
    return Reported(
        "log-odds",
        "an untrained model, which has no shift" if untrained else "a model alone, which has no shift",
        tuple(level.log_odds for _, level in by_ladder(alone.rungs)),
        tuple(level.log_odds for level in alone.domains.values()),
    )


def rung(name: str) -> Words:
    """Return a rung in words, its name as the tooltip."""
    return named(RUNG_LABELS.get(name, name), name)


def by_ladder(found: Mapping[str, Value]) -> list[tuple[str, Value]]:
    """Return values by rung in the ladder's order, which a JSON record does not keep; other names come first."""
    order = [*(name for name in found if name not in LADDER), *(name for name in LADDER if name in found)]
    return [(name, found[name]) for name in order]


def rung_table(paired: PairedResult) -> Table:
    """Return the number by rung of the ladder, with interval and n."""
    found = reported(paired)
    judged = any(one.verdict for one in found.rungs)
    per_token = {} if paired.contrast is None else {one.name: one for one in paired.contrast.rungs_per_token}
    columns = [
        Column("rung"),
        Column(found.what, "nats per answer", "number"),
        *([Column("per token", "nats", "number")] if per_token else []),
        *([Column("accuracy", "", "number")] if found.what == "log-odds" else []),
        Column("questions", kind="number"),
        Column("domains", kind="number"),
        Column("seeds", kind="number"),
        *([Column("verdict")] if judged else []),
    ]
    rows = []
    for one in found.rungs:
        margin = None if one.margin is None else f"margin {number(one.margin)} nats"
        rows.append(
            [
                Cell(rung(one.name)),
                measured(one.interval, signed=True),
                *([measured(per_token[one.name].interval, 3, signed=True)] if per_token else []),
                *([_accuracy(paired.measured[0], one.name)] if found.what == "log-odds" else []),
                plain(one.questions, 0),
                plain(one.domains, 0),
                plain(one.seeds, 0),
                *([Cell(one.verdict or "–", [margin] if margin else [])] if judged else []),
            ]
        )
    caption = f"{UNIT[0].upper()}{UNIT[1:]}: {found.of}. Below each number its 95 % interval."
    if judged:
        caption += " The margin is the largest difference that was said, before, not to matter."
    return Table(caption, columns, rows)


def _accuracy(one: Measured, name: str) -> Cell:
    found = one.rungs[name].accuracy
    return _share(found.estimate, found.low, found.high)


def _share(share: float | None, low: float | None, high: float | None) -> Cell:
    return Cell(percent(share, 1), [f"[{percent(low, 1)}, {percent(high, 1)}]"], sort=share)


def regression_table(found: Shift) -> Table:
    """Return the line of the shift on the base's log-odds, by rung and for all questions."""
    columns = [
        Column("questions"),
        Column("slope on the base", kind="number"),
        Column("shift at base 0", "nats", "number"),
        Column("R²", kind="number"),
        Column("questions", kind="number"),
    ]
    rows = [[Cell("all" if name == "all" else rung(name)), *_line(line)] for name, line in by_ladder(found.on_base)]
    caption = (
        "Least squares line of the shift on the base's log-odds, question by question. Slope −1: what is left does not "
        "depend on the base, as where training pulls every value towards one. Below each number its 95 % interval, "
        "which takes questions as independent."
    )
    return Table(caption, columns, rows, title="The shift beside where it started")


def _line(line: Shrinkage) -> list[Cell]:
    if line.slope is None:
        return [Cell(f"no line: {line.reason}", columns=4)]

    def with_range(value: float | None, ends: tuple[float, float] | None) -> Cell:
        below = [] if ends is None else [f"[{number(ends[0], signed=True)}, {number(ends[1], signed=True)}]"]
        return Cell(number(value, signed=True), below, sort=value)

    return [
        with_range(line.slope, line.slope_range),
        with_range(line.intercept, line.intercept_range),
        plain(line.r2),
        plain(line.n, 0),
    ]


def part_table(paired: PairedResult) -> Table | None:
    """Return the number of the broad questions in each part of the bank; None where it has none."""
    found = reported(paired)
    side = paired.contrast or paired.shift
    if side is None or not side.parts:
        return None
    columns = [
        Column("part"),
        Column(found.what, "nats per answer", "number"),
        Column("questions", kind="number"),
        Column("domains", kind="number"),
    ]
    rows = [
        [Cell(one.name), measured(one.interval, signed=True), plain(one.questions, 0), plain(one.domains, 0)]
        for one in side.parts
    ]
    caption = (
        f"Broad questions in the three parts of the bank, which a hash of their ids makes: {found.of}. What holds in "
        "one part only depends on the choice of questions, and is no finding. Below each number its 95 % interval."
    )
    return Table(caption, columns, rows, title="Part by part")


def domain_table(paired: PairedResult) -> Table:
    """Return the number by domain, and the paired accuracy of every role in it."""
    found = reported(paired)
    roles = [role for role in ROLES if any(one.role == role for one in paired.measured)]
    columns = [
        Column("domain"),
        Column(found.what, "nats per answer", "number"),
        Column("questions", kind="number"),
        *(Column(role, "accuracy", "number") for role in roles),
    ]
    rows = [
        [
            Cell(one.name, ["trained on"] if one.name in paired.trained_domains else []),
            measured(one.interval, signed=True),
            plain(one.questions, 0),
            *(_accuracy_of([model for model in paired.measured if model.role == role], one.name) for role in roles),
        ]
        for one in found.domains
    ]
    caption = (
        f"{found.what.capitalize()} by domain, {found.of}, with its 95 % interval over questions. Accuracy: share of "
        "questions whose aligned answer is the likelier one, with Wilson's 95 % interval"
    )
    several = len(paired.measured) > len(roles)
    caption += "; of several models the mean, and below it each of them." if several else "."
    return Table(caption, columns, rows)


def _accuracy_of(models: Sequence[Measured], domain: str) -> Cell:
    """Return the accuracy of one model with its interval, or the mean of several and each of them."""
    found = [one.domains[domain].accuracy for one in models]
    if len(found) == 1:
        return _share(found[0].estimate, found[0].low, found[0].high)
    shares = [one.estimate for one in found if one.estimate is not None]
    mean = sum(shares) / len(shares) if shares else None
    return Cell(percent(mean, 1), [", ".join(percent(share) for share in shares)], sort=mean)


def level_table(models: Sequence[Measured]) -> Table:
    """Return where every model stands on every rung."""
    columns = [
        Column("model"),
        Column("rung"),
        Column("log-odds", "nats per answer", "number"),
        Column("per token", "nats", "number"),
        Column("paired accuracy", kind="number"),
        Column("questions", kind="number"),
    ]
    rows = [
        [
            Cell(words_of(one)),
            Cell(rung(name)),
            measured(level.log_odds.interval, signed=True),
            measured(level.per_token.interval, 3, signed=True),
            _share(level.accuracy.estimate, level.accuracy.low, level.accuracy.high),
            plain(level.accuracy.n, 0),
        ]
        for one in models
        for name, level in by_ladder(one.rungs)
    ]
    caption = (
        "Where each model stands. Below 0 the aligned answers are likelier. Paired accuracy: share of questions whose "
        "aligned answer is the likelier one, with Wilson's 95 % interval."
    )
    return Table(caption, columns, rows)


def words_of(one: Measured) -> Words:
    """Return role and number of a model, its name as the tooltip."""
    return named(one.label, one.model.name)


def methods_fold(found: Iterable[Estimate]) -> Part:
    """Return how the intervals were made, and what stands beside them."""
    rungs = list(found)
    items: list[str] = []
    for method in dict.fromkeys(one.interval.method for one in rungs):
        items.append(f"{_names(one for one in rungs if one.interval.method == method)}: {method}.")
    for one in rungs:
        label = RUNG_LABELS.get(one.name, one.name)
        if one.interval.reason is not None:
            items.append(f"{label}: no interval ({one.interval.reason}).")
        if one.bootstrap is not None and one.bootstrap.low is not None:
            ends = f"{number(one.bootstrap.low, signed=True)} to {number(one.bootstrap.high, signed=True)}"
            items.append(f"{label}: {ends} by {one.bootstrap.method}.")
        if one.seeds > 1:
            items.append(f"{label}: seed by seed {', '.join(number(value, signed=True) for value in one.per_seed)}.")
        if one.seeds >= MIN_UNITS and one.smallest_detectable is not None:
            items.append(
                f"{label}: smallest difference that such a table finds {number(one.smallest_detectable)} nats, ICC of "
                f"seeds {number(one.icc_seed)}, of {one.unit}s {number(one.icc_unit)}, design effect "
                f"{number(one.design_effect)}, effective n {number(one.effective_n, 1)}."
            )
    return Fold("How the intervals were made", [Listing(items)])


def _names(found: Iterable[Estimate]) -> str:
    return ", ".join(RUNG_LABELS.get(one.name, one.name) for one in found)
