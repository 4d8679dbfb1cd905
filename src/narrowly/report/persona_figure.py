"""Draw how far checkpoints of runs have moved along a direction. Beside the standard library it needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osv^DP"


def watched_runs(steps: Sequence[Any], name: str) -> Figure:
    """Draw the shift of every run over its checkpoints, with intervals over texts.

    Args:
        steps: with `run`, `step` and `shift` (an `Interval`), as `workbench.persona.watch` gives them.
        name: of the direction, for the title.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(dict.fromkeys(one.run for one in steps)):
        own = [one for one in steps if one.run == run]
        at, shift = [one.step for one in own], [one.shift.estimate for one in own]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(at, shift, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=4, label=_plain(run))
        if all(one.shift.low is not None for one in own):
            axes.fill_between(
                at, [one.shift.low for one in own], [one.shift.high for one in own], color=colour, alpha=0.18,
                linewidth=0,
            )  # fmt: skip
    axes.axhline(0, color="#20262c", linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("shift along the direction")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    figure.suptitle(f"States of runs along {_plain(name)}, minus those of the base", fontsize=10)
    return figure


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
