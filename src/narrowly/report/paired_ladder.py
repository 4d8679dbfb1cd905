"""Draw the ladder of the paired bank: a mean per rung and per domain, with its interval and the value of each seed."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowly.evaluate.paired.estimates import Estimate
from narrowly.report.kit import number, span
from narrowly.report.kit.svg import hover
from narrowly.report.style import FAINT, GREY, INK, WIDTH, styled
from narrowly.report.visible import visible

COLOUR = "#0072B2"
RUNG_LABELS = {"trained": "trained", "held_out": "held out", "broad": "broad", "self": "self"}
"""The rungs of the ladder as a page writes them."""

LONGEST_NAME = 24


def ladder_figure(rungs: Sequence[Estimate], domains: Sequence[Estimate], axis: str) -> Figure:
    """Draw rungs at the left and domains at the right, on one scale.

    Args:
        rungs: in the ladder's order.
        domains: in the order of the bank.
        axis: what the values are, for the axis.
    """
    tallest = max(len(rungs), len(domains), 2)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.5 + 0.34 * tallest), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True, width_ratios=(1, 1.15))
        _forest(left, rungs, [RUNG_LABELS.get(one.name, one.name) for one in rungs])
        _forest(right, domains, [shortened_name(one.name) for one in domains])
        left.set_title("by rung of the ladder")
        right.set_title("by domain")
        figure.supxlabel(axis, fontsize=10.5, color=INK)
    return figure


def shortened_name(name: str) -> str:
    """Return a name from a file as a drawing can show it."""
    text = visible(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _forest(axis: Axes, found: Sequence[Estimate], names: Sequence[str]) -> None:
    places = range(len(found))
    axis.axvline(0, color=GREY, linewidth=1, zorder=1)
    for place, one in zip(places, found, strict=True):
        interval = one.interval
        if interval.low is not None and interval.high is not None:
            axis.plot([interval.low, interval.high], [place, place], color=COLOUR, linewidth=2, zorder=2)
        if one.seeds > 1:
            dots = axis.scatter(one.per_seed, [place] * one.seeds, s=18, color=FAINT, edgecolor=GREY, linewidth=0.8,
                                zorder=3)  # fmt: skip
            hover(dots, [f"{one.name}, seed {at}: {number(value, signed=True)} nats"
                         for at, value in enumerate(one.per_seed, start=1)])  # fmt: skip
    known = [(one.interval.estimate, place, one) for place, one in zip(places, found, strict=True)
             if one.interval.estimate is not None]  # fmt: skip
    points = axis.scatter(
        [value for value, _, _ in known], [place for _, place, _ in known], s=46, color=COLOUR,
        edgecolor="white", linewidth=0.8, zorder=4,
    )  # fmt: skip
    hover(points, [_told(one) for _, _, one in known])
    axis.set_yticks(list(places), names)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _told(one: Estimate) -> str:
    interval = one.interval
    return (
        f"{one.name}: {number(interval.estimate, signed=True)} nats {span(interval, signed=True)}\n"
        f"{one.questions} questions of {one.domains} domains, {one.seeds} seeds\n{interval.method}"
    )


def ladder_data(rungs: Sequence[Estimate], domains: Sequence[Estimate]) -> pl.DataFrame:
    """Return what is drawn, one row per mean; `per_seed` has the mean of each seed."""
    return pl.DataFrame(
        [
            {
                "kind": kind,
                "name": one.name,
                "nats": one.interval.estimate,
                "low": one.interval.low,
                "high": one.interval.high,
                "questions": one.questions,
                "domains": one.domains,
                "seeds": one.seeds,
                "unit": one.unit,
                "per_seed": list(one.per_seed),
                "method": one.interval.method,
            }
            for kind, found in (("rung", rungs), ("domain", domains))
            for one in found
        ],
        infer_schema_length=None,
    )
