"""Send the cells of a study through an engine, and wait for those that other commands hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.engines.protocol import WORKER_DIED, Executor, Outcome, Problem, Task
from narrowly.records.errors import RunDirectoryError
from narrowly.runs.claims import is_claimed
from narrowly.runs.directory import claim_file
from narrowly.study.layout import PlannedCell, is_complete, read_failure

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


class Execution:
    """Take the unfinished cells of a study through an engine.

    A task carries a list of cells; a cell that another process holds is looked at again until it is done or free.
    """

    def __init__(
        self,
        engine: Executor,
        function: str,
        observer: StudyObserver,
        runs: Path,
        study_dir: Path,
        report_to: Sequence[str],
        save_every: float | None = None,
    ) -> None:
        self.engine, self.function, self.observer = engine, function, observer
        self.runs, self.study_dir, self.report_to, self.save_every = runs, study_dir, list(report_to), save_every
        self.began = time.time()
        self.open: dict[str, PlannedCell] = {}
        self.elsewhere: dict[str, float] = {}
        self.tasks: dict[str, list[PlannedCell]] = {}
        self.failed: list[Failure] = []
        self.executed = 0

    def submit(self, cells: Sequence[PlannedCell]) -> None:
        """Send cells as one task."""
        payload = {
            "cells": [cell.model_dump(mode="json") for cell in cells],
            "runs": str(self.runs),
            "study_dir": str(self.study_dir),
            "report_to": self.report_to,
            "save_every": self.save_every,
        }
        self.open.update({cell.cell_id: cell for cell in cells})
        self.tasks[cells[0].cell_id] = list(cells)
        self.engine.submit(Task(cells[0].cell_id, self.function, payload))

    def advance(self) -> None:
        """Take what has finished, look after cells that others hold, and tell the observer."""
        for outcome in self.engine.poll(POLL_SECONDS):
            self._take(outcome)
        for cell_id, looked in list(self.elsewhere.items()):
            if time.monotonic() - looked >= BUSY_SECONDS:
                self._look_again(self.open[cell_id])
        working = [cell.cell_id for key in self.engine.in_flight() for cell in self.tasks.get(key, ())]
        self.observer.working(working, len(self.elsewhere))

    def _take(self, outcome: Outcome) -> None:
        cells = {cell.cell_id: cell for cell in self.tasks.pop(outcome.key)}
        if outcome.problem is not None:  # of the engine: no cell of the task had a chance to say more
            for cell in cells.values():
                self._fail(cell, outcome.problem)
            return
        for result in outcome.result:
            cell = cells[result["cell_id"]]
            if result["status"] == "failed":
                self._fail(cell, Problem(**result["problem"]))
            elif result["status"] == "busy":
                self.elsewhere[cell.cell_id] = time.monotonic()
            else:
                fresh = result["status"] == "done"
                self.executed += fresh
                self._close(cell.cell_id, None, result["seconds"] if fresh else None)

    def _fail(self, cell: PlannedCell, problem: Problem) -> None:
        from narrowly.study.cell import write_failure

        if problem.fatal:
            raise RunDirectoryError(
                f"{problem.error}; finished cells are safe: make room and run the same command again"
            )
        if read_failure(self.study_dir, cell) is None or problem.kind == WORKER_DIED:
            write_failure(self.study_dir, cell, problem)
        self._close(cell.cell_id, problem.error, None)

    def _look_again(self, cell: PlannedCell) -> None:
        self.elsewhere[cell.cell_id] = time.monotonic()
        failure = read_failure(self.study_dir, cell)
        if is_complete(cell, self.runs):
            self._close(cell.cell_id, None, None)
        elif not is_claimed(claim_file(self.runs, cell.run_id)):
            if failure is not None and failure.get("time", 0.0) >= self.began:
                self._close(cell.cell_id, str(failure.get("error")), None)
            else:
                del self.elsewhere[cell.cell_id]
                self.submit([cell])

    def _close(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        self.open.pop(cell_id)
        self.elsewhere.pop(cell_id, None)
        if error is not None:
            self.failed.append(Failure(cell_id, error))
        self.observer.finished(cell_id, error, seconds)
