"""Where a study's files are, and what has to exist before a cell is done. Torch-free: `plan` and `status` read it.

OUT/runs/RUN-ID/ is training's: spec.json, checkpoints/, trajectory.jsonl, done; beside them edits/EDIT-ID/ (edited
adapters) and evals/ANSWERS-ID/ with stage.json (what was asked of which organism) and verdicts/VERDICT-ID.parquet.
OUT/runs/.claims/ says which process works on which run. OUT/STUDY/ has study.yaml, plan.jsonl, commands.jsonl,
failed/CELL-ID.json, tables/, summary.json and the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.records.canonical import content_id
from narrowly.records.edits import EditSpec
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_json, read_jsonl, read_record, write_text
from narrowly.study.plan import Cell, default_seconds, pace_keys

Status = Literal["done", "failed", "pending"]
STUDY_FILE, PLAN_FILE, COMMANDS_FILE, SUMMARY_FILE = "study.yaml", "plan.jsonl", "commands.jsonl", "summary.json"
TABLES, FAILED = "tables", "failed"


class Stage(BaseModel):
    """One evaluation of one organism: exact verdicts on panels, or sampled answers.

    Attributes:
        kind: exact (class probabilities) or samples (shown answers).
        step: checkpoint of the organism.
        edit: edit of its adapter, or None.
        panels: question panels, in order.
        per_panel: answers per panel; 0 for exact evaluation.
        answers_id: organism-id + question bank + sampling.
        verdict_id: answers-id + judge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact", "samples"]
    step: int
    edit: EditSpec | None = None
    panels: tuple[str, ...]
    per_panel: int = 0
    answers_id: str
    verdict_id: str

    @property
    def edit_id(self) -> str:
        """Return the edit's id, or "none"."""
        return "none" if self.edit is None else self.edit.edit_id

    def folder(self, run_directory: Path) -> Path:
        """Return the folder of the answers."""
        return run_directory / "evals" / self.answers_id

    def file(self, run_directory: Path) -> Path:
        """Return the file of the verdicts; it exists when the stage is done."""
        return self.folder(run_directory) / "verdicts" / f"{self.verdict_id}.parquet"


class PlannedCell(BaseModel):
    """A cell whose names are resolved: the run-id, the world's facts, and the stages that follow training.

    Attributes:
        base: name of the base, never a path.
        base_seed: of the base's world; None, as persona, domain and ideal_broad, for a cell on real data.
        ideal_broad: the ideal learner's broad harm in this world.
        stages: in the order in which they are done.
        not_evaluated: why there are none, for a cell that is trained and cannot be judged; None otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    run_id: str
    base: str
    base_seed: int | None
    persona: bool | None
    domain: int | None
    ideal_broad: float | None
    stages: tuple[Stage, ...]
    not_evaluated: str | None = None

    @property
    def cell_id(self) -> str:
        """Return the cell's id."""
        return self.cell.cell_id


def stages_of(
    cell: Cell, run_id: str, bank: Any, judge: Any, panels: tuple[str, ...], light_panels: tuple[str, ...]
) -> list[Stage]:
    """Return the evaluation stages of a cell, each with its own ids.

    Args:
        cell: the cell.
        run_id: of its run.
        bank: JSON-able description of world, domain and panel versions.
        judge: JSON-able description of the judge.
        panels: panels of checkpoints.
        light_panels: panels of edits.
    """
    final = cell.spec.steps
    asked: list[tuple[Literal["exact", "samples"], int, EditSpec | None, tuple[str, ...], int]] = [
        ("exact", step, None, panels, 0) for step in cell.evaluated_steps()
    ]
    asked += [("exact", final, edit, light_panels, 0) for edit in cell.edits]
    if cell.samples:
        asked.append(("samples", final, None, panels, cell.samples))
    stages = []
    for kind, step, edit, names, count in asked:
        organism = {"run": run_id, "step": step, "edit": None if edit is None else edit.model_dump(mode="json")}
        sampling = {"kind": kind, "per_panel": count, "seed": cell.spec.seed if kind == "samples" else None}
        answers_id = content_id({"organism": organism, "bank": bank, "panels": names, "sampling": sampling})
        verdict_id = content_id({"answers": answers_id, "judge": judge})
        stages.append(
            Stage(
                kind=kind,
                step=step,
                edit=edit,
                panels=names,
                per_panel=count,
                answers_id=answers_id,
                verdict_id=verdict_id,
            )
        )
    return stages


def study_folder(out: Path, name: str) -> Path:
    """Return the folder of a study.

    Raises:
        RunDirectoryError: where `out` is a file, or a folder of that name exists and is not a study's.
    """
    folder = out / name
    if out.exists() and not out.is_dir():
        raise RunDirectoryError(f"--out {out} is a file, accepted: a folder, which need not exist yet")
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder} is a file; the study {name!r} needs a folder there; choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STUDY_FILE).is_file():
        raise RunDirectoryError(
            f"{folder} exists and is not a study folder (no {STUDY_FILE}); nothing was changed; choose another --out"
        )
    return folder


def failure_file(study_dir: Path, cell_id: str) -> Path:
    """Return the record of a cell's last failure."""
    return study_dir / FAILED / f"{cell_id}.json"


def write_plan(study_dir: Path, planned: Iterable[PlannedCell]) -> None:
    """Write plan.jsonl, one planned cell per line."""
    write_text(study_dir / PLAN_FILE, "".join(f"{cell.model_dump_json()}\n" for cell in planned))


def read_plan(study_dir: Path) -> list[PlannedCell]:
    """Read plan.jsonl.

    Raises:
        RunDirectoryError: where the folder holds no plan.
        IntegrityError: where a line is not a planned cell of this version.
    """
    path = study_dir / PLAN_FILE
    if not path.is_file():
        raise RunDirectoryError(f"{study_dir} is no study folder (no {PLAN_FILE}); `narrowly run` makes one")
    try:
        return [PlannedCell.model_validate(row) for row in read_jsonl(path)]
    except ValidationError as error:
        raise IntegrityError(
            f"{path} does not hold planned cells ({first_fault(error)}); run the study again"
        ) from None


def is_complete(planned: PlannedCell, runs: Path) -> bool:
    """Return whether training and every evaluation stage of a cell have left their files."""
    directory = runs / planned.run_id
    return (directory / "done").is_file() and all(stage.file(directory).is_file() for stage in planned.stages)


def read_failure(study_dir: Path, planned: PlannedCell) -> dict[str, Any] | None:
    """Return the record of a cell's last failure, or None; that of another run under the same cell-id does not count.

    (The study file was changed since: the cell has another spec now.)
    """
    path = failure_file(study_dir, planned.cell_id)
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IntegrityError as error:
        return {"error": str(error), "time": 0.0}
    if not isinstance(value, dict):
        return {"error": f"{path} is not a failure record", "time": 0.0}
    return value if value.get("run_id", planned.run_id) == planned.run_id else None


def status_of(planned: PlannedCell, runs: Path, study_dir: Path) -> Status:
    """Return done, failed (its last attempt left a record) or pending."""
    if is_complete(planned, runs):
        return "done"
    return "pending" if read_failure(study_dir, planned) is None else "failed"


def seconds_of(planned: PlannedCell, runs: Path) -> float | None:
    """Return the seconds that a cell's training and stages took, or None where it is not done.

    Raises:
        IntegrityError: a record of the cell is missing or broken.
    """
    directory = runs / planned.run_id
    if not is_complete(planned, runs):
        return None
    records = [directory / "done", *(stage.folder(directory) / "stage.json" for stage in planned.stages)]
    total = 0.0
    for path in records:
        seconds = read_record(path).get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise IntegrityError(f"{path}: seconds is {seconds!r}, expected a number; the folder is corrupt")
        total += seconds
    return total


def measured_pace(plan: Iterable[PlannedCell], runs: Path) -> dict[str, float]:
    """Return how many times `default_seconds` finished cells took, by their `pace_keys`.

    Broken records measure nothing.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for planned in plan:
        try:
            seconds = seconds_of(planned, runs)
        except IntegrityError:  # `run` and `report` say so; an estimate need not
            continue
        if seconds is not None:
            for key in pace_keys(planned.cell):
                found.setdefault(key, []).append((seconds, default_seconds(planned.cell)))
    return {
        key: sum(taken for taken, _ in pairs) / sum(default for _, default in pairs) for key, pairs in found.items()
    }


def check_run_directory(directory: Path) -> None:
    """Refuse a run directory that is corrupt or belongs to something else, before anything is written.

    Raises:
        RunDirectoryError, IntegrityError: it is foreign, or its records are broken.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file where a run directory belongs")
    present = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if not present:
        return
    from narrowly.runs.directory import check_identity

    if {"spec.json", "inputs.json"} <= present:
        check_identity(directory)
    elif present - {"spec.json", "inputs.json"}:
        raise RunDirectoryError(
            f"{directory} has files ({', '.join(sorted(present)[:4])}) but not both spec.json and inputs.json: "
            "corrupt or not ours; nothing was changed in it; move it away and run again"
        )
