"""Say what a point of a figure is: its arm, base, seed and run, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import polars as pl

from narrowly.records.edits import EDITS
from narrowly.report.kit import number
from narrowly.report.labels import ArmNames, edit_kind, edit_label
from narrowly.runs.directory import SPEC

Tips = Mapping[tuple[object, ...], str]
"""What a point or a line of a figure shows on hover, by what it stands for: (cell_id,), (arm, base), ..."""

NO_TIPS: Tips = MappingProxyType({})

MOST_RUNS = 3
"""Runs that a point over several of them names; the data beside the figure have all."""


class Points:
    """What the points of one study's figures say.

    Args:
        cells: one row per planned cell: cell_id, arm, base, seed, run_id.
        runs: the folder of the runs as a reader beside it would type it, for instance `out/runs`.
    """

    def __init__(self, cells: pl.DataFrame, runs: str) -> None:
        self._names, self._runs = ArmNames(cells), runs
        self._cells = {row["cell_id"]: row for row in cells.iter_rows(named=True)}

    def tell(self, cell_ids: Sequence[str], edit: str | None = None) -> str:
        """Return the lines of a point that stands for these cells of one arm and base."""
        cells = [self._cells[one] for one in sorted(set(cell_ids)) if one in self._cells]
        if not cells:
            return ""
        first = cells[0]
        several = len(cells) > 1
        seeds = ", ".join(sorted({str(cell["seed"]) for cell in cells}))
        what = f"{self._names.text(first['arm'])} on {first['base']}, seed{'s' * (',' in seeds)} {seeds}"
        if several:
            what += f", mean of {len(cells)} runs"
        if edit is not None:
            what += f"; {edit_label(edit)}"
        lines = [what]
        runs = [cell["run_id"] for cell in cells if cell["run_id"]]
        for run in runs[:MOST_RUNS]:
            lines += [f"run {run}", self.command(run, edit)]
        if len(runs) > MOST_RUNS:
            lines.append(f"and {len(runs) - MOST_RUNS} more runs")
        return "\n".join(lines)

    def command(self, run: str, edit: str | None = None) -> str:
        """Return the command that repeats a run in another folder, or that edits it again."""
        if edit is not None and edit_kind(edit)[0] in EDITS:
            kind, value = edit_kind(edit)
            field = next(name for name in EDITS[kind].model_fields if name != "kind")
            short = kind if value is None else f"{kind}:{field}={value:g}"
            return f"narrowly repair {shlex.quote(f'{self._runs}/{run}')} --edit {short}"
        return f"narrowly train {shlex.quote(f'{self._runs}/{run}/{SPEC}')} --out again"

    def over(self, frame: pl.DataFrame, keys: Sequence[str]) -> Tips:
        """Return the words of points that average over organisms, by their keys."""
        found: dict[tuple[object, ...], str] = {}
        for key, part in frame.group_by(*keys):
            edit = dict(zip(keys, key, strict=True)).get("edit")
            found[key] = self.tell(part["cell_id"].to_list(), str(edit) if edit is not None else None)
        return found


def with_values(tip: str | None, values: Mapping[str, float | None]) -> str:
    """Return the words of a point with what it shows as the second line: name -> value."""
    shown = ", ".join(f"{name} {_significant(value)}" for name, value in values.items())
    first, _, rest = (tip or "").partition("\n")
    return "\n".join(part for part in (first, shown, rest) if part)


def _significant(value: float | None) -> str:
    return number(None) if value is None else f"{value:.3g}".replace("-", "\u2212")
