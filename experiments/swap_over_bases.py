"""What travels with spectrum, norms or directions, over the bases of a study: swaps and sweeps, with intervals.

For each base of a finished study: the swap of one arm's run for another's (mean effect of taking a part from the
second), and the sweep of edits of the first arm's run (points of broad misalignment below plain scaling at an equal
narrow rate). Means over bases with 95 % t intervals: the base is the unit. Exploration, no test: no effect was named
in advance.

    python experiments/swap_over_bases.py out/micro [--first adam] [--second muon]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import polars as pl

from narrowly.stats.intervals import t_interval
from narrowly.workbench.repair import default_edits, sweep
from narrowly.workbench.swap import swap


def runs(folder: Path, arm: str) -> dict[str, Path]:
    """Return the run directory of each base under one arm."""
    cells = pl.read_parquet(folder / "tables" / "cells.parquet").filter((pl.col("arm") == arm) & (pl.col("seed") == 0))
    return {row["base"]: folder.parent / "runs" / row["run_id"] for row in cells.iter_rows(named=True)}


def show(title: str, values: dict[str, list[float]], unit: str) -> None:
    """Print one line per name: mean over bases and its interval."""
    print(f"\n{title} ({unit}, mean over bases, 95 % t interval)")
    for name, found in values.items():
        interval = t_interval(found)
        low, high = ("-", "-") if interval.low is None else (f"{interval.low:+.2f}", f"{interval.high:+.2f}")
        print(f"  {name:32s} {sum(found) / len(found):+7.2f} [{low}, {high}]  n = {len(found)}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", default="adam")
    parser.add_argument("--second", default="muon")
    given = parser.parse_args()
    first, second = runs(given.folder, given.first), runs(given.folder, given.second)
    effects: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    below: dict[str, list[float]] = defaultdict(list)
    for base in sorted(set(first) & set(second)):
        found = swap(first[base], second[base], None, lambda *_: None)
        for effect in found.effects:
            scale = 100 if effect.response == "joint" else 1
            effects[f"{effect.panel}, {effect.response}"][effect.component].append(scale * effect.estimate)
        for point in sweep(first[base], default_edits(8), lambda *_: None).points:
            if point.below is not None:
                below[point.edit].append(100 * point.below[0])
        print(f"{base}: done", flush=True)
    for panel, values in effects.items():
        show(
            f"{given.first} -> {given.second}, effect on {panel}", values, "points" if "joint" in panel else "log-odds"
        )
    show(f"edits of {given.first} below plain scaling", below, "points of broad joint rate at an equal narrow rate")


if __name__ == "__main__":
    main()
