"""Send the cells of a study through an engine, and wait for those that other commands hold.

Engines repeat nothing. A cell whose process died is sent again from here, as often as the engine's `retries` say; its
claim decides who does it, so that one which goes on elsewhere is never done twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.engines.protocol import CANCELLED, WORKER_DIED, Executor, Outcome, Place, Problem, Task
from narrowly.records.errors import RunDirectoryError
from narrowly.records.files import append_jsonl
from narrowly.runs.claims import is_claimed
from narrowly.runs.directory import claim_file
from narrowly.study.layout import FAILED, PLACES_FILE, PlannedCell, failure_file, is_complete, read_failure

POLL_SECONDS = 0.25
BUSY_SECONDS = 1.0
"""How often a cell that another command holds is looked at again."""


class Failure(NamedTuple):
    """Describe a cell that failed, with its error in one line."""

    cell_id: str
    error: str


class StudyObserver:
    """Observe a study while it runs; every method does nothing here. The command line draws progress with one."""

    def resolving(self, done: int, total: int) -> None:
        """Note that cells' names are being resolved into run-ids."""

    def replaced(self, study_dir: Path) -> None:
        """Note that the folder holds another version of the study, whose plan, tables and report are replaced."""

    def planned(self, total: int, done: int, estimate: float | None, workers: int) -> None:
        """Note the plan: `done` cells are finished, the rest take about `estimate` seconds; None where unknown."""

    def finished(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        """Note that a cell is done (error None; seconds None where another command did it) or failed."""

    def working(self, in_flight: Sequence[str], elsewhere: int) -> None:
        """Note, several times a second, the cells at work here and how many another command holds."""

    def said(self, text: str) -> None:
        """Note one line of the engine: a process that died, nodes that are down, jobs that go on."""


class Execution:
    """Take the unfinished cells of a study through an engine.

    A task carries a list of cells; a cell that another process holds is looked at again until it is done or free.

    Args:
        engine: that takes the tasks.
        function: that executes cells, by name.
        observer: sees the progress.
        runs: folder of all runs.
        study_dir: folder of the study.
        common: JSON-able fields of every task's payload, beside its cells.
        retries: times that a cell is sent again whose process died.
    """

    def __init__(
        self,
        engine: Executor,
        function: str,
        observer: StudyObserver,
        runs: Path,
        study_dir: Path,
        common: Mapping[str, Any],
        retries: int = 0,
    ) -> None:
        self.engine, self.function, self.observer = engine, function, observer
        self.runs, self.study_dir, self.common, self.retries = runs, study_dir, dict(common), retries
        self.deaths: Counter[str] = Counter()
        self.earlier = {path: _written(path) for path in study_dir.glob(f"{FAILED}/*.json")}
        self.placed: dict[str, Place] = {}
        self.open: dict[str, PlannedCell] = {}
        self.elsewhere: dict[str, float] = {}
        self.tasks: dict[str, list[PlannedCell]] = {}
        self.failed: list[Failure] = []
        self.executed = 0

    def submit(self, cells: Sequence[PlannedCell]) -> None:
        """Send cells as one task."""
        payload = {
            "cells": [cell.model_dump(mode="json") for cell in cells],
            "runs": str(self.runs.absolute()),
            "study_dir": str(self.study_dir.absolute()),
            **self.common,
        }
        self.open.update({cell.cell_id: cell for cell in cells})
        self.tasks[cells[0].cell_id] = list(cells)
        self.engine.submit(Task(cells[0].cell_id, self.function, payload))

    def finish(self, cells: Sequence[PlannedCell], size: int) -> tuple[int, list[Failure]]:
        """Take cells through the engine, so many to a task; return how many this command did, and those that failed.

        Raises:
            RunDirectoryError: what every other task must meet too: a full disk, storage that is not shared.
        """
        fresh = self.adopt(cells)
        for start in range(0, len(fresh), size):
            self.submit(fresh[start : start + size])
        while self.open:
            self.advance()
        return self.executed, self.failed

    def adopt(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Take over the tasks that an earlier command has left in the engine's queue; return the cells they leave."""
        by_run = {cell.run_id: cell for cell in cells}
        for task in self.engine.adopt():
            runs = [raw["run_id"] for raw in task.payload["cells"]]
            mine = [by_run.pop(run) for run in runs if run in by_run]
            if mine:
                self.open.update({cell.cell_id: cell for cell in mine})
                self.tasks[task.key] = mine
        return list(by_run.values())

    def advance(self) -> None:
        """Take what has finished, look after cells that others hold, and tell the observer."""
        for outcome in self.engine.poll(POLL_SECONDS):
            self._take(outcome)
        for note in self.engine.notes():
            self.observer.said(note)
        self._record_places()
        for cell_id, looked in list(self.elsewhere.items()):
            if time.monotonic() - looked >= BUSY_SECONDS:
                self._look_again(self.open[cell_id])
        working = [cell.cell_id for key in self.engine.in_flight() for cell in self.tasks.get(key, ())]
        self.observer.working(working, len(self.elsewhere))

    def _record_places(self) -> None:
        """Write down where cells are that are not in processes of this command, for `narrowly status` and `logs`."""
        rows = []
        for key, place in self.engine.places().items():
            if self.placed.get(key) != place and key in self.tasks:
                self.placed[key] = place
                runs = [cell.run_id for cell in self.tasks[key]]
                rows.append({"runs": runs, "engine": self.engine.name, "where": place.where, "log": place.log})
        if rows:
            append_jsonl(self.study_dir / PLACES_FILE, *rows)

    def _take(self, outcome: Outcome) -> None:
        cells = {cell.cell_id: cell for cell in self.tasks.pop(outcome.key, ())}
        if outcome.problem is not None:  # of the engine: no cell of the task had a chance to say more
            if outcome.problem.kind == WORKER_DIED:
                self._died(list(cells.values()), outcome.problem)
                return
            for cell in cells.values():
                self._fail(cell, outcome.problem)
            return
        for result in outcome.result:
            if (
                result["cell_id"] not in cells.keys() & self.open.keys()
            ):  # of an adopted task of a study that was changed
                continue
            cell = cells[result["cell_id"]]
            if result["status"] == "failed":
                self._fail(cell, Problem(**result["problem"]))
            elif result["status"] == "busy":
                self.elsewhere[cell.cell_id] = time.monotonic()
            else:
                fresh = result["status"] == "done"
                self.executed += fresh
                self._close(cell.cell_id, None, result["seconds"] if fresh else None)

    def _died(self, cells: Sequence[PlannedCell], problem: Problem) -> None:
        """Send again what the process of a task has left; the death counts against the cell that it was doing."""
        left = [cell for cell in cells if not is_complete(cell, self.runs)]
        for cell in cells:
            if cell not in left:
                self.executed += 1
                self._close(cell.cell_id, None, None)
        if not left:
            return
        first, others = left[0], left[1:]  # cells of a task are done in order
        self.deaths[first.cell_id] += 1
        if self.deaths[first.cell_id] > self.retries:
            self._fail(first, problem)
        else:
            tries = f"try {self.deaths[first.cell_id] + 1} of {self.retries + 1}"
            self.observer.said(f"{first.cell_id}: {problem.error}; {tries} follows")
            self.submit([first])
        if others:
            self.submit(others)

    def _fail(self, cell: PlannedCell, problem: Problem) -> None:
        from narrowly.study.cell import write_failure

        if problem.fatal:
            raise RunDirectoryError(f"{problem.error}; finished cells are safe, and the same command goes on then")
        if read_failure(self.study_dir, cell) is None or problem.kind in (WORKER_DIED, CANCELLED):
            write_failure(self.study_dir, cell, problem)
        self._close(cell.cell_id, problem.error, None)

    def _look_again(self, cell: PlannedCell) -> None:
        self.elsewhere[cell.cell_id] = time.monotonic()
        failure = read_failure(self.study_dir, cell)
        if is_complete(cell, self.runs):
            self._close(cell.cell_id, None, None)
        elif not is_claimed(claim_file(self.runs, cell.run_id)):
            if failure is not None and self._is_new(failure_file(self.study_dir, cell.cell_id)):
                self._close(cell.cell_id, str(failure.get("error")), None)
            else:
                del self.elsewhere[cell.cell_id]
                self.submit([cell])

    def _is_new(self, failure: Path) -> bool:
        """Return whether a failure was recorded after this command began, whatever the clocks of the hosts say."""
        return _written(failure) != self.earlier.get(failure)

    def _close(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        self.open.pop(cell_id)
        self.elsewhere.pop(cell_id, None)
        if error is not None:
            self.failed.append(Failure(cell_id, error))
        self.observer.finished(cell_id, error, seconds)


def _written(path: Path) -> tuple[int, int] | None:
    """Return what changes with every writing of a file: its number and its time; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
