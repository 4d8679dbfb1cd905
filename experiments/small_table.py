"""Print what a study with paired answers found, as the tables of LOG.md.

    python experiments/small_table.py out/small

Differences are log-odds of a harmful against an aligned answer, run minus matched control, in nats per answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowly.analysis.paired_schema import PairedAnswers
from narrowly.analysis.summary_schema import Summary
from narrowly.evaluate.paired.estimates import Estimate, smallest_effect
from narrowly.records.files import read_json
from narrowly.records.paired import LADDER
from narrowly.report.kit import number

GIVEN = " (below five seeds: given these seeds)"
"""Of what the smallest effects hold."""


def cell(found: Estimate | None) -> str:
    """Return an estimate with its interval."""
    if found is None:
        return ""
    one = found.interval
    low, high = (number(end, signed=True) for end in (one.low, one.high))
    return f"{number(one.estimate, signed=True)} [{low}, {high}]"


def ladder(found: PairedAnswers) -> list[str]:
    """Return the table of every arm against its controls, and what broad differences could have been seen."""
    lines = ["| arm | trained on | control | seeds | " + " | ".join(LADDER) + f" | smallest broad effect{GIVEN} |"]
    lines.append("|---" * (5 + len(LADDER)) + "|")
    for row in found.ladder:
        rungs = " | ".join(cell(row.rungs.get(rung)) for rung in LADDER)
        smallest = smallest_effect(row.rungs["broad"]) if "broad" in row.rungs else None
        seeds = len(row.seeds)
        lines.append(f"| {row.arm} | {row.trained} | {row.control} | {seeds} | {rungs} | {number(smallest)} |")
    return lines


def selectivity(found: PairedAnswers) -> list[str]:
    """Return the table of arms at equal held-out difference."""
    lines = [
        f"| arms | t over domains | questions drawn anew | smallest effect{GIVEN} | by run |",
        "|---|---|---|---|---|",
    ]
    for row in found.selectivity:
        ends = row.questions_range
        drawn = "" if ends is None else f"[{number(ends[0], signed=True)}, {number(ends[1], signed=True)}]"
        runs = "; ".join(f"{name} {number(value, signed=True)}" for name, value in row.per_run.items())
        smallest = None if row.value is None else smallest_effect(row.value)
        value = cell(row.value) if row.value is not None else str(row.reason)
        lines.append(f"| {row.arm} - {row.against} | {value} | {drawn} | {number(smallest)} | {runs} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    folder = parser.parse_args().study
    summary = Summary.from_json(read_json(folder / "summary.json"), str(folder))
    found = summary.paired
    if found is None:
        raise SystemExit(f"{folder} has no paired answers")
    print(f"{summary.title}; {summary.cells.done} of {summary.cells.planned} cells; bank {found.bank[:12]}\n")
    print("\n".join([*ladder(found), "", *selectivity(found), ""]))
    for base, rungs in found.base.items():
        levels = ", ".join(f"{rung} {number(level.log_odds.interval.estimate)}" for rung, level in rungs.items())
        print(f"before training, {base}: {levels}")


if __name__ == "__main__":
    main()
