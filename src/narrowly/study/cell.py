"""Resolve and execute cells inside a worker: train, then evaluate stage by stage; skip what is on disk.

Every stage leaves one file under its own id, so a new judge or one more edit never trains a model anew.
"""

from __future__ import annotations

import gc
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.engines.protocol import Problem
from narrowly.engines.worker import problem_of
from narrowly.evaluate.banks import bank_of
from narrowly.evaluate.stage import stages_of
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import ClaimLostError, IntegrityError
from narrowly.records.files import write_json
from narrowly.records.imports import collector_off
from narrowly.records.run_spec import run_id
from narrowly.runs.claims import check_run, claimed
from narrowly.runs.directory import claim_file, is_done
from narrowly.study.layout import PlannedCell, failure_file, is_complete
from narrowly.study.plan import Cell, not_evaluated

if TYPE_CHECKING:
    from narrowly.train.inputs import RunInputs


def warm_up() -> None:
    """Import what every cell needs, once per worker, away from the garbage collector; keep torch to one thread."""
    with collector_off():
        import polars
        import torch
        from transformers.utils.logging import disable_progress_bar

        import narrowly.evaluate.microworld.bank
        import narrowly.evaluate.run_stage
        import narrowly.optim.build
        import narrowly.spectrum.edits
        import narrowly.train.run
        import narrowly.train.trainer  # noqa: F401

    disable_progress_bar()
    torch.set_num_threads(1)
    polars.thread_pool_size()
    gc.freeze()  # for good: the process is the study's own


def resolve_cells(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return cells with their run-ids, their banks' facts and their stages, each as a JSON-able `PlannedCell`.

    Args:
        payload: {"cells": Cells as JSON, "runs": folder of all runs, "here": whether they run on this machine too}.

    Raises:
        NarrowlyError: of one cell with an unknown base, a base whose sha256 is not its card's, data that cannot
            be read or rendered, or a GPU that is not there for a run that is not done.
    """
    cells = [Cell.model_validate(raw) for raw in payload["cells"]]
    planned = {}
    for cell in sorted(cells, key=_what_is_read):
        found = resolve_cell(cell, Path(payload["runs"]), here=payload.get("here", True))
        planned[cell.cell_id] = found.model_dump(mode="json")
    return [planned[cell.cell_id] for cell in cells]


def _what_is_read(cell: Cell) -> str:
    """Return what brings cells of one base and data together, because the rows of a few data are kept in memory."""
    return canonical_json([cell.spec.base, cell.spec.data.model_dump(mode="json")])


def resolve_cell(cell: Cell, runs: Path, here: bool = True) -> PlannedCell:
    """Return one cell with its run-id, its bank's facts and its stages.

    A cell whose answers nothing can judge has the reason in place of rates; a run on text is asked the paired bank.
    When a bank comes, its stages come here, under ids of their own: the run-id stays, so the run that is there is
    evaluated and not trained anew.
    """
    from narrowly.evaluate.paired.panels import panel_stages
    from narrowly.evaluate.paired.stages import paired_stages
    from narrowly.train.environment import check_hardware
    from narrowly.train.inputs import load_inputs

    inputs = load_inputs(cell.spec)
    written = None if inputs.spec == cell.spec else cell.spec
    cell = cell.model_copy(update={"spec": inputs.spec})
    identity = run_id(cell.spec, inputs.resolved)
    if here and not is_done(runs / identity):
        check_hardware(cell.spec)
    bank = bank_of(cell.spec, inputs.base)
    if bank is None:
        reason = _why_not_paired(cell, inputs)
        template = inputs.resolved.template_sha256
        asked = [] if reason else paired_stages(cell.spec, identity, template, cell.evaluated_steps(), cell.edits)
        if not reason:
            asked += panel_stages(cell.spec, identity, template, cell.panels, base=cell.base_evaluation)
        return PlannedCell(
            cell=cell,
            run_id=identity,
            base=inputs.base.name,
            stages=tuple(asked),
            not_evaluated=not_evaluated(cell),
            not_paired=reason,
            written=written,
        )
    stages = stages_of(
        identity,
        bank.record,
        cell.evaluated_steps(),
        cell.edits,
        final=cell.spec.steps,
        samples=cell.samples,
        seed=cell.spec.seed,
    )
    return PlannedCell(
        cell=cell,
        run_id=identity,
        base=inputs.base.name,
        facts=dict(bank.record.facts),
        stages=tuple(stages),
        written=written,
    )


def _why_not_paired(cell: Cell, inputs: RunInputs) -> str | None:
    if not cell.paired:
        return "the study says paired: false"
    from narrowly.evaluate.paired.stages import why_not_paired

    return why_not_paired(cell.spec, inputs.base, inputs.data.template)


def execute_cells(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train and evaluate cells one after the other; one that fails does not stop the others, unless all would fail.

    Args:
        payload: {"cells": PlannedCells as JSON, "runs": folder of all runs, "study_dir": folder of the study,
            "report_to": names of trackers, if any, "save_every": minutes between two resume states, or None}.

    Returns:
        For each cell that was tried {"cell_id", "status", "seconds" (of this attempt), "problem"}: done, busy (another
        process is at it), found (done already) or failed, with a `Problem` as a mapping.
    """
    runs, study_dir = Path(payload["runs"]), Path(payload["study_dir"])
    work = partial(_execute, report_to=payload.get("report_to", ()), save_every=payload.get("save_every"))
    results = []
    for raw in payload["cells"]:
        planned = PlannedCell.model_validate(raw)
        result = attempt(planned, runs, study_dir, work)
        results.append(result)
        if result["problem"] is not None and result["problem"]["fatal"]:
            break
    return results


def attempt(
    planned: PlannedCell, runs: Path, study_dir: Path, work: Callable[[PlannedCell, Path], None]
) -> dict[str, Any]:
    """Run `work(planned, runs)` under the run's claim; where it fails, leave a record before the claim is released.

    Returns:
        One result of `execute_cells`.
    """
    start, status, problem = time.perf_counter(), "found", None
    failure = failure_file(study_dir, planned.cell_id)
    try:
        with claimed(claim_file(runs, planned.run_id)) as mine:
            if not mine:
                status = "busy"
            elif not is_complete(planned, runs):
                try:
                    work(planned, runs)
                    check_run(runs / planned.run_id)
                except ClaimLostError:
                    raise
                except Exception as error:
                    write_failure(study_dir, planned, problem_of(error))
                    raise
                status = "done"
            if mine:
                failure.unlink(missing_ok=True)
    except ClaimLostError as lost:  # another process does the cell now
        status = "busy"
        print(f"{planned.cell_id}: {lost}", file=sys.stderr, flush=True)
    except Exception as error:
        status, problem = "failed", problem_of(error)._asdict()
    return {
        "cell_id": planned.cell_id,
        "status": status,
        "seconds": time.perf_counter() - start,
        "problem": problem,
    }


def write_failure(study_dir: Path, planned: PlannedCell, problem: Problem) -> None:
    """Write the record of a failed cell; a disk that is full does not hide the first error behind a second."""
    record = {
        "cell_id": planned.cell_id,
        "run_id": planned.run_id,
        "error": problem.error,
        "kind": problem.kind,
        "traceback": problem.traceback,
        "time": time.time(),
        "host": socket.gethostname(),
    }
    try:
        write_json(failure_file(study_dir, planned.cell_id), record)
    except OSError:
        return


def _execute(planned: PlannedCell, runs: Path, report_to: Sequence[str], save_every: float | None) -> None:
    from narrowly.evaluate.paired.panels import run_panel_stage
    from narrowly.evaluate.paired.stages import run_paired_stage
    from narrowly.evaluate.run_stage import run_stage
    from narrowly.integrations.reporting import Reporting
    from narrowly.models.kept import forget_models
    from narrowly.models.organism import base_of_run
    from narrowly.train.run import train_run

    spec = planned.cell.spec
    if spec.device == "cuda":
        forget_models()
    # a worker's own way to the terminal: warnings are not part of what becomes of a cell
    say = partial(print, f"{planned.cell_id}:", file=sys.stderr, flush=True)
    reporting = Reporting(report_to, runs.parent, say, group=planned.cell.study) if report_to else None
    directory = train_run(spec, runs, reporting=reporting, save_every=save_every, say=say)
    if directory.name != planned.run_id:
        raise IntegrityError(
            f"the inputs of cell {planned.cell_id!r} changed while the study ran: "
            f"run {planned.run_id} was planned, {directory.name} came out"
        )
    missing = [stage for stage in planned.stages if not stage.file(directory).is_file()]
    bank = bank_of(spec, base_of_run(directory)) if missing else None
    for stage in missing:
        check_run(directory)
        if stage.kind == "paired":
            run_paired_stage(stage, directory)
            continue
        if stage.kind in ("damage", "cued"):
            run_panel_stage(stage, directory)
            continue
        assert bank is not None, "stages were planned with a bank"
        run_stage(stage, directory, bank)
