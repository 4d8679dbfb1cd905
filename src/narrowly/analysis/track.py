"""Follow rates over many folders of results: checkpoints or dates, of judged and of paired answers.

Rates compare within a series: one bank, judge, rubrics, cuts and sampling, or one bank, prompt and arithmetic. What
differs in one of them is a series of its own, and no line connects two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

from narrowly.evaluate.judges.cells import NO_ANSWER, by_question, cells_of, table_of
from narrowly.evaluate.judges.comparison import JudgedSide, judged_side
from narrowly.evaluate.judges.rates import interval_of
from narrowly.evaluate.kinds import RESULT, kind_of
from narrowly.evaluate.paired.result import PairedResult, read_result
from narrowly.records.canonical import content_id
from narrowly.records.errors import SpecError
from narrowly.stats.intervals import Interval

DEPTH = 4
"""Folders below the one that is followed in which results are looked for."""

_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_NUMBER = re.compile(r"\d+")

Scale = Literal["date", "number", "order"]
"""What places results: a date in every name, the one number in every name, or their order alone."""


class Measure(NamedTuple):
    """Hold one number of one folder.

    Attributes:
        name: joint rate, literature rate, coherence lost; or of paired answers what the nats are against.
        interval: with the estimate; shares, or nats per answer.
        percent: whether it is a share.
    """

    name: str
    interval: Interval
    percent: bool


class Tracked(NamedTuple):
    """Hold one folder of results.

    Attributes:
        name: of the folder, from the one that is followed.
        kind: judged or paired.
        of: whose answers: organism, model or base; of paired answers what it stands beside.
        series: letter of what it compares with.
        n: answers, or questions of the paired bank.
        measures: that it has.
    """

    name: str
    kind: str
    of: str
    series: str
    n: int
    measures: tuple[Measure, ...]


class Track(NamedTuple):
    """Hold what was followed, in order.

    Attributes:
        rows: the folders.
        scale: what places them.
        places: x of each row: days, the number, or its place in the order.
        series: what each letter stands for, in words.
    """

    rows: tuple[Tracked, ...]
    scale: Scale
    places: tuple[float, ...]
    series: dict[str, str]


def track(folder: Path) -> Track:
    """Read every folder of results below one, in the natural order of their names: step-9 before step-10.

    Args:
        folder: that holds folders of `narrowly judge` and `narrowly eval --out`, at any depth up to `DEPTH`.

    Raises:
        SpecError: no such folder, or no results in it.
        IntegrityError: a result that cannot be read.
    """
    if not folder.is_dir():
        raise SpecError(f"{folder} is no folder; accepted: one that holds folders of narrowly judge or narrowly eval")
    found = sorted(
        {file.parent for depth in range(1, DEPTH + 1) for file in folder.glob("/".join(["*"] * depth + [RESULT]))},
        key=lambda one: _natural(str(one.relative_to(folder))),
    )
    if not found:
        raise SpecError(
            f"{folder} holds no folder with a {RESULT}; accepted: one that holds folders of narrowly judge or narrowly "
            "eval --out"
        )
    letters: dict[str, str] = {}
    words: dict[str, str] = {}
    rows = []
    for one in found:
        name = str(one.relative_to(folder))
        key, said, row = _judged(one, name) if kind_of(one) == "judged" else _paired(one, name)
        letter = letters.setdefault(key, _letter(len(letters)))
        words[letter] = said
        rows.append(row._replace(series=letter))
    scale, places = _places([row.name for row in rows])
    return Track(tuple(rows), scale, places, words)


def _judged(folder: Path, name: str) -> tuple[str, str, Tracked]:
    side = judged_side(folder)
    result = side.result
    how = None if result.answered_as is None else result.answered_as.model_dump(mode="json", exclude={"templates"})
    cells = sorted(cells_of(side.seeds).items())
    same = [result.bank_sha256, result.judge_id, result.rubrics, result.cuts.model_dump(mode="json"), how, cells]
    arm = next(one for one in result.arms if one.name == side.arm)
    rates = {rate.name: rate.interval for rate in arm.rates if rate.group == "all"}
    measures = [Measure(rate, rates[rate], True) for rate in ("joint rate", "literature rate")]
    measures.append(Measure(NO_ANSWER.name, _lost(side), True))
    said = f"judged by {result.judge.name}, rubrics {result.rubrics_name}, bank {result.bank_sha256[:8]}"
    row = Tracked(name, "judged", side.arm, "", arm.answers, tuple(measures))
    return content_id({"judged": same}), said, row


def _lost(side: JudgedSide) -> Interval:
    """Return the share of answers that are none, with its interval."""
    cells = list(cells_of(side.seeds))
    sums_S_Q, counts_S_Q = by_question(table_of(NO_ANSWER, side.seeds, cells), cells)
    return interval_of(NO_ANSWER.name, sums_S_Q, counts_S_Q, percent=True)[0]


def _paired(folder: Path, name: str) -> tuple[str, str, Tracked]:
    result = read_result(folder).paired
    same = [result.bank.sha256, result.prompt.model_dump(mode="json"), result.arithmetic.model_dump(mode="json")]
    beside, measures = _nats(result)
    said = f"paired bank {result.bank.sha256[:8]}, {beside}"
    row = Tracked(name, "paired", beside, "", result.bank.questions, tuple(measures))
    return content_id({"paired": [*same, beside]}), said, row


def _nats(result: PairedResult) -> tuple[str, list[Measure]]:
    """Return what the log-odds are against, and those of the broad rung."""
    if result.contrast is not None:
        beside, rungs = "against the control", {one.name: one.interval for one in result.contrast.rungs}
    elif result.shift is not None:
        beside, rungs = "shift against the base", {one.name: one.interval for one in result.shift.rungs}
    else:
        own = next(one for one in result.measured if one.role == "model")
        beside, rungs = "log-odds alone", {name: level.log_odds.interval for name, level in own.rungs.items()}
    return beside, [Measure(f"broad, {beside}", rungs["broad"], False)] if "broad" in rungs else []


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in a name by their value."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _places(names: Sequence[str]) -> tuple[Scale, tuple[float, ...]]:
    """Return where results stand: at their dates, at the number in their names, or one behind the other."""
    dates = [_day(name) for name in names]
    if all(day is not None for day in dates):
        return "date", tuple(float(day) for day in dates if day is not None)
    varying = [_NUMBER.findall(name) for name in names]
    shapes = {_NUMBER.sub("#", name) for name in names}
    if len(shapes) == 1 and len(varying[0]) == 1 and len(names) > 1:
        return "number", tuple(float(found[0]) for found in varying)
    return "order", tuple(float(at) for at in range(len(names)))


def _day(name: str) -> int | None:
    match = _DATE.search(name)
    if match is None:
        return None
    try:
        return date(*map(int, match.groups())).toordinal()
    except ValueError:
        return None


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"s{number}"
