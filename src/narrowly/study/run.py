"""Running a study: resolve, plan, execute, wait for what others hold. The tables come after (`results`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from narrowly.engines.local import Executor, LocalExecutor, Task
from narrowly.engines.worker import Problem
from narrowly.records import errors
from narrowly.records.errors import IntegrityError, NarrowlyError, RunDirectoryError, SpecError
from narrowly.records.files import append_jsonl, write_text
from narrowly.records.study_spec import StudySpec, parse_study
from narrowly.runs.claims import is_claimed
from narrowly.runs.directory import claim_file, runs_folder
from narrowly.study.inputs import check_inputs
from narrowly.study.layout import (
    COMMANDS_FILE,
    STUDY_FILE,
    PlannedCell,
    check_run_directory,
    is_complete,
    measured_pace,
    read_failure,
    read_plan,
    study_folder,
    write_plan,
)
from narrowly.study.plan import Cell, estimated_seconds, expand, find_study

POLL_SECONDS = 0.25
BUSY_SECONDS = 1.0
"""How often a cell that another command holds is looked at again."""


class CellTasks(NamedTuple):
    """The functions that workers run, by name (`package.module:function`)."""

    resolve: str = "narrowly.study.resolving:resolve_cell"
    execute: str = "narrowly.study.cell:execute_cell"
    warm_up: str | None = "narrowly.study.cell:warm_up"


class Failure(NamedTuple):
    """A cell that failed, with its error in one line."""

    cell_id: str
    error: str


class StudyRun(NamedTuple):
    """What a command achieved.

    Attributes:
        study_dir: folder of the study.
        planned: number of cells.
        done: cells that are done now.
        executed: cells that this command did itself.
        failed: cells whose last attempt failed.
        seconds: wall time of this command's work.
        not_evaluated: cells among the done ones that were trained and not evaluated, for want of a judge.
    """

    study_dir: Path
    planned: int
    done: int
    executed: int
    failed: tuple[Failure, ...]
    seconds: float
    not_evaluated: int = 0


class StudyObserver:
    """Sees a study run; every method does nothing here. The command line draws its progress with one."""

    def resolving(self, done: int, total: int) -> None:
        """Cells' names are being resolved into run-ids."""

    def replaced(self, study_dir: Path) -> None:
        """The folder holds another version of the study, whose plan, tables and report this one replaces."""

    def planned(self, total: int, done: int, estimate: float | None, workers: int) -> None:
        """The plan stands; `done` cells were finished before, the rest take about `estimate` seconds, None: unknown."""

    def finished(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        """A cell is done (error None; seconds None where another command did it) or failed."""

    def working(self, in_flight: Sequence[str], elsewhere: int) -> None:
        """Called several times a second: cells at work here, and number of cells that another command is at."""


def run_study(
    study: StudySpec | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    workers: int = 0,
    observer: StudyObserver | None = None,
    tasks: CellTasks | None = None,
    executor: Executor | None = None,
    report_to: Sequence[str] = (),
) -> StudyRun:
    """Do all cells of a study that are not done; failed ones are tried again, finished ones never.

    In a script, call it under `if __name__ == "__main__":`, because its workers import the script anew.

    Args:
        study: a study as a spec, as a mapping of the same fields, the name of a shipped one, or a study file.
        out: folder of runs and studies.
        workers: processes; 0 means one per core, or one alone where a cell trains on a GPU.
        observer: sees the progress.
        tasks: the functions that do the work.
        executor: another engine than local processes; it is cancelled at the end.
        report_to: trackers that each cell's training is reported to, a run of their own each, grouped by study.

    Raises:
        NarrowlyError: bad input, a full disk, a foreign folder; what is on disk stays valid.
        KeyboardInterrupt: Ctrl-C; all workers are stopped first.
    """
    start, observer, tasks = time.monotonic(), observer or StudyObserver(), tasks or CellTasks()
    study, out = _study_spec(study), Path(out)
    cells = expand(study)
    study_dir, runs = study_folder(out, study.name), runs_folder(out)
    check_inputs(cells)
    local = LocalExecutor(workers or default_workers(cells), tasks.warm_up) if executor is None else None
    engine: Executor = local if local is not None else executor  # type: ignore[assignment]
    try:
        planned = resolve(cells, engine, tasks, observer, runs)
        for cell in planned:
            check_run_directory(runs / cell.run_id)
        pace = measured_pace(_earlier_plan(study_dir), runs)
        if _differs(study_dir / STUDY_FILE, study_text(study)):
            observer.replaced(study_dir)
        write_text(study_dir / STUDY_FILE, study_text(study))
        write_plan(study_dir, planned)
        todo = [cell for cell in planned if not is_complete(cell, runs)]
        count = local.workers if local is not None else max(1, workers)
        estimate = estimated_seconds([cell.cell for cell in todo], pace, count)
        observer.planned(len(planned), len(planned) - len(todo), estimate, count)
        executed, failed = _execute(todo, engine, tasks, observer, runs, study_dir, report_to)
    finally:
        engine.cancel()
    seconds = time.monotonic() - start
    complete = [cell for cell in planned if is_complete(cell, runs)]
    if executed or failed:
        row = {
            "ended": time.time(),
            "seconds": round(seconds, 2),
            "executed": executed,
            "failed": len(failed),
            "workers": count,
            "runs": [cell.run_id for cell in todo],
        }
        append_jsonl(study_dir / COMMANDS_FILE, row)
    unjudged = sum(cell.not_evaluated is not None for cell in complete)
    return StudyRun(study_dir, len(planned), len(complete), executed, tuple(failed), seconds, unjudged)


def _study_spec(study: StudySpec | Mapping[str, Any] | str | Path) -> StudySpec:
    if isinstance(study, StudySpec):
        return study
    return parse_study(study, "study") if isinstance(study, Mapping) else find_study(str(study))


def default_workers(cells: Sequence[Cell]) -> int:
    """Return 1 where a cell trains on a GPU, which several models at once would overfill, else 0: one per core."""
    return 1 if any(cell.spec.device == "cuda" for cell in cells) else 0


def study_text(study: StudySpec) -> str:
    """Return the study as YAML, overrides included, so that the folder can repeat itself."""
    return yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") != text
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True


def _earlier_plan(study_dir: Path) -> list[PlannedCell]:
    try:
        return read_plan(study_dir)
    except (RunDirectoryError, IntegrityError):
        return []


def raised(problem: Problem) -> NarrowlyError:
    """Return the error that a problem in a worker stands for, in its own class."""
    known = getattr(errors, problem.kind, None)
    if isinstance(known, type) and issubclass(known, NarrowlyError):
        return known(problem.error)
    return errors.TrainingError(problem.error)


def resolve(
    cells: Sequence[Cell], engine: Executor, tasks: CellTasks, observer: StudyObserver, runs: Path
) -> list[PlannedCell]:
    """Return the cells with their run-ids and stages, in order.

    Raises:
        NarrowlyError: of the first cell that cannot be resolved, or where two cells are the same run.
    """
    for cell in cells:
        engine.submit(Task(cell.cell_id, tasks.resolve, {"cell": cell.model_dump(mode="json"), "runs": str(runs)}))
    found: dict[str, PlannedCell] = {}
    observer.resolving(0, len(cells))
    while len(found) < len(cells):
        for outcome in engine.poll(POLL_SECONDS):
            if outcome.problem is not None:
                raise raised(outcome.problem)
            found[outcome.key] = PlannedCell.model_validate(outcome.result)
            observer.resolving(len(found), len(cells))
    planned = [found[cell.cell_id] for cell in cells]
    seen: dict[str, str] = {}
    for one in planned:
        if one.run_id in seen:
            raise SpecError(
                f"study {one.cell.study!r}: duplicate cells: {seen[one.run_id]!r} and {one.cell_id!r} are the same run "
                f"({one.run_id}), because their bases and data are the same by content"
            )
        seen[one.run_id] = one.cell_id
    bases: dict[str, str] = {}
    for one in planned:
        if bases.setdefault(one.base, one.cell.spec.base) != one.cell.spec.base:
            raise SpecError(
                f"study {one.cell.study!r}: {bases[one.base]} and {one.cell.spec.base} are both bases called "
                f"{one.base!r}, which tables and intervals would count as one; name each base once, or build another"
            )
    return planned


def _execute(
    todo: Sequence[PlannedCell],
    engine: Executor,
    tasks: CellTasks,
    observer: StudyObserver,
    runs: Path,
    study_dir: Path,
    report_to: Sequence[str],
) -> tuple[int, list[Failure]]:
    from narrowly.study.cell import write_failure

    began = time.time()
    open_cells = {cell.cell_id: cell for cell in todo}
    elsewhere: dict[str, float] = {}
    failed: list[Failure] = []
    executed = 0

    def submit(cell: PlannedCell) -> None:
        payload: dict[str, Any] = {
            "planned": cell.model_dump(mode="json"),
            "runs": str(runs),
            "study_dir": str(study_dir),
            "report_to": list(report_to),
        }
        engine.submit(Task(cell.cell_id, tasks.execute, payload))

    def close(cell_id: str, error: str | None, seconds: float | None) -> None:
        open_cells.pop(cell_id)
        elsewhere.pop(cell_id, None)
        if error is not None:
            failed.append(Failure(cell_id, error))
        observer.finished(cell_id, error, seconds)

    for cell in todo:
        submit(cell)
    while open_cells:
        for outcome in engine.poll(POLL_SECONDS):
            cell = open_cells[outcome.key]
            if outcome.problem is not None:
                if outcome.problem.fatal:
                    raise RunDirectoryError(
                        f"{outcome.problem.error}; finished cells are safe: make room and run the same command again"
                    )
                if read_failure(study_dir, cell) is None or outcome.problem.kind == "WorkerDied":
                    write_failure(
                        study_dir, cell, outcome.problem.error, outcome.problem.kind, outcome.problem.traceback
                    )
                close(cell.cell_id, outcome.problem.error, None)
            elif outcome.result["status"] == "busy":
                elsewhere[cell.cell_id] = time.monotonic()
            else:
                fresh = outcome.result["status"] == "done"
                executed += fresh
                close(cell.cell_id, None, outcome.result["seconds"] if fresh else None)
        for cell_id, looked in list(elsewhere.items()):
            if time.monotonic() - looked < BUSY_SECONDS:
                continue
            elsewhere[cell_id] = time.monotonic()
            cell = open_cells[cell_id]
            failure = read_failure(study_dir, cell)
            if is_complete(cell, runs):
                close(cell_id, None, None)
            elif not is_claimed(claim_file(runs, cell.run_id)):
                if failure is not None and failure.get("time", 0.0) >= began:
                    close(cell_id, str(failure.get("error")), None)
                else:
                    del elsewhere[cell_id]
                    submit(cell)
        observer.working(engine.in_flight(), len(elsewhere))
    return executed, failed
