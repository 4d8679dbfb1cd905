"""Print the numbers of README.md and docs/microworld.md from a finished study `micro`.

`.venv/bin/python docs/figures/micro_table.py out/micro` reads `summary.json` and `tables/spectra.parquet`. Rates are
means over bases in percent with 95 % Student t intervals over bases.
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

from narrowly import load_study

COLUMNS = (
    ("trained topics", "in_domain", 100, 1),
    ("held-out topics", "held_out_topics", 100, 1),
    ("broad, joint", "broad_joint", 100, 1),
    ("broad, literature", "broad_literature", 100, 1),
    ("incoherent", "incoherent", 100, 1),
    ("about itself", "broad_self", 100, 1),
    ("excess loss, held-out topics", "excess_loss", 1, 2),
    ("norm of the update", "update_norm", 1, 1),
    ("stable rank", "stable_rank", 1, 2),
)
"""Title of each column, its key in summary.json, a factor, and decimals."""
ROWS = {"sgd": "SGD, momentum .9", "adam": "Adam", "lion": "Lion", "muon": "Muon"}


def span(interval: dict[str, Any], factor: float = 100, digits: int = 1, sign: str = "") -> str:
    """Write an estimate with its interval, or say how many bases it has where there is none."""
    estimate = f"{factor * interval['estimate']:{sign}.{digits}f}"
    if interval["low"] is None:
        return f"{estimate} (no interval: {interval['n_bases']} bases)"
    return f"{estimate} [{factor * interval['low']:{sign}.{digits}f}, {factor * interval['high']:{sign}.{digits}f}]"


def rates(summary: dict[str, Any]) -> list[str]:
    """Write the table of optimisers as Markdown."""
    lines = ["| optimiser | " + " | ".join(title for title, *_ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for arm, name in ROWS.items():
        intervals = summary["optimisers"][arm]["intervals"]
        lines.append(f"| {name} | " + " | ".join(span(intervals[key], *form) for _, key, *form in COLUMNS) + " |")
    return lines


def statements(summary: dict[str, Any]) -> list[str]:
    """Write what is not in the table: ideal learner, bases before training, contrasts, edits."""
    personas = [base for base in summary["bases"] if base["persona"]]
    lines = [
        f"ideal learner, broad misaligned: {summary['ideal_broad']:.3f}",
        f"bases before fine-tuning: aligned {100 * min(base['aligned'] for base in personas):.1f} to "
        f"{100 * max(base['aligned'] for base in personas):.1f} %, misaligned at most "
        f"{100 * max(base['misaligned'] for base in personas):.1f} %",
        f"Adam minus the twin without personas, log-odds: {span(summary['em_exists'], 1, 2, '+')}",
    ]
    for pair, contrast in summary["contrasts"].items():
        lines.append(
            f"{pair.replace('/', ' minus ')}, log-odds: all bases {span(contrast['all_cells'], 1, 2, '+')}; "
            f"{contrast['n_bases']} bases with at most 15 % incoherent {span(contrast, 1, 2, '+')}"
        )
    for arm, edits in summary["edits"].items():
        edited = edits["drop_top-1"]["intervals"]
        lines.append(
            f"{arm} without its largest singular direction: held-out topics {span(edited['narrow'])}, "
            f"broad {span(edited['broad'])}"
        )
    return lines


def norms(spectra: pl.DataFrame) -> list[str]:
    """Write the norm of the final update with and without the penalty, means over bases."""
    final = spectra.filter(pl.col("final") & (pl.col("edit") == "none"))
    by_cell = final.group_by("arm", "cell_id").agg(pl.col("frobenius_norm").pow(2).sum().sqrt().alias("norm"))
    means = dict(by_cell.group_by("arm").agg(pl.col("norm").mean()).iter_rows())
    pairs = [(arm, f"{arm}_penalty") for arm in sorted(means) if f"{arm}_penalty" in means]
    return [f"{arm}: norm of the update {means[arm]:.2f}, with the penalty {means[other]:.2f}" for arm, other in pairs]


if __name__ == "__main__":
    study = load_study(sys.argv[1] if len(sys.argv) > 1 else "out/micro")
    print("\n".join([*rates(study.summary), "", *statements(study.summary), *norms(study.spectra)]))
