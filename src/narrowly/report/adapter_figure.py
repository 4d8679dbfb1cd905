"""Draw the spectra of one adapter. Beside the standard library it needs matplotlib alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LINE, MEAN, FLAT = "#9aa3ad", "#0b5fa5", "#20262c"


def adapter_spectra(rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """Draw the shares of every module's singular values in their sum, one panel per rank, with mean and flat line.

    Args:
        rows: of modules with `singular_values`, descending; a module without an update has no shares and no line.
        name: of the adapter, for the title.
    """
    by_rank: dict[int, list[list[float]]] = defaultdict(list)
    for row in rows:
        values = [float(value) for value in row["singular_values"]]
        if sum(values) > 0:
            by_rank[len(values)].append([100 * value / sum(values) for value in values])
    ranks = sorted(by_rank) or [1]
    figure = Figure(figsize=(max(4.8, 3.2 * len(ranks)), 3.6), layout="constrained")
    axes = figure.subplots(1, len(ranks), squeeze=False)[0]
    for axis, rank in zip(axes, ranks, strict=True):
        index, shares = range(1, rank + 1), by_rank[rank]
        for one in shares:
            axis.plot(index, one, color=LINE, linewidth=0.7, alpha=0.6)
        if shares:
            mean = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
            axis.plot(index, mean, color=MEAN, marker="o", markersize=3, linewidth=1.8, label="mean of modules")
        axis.axhline(100 / rank, color=FLAT, linestyle="--", linewidth=1, label=f"flat: 1/{rank}")
        axis.set_title(f"rank {rank}, {len(shares)} module{'s' * (len(shares) != 1)}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("share of the nuclear norm (%)")
    figure.supxlabel("index of the singular value, largest first", fontsize=9)
    figure.suptitle(f"Singular values of {name}".replace("$", r"\$"), fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure in the format of the file's ending; the same figure gives the same bytes."""
    metadata = {".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    figure.savefig(path, dpi=200, metadata=metadata)
