"""A study's plan seen from outside, without torch: statuses as of the last run, and the time that is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spectralign.records.errors import IntegrityError, RunDirectoryError
from spectralign.records.study_spec import StudySpec
from spectralign.study.claims import is_claimed
from spectralign.study.layout import (
    PlannedCell,
    claim_file,
    measured_pace,
    read_failure,
    read_plan,
    runs_folder,
    status_of,
)
from spectralign.study.plan import Cell, estimated_seconds


class Preview(NamedTuple):
    """A plan seen from outside.

    Attributes:
        status: cell-id -> done, failed, pending (begun or not).
        seconds: estimated wall time of what is not done.
        measured: whether finished cells gave the estimate, rather than stated defaults.
    """

    status: dict[str, str]
    seconds: float
    measured: bool


class CellState(NamedTuple):
    """One cell of a study on disk: done, failed, working (a living process is at it) or pending; its last error."""

    planned: PlannedCell
    status: str
    error: str | None


def preview(study: StudySpec, cells: Sequence[Cell], out: Path, workers: int) -> Preview:
    """Return the statuses of planned cells and the estimate.

    A cell is found again by its spec in the plans of the studies under `out`; a base that changed on disk since then is
    noticed only by `run`.
    """
    runs = runs_folder(out)
    earlier = [planned for folder in study_folders(out) for planned in _plan(folder)]
    known = {planned.cell.model_dump_json(exclude={"study", "cell_id"}): planned for planned in earlier}
    status: dict[str, str] = {}
    for cell in cells:
        found = known.get(cell.model_dump_json(exclude={"study", "cell_id"}))
        status[cell.cell_id] = "pending" if found is None else status_of(found, runs, out / study.name)
    measured = measured_pace(earlier, runs)
    left = [cell for cell in cells if status[cell.cell_id] != "done"]
    return Preview(status, estimated_seconds(left, measured, workers), bool(measured))


def study_folders(out: Path) -> list[Path]:
    """Return the study folders under `out`, by name."""
    return sorted(path.parent for path in out.glob("*/plan.jsonl"))


def cell_states(study_dir: Path) -> list[CellState]:
    """Return what has become of every cell of a study.

    Raises:
        RunDirectoryError: where it is no study folder.
    """
    runs = runs_folder(study_dir.parent)
    states = []
    for planned in read_plan(study_dir):
        status: str = status_of(planned, runs, study_dir)
        if status != "done" and is_claimed(claim_file(runs, planned.run_id)):
            status = "working"
        failure = read_failure(study_dir, planned) if status == "failed" else None
        states.append(CellState(planned, status, None if failure is None else str(failure.get("error"))))
    return states


def _plan(folder: Path) -> list[PlannedCell]:
    try:
        return read_plan(folder)
    except (IntegrityError, RunDirectoryError):
        return []
