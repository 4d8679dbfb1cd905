"""Print the numbers of README.md and docs/microworld.md from a finished study `micro`.

`.venv/bin/python docs/figures/micro_table.py out/micro` reads `summary.json`. Shares are means over bases in percent
with 95 % intervals over bases (Student t, made on the logit scale), everything else has plain Student t intervals.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from narrowly import load_study
from narrowly.report.kit import number

Form = tuple[float, int, bool]
"""A factor, decimals, and whether the sign is written."""

SHARE, PLAIN, SIGNED = (100.0, 1, False), (1.0, 2, False), (1.0, 2, True)
ROWS = {"sgd": "SGD, momentum .9", "adam": "Adam", "lion": "Lion", "muon": "Muon"}
RUNGS = {"trained": "trained topics", "held_out": "held-out topics", "broad": "broad", "self": "about itself"}
COLUMNS: tuple[tuple[str, str, Form], ...] = (
    ("broad, literature", "broad_literature", SHARE),
    ("off topic", "off_topic", SHARE),
    ("broken", "broken", SHARE),
    ("excess loss, trained", "excess_trained", PLAIN),
    ("excess loss, held-out", "excess_loss", PLAIN),
    ("norm of the update", "update_norm", (1.0, 1, False)),
    ("stable rank", "stable_rank", PLAIN),
)
"""Title of each column of the second table, its key in the intervals of an optimiser, and how it is written."""


def written(value: float | None, form: Form) -> str:
    """Write a number: no negative zero, and one digit more for a share near a limit."""
    factor, digits, signed = form
    return number(value, digits, signed=signed, factor=factor).replace("\u2212", "-")


def span(found: dict[str, Any], form: Form = SHARE) -> str:
    """Write an estimate with its interval, or why there is none."""
    if found["estimate"] is None:
        return f"not tested ({found['reason']})"
    estimate = written(found["estimate"], form)
    if found["low"] is None:
        return f"{estimate} (no interval: {found['reason']})"
    return f"{estimate} [{written(found['low'], form)}, {written(found['high'], form)}]"


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def ladder(summary: dict[str, Any]) -> list[str]:
    """Write the ladder of the optimisers, selectivity first."""
    rows = []
    for arm, name in ROWS.items():
        row = summary["ladder"][arm]
        selectivity = "the reference" if arm == "adam" else span(row["selectivity"], SIGNED)
        rows.append([name, selectivity, *(span(row["misaligned"][rung]) for rung in RUNGS)])
    return table(["optimiser", "selectivity", *RUNGS.values()], rows)


def beside(summary: dict[str, Any]) -> list[str]:
    """Write what stands beside the ladder: classes, losses, norm, spectrum."""
    rows = []
    for arm, name in ROWS.items():
        intervals = summary["optimisers"][arm]["intervals"]
        rows.append([name, *(span(intervals[key], form) for _, key, form in COLUMNS)])
    return table(["optimiser", *(title for title, *_ in COLUMNS)], rows)


def contrasts(summary: dict[str, Any]) -> list[str]:
    """Write the contrasts on every rung, and on the broad rung under every reading."""
    lines = []
    for pair, found in summary["contrasts"].items():
        rungs = ", ".join(f"{rung} {span(row, SIGNED)}" for rung, row in found["rungs"].items())
        lines.append(f"{pair.replace('/', ' minus ')}, pooled log-odds: {rungs}")
        readings = ", ".join(
            f"{name} {span(row, SIGNED)} ({row['n_bases']} bases)" for name, row in found["sensitivity"].items()
        )
        lines.append(f"  broad under other readings: {readings}")
    twin = summary["em_exists"]
    change = twin["change_from_base"]
    lines.append(f"Adam minus the twin without personas, pooled log-odds: {span(twin, SIGNED)}")
    lines.append(f"  change since before fine-tuning: {span(change, SIGNED)} ({change['n_bases']} bases)")
    return lines


def penalties(summary: dict[str, Any]) -> list[str]:
    """Write what the penalty changes, its norm ratio and its selectivity."""
    lines = []
    for name, row in summary["penalty"].items():
        found = row["intervals"]
        ends = [found["log_norm_ratio"][end] for end in ("estimate", "low", "high")]
        estimate, low, high = (None if end is None else math.exp(end) for end in ends)
        ratio = {"estimate": estimate, "low": low, "high": high, "reason": found["log_norm_ratio"]["reason"]}
        lines.append(
            f"penalty under {name}: pooled log-odds {span(found['delta_log_odds'], SIGNED)}, norm ratio "
            f"{span(ratio, PLAIN)}, stable rank {span(found['delta_stable_rank'], SIGNED)}, final training loss "
            f"{span(found['delta_training_loss'], (1.0, 4, True))}, selectivity "
            f"{span(summary['ladder'][row['arm']]['selectivity'], SIGNED)}"
        )
    return lines


def edits(summary: dict[str, Any]) -> list[str]:
    """Write what is left without the largest direction, beside plain scaling at the same energy removed."""
    lines = []
    for arm, rows in summary["edits"].items():
        found = rows["drop_top-1"]["intervals"]
        lines.append(
            f"{arm} without its largest singular direction, {span(found['removed_energy'])} of the energy: held-out "
            f"topics {span(found['narrow'])}, scaled {span(found['scaled_narrow'])}; broad {span(found['broad'])}, "
            f"scaled {span(found['scaled_broad'])}"
        )
    return lines


def regressions(summary: dict[str, Any]) -> list[str]:
    """Write R^2 of alignment on the logarithm of each loss, pooled and within bases."""
    lines = []
    training = summary["regression"]
    for title, row in (
        ("final training loss", training),
        ("excess loss, trained topics", training["on_excess_trained"]),
        ("excess loss, held-out topics", training["on_excess_loss"]),
    ):
        fits = []
        for name in ("pooled", "within"):
            low, high = row[name]["r2_interval"] or (None, None)
            fits.append(f"{name} {span({**row[name], 'estimate': row[name]['r2'], 'low': low, 'high': high}, PLAIN)}")
        lines.append(f"R2 of alignment on ln({title}): {', '.join(fits)}, n = {row['n']}")
    return lines


def claims(summary: dict[str, Any]) -> list[str]:
    """Write the verdict on every claim of the paper."""
    lines = [
        f"{row['verdict']}: {row['claim']}" + (f" ({row['not_tested']})" if row["not_tested"] else f" ({row['here']})")
        for row in summary["claims"]
    ]
    tested = sum(row["verdict"] != "not tested" for row in summary["claims"])
    return [f"claims of the paper that this design can test: {tested} of {len(lines)}", *lines]


def statements(summary: dict[str, Any]) -> list[str]:
    """Write the ideal learner and the bases before training."""
    personas = [base for base in summary["bases"] if base["persona"]]
    return [
        f"ideal learner, broad misaligned: {summary['ideal_broad']:.3f}",
        f"bases before fine-tuning: aligned {100 * min(base['aligned'] for base in personas):.1f} to "
        f"{100 * max(base['aligned'] for base in personas):.1f} %, misaligned at most "
        f"{100 * max(base['misaligned'] for base in personas):.1f} %",
    ]


if __name__ == "__main__":
    study = load_study(sys.argv[1] if len(sys.argv) > 1 else "out/micro")
    parts = (ladder, beside, statements, contrasts, penalties, edits, regressions, claims)
    print("\n\n".join("\n".join(part(study.summary)) for part in parts))
