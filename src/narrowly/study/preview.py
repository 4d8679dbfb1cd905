"""Preview a study without torch: statuses as of the last run, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.outcome import NO_JUDGE
from narrowly.records.run_spec import TextData
from narrowly.records.study_spec import StudySpec
from narrowly.runs.claims import holder_of, is_claimed
from narrowly.runs.directory import claim_file, runs_folder
from narrowly.study.cost import Cost, Gpu, added, base_bytes, cost_of, tokens_per_row
from narrowly.study.inputs import canonical_spec, finished_runs
from narrowly.study.layout import PLAN_FILE, PlannedCell, measured_pace, read_failure, read_plan, status_of
from narrowly.study.pace import estimated_seconds
from narrowly.study.places import read_places
from narrowly.study.plan import Cell, not_evaluated


class Preview(NamedTuple):
    """Hold the preview of a plan.

    Attributes:
        status: cell-id -> done, failed, pending (begun or not).
        seconds: estimated wall time of what is not done; None where nothing is known of it.
        measured: whether finished cells gave the estimate, rather than stated defaults.
    """

    status: dict[str, str]
    seconds: float | None
    measured: bool


class TrainingCost(NamedTuple):
    """Hold what training the cells of a study on real models takes, by arithmetic; evaluation is not counted.

    Attributes:
        total: over all counted cells.
        by_arm: the same for each arm.
        base_bytes: of the weights of all bases, once each.
        assumed: datasets whose rows are of unknown length.
        too_large: bases whose bfloat16 weights alone fill more than the GPU's memory.
        not_counted: bases that are not in the table of shapes, or whose data is no text.
    """

    gpu: Gpu
    utilisation: float
    total: Cost
    by_arm: Mapping[str, Cost]
    base_bytes: int
    assumed: tuple[str, ...]
    too_large: tuple[str, ...]
    not_counted: tuple[str, ...]


class PlannedArm(NamedTuple):
    """Describe one arm of a plan: its first cell's optimiser, how many cells it has, how many are done, its edits."""

    name: str
    role: str
    optimiser: str
    cells: int
    done: int
    edits: int


class CellState(NamedTuple):
    """Describe one cell on disk: done, failed, working (a living process has it) or pending.

    Attributes:
        error: the last one, of a failed cell.
        where: of a cell at work, its process and host; the last place that a cluster gave it; None where neither is.
    """

    planned: PlannedCell
    status: str
    error: str | None
    where: str | None = None


def preview(study: StudySpec, cells: Sequence[Cell], out: Path, workers: int) -> Preview:
    """Return the statuses of planned cells and the estimate.

    A cell is found again by its spec in the plans of the studies under `out`, and a cell that is trained and not
    evaluated also among all finished runs, whoever made them. A base or data that changed on disk since then are
    noticed only by `run`.
    """
    runs = runs_folder(out)
    earlier = [planned for folder in study_folders(out) for planned in _plan(folder)]
    known = {planned.planned_as: planned for planned in earlier}
    finished = finished_runs(runs) if any(not_evaluated(cell) for cell in cells) else {}
    status: dict[str, str] = {}
    for cell in cells:
        found = known.get(cell.model_dump_json(exclude={"study", "cell_id"}))
        status[cell.cell_id] = "pending" if found is None else status_of(found, runs, out / study.name)
        if not_evaluated(cell) is not None and canonical_spec(cell.spec) in finished:
            status[cell.cell_id] = "done"
    measured = measured_pace(earlier, runs)
    left = [cell for cell in cells if status[cell.cell_id] != "done"]
    return Preview(status, estimated_seconds(left, measured, workers), bool(measured))


def training_cost(cells: Sequence[Cell], gpu: Gpu, utilisation: float) -> TrainingCost | None:
    """Return what training cells of real models takes on a GPU, or None where no cell trains one."""
    counted = [cell for cell in cells if cell.spec.data.paced_by_base]
    if not counted:
        return None
    by_arm: dict[str, list[Cost]] = {}
    bases: dict[str, bool] = {}
    assumed: dict[str, None] = {}
    for cell in counted:
        cost = cost_of(cell.spec, gpu, utilisation)
        bases[cell.spec.base] = cost is not None
        if cost is None:
            continue
        by_arm.setdefault(cell.arm, []).append(cost)
        if isinstance(cell.spec.data, TextData) and not tokens_per_row(cell.spec.data)[1]:
            assumed[cell.spec.data.dataset] = None
    return TrainingCost(
        gpu=gpu,
        utilisation=utilisation,
        total=added(cost for costs in by_arm.values() for cost in costs),
        by_arm={arm: added(costs) for arm, costs in by_arm.items()},
        base_bytes=sum(map(base_bytes, bases)),
        assumed=tuple(assumed),
        too_large=tuple(base for base in bases if base_bytes(base) > gpu.memory_gb * 1e9),
        not_counted=tuple(base for base, counted in bases.items() if not counted),
    )


def planned_arms(study: StudySpec, cells: Sequence[Cell], seen: Preview) -> list[PlannedArm]:
    """Return the arms of a plan that have cells, in the study's order."""
    arms = []
    for name, arm in study.arms.items():
        own = [cell for cell in cells if cell.arm == name]
        if own:
            done = sum(seen.status[cell.cell_id] == "done" for cell in own)
            arms.append(PlannedArm(name, arm.role, own[0].spec.optimiser.kind, len(own), done, len(arm.edits)))
    return arms


def plan_record(study: StudySpec, cells: Sequence[Cell], seen: Preview, cost: TrainingCost | None) -> dict[str, Any]:
    """Return a plan as JSON: every cell with its status, the time that is left, what training takes."""
    seconds, measured = (seen.seconds, seen.measured) if cost is None else (cost.total.seconds, False)
    rows = [{**cell.model_dump(mode="json"), "status": seen.status[cell.cell_id]} for cell in cells]
    training = {} if cost is None else {"training": _cost_record(cost)}
    return {"study": study.name, "seconds": seconds, "measured": measured, "cells": rows, **training}


def _cost_record(cost: TrainingCost) -> dict[str, Any]:

    return {
        **cost.total._asdict(),
        "gpu": cost.gpu._asdict(),
        "utilisation": cost.utilisation,
        "gpu_hours": cost.total.seconds / 3600,
        "by_arm": {arm: one._asdict() for arm, one in cost.by_arm.items()},
        "base_bytes": cost.base_bytes,
        "assumed": list(cost.assumed),
        "too_large": list(cost.too_large),
        "not_counted": list(cost.not_counted),
        "measured": False,
        "evaluation": "not counted",
        "broad_alignment": NO_JUDGE,
    }


def study_folders(out: Path) -> list[Path]:
    """Return the study folders under `out`, by name."""
    return sorted(path.parent for path in out.glob(f"*/{PLAN_FILE}"))


def cell_states(study_dir: Path) -> list[CellState]:
    """Return the state of every cell of a study.

    Raises:
        RunDirectoryError: where it is no study folder.
    """
    runs, places = runs_folder(study_dir.parent), read_places(study_dir)
    states = []
    for planned in read_plan(study_dir):
        status: str = status_of(planned, runs, study_dir)
        claim, place = claim_file(runs, planned.run_id), places.get(planned.run_id)
        where = None if place is None else place.where
        if status != "done" and is_claimed(claim):
            status = "working"
            where = ", ".join(filter(None, (where, holder_of(claim))))
        failure = read_failure(study_dir, planned) if status == "failed" else None
        states.append(CellState(planned, status, None if failure is None else str(failure.get("error")), where))
    return states


def _plan(folder: Path) -> list[PlannedCell]:
    try:
        return read_plan(folder)
    except (IntegrityError, RunDirectoryError):
        return []
