"""Run a stress test within a budget of time: the least first, then as many further units as fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.runs.directory import runs_folder
from narrowly.study.execution import Failure, StudyObserver
from narrowly.study.layout import COMMANDS_FILE, PlannedCell, is_complete, measured_pace, read_plan, study_folder
from narrowly.study.pace import estimated_seconds
from narrowly.study.plan import Cell, expand
from narrowly.study.results import wall_seconds
from narrowly.study.run import run_study
from narrowly.study.stress_plan import StressPlan, Unit

RESERVE = 0.15
"""Share of the budget that is kept free: times of cells vary, and tables and card take some of it; ours."""


class StressRun(NamedTuple):
    """Hold what a stress test did.

    Attributes:
        study_dir: folder of its study.
        units: that were done or tried.
        left_out: that the budget had no room for.
        seconds: wall time of all commands on it so far.
        failed: cells whose last attempt failed.
    """

    study_dir: Path
    units: tuple[Unit, ...]
    left_out: tuple[Unit, ...]
    seconds: float
    failed: tuple[Failure, ...]


def run_stress(
    plan: StressPlan,
    out: Path,
    budget: float,
    *,
    workers: int = 0,
    observer: StudyObserver | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> StressRun:
    """Do the units of a stress test that fit into a budget; what is done already is never repeated.

    Time that earlier commands spent on the test counts. The least units are refused before anything is trained where
    they are known not to fit; of a model of unknown pace, the first unit tells.

    Args:
        plan: what is to be done.
        out: folder of runs and studies.
        budget: seconds of wall time.
        workers: processes; 0: one per core.
        observer: sees the progress of cells.
        say: told in a line what fits.

    Raises:
        SpecError: the least does not fit; the message has the time that would do.
        NarrowlyError: as `run_study`.
        Stopped: as `run_study`.
    """
    folder = study_folder(out, plan.name)
    chosen = _begun(plan, folder, runs_folder(out)) or plan.least()
    clock = _Clock(plan, out, workers)
    _refuse_too_small(plan, clock, budget, 0.0)
    failed: tuple[Failure, ...] = ()
    if clock.seconds(plan.least()) is None:
        failed = clock.run(plan.least()[:1], observer)
        _refuse_too_small(plan, clock, budget, RESERVE)
    while True:
        failed = clock.run(chosen, observer)
        rest = [unit for unit in plan.units() if unit not in chosen]
        room = budget * (1 - RESERVE) - clock.spent()
        more = clock.fitting(chosen, rest, room)
        if not more:
            return StressRun(folder, tuple(chosen), tuple(rest), clock.spent(), failed)
        say(f"{len(more)} of {len(rest)} further units fit into the budget")
        chosen = [unit for unit in plan.units() if unit in chosen or unit in more]


class _Clock:
    """Tell what units take, from the pace of the cells that are done, and what was spent."""

    def __init__(self, plan: StressPlan, out: Path, workers: int) -> None:
        self._plan, self._out, self._workers = plan, out, workers
        self._folder, self._runs = study_folder(out, plan.name), runs_folder(out)

    def run(self, units: Sequence[Unit], observer: StudyObserver | None) -> tuple[Failure, ...]:
        return run_study(self._plan.study(units), self._out, workers=self._workers, observer=observer).failed

    def planned(self) -> list[PlannedCell]:
        try:
            return read_plan(self._folder)
        except (RunDirectoryError, IntegrityError):
            return []

    def spent(self) -> float:
        """Return the wall seconds that commands spent on this test."""
        return wall_seconds(self._folder / COMMANDS_FILE, {cell.run_id for cell in self.planned()}) or 0.0

    def seconds(self, units: Sequence[Unit]) -> float | None:
        """Return what the cells of some units that are not done take; None where nothing is known of one."""
        from narrowly.engines.local import usable_cores

        pace = measured_pace(self.planned(), self._runs)
        count = self._workers or (1 if self._plan.device == "cuda" else usable_cores())
        return estimated_seconds(self._left(units), pace, count) if units else 0.0

    def _left(self, units: Sequence[Unit]) -> list[Cell]:
        done = _done(self.planned(), self._runs)
        return [cell for cell in expand(self._plan.study(units)) if _said(cell) not in done]

    def fitting(self, chosen: Sequence[Unit], rest: Sequence[Unit], room: float) -> list[Unit]:
        """Return the first of further units that take no longer together than there is room."""
        for count in range(len(rest), 0, -1):
            seconds = self.seconds([*chosen, *rest[:count]])
            if seconds is not None and seconds <= room:
                return list(rest[:count])
        return []


def _begun(plan: StressPlan, folder: Path, runs: Path) -> list[Unit]:
    """Return the units whose cells are done, with the least ones; none where nothing was begun."""
    try:
        cells = read_plan(folder)
    except (RunDirectoryError, IntegrityError):
        return []
    done = _done(cells, runs)
    whole = [unit for unit in plan.units() if {_said(cell) for cell in expand(plan.study([unit]))} <= done]
    return [unit for unit in plan.units() if unit in whole or unit in plan.least()]


def _done(cells: Sequence[PlannedCell], runs: Path) -> set[str]:
    return {cell.planned_as for cell in cells if is_complete(cell, runs)}


def _said(cell: Cell) -> str:
    """Return what a cell is, whatever it is called: `PlannedCell.planned_as` of one that is planned."""
    return cell.model_dump_json(exclude={"study", "cell_id"})


def _refuse_too_small(plan: StressPlan, clock: _Clock, budget: float, reserve: float) -> None:
    need = clock.seconds(plan.least())
    if not need:  # not known, or done already
        return
    total = need + clock.spent()
    if total > budget * (1 - reserve):
        minutes = math.ceil(total / (1 - RESERVE) / 60)
        needed = " and ".join(map(str, plan.least()))
        raise SpecError(
            f"a budget of {budget:.0f} s is too small for a card, which needs {needed}, each with its control: about "
            f"{total:.0f} s here; accepted: --budget {minutes}m or more"
        )
