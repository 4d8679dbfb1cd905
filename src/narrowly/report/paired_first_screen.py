"""Arrange the first screen of a study of paired answers: its figure, three sentences, and the strip of paper claims."""

from __future__ import annotations

from collections.abc import Sequence

from narrowly.analysis.paired_schema import LadderRow, PairedAnswers, SelectivityRow
from narrowly.analysis.summary_schema import Summary
from narrowly.records.errors import counted
from narrowly.report.first_screen import claim_strip
from narrowly.report.kit import Figure, Listing, Part, Section, number, span
from narrowly.report.labels import ArmNames
from narrowly.stats.intervals import MIN_UNITS, Interval

MOST = 4
"""Comparisons that a sentence lists; of more it gives the lowest and the highest."""

UNITS = "log-odds, nats per answer"


def paired_first_screen(summary: Summary, found: PairedAnswers, figure: Figure, names: ArmNames) -> Section:
    """Return the section that a reader of a study without judged answers sees first.

    Args:
        summary: of the study.
        found: its paired answers.
        figure: the arms' paths; left to its own section where none is drawn.
        names: of the arms.
    """
    parts: list[Part] = [Listing(paired_headlines(found, names))]
    if summary.paper_claims:
        parts.append(claim_strip(summary.paper_claims))
    return Section("first", "In short", [*([figure] if figure.reason is None else []), *parts], "In short")


def paired_headlines(found: PairedAnswers, names: ArmNames) -> list[str]:
    """Return three sentences: how far harm spread, what is left at equal learning, and what limits both."""
    return [_spread(found.ladder, names), _beyond(found.selectivity, names), _limits(found)]


def _spread(rows: Sequence[LadderRow], names: ArmNames) -> str:
    told = []
    for control in sorted({row.control for row in rows}):
        broad = [
            (_who(row, names), row.rungs["broad"].interval)
            for row in rows
            if row.control == control and "broad" in row.rungs
        ]
        if any(interval.estimate is not None for _, interval in broad):
            told.append(f"minus the {control} control {_range(broad)}")
    if not told:
        return "No arm has a matched control at its last step, so nothing is said of misalignment."
    return f"Questions of other domains ({UNITS}; above 0: more harmful), {'; '.join(told)}."


def _who(row: LadderRow, names: ArmNames) -> str:
    trained = "" if row.trained is None else f", trained on {row.trained}"
    return f"{names.text(row.arm)} on {row.base}{trained}"


def _beyond(rows: Sequence[SelectivityRow], names: ArmNames) -> str:
    known = [
        (f"{names.text(row.arm)} minus {names.text(row.against)} on {row.base}", row.value.interval)
        for row in rows
        if row.value is not None
    ]
    if not known:
        return (
            "Whether an arm spreads less than another at equal differences on held-out questions is not tested by this "
            "design."
        )
    listed = _range(known)
    if len(known) <= MOST:
        listed = ", ".join(f"{who} {_value(interval)}" for who, interval in known)
    return f"At equal differences on held-out questions ({UNITS}; below 0 spreads less): {listed}."


def _range(rows: Sequence[tuple[str, Interval]]) -> str:
    """Return the lowest and the highest of several, and how many intervals exclude 0; the only one where it is one."""
    known = [(interval.estimate, who, interval) for who, interval in rows if interval.estimate is not None]
    _, low_who, low = min(known, key=lambda row: row[0])
    _, high_who, high = max(known, key=lambda row: row[0])
    away = sum(1 for *_, one in known if one.low is not None and one.high is not None and not one.low <= 0 <= one.high)
    clear = f"{away} of {counted(len(known), 'interval')} without 0"
    if len(known) == 1:
        return f"{_value(low)} ({low_who})"
    return f"from {_value(low)} ({low_who}) to {_value(high)} ({high_who}), {clear}"


def _value(interval: Interval) -> str:
    ends = "" if interval.low is None or interval.high is None else f" {span(interval, signed=True)}"
    return f"{number(interval.estimate, signed=True)}{ends}"


def _limits(found: PairedAnswers) -> str:
    seeds = [len(row.seeds) for row in found.ladder]
    said = "No answer was written or judged, so nothing here is a rate"
    if seeds and min(seeds) < MIN_UNITS:
        few = counted(min(seeds), "seed") if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)} seeds"
        said += f"; {few} an arm: such intervals hold for these seeds only"
    return f"{said}."
