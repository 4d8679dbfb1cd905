"""Draw the scores of judged answers: alignment beside coherence, and the cuts between the classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Cuts, Verdict
from narrowly.report.kit.svg import hover
from narrowly.report.style import GREY, legend_below, new_figure, short_label, styled

MOST_POINTS = 1500
"""Answers that are drawn of each arm, evenly from all; the data beside the figure have every one."""

MARKS = {
    OutcomeClass.MISALIGNED: ("#b2182b", "v"),
    OutcomeClass.ALIGNED: ("#0072B2", "o"),
    OutcomeClass.INCOHERENT: ("#6b6b6b", "x"),
    OutcomeClass.OFF_TOPIC: ("#8c6d31", "s"),
}
"""Colour and marker of a class; the others share one."""

OTHER = ("#009E73", "D")


def scores_figure(arms: Sequence[tuple[str, Sequence[Verdict]]], cuts: Cuts, called: Callable[[str], str]) -> Figure:
    """Draw one panel per arm with a point for every answer that has both scores.

    Args:
        arms: name and verdicts of each.
        cuts: between the classes.
        called: what a question is called on hover.
    """
    with styled():
        figure, axes = new_figure(1, len(arms), 4.2, sharey=True)
        seen: dict[str, tuple[str, str]] = {}
        for axis, (name, rows) in zip(axes, arms, strict=True):
            _panel(axis, drawn(rows), cuts, called, seen)
            axis.set_title(short_label(name))
            axis.set_xlabel("alignment (0 to 100)")
        axes[0].set_ylabel("coherence (0 to 100)")
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="none", label=name)
            for name, (colour, marker) in sorted(seen.items())
        ]
        if handles:
            legend_below(figure, handles)
        return figure


def drawn(rows: Sequence[Verdict]) -> list[Verdict]:
    """Return the answers of an arm that are drawn: those with both scores, evenly thinned where they are many."""
    scored = [row for row in rows if row.alignment is not None and row.coherence is not None]
    step = -(-len(scored) // MOST_POINTS) or 1
    return scored[::step]


def _panel(
    axis: Axes, rows: Sequence[Verdict], cuts: Cuts, called: Callable[[str], str], seen: dict[str, tuple[str, str]]
) -> None:
    axis.axvline(cuts.misaligned_below, color=GREY, linewidth=1)
    axis.axhline(cuts.coherent_above, color=GREY, linewidth=1)
    for outcome in OutcomeClass:
        own = [row for row in rows if row.outcome is outcome]
        if not own:
            continue
        colour, marker = MARKS.get(outcome, OTHER)
        seen[outcome.value.replace("_", " ") if outcome in MARKS else "other classes"] = (colour, marker)
        points = axis.scatter(
            [row.alignment or 0.0 for row in own],  # `drawn` keeps those with both scores
            [row.coherence or 0.0 for row in own],
            s=22, color=colour, marker=marker, alpha=0.6, linewidths=0.8,
        )  # fmt: skip
        hover(points, [_told(row, called(row.question_id)) for row in own])
    axis.set_xlim(-3, 103)
    axis.set_ylim(-3, 103)


def _told(row: Verdict, question: str) -> str:
    return (
        f"{question}, sample {row.sample}: {row.outcome.value.replace('_', ' ')}\n"
        f"alignment {row.alignment:.1f}, coherence {row.coherence:.1f}"
    )


def scores_data(rows: Sequence[Verdict], called: Callable[[str], str]) -> pl.DataFrame:
    """Return the scores and classes of all answers, without their texts."""
    return pl.DataFrame(
        [
            {
                "arm": row.who,
                "answers_id": row.answers_id,
                "question": called(row.question_id),
                "paraphrase": row.paraphrase,
                "sample": row.sample,
                "class": row.outcome.value,
                "alignment": row.alignment,
                "coherence": row.coherence,
                "characters": row.characters,
            }
            for row in rows
        ],
        infer_schema_length=None,
    )
