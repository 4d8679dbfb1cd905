"""Run a study: resolve, plan, execute, wait for cells that others hold. `results` makes the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from narrowly.engines import stopping
from narrowly.engines.build import open_cluster
from narrowly.engines.local import LocalExecutor, visible_gpus
from narrowly.engines.protocol import Executor, Outcome, Task
from narrowly.engines.worker import error_of
from narrowly.records.engine_spec import EngineSpec, LocalEngine
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import append_jsonl, write_text
from narrowly.records.study_spec import StudySpec, parse_study
from narrowly.runs.directory import check_directory, runs_folder
from narrowly.study.current import kept_plan, plan_origin, record_plan
from narrowly.study.execution import POLL_SECONDS, Execution, Failure, StudyObserver
from narrowly.study.inputs import check_inputs
from narrowly.study.layout import (
    COMMANDS_FILE,
    ENGINE_FOLDER,
    STUDY_FILE,
    PlannedCell,
    is_complete,
    measured_pace,
    read_plan,
    study_folder,
    write_plan,
)
from narrowly.study.pace import estimated_seconds
from narrowly.study.plan import Cell, expand, find_study
from narrowly.study.preregistered import check_prereg, file_of, record_prereg


class CellTasks(NamedTuple):
    """Name the functions that workers run (`package.module:function`)."""

    resolve: str = "narrowly.study.cell:resolve_cells"
    execute: str = "narrowly.study.cell:execute_cells"
    warm_up: str | None = "narrowly.study.cell:warm_up"


class StudyRun(NamedTuple):
    """Hold the result of one command on a study.

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


@stopping.hear_signals(text="stopped; the same command goes on from there")
def run_study(
    study: StudySpec | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    workers: int = 0,
    observer: StudyObserver | None = None,
    tasks: CellTasks | None = None,
    executor: Executor | None = None,
    report_to: Sequence[str] = (),
    save_every: float | None = None,
    file: Path | None = None,
) -> StudyRun:
    """Do all cells of a study that are not done; failed ones are tried again, finished ones never.

    In a script, call it under `if __name__ == "__main__":`, because its workers import the script anew.

    Args:
        study: a study as a spec, as a mapping of the same fields, the name of a shipped one, or a study file.
        out: folder of runs and studies.
        workers: processes; 0 means one per core, or one per GPU where a cell trains on one. On a cluster, tasks that
            run at once; 0 means as the study's `engine` says.
        observer: sees the progress.
        tasks: the functions that do the work.
        executor: another engine than the one that the study names; it is cancelled at the end.
        report_to: trackers that each cell's training is reported to, a run of their own each, grouped by study.
        save_every: as of `train_run`; part of no id.
        file: of the study where `study` is a spec that was read from one: git is asked which commit first held its
            preregistration.

    Raises:
        NarrowlyError: bad input, a full disk, a foreign folder, a preregistration that was edited after it was
            recorded, a cluster that cannot be used; what is on disk stays valid.
        Stopped: Ctrl-C (then also a KeyboardInterrupt), SIGTERM or SIGHUP (also a SystemExit); workers that train have
            finished and saved their step.
    """
    start, observer, tasks = time.monotonic(), observer or StudyObserver(), tasks or CellTasks()
    file = file_of(str(study)) if isinstance(study, str | Path) else file
    study, out = _study_spec(study), Path(out)
    cells = expand(study)
    study_dir, runs = study_folder(out, study.name), runs_folder(out)
    check_prereg(study, study_dir)
    origin = plan_origin(cells, check_inputs(cells), tasks.resolve)
    finished = _nothing_to_do(study, study_dir, runs, origin, observer)
    if finished is not None:
        return finished._replace(seconds=time.monotonic() - start)
    where = study.engine or LocalEngine()
    engine = executor or _engine(where, cells, workers, study_dir, tasks)
    try:
        planned = _resolved(cells, engine, tasks, observer, runs)
        pace = measured_pace(_earlier_plan(study_dir), runs)
        _begin(study, study_dir, planned, runs, observer)
        record_prereg(study, study_dir, file)
        write_plan(study_dir, planned)
        record_plan(study_dir, origin)
        todo = [cell for cell in planned if not is_complete(cell, runs)]
        count = engine.slots or workers  # 0: nobody knows how many tasks a cluster will run at once
        estimate = estimated_seconds([cell.cell for cell in todo], pace, count) if pace and count else None
        observer.planned(len(planned), len(planned) - len(todo), estimate, count)
        common = {"report_to": list(report_to), "save_every": save_every}
        execution = Execution(engine, tasks.execute, observer, runs, study_dir, common, where.retries)
        executed, failed = execution.finish(todo, 1 if isinstance(where, LocalEngine) else where.cells)
    except (stopping.Stopped, KeyboardInterrupt):
        if left := engine.stop():
            observer.said(left)
        raise
    finally:
        engine.cancel()
    seconds = time.monotonic() - start
    if executed or failed:
        row = {
            "ended": time.time(),
            "seconds": round(seconds, 2),
            "executed": executed,
            "failed": len(failed),
            "workers": count,
            "engine": engine.name,
            "runs": [cell.run_id for cell in todo],
        }
        append_jsonl(study_dir / COMMANDS_FILE, row)
    return _study_run(study_dir, planned, runs)._replace(executed=executed, failed=tuple(failed), seconds=seconds)


def _nothing_to_do(
    study: StudySpec, study_dir: Path, runs: Path, origin: str, observer: StudyObserver
) -> StudyRun | None:
    """Return the result of a study whose cells are all done, from the plan on disk; None where there is work.

    No worker is started: the plan is of the same cells, inputs and code, so they would be resolved to the same run-ids.
    """
    planned = kept_plan(study_dir, origin)
    if planned is None or not all(is_complete(cell, runs) for cell in planned):
        return None
    _begin(study, study_dir, planned, runs, observer)
    observer.planned(len(planned), len(planned), 0.0, 0)
    return _study_run(study_dir, planned, runs)


def _begin(
    study: StudySpec, study_dir: Path, planned: Sequence[PlannedCell], runs: Path, observer: StudyObserver
) -> None:
    """Check the run directories of a study, then write its file where that changed."""
    for cell in planned:
        check_directory(runs / cell.run_id)
    path, text = study_dir / STUDY_FILE, study_text(study)
    if _differs(path, text):
        observer.replaced(study_dir)
    if not path.is_file() or _differs(path, text):
        write_text(path, text)


def _study_run(study_dir: Path, planned: Sequence[PlannedCell], runs: Path) -> StudyRun:
    complete = [cell for cell in planned if is_complete(cell, runs)]
    unjudged = sum(cell.not_evaluated is not None for cell in complete)
    return StudyRun(study_dir, len(planned), len(complete), 0, (), 0.0, unjudged)


def _study_spec(study: StudySpec | Mapping[str, Any] | str | Path) -> StudySpec:
    if isinstance(study, StudySpec):
        return study
    return parse_study(study, "study") if isinstance(study, Mapping) else find_study(str(study))


def _engine(where: EngineSpec, cells: Sequence[Cell], workers: int, study_dir: Path, tasks: CellTasks) -> Executor:
    """Open the engine of a study; local processes are started at once, so that they warm up meanwhile.

    Cells on a GPU share it with no other, which several models at once would overfill: one process for each GPU.

    Raises:
        SpecError: cells on a GPU, on an engine that gives them none.
        NarrowlyError: as `open_cluster`.
    """
    on_gpu = any(cell.spec.device == "cuda" for cell in cells)
    if not isinstance(where, LocalEngine):
        if on_gpu and where.kind == "ray" and where.gpus == 0:
            raise SpecError("engine.gpus is 0 and cells have device cuda; accepted: for instance engine.gpus=1")
        return open_cluster(where, study_dir / ENGINE_FOLDER, tasks.warm_up, workers)
    gpus = where.gpus or (tuple(visible_gpus()) if on_gpu else ())
    local = LocalExecutor(workers or (0 if gpus else default_workers(cells)), tasks.warm_up, gpus)
    local.start(len(cells))
    return local


def default_workers(cells: Sequence[Cell]) -> int:
    """Return 1 where a cell trains on a GPU, which several models at once would overfill, else 0: one per core."""
    return 1 if any(cell.spec.device == "cuda" for cell in cells) else 0


def study_text(study: StudySpec) -> str:
    """Return the study as YAML, overrides included, so that it can be run again from its folder on any engine."""
    told = study.model_dump(mode="json", exclude_unset=True, exclude={"engine"})
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


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


def _resolved(
    cells: Sequence[Cell], engine: Executor, tasks: CellTasks, observer: StudyObserver, runs: Path
) -> list[PlannedCell]:
    """Resolve cells on this machine, whatever engine executes them: a cluster job would only read and hash the data."""
    if isinstance(engine, LocalExecutor):
        return resolve(cells, engine, tasks, observer, runs)
    with LocalExecutor(1, tasks.warm_up) as alone:
        return resolve(cells, alone, tasks, observer, runs, here=False)


def resolve(
    cells: Sequence[Cell],
    engine: Executor,
    tasks: CellTasks,
    observer: StudyObserver,
    runs: Path,
    here: bool = True,
) -> list[PlannedCell]:
    """Return the cells with their run-ids and stages, in order; one task does all of them.

    Args:
        cells: of the study.
        engine: of this machine.
        tasks: the functions that do the work.
        observer: sees the progress.
        runs: folder of all runs.
        here: whether cells run on this machine too, which then needs the GPU that they name.

    Raises:
        NarrowlyError: of the first cell that cannot be resolved, or where two cells are the same run.
    """
    observer.resolving(0, len(cells))
    payload = {"cells": [cell.model_dump(mode="json") for cell in cells], "runs": str(runs), "here": here}
    engine.submit(Task("resolve", tasks.resolve, payload))
    outcomes: list[Outcome] = []
    while not outcomes:
        outcomes = engine.poll(POLL_SECONDS)
    if outcomes[0].problem is not None:
        raise error_of(outcomes[0].problem)
    planned = [PlannedCell.model_validate(found) for found in outcomes[0].result]
    observer.resolving(len(cells), len(cells))
    seen: dict[str, str] = {}
    bases: dict[str, str] = {}
    for one in planned:
        if one.run_id in seen:
            raise SpecError(
                f"study {one.cell.study!r}: duplicate cells: {seen[one.run_id]!r} and {one.cell_id!r} are the same run "
                f"({one.run_id}), because their bases and data are the same by content"
            )
        seen[one.run_id] = one.cell_id
        if bases.setdefault(one.base, one.cell.spec.base) != one.cell.spec.base:
            raise SpecError(
                f"study {one.cell.study!r}: {bases[one.base]} and {one.cell.spec.base} are both bases called "
                f"{one.base!r}, which tables and intervals would count as one; name each base once, or build another"
            )
    return planned
