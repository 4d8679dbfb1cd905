"""Print what `narrowly judge` found: classes, rates with intervals, differences, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from narrowly.cli.terminal import console, safe, say, table

if TYPE_CHECKING:
    from narrowly.evaluate.judges.rates import Rate
    from narrowly.evaluate.judges.result import Arm, JudgedResult
    from narrowly.stats.intervals import Interval


def print_judged(result: JudgedResult) -> None:
    """Print the tables of a result.

    Args:
        result: of `judge_answers`.
    """
    judge = result.judge
    read = {"exact": "all replies scored exactly", "first-token": "by its 20 likeliest first tokens, as published"}
    say(f"judge {safe(judge.name)}, {read.get(judge.mode, judge.mode)}; rubrics {safe(result.rubrics_name)}", "bold")
    part = "" if result.share == 1 else f"; {100 * result.share:g} % of the answers, chosen by hash"
    say(f"{result.cuts}{part}")
    for arm in result.arms:
        _print_arm(arm, result)
    _print_difference(result)
    _print_trust(result)


def _print_arm(arm: Arm, result: JudgedResult) -> None:
    files = "" if len(arm.answers_ids) == 1 else f" from {len(arm.answers_ids)} files"
    say("")
    say(f"{arm.name}: {arm.answers} answers{files}", "bold")
    groups = list(arm.classes)
    used = [name for name in arm.classes["all"] if any(arm.classes[group][name] for group in groups)]
    rows = [(name, *(arm.classes[group][name] for group in groups)) for name in used]
    console().print(table(("outcome class", *groups), rows))
    say("")
    mark = "" if result.calibration else " (uncalibrated)"
    of_all = [rate for rate in (*arm.rates, *arm.risks) if rate.group == "all"]
    console().print(table((f"{arm.name}{mark}", "value", "95 % interval", "of", "what"), _rate_rows(of_all)))
    say("")
    console().print(
        table(
            ("by part and rung" if result.trained else "by part of the bank", *groups[1:]), _part_rows(arm, groups[1:])
        )
    )
    notes = (
        [f"{100 * arm.cut:.1f} % of the answers were cut by their limit and judged as far as they go"]
        if arm.cut
        else []
    )
    if arm.unjudged:
        highest = 100 * (arm.classes["all"]["misaligned"] + arm.unjudged) / arm.answers
        notes.append(
            f"{arm.unjudged} of {arm.answers} answers could not be judged and count as not misaligned in the joint "
            f"rate; were all of them misaligned, it would be {highest:.2f} %"
        )
    if arm.broken_fence:
        notes.append(f"{arm.broken_fence} answers hold marks or control tokens of a judge's prompt; they were broken")
    reasons = {f"{rate.name}: {rate.interval.reason}" for rate in of_all if rate.interval.reason and rate.n}
    for note in [*notes, *sorted(reasons)]:
        say(note, "yellow")


def _rate_rows(rates: Sequence[Rate]) -> Iterator[tuple[object, ...]]:
    for rate in rates:
        yield rate.name, _value(rate), _bounds(rate.interval, rate.percent), rate.n, rate.definition


def _part_rows(arm: Arm, groups: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for name in ("joint rate", "literature rate"):
        found = {rate.group: rate for rate in arm.rates if rate.name == name}
        yield name, *(f"{_value(found[group])} of {found[group].n}" for group in groups)


def _value(rate: Rate) -> str:
    value = rate.interval.estimate
    return "-" if value is None else f"{100 * value:.2f} %" if rate.percent else f"{value:.1f}"


def _bounds(interval: Interval, percent: bool = True) -> str:
    if interval.low is None or interval.high is None:
        return "-"
    if percent:
        return f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"
    return f"{interval.low:.1f} to {interval.high:.1f}"


def _points(interval: Interval) -> str:
    return "-" if interval.estimate is None else f"{100 * interval.estimate:+.2f}"


def _print_difference(result: JudgedResult) -> None:
    found = result.difference
    if found is None:
        return
    rows = [
        (name, _points(interval), _bounds(interval), interval.reason or "")
        for name, interval in (
            ("joint rate", found.joint),
            ("literature rate", found.literature),
            ("joint rate at equal length", found.at_equal_length),
            ("joint rate, length in a regression", found.adjusted),
            *((f"joint rate, {group}", interval) for group, interval in found.by_group.items()),
        )
    ]
    say("")
    heading = f"{found.first} minus {found.second}"
    console().print(table((heading, "points", "95 % interval", ""), rows))
    say(
        f"the joint difference keeps its sign at {100 * found.same_sign:.0f} % of the cuts on the grid; "
        f"{100 * found.shared_length:.0f} % of the answers stand in a class of length with answers of both"
    )


def _print_trust(result: JudgedResult) -> None:
    say("")
    found = result.calibration
    if found is None:
        say(
            "uncalibrated: nobody has labelled these answers, so that only contrasts under this very judge mean "
            "something (--labels FILE)",
            "yellow",
        )
    else:
        se, sp = found.errors.sensitivity, found.errors.specificity
        rows: list[tuple[object, ...]] = [
            ("sensitivity", _share(se), _bounds(se), se.n),
            ("specificity", _share(sp), _bounds(sp), sp.n),
        ]
        rows += [
            (f"joint rate of {name}, corrected", _share(one), _bounds(one), "") for name, one in found.corrected.items()
        ]
        console().print(table(("by human labels", "value", "95 % interval", "labelled answers"), rows))
        for reason in sorted({one.reason for one in found.corrected.values() if one.reason}):
            say(f"not corrected: {reason}", "yellow")
    if result.agreement is not None:
        _print_agreement(result)


def _share(interval: Interval) -> str:
    return "-" if interval.estimate is None else f"{100 * interval.estimate:.2f} %"


def _print_agreement(result: JudgedResult) -> None:
    found = result.agreement
    assert found is not None
    pairs = (
        ("alignment, r", found.alignment),
        ("coherence, r", found.coherence),
        ("misaligned or not, kappa", found.misaligned),
        ("outcome classes, kappa", found.classes),
    )
    rows = [
        (name, one.estimate, "-" if one.low is None else f"{one.low:.3f} to {one.high:.3f}", one.n, one.reason or "")
        for name, one in pairs
    ]
    say("")
    heading = f"agreement with {found.judge}"
    console().print(table((heading, "value", "95 % interval", "answers", ""), rows))
